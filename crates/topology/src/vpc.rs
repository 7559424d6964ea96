//! `Vpc` → logical router.

use std::sync::Arc;

use ovsdb_types::nb::logical_router as lr;

use crate::fact::{Fact, FactValue, Problem, VpcState};
use crate::northbound::{RowFact, external_ids, map, router};
use crate::world::{Name, RangesByVpc, Router, Vpc, Ways, World};
use crate::{egress, routes};

/// The router. It stays while subnets need it, even when deletion was asked for.
pub(crate) fn register(engine: &mut engine::Engine<World, Fact>) {
    engine.rule::<Vpc, Router>("vpc", |_, name, _, out| {
        RowFact::new(router(name))
            .set(lr::NAME, name.to_string())
            .set(
                lr::OPTIONS,
                map(&[("always_learn_from_arp_request", "false"), ("dynamic_neigh_routers", "true"), ("mac_binding_age_threshold", "300")]),
            )
            .set(lr::EXTERNAL_IDS, external_ids(&[]))
            .say(out);
        out.derive(Arc::clone(name), Router);
    });
}

/// The state shown to users: which subnets there are, and whether the VPC may go.
pub(crate) fn register_status(engine: &mut engine::Engine<World, Fact>) {
    engine.leaf::<Vpc>("vpc-status", |cx, name, vpc, out| {
        let subnets: Vec<Name> = cx.keys::<RangesByVpc>(name).cloned().collect();
        let in_use = !subnets.is_empty();
        let waiting = (vpc.deleting && in_use).then(|| Problem {
            reason: "InUse",
            message: format!("deletion waits for subnets {}", subnets.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")),
        });
        let finalizer = !vpc.deleting || in_use;
        let bad_routes = routes::problem(cx, name, vpc).map(|message| Problem { reason: "BadRoute", message });
        let problem = egress::host_link(cx, name, vpc).err().or(bad_routes);
        let lost = cx.get::<Ways>(name).map(|ways| ways.lost.clone()).unwrap_or_default();
        out.say(Fact::Vpc(Arc::clone(name)), FactValue::Vpc(VpcState { subnets, finalizer, problem, lost, waiting }));
    });
}
