//! The rows of one monitored table, held small, with the declared indexes. Must not know of updates.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::{DatabaseSchema, Datum, IndexDef, TableId};

type RowsByValue = FxHashMap<Box<[Datum]>, Uuids>;

/// The rows that share indexed values. Nearly always there is one.
#[derive(Debug)]
pub(crate) enum Uuids {
    One(Uuid),
    /// Two and more at first; fewer when rows went.
    Many(BTreeSet<Uuid>),
}

/// The columns of a row that differ from their defaults, by number, ascending: of some twenty columns a row names few.
pub(crate) type Values = Box<[(u16, Datum)]>;

/// The rows of one table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) id: TableId,
    /// The default of each column; `None` for those that are not monitored.
    pub(crate) defaults: Box<[Option<Datum>]>,
    pub(crate) rows: FxHashMap<Uuid, Values>,
    /// Columns of each index, and the rows by their values.
    pub(crate) indexes: Vec<(Vec<u16>, RowsByValue)>,
}

impl Uuids {
    fn insert(&mut self, uuid: Uuid) {
        match self {
            Self::One(only) if *only == uuid => {}
            Self::One(only) => *self = Self::Many(BTreeSet::from([*only, uuid])),
            Self::Many(uuids) => drop(uuids.insert(uuid)),
        }
    }

    /// Takes `uuid` out; whether none is left.
    fn remove(&mut self, uuid: Uuid) -> bool {
        match self {
            Self::One(only) => *only == uuid,
            Self::Many(uuids) => {
                uuids.remove(&uuid);
                uuids.is_empty()
            }
        }
    }

    /// All, lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Uuid> {
        let (one, many) = match self {
            Self::One(only) => (Some(*only), None),
            Self::Many(uuids) => (None, Some(uuids)),
        };
        one.into_iter().chain(many.into_iter().flatten().copied())
    }
}

impl Table {
    pub(crate) fn new(schema: &DatabaseSchema, id: TableId, columns: &[u16], defs: &[IndexDef]) -> Self {
        let all = (0..).zip(schema.table(id).columns);
        let defaults = all.map(|(number, column)| columns.contains(&number).then(|| Datum::default_of(column))).collect();
        let indexes = defs.iter().filter(|d| d.table == id).map(|d| (d.columns.clone(), FxHashMap::default())).collect();
        Self { id, defaults, rows: FxHashMap::default(), indexes }
    }

    /// The default of a column; `None` when it is not monitored.
    pub(crate) fn default_of(&self, column: u16) -> Option<&Datum> {
        self.defaults.get(usize::from(column))?.as_ref()
    }

    pub(crate) fn value<'a>(&'a self, values: &'a [(u16, Datum)], column: u16) -> Option<&'a Datum> {
        let default = self.default_of(column)?;
        Some(values.binary_search_by_key(&column, |(c, _)| *c).map_or(default, |at| &values[at].1))
    }

    /// The values of a row that an update names.
    ///
    /// # Errors
    /// The column that is not monitored.
    pub(crate) fn present(&self, mut values: Vec<(u16, Datum)>) -> Result<Values, u16> {
        if let Some((column, _)) = values.iter().find(|(column, _)| self.default_of(*column).is_none()) {
            return Err(*column);
        }
        // Of a column named twice the last stands.
        values.reverse();
        values.sort_by_key(|(column, _)| *column);
        values.dedup_by_key(|(column, _)| *column);
        values.retain(|(column, value)| self.default_of(*column) != Some(value));
        Ok(values.into())
    }

    pub(crate) fn index(&mut self, uuid: Uuid, values: &[(u16, Datum)], add: bool) {
        let mut indexes = std::mem::take(&mut self.indexes);
        for (columns, map) in &mut indexes {
            let Some(key) = columns.iter().map(|c| self.value(values, *c).cloned()).collect::<Option<Box<[_]>>>() else { continue };
            if add {
                match map.entry(key) {
                    Entry::Occupied(mut uuids) => uuids.get_mut().insert(uuid),
                    Entry::Vacant(none) => drop(none.insert(Uuids::One(uuid))),
                }
            } else if map.get_mut(&key).is_some_and(|uuids| uuids.remove(uuid)) {
                map.remove(&key);
            }
        }
        self.indexes = indexes;
    }
}

