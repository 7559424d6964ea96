//! From what is desired and what the replica shows to the operations that close the gap.
//!
//! A row that is desired and not observed is inserted; one that is ours, claimed by a rule and not desired goes;
//! everything else is left alone. Only what changed on either side is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::operation::Values;
use crate::{
    Atom, Change, Condition, Datum, Desired, DesiredRow, Element, Mutation, Mutator, Operation, Replica, Row, RowChange, RowKey, TableId,
};

/// Which part of a table is ours to manage.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// Table.
    pub table: TableId,
    /// Columns that a row's fact decides as a whole; those it does not name return to their defaults.
    pub columns: Vec<u16>,
    /// Map columns of which a row's fact decides the named keys, and any others that it names. Further keys are not ours.
    pub maps: Vec<(u16, &'static [&'static str])>,
    /// Set columns decided element by element.
    pub members: Vec<u16>,
    /// Map columns decided key by key. Other keys are not ours.
    pub entries: Vec<u16>,
    /// Column that identifies a row to people; by it rows of an earlier controller are adopted.
    pub identity: Option<u16>,
    /// Map column that carries `vendor`; `None` when the table has none and rows are owned through their parent.
    pub mark: Option<u16>,
    /// Whether the table holds one row that belongs to everybody, such as `NB_Global`: never inserted, never removed.
    pub singleton: bool,
    /// Whether a server of a version without the table does without its rows. Otherwise each is refused.
    pub dispensable: bool,
}

/// What of a row is to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    whole: bool,
    members: BTreeSet<(u16, Element)>,
    entries: BTreeSet<(u16, Arc<str>)>,
}

/// The rows that may differ from what is desired.
#[derive(Clone, Debug, Default)]
pub struct Dirty {
    rows: BTreeMap<RowKey, Scope>,
    strays: BTreeSet<(TableId, Uuid)>,
}

impl Dirty {
    /// Whether nothing is to be looked at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.strays.is_empty()
    }

    /// The whole row is to be looked at.
    pub fn row(&mut self, key: RowKey) {
        self.rows.entry(key).or_default().whole = true;
    }

    /// The rows that are to be looked at.
    pub fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.rows.keys()
    }

    /// Takes a row out, with what of it is to be looked at.
    #[must_use]
    pub fn split_off(&mut self, key: &RowKey) -> Self {
        let rows = self.rows.remove_entry(key).into_iter().collect();
        Self { rows, strays: BTreeSet::new() }
    }

    /// What a changed fact touches is to be looked at.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Row(key) => self.row(key),
            Change::Member(key, column, element) => {
                self.rows.entry(key).or_default().members.insert((column, element));
            }
            Change::Entry(key, column, name) => {
                self.rows.entry(key).or_default().entries.insert((column, name));
            }
        }
    }

    /// Adds what `other` holds.
    pub fn merge(&mut self, other: Self) {
        for (key, scope) in other.rows {
            let mine = self.rows.entry(key).or_default();
            mine.whole |= scope.whole;
            mine.members.extend(scope.members);
            mine.entries.extend(scope.entries);
        }
        self.strays.extend(other.strays);
    }
}

/// Which observed row stands for which desired one. Rows that we created have the key's own identifier; adopted rows
/// keep theirs.
#[derive(Debug, Default)]
pub struct Bindings {
    owner: FxHashMap<Uuid, RowKey>,
    adopted: FxHashMap<RowKey, Uuid>,
}

impl Bindings {
    /// The desired row that `uuid` stands for.
    #[must_use]
    pub fn owner(&self, uuid: Uuid) -> Option<&RowKey> {
        self.owner.get(&uuid)
    }
}

