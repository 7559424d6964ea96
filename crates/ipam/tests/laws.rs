//! No address and, within a VPC, no MAC is ever held twice; nothing leaks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipam::{AllocateError, Ipam, Request, SubnetSpec};
use proptest::prelude::*;

fn spec(vpc: &str, cidr: &str, excluded: &[(&str, &str)]) -> SubnetSpec {
    let excluded = excluded.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
    SubnetSpec { vpc: vpc.into(), cidrs: cidr.parse().unwrap(), excluded }
}

fn request(subnet: &str, addresses: &[&str], mac: Option<&str>) -> Request {
    Request {
        subnet: subnet.into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        mac: mac.map(|m| m.parse().unwrap()),
    }
}

#[test]
fn next_free_skips_network_broadcast_gateway_and_excludes() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/29", &[("10.0.0.1", "10.0.0.1"), ("10.0.0.3", "10.0.0.4")]));
    let got: Vec<String> =
        (0..3).map(|i| ipam.allocate(&format!("p{i}").into(), &request("s", &[], None)).unwrap().addresses[0].to_string()).collect();
    assert_eq!(got, ["10.0.0.2", "10.0.0.5", "10.0.0.6"]);
    let error = ipam.allocate(&"late".into(), &request("s", &[], None)).unwrap_err();
    assert_eq!(error.to_string(), "subnet s: no free IPv4 address is left");
    assert_eq!((ipam.usage("s").v4_used, ipam.usage("s").v4_available), (3, 0));
}

#[test]
fn a_waiting_request_is_served_when_an_address_is_released() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/30", &[("10.0.0.1", "10.0.0.1")]));
    ipam.allocate(&"a".into(), &request("s", &[], None)).unwrap();
    for late in ["b", "c"] {
        assert!(ipam.allocate(&late.into(), &request("s", &[], None)).is_err());
    }
    ipam.release("a");
    let served = ipam.retry("s");
    assert_eq!(served.iter().map(|(o, _)| o.as_ref()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_static_address_names_its_holder_when_taken() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/24", &[("10.0.0.1", "10.0.0.1")]));
    let mac = "02:00:00:00:00:09";
    assert_eq!(ipam.allocate(&"a".into(), &request("s", &["10.0.0.9"], Some(mac))).unwrap().mac.to_string(), mac);
    for (wanted, mac, why) in [
        ("10.0.0.9", None, "subnet s: address 10.0.0.9 is in use by a"),
        ("10.0.0.1", None, "subnet s: address 10.0.0.1 is reserved in the subnet"),
        ("10.0.1.9", None, "subnet s: address 10.0.1.9 lies outside the subnet's range 10.0.0.0/24"),
        ("10.0.0.10", Some(mac), "MAC address 02:00:00:00:00:09 is in use by a in VPC v"),
    ] {
        assert_eq!(ipam.allocate(&"b".into(), &request("s", &[wanted], mac)).unwrap_err().to_string(), why);
    }
    // Nothing of the refused requests is held.
    assert_eq!(ipam.usage("s").v4_used, 1);
}

#[test]
fn dual_stack_is_all_or_nothing() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/30,fd00::/64", &[("10.0.0.1", "10.0.0.1"), ("fd00::1", "fd00::1")]));
    let held = ipam.allocate(&"a".into(), &request("s", &[], None)).unwrap();
    assert_eq!(held.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
    assert!(matches!(ipam.allocate(&"b".into(), &request("s", &[], None)), Err(AllocateError::Pool { .. })));
    assert_eq!((ipam.usage("s").v4_used, ipam.usage("s").v6_used), (1, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8, u8, Option<u8>, Option<u8>),
    Release(u8),
    Retry(u8),
    Resize(u8, bool),
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..12, 0u8..2, prop::option::of(0u8..16), prop::option::of(0u8..3)).prop_map(|(o, s, a, m)| Step::Allocate(o, s, a, m)),
        2 => (0u8..12).prop_map(Step::Release),
        1 => (0u8..2).prop_map(Step::Retry),
        1 => (0u8..2, any::<bool>()).prop_map(|(s, big)| Step::Resize(s, big)),
        1 => Just(Step::Rebuild),
    ]
}

