//! What the southbound database says of where router ports are that only some nodes have: nothing is written there, and nothing waits for
//! it. What is shown of it stays while it cannot be asked: it may have changed meanwhile, and another controller may have seen that.

use std::collections::BTreeMap;
use std::sync::Arc;

use ovsdb::{Event, Options};
use ovsdb_types::sb::{self, chassis, port_binding};
use ovsdb_types::{Atom, Condition, Datum, Function, Monitored, Replica};
use topology::PortBinding;

use crate::config::Config;

type Name = Arc<str>;

/// What names of these ports begin with (ovn-architecture(7), "Distributed Gateway Ports").
const PREFIX: &str = "cr-";

/// How to follow it, if it is there to be followed. Any server will do, such as a relay.
pub(crate) fn options(config: &Config) -> Option<Options> {
    let tables = vec![
        (chassis::TABLE, vec![chassis::NAME.index]),
        (port_binding::TABLE, vec![port_binding::CHASSIS.index, port_binding::LOGICAL_PORT.index]),
    ];
    let monitored = Monitored { schema: &sb::SCHEMA, tables };
    let gateways = Condition { column: "type", function: Function::Eq, value: Datum::One("chassisredirect".into()) };
    let only = vec![(port_binding::TABLE, vec![gateways])];
    let remotes = config.southbound.clone()?;
    Some(Options { only, tls: config.tls.clone(), ..Options::new(remotes, monitored) })
}

/// Where these ports are.
#[derive(Debug, Default)]
pub(crate) struct Southbound {
    replica: Option<Replica>,
    /// Whether the replica is what the database holds, but for what is on its way.
    current: bool,
    /// By the name of the router's port.
    bound: BTreeMap<Name, PortBinding>,
}

impl Southbound {
    /// Whether the database can be asked.
    pub(crate) const fn is_known(&self) -> bool {
        self.current
    }

    /// Takes in what the database says; yields what is otherwise by now.
    pub(crate) fn take(&mut self, event: Event) -> Vec<(Name, Option<PortBinding>)> {
        let applied = match (event, &mut self.replica) {
            (Event::Snapshot(monitored, snapshot), replica) => {
                replica.get_or_insert_with(|| Replica::new(monitored.clone(), Vec::new())).replace(monitored, snapshot)
            }
            (Event::Updates(updates), Some(replica)) => replica.apply(updates),
            (Event::Disconnected(why), _) => {
                tracing::warn!(%why, "southbound database");
                self.current = false;
                return Vec::new();
            }
            _ => return Vec::new(),
        };
        self.current = true;
        if let Err(error) = applied {
            tracing::error!(%error, "the southbound replica does not fit the database's update");
        }
        let now = self.replica.as_ref().map(bound).unwrap_or_default();
        let before = std::mem::replace(&mut self.bound, now);
        let gone = before.keys().filter(|port| !self.bound.contains_key(*port)).map(|port| (Arc::clone(port), None));
        let moved =
            self.bound.iter().filter(|(port, at)| before.get(*port) != Some(at)).map(|(port, at)| (Arc::clone(port), Some(at.clone())));
        gone.chain(moved).collect()
    }
}

/// The ports that some chassis has.
fn bound(replica: &Replica) -> BTreeMap<Name, PortBinding> {
    let place = |row: ovsdb_types::Row<'_>| {
        let port = row.text(port_binding::LOGICAL_PORT).strip_prefix(PREFIX)?.into();
        let Atom::Uuid(at) = row.get(port_binding::CHASSIS)?.atoms().first()? else { return None };
        let chassis = replica.get(chassis::TABLE, *at)?.text(chassis::NAME).into();
        Some((port, PortBinding { chassis }))
    };
    replica.rows(port_binding::TABLE).filter_map(place).collect()
}
