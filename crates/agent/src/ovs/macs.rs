//! Under which MACs the node sends what it routed into physical networks.

use ovsdb_types::vswitch::open_vswitch;
use ovsdb_types::{Atom, Condition, Datum, Mutation, Mutator, Operation, Replica};

use super::{Ovs, OvsError};

/// `Open_vSwitch:external_ids` of ovn-controller(8): networks with MACs.
const MACS: &str = "ovn-chassis-mac-mappings";

impl Ovs {
    /// The list as it is; `None` without a switch.
    pub(crate) fn chassis_macs(&self) -> Option<String> {
        self.look().ok()?;
        shown(&self.state.borrow().replica)
    }

    /// Puts another list in its place; an empty one takes it away.
    pub(crate) async fn set_chassis_macs(&self, list: &str) -> Result<(), OvsError> {
        let operation = {
            let state = self.state.borrow();
            let root = state.replica.rows(open_vswitch::TABLE).next().ok_or(OvsError::Disconnected)?;
            let mutation = |mutator, value| Mutation { column: "external_ids", mutator, value };
            let mut mutations = vec![mutation(Mutator::Delete, Datum::One(Atom::from(MACS)))];
            if !list.is_empty() {
                mutations.push(mutation(Mutator::Insert, Datum::map(vec![(Atom::from(MACS), Atom::from(list))])));
            }
            Operation::Mutate { table: "Open_vSwitch", condition: Condition::row(root.uuid), mutations }
        };
        self.client.transact(&[operation]).await?;
        self.shows(|replica| shown(replica).as_deref() == Some(list)).await;
        Ok(())
    }
}

fn shown(replica: &Replica) -> Option<String> {
    let root = replica.rows(open_vswitch::TABLE).next()?;
    Some(root.get(open_vswitch::EXTERNAL_IDS).and_then(|ids| ids.get(MACS)).unwrap_or_default().to_owned())
}
