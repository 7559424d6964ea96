//! Schemas as constants, and columns that know their Rust type.

use std::marker::PhantomData;

/// The type of an atom (RFC 7047 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomType {
    /// 64-bit signed integer.
    Integer,
    /// Double-precision number.
    Real,
    /// Truth value.
    Boolean,
    /// UTF-8 text.
    String,
    /// Identifier of a row.
    Uuid,
}

/// A database schema.
#[derive(Debug)]
pub struct DatabaseSchema {
    /// Name, such as `OVN_Northbound`.
    pub name: &'static str,
    /// Version of the schema file that the module was generated from.
    pub version: &'static str,
    /// Tables in alphabetical order; a [`TableId`] is an index.
    pub tables: &'static [TableSchema],
}

/// A table.
#[derive(Debug)]
pub struct TableSchema {
    /// Name, such as `Logical_Switch`.
    pub name: &'static str,
    /// Whether rows live without being referred to. Others vanish with their last strong reference (RFC 7047 §3.2).
    pub root: bool,
    /// Columns in alphabetical order; a column number is an index.
    pub columns: &'static [ColumnSchema],
    /// Sets of columns whose values are unique among the rows.
    pub unique: &'static [&'static [&'static str]],
}

/// A column.
#[derive(Debug)]
pub struct ColumnSchema {
    /// Name.
    pub name: &'static str,
    /// Type of the scalar, of a set's elements, or of a map's keys.
    pub key: AtomType,
    /// Type of a map's values; `None` when the column is no map.
    pub value: Option<AtomType>,
    /// Least number of elements.
    pub min: u32,
    /// Greatest number of elements; `u32::MAX` for no limit.
    pub max: u32,
    /// Table that the identifiers of `key` refer to.
    pub references: Option<&'static str>,
    /// Whether a reference keeps the row alive.
    pub strong: bool,
}

/// Number of a table in its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u16);

/// A column of a known table and Rust type.
pub struct Column<T> {
    /// Table that the column belongs to.
    pub table: TableId,
    /// Number of the column in its table.
    pub index: u16,
    of: PhantomData<fn() -> T>,
}

impl<T> Column<T> {
    /// The column with number `index` of `table`.
    #[must_use]
    pub const fn new(table: TableId, index: u16) -> Self {
        Self { table, index, of: PhantomData }
    }
}

impl<T> Clone for Column<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Column<T> {}

impl DatabaseSchema {
    /// The table with number `id`.
    #[must_use]
    pub fn table(&self, id: TableId) -> &'static TableSchema {
        &self.tables[usize::from(id.0)]
    }

    /// The number of the table called `name`.
    #[must_use]
    pub fn table_id(&self, name: &str) -> Option<TableId> {
        let at = self.tables.binary_search_by(|t| t.name.cmp(name)).ok()?;
        u16::try_from(at).ok().map(TableId)
    }
}

impl TableSchema {
    /// The number of the column called `name`.
    #[must_use]
    pub fn column_index(&self, name: &str) -> Option<u16> {
        let at = self.columns.binary_search_by(|c| c.name.cmp(name)).ok()?;
        u16::try_from(at).ok()
    }

    /// The column with number `index`.
    #[must_use]
    pub fn column(&self, index: u16) -> &'static ColumnSchema {
        &self.columns[usize::from(index)]
    }
}
