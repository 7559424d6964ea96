//! Static routes of a `Vpc`. Several for one prefix share what is for it (equal-cost multipath). Of next hops on a physical network,
//! those that do not answer its watchers are left out, while others are there: OVN would go on sending to them, since it runs BFD only on
//! ports that are bound to a gateway node (ovn-nb(5), `BFD`), and the router of a VPC is on every node.

use std::net::IpAddr;
use std::sync::Arc;

use api::routes::{NextHop, Route, shared};
use engine::{Cx, Engine, Index};
use ovsdb_types::RowKey;
use ovsdb_types::nb::{logical_router as lr, logical_router_static_route as route};

use crate::fact::Fact;
use crate::northbound::{RowFact, external_ids, refer, router};
use crate::underlay::{NodeReports, Watchers};
use crate::world::{Name, Network, RangesByVpc, Router, Vpc, World};

/// Key in `external_ids` of a static route of a VPC.
pub(crate) const MARK: &str = "static-route";

/// The subnets of a VPC in a physical network, in which its router has an address.
pub(crate) struct OnPhysicalByVpc;
impl Index<World> for OnPhysicalByVpc {
    type Of = Network;
    type Key = Name;
    fn keys(_: &Name, network: &Network, out: &mut Vec<Name>) {
        let is_there = network.segment.is_some() && (network.router || network.interconnection.is_some());
        out.extend(is_there.then(|| Arc::clone(&network.vpc)));
    }
}

/// Derived: what became of the static routes of a VPC that has some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ways {
    /// The routes without those whose next hop is lost while another one stands in for it.
    pub living: Vec<Route>,
    /// The next hops that others stand in for, and that do not answer most of their watchers.
    pub lost: Vec<NextHop>,
}

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.rule::<Vpc, Ways>("static-routes", |cx, vpc, own, out| {
        if own.routes.is_empty() || cx.get::<Router>(vpc).is_none() {
            return;
        }
        let lost = lost(cx, vpc, own);
        let living = living(own, &lost);
        for found in &living {
            let Route { by_source, prefix, table, via } = found;
            let policy = if *by_source { "src-ip" } else { "dst-ip" };
            let key = RowKey::new(route::TABLE, format!("static/{vpc}/{table}/{policy}/{prefix}/{via}"));
            RowFact::new(key.clone())
                .set(route::IP_PREFIX, prefix.to_string())
                .set(route::NEXTHOP, via.to_string())
                .set(route::POLICY, Some(policy.to_owned()))
                .set(route::ROUTE_TABLE, table.to_string())
                .set(route::EXTERNAL_IDS, external_ids(&[(MARK, vpc)]))
                .say(out);
            refer(out, router(vpc), lr::STATIC_ROUTES, key);
        }
        out.derive(Arc::clone(vpc), Ways { living, lost });
    });
}

/// Whether a VPC says itself where all goes that is for nobody in it.
pub(crate) fn has_default(cx: &mut Cx<'_, World>, vpc: &Name, family_of: IpAddr) -> bool {
    cx.get::<Vpc>(vpc).is_some_and(|own| own.routes.iter().any(|route| route.is_default() && route.via.is_ipv4() == family_of.is_ipv4()))
}

/// The routes that are used, of these next hops being lost.
fn living(own: &Vpc, lost: &[NextHop]) -> Vec<Route> {
    // Sorted, so that those that share a prefix are beside each other.
    let alike = |a: &Route, b: &Route| (a.by_source, a.prefix, &a.table) == (b.by_source, b.prefix, &b.table);
    let mut kept = Vec::new();
    for group in own.routes.chunk_by(alike) {
        let before = kept.len();
        kept.extend(group.iter().filter(|route| lost.iter().all(|hop| hop.address != route.via)).cloned());
        // Where all are lost, whoever watches them may be wrong.
        if kept.len() == before {
            kept.extend_from_slice(group);
        }
    }
    kept
}

fn lost(cx: &mut Cx<'_, World>, vpc: &Name, own: &Vpc) -> Vec<NextHop> {
    let shared = shared(&own.routes);
    if shared.is_empty() {
        return Vec::new();
    }
    let places: Vec<_> =
        cx.rows::<OnPhysicalByVpc>(vpc).into_iter().filter_map(|(_, network)| Some((network.cidrs, network.segment.as_deref()?))).collect();
    let watched = shared.into_iter().filter_map(|address| {
        let (_, place) = places.iter().find(|(cidrs, _)| cidrs.contains(address))?;
        Some(NextHop { network: place.network.clone(), vlan: place.vlan, address })
    });
    let watched: Vec<NextHop> = watched.collect();
    watched.into_iter().filter(|hop| is_lost(cx, hop)).collect()
}

/// Whether more than half of a next hop's watchers miss it.
fn is_lost(cx: &mut Cx<'_, World>, hop: &NextHop) -> bool {
    let Some(Watchers(nodes)) = cx.get::<Watchers>(&Name::from(&*hop.network)) else { return false };
    let misses = nodes.iter().filter(|node| cx.get::<NodeReports>(node).is_some_and(|reports| reports.unreachable.contains(hop)));
    2 * misses.count() > nodes.len()
}

/// What is wrong with the routes of a VPC, if anything.
pub(crate) fn problem(cx: &mut Cx<'_, World>, vpc: &Name, own: &Vpc) -> Option<String> {
    let mut wrong: Vec<String> = own.bad_routes.iter().map(ToString::to_string).collect();
    if !own.routes.is_empty() {
        let ranges: Vec<_> = cx.rows::<RangesByVpc>(vpc).into_iter().map(|(_, range)| range.cidrs).collect();
        let lone = own.routes.iter().find(|route| !ranges.iter().any(|cidrs| cidrs.contains(route.via)));
        let told = |Route { via, prefix, .. }: &Route| {
            format!("spec.staticRoutes: nextHopIP {via} is in no subnet of this VPC: the route for {prefix} has no effect")
        };
        wrong.extend(lone.map(told));
    }
    (!wrong.is_empty()).then(|| wrong.join("; "))
}
