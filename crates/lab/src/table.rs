//! The look of our tables: a line under the header, and nothing else.

use comfy_table::{LineStyle, Table, TableStyle};

/// An empty table with its header.
pub(crate) fn headed(header: impl IntoIterator<Item = String>) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header(header.into_iter().collect::<Vec<_>>());
    table
}
