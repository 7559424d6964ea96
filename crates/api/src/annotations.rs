//! Annotation keys of pods, namespaces and nodes, and what their values mean.
//!
//! Keys of the primary NIC start with `ovn.kubernetes.io/`; those of an attachment with `<provider>.kubernetes.io/`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cidr::parse_addresses;
use crate::networks::key;
use crate::{Cidrs, MacAddr, OVN_PROVIDER};

/// Prefix of the keys of the primary NIC.
pub const PREFIX: &str = "ovn.kubernetes.io/";

/// `"true"` once the address is allocated and the port committed.
pub const ALLOCATED: &str = "ovn.kubernetes.io/allocated";
/// `"true"` once port groups and routes are committed too.
pub const ROUTED: &str = "ovn.kubernetes.io/routed";
/// Address (IPv4, IPv6, or `v4,v6`): a request before `allocated`, the record after.
pub const IP_ADDRESS: &str = "ovn.kubernetes.io/ip_address";
/// MAC address: a request before `allocated`, the record after.
pub const MAC_ADDRESS: &str = "ovn.kubernetes.io/mac_address";
/// CIDR of the subnet.
pub const CIDR: &str = "ovn.kubernetes.io/cidr";
/// Gateway of the subnet.
pub const GATEWAY: &str = "ovn.kubernetes.io/gateway";
/// Subnet: a request before `allocated`, the record after.
pub const LOGICAL_SWITCH: &str = "ovn.kubernetes.io/logical_switch";
/// VPC of the subnet.
pub const LOGICAL_ROUTER: &str = "ovn.kubernetes.io/logical_router";
/// Where the address comes from: names of `IPPool` objects, or addresses; see [`PoolChoice`].
pub const IP_POOL: &str = "ovn.kubernetes.io/ip_pool";
/// Family of the address, of a subnet that has both: `IPv4`, `IPv6` or `Dual`.
pub const IP_FAMILY: &str = "ovn.kubernetes.io/ip_family";
/// VLAN of the subnet in the provider network.
pub const VLAN_ID: &str = "ovn.kubernetes.io/vlan_id";
/// Provider network that the subnet is on.
pub const PROVIDER_NETWORK: &str = "ovn.kubernetes.io/provider_network";
/// Kind of NIC: `veth-pair`.
pub const POD_NIC_TYPE: &str = "ovn.kubernetes.io/pod_nic_type";

/// Of a node: identifier of its chassis, `external_ids:system-id` of its Open vSwitch.
pub const CHASSIS: &str = "ovn.kubernetes.io/chassis";
/// Of a node: its logical switch port.
pub const PORT_NAME: &str = "ovn.kubernetes.io/port_name";

/// Name of the virtual machine that the pod runs, on whose name its NIC is.
pub const VIRTUAL_MACHINE: &str = "ovn.kubernetes.io/virtualmachine";

/// Label of an `IP` object: its subnet.
pub const SUBNET_LABEL: &str = "ovn.kubernetes.io/subnet";
/// Label of an `IP` object: the node of its holder, or empty.
pub const NODE_LABEL: &str = "ovn.kubernetes.io/node-name";
/// Label of an `IP` object: `"false"` on those that the controller keeps, anything else on those that users made to reserve
/// addresses.
pub const RESERVED_LABEL: &str = "ovn.kubernetes.io/ip_reserved";

/// On a `Subnet` whose change is not in force, because it would strand holders of addresses: what is, as
/// `<cidrBlock> via <gateway>`.
pub const IN_FORCE: &str = "ferrovia.io/in-force";
/// On a `Subnet` that was taken over from an earlier controller: the MAC of its gateway, which nothing else tells.
pub const GATEWAY_MAC: &str = "ferrovia.io/gateway-mac";
/// On a `Vpc` besides the default one: how its pods reach hosts outside the cluster. `localnet`: through the host stack of
/// their own node; `none`, or nothing: not at all, unless by gateways of its own.
pub const EGRESS: &str = "ferrovia.io/egress";
/// On namespace `kube-system`: the token of a held removal, by which a person agrees to it.
pub const CONFIRM_REMOVAL: &str = "ferrovia.io/confirm-removal";

/// Whether the annotations of a `Vpc` say that its pods leave through their node's host stack.
///
/// # Errors
/// What is wrong with [`EGRESS`].
pub fn leaves_by_host(notes: Option<&BTreeMap<String, String>>) -> Result<bool, String> {
    match notes.and_then(|notes| notes.get(EGRESS)).map(|value| value.trim()) {
        None | Some("" | "none") => Ok(false),
        Some("localnet") => Ok(true),
        Some(other) => Err(format!("annotation {EGRESS}: {other:?} is neither \"localnet\" nor \"none\"")),
    }
}

