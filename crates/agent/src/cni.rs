//! CNI requests and results (containernetworking/cni SPEC.md, versions 0.3.0 to 1.1.0).

use std::net::IpAddr;
use std::path::PathBuf;

use api::networks::{PLUGIN_TYPES, is_link_name};
use api::tuning::Rate;
use api::{DeviceId, DeviceIdError, MacAddr, OVN_PROVIDER};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::attachment::Attachment;

/// Versions that we speak.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Longest container identifier: it is part of a file's name.
const LONGEST_CONTAINER: usize = 128;

/// Error codes of the specification, section "Error".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    Decode = 6,
    InvalidConfig = 7,
    TryAgainLater = 11,
    NotAvailable = 50,
    /// Codes from 100 on are the plugin's own.
    Failed = 100,
    /// What was found is not what was made.
    Differs = 101,
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
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    const ALL: [(&'static str, Self); 6] = [
        ("ADD", Self::Add),
        ("DEL", Self::Del),
        ("CHECK", Self::Check),
        ("GC", Self::Gc),
        ("STATUS", Self::Status),
        ("VERSION", Self::Version),
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, command)| *command)
    }

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, command)| *command == self).map_or("", |(name, _)| name)
    }

    /// The first version that has it, as an index of [`VERSIONS`].
    const fn since(self) -> usize {
        match self {
            Self::Add | Self::Del | Self::Version => 0,
            Self::Check => 2,
            Self::Gc | Self::Status => 4,
        }
    }

    const fn concerns_a_container(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

/// A request, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) version: String,
    /// Name of the network.
    pub(crate) network: String,
    /// Which of the pod's NICs: `ovn` is the primary one.
    pub(crate) provider: String,
    /// Whether another plugin makes the NIC, and asks for its addresses.
    pub(crate) addresses_only: bool,
    pub(crate) container: String,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) ifname: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: Option<String>,
    /// Of GC: containers and links that are in use.
    pub(crate) valid: Vec<(String, String)>,
    /// Of CHECK: addresses that ADD had answered with.
    pub(crate) answered: Option<Vec<String>>,
    /// Of the configuration, or of the pod by capability: handed on to the runtime.
    pub(crate) dns: Map<String, Value>,
    pub(crate) capabilities: Capabilities,
    /// Of ADD: the device that the NIC is to be, as Multus names it.
    pub(crate) device: Option<DeviceId>,
}

