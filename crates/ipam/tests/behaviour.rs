//! What those who ask see, case by case.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;

use ipam::{AllocateError, Claim, Families, Holding, Ipam, Owner, PoolSpec, Request, SubnetSpec};

fn spec(vpc: &str, cidr: &str, excluded: &[(&str, &str)]) -> SubnetSpec {
    let excluded = excluded.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
    SubnetSpec::new(vpc.into(), cidr.parse::<api::Cidrs>().unwrap(), excluded)
}

fn request(subnet: &str, addresses: &[&str], mac: Option<&str>) -> Request {
    let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
    Request { addresses, mac: mac.map(|m| m.parse().unwrap()), ..Request::new(subnet.into()) }
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

fn held(subnet: &str, address: &str, mac: u8) -> Holding {
    Holding { subnet: subnet.into(), addresses: vec![address.parse().unwrap()], mac: api::MacAddr::local(0, u64::from(mac)) }
}

fn pool(ranges: &[(&str, &str)], exclusive: bool) -> PoolSpec {
    PoolSpec { ranges: ranges.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect(), exclusive }
}

fn names(served: &[(Owner, Holding)]) -> Vec<&str> {
    served.iter().map(|(owner, _)| owner.as_ref()).collect()
}

#[test]
fn a_ninety_six_can_be_excluded_from_a_sixty_four() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "fd00::/64", &[("fd00::1", "fd00::ffff:ffff")]));
    let got = ipam.allocate(&"a".into(), &request("s", &[], None)).unwrap();
    assert_eq!(got.addresses, ["fd00::1:0:0".parse::<IpAddr>().unwrap()]);
    let usage = ipam.usage("s");
    assert_eq!((usage.v6_used, usage.v6_excluded, usage.v6_available), (1, 1 << 32, (1 << 64) - (1 << 32) - 1));
}

#[test]
fn exclusive_pools_serve_those_who_name_them_alone() {
    let mut ipam = Ipam::default();
    let gold = Request { pools: vec!["gold".into()], ..Request::new("s".into()) };
    // The pool may come before its subnet.
    ipam.set_pool(&"s".into(), &"gold".into(), pool(&[("10.0.0.2", "10.0.0.3")], true));
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/29", &[("10.0.0.1", "10.0.0.1")]));
    assert_eq!(ipam.allocate(&"plain".into(), &request("s", &[], None)).unwrap().addresses[0].to_string(), "10.0.0.4");
    assert_eq!(ipam.allocate(&"chosen".into(), &request("s", &["10.0.0.3"], None)).unwrap().addresses[0].to_string(), "10.0.0.3");
    assert_eq!(ipam.allocate(&"golden".into(), &gold).unwrap().addresses[0].to_string(), "10.0.0.2");
    assert_eq!(ipam.allocate(&"late".into(), &gold).unwrap_err().to_string(), "subnet s: no free IPv4 address is left in pool gold");
    let usage = ipam.pool_usage("s", "gold");
    assert_eq!((usage.v4_used, usage.v4_available), (2, 0));
    assert_eq!(ipam.pool_used_ranges("s", "gold").v4.to_string(), "10.0.0.2-10.0.0.3");
    assert_eq!(ipam.used_ranges("s").v4.to_string(), "10.0.0.2-10.0.0.4");
    assert_eq!(ipam.available_ranges("s").v4.to_string(), "10.0.0.5-10.0.0.6");
    let unknown = Request { pools: vec!["lead".into()], ..Request::new("s".into()) };
    assert_eq!(ipam.allocate(&"x".into(), &unknown).unwrap_err().to_string(), "subnet s: pool lead does not exist");
    // Both wait, each for its own: room in the pool, and the pool itself.
    ipam.remove_pool(&"s".into(), "gold");
    ipam.set_pool(&"s".into(), &"lead".into(), pool(&[("10.0.0.6", "10.0.0.6")], false));
    assert_eq!(names(&ipam.retry("s")), ["x"]);
}

#[test]
fn one_family_of_two_can_be_asked_for_and_a_subnet_without_ranges_gives_macs() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/29,fd00::/64", &[]));
    for (families, v4) in [(Families::V4, vec![true]), (Families::V6, vec![false])] {
        let request = Request { families, ..Request::new("s".into()) };
        let got = ipam.allocate(&"a".into(), &request).unwrap();
        assert_eq!(got.addresses.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), v4);
    }
    // Asked for anything, the holder of one family keeps it.
    assert_eq!(ipam.allocate(&"a".into(), &Request::new("s".into())).unwrap().addresses.len(), 1);
    ipam.set_subnet(&"l2".into(), SubnetSpec::new("v".into(), None, vec![]));
    let got = ipam.allocate(&"b".into(), &Request::new("l2".into())).unwrap();
    assert_eq!((got.addresses.len(), ipam.holders("l2").len()), (0, 1));
    let error = ipam.allocate(&"c".into(), &request("l2", &["10.0.0.9"], None)).unwrap_err();
    assert_eq!(error.to_string(), "subnet l2: address 10.0.0.9 is asked for, but the subnet has no range");
}