/// What a pod's annotations ask of its primary NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NicAnnotations {
    /// Subnet by name.
    pub subnet: Option<Box<str>>,
    /// Addresses asked for, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MAC address asked for.
    pub mac: Option<MacAddr>,
    /// Where the address is to come from.
    pub pool: Option<Box<PoolChoice>>,
    /// Family asked for, if not each that the subnet has.
    pub family: Option<IpFamily>,
}

/// Where an address is to come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PoolChoice {
    /// From the first of these pools that has one.
    Named(Vec<Box<str>>),
    /// One of these, each an address or one per family: pods of a StatefulSet take that of their ordinal, others any.
    Listed(Vec<Vec<IpAddr>>),
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl PoolChoice {
    /// Reads names joined by commas, or addresses: entries joined by semicolons, or by commas unless they are two of
    /// different families, which are one entry.
    ///
    /// # Errors
    /// Says which part is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split([';', ',']).map(str::trim).filter(|part| !part.is_empty()).collect();
        if !parts.iter().any(|part| part.parse::<IpAddr>().is_ok()) {
            return Ok(Self::Named(parts.into_iter().map(Into::into).collect()));
        }
        let pair = || parts.len() == 2 && parts[0].contains(':') != parts[1].contains(':');
        let entries: Vec<&str> = if text.contains(';') {
            text.split(';').map(str::trim).filter(|entry| !entry.is_empty()).collect()
        } else if pair() {
            vec![text]
        } else {
            parts
        };
        Ok(Self::Listed(entries.into_iter().map(parse_addresses).collect::<Result<_, _>>()?))
    }
}

/// What the annotations record about a primary NIC that was allocated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NicRecord {
    /// Subnet by name.
    pub subnet: Box<str>,
    /// Addresses held, IPv4 first; none in a subnet that gives MACs alone.
    pub addresses: Vec<IpAddr>,
    /// MAC address held.
    pub mac: MacAddr,
    /// Ranges of the subnet, if recorded.
    pub cidrs: Option<Cidrs>,
    /// Gateways of the subnet, IPv4 first.
    pub gateways: Vec<IpAddr>,
    /// Where the subnet is in the physical network, if it is.
    pub segment: Option<Box<Segment>>,
}

/// A VLAN of a provider network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Provider network.
    pub network: Box<str>,
    /// VLAN identifier; 0 for untagged frames.
    pub vlan: u16,
}

/// Reads what is asked of the primary NIC.
///
/// # Errors
/// Names the annotation, its value and what is wrong with it.
pub fn requested(annotations: &BTreeMap<String, String>) -> Result<NicAnnotations, String> {
    requested_of(OVN_PROVIDER, annotations)
}

/// Reads what is asked of the NIC with this provider.
///
/// # Errors
/// Names the annotation, its value and what is wrong with it.
pub fn requested_of(provider: &str, annotations: &BTreeMap<String, String>) -> Result<NicAnnotations, String> {
    let of = Of { provider, annotations };
    let addresses = of.read("ip_address", parse_addresses)?.unwrap_or_default();
    let mac = of.read("mac_address", str::parse)?;
    let pool = of.read("ip_pool", PoolChoice::parse)?;
    let family = of.read("ip_family", |text| match text.to_ascii_lowercase().as_str() {
        "dual" => Ok(None),
        "ipv4" => Ok(Some(IpFamily::V4)),
        "ipv6" => Ok(Some(IpFamily::V6)),
        _ => Err(format!("{text:?} is none of IPv4, IPv6 and Dual")),
    })?;
    let subnet = of.text("logical_switch").map(Into::into);
    Ok(NicAnnotations { subnet, addresses, mac, pool: pool.map(Box::new), family: family.flatten() })
}

/// Reads what was recorded for the primary NIC, or `None` while it is not allocated.
///
/// # Errors
/// Names the annotation that is missing or malformed although `allocated` says `true`.
pub fn recorded(annotations: &BTreeMap<String, String>) -> Result<Option<NicRecord>, String> {
    recorded_of(OVN_PROVIDER, annotations)
}

