//! `enableDHCP` and `enableIPv6RA` of a subnet → what OVN answers to ports that ask for their addresses, and what the router
//! advertises (ovn-nb(5), `DHCP_Options` and `ipv6_ra_configs` of `Logical_Router_Port`).
//!
//! OVN answers on the port's own chassis, with the address that the port has been allocated: there are no leases to keep.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use api::{Cidrs, MacAddr, networks, v1};
use ipnet::IpNet;
use ovsdb_types::nb::dhcp_options as dhcp;
use ovsdb_types::{RowKey, Uuid, nb};

use crate::fact::{Fact, Problem};
use crate::mac;
use crate::northbound::{RowFact, external_ids};

/// Keys in `external_ids` of the options of a subnet; those of a single port name the port, too.
pub(crate) const MARKS: [&str; 2] = ["ls", "protocol"];
pub(crate) const PORT_MARK: &str = "port";

/// What the keys of rows of single ports begin with. No subnet's name has a slash.
const PORT_KEY: &str = "port/";

/// Who answers over IPv4: no host has it, since it is link-local (RFC 3927).
const SERVER: &str = "169.254.0.254";
/// Seconds.
const LEASE: &str = "3600";
/// What a router advertises unless the subnet says something else: that addresses come by DHCPv6.
const ADVERTISED: [(&str, &str); 4] =
    [("address_mode", "dhcpv6_stateful"), ("max_interval", "30"), ("min_interval", "5"), ("send_periodic", "true")];

/// DHCPv4 options that need not be told: without a value what would follow from the subnet is left out.
const OPTIONAL: [&str; 2] = ["router", "mtu"];

/// Options by name, spelled as OVN has them.
pub(crate) type Options = BTreeMap<String, String>;

/// What a subnet says of DHCP beyond what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    v4: Options,
    v6: Options,
}

/// What annotations say of DHCP to one port: of each family that they name, in place of what its subnet says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortDhcp {
    v4: Option<Options>,
    v6: Option<Options>,
    /// Annotations that cannot be read, each with what is wrong with it: they count as missing.
    pub(crate) wrong: Vec<String>,
}

