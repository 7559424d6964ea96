//! Texts that the node's switch keeps, each under a key: `external_ids` of its root row (ovs-vswitchd.conf.db(5)).

use ovsdb_types::vswitch::open_vswitch;
use ovsdb_types::{Atom, Condition, Datum, Mutation, Mutator, Operation, Row};

use super::{Ovs, OvsError};

impl Ovs {
    /// What stands under a key, if anything; nothing without a switch.
    pub(crate) fn note(&self, key: &str) -> Option<String> {
        let state = self.state.borrow();
        let root = state.replica.rows(open_vswitch::TABLE).next()?;
        noted(&root, key).map(str::to_owned)
    }

    /// Puts a text under a key, in the place of what is there; without one takes that away. Waits until it is shown.
    pub(crate) async fn set_note(&self, key: &str, text: Option<&str>) -> Result<(), OvsError> {
        let operation = {
            let state = self.state.borrow();
            let root = state.replica.rows(open_vswitch::TABLE).next().ok_or(OvsError::Disconnected)?;
            Operation::Mutate { table: "Open_vSwitch", condition: Condition::row(root.uuid), mutations: note_to(key, text) }
        };
        self.client.transact(&[operation]).await?;
        self.shows(|replica| replica.rows(open_vswitch::TABLE).next().and_then(|root| noted(&root, key)) == text).await;
        Ok(())
    }
}

/// What stands under a key.
pub(super) fn noted<'a>(root: &Row<'a>, key: &str) -> Option<&'a str> {
    root.get(open_vswitch::EXTERNAL_IDS)?.get(key)
}

/// What puts a text under a key.
pub(super) fn note_to(key: &str, text: Option<&str>) -> Vec<Mutation> {
    let mutation = |mutator, value| Mutation { column: "external_ids", mutator, value };
    let mut mutations = vec![mutation(Mutator::Delete, Datum::One(Atom::from(key)))];
    mutations.extend(text.map(|text| mutation(Mutator::Insert, Datum::map(vec![(Atom::from(key), Atom::from(text))]))));
    mutations
}
