//! Limits that the switch itself holds to, of ports behind which there is no link for a queueing discipline: it drops what is too much at
//! once, and delays nothing (`ingress_policing_rate` and type `egress-policer` of `QoS`, ovs-vswitchd.conf.db(5)).

use api::tuning::Rate;
use ovsdb_types::vswitch::{interface, port, qos};
use ovsdb_types::{Atom, Condition, Datum, Operation, Replica, Row, RowKey, Uuid, vswitch};

use super::gateway::marked;
use super::named;

/// Type of `QoS`.
const TYPE: &str = "egress-policer";
/// Least that may pass at once, in bits: two segments of the largest kind.
const LEAST_BURST: u64 = 2 * 65_536 * 8;

/// What a port lets pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// From what is behind the port.
    pub(crate) from: Option<Rate>,
    /// Towards it; only ports of DPDK hold to it.
    pub(crate) towards: Option<Rate>,
}

/// Bits that may pass at once. Without a wish: what passes in 100 ms, for which a queueing discipline would have packets wait.
fn burst(rate: Rate) -> u64 {
    rate.burst.unwrap_or(rate.rate / 10).max(LEAST_BURST)
}

/// The row that says what a port lets pass towards what is behind it.
fn row_of(link: &str) -> Uuid {
    RowKey::new(qos::TABLE, link).uuid(&vswitch::SCHEMA)
}

impl Limits {
    /// Columns of the interface, in kilobits; zero is no limit.
    pub(super) fn columns(&self) -> [(&'static str, Datum); 2] {
        let kilobits = |bits: u64| Datum::One(Atom::Integer(i64::try_from(bits / 1000).unwrap_or(i64::MAX)));
        let of = |bits: fn(Rate) -> u64| kilobits(self.from.map_or(0, bits));
        [("ingress_policing_rate", of(|rate| rate.rate)), ("ingress_policing_burst", of(burst))]
    }

    /// The column of the port.
    pub(super) fn column(&self, link: &str) -> (&'static str, Datum) {
        ("qos", Datum::set(self.towards.map(|_| Atom::Uuid(row_of(link))).into_iter().collect()))
    }

    /// What the policer is, in bytes.
    fn settings(&self) -> Option<Datum> {
        let rate = self.towards?;
        let pair = |key: &str, bits: u64| (Atom::from(key), Atom::from((bits / 8).to_string().as_str()));
        Some(Datum::map(vec![pair("cir", rate.rate), pair("cbs", burst(rate))]))
    }

    /// What is to be written of an interface.
    fn changed(&self, row: &Row<'_>) -> Vec<(&'static str, Datum)> {
        let indexes = [interface::INGRESS_POLICING_RATE.index, interface::INGRESS_POLICING_BURST.index];
        let columns = self.columns().into_iter().zip(indexes);
        columns.filter(|((_, wanted), index)| row.value(*index) != Some(wanted)).map(|(column, _)| column).collect()
    }

    fn is_elsewhere(&self, replica: &Replica, link: &str) -> bool {
        let row = named(replica, port::TABLE, port::NAME.index, link);
        row.is_some_and(|row| row.get(port::QOS).map(Datum::atoms).unwrap_or_default() != self.column(link).1.atoms())
    }

    /// Makes the policer of a port that is to be what it should, or takes it away.
    pub(super) fn policer(&self, replica: &Replica, link: &str) -> Option<Operation> {
        let uuid = row_of(link);
        let shown = replica.get(qos::TABLE, uuid);
        let Some(settings) = self.settings() else {
            // It is nobody's part, and would stay.
            return shown.map(|_| Operation::Delete { table: "QoS", condition: Condition::row(uuid) });
        };
        let columns = [(qos::TYPE.index, "type", Datum::One(Atom::from(TYPE))), (qos::OTHER_CONFIG.index, "other_config", settings)];
        let is_so = |index, wanted: &Datum| shown.is_some_and(|row| row.value(index) == Some(wanted));
        let changed = columns.into_iter().filter(|(index, _, wanted)| !is_so(*index, wanted));
        let mut row: Vec<_> = changed.map(|(_, name, value)| (name, value)).collect();
        if shown.is_none() {
            row.push(marked());
            return Some(Operation::Insert { table: "QoS", uuid: Some(uuid), name: None, row });
        }
        (!row.is_empty()).then(|| Operation::Update { table: "QoS", condition: Condition::row(uuid), row })
    }

    /// Makes a port that is there hold to these; nothing if it does. What is deleted is let go of before: Open vSwitch's database checks that
    /// nothing refers to it.
    pub(super) fn changes(&self, replica: &Replica, link: &str) -> Vec<Operation> {
        let mut operations = Vec::new();
        if let Some(row) = named(replica, interface::TABLE, interface::NAME.index, link) {
            let changed = self.changed(&row);
            if !changed.is_empty() {
                operations.push(Operation::Update { table: "Interface", condition: Condition::row(row.uuid), row: changed });
            }
        }
        if let Some(row) = named(replica, port::TABLE, port::NAME.index, link).filter(|_| self.is_elsewhere(replica, link)) {
            let (condition, row) = (Condition::row(row.uuid), vec![self.column(link)]);
            operations.push(Operation::Update { table: "Port", condition, row });
        }
        operations.extend(self.policer(replica, link));
        operations
    }
}

/// Takes the policer of a port that goes away, if it has one.
pub(super) fn removals(replica: &Replica, link: &str) -> Vec<Operation> {
    if replica.get(qos::TABLE, row_of(link)).is_none() {
        return Vec::new();
    }
    Limits::default().changes(replica, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_at_once_is_a_hundred_milliseconds_and_two_segments_at_least() {
        let limits = Limits { from: Some(Rate { rate: 100_000_000, burst: None }), towards: Some(Rate { rate: 8_000_000, burst: None }) };
        let number = |kilobits| Datum::One(Atom::Integer(kilobits));
        assert_eq!(limits.columns().map(|(_, value)| value), [number(100_000), number(10_000)]);
        let pair = |key: &str, value: &str| (Atom::from(key), Atom::from(value));
        assert_eq!(limits.settings(), Some(Datum::map(vec![pair("cir", "1000000"), pair("cbs", "131072")])));
        assert_eq!(Limits::default().columns().map(|(_, value)| value), [number(0), number(0)]);
        assert_eq!(Limits::default().settings(), None);
        let wished = Limits { from: Some(Rate { rate: 1000, burst: Some(4_000_000) }), towards: None };
        assert_eq!(wished.columns().map(|(_, value)| value), [number(1), number(4000)]);
    }
}
