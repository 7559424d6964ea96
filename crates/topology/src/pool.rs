//! `IPPool` → a part of a subnet's addresses that only those get who name it, or whose namespace it names.

use std::net::IpAddr;
use std::sync::Arc;

use engine::{Cx, Engine};

use crate::fact::{Fact, FactValue, Problem};
use crate::macs_alone;
use crate::world::{Name, Network, Pool, PoolSpec, PoolsBySubnet, World};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.leaf::<Pool>("pool", |cx, name, pool, out| {
        let checked = pool.spec.clone().and_then(|spec| check(cx, name, pool.created, &spec).map(|()| spec));
        let problem = match checked {
            Ok(PoolSpec { subnet, ranges, .. }) => {
                out.say(Fact::IpPool(Arc::clone(name)), FactValue::IpPool { subnet, ranges });
                None
            }
            Err(problem) => Some(problem),
        };
        out.say(Fact::PoolState(Arc::clone(name)), FactValue::PoolState(problem));
    });
}

/// What only the other objects can tell: the subnet has these addresses, and no older pool of it has one of them.
fn check(cx: &mut Cx<'_, World>, name: &Name, created: i64, spec: &PoolSpec) -> Result<(), Problem> {
    let Some(network) = cx.get::<Network>(&spec.subnet) else {
        let message = format!("spec.subnet: subnet {:?} does not exist, or is not usable: see its conditions", spec.subnet);
        return Err(Problem { reason: "NoSubnet", message });
    };
    if network.cidrs.is_empty() {
        return Err(Problem { reason: "NoAddresses", message: format!("spec.subnet: {}", macs_alone::reason(&spec.subnet)) });
    }
    let outside = |ip: IpAddr| !network.cidrs.contains(ip);
    if let Some((from, to)) = spec.ranges.iter().find(|(from, to)| outside(*from) || outside(*to)) {
        let message = format!("spec.ips: {from}..{to} lies outside {} of subnet {:?}", network.cidrs, spec.subnet);
        return Err(Problem { reason: "Outside", message });
    }
    for (other, pool) in cx.rows::<PoolsBySubnet>(&spec.subnet) {
        let Ok(theirs) = &pool.spec else { continue };
        if (pool.created, other) >= (created, name) {
            continue;
        }
        let shared = |(from, to): &&(IpAddr, IpAddr)| theirs.ranges.iter().any(|(first, last)| from <= last && first <= to);
        if let Some((from, to)) = spec.ranges.iter().find(shared) {
            let message = format!("spec.ips: {from}..{to} overlaps with pool {other:?}, which is older");
            return Err(Problem { reason: "Overlap", message });
        }
    }
    Ok(())
}
