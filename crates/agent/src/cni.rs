//! CNI requests and results (containernetworking/cni SPEC.md, versions 0.3.0 to 1.1.0).

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Versions that we speak.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Error codes of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    Decode = 6,
    TryAgainLater = 11,
    /// Codes from 100 on are the plugin's own.
    Failed = 100,
}

/// A failure, as the specification wants it told.
#[derive(Debug)]
pub(crate) struct CniError {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) version: String,
}

impl CniError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), version: "1.0.0".to_owned() }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "cniVersion": self.version, "code": self.code as u32, "msg": self.message })
    }
}

/// What the runtime asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Version,
}

/// A request, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) version: String,
    pub(crate) container: String,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) ifname: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetConf {
    cni_version: Option<String>,
}

/// Reads a request from the environment, which `variable` looks up, and the network configuration.
///
/// # Errors
/// Names the variable or the field, with the code of the specification.
pub(crate) fn parse(variable: impl Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<Request, CniError> {
    let needed = |name: &str| {
        variable(name).filter(|v| !v.is_empty()).ok_or_else(|| CniError::new(Code::InvalidEnvironment, format!("{name} is not set")))
    };
    let command = match needed("CNI_COMMAND")?.as_str() {
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "VERSION" => Command::Version,
        later @ ("CHECK" | "GC" | "STATUS") => {
            return Err(CniError::new(Code::InvalidEnvironment, format!("CNI_COMMAND: {later}: not yet")));
        }
        other => return Err(CniError::new(Code::InvalidEnvironment, format!("CNI_COMMAND: {other:?} is not ADD, DEL or VERSION"))),
    };
    let conf: NetConf =
        serde_json::from_slice(stdin).map_err(|e| CniError::new(Code::Decode, format!("network configuration on standard input: {e}")))?;
    let version = conf.cni_version.unwrap_or_else(|| "0.3.1".to_owned());
    if command != Command::Version && !VERSIONS.contains(&version.as_str()) {
        return Err(CniError::new(Code::IncompatibleVersion, format!("cniVersion {version:?} is not one of {}", VERSIONS.join(", "))));
    }
    let wrap = |mut error: CniError| {
        error.version.clone_from(&version);
        error
    };
    let mut request = Request {
        command,
        version: version.clone(),
        container: String::new(),
        netns: variable("CNI_NETNS").filter(|v| !v.is_empty()).map(PathBuf::from),
        ifname: String::new(),
        namespace: String::new(),
        pod: String::new(),
        uid: None,
    };
    if command == Command::Version {
        return Ok(request);
    }
    request.container = needed("CNI_CONTAINERID").map_err(wrap)?;
    if !request.container.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) || request.container.len() < 4 {
        return Err(wrap(CniError::new(
            Code::InvalidEnvironment,
            format!("CNI_CONTAINERID: {:?} is not a container identifier", request.container),
        )));
    }
    request.ifname = needed("CNI_IFNAME").map_err(wrap)?;
    if request.ifname.len() > 15
        || request.ifname.chars().any(|c| c == '/' || c == ':' || c.is_whitespace())
        || request.ifname.starts_with('.')
    {
        return Err(wrap(CniError::new(Code::InvalidEnvironment, format!("CNI_IFNAME: {:?} is not a link name", request.ifname))));
    }
    if command == Command::Add && request.netns.is_none() {
        return Err(wrap(CniError::new(Code::InvalidEnvironment, "CNI_NETNS is not set")));
    }
    for pair in variable("CNI_ARGS").unwrap_or_default().split(';') {
        match pair.split_once('=') {
            Some(("K8S_POD_NAMESPACE", value)) => value.clone_into(&mut request.namespace),
            Some(("K8S_POD_NAME", value)) => value.clone_into(&mut request.pod),
            Some(("K8S_POD_UID", value)) => request.uid = Some(value.to_owned()).filter(|v| !v.is_empty()),
            _ => {}
        }
    }
    if command == Command::Add && (request.namespace.is_empty() || request.pod.is_empty()) {
        return Err(wrap(CniError::new(Code::InvalidEnvironment, "CNI_ARGS names no K8S_POD_NAMESPACE and K8S_POD_NAME")));
    }
    Ok(request)
}

/// The answer to VERSION.
pub(crate) fn versions() -> Value {
    json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS })
}

#[derive(Debug, Serialize)]
struct ResultIp {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    interface: u32,
}

/// The answer to ADD: the host's end, the pod's end, addresses with their prefix lengths and gateways, default routes.
pub(crate) fn result(request: &Request, host_link: &str, host_mac: &str, mac: &str, ips: &[(String, Option<IpAddr>)]) -> Value {
    let old = request.version.starts_with("0.");
    let addresses: Vec<ResultIp> = ips
        .iter()
        .map(|(address, gateway)| ResultIp {
            // Before 1.0.0 the family was told.
            version: old.then_some(if address.contains(':') { "6" } else { "4" }),
            address: address.clone(),
            gateway: *gateway,
            interface: 1,
        })
        .collect();
    let routes: Vec<Value> = ips
        .iter()
        .filter_map(|(_, gw)| *gw)
        .map(|gw| json!({ "dst": if gw.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": gw }))
        .collect();
    json!({
        "cniVersion": request.version,
        "interfaces": [
            { "name": host_link, "mac": host_mac },
            { "name": request.ifname, "mac": mac, "sandbox": request.netns },
        ],
        "ips": addresses,
        "routes": routes,
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned())
    }

    const ADD: &[(&str, &str)] = &[
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "0123456789abcdef"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c"),
    ];

    #[test]
    fn an_add_is_read_whole() {
        let request = parse(environment(ADD), br#"{"cniVersion":"1.0.0","name":"n","type":"ferrovia"}"#).unwrap();
        assert_eq!((request.namespace.as_str(), request.pod.as_str(), request.uid.as_deref()), ("a", "b", Some("c")));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_specifications_code() {
        let conf = br#"{"cniVersion":"1.0.0"}"#;
        for (env, stdin, code) in [
            (environment(&[]), &conf[..], Code::InvalidEnvironment),
            (environment(&[("CNI_COMMAND", "FLY")]), conf, Code::InvalidEnvironment),
            (environment(&[("CNI_COMMAND", "ADD")]), conf, Code::InvalidEnvironment),
        ] {
            assert_eq!(parse(env, stdin).unwrap_err().code, code);
        }
        assert_eq!(parse(environment(ADD), b"garbage").unwrap_err().code, Code::Decode);
        assert_eq!(parse(environment(ADD), br#"{"cniVersion":"9.0.0"}"#).unwrap_err().code, Code::IncompatibleVersion);
    }

    #[test]
    fn old_versions_name_the_family_of_an_address() {
        let mut request = parse(environment(ADD), br#"{"cniVersion":"0.3.1"}"#).unwrap();
        let ips = [("10.0.0.2/24".to_owned(), Some("10.0.0.1".parse().unwrap()))];
        assert_eq!(result(&request, "h", "m", "m", &ips)["ips"][0]["version"], "4");
        request.version = "1.0.0".to_owned();
        assert!(result(&request, "h", "m", "m", &ips)["ips"][0].get("version").is_none());
    }
}