/// Changes one value of a row, which is left out while it is the default.
pub(crate) fn change<E>(row: &mut Values, column: u16, default: &Datum, how: impl FnOnce(&mut Datum) -> Result<(), E>) -> Result<(), E> {
    match row.binary_search_by_key(&column, |(c, _)| *c) {
        Ok(at) => {
            how(&mut row[at].1)?;
            if row[at].1 == *default {
                let mut values = std::mem::take(row).into_vec();
                values.remove(at);
                *row = values.into();
            }
        }
        Err(at) => {
            let mut value = default.clone();
            how(&mut value)?;
            if value != *default {
                let mut values = std::mem::take(row).into_vec();
                values.insert(at, (column, value));
                *row = values.into();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::nb::{self, logical_switch as ls};
    use crate::{Datum, IndexDef, Monitored, Replica, RowUpdate, TableUpdates, Uuid};

    fn replica() -> Replica {
        let index = IndexDef { table: ls::TABLE, columns: vec![ls::NAME.index] };
        Replica::new(
            Monitored { schema: &nb::SCHEMA, tables: vec![(ls::TABLE, vec![ls::NAME.index, ls::EXTERNAL_IDS.index])] },
            vec![index],
        )
    }

    fn apply(replica: &mut Replica, row: u128, update: RowUpdate) {
        replica.apply(TableUpdates(vec![(ls::TABLE, vec![(Uuid::from_u128(row), update)])])).unwrap();
    }

    fn named(replica: &Replica, name: &str) -> Vec<u128> {
        replica.find(ls::TABLE, &[ls::NAME.index], &[Datum::One(name.into())]).map(|row| row.uuid.as_u128()).collect()
    }

    #[test]
    fn a_value_is_read_whether_it_is_the_default_or_not() {
        let mut replica = replica();
        let pair = || Datum::map(vec![("k".into(), "v".into())]);
        let read = |replica: &Replica| {
            let row = replica.get(ls::TABLE, Uuid::from_u128(1)).unwrap();
            assert_eq!(row.get(ls::PORTS), None, "a column that is not monitored");
            (row.text(ls::NAME).to_owned(), row.get(ls::EXTERNAL_IDS).cloned().unwrap())
        };
        apply(&mut replica, 1, RowUpdate::Present(vec![(ls::NAME.index, Datum::One("".into()))]));
        assert_eq!(read(&replica), (String::new(), Datum::map(vec![])));
        apply(&mut replica, 1, RowUpdate::Modify(vec![(ls::NAME.index, Datum::One("a".into())), (ls::EXTERNAL_IDS.index, pair())]));
        assert_eq!(read(&replica), ("a".to_owned(), pair()));
        apply(&mut replica, 1, RowUpdate::Modify(vec![(ls::EXTERNAL_IDS.index, pair())]));
        assert_eq!(read(&replica), ("a".to_owned(), Datum::map(vec![])));
    }

    #[test]
    fn all_rows_that_share_an_indexed_value_are_found_lowest_first() {
        let mut replica = replica();
        let name = |name: &str| vec![(ls::NAME.index, Datum::One(name.into()))];
        for row in [2, 3, 1] {
            apply(&mut replica, row, RowUpdate::Present(name("a")));
        }
        assert_eq!(named(&replica, "a"), [1, 2, 3]);
        apply(&mut replica, 2, RowUpdate::Modify(name("b")));
        apply(&mut replica, 1, RowUpdate::Delete);
        assert_eq!((named(&replica, "a"), named(&replica, "b")), (vec![3], vec![2]));
        apply(&mut replica, 3, RowUpdate::Delete);
        assert_eq!(named(&replica, "a"), Vec::<u128>::new());
    }
}
