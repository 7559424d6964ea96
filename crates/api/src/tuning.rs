//! What a pod's annotations say of how its NICs are set up on the node: rates, impairments, routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::networks::key;

/// A limit of what passes a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// Bits per second, at least 1,000.
    pub rate: u64,
    /// Bits that may pass at once; the node's choice when `None`.
    pub burst: Option<u64>,
}

/// How the line out of a NIC is impaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Impairment {
    /// Delay in milliseconds.
    pub latency: f64,
    /// Random variation of the delay in milliseconds.
    pub jitter: f64,
    /// Packets lost, in percent.
    pub loss: f64,
    /// Packets that may wait; the node's choice when `None`.
    pub limit: Option<u32>,
}

/// A route beyond those that the subnet gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraRoute {
    /// Address of the destination.
    pub destination: IpAddr,
    /// Prefix length of the destination in bits.
    pub length: u8,
    /// Next hop; the subnet's gateway when `None`.
    pub gateway: Option<IpAddr>,
}

/// How a NIC is set up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// Limit of what reaches the pod.
    pub ingress: Option<Rate>,
    /// Limit of what leaves the pod.
    pub egress: Option<Rate>,
    /// Impairment of what leaves the pod.
    pub impairment: Option<Impairment>,
    /// Routes beyond those that the subnet gives.
    pub routes: Vec<ExtraRoute>,
    /// Whether the default route is by this NIC; the primary one unless another says so.
    pub default_route: Option<bool>,
    /// Whether what passes the NIC is copied to the node's mirror port.
    #[serde(default)]
    pub mirror: bool,
}

impl Tuning {
    /// Whether anything of what passes is limited or impaired.
    #[must_use]
    pub const fn limits(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some() || self.impairment.is_some()
    }
}

/// Reads how the NIC with `provider` is to be set up, and what is wrong with what is said: each names the annotation, its value
/// and the reason. What is wrong is left out.
#[must_use]
pub fn tuning(provider: &str, annotations: &BTreeMap<String, String>) -> (Tuning, Vec<String>) {
    let mut problems = Vec::new();
    let text = |name: &str| annotations.get(&key(provider, name)).map(|text| text.trim()).filter(|text| !text.is_empty());
    let mut number = |name: &str, least: f64, most: f64| {
        let text = text(name)?;
        match text.parse::<f64>() {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                problems.push(format!("annotation {}: {text:?} is not a number from {least} to {most}", key(provider, name)));
                None
            }
        }
    };
    // Megabits, up to a terabit.
    let bits = |megabits: f64| (megabits * 1e6).round() as u64;
    let mut rate = |rate: &str, burst: &str| {
        let burst = number(burst, 0.001, 1e6).map(bits);
        // Zero is how Kube-OVN spells no limit.
        number(rate, 0.0, 1e6).filter(|rate| *rate > 0.0).map(|rate| Rate { rate: bits(rate).max(1000), burst })
    };
    let (ingress, egress) = (rate("ingress_rate", "ingress_burst"), rate("egress_rate", "egress_burst"));
    let latency = number("latency", 0.0, 60_000.0).unwrap_or_default();
    let jitter = number("jitter", 0.0, 60_000.0).unwrap_or_default();
    let loss = number("loss", 0.0, 100.0).unwrap_or_default();
    let limit = number("limit", 0.0, 1e6).map(|limit| limit as u32).filter(|limit| *limit > 0);
    let impairment = Impairment { latency, jitter, loss, limit };
    let impairment = (impairment != Impairment::default()).then_some(impairment);
    let routes = text("routes").map_or(Ok(Vec::new()), routes);
    let routes = routes.unwrap_or_else(|why| {
        problems.push(format!("annotation {}: {why}", key(provider, "routes")));
        Vec::new()
    });
    let mut truth = |name: &str| match text(name)? {
        "true" => Some(true),
        "false" => Some(false),
        text => {
            problems.push(format!("annotation {}: {text:?} is neither true nor false", key(provider, name)));
            None
        }
    };
    let (default_route, mirror) = (truth("default_route"), truth("mirror").unwrap_or_default());
    (Tuning { ingress, egress, impairment, routes, default_route, mirror }, problems)
}

/// `[{"dst": "<cidr>", "gw": "<address>"}]`.
fn routes(text: &str) -> Result<Vec<ExtraRoute>, String> {
    #[derive(Deserialize)]
    struct Element {
        dst: String,
        #[serde(default)]
        gw: Option<String>,
    }
    let elements: Vec<Element> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut routes = Vec::with_capacity(elements.len());
    for Element { dst, gw } in elements {
        let net: ipnet::IpNet = if dst.contains('/') { dst.parse().ok() } else { dst.parse::<IpAddr>().ok().map(Into::into) }
            .ok_or_else(|| format!("dst {dst:?} is not a CIDR such as 10.0.0.0/8"))?;
        let gateway = gw.filter(|gw| !gw.is_empty());
        let gateway = gateway.map(|gw| gw.parse::<IpAddr>().map_err(|_| format!("gw {gw:?} is not an IP address"))).transpose()?;
        if gateway.is_some_and(|gateway| gateway.is_ipv4() != net.addr().is_ipv4()) {
            return Err(format!("dst {dst:?} and its gw are of different families"));
        }
        routes.push(ExtraRoute { destination: net.network(), length: net.prefix_len(), gateway });
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Tuning, Vec<String>) {
        tuning("ovn", &pairs.iter().map(|(name, value)| (key("ovn", name), (*value).to_owned())).collect())
    }

    #[test]
    fn rates_impairments_and_routes_are_read() {
        let (tuning, problems) = read(&[
            ("ingress_rate", "10"),
            ("egress_rate", "2.5"),
            ("egress_burst", "1"),
            ("latency", "3"),
            ("loss", "0.5"),
            ("routes", r#"[{"dst":"192.168.0.101/24","gw":"10.16.0.254"},{"dst":"10.0.0.1"}]"#),
            ("default_route", "true"),
            ("mirror", "true"),
        ]);
        assert_eq!(problems, [] as [String; 0]);
        assert_eq!(tuning.ingress, Some(Rate { rate: 10_000_000, burst: None }));
        assert_eq!(tuning.egress, Some(Rate { rate: 2_500_000, burst: Some(1_000_000) }));
        assert_eq!(tuning.impairment, Some(Impairment { latency: 3.0, loss: 0.5, ..Impairment::default() }));
        let gateway = "10.16.0.254".parse().ok();
        let routes = [
            ExtraRoute { destination: "192.168.0.0".parse().unwrap(), length: 24, gateway },
            ExtraRoute { destination: "10.0.0.1".parse().unwrap(), length: 32, gateway: None },
        ];
        assert_eq!((tuning.routes.as_slice(), tuning.default_route), (routes.as_slice(), Some(true)));
        assert_eq!(read(&[("ingress_rate", "0")]), (Tuning::default(), Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named_and_left_out() {
        for (name, value, said) in [
            ("ingress_rate", "fast", "\"fast\" is not a number from 0 to 1000000"),
            ("egress_rate", "-1", "not a number"),
            ("loss", "101", "from 0 to 100"),
            ("routes", "[{}]", "missing field `dst`"),
            ("routes", r#"[{"dst":"10.0.0.0/8","gw":"fd00::1"}]"#, "different families"),
            ("default_route", "yes", "neither true nor false"),
        ] {
            let (tuning, problems) = read(&[(name, value)]);
            assert_eq!(tuning, Tuning::default());
            assert!(problems.len() == 1 && problems[0].contains(said) && problems[0].contains(&key("ovn", name)), "{problems:?}");
        }
    }
}
