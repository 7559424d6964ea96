//! The checks as a matrix: a row per source, a column per target.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{Check, Checked};

/// What a cell of the matrix says of the checks between two.
fn mark(checks: &[&Check]) -> &'static str {
    match checks {
        [] => "",
        _ if checks.iter().any(|check| check.expected != check.observed) => "✗",
        _ if checks.iter().all(|check| check.expected) => "●",
        _ => "·",
    }
}

/// Prints the matrix, its legend, and each difference on a line.
#[must_use]
pub fn table(checked: &Checked) -> String {
    let mut targets: Vec<String> = checked.pods.iter().map(|pod| pod.pod.clone()).collect();
    let mut others: Vec<_> = checked.pairs.iter().map(|check| &check.to).filter(|to| !targets.contains(to)).cloned().collect();
    others.sort();
    others.dedup();
    let headings = (1..=targets.len()).map(|number| number.to_string()).chain(others.iter().cloned());
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let header = ["", "pod", "node", "VPC", "subnet", "addresses"].map(str::to_owned).into_iter().chain(headings);
    table.set_header(header);
    targets.extend(others);
    for (row, pod) in checked.pods.iter().enumerate() {
        let addresses = pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let number = (row + 1).to_string();
        let mut cells: Vec<Cell> = [&number, &pod.pod, &pod.node, &pod.vpc, &pod.subnet, &addresses].map(Cell::new).into_iter().collect();
        for (column, target) in targets.iter().enumerate() {
            let between: Vec<_> = checked.pairs.iter().filter(|check| check.from == pod.pod && check.to == *target).collect();
            let text = if row == column { "" } else { mark(&between) };
            cells.push(Cell::new(text).set_alignment(CellAlignment::Center));
        }
        table.add_row(cells);
    }
    let mut text = format!("{table}\n● reached, as expected   · not reached, as expected   ✗ differs\n");
    for check in checked.pairs.iter().filter(|check| check.expected != check.observed) {
        let Check { from, to, address, kind, detail, .. } = check;
        let kind = format!("{kind:?}").to_lowercase();
        let _ = match check.expected {
            true => writeln!(text, "✗ {from} → {to} ({address}) {kind}: expected to reach it, but {detail}"),
            false => writeln!(text, "✗ {from} → {to} ({address}) {kind}: expected not to reach it, but did"),
        };
    }
    for skipped in &checked.skipped {
        let _ = writeln!(text, "not checked: {}: {}", skipped.pod, skipped.reason);
    }
    for note in &checked.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let Checked { lab, tunnel, datapath, checks, differing, .. } = checked;
    let _ = writeln!(text, "lab {lab}, {} tunnels, {} datapath: {checks} checks, {differing} differ", tunnel.as_str(), datapath.as_str());
    text
}