/// The operations that close the gap, and what they do.
#[derive(Debug, Default)]
pub struct Difference {
    /// Operations of one transaction; empty when nothing differs.
    pub operations: Vec<Operation>,
    /// Rows added.
    pub inserted: usize,
    /// Rows changed in place.
    pub modified: usize,
    /// Rows removed.
    pub removed: Vec<Uuid>,
    /// Desired rows that were added or changed.
    pub written: Vec<RowKey>,
    /// Desired rows that cannot be written, with the reason.
    pub blocked: Vec<(RowKey, String)>,
    /// Rows of ours that no rule claims: kept.
    pub kept: usize,
}

impl Difference {
    /// Rows added, changed or removed.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.inserted + self.modified + self.removed.len()
    }
}

/// Compares what is desired with what is observed.
pub struct Diff<'a> {
    /// What the rules want.
    pub desired: &'a Desired,
    /// What the database shows.
    pub replica: &'a Replica,
    /// Parts of the database that are ours.
    pub ownership: &'a [Ownership],
    /// Desired rows to leave out, because the database refused them.
    pub skip: &'a BTreeSet<RowKey>,
    /// Value of `vendor` on rows of ours.
    pub vendor: &'a str,
    /// Whether an observed row of ours that nobody desires may be removed.
    pub claimed: &'a dyn Fn(TableId, &Row<'_>) -> bool,
}

