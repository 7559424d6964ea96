//! The allocator with a /8 that many hold addresses of at random.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipam::{Ipam, Request, SubnetSpec};

use crate::report::{Report, Row};

const HOLDERS: u32 = 1_000_000;
const MEASURED: u32 = 20_000;

pub fn measure(report: &mut Report) {
    let mut ipam = Ipam::default();
    let subnet: Arc<str> = "s".into();
    ipam.set_subnet(&subnet, SubnetSpec { vpc: "v".into(), cidrs: "10.0.0.0/8".parse().unwrap(), excluded: vec![] });
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(seed >> 40).unwrap()
    };
    // Half of the 16.7 million addresses in use would take minutes of owners; a million at random spread the bitmap alike.
    for _ in 0..HOLDERS {
        let address = Ipv4Addr::from(0x0a00_0000 | random());
        let wanted = Request { subnet: Arc::clone(&subnet), addresses: vec![address.into()], mac: None };
        let _ = ipam.allocate(&Arc::from(address.to_string()), &wanted);
    }
    let owners: Vec<Arc<str>> = (0..MEASURED).map(|i| format!("owner-{i}").into()).collect();
    let wanted = Request { subnet: Arc::clone(&subnet), addresses: vec![], mac: None };
    let each = |took: Duration| took.as_secs_f64() * 1e9 / f64::from(MEASURED);

    let began = Instant::now();
    for owner in &owners {
        ipam.allocate(owner, &wanted).unwrap();
    }
    let name = "IPAM allocate, /8 with 1,000,000 holders at random, owner and MAC included";
    report.add(Row::new(name, each(began.elapsed()), "ns").at_most(1000.0));
    let began = Instant::now();
    for owner in &owners {
        ipam.release(owner).unwrap();
    }
    report.add(Row::new("IPAM release, the same", each(began.elapsed()), "ns").at_most(1000.0));
}