#[test]
fn candidates_are_given_in_their_order_and_then_the_one_released_first() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/24", &[]));
    let candidates = vec!["10.0.0.9".parse().unwrap(), "10.0.0.7".parse().unwrap()];
    let wanted = Request { candidates, ..Request::new("s".into()) };
    let got = |ipam: &mut Ipam, owner: &str| ipam.allocate(&owner.into(), &wanted).map(|h| h.addresses[0].to_string());
    assert_eq!((got(&mut ipam, "a").unwrap(), got(&mut ipam, "b").unwrap()), ("10.0.0.9".into(), "10.0.0.7".into()));
    assert_eq!(got(&mut ipam, "c").unwrap_err().to_string(), "subnet s: none of the IPv4 addresses to choose from is free");
    ipam.release("b");
    ipam.release("a");
    assert_eq!(ipam.retry("s")[0].1.addresses[0].to_string(), "10.0.0.7");
}

#[test]
fn a_running_workload_keeps_its_address_and_then_the_older_object() {
    let claim = |running, age| Claim { running, age };
    let records = [
        ("stopped-old", claim(false, 1), "10.0.0.5"),
        ("running-new", claim(true, 9), "10.0.0.5"),
        ("running-old", claim(true, 2), "10.0.0.5"),
        ("stopped-new", claim(false, 8), "10.0.0.5"),
    ];
    for turn in 0..records.len() {
        let mut ipam = Ipam::default();
        ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/24", &[]));
        let mut lost = Vec::new();
        for (i, (owner, claim, address)) in records.iter().cycle().skip(turn).take(records.len()).enumerate() {
            match ipam.adopt_claim(&Owner::from(*owner), &held("s", address, u8::try_from(i).unwrap()), *claim) {
                Ok(adopted) => lost.extend(adopted.displaced.into_iter().map(|(owner, _)| owner.to_string())),
                Err(error) => {
                    assert!(error.to_string().starts_with("subnet s: address 10.0.0.5 is in use by "), "{error}");
                    lost.push((*owner).to_owned());
                }
            }
        }
        assert_eq!(ipam.holder("s", "10.0.0.5".parse().unwrap()).unwrap().as_ref(), "running-old");
        assert_eq!((ipam.len(), lost.len()), (1, 3), "{lost:?}");
    }
}

#[test]
fn no_new_request_takes_an_address_from_a_stopped_workload() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/24", &[]));
    ipam.adopt_claim(&"vm".into(), &held("s", "10.0.0.5", 1), Claim { running: false, age: 1 }).unwrap();
    assert!(ipam.allocate(&"pod".into(), &request("s", &["10.0.0.5"], None)).is_err());
    // Nor does a stopped one take it back from whom it was given to.
    ipam.release("vm");
    assert_eq!(names(&ipam.retry("s")), ["pod"]);
    assert!(ipam.adopt_claim(&"vm".into(), &held("s", "10.0.0.5", 1), Claim { running: false, age: 1 }).is_err());
}

#[test]
fn duplicate_macs_that_were_brought_are_told() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/24", &[]));
    ipam.adopt(&"a".into(), held("s", "10.0.0.5", 1)).unwrap();
    let adopted = ipam.adopt_claim(&"b".into(), &held("s", "10.0.0.6", 1), Claim::default()).unwrap();
    assert_eq!(adopted.mac_shared_with.as_deref(), Some("a"));
    ipam.release("a");
    assert_eq!(ipam.mac_shared_with("b"), None);
    assert!(ipam.allocate(&"c".into(), &request("s", &[], Some("02:00:00:00:00:01"))).is_err());
    ipam.release("b");
    assert_eq!(names(&ipam.retry("s")), ["c"]);
}

#[test]
fn several_nics_are_served_together_or_not_at_all_and_wait_together() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/24", &[]));
    ipam.set_subnet(&"t".into(), spec("v", "10.0.1.0/30", &[("10.0.1.1", "10.0.1.1")]));
    ipam.allocate(&"x".into(), &request("t", &[], None)).unwrap();
    let wanted: Vec<(Owner, Request)> = vec![("p.eth0".into(), request("s", &[], None)), ("p.net1".into(), request("t", &[], None))];
    let refused = ipam.allocate_all(&wanted).unwrap_err();
    assert_eq!(refused.to_string(), "p.net1: subnet t: no free IPv4 address is left");
    assert_eq!((ipam.len(), ipam.usage("s").v4_used, ipam.ready().len()), (1, 0, 0));
    ipam.release("x");
    assert_eq!(ipam.ready(), ["t".into()]);
    assert_eq!(names(&ipam.retry("t")), ["p.eth0", "p.net1"]);
    assert_eq!(ipam.allocate(&"q".into(), &request("s", &[], None)).unwrap().addresses[0].to_string(), "10.0.0.2");
    assert!(ipam.allocate_all(&[("p".into(), request("s", &[], None)), ("p".into(), request("t", &[], None))]).is_err());
}

