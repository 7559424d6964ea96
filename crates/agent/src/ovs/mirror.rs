//! A port where tools of the node listen to pods: Open vSwitch copies to it what pods that ask for it send and receive
//! (`Mirror`, ovs-vswitchd.conf.db(5)). Port and mirror are there while a pod asks.

use ovsdb_types::vswitch::{bridge, interface, mirror, port};
use ovsdb_types::{Atom, Condition, Datum, Mutation, Mutator, Operation, Row, RowKey, Uuid, vswitch};

use super::gateway::marked;
use super::{Ovs, OvsError, bridge_row, is_ours, named, port_insertions, port_uuid};

/// Mirrors of others on the bridge stay.
const NAME: &str = "ferrovia";

fn set(ports: Vec<Uuid>) -> Datum {
    Datum::set(ports.into_iter().map(Atom::Uuid).collect())
}

fn text(text: &str) -> Datum {
    Datum::One(Atom::from(text))
}

impl Ovs {
    /// Has what passes the ports of `links` copied to the port `output`. Returns whether anything had to be changed.
    pub(crate) async fn mirror(&self, output: &str, links: &[String]) -> Result<bool, OvsError> {
        let operations = {
            let state = self.state.borrow();
            let replica = &state.replica;
            let bridge = bridge_row(replica, &self.bridge).ok_or_else(|| OvsError::NoBridge(self.bridge.clone()))?;
            let port_of = |link: &str| named(replica, port::TABLE, port::NAME.index, link).map(|row| row.uuid);
            let row = replica.rows(mirror::TABLE).find(|row| {
                let on_bridge = bridge.get(bridge::MIRRORS).is_some_and(|mirrors| mirrors.contains(&Atom::Uuid(row.uuid)));
                on_bridge && row.text(mirror::NAME) == NAME
            });
            let selected: Vec<Uuid> = links.iter().filter_map(|link| port_of(link)).collect();
            if selected.is_empty() {
                let is_ours = |row: &Row<'_>| row.get(interface::EXTERNAL_IDS).is_some_and(is_ours);
                let has_port =
                    named(replica, interface::TABLE, interface::NAME.index, output).filter(is_ours).and_then(|_| port_of(output));
                removals(bridge.uuid, has_port, row.map(|row| row.uuid))
            } else {
                let (port, added) = match port_of(output) {
                    Some(port) => (port, Vec::new()),
                    None => {
                        let internal = port_insertions(bridge.uuid, output, vec![("type", text("internal")), marked()], Vec::new());
                        (port_uuid(output), internal.into())
                    }
                };
                let columns = [
                    ("output_port", mirror::OUTPUT_PORT.index, Datum::One(Atom::Uuid(port))),
                    ("select_dst_port", mirror::SELECT_DST_PORT.index, set(selected.clone())),
                    ("select_src_port", mirror::SELECT_SRC_PORT.index, set(selected)),
                ];
                added.into_iter().chain(mirrors(bridge.uuid, row, columns)).collect()
            }
        };
        if operations.is_empty() {
            return Ok(false);
        }
        self.client.transact(&operations).await?;
        Ok(true)
    }
}

/// Makes the mirror what it is to be.
fn mirrors(bridge: Uuid, row: Option<Row<'_>>, columns: [(&'static str, u16, Datum); 3]) -> Vec<Operation> {
    let Some(row) = row else {
        let uuid = RowKey::new(mirror::TABLE, NAME).uuid(&vswitch::SCHEMA);
        let row = [("name", text(NAME))].into_iter().chain(columns.into_iter().map(|(name, _, value)| (name, value))).collect();
        return vec![
            Operation::Insert { table: "Mirror", uuid: Some(uuid), name: None, row },
            mutation(bridge, "mirrors", Mutator::Insert, uuid),
        ];
    };
    let changed = columns.into_iter().filter(|(_, index, wanted)| row.value(*index) != Some(wanted));
    let changed: Vec<_> = changed.map(|(name, _, value)| (name, value)).collect();
    if changed.is_empty() {
        return Vec::new();
    }
    vec![Operation::Update { table: "Mirror", condition: Condition::row(row.uuid), row: changed }]
}

/// Without a reference, the rows vanish (RFC 7047 §3.2).
fn removals(bridge: Uuid, port: Option<Uuid>, mirror: Option<Uuid>) -> Vec<Operation> {
    let of = |column, uuid: Option<Uuid>| uuid.map(|uuid| mutation(bridge, column, Mutator::Delete, uuid));
    of("mirrors", mirror).into_iter().chain(of("ports", port)).collect()
}

fn mutation(bridge: Uuid, column: &'static str, mutator: Mutator, uuid: Uuid) -> Operation {
    let mutations = vec![Mutation { column, mutator, value: Datum::One(Atom::Uuid(uuid)) }];
    Operation::Mutate { table: "Bridge", condition: Condition::row(bridge), mutations }
}