/// What the runtime asks by capability argument.
#[derive(Clone, Debug, Default)]
pub(crate) struct Capabilities {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) ingress: Option<Rate>,
    pub(crate) egress: Option<Rate>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetConf {
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    provider: String,
    #[serde(default)]
    ipam: Ipam,
    #[serde(default)]
    dns: Map<String, Value>,
    #[serde(default)]
    runtime_config: RuntimeConfig,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Valid>>,
    prev_result: Option<Value>,
    #[serde(rename = "deviceID")]
    device: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Ipam {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    provider: String,
}

#[derive(Debug, Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

#[derive(Debug, Default, Deserialize)]
struct RuntimeConfig {
    #[serde(default)]
    ips: Vec<String>,
    mac: Option<String>,
    bandwidth: Option<Bandwidth>,
    #[serde(default)]
    dns: Map<String, Value>,
    #[serde(rename = "deviceID")]
    device: Option<String>,
}

/// Bits per second, and bits (CNI conventions, "bandwidth").
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bandwidth {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

fn invalid(code: Code, message: impl Into<String>) -> CniError {
    CniError::new(code, message)
}

/// Reads a request from the environment, which `variable` looks up, and the network configuration.
///
/// # Errors
/// Names the variable or the field, with the code of the specification.
pub(crate) fn parse(variable: impl Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<Request, CniError> {
    let unset = || invalid(Code::InvalidEnvironment, "CNI_COMMAND is not set");
    let command = variable("CNI_COMMAND").filter(|command| !command.is_empty()).ok_or_else(unset)?;
    let command = Command::parse(&command).ok_or_else(|| {
        invalid(Code::InvalidEnvironment, format!("CNI_COMMAND: {command:?} is not ADD, DEL, CHECK, GC, STATUS or VERSION"))
    })?;
    if command == Command::Version {
        // Whatever the configuration says, and even without one.
        return Ok(empty(command));
    }
    let on_stdin = |e: serde_json::Error| format!("network configuration on standard input: {e}");
    let value: Value = serde_json::from_slice(stdin).map_err(|e| invalid(Code::Decode, on_stdin(e)))?;
    if !value.is_object() {
        return Err(invalid(Code::Decode, "network configuration on standard input: is not a JSON object"));
    }
    let conf: NetConf = serde_path_to_error::deserialize(value).map_err(|e| invalid(Code::InvalidConfig, e.to_string()))?;
    let version = conf.cni_version.clone().unwrap_or_else(|| "0.1.0".to_owned());
    let at = VERSIONS
        .iter()
        .position(|known| *known == version)
        .ok_or_else(|| invalid(Code::IncompatibleVersion, format!("cniVersion {version:?} is not one of {}", VERSIONS.join(", "))))?;
    read(command, at, conf, variable).map_err(|error| CniError { version, ..error })
}

fn empty(command: Command) -> Request {
    Request {
        command,
        version: VERSIONS[VERSIONS.len() - 1].to_owned(),
        network: String::new(),
        provider: OVN_PROVIDER.to_owned(),
        addresses_only: false,
        container: String::new(),
        netns: None,
        ifname: String::new(),
        namespace: String::new(),
        pod: String::new(),
        uid: None,
        valid: Vec::new(),
        answered: None,
        dns: Map::new(),
        capabilities: Capabilities::default(),
        device: None,
    }
}

fn read(command: Command, version: usize, conf: NetConf, variable: impl Fn(&str) -> Option<String>) -> Result<Request, CniError> {
    if version < command.since() {
        let since = VERSIONS[command.since()];
        return Err(invalid(
            Code::IncompatibleVersion,
            format!("cniVersion {:?}: {} is known from {since} on", VERSIONS[version], command.name()),
        ));
    }
    if !is_plain(&conf.name) {
        return Err(invalid(Code::InvalidConfig, format!("name: {:?} is not the name of a network", conf.name)));
    }
    let addresses_only = !PLUGIN_TYPES.contains(&conf.r#type.as_str()) && PLUGIN_TYPES.contains(&conf.ipam.r#type.as_str());
    let provider = if addresses_only { conf.ipam.provider } else { conf.provider };
    let mut request = Request {
        version: VERSIONS[version].to_owned(),
        network: conf.name,
        provider: if provider.is_empty() { OVN_PROVIDER.to_owned() } else { provider },
        addresses_only,
        dns: if conf.runtime_config.dns.is_empty() { conf.dns } else { conf.runtime_config.dns.clone() },
        capabilities: capabilities(&conf.runtime_config)?,
        ..empty(command)
    };
    if command == Command::Add {
        // Multus says it here and there.
        let named = [conf.device, conf.runtime_config.device].into_iter().flatten().find(|device| !device.is_empty());
        let device = named.as_deref().map(str::parse).transpose();
        request.device = device.map_err(|why: DeviceIdError| invalid(Code::InvalidConfig, format!("deviceID: {why}")))?;
    }
    if command == Command::Gc {
        let valid = conf.valid.ok_or_else(|| invalid(Code::InvalidConfig, "cni.dev/valid-attachments: is missing"))?;
        request.valid = valid.into_iter().map(|valid| (valid.container, valid.ifname)).collect();
    }
    if command == Command::Check {
        let result = conf.prev_result.ok_or_else(|| invalid(Code::InvalidConfig, "prevResult: is missing"))?;
        let ips = result.get("ips").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        request.answered = Some(ips.iter().filter_map(|ip| ip.get("address")?.as_str().map(str::to_owned)).collect());
    }
    if command.concerns_a_container() {
        container(&mut request, variable)?;
    }
    Ok(request)
}

/// Letters and digits, and behind the first also `_`, `.` and `-`.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn capabilities(runtime: &RuntimeConfig) -> Result<Capabilities, CniError> {
    let mut addresses = Vec::new();
    for text in &runtime.ips {
        let address = text.split('/').next().unwrap_or_default().parse();
        addresses.push(address.map_err(|_| invalid(Code::InvalidConfig, format!("runtimeConfig.ips: {text:?} is not an IP address")))?);
    }
    let mac = runtime.mac.as_deref().filter(|mac| !mac.is_empty()).map(str::parse).transpose();
    let bandwidth = runtime.bandwidth.as_ref();
    let rate = |rate: u64, burst: u64| (rate > 0).then_some(Rate { rate: rate.max(1000), burst: (burst > 0).then_some(burst) });
    Ok(Capabilities {
        addresses,
        mac: mac.map_err(|why: api::MacAddrError| invalid(Code::InvalidConfig, format!("runtimeConfig.mac: {why}")))?,
        ingress: bandwidth.and_then(|b| rate(b.ingress_rate, b.ingress_burst)),
        egress: bandwidth.and_then(|b| rate(b.egress_rate, b.egress_burst)),
    })
}

fn container(request: &mut Request, variable: impl Fn(&str) -> Option<String>) -> Result<(), CniError> {
    let environment = |message: String| invalid(Code::InvalidEnvironment, message);
    let needed = |name: &str| variable(name).filter(|v| !v.is_empty()).ok_or_else(|| environment(format!("{name} is not set")));
    let container = needed("CNI_CONTAINERID")?;
    if container.len() > LONGEST_CONTAINER || !is_plain(&container) {
        return Err(environment(format!("CNI_CONTAINERID: {container:?} is not a container identifier")));
    }
    let ifname = needed("CNI_IFNAME")?;
    if !is_link_name(&ifname) {
        return Err(environment(format!("CNI_IFNAME: {ifname:?} is not a link name")));
    }
    (request.container, request.ifname) = (container, ifname);
    request.netns = variable("CNI_NETNS").filter(|v| !v.is_empty()).map(PathBuf::from);
    if request.command != Command::Del && request.netns.is_none() {
        return Err(environment("CNI_NETNS is not set".to_owned()));
    }
    for pair in variable("CNI_ARGS").unwrap_or_default().split(';') {
        match pair.split_once('=') {
            Some(("K8S_POD_NAMESPACE", value)) => value.clone_into(&mut request.namespace),
            Some(("K8S_POD_NAME", value)) => value.clone_into(&mut request.pod),
            Some(("K8S_POD_UID", value)) => request.uid = Some(value.to_owned()).filter(|v| !v.is_empty()),
            _ => {}
        }
    }
    if request.command == Command::Add && (request.namespace.is_empty() || request.pod.is_empty()) {
        return Err(environment("CNI_ARGS names no K8S_POD_NAMESPACE and K8S_POD_NAME".to_owned()));
    }
    Ok(())
}

/// The answer to VERSION.
pub(crate) fn versions() -> Value {
    json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS })
}

/// The answer to ADD: of each NIC the host's end, the pod's end, addresses with their prefix lengths and gateways, and routes.
/// Of NICs that another plugin makes: addresses and routes alone. Of one that is a `socket` there is no host's end, and no link in the pod; of one that is a
/// device the host's end is the link that stands for it.
pub(crate) fn result(request: &Request, made: &[Attachment], socket: impl Fn(&Attachment) -> Option<PathBuf>) -> Value {
    let old = request.version.starts_with("0.");
    // From then on MTU, socket and device are told.
    let newest = request.version == "1.1.0";
    let (mut interfaces, mut ips, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    for attachment in made {
        let nic = &attachment.nic;
        let mut at = None;
        if !request.addresses_only {
            let mut near = json!({ "name": attachment.host });
            let mut far = json!({ "name": attachment.ifname, "mac": nic.mac.to_string(), "sandbox": attachment.netns });
            if newest {
                (near["mtu"], far["mtu"]) = (json!(nic.mtu), json!(nic.mtu));
            }
            if let Some(lent) = nic.device.as_ref().filter(|lent| newest && lent.device.is_pci()) {
                far["pciID"] = json!(lent.device.as_str());
            }
            match socket(attachment) {
                Some(socket) if newest => far["socketPath"] = json!(socket),
                Some(_) => {}
                None => interfaces.push(near),
            }
            interfaces.push(far);
            at = Some(interfaces.len() - 1);
        }
        for address in &nic.addresses {
            let gateway = nic.gateways.iter().find(|gateway| gateway.is_ipv4() == address.address().is_ipv4());
            let mut ip = Map::new();
            if old {
                // Before 1.0.0 the family was told.
                ip.insert("version".to_owned(), json!(if address.address().is_ipv4() { "4" } else { "6" }));
            }
            ip.insert("address".to_owned(), json!(address.to_string()));
            ip.extend(gateway.map(|gateway| ("gateway".to_owned(), json!(gateway))));
            ip.extend(at.map(|at| ("interface".to_owned(), json!(at))));
            ips.push(Value::Object(ip));
        }
        for (destination, gateway) in nic.routes() {
            let mut route = json!({ "dst": destination.to_string() });
            if let Some(gateway) = gateway {
                route["gw"] = json!(gateway);
            }
            routes.push(route);
        }
    }
    let mut result = json!({ "cniVersion": request.version, "ips": ips, "routes": routes, "dns": request.dns });
    if !request.addresses_only {
        result["interfaces"] = json!(interfaces);
    }
    result
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
        let conf = br#"{"cniVersion":"1.0.0","name":"n","type":"ferrovia","runtimeConfig":{"bandwidth":{"ingressRate":5000000},"ips":["10.0.0.9/24"]}}"#;
        let request = parse(environment(ADD), conf).unwrap();
        assert_eq!((request.namespace.as_str(), request.pod.as_str(), request.uid.as_deref()), ("a", "b", Some("c")));
        assert_eq!((request.provider.as_str(), request.addresses_only, request.network.as_str()), ("ovn", false, "n"));
        assert_eq!(request.capabilities.ingress, Some(Rate { rate: 5_000_000, burst: None }));
        assert_eq!(request.device, None);
        let conf = br#"{"cniVersion":"1.0.0","name":"n","type":"ferrovia","provider":"d.ns.ovn","deviceID":"","runtimeConfig":{"deviceID":"0000:05:00.2"}}"#;
        assert_eq!(parse(environment(ADD), conf).unwrap().device, Some("0000:05:00.2".parse().unwrap()));
        let macvlan = br#"{"cniVersion":"0.3.1","name":"n","type":"macvlan","ipam":{"type":"kube-ovn","provider":"d.ns"}}"#;
        let request = parse(environment(ADD), macvlan).unwrap();
        assert_eq!((request.provider.as_str(), request.addresses_only), ("d.ns", true));
    }

    #[test]
    fn the_result_for_a_nic_with_a_mac_alone_has_links_and_no_addresses() {
        let mut made = crate::attachment::tests::attachment("c", "eth0");
        made.nic.addresses.clear();
        made.nic.gateways.clear();
        let request = parse(environment(ADD), br#"{"cniVersion":"1.0.0","name":"n","type":"ferrovia"}"#).unwrap();
        let result = result(&request, &[made], |_| None);
        assert_eq!((&result["ips"], &result["routes"]), (&json!([]), &json!([])));
        assert_eq!(
            (result["interfaces"].as_array().map(Vec::len), &result["interfaces"][1]["mac"]),
            (Some(2), &json!("02:00:00:00:00:01"))
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_the_specifications_code() {
        let conf = br#"{"cniVersion":"1.0.0","name":"n"}"#;
        for (env, stdin, code, said) in [
            (environment(&[]), &conf[..], Code::InvalidEnvironment, "CNI_COMMAND"),
            (environment(&[("CNI_COMMAND", "FLY")]), conf, Code::InvalidEnvironment, "FLY"),
            (environment(&[("CNI_COMMAND", "ADD")]), conf, Code::InvalidEnvironment, "CNI_CONTAINERID"),
            (environment(ADD), b"{", Code::Decode, "standard input"),
            (environment(ADD), b"[]", Code::Decode, "JSON object"),
            (environment(ADD), br#"{"cniVersion":7}"#, Code::InvalidConfig, "cniVersion: invalid type"),
            (environment(ADD), br#"{"cniVersion":"1.0.0"}"#, Code::InvalidConfig, "name"),
            (environment(ADD), br#"{"cniVersion":"1.0.0","name":"a/b"}"#, Code::InvalidConfig, "a/b"),
            (environment(ADD), br#"{"cniVersion":"9.0.0","name":"n"}"#, Code::IncompatibleVersion, "9.0.0"),
            (
                environment(ADD),
                br#"{"cniVersion":"1.0.0","name":"n","deviceID":"vf0"}"#,
                Code::InvalidConfig,
                "deviceID: \"vf0\" is no device",
            ),
            (environment(&[("CNI_COMMAND", "GC")]), conf, Code::IncompatibleVersion, "1.1.0"),
            (environment(&[("CNI_COMMAND", "GC")]), br#"{"cniVersion":"1.1.0","name":"n"}"#, Code::InvalidConfig, "valid-attachments"),
        ] {
            let error = parse(env, stdin).unwrap_err();
            assert!(error.code == code && error.message.contains(said), "{error:?}");
        }
        // What was to be a device may be taken away by whatever name.
        let del = environment(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "net1")]);
        assert_eq!(parse(del, br#"{"cniVersion":"1.0.0","name":"n","deviceID":"vf0"}"#).unwrap().device, None);
        assert_eq!(parse(environment(&[("CNI_COMMAND", "VERSION")]), b"").unwrap().command, Command::Version);
    }
}