/// Reads what was recorded for the NIC with this provider, or `None` while it is not allocated.
///
/// # Errors
/// Names the annotation that is missing or malformed although `allocated` says `true`.
pub fn recorded_of(provider: &str, annotations: &BTreeMap<String, String>) -> Result<Option<NicRecord>, String> {
    let of = Of { provider, annotations };
    if of.text("allocated") != Some("true") {
        return Ok(None);
    }
    let missing = |name: &str| format!("annotation {} is missing although {} is true", key(provider, name), key(provider, "allocated"));
    let subnet = of.text("logical_switch").ok_or_else(|| missing("logical_switch"))?.into();
    let addresses = match of.read("ip_address", parse_addresses)? {
        Some(addresses) => addresses,
        // A MAC alone is of no range.
        None if of.text("cidr").is_none() && of.text("mac_address").is_some() => Vec::new(),
        None => return Err(missing("ip_address")),
    };
    Ok(Some(NicRecord {
        subnet,
        addresses,
        mac: of.read("mac_address", str::parse)?.ok_or_else(|| missing("mac_address"))?,
        cidrs: of.text("cidr").and_then(|text| text.parse().ok()),
        gateways: of.read("gateway", parse_addresses)?.unwrap_or_default(),
        segment: of.text("provider_network").and_then(|network| {
            let vlan = of.text("vlan_id").map_or(Some(0), |vlan| vlan.parse().ok())?;
            Some(Box::new(Segment { network: network.into(), vlan }))
        }),
    }))
}

/// Addresses and MAC that are asked of one link of a definition: `<definition>.<namespace>.kubernetes.io/ip_address.<link>`, and
/// the same with `mac_address`.
///
/// # Errors
/// Names the annotation, its value and what is wrong with it.
pub fn requested_of_link(
    namespace: &str,
    definition: &str,
    link: &str,
    annotations: &BTreeMap<String, String>,
) -> Result<(Vec<IpAddr>, Option<MacAddr>), String> {
    let of = Of { provider: &format!("{definition}.{namespace}"), annotations };
    let addresses = of.read(&format!("ip_address.{link}"), parse_addresses)?;
    Ok((addresses.unwrap_or_default(), of.read(&format!("mac_address.{link}"), str::parse)?))
}

/// Which senders the switch lets through from a NIC, besides its own MAC and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSecurity {
    /// Whether others are dropped at all.
    pub enabled: bool,
    /// Further addresses with the NIC's MAC.
    pub addresses: Vec<IpAddr>,
    /// Names of `Vip` objects whose addresses are allowed, with the NIC's MAC and with their own.
    pub vips: Vec<Box<str>>,
    /// Annotations that cannot be read, each with its value and what is wrong with it: they count as missing.
    pub wrong: Vec<String>,
}

/// Reads `port_security`, `port_vips` and `aaps` of the NIC with this provider; `None` when there are none.
#[must_use]
pub fn port_security_of(provider: &str, annotations: &BTreeMap<String, String>) -> Option<PortSecurity> {
    let of = Of { provider, annotations };
    let list = |name: &str| of.text(name).into_iter().flat_map(|text| text.split(',')).map(str::trim).filter(|part| !part.is_empty());
    let mut wrong = Vec::new();
    let enabled = of.read("port_security", |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    });
    let enabled = enabled.unwrap_or_else(|why| {
        wrong.push(why);
        None
    });
    let mut addresses = Vec::new();
    for part in list("port_vips") {
        match part.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => wrong.push(format!("annotation {}: {part:?} is not an IP address", key(provider, "port_vips"))),
        }
    }
    let security = PortSecurity { enabled: enabled.unwrap_or(false), addresses, vips: list("aaps").map(Into::into).collect(), wrong };
    (security != PortSecurity::default()).then_some(security)
}

/// The annotations of one NIC.
struct Of<'a> {
    provider: &'a str,
    annotations: &'a BTreeMap<String, String>,
}

impl<'a> Of<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.annotations.get(&key(self.provider, name)).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn read<T, E: std::fmt::Display>(&self, name: &str, parse: impl FnOnce(&'a str) -> Result<T, E>) -> Result<Option<T>, String> {
        self.text(name).map(parse).transpose().map_err(|why| format!("annotation {}: {why}", key(self.provider, name)))
    }
}