impl Diff<'_> {
    fn own(&self, table: TableId) -> Option<&Ownership> {
        self.ownership.iter().find(|o| o.table == table)
    }

    fn is_ours(&self, own: &Ownership, row: &Row<'_>) -> bool {
        own.mark.is_some_and(|column| row.value(column).and_then(|d| d.get("vendor")) == Some(self.vendor))
    }

    /// Everything: all desired rows, and all rows of ours that nobody desires.
    #[must_use]
    pub fn everything(&self) -> Dirty {
        let mut dirty = Dirty::default();
        for (key, _) in self.desired.iter() {
            dirty.row(key.clone());
        }
        for own in self.ownership {
            for row in self.replica.rows(own.table) {
                if self.is_ours(own, &row) {
                    dirty.strays.insert((own.table, row.uuid));
                }
            }
        }
        dirty
    }

    /// What a change of the database touches.
    pub fn observe(&self, change: &RowChange, bindings: &mut Bindings, dirty: &mut Dirty) {
        match change {
            RowChange::Inserted(table, uuid) => match bindings.owner.get(uuid) {
                Some(key) => dirty.row(key.clone()),
                None => {
                    dirty.strays.insert((*table, *uuid));
                }
            },
            RowChange::Deleted(_, uuid) => {
                if let Some(key) = bindings.owner.get(uuid).cloned() {
                    if bindings.adopted.remove(&key).is_some() {
                        bindings.owner.remove(uuid);
                    }
                    dirty.row(key);
                }
            }
            RowChange::Modified(table, uuid, deltas) => {
                let Some(key) = bindings.owner.get(uuid).cloned() else {
                    dirty.strays.insert((*table, *uuid));
                    return;
                };
                let Some(own) = self.own(*table) else { return };
                for (column, delta) in deltas {
                    if own.columns.contains(column) || own.maps.iter().any(|(map, _)| map == column) {
                        dirty.row(key.clone());
                    } else if own.members.contains(column) {
                        for atom in delta.atoms() {
                            dirty.change(Change::Member(key.clone(), *column, element_of(atom, bindings)));
                        }
                    } else if own.entries.contains(column) {
                        for (name, _) in delta.pairs() {
                            if let Atom::String(name) = name {
                                dirty.change(Change::Entry(key.clone(), *column, Arc::clone(name)));
                            }
                        }
                    }
                }
            }
        }
    }

    /// The operations for what is dirty. Bindings are brought up to date on the way.
    #[must_use]
    pub fn compute(&self, dirty: &Dirty, bindings: &mut Bindings) -> Difference {
        let mut out = Difference::default();
        // Bind first: references between rows of one batch must resolve whatever their order.
        for (key, scope) in &dirty.rows {
            if scope.whole {
                self.bind(key, bindings, &mut out);
            }
        }
        for (key, scope) in &dirty.rows {
            let Some(own) = self.own(key.table) else { continue };
            let observed = self.observed(key, own, bindings);
            if observed.is_some()
                && let Some(lacking) = self.lacking(key, own)
            {
                out.blocked.push((key.clone(), lacking));
                continue;
            }
            match (self.desired.get(key), observed) {
                (Some(wanted), Some(row)) if wanted.columns.is_some() || own.singleton => {
                    let before = out.modified;
                    self.modify(own, wanted, &row, scope, bindings, &mut out);
                    out.written.extend((out.modified > before).then(|| key.clone()));
                }
                (Some(wanted), None) if self.wants(key) => {
                    self.insert(key, own, wanted, bindings, &mut out);
                    out.written.push(key.clone());
                }
                (Some(wanted), Some(row)) if !own.singleton && wanted.columns.is_none() => self.remove(key, own, &row, &mut out),
                (None, Some(row)) if !own.singleton => self.remove(key, own, &row, &mut out),
                (None, Some(row)) => self.modify(own, &DesiredRow::default(), &row, scope, bindings, &mut out),
                _ => {}
            }
            if !self.wants(key) && observed.is_none() {
                unbind(key, self.replica, bindings);
            }
        }
        for (table, uuid) in &dirty.strays {
            let Some(own) = self.own(*table) else { continue };
            let Some(row) = self.replica.get(*table, *uuid) else { continue };
            if bindings.owner.contains_key(uuid) || own.singleton || !self.is_ours(own, &row) {
                continue;
            }
            if !(self.claimed)(*table, &row) {
                out.kept += 1;
            } else if self.schema_of(*table).root {
                out.operations.push(Operation::Delete { table: self.schema_of(*table).name, condition: Condition::row(*uuid) });
                out.removed.push(*uuid);
            } else {
                self.unlink(*table, *uuid, bindings, &mut out);
            }
        }
        out
    }

    /// What the server lacks of what is wanted of a row: its schema is that of another version.
    fn lacking(&self, key: &RowKey, own: &Ownership) -> Option<String> {
        let wanted = self.desired.get(key)?;
        let (database, table) = (self.replica.monitored().schema.name, self.schema_of(own.table));
        let Some(known) = self.replica.monitored().columns(own.table) else {
            return Some(format!("the server's {database} has no table {}", table.name));
        };
        let columns = wanted.columns.iter().flat_map(|columns| columns.iter()).map(|(column, _)| column);
        let members = wanted.members.iter().map(|(column, _)| column);
        let entries = wanted.entries.keys().map(|(column, _)| column);
        let column = columns.chain(members).chain(entries).find(|column| !known.contains(column))?;
        Some(format!("the server's {database} has no column {} in table {}", table.column(*column).name, table.name))
    }

    fn wants(&self, key: &RowKey) -> bool {
        let is_done_without =
            || self.own(key.table).is_some_and(|own| own.dispensable) && self.replica.monitored().columns(key.table).is_none();
        self.desired.wants(key) && !self.skip.contains(key) && !is_done_without()
    }

    /// The identifier that stands for `key`: an adopted row's own, else the one that follows from the key.
    fn uuid_of(&self, key: &RowKey, bindings: &Bindings) -> Uuid {
        bindings.adopted.get(key).copied().unwrap_or_else(|| key.uuid(self.replica.monitored().schema))
    }

    fn schema_of(&self, table: TableId) -> &'static crate::TableSchema {
        self.replica.monitored().schema.table(table)
    }

    /// Finds the identifier that stands for `key`, adopting a row of ours with the same identity.
    fn bind(&self, key: &RowKey, bindings: &mut Bindings, out: &mut Difference) {
        if !self.wants(key) || bindings.adopted.contains_key(key) {
            return;
        }
        let Some(own) = self.own(key.table) else { return };
        if own.singleton {
            return;
        }
        if let Some(lacking) = self.lacking(key, own) {
            out.blocked.push((key.clone(), lacking));
            return;
        }
        let uuid = key.uuid(self.replica.monitored().schema);
        if self.replica.get(key.table, uuid).is_none()
            && let Some(column) = own.identity
            && let Some(name) =
                self.desired.get(key).and_then(|row| row.columns.as_ref()).and_then(|c| c.iter().find(|(c, _)| *c == column))
        {
            let unique = self.schema_of(key.table).unique.contains(&[self.schema_of(key.table).column(column).name].as_slice());
            for row in self.replica.find(key.table, &[column], std::slice::from_ref(&name.1)) {
                if bindings.owner.contains_key(&row.uuid) {
                    continue;
                }
                if self.is_ours(own, &row) {
                    bindings.adopted.insert(key.clone(), row.uuid);
                    bindings.owner.insert(row.uuid, key.clone());
                    return;
                }
                if unique {
                    out.blocked.push((
                        key.clone(),
                        format!("row {} of table {} has the name {:?} and is not ours", row.uuid, self.schema_of(key.table).name, name.1),
                    ));
                    return;
                }
            }
        }
        bindings.owner.insert(uuid, key.clone());
    }

    fn observed(&self, key: &RowKey, own: &Ownership, bindings: &Bindings) -> Option<Row<'_>> {
        if own.singleton {
            return self.replica.rows(key.table).min_by_key(|row| row.uuid);
        }
        let uuid = self.uuid_of(key, bindings);
        self.replica.get(key.table, uuid)
    }

    fn resolve(&self, element: &Element, bindings: &Bindings) -> Option<Atom> {
        match element {
            Element::Atom(atom) => Some(atom.clone()),
            Element::Row(key) => {
                let uuid = self.uuid_of(key, bindings);
                (bindings.owner.contains_key(&uuid) && self.wants(key)).then_some(Atom::Uuid(uuid))
            }
        }
    }

    fn insert(&self, key: &RowKey, own: &Ownership, wanted: &DesiredRow, bindings: &Bindings, out: &mut Difference) {
        let uuid = key.uuid(self.replica.monitored().schema);
        if bindings.owner.get(&uuid) != Some(key) {
            return; // blocked, and reported by `bind`
        }
        let schema = self.schema_of(key.table);
        let mut row: Values = Vec::new();
        for (column, value) in wanted.columns.iter().flat_map(|c| c.iter()) {
            row.push((schema.column(*column).name, value.clone()));
        }
        for column in &own.members {
            let atoms: Vec<Atom> = members_of(wanted, *column).filter_map(|e| self.resolve(e, bindings)).collect();
            if !atoms.is_empty() {
                row.push((schema.column(*column).name, Datum::set(atoms)));
            }
        }
        for column in &own.entries {
            let pairs: Vec<_> =
                entries_of(wanted, *column).map(|(k, v)| (Atom::String(Arc::clone(k)), Atom::String(Arc::clone(v)))).collect();
            if !pairs.is_empty() {
                row.push((schema.column(*column).name, Datum::map(pairs)));
            }
        }
        out.operations.push(Operation::Insert { table: schema.name, uuid: Some(uuid), name: None, row });
        out.inserted += 1;
    }

    fn modify(&self, own: &Ownership, wanted: &DesiredRow, row: &Row<'_>, scope: &Scope, bindings: &Bindings, out: &mut Difference) {
        let schema = self.schema_of(own.table);
        let mut update: Values = Vec::new();
        if scope.whole && !own.singleton {
            for column in &own.columns {
                let Some(observed) = row.value(*column) else { continue };
                let default;
                let value = match wanted.columns.iter().flat_map(|c| c.iter()).find(|(c, _)| c == column) {
                    Some((_, value)) => value,
                    None => {
                        default = Datum::default_of(schema.column(*column));
                        &default
                    }
                };
                if observed != value {
                    update.push((schema.column(*column).name, value.clone()));
                }
            }
        }
        let mut mutations = Vec::new();
        for column in &own.members {
            let Some(observed) = row.value(*column) else { continue };
            let (mut add, mut remove) = (Vec::new(), Vec::new());
            if scope.whole {
                let resolved: BTreeSet<Atom> = members_of(wanted, *column).filter_map(|e| self.resolve(e, bindings)).collect();
                add.extend(resolved.iter().filter(|a| !observed.contains(a)).cloned());
                remove.extend(observed.atoms().iter().filter(|a| !resolved.contains(a) && self.removable(own.table, *column, a)).cloned());
            } else {
                for (_, element) in scope.members.iter().filter(|(c, _)| c == column) {
                    let is_wanted = wanted.members.contains(&(*column, element.clone()));
                    let resolved = self.resolve(element, bindings);
                    match (is_wanted, resolved) {
                        (true, Some(atom)) if !observed.contains(&atom) => add.push(atom),
                        (true, _) => {}
                        (false, _) => {
                            let atom = match element {
                                Element::Atom(atom) => atom.clone(),
                                Element::Row(key) => Atom::Uuid(self.uuid_of(key, bindings)),
                            };
                            if observed.contains(&atom) && self.removable(own.table, *column, &atom) {
                                remove.push(atom);
                            }
                        }
                    }
                }
            }
            let name = schema.column(*column).name;
            if !remove.is_empty() {
                mutations.push(Mutation { column: name, mutator: Mutator::Delete, value: Datum::set(remove) });
            }
            if !add.is_empty() {
                mutations.push(Mutation { column: name, mutator: Mutator::Insert, value: Datum::set(add) });
            }
        }
        for (column, keys) in own.maps.iter().filter(|_| scope.whole && !own.singleton) {
            let Some(observed) = row.value(*column) else { continue };
            let value = wanted.columns.iter().flat_map(|c| c.iter()).find(|(c, _)| c == column).map(|(_, value)| value);
            let named = value.iter().flat_map(|value| value.pairs()).filter_map(|(key, _)| key.as_str());
            let names: BTreeSet<&str> = keys.iter().copied().chain(named).collect();
            let pairs = names.into_iter().map(|name| (Arc::from(name), value.and_then(|value| value.get(name)), observed.get(name)));
            replace_pairs(schema.column(*column).name, pairs, &mut mutations);
        }
        for column in &own.entries {
            Self::entries(schema.column(*column).name, *column, wanted, row, scope, &mut mutations);
        }
        if !update.is_empty() || !mutations.is_empty() {
            out.modified += 1;
        }
        if !update.is_empty() {
            out.operations.push(Operation::Update { table: schema.name, condition: Condition::row(row.uuid), row: update });
        }
        if !mutations.is_empty() {
            out.operations.push(Operation::Mutate { table: schema.name, condition: Condition::row(row.uuid), mutations });
        }
    }

    fn entries(name: &'static str, column: u16, wanted: &DesiredRow, row: &Row<'_>, scope: &Scope, out: &mut Vec<Mutation>) {
        let Some(observed) = row.value(column) else { return };
        let mut names: BTreeSet<Arc<str>> = scope.entries.iter().filter(|(c, _)| *c == column).map(|(_, n)| Arc::clone(n)).collect();
        if scope.whole {
            names.extend(entries_of(wanted, column).map(|(k, _)| Arc::clone(k)));
        }
        let want = |name: &Arc<str>| wanted.entries.get(&(column, Arc::clone(name))).map(AsRef::as_ref);
        replace_pairs(name, names.iter().map(|key| (Arc::clone(key), want(key), observed.get(key))), out);
    }

    /// Whether an element that nobody desires may be taken out of a set of ours: plain values always, references only
    /// when the row referred to is ours and claimed.
    fn removable(&self, table: TableId, column: u16, atom: &Atom) -> bool {
        let schema = self.replica.monitored().schema;
        let Some(target) = schema.table(table).column(column).references.and_then(|name| schema.table_id(name)) else { return true };
        let (Some(uuid), Some(own)) = (atom.as_uuid(), self.own(target)) else { return false };
        self.replica.get(target, uuid).is_some_and(|row| (own.mark.is_none() || self.is_ours(own, &row)) && (self.claimed)(target, &row))
    }

    fn remove(&self, key: &RowKey, own: &Ownership, row: &Row<'_>, out: &mut Difference) {
        if own.mark.is_some() && !self.is_ours(own, row) {
            return;
        }
        let schema = self.schema_of(key.table);
        out.removed.push(row.uuid);
        // A row of another table than a root goes with the reference that its parent's set loses in this transaction.
        if schema.root {
            out.operations.push(Operation::Delete { table: schema.name, condition: Condition::row(row.uuid) });
        }
    }

    /// Takes a stray row out of the sets of our rows that hold it; without references it vanishes.
    fn unlink(&self, table: TableId, uuid: Uuid, bindings: &Bindings, out: &mut Difference) {
        let schema = self.replica.monitored().schema;
        let name = schema.table(table).name;
        let mut goes = false;
        for own in self.ownership {
            for column in own.members.iter().filter(|c| schema.table(own.table).column(**c).references == Some(name)) {
                for parent in self.replica.rows(own.table) {
                    if !parent.value(*column).is_some_and(|d| d.contains(&Atom::Uuid(uuid))) {
                        continue;
                    }
                    let wanted = bindings.owner.get(&parent.uuid).is_some_and(|key| self.wants(key));
                    if wanted {
                        let mutation = Mutation {
                            column: schema.table(own.table).column(*column).name,
                            mutator: Mutator::Delete,
                            value: Datum::One(Atom::Uuid(uuid)),
                        };
                        let table = schema.table(own.table).name;
                        out.operations.push(Operation::Mutate { table, condition: Condition::row(parent.uuid), mutations: vec![mutation] });
                    }
                    // A parent of ours that nobody wants goes in this transaction, and takes the row along.
                    goes |= wanted || self.is_ours(own, &parent);
                }
            }
        }
        out.removed.extend(goes.then_some(uuid));
    }
}

