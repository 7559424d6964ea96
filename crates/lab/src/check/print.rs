//! The checks as a matrix: a row per source, a column per target.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment};

use super::{Check, Checked};
use crate::table::headed;

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
    let header = ["", "pod", "node", "VPC", "subnet", "addresses"].map(str::to_owned).into_iter().chain(headings);
    let mut table = headed(header);
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
    let mut hosts: Vec<_> =
        checked.pairs.iter().map(|check| &check.from).filter(|from| !targets[..checked.pods.len()].contains(from)).collect();
    hosts.sort();
    hosts.dedup();
    for host in hosts {
        let mut cells: Vec<Cell> = ["", host, host, "", "", ""].map(Cell::new).into_iter().collect();
        for target in &targets {
            let between: Vec<_> = checked.pairs.iter().filter(|check| check.from == *host && check.to == *target).collect();
            cells.push(Cell::new(mark(&between)).set_alignment(CellAlignment::Center));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Kind, Leaves, PodIntent};
    use crate::{Datapath, Tunnel};

    fn pod(name: &str, vpc: &str) -> PodIntent {
        let addresses = vec!["10.0.0.2".parse().unwrap()];
        let [pod, uid, node, vpc, subnet] = [name, name, "node1", vpc, vpc].map(str::to_owned);
        PodIntent { pod, uid, node, vpc, subnet, addresses, gateways: vec![], leaves: Leaves::Never }
    }

    fn check(from: &str, to: &str, expected: bool, observed: bool) -> Check {
        let (from, to, detail) = (from.to_owned(), to.to_owned(), if observed { String::new() } else { "nothing within 8s".to_owned() });
        Check { from, to, address: "10.0.0.2".parse().unwrap(), kind: Kind::Tcp, expected, observed, detail, microseconds: 1 }
    }

    #[test]
    fn a_difference_is_marked_and_explained() {
        let pairs = vec![
            check("n/a", "n/b", true, true),
            check("n/a", "n/c", false, true),
            check("n/b", "n/a", true, false),
            check("n/c", "n/a", false, false),
            check("node1", "n/b", true, true),
        ];
        let checked = Checked {
            lab: "lab".to_owned(),
            tunnel: Tunnel::Geneve,
            datapath: Datapath::Netdev,
            checks: 5,
            differing: 2,
            skipped: vec![],
            notes: vec![],
            pods: vec![pod("n/a", "red"), pod("n/b", "red"), pod("n/c", "blue")],
            pairs,
        };
        let text = table(&checked);
        assert!(text.contains("✗ n/a → n/c (10.0.0.2) tcp: expected not to reach it, but did"), "{text}");
        assert!(text.contains("✗ n/b → n/a (10.0.0.2) tcp: expected to reach it, but nothing within 8s"), "{text}");
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().split_whitespace().rev().take(2).collect::<Vec<_>>();
        assert!(text.lines().any(|line| line.contains("node1") && line.contains("●") && !line.contains("n/")), "{text}");
        assert_eq!((row("n/a"), row("n/c")), (vec!["✗", "●"], vec!["·", "10.0.0.2"]));
    }
}
