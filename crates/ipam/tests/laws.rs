//! What holds after any history, with restarts at any step: no address and, within a VPC, no MAC is held twice, unless the
//! MAC was brought so; nothing leaks; counts are right to the address; who asks gets what a simple model says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::{Cidrs, MacAddr};
use ipam::{Claim, Families, Holding, Ipam, Owner, PoolSpec, Request, SubnetSpec};
use model::{Members, Model};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const OWNERS: u8 = 9;
const SUBNETS: [&str; 3] = ["s", "t", "l2"];
const POOLS: [&str; 2] = ["p", "q"];

#[derive(Clone, Debug)]
enum Step {
    Allocate(Vec<(u8, Request)>),
    Release(u8),
    Retry(usize),
    Subnet(usize, SubnetSpec),
    Pool(usize, usize, Option<PoolSpec>),
    Adopt(u8, Holding, Claim),
    Rebuild(u64),
}

/// `s` may have both families, `t` has one, `l2` has none; the ranges of `s` and `t` may overlap, as in different VPCs they do.
fn address(v4: bool) -> BoxedStrategy<IpAddr> {
    if v4 {
        (0u8..16).prop_map(|n| IpAddr::from([10, 0, 0, n])).boxed()
    } else {
        (0u16..8).prop_map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])).boxed()
    }
}

fn ranges(most: usize) -> impl Strategy<Value = Vec<(IpAddr, IpAddr)>> {
    let range = any::<bool>().prop_flat_map(|v4| (address(v4), address(v4)).prop_map(|(a, b)| (a.min(b), a.max(b))));
    prop::collection::vec(range, 0..=most)
}

fn mac() -> impl Strategy<Value = MacAddr> {
    (0u64..3).prop_map(|n| MacAddr::local(0, n))
}

/// At most one address of a family.
fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let some = |v4| prop::option::weighted(0.3, address(v4));
    (some(true), some(false)).prop_map(|(v4, v6)| v4.into_iter().chain(v6).collect())
}

fn request() -> impl Strategy<Value = Request> {
    let families = prop_oneof![4 => Just(Families::All), 1 => Just(Families::V4), 1 => Just(Families::V6)];
    let candidates = prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(any::<bool>().prop_flat_map(address), 1..4)];
    let chosen = prop_oneof![2 => Just(vec![]), 1 => addresses()];
    let pools = prop_oneof![3 => Just(vec![]), 1 => subsequence(POOLS.to_vec(), 1..=2)];
    (select(&SUBNETS[..]), chosen, candidates, pools, families, prop::option::weighted(0.15, mac())).prop_map(
        |(subnet, addresses, candidates, pools, families, mac)| {
            let pools = pools.into_iter().map(Into::into).collect();
            Request { subnet: subnet.into(), addresses, candidates, pools, families, mac }
        },
    )
}

fn subnet() -> impl Strategy<Value = (usize, SubnetSpec)> {
    let cidrs = [vec!["10.0.0.0/29,fd00::/126", "10.0.0.0/28,fd00::/125", "10.0.0.0/29", "fd00::/125"], vec!["10.0.0.0/28", "10.0.0.8/29"]];
    (0..SUBNETS.len()).prop_flat_map(move |s| {
        let cidrs = cidrs.get(s).map_or(Just(None).boxed(), |all| select(all.clone()).prop_map(|c| Some(c.parse().unwrap())).boxed());
        let vpc = prop_oneof![5 => Just("v"), 1 => Just("w")];
        (Just(s), cidrs, ranges(3), vpc).prop_map(|(s, cidrs, excluded, vpc)| (s, SubnetSpec::new(vpc.into(), cidrs, excluded)))
    })
}

fn step() -> impl Strategy<Value = Step> {
    let claim = (any::<bool>(), 0i64..3).prop_map(|(running, age)| Claim { running, age });
    let holding = (select(&SUBNETS[..]), addresses(), mac());
    let holding = holding.prop_map(|(subnet, addresses, mac)| Holding { subnet: subnet.into(), addresses, mac });
    let group = |most| prop::collection::btree_map(0..OWNERS, request(), 1..=most).prop_map(|all| all.into_iter().collect());
    prop_oneof![
        10 => group(1).prop_map(Step::Allocate),
        2 => group(3).prop_map(Step::Allocate),
        6 => (0..OWNERS).prop_map(Step::Release),
        4 => (0..SUBNETS.len()).prop_map(Step::Retry),
        1 => subnet().prop_map(|(s, spec)| Step::Subnet(s, spec)),
        1 => (0..2usize, 0..2usize, prop::option::weighted(0.7, (ranges(2), any::<bool>()))).prop_map(|(s, p, pool)| {
            Step::Pool(s, p, pool.map(|(ranges, exclusive)| PoolSpec { ranges, exclusive }))
        }),
        2 => (0..OWNERS, holding, claim).prop_map(|(owner, holding, claim)| Step::Adopt(owner, holding, claim)),
        1 => any::<u64>().prop_map(Step::Rebuild),
    ]
}