impl PortDhcp {
    fn of(&self, v4: bool) -> Option<&Options> {
        if v4 { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

/// Reads `dhcp-v4-options` and `dhcp-v6-options` of the NIC with this provider; `None` when there are none.
pub(crate) fn read_port(provider: &str, notes: &BTreeMap<String, String>) -> Option<PortDhcp> {
    let mut said = PortDhcp::default();
    let mut read = |name: &str, parse: fn(&str) -> Result<Options, String>| {
        let key = networks::key(provider, name);
        let text = notes.get(&key).map(|text| text.trim()).filter(|text| !text.is_empty())?;
        parse(text).map_err(|why| said.wrong.push(format!("annotation {key}: {why}"))).ok()
    };
    let (v4, v6) = (read("dhcp-v4-options", v4), read("dhcp-v6-options", v6));
    (said.v4, said.v6) = (v4, v6);
    (said != PortDhcp::default()).then_some(said)
}

/// What a subnet says of DHCP, if it has it.
pub(crate) fn read(spec: &v1::SubnetSpec) -> Result<Option<Box<Dhcp>>, Problem> {
    if spec.enable_dhcp != Some(true) {
        return Ok(None);
    }
    let bad = |field: &str, why: String| Problem { reason: "BadField", message: format!("spec.{field}: {why}") };
    let v4 = v4(spec.dhcp_v4_options.as_deref().unwrap_or_default()).map_err(|why| bad("dhcpV4Options", why))?;
    let v6 = v6(spec.dhcp_v6_options.as_deref().unwrap_or_default()).map_err(|why| bad("dhcpV6Options", why))?;
    Ok(Some(Box::new(Dhcp { v4, v6 })))
}

fn v4(text: &str) -> Result<Options, String> {
    let v4 = options(text, &OPTIONAL)?;
    check::<Ipv4Addr>(&v4, "server_id", "an IPv4 address")?;
    check::<MacAddr>(&v4, "server_mac", "a MAC address")?;
    check::<u32>(&v4, "lease_time", "a number of seconds")?;
    check::<u16>(&v4, "mtu", "a number of bytes")?;
    Ok(v4)
}

fn v6(text: &str) -> Result<Options, String> {
    let v6 = options(text, &[])?;
    check::<MacAddr>(&v6, "server_id", "a MAC address")?;
    Ok(v6)
}

/// What the router of a subnet advertises; nothing if that is empty.
pub(crate) fn advertised(spec: &v1::SubnetSpec, cidrs: &Cidrs) -> Result<Options, Problem> {
    let bad = |why| Problem { reason: "BadField", message: format!("spec.ipv6RAConfigs: {why}") };
    let given = options(spec.ipv6_ra_configs.as_deref().unwrap_or_default(), &[]).map_err(bad)?;
    if spec.enable_ipv6_ra != Some(true) || cidrs.iter().all(|cidr| cidr.addr().is_ipv4()) {
        return Ok(Options::new());
    }
    let usual = || ADVERTISED.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Ok(if given.is_empty() { usual() } else { given })
}

/// The options of a subnet, of each family that it has, over IPv4 and over IPv6.
pub(crate) fn keys(subnet: &str, cidrs: &Cidrs) -> [Option<RowKey>; 2] {
    [true, false].map(|v4| cidrs.iter().map(|cidr| cidr.addr()).find(|of| of.is_ipv4() == v4).map(|of| key(subnet, of)))
}

/// What a row with options is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionsOf<'a> {
    /// A subnet.
    Subnet(&'a str),
    /// The port of this name.
    Port(&'a str),
}

/// What a row with options is of; nothing if it is none.
#[must_use]
pub fn options_of(row: &RowKey) -> Option<OptionsOf<'_>> {
    let (of, _) = (row.table == dhcp::TABLE).then(|| row.key.rsplit_once('/'))??;
    Some(of.strip_prefix(PORT_KEY).map_or(OptionsOf::Subnet(of), OptionsOf::Port))
}

/// The options of a subnet for one family.
pub(crate) fn key(subnet: &str, of: IpAddr) -> RowKey {
    RowKey::new(dhcp::TABLE, format!("{subnet}/{}", protocol(of)))
}

const fn protocol(of: IpAddr) -> &'static str {
    if of.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The options of one port for one family.
fn port_key(port: &str, of: IpAddr) -> RowKey {
    RowKey::new(dhcp::TABLE, format!("{PORT_KEY}{port}/{}", protocol(of)))
}

/// What OVN answers in one range of a subnet.
pub(crate) struct Answer<'a> {
    pub(crate) subnet: &'a str,
    pub(crate) cidr: IpNet,
    /// Gateways of its NICs.
    pub(crate) gateways: &'a [IpAddr],
    /// MTU in bytes, if the subnet names one.
    pub(crate) mtu: Option<u16>,
}

impl Answer<'_> {
    /// To all.
    pub(crate) fn of_subnet<DK, D>(&self, given: &Dhcp, out: &mut engine::Out<Fact, DK, D>) {
        let given = if self.cidr.addr().is_ipv4() { &given.v4 } else { &given.v6 };
        self.say(key(self.subnet, self.cidr.addr()), &[], given, out);
    }

    /// To one port, if annotations say something of it; yields what the port is to refer to.
    pub(crate) fn of_port<DK, D>(&self, port: &str, given: &PortDhcp, out: &mut engine::Out<Fact, DK, D>) -> Option<Uuid> {
        let given = given.of(self.cidr.addr().is_ipv4())?;
        let key = port_key(port, self.cidr.addr());
        self.say(key.clone(), &[(PORT_MARK, port)], given, out);
        Some(key.uuid(&nb::SCHEMA))
    }

    fn say<DK, D>(&self, key: RowKey, marks: &[(&str, &str)], given: &Options, out: &mut engine::Out<Fact, DK, D>) {
        let of = self.cidr.addr();
        // One server for all of the subnet.
        let server = mac::of_row(&self::key(self.subnet, of)).to_string();
        let follows = if of.is_ipv4() {
            let router = self.gateways.iter().find(|gateway| gateway.is_ipv4()).map(ToString::to_string);
            vec![
                ("lease_time", Some(LEASE.to_owned())),
                ("server_id", Some(SERVER.to_owned())),
                ("server_mac", Some(server)),
                ("router", router),
                ("mtu", self.mtu.map(|mtu| mtu.to_string())),
            ]
        } else {
            vec![("server_id", Some(server))]
        };
        let mut options = given.clone();
        for (name, value) in follows {
            if let Some(value) = value {
                options.entry(name.to_owned()).or_insert(value);
            }
        }
        options.retain(|_, value| !value.is_empty());
        let marks = [&[(MARKS[0], self.subnet), (MARKS[1], protocol(of))][..], marks].concat();
        RowFact::new(key)
            .set(dhcp::CIDR, self.cidr.to_string())
            .set(dhcp::OPTIONS, options)
            .set(dhcp::EXTERNAL_IDS, external_ids(&marks))
            .say(out);
    }
}

/// What a port refers to for its addresses of one family.
pub(crate) fn reference(subnet: &str, of: IpAddr) -> Uuid {
    key(subnet, of).uuid(&nb::SCHEMA)
}

/// `key=value`, joined by commas; those in braces and quotes belong to a value, which only those that are `optional` may lack.
fn options(text: &str, optional: &[&str]) -> Result<Options, String> {
    let mut options = Options::new();
    for part in parts(text)? {
        let pair = part.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let is_whole = |(key, value): &(&str, &str)| !key.is_empty() && (!value.is_empty() || optional.contains(key));
        let Some((key, value)) = pair.filter(is_whole) else { return Err(format!("{part:?} is not key=value")) };
        if options.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{key} is there twice"));
        }
    }
    Ok(options)
}