/// Joins addresses as the annotations spell them: `v4,v6`.
#[must_use]
pub fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_malformed_request_names_the_annotation() {
        let error = requested(&map(&[(IP_ADDRESS, "10.0.0.300")])).unwrap_err();
        assert_eq!(error, "annotation ovn.kubernetes.io/ip_address: \"10.0.0.300\" is not an IP address");
        assert!(requested(&map(&[(MAC_ADDRESS, "zz")])).unwrap_err().contains(MAC_ADDRESS));
    }

    #[test]
    fn a_pool_is_named_or_listed() {
        let named = |names: &[&str]| Ok(PoolChoice::Named(names.iter().map(|name| (*name).into()).collect()));
        let listed = |entries: &[&[&str]]| {
            Ok(PoolChoice::Listed(entries.iter().map(|entry| entry.iter().map(|ip| ip.parse().unwrap()).collect()).collect()))
        };
        assert_eq!(PoolChoice::parse("web"), named(&["web"]));
        assert_eq!(PoolChoice::parse("web, db"), named(&["web", "db"]));
        assert_eq!(PoolChoice::parse("10.0.0.2,10.0.0.3"), listed(&[&["10.0.0.2"], &["10.0.0.3"]]));
        assert_eq!(PoolChoice::parse("10.0.0.2,fd00::2"), listed(&[&["10.0.0.2", "fd00::2"]]));
        assert_eq!(PoolChoice::parse("10.0.0.2,fd00::2;10.0.0.3,fd00::3"), listed(&[&["10.0.0.2", "fd00::2"], &["10.0.0.3", "fd00::3"]]));
        assert!(PoolChoice::parse("10.0.0.2,web").unwrap_err().contains("web"));
        assert!(requested(&map(&[(IP_FAMILY, "ipx")])).unwrap_err().contains("none of IPv4"));
    }

    #[test]
    fn a_link_of_a_definition_is_asked_for_by_its_name() {
        let notes = map(&[("data.ns.kubernetes.io/ip_address.net1", "10.0.0.7"), ("data.ns.kubernetes.io/mac_address.net2", "zz")]);
        assert_eq!(requested_of_link("ns", "data", "net1", &notes), Ok((vec!["10.0.0.7".parse().unwrap()], None)));
        assert!(requested_of_link("ns", "data", "net2", &notes).unwrap_err().contains("data.ns.kubernetes.io/mac_address.net2"));
        assert_eq!(requested_of_link("ns", "other", "net1", &notes), Ok((vec![], None)));
    }

    #[test]
    fn of_port_security_what_can_be_read_counts_and_the_rest_is_named() {
        let notes = map(&[
            ("d.ns.ovn.kubernetes.io/port_security", "true"),
            ("d.ns.ovn.kubernetes.io/port_vips", "10.0.0.9, 10.0.0.300,fd00::9"),
            ("d.ns.ovn.kubernetes.io/aaps", "a,b"),
        ]);
        let security = port_security_of("d.ns.ovn", &notes).unwrap();
        assert_eq!((security.enabled, join(&security.addresses).as_str()), (true, "10.0.0.9,fd00::9"));
        assert_eq!(security.vips, ["a".into(), "b".into()]);
        assert_eq!(security.wrong, ["annotation d.ns.ovn.kubernetes.io/port_vips: \"10.0.0.300\" is not an IP address"]);
        assert_eq!(port_security_of("ovn", &notes), None);
        let security = port_security_of("ovn", &map(&[("ovn.kubernetes.io/port_security", "yes")])).unwrap();
        assert!(!security.enabled && security.wrong[0].contains("\"yes\" is neither true nor false"));
    }

    #[test]
    fn a_record_reads_back_what_was_written() {
        let record = recorded(&map(&[
            (ALLOCATED, "true"),
            (IP_ADDRESS, "fd00::2,10.0.0.2"),
            (MAC_ADDRESS, "02:00:00:00:00:01"),
            (CIDR, "10.0.0.0/24,fd00::/64"),
            (GATEWAY, "10.0.0.1,fd00::1"),
            (LOGICAL_SWITCH, "s"),
        ]));
        let record = record.unwrap().unwrap();
        assert_eq!(join(&record.addresses), "10.0.0.2,fd00::2");
        assert_eq!(recorded(&map(&[])).unwrap(), None);
        let alone = [(ALLOCATED, "true"), (MAC_ADDRESS, "02:00:00:00:00:01"), (LOGICAL_SWITCH, "s")];
        assert_eq!(recorded(&map(&alone)).unwrap().unwrap().addresses, [] as [IpAddr; 0]);
        assert!(recorded(&map(&[&alone[..], &[(CIDR, "10.0.0.0/24")]].concat())).unwrap_err().contains(IP_ADDRESS));
        assert!(recorded(&map(&[(ALLOCATED, "true")])).unwrap_err().contains(LOGICAL_SWITCH));
    }
}