fn name(owner: u8) -> String {
    format!("o{owner}")
}

struct Pair {
    ipam: Ipam,
    model: Model,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self { ipam: Ipam::default(), model: Model::default() };
        for (s, cidrs) in SUBNETS.iter().zip([Some("10.0.0.0/29,fd00::/125"), Some("10.0.0.0/28"), None]) {
            pair.set_subnet(s, SubnetSpec::new("v".into(), cidrs.map(|c| c.parse::<Cidrs>().unwrap()), vec![]));
        }
        pair
    }

    fn set_subnet(&mut self, name: &str, spec: SubnetSpec) {
        let stranded: BTreeSet<(String, IpAddr)> =
            self.ipam.stranded(name, &spec).into_iter().map(|(owner, ip)| (owner.to_string(), ip)).collect();
        let before = self.model.subnets.get(name).cloned();
        self.model.set_subnet(name, spec.clone());
        let after = &self.model.subnets[name];
        let offered = |s: &model::Subnet, ip: &IpAddr| s.offered(ip.is_ipv4()).contains(ip);
        let held = self.model.held.iter().filter(|(_, held)| held.subnet == name);
        let held = held.flat_map(|(owner, held)| held.addresses.iter().map(|ip| (owner.clone(), *ip)));
        let lost = held.filter(|(_, ip)| before.as_ref().is_some_and(|s| offered(s, ip)) && !offered(after, ip));
        assert_eq!(stranded, lost.collect());
        self.ipam.set_subnet(&name.into(), spec);
    }

    /// The model learns the MACs that were made, and both must agree on the rest.
    fn compare(&mut self) {
        let generated = |mac: &MacAddr| (0..3).all(|n| *mac != MacAddr::local(0, n));
        for owner in (0..OWNERS).map(name) {
            let real = self.ipam.holding(&owner);
            match (real, self.model.held.get_mut(&owner)) {
                (None, None) => {}
                (Some(real), Some(held)) => {
                    assert_eq!((real.subnet.as_ref(), &real.addresses), (held.subnet.as_str(), &held.addresses), "{owner}");
                    match held.mac {
                        Some(mac) => assert_eq!(real.mac, mac),
                        None => assert!(generated(&real.mac)),
                    }
                    held.mac = Some(real.mac);
                }
                (real, held) => panic!("{owner}: {real:?}, expected {:?}", held.map(|h| h.addresses.clone())),
            }
        }
        assert_eq!(self.ipam.len(), self.model.held.len());
        for s in SUBNETS {
            self.compare_counts(s);
        }
        let mut addresses = BTreeMap::new();
        for (owner, held) in &self.model.held {
            assert_eq!(self.ipam.mac_shared_with(owner).is_some(), self.model.shares_mac(owner), "{owner}");
            for ip in &held.addresses {
                assert_eq!(self.ipam.holder(&held.subnet, *ip).map(AsRef::as_ref), Some(owner.as_str()));
                assert_eq!(addresses.insert((&held.subnet, *ip), owner), None, "{ip} is held twice");
            }
        }
    }

    fn compare_counts(&self, s: &str) {
        let (usage, subnet) = (self.ipam.usage(s), &self.model.subnets[s]);
        let counts = [(true, usage.v4_used, usage.v4_available, usage.v4_excluded, usage.v4_strays)];
        for (v4, used, available, excluded, strays) in
            counts.into_iter().chain([(false, usage.v6_used, usage.v6_available, usage.v6_excluded, usage.v6_strays)])
        {
            let (all, offered) = (subnet.all(v4), subnet.offered(v4));
            let taken = |ip: &&IpAddr| self.model.holder(s, **ip).is_some();
            let held: Vec<&IpAddr> = self.model.held.values().filter(|h| h.subnet == s).flat_map(|h| &h.addresses).collect();
            assert_eq!(used + available + excluded, all.len() as u128);
            assert_eq!(used, offered.iter().filter(taken).count() as u128);
            assert_eq!(excluded, (all.len() - offered.len()) as u128);
            assert_eq!(used + strays, held.iter().filter(|ip| ip.is_ipv4() == v4).count() as u128);
            for pool in POOLS {
                let (usage, all) = (self.ipam.pool_usage(s, pool), subnet.in_pool(pool, v4));
                let real = if v4 { (usage.v4_used, usage.v4_available) } else { (usage.v6_used, usage.v6_available) };
                let used = all.iter().filter(taken).count() as u128;
                assert_eq!(real, (used, all.len() as u128 - used), "{pool}");
            }
        }
        let expand = |list: &ipam::Listing| list.v4.0.iter().chain(&list.v6.0).copied().collect::<Vec<_>>();
        let within =
            |ranges: &[(IpAddr, IpAddr)], ip: &IpAddr| ranges.iter().any(|(a, b)| a.is_ipv4() == ip.is_ipv4() && a <= ip && ip <= b);
        let (used, available) = (expand(&self.ipam.used_ranges(s)), expand(&self.ipam.available_ranges(s)));
        for ip in [true, false].into_iter().flat_map(|v4| subnet.all(v4)) {
            let (offered, taken) = (subnet.offered(ip.is_ipv4()).contains(&ip), self.model.holder(s, ip).is_some());
            assert_eq!((within(&used, &ip), within(&available, &ip)), (offered && taken, offered && !taken), "{ip}");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Allocate(wanted) => {
                let members: Members = wanted.into_iter().map(|(owner, request)| (name(owner), request)).collect();
                let wanted: Vec<(Owner, Request)> = members.iter().map(|(o, r)| (Owner::from(o.as_str()), r.clone())).collect();
                let served = match &wanted[..] {
                    [(owner, request)] => self.ipam.allocate(owner, request).map(|h| vec![h]).map_err(|e| e.to_string()),
                    all => self.ipam.allocate_all(all).map_err(|e| e.to_string()),
                };
                let expected = self.model.allocate_all(&members);
                assert_eq!(served.is_ok(), expected, "{members:?}: {served:?}");
                for ((owner, _), held) in wanted.iter().zip(served.unwrap_or_default()) {
                    assert_eq!(self.ipam.holding(owner), Some(held));
                }
            }
            Step::Release(owner) => {
                self.ipam.release(&name(owner));
                self.model.release(&name(owner));
            }
            Step::Retry(s) => {
                let served: Vec<String> = self.ipam.retry(SUBNETS[s]).iter().map(|(owner, _)| owner.to_string()).collect();
                assert_eq!(served, self.model.retry(SUBNETS[s]));
                self.compare();
                assert_eq!(self.model.forgotten(SUBNETS[s]), None, "waits though it could be served");
            }
            Step::Subnet(s, spec) => self.set_subnet(SUBNETS[s], spec),
            Step::Pool(s, p, pool) => {
                match &pool {
                    Some(spec) => self.ipam.set_pool(&SUBNETS[s].into(), &POOLS[p].into(), spec.clone()),
                    None => self.ipam.remove_pool(&SUBNETS[s].into(), POOLS[p]),
                }
                self.model.set_pool(SUBNETS[s], POOLS[p], pool);
            }
            Step::Adopt(owner, holding, claim) => {
                let expected = self.model.adopt(&name(owner), &holding, claim);
                let adopted = self.ipam.adopt_claim(&Owner::from(name(owner)), &holding, claim);
                let displaced = adopted.as_ref().map(|a| a.displaced.iter().map(|(owner, _)| owner.to_string()).collect());
                assert_eq!(displaced.as_ref().ok(), expected.as_ref(), "{adopted:?}");
                if let Ok(adopted) = adopted {
                    assert_eq!(adopted.mac_shared_with.is_some(), self.model.shares_mac(&name(owner)));
                }
            }
            Step::Rebuild(seed) => self.rebuild(seed),
        }
        self.compare();
    }

    fn rebuild(&mut self, seed: u64) {
        let mut fresh = Ipam::default();
        for (s, subnet) in &self.model.subnets {
            fresh.set_subnet(&s.as_str().into(), subnet.spec.clone());
            for (pool, spec) in &subnet.pools {
                fresh.set_pool(&s.as_str().into(), &pool.as_str().into(), spec.clone());
            }
        }
        let records = self.model.held.iter().map(|(o, h)| (Owner::from(o.as_str()), self.ipam.holding(o).unwrap(), h.claim));
        let mut records: Vec<_> = records.collect();
        let turn = usize::try_from(seed % (records.len() as u64 + 1)).unwrap();
        records.rotate_left(turn);
        for (owner, adopted) in fresh.adopt_all(records) {
            assert_eq!(adopted.unwrap().displaced, vec![], "{owner}");
        }
        self.ipam = fresh;
        self.model.restart();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_held_twice_and_nothing_leaks(steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
        }
        for owner in (0..OWNERS).map(name) {
            pair.ipam.release(&owner);
        }
        prop_assert!(pair.ipam.is_empty());
        prop_assert_eq!(pair.ipam.ready(), Vec::<ipam::SubnetName>::new());
        for s in SUBNETS {
            let usage = pair.ipam.usage(s);
            prop_assert_eq!((usage.v4_used, usage.v6_used, usage.v4_strays, usage.v6_strays), (0, 0, 0, 0));
        }
    }
}