/// The mutations of a map by which each named pair becomes what is wanted.
fn replace_pairs<'a>(
    column: &'static str,
    pairs: impl Iterator<Item = (Arc<str>, Option<&'a str>, Option<&'a str>)>,
    out: &mut Vec<Mutation>,
) {
    let (mut stale, mut fresh) = (Vec::new(), Vec::new());
    for (key, want, have) in pairs.filter(|(_, want, have)| want != have) {
        // A map's insert leaves keys that are there alone (RFC 7047 §5.1): the old pair goes first.
        if let Some(have) = have {
            stale.push((Atom::String(Arc::clone(&key)), Atom::from(have)));
        }
        if let Some(want) = want {
            fresh.push((Atom::String(key), Atom::from(want)));
        }
    }
    if !stale.is_empty() {
        out.push(Mutation { column, mutator: Mutator::Delete, value: Datum::map(stale) });
    }
    if !fresh.is_empty() {
        out.push(Mutation { column, mutator: Mutator::Insert, value: Datum::map(fresh) });
    }
}

fn element_of(atom: &Atom, bindings: &Bindings) -> Element {
    match atom.as_uuid().and_then(|uuid| bindings.owner.get(&uuid)) {
        Some(key) => Element::Row(key.clone()),
        None => Element::Atom(atom.clone()),
    }
}

fn members_of(row: &DesiredRow, column: u16) -> impl Iterator<Item = &Element> {
    row.members.iter().filter(move |(c, _)| *c == column).map(|(_, element)| element)
}

fn entries_of(row: &DesiredRow, column: u16) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
    row.entries.iter().filter(move |((c, _), _)| *c == column).map(|((_, key), value)| (key, value))
}

fn unbind(key: &RowKey, replica: &Replica, bindings: &mut Bindings) {
    let uuid = bindings.adopted.remove(key).unwrap_or_else(|| key.uuid(replica.monitored().schema));
    bindings.owner.remove(&uuid);
}
