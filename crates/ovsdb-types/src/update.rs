//! `monitor_cond_since` replies and `update3` notifications (ovsdb-server(7) §4.1.14), parsed straight into typed rows.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use uuid::Uuid;

use crate::datum::DatumSeed;
use crate::text::TextSeed;
use crate::{DatabaseSchema, Datum, TableId, TableSchema};

/// The tables and columns of a database that a replica holds.
#[derive(Clone, Debug)]
pub struct Monitored {
    /// Schema that table and column numbers refer to.
    pub schema: &'static DatabaseSchema,
    /// Tables with the numbers of their columns, ascending.
    pub tables: Vec<(TableId, Vec<u16>)>,
}

impl Monitored {
    /// All columns of the given tables.
    #[must_use]
    pub fn tables(schema: &'static DatabaseSchema, tables: &[TableId]) -> Self {
        let columns = |id: &TableId| (0..u16::try_from(schema.table(*id).columns.len()).unwrap_or(u16::MAX)).collect();
        Self { schema, tables: tables.iter().map(|id| (*id, columns(id))).collect() }
    }

    /// The columns held of `table`.
    #[must_use]
    pub fn columns(&self, table: TableId) -> Option<&[u16]> {
        self.tables.iter().find(|(id, _)| *id == table).map(|(_, columns)| columns.as_slice())
    }
}

/// What happened to a row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowUpdate {
    /// The row is there; columns that are not named hold their defaults.
    Present(Vec<(u16, Datum)>),
    /// Columns changed: scalars by replacement, sets and maps by difference.
    Modify(Vec<(u16, Datum)>),
    /// The row is gone.
    Delete,
}

/// Updates by table and row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableUpdates(pub Vec<(TableId, Vec<(Uuid, RowUpdate)>)>);

/// Reads [`TableUpdates`] of a monitored database.
#[derive(Clone, Copy)]
pub struct TableUpdatesSeed<'a>(pub &'a Monitored);

impl<'de> DeserializeSeed<'de> for TableUpdatesSeed<'_> {
    type Value = TableUpdates;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<TableUpdates, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TableUpdatesSeed<'_> {
    type Value = TableUpdates;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of table updates")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TableUpdates, A::Error> {
        let mut tables = Vec::new();
        let known = |name: &str| {
            let id = self.0.schema.table_id(name).filter(|id| self.0.columns(*id).is_some());
            id.ok_or_else(|| format!("an update of table {name:?}, which is not monitored"))
        };
        while let Some(id) = map.next_key_seed(TextSeed(known))? {
            tables.push((id, map.next_value_seed(RowsSeed(self.0.schema.table(id)))?));
        }
        Ok(TableUpdates(tables))
    }
}

struct RowsSeed(&'static TableSchema);

impl<'de> DeserializeSeed<'de> for RowsSeed {
    type Value = Vec<(Uuid, RowUpdate)>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowsSeed {
    type Value = Vec<(Uuid, RowUpdate)>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row updates of table {}", self.0.name)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut rows = Vec::new();
        while let Some(uuid) = map.next_key::<Uuid>()? {
            rows.push((uuid, map.next_value_seed(RowUpdateSeed(self.0))?));
        }
        Ok(rows)
    }
}

enum Kind {
    Present,
    Modify,
    Delete,
}

struct RowUpdateSeed(&'static TableSchema);

impl<'de> DeserializeSeed<'de> for RowUpdateSeed {
    type Value = RowUpdate;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<RowUpdate, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowUpdateSeed {
    type Value = RowUpdate;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a row update of table {}", self.0.name)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RowUpdate, A::Error> {
        let kind = TextSeed(|name: &str| match name {
            "initial" | "insert" => Ok(Kind::Present),
            "modify" => Ok(Kind::Modify),
            "delete" => Ok(Kind::Delete),
            other => Err(format!("{other:?} is no kind of row update")),
        });
        let update = match map.next_key_seed(kind)?.ok_or_else(|| de::Error::custom("an empty row update"))? {
            Kind::Present => RowUpdate::Present(map.next_value_seed(RowSeed(self.0))?),
            Kind::Modify => RowUpdate::Modify(map.next_value_seed(RowSeed(self.0))?),
            Kind::Delete => {
                map.next_value::<IgnoredAny>()?;
                RowUpdate::Delete
            }
        };
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(de::Error::custom("a row update of two kinds"));
        }
        Ok(update)
    }
}

struct RowSeed(&'static TableSchema);

impl<'de> DeserializeSeed<'de> for RowSeed {
    type Value = Vec<(u16, Datum)>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed {
    type Value = Vec<(u16, Datum)>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "columns of table {}", self.0.name)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut columns = Vec::new();
        let known = |name: &str| self.0.column_index(name).ok_or_else(|| format!("unknown column {}.{name}", self.0.name));
        while let Some(index) = map.next_key_seed(TextSeed(known))? {
            columns.push((index, map.next_value_seed(DatumSeed(self.0.column(index)))?));
        }
        Ok(columns)
    }
}
