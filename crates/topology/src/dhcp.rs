//! `enableDHCP` and `enableIPv6RA` of a subnet → what OVN answers to ports that ask for their addresses, and what the router
//! advertises (ovn-nb(5), `DHCP_Options` and `ipv6_ra_configs` of `Logical_Router_Port`).
//!
//! OVN answers on the port's own chassis, with the address that the port has been allocated: there are no leases to keep.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use api::{Cidrs, MacAddr, v1};
use ovsdb_types::nb::dhcp_options as dhcp;
use ovsdb_types::{RowKey, Uuid, nb};

use crate::fact::{Fact, Problem};
use crate::mac;
use crate::northbound::{RowFact, external_ids};

/// Keys in `external_ids` of the options of a subnet; those of a single port, which an earlier controller has, name the port, too.
pub(crate) const MARKS: [&str; 2] = ["ls", "protocol"];
pub(crate) const PORT_MARK: &str = "port";

/// Who answers over IPv4: no host has it, since it is link-local (RFC 3927).
const SERVER: &str = "169.254.0.254";
/// Seconds.
const LEASE: &str = "3600";
/// What a router advertises unless the subnet says something else: that addresses come by DHCPv6.
const ADVERTISED: [(&str, &str); 4] =
    [("address_mode", "dhcpv6_stateful"), ("max_interval", "30"), ("min_interval", "5"), ("send_periodic", "true")];

/// Options by name, spelled as OVN has them.
pub(crate) type Options = BTreeMap<String, String>;

/// What a subnet says of DHCP beyond what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dhcp {
    v4: Options,
    v6: Options,
}

/// What a subnet says of DHCP, if it has it.
pub(crate) fn read(spec: &v1::SubnetSpec) -> Result<Option<Box<Dhcp>>, Problem> {
    if spec.enable_dhcp != Some(true) {
        return Ok(None);
    }
    let mut v4 = options("dhcpV4Options", spec.dhcp_v4_options.as_deref())?;
    let v6 = options("dhcpV6Options", spec.dhcp_v6_options.as_deref())?;
    check::<Ipv4Addr>("dhcpV4Options", &v4, "server_id", "an IPv4 address")?;
    check::<MacAddr>("dhcpV4Options", &v4, "server_mac", "a MAC address")?;
    check::<u32>("dhcpV4Options", &v4, "lease_time", "a number of seconds")?;
    check::<u16>("dhcpV4Options", &v4, "mtu", "a number of bytes")?;
    check::<MacAddr>("dhcpV6Options", &v6, "server_id", "a MAC address")?;
    if let Some(mtu) = spec.mtu.filter(|mtu| *mtu > 0) {
        v4.entry("mtu".to_owned()).or_insert_with(|| mtu.to_string());
    }
    Ok(Some(Box::new(Dhcp { v4, v6 })))
}

/// What the router of a subnet advertises; nothing if that is empty.
pub(crate) fn advertised(spec: &v1::SubnetSpec, cidrs: &Cidrs) -> Result<Options, Problem> {
    let given = options("ipv6RAConfigs", spec.ipv6_ra_configs.as_deref())?;
    if spec.enable_ipv6_ra != Some(true) || cidrs.iter().all(|cidr| cidr.addr().is_ipv4()) {
        return Ok(Options::new());
    }
    let usual = || ADVERTISED.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Ok(if given.is_empty() { usual() } else { given })
}

/// The options of a subnet for one family.
pub(crate) fn key(subnet: &str, of: IpAddr) -> RowKey {
    RowKey::new(dhcp::TABLE, format!("{subnet}/{}", protocol(of)))
}

const fn protocol(of: IpAddr) -> &'static str {
    if of.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The rows with the options of a subnet.
pub(crate) fn rows<DK, D>(subnet: &str, cidrs: &Cidrs, gateways: &[IpAddr], given: &Dhcp, out: &mut engine::Out<Fact, DK, D>) {
    for cidr in cidrs.iter() {
        let of = cidr.addr();
        let key = key(subnet, of);
        let server = mac::of_row(&key).to_string();
        let (mut options, follows) = if of.is_ipv4() {
            let router = gateways.iter().find(|gateway| gateway.is_ipv4()).map(ToString::to_string);
            let follows = [
                ("lease_time", Some(LEASE.to_owned())),
                ("server_id", Some(SERVER.to_owned())),
                ("server_mac", Some(server)),
                ("router", router),
            ];
            (given.v4.clone(), follows.to_vec())
        } else {
            (given.v6.clone(), vec![("server_id", Some(server))])
        };
        for (name, value) in follows {
            if let Some(value) = value {
                options.entry(name.to_owned()).or_insert(value);
            }
        }
        RowFact::new(key)
            .set(dhcp::CIDR, cidr.to_string())
            .set(dhcp::OPTIONS, options)
            .set(dhcp::EXTERNAL_IDS, external_ids(&[(MARKS[0], subnet), (MARKS[1], protocol(of))]))
            .say(out);
    }
}

/// What a port refers to for its addresses of one family.
pub(crate) fn reference(subnet: &str, of: IpAddr) -> Uuid {
    key(subnet, of).uuid(&nb::SCHEMA)
}

/// `key=value`, joined by commas; those in braces and quotes belong to a value.
fn options(field: &str, text: Option<&str>) -> Result<Options, Problem> {
    let bad = |why: String| Problem { reason: "BadField", message: format!("spec.{field}: {why}") };
    let mut options = Options::new();
    for part in parts(text.unwrap_or_default()).map_err(bad)? {
        let pair = part.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let Some((key, value)) = pair.filter(|(key, value)| !key.is_empty() && !value.is_empty()) else {
            return Err(bad(format!("{part:?} is not key=value")));
        };
        if options.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(bad(format!("{key} is there twice")));
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

fn check<T: std::str::FromStr>(field: &str, options: &Options, key: &str, what: &str) -> Result<(), Problem> {
    match options.get(key).filter(|value| value.parse::<T>().is_err()) {
        Some(value) => Err(Problem { reason: "BadField", message: format!("spec.{field}: {key}: {value:?} is not {what}") }),
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
            ("dns_server={1.1.1.1", "a brace or a quotation mark is not closed"),
            ("a=}", "a brace is closed that was not opened"),
            ("a=b); next;", "')' cannot be part of an option"),
        ] {
            let problem = read(&spec(options)).unwrap_err();
            assert_eq!((problem.reason, problem.message), ("BadField", format!("spec.dhcpV4Options: {why}")));
        }
    }
}
