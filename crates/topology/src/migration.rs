//! Live migration: where the port of a virtual machine is while two pods share it, and what lets its connections through meanwhile.
//!
//! Whoever's pods are a virtual machine's names the chassis that may have its port: of two nodes that know the port, such as one that a
//! machine has just left, the other would take it.

use std::collections::BTreeMap;

use engine::{Cx, Out};
use ovsdb_types::RowKey;
use ovsdb_types::nb::{acl, port_group as group};

use crate::fact::Fact;
use crate::northbound::{RowFact, external_ids, map, refer};
use crate::world::{Name, Node, Pod, PodKey, World};

/// Name of the group of ports of machines that migrate, and key in `external_ids` of what belongs to it. Names of other groups have a dot.
pub(crate) const GROUP: &str = "migrating";

/// Key in the options of a port (ovn-nb(5)), which every port of a virtual machine has. Of other ports it may be somebody else's.
const REQUESTED: &str = "requested-chassis";
/// Key in the options of a port that migrates.
pub(crate) const ACTIVATION: &str = "activation-strategy";

/// Above all that policies say.
const PRIORITY: i64 = 32_767;

/// TCP without SYN and with ACK: of connections that are established.
const ESTABLISHED: &str = "tcp && tcp.flags[1] == 0 && tcp.flags[4] == 1";
/// What a machine sends as a server, and what it gets as a client, told by its port (RFC 6056; a Linux client takes 32768 and above). What goes the other
/// way is what policies allow, and is tracked from then on as what it is.
const ANSWERS: [(&str, &str); 2] =
    [("from-lport", "inport == @migrating && tcp.src < 32768"), ("to-lport", "outport == @migrating && tcp.dst >= 32768")];

/// What a pod is that was made for a virtual machine to move into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Identity of the migration.
    pub job: Name,
    /// Whether the pod is being deleted.
    pub deleting: bool,
}

/// A running instance of a virtual machine, as far as it says where it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Node that it runs on.
    pub node: Option<Name>,
    /// Its last migration.
    pub migration: Option<Migration>,
}

/// A migration of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Identity.
    pub job: Name,
    /// How far it is.
    pub stage: Stage,
    /// Whether it has completed so lately that no connection is held to have been seen anew by its node yet.
    pub settling: bool,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It may yet complete or fail.
    UnderWay,
    /// The machine runs in the pod that was made for it.
    Completed,
    /// The machine runs where it was.
    Failed,
}

/// Where a virtual machine's pods are.
pub(crate) struct Places {
    /// Which of the pods it runs in.
    pub(crate) home: usize,
    /// Options of its port.
    pub(crate) options: BTreeMap<String, String>,
    /// Whether its established connections are let through, whatever is known of them.
    pub(crate) is_migrating: bool,
}

/// Where the pods of the virtual machine `holder` are, which share its NIC: one at least.
pub(crate) fn places(cx: &mut Cx<'_, World>, holder: &PodKey, pods: &[(&PodKey, &Pod)]) -> Places {
    let instance = cx.get::<Instance>(holder);
    let migration = instance.and_then(|instance| instance.migration.as_ref());
    let home = home(pods, instance);
    let target = target(pods, home, migration);
    let mut chassis = |at: usize| cx.get::<Node>(pods[at].1.node.as_ref()?)?.chassis.clone();
    let (at_home, at_target) = (chassis(home), target.and_then(&mut chassis));
    let options = match (&at_home, &at_target) {
        (Some(home), Some(target)) => map(&[(REQUESTED, &format!("{home},{target}")), (ACTIVATION, "rarp")]),
        (Some(home), None) => map(&[(REQUESTED, home)]),
        // Its node has not told it yet: any.
        (None, _) => map(&[(REQUESTED, "")]),
    };
    Places { home, options, is_migrating: at_target.is_some() || migration.is_some_and(|migration| migration.settling) }
}

fn age<'a>(&(key, pod): &(&'a PodKey, &'a Pod)) -> (i64, bool, &'a PodKey) {
    (pod.created, pod.incoming.is_some(), key)
}

/// The pod that the machine runs in: the newest that it arrived in; else that on the node which its instance names; else, while nothing is
/// said, the newest that was not made for it to move into.
fn home(pods: &[(&PodKey, &Pod)], instance: Option<&Instance>) -> usize {
    let migration = instance.and_then(|instance| instance.migration.as_ref());
    let stage = |pod: &Pod| {
        let job = &pod.incoming.as_ref()?.job;
        migration.filter(|migration| migration.job == *job).map(|migration| migration.stage)
    };
    let newest = |of: &dyn Fn(&Pod) -> bool| {
        let found = (0..pods.len()).filter(|at| of(pods[*at].1));
        found.max_by_key(|at| age(&pods[*at]))
    };
    let node = instance.and_then(|instance| instance.node.as_ref());
    newest(&|pod| stage(pod) == Some(Stage::Completed))
        .or_else(|| newest(&|pod| stage(pod).is_none() && node.is_some() && pod.node.as_ref() == node))
        .or_else(|| newest(&|pod| pod.incoming.is_none()))
        .or_else(|| (0..pods.len()).min_by_key(|at| age(&pods[*at])))
        .unwrap_or_default()
}

/// The pod that the machine moves to, if it does.
fn target(pods: &[(&PodKey, &Pod)], home: usize, migration: Option<&Migration>) -> Option<usize> {
    let is_over = |job: &Name| migration.is_some_and(|migration| migration.job == *job && migration.stage != Stage::UnderWay);
    let newest = (0..pods.len()).filter(|at| age(&pods[*at]) > age(&pods[home])).max_by_key(|at| age(&pods[*at]))?;
    let (from, to) = (pods[home].1, pods[newest].1);
    let incoming = to.incoming.as_ref().filter(|incoming| !incoming.deleting && !is_over(&incoming.job));
    (incoming.is_some() && to.node.is_some() && to.node != from.node).then_some(newest)
}

/// Says that a port is of a machine that migrates: what is known of connections stays where it was, so that those are let through that
/// are established. The group is there while somebody is in it.
pub(crate) fn join<DK, D>(port: RowKey, out: &mut Out<Fact, DK, D>) {
    let key = RowKey::new(group::TABLE, GROUP);
    let marks = || external_ids(&[(GROUP, "true")]);
    RowFact::new(key.clone()).set(group::NAME, GROUP.to_owned()).set(group::EXTERNAL_IDS, marks()).say(out);
    for (direction, answers) in ANSWERS {
        let rule = RowKey::new(acl::TABLE, format!("{GROUP}/{direction}"));
        RowFact::new(rule.clone())
            .set(acl::DIRECTION, direction.to_owned())
            .set(acl::PRIORITY, PRIORITY)
            .set(acl::MATCH, format!("{answers} && {ESTABLISHED}"))
            .set(acl::ACTION, "allow-stateless".to_owned())
            .set(acl::EXTERNAL_IDS, marks())
            .say(out);
        refer(out, key.clone(), group::ACLS, rule);
    }
    refer(out, key, group::PORTS, port);
}