/// The parts of a list. What OVN would not read as part of a value is refused: values become part of a flow's actions.
fn parts(text: &str) -> Result<Vec<String>, String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut braces, mut quoted) = (0_u32, false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            c if quoted && !c.is_control() => {}
            '{' => braces += 1,
            '}' => braces = braces.checked_sub(1).ok_or("a brace is closed that was not opened")?,
            ',' if braces == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            c if c.is_ascii_alphanumeric() || " .,:/=-_".contains(c) => {}
            c => return Err(format!("{c:?} cannot be part of an option")),
        }
        part.push(c);
    }
    if quoted || braces > 0 {
        return Err("a brace or a quotation mark is not closed".to_owned());
    }
    parts.push(part);
    parts.retain(|part| !part.trim().is_empty());
    Ok(parts)
}

fn check<T: std::str::FromStr>(options: &Options, key: &str, what: &str) -> Result<(), String> {
    match options.get(key).filter(|value| !value.is_empty() && value.parse::<T>().is_err()) {
        Some(value) => Err(format!("{key}: {value:?} is not {what}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn spec(v4: &str) -> v1::SubnetSpec {
        v1::SubnetSpec { enable_dhcp: Some(true), dhcp_v4_options: Some(v4.to_owned()), ..Default::default() }
    }

    #[test]
    fn values_in_braces_and_quotes_hold_commas() {
        let read = read(&spec(r#"dns_server={10.0.0.53, 10.0.0.54}, domain_name="a,b" ,lease_time=60,"#)).unwrap().unwrap();
        let pairs: Vec<_> = read.v4.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(pairs, ["dns_server={10.0.0.53, 10.0.0.54}", r#"domain_name="a,b""#, "lease_time=60"]);
    }

    #[test]
    fn what_ovn_could_not_read_is_refused_with_its_place() {
        for (options, why) in [
            ("lease_time", r#""lease_time" is not key=value"#),
            ("lease_time=soon", r#"lease_time: "soon" is not a number of seconds"#),
            ("server_mac=x", r#"server_mac: "x" is not a MAC address"#),
            ("mtu=1,mtu=2", "mtu is there twice"),
            ("server_id=", r#""server_id=" is not key=value"#),
            ("dns_server={1.1.1.1", "a brace or a quotation mark is not closed"),
            ("a=}", "a brace is closed that was not opened"),
            ("a=b); next;", "')' cannot be part of an option"),
        ] {
            let problem = read(&spec(options)).unwrap_err();
            assert_eq!((problem.reason, problem.message), ("BadField", format!("spec.dhcpV4Options: {why}")));
        }
    }
}