fn subnet(index: u8, big: bool) -> (Arc<str>, SubnetSpec) {
    let cidr = format!("10.0.{index}.0/{}", if big { 28 } else { 29 });
    let gateway = format!("10.0.{index}.1");
    // Both subnets are of one VPC, so their MACs must differ.
    (format!("s{index}").into(), spec("v", &cidr, &[(&gateway, &gateway)]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_held_twice_and_nothing_leaks(steps in prop::collection::vec(step(), 1..80)) {
        let mut ipam = Ipam::default();
        let mut sizes = [true, true];
        for i in 0..2 {
            let (name, spec) = subnet(i, true);
            ipam.set_subnet(&name, spec);
        }
        for step in steps {
            match step {
                Step::Allocate(owner, s, address, mac) => {
                    let request = Request {
                        subnet: format!("s{s}").into(),
                        addresses: address.map(|a| format!("10.0.{s}.{a}").parse().unwrap()).into_iter().collect(),
                        mac: mac.map(|m| format!("02:00:00:00:00:0{m}").parse().unwrap()),
                    };
                    if let Ok(held) = ipam.allocate(&format!("p{owner}").into(), &request) {
                        prop_assert!(request.addresses.iter().all(|a| held.addresses.contains(a)));
                    }
                }
                Step::Release(owner) => drop(ipam.release(&format!("p{owner}"))),
                Step::Retry(s) => drop(ipam.retry(&format!("s{s}"))),
                Step::Resize(s, big) => {
                    sizes[usize::from(s)] = big;
                    let (name, spec) = subnet(s, big);
                    ipam.set_subnet(&name, spec);
                }
                Step::Rebuild => {
                    let mut fresh = Ipam::default();
                    for i in 0..2 {
                        let (name, spec) = subnet(i, sizes[usize::from(i)]);
                        fresh.set_subnet(&name, spec);
                    }
                    for owner in (0..12).map(|o| Arc::<str>::from(format!("p{o}"))) {
                        if let Some(held) = ipam.holding(&owner) {
                            fresh.adopt(&owner, held.clone()).unwrap();
                        }
                    }
                    for s in ["s0", "s1"] {
                        prop_assert_eq!(fresh.usage(s), ipam.usage(s));
                    }
                    ipam = fresh;
                }
            }
            let mut addresses = BTreeSet::new();
            let mut macs = BTreeSet::new();
            let mut held: BTreeMap<String, usize> = BTreeMap::new();
            for owner in (0..12).map(|o| format!("p{o}")) {
                if let Some(h) = ipam.holding(&owner) {
                    prop_assert!(macs.insert(h.mac), "MAC held twice");
                    for ip in &h.addresses {
                        prop_assert!(addresses.insert(*ip), "address held twice");
                        if subnet(if h.subnet.ends_with('0') { 0 } else { 1 }, sizes[usize::from(h.subnet.ends_with('1'))]).1.cidrs.contains(*ip) {
                            *held.entry(h.subnet.to_string()).or_default() += 1;
                        }
                    }
                }
            }
            for (i, s) in ["s0", "s1"].iter().enumerate() {
                let usage = ipam.usage(s);
                let size = if sizes[i] { 16 } else { 8 };
                // Network, broadcast and gateway are reserved. A holder on what became the broadcast address counts as reserved.
                prop_assert_eq!(usage.v4_used + usage.v4_available + 3, size);
                prop_assert!(usage.v4_used <= held.get(*s).copied().unwrap_or(0) as u128);
            }
        }
        for owner in 0..12 {
            ipam.release(&format!("p{owner}"));
        }
        prop_assert!(ipam.is_empty());
        for s in ["s0", "s1"] {
            prop_assert_eq!(ipam.usage(s).v4_used, 0);
        }
    }
}
