//! The allocator in a /8 and a /64 of which half is in use at random, and its start on many holders; beside it the design
//! that others use, on the same history.

mod ranges;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use ipam::{Claim, Holding, Ipam, Request, SubnetName, SubnetSpec};

use crate::memory::held;
use crate::report::{Report, Row, median};
use ranges::FreeRanges;

/// Half of the addresses of a /8.
const HALF: usize = 1 << 23;
/// Addresses in use of a /64, no two of them neighbours: as many runs.
const SPARSE: usize = 1_000_000;
/// Operations of which each time is taken, in lots: a clock costs as much as an operation.
const LOTS: usize = 200;
const LOT: usize = 100;
const RECORDS: usize = 150_000;
/// The same history for the other design, which is too slow for more.
const COMPARED: usize = 10;

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }
}

pub fn measure(report: &mut Report) {
    let mut random = Random(1);
    let v4 = Network::new("10.0.0.0/8", |n| Ipv4Addr::from(0x0a00_0000 | u32::try_from(n & 0x00ff_ffff).unwrap()).into());
    let name = "IPAM, /8 half full at random: 8,388,608 named holders";
    v4.measure(report, name, HALF, &mut random, true);
    // 40 random bits above a clear one.
    let v6 = Network::new("fd00::/64", |n| Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n) << 1).into());
    v6.measure(report, "IPAM, /64 with 1,000,000 named holders at random", SPARSE, &mut random, false);
    start(report, &mut random);
}

struct Network {
    spec: SubnetSpec,
    name: SubnetName,
    address: fn(u64) -> IpAddr,
}

impl Network {
    fn new(cidr: &str, address: fn(u64) -> IpAddr) -> Self {
        let gateway = address(1);
        Self { spec: SubnetSpec::new("v".into(), cidr.parse::<api::Cidrs>().unwrap(), vec![(gateway, gateway)]), name: "s".into(), address }
    }

    fn measure(&self, report: &mut Report, what: &str, holders: usize, random: &mut Random, compare: bool) {
        let before = held();
        let mut ipam = Ipam::default();
        ipam.set_subnet(&self.name, self.spec.clone());
        let mut owners: Vec<Arc<str>> = Vec::with_capacity(holders);
        let began = Instant::now();
        while owners.len() < holders {
            let owner: Arc<str> = format!("p{}", owners.len()).into();
            let request = Request { addresses: vec![(self.address)(random.next())], ..Request::new(Arc::clone(&self.name)) };
            // Taken ones are asked for again and again; nobody shall wait for them.
            match ipam.allocate(&owner, &request) {
                Ok(_) => owners.push(owner),
                Err(_) => drop(ipam.release(&owner)),
            }
        }
        let each = began.elapsed().as_secs_f64() * 1e9 / holders as f64;
        report.add(Row::new(format!("{what}: filling it, each"), each, "ns"));
        let own = owners.len() * (16 + size_of::<Arc<str>>());
        report.add(Row::new(
            "  heap for each holder, with its name",
            (held() - before) as f64 / holders as f64 - own as f64 / holders as f64,
            "B",
        ));

        // Who leaves is anybody, not who came last.
        let leaving: Vec<Arc<str>> = (0..LOTS * LOT)
            .map(|i| owners[(random.next() as usize) % (holders / LOTS / LOT) + i * (holders / LOTS / LOT)].clone())
            .collect();
        let wanted = Request::new(Arc::clone(&self.name));
        let allocate = lots(|i| format!("new-{i}").into(), |owner| drop(black_box(ipam.allocate(owner, &wanted).unwrap())));
        let release = lots(|i| leaving[i].as_ref().into(), |owner| drop(black_box(ipam.release(owner).unwrap())));
        report.add(Row::new("  allocate, owner and MAC included", allocate, "ns").at_most(1000.0));
        report.add(Row::new("  release of anybody", release, "ns").at_most(1000.0));
        if compare {
            let mut other = FreeRanges::new(&ipam, &self.name);
            let names: Vec<Arc<str>> = (0..COMPARED).map(|i| format!("other-{i}").into()).collect();
            let took = |began: Instant| began.elapsed().as_secs_f64() * 1e9 / COMPARED as f64;
            let began = Instant::now();
            names.iter().for_each(|owner| other.allocate(owner));
            report.add(Row::new("  allocate from sorted free ranges that are copied", took(began), "ns").against("ours", allocate));
            let began = Instant::now();
            names.iter().for_each(|owner| other.release(owner));
            report.add(Row::new("  release to sorted free ranges", took(began), "ns").against("ours", release));
        }
        let footprint = ipam.footprint(&self.name);
        let name = format!("  free set, {} runs", footprint.runs);
        report.add(Row::new(name, footprint.bytes as f64, "B").at_most(footprint.limit as f64));
        report.add(Row::new("  queue of those released lately, bounded", footprint.queued as f64, "B"));
    }
}

/// Nanoseconds of one operation: the median of lots. The caller has just made the names, as the controller makes them of pods'.
fn lots(name: impl Fn(usize) -> Arc<str>, mut operation: impl FnMut(&Arc<str>)) -> f64 {
    let lot = |at: usize| {
        let owners: Vec<Arc<str>> = (at * LOT..(at + 1) * LOT).map(&name).collect();
        let began = Instant::now();
        owners.iter().for_each(&mut operation);
        began.elapsed().as_secs_f64() * 1e9 / LOT as f64
    };
    median((0..LOTS).map(lot).collect())
}

/// The start: what many holders have recorded is taken in.
fn start(report: &mut Report, random: &mut Random) {
    let mut ipam = Ipam::default();
    let subnets: Vec<SubnetName> = (0..3).map(|i| format!("s{i}").into()).collect();
    for (i, subnet) in subnets.iter().enumerate() {
        let cidrs: api::Cidrs = format!("10.{i}.0.0/16,fd00:{i}::/64").parse().unwrap();
        ipam.set_subnet(subnet, SubnetSpec::new("v".into(), cidrs, cidrs.first_hosts().into_iter().map(|ip| (ip, ip)).collect()));
    }
    let records: Vec<_> = (0..RECORDS)
        .map(|i| {
            let (subnet, at) = (i % 3, u32::try_from(i / 3 + 2).unwrap());
            let v6 = Ipv6Addr::from(0xfd00_u128 << 112 | (subnet as u128) << 96 | u128::from(at));
            let v4 = Ipv4Addr::from(0x0a00_0000 | u32::try_from(subnet).unwrap() << 16 | at);
            let mac = api::MacAddr::local(0, random.next());
            let holding = Holding { subnet: Arc::clone(&subnets[subnet]), addresses: vec![v4.into(), v6.into()], mac };
            (Arc::from(format!("pod-{i}.namespace-{}", i / 500)), holding, Claim { running: true, age: i as i64 })
        })
        .collect();
    let began = Instant::now();
    for (owner, adopted) in ipam.adopt_all(records) {
        assert!(adopted.is_ok(), "{owner}");
    }
    let took = began.elapsed().as_secs_f64() * 1e3;
    report.add(Row::new("IPAM, start on 150,000 holders of two addresses in 3 subnets", took, "ms").at_most(100.0));
}