#[test]
fn who_asks_later_does_not_go_before_those_who_wait() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/30", &[("10.0.0.1", "10.0.0.1")]));
    ipam.allocate(&"a".into(), &request("s", &[], None)).unwrap();
    assert!(ipam.allocate(&"b".into(), &request("s", &[], None)).is_err());
    ipam.release("a");
    assert!(ipam.allocate(&"c".into(), &request("s", &[], None)).is_err());
    assert_eq!(names(&ipam.retry("s")), ["b"]);
    // Asking again does not cost the place.
    assert!(ipam.allocate(&"d".into(), &request("s", &[], None)).is_err());
    assert!(ipam.allocate(&"c".into(), &request("s", &[], None)).is_err());
    ipam.release("b");
    assert_eq!(names(&ipam.retry("s")), ["c"]);
}

#[test]
fn a_chosen_address_is_served_though_thousands_wait_before_it() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/29", &[("10.0.0.1", "10.0.0.1")]));
    ipam.set_pool(&"s".into(), &"p".into(), pool(&[("10.0.0.6", "10.0.0.6")], true));
    let chosen: Vec<Owner> = (2..6).map(|i| format!("h{i}").into()).collect();
    for owner in &chosen {
        ipam.allocate(owner, &request("s", &[], None)).unwrap();
    }
    ipam.allocate(&"six".into(), &request("s", &["10.0.0.6"], None)).unwrap();
    for i in 0..5000 {
        assert!(ipam.allocate(&format!("w{i}").into(), &request("s", &[], None)).is_err());
    }
    assert!(ipam.allocate(&"late".into(), &request("s", &["10.0.0.6"], None)).is_err());
    ipam.release("six");
    assert_eq!(names(&ipam.retry("s")), ["late"]);
    ipam.release(&chosen[0]);
    assert_eq!(names(&ipam.retry("s")), ["w0"]);
    assert!(ipam.retry("s").is_empty());
}

#[test]
fn a_change_that_would_strand_holders_names_them() {
    let mut ipam = Ipam::default();
    ipam.set_subnet(&"s".into(), spec("v", "10.0.0.0/24", &[]));
    for (owner, address) in [("b", "10.0.0.9"), ("a", "10.0.0.200"), ("c", "10.0.0.20")] {
        ipam.allocate(&owner.into(), &request("s", &[address], None)).unwrap();
    }
    let smaller = spec("v", "10.0.0.0/25", &[("10.0.0.9", "10.0.0.9")]);
    let stranded: Vec<String> = ipam.stranded("s", &smaller).iter().map(|(owner, ip)| format!("{owner} {ip}")).collect();
    assert_eq!(stranded, ["a 10.0.0.200", "b 10.0.0.9"]);
    assert!(ipam.stranded("s", &spec("v", "10.0.0.0/16", &[])).is_empty());
    ipam.set_subnet(&"s".into(), smaller);
    let usage = ipam.usage("s");
    assert_eq!((usage.v4_used, usage.v4_strays, usage.v4_excluded, usage.v4_available), (1, 2, 3, 124));
    // They are nobody else's.
    assert!(ipam.adopt(&"d".into(), held("s", "10.0.0.200", 1)).is_err());
}

#[test]
fn a_subnet_may_move_to_another_vpc_with_its_macs() {
    let mut ipam = Ipam::default();
    let mac = Some("02:00:00:00:00:01");
    for (subnet, vpc) in [("s", "v"), ("t", "w")] {
        ipam.set_subnet(&subnet.into(), spec(vpc, "10.0.0.0/24", &[]));
        ipam.allocate(&subnet.into(), &request(subnet, &[], mac)).unwrap();
    }
    ipam.set_subnet(&"t".into(), spec("v", "10.0.0.0/24", &[]));
    assert_eq!(ipam.mac_shared_with("s").as_deref(), Some("t"));
    ipam.release("s");
    assert!(ipam.allocate(&"u".into(), &request("s", &[], mac)).is_err());
    ipam.release("t");
    assert_eq!(ipam.ready(), ["s".into()]);
    assert_eq!(names(&ipam.retry("s")), ["u"]);
}
