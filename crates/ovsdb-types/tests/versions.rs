//! One program against servers of several versions: what a server lacks is never written, and named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use ovsdb_types::nb::{logical_switch as ls, static_mac_binding as smb};
use ovsdb_types::{Bindings, Datum, Desired, Diff, Difference, Fact, FactValue, Monitored, Ownership, Replica, RowKey, TableId, nb};

fn own(table: TableId, columns: &[u16]) -> Ownership {
    let (columns, members, entries) = (columns.to_vec(), Vec::new(), Vec::new());
    Ownership { table, columns, maps: Vec::new(), members, entries, identity: None, mark: None, singleton: false, dispensable: false }
}

/// What is done for two switches, one with a setting, and for a static MAC binding, at a server with `tables`.
fn done(tables: Vec<(TableId, Vec<u16>)>, dispensable: bool) -> Difference {
    let mut desired = Desired::default();
    let text = |value: &str| Datum::One(value.into());
    let mut say = |table, key: &str, columns: Vec<(u16, Datum)>| {
        desired.apply(&Fact::Row(RowKey::new(table, key)), Some(&FactValue::Columns(Arc::from(columns))));
    };
    say(ls::TABLE, "plain", vec![(ls::NAME.index, text("plain"))]);
    let setting = Datum::map(vec![("mcast_snoop".into(), "true".into())]);
    say(ls::TABLE, "rich", vec![(ls::NAME.index, text("rich")), (ls::OTHER_CONFIG.index, setting)]);
    say(smb::TABLE, "binding", vec![(smb::IP.index, text("10.0.0.1"))]);
    let replica = Replica::new(Monitored { schema: &nb::SCHEMA, tables }, vec![]);
    let ownership =
        [own(ls::TABLE, &[ls::NAME.index, ls::OTHER_CONFIG.index]), Ownership { dispensable, ..own(smb::TABLE, &[smb::IP.index]) }];
    let nothing = BTreeSet::new();
    let diff =
        Diff { desired: &desired, replica: &replica, ownership: &ownership, skip: &nothing, vendor: "kube-ovn", claimed: &|_, _| false };
    diff.compute(&diff.everything(), &mut Bindings::default())
}

#[test]
fn a_row_that_the_server_cannot_hold_is_refused_by_name_and_the_others_are_written() {
    let all = || vec![(ls::TABLE, vec![ls::NAME.index, ls::OTHER_CONFIG.index]), (smb::TABLE, vec![smb::IP.index])];
    let whole = done(all(), false);
    assert_eq!((whole.inserted, whole.blocked.len()), (3, 0));

    let old = || vec![(ls::TABLE, vec![ls::NAME.index])];
    let older = done(old(), false);
    assert_eq!(older.inserted, 1, "{:?}", older.operations);
    let refused: BTreeSet<_> = older.blocked.iter().map(|(row, why)| format!("{}: {why}", row.key)).collect();
    let expected = [
        "binding: the server's OVN_Northbound has no table Static_MAC_Binding",
        "rich: the server's OVN_Northbound has no column other_config in table Logical_Switch",
    ];
    assert!(refused.iter().eq(expected.iter()), "{refused:?}");

    // Unless it does without them.
    let without = done(old(), true);
    let refused: Vec<_> = without.blocked.iter().map(|(row, _)| row.key.to_string()).collect();
    assert_eq!((without.inserted, refused), (1, vec!["rich".to_owned()]));
    assert_eq!(done(all(), true).inserted, 3);
}
