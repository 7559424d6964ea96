//! What ways out cost on real OVN, among few and many pods: rows, flows of one chassis, and `ovn-northd`'s time.

mod chassis;
mod plant;
mod scheme;

use linux::{Netns, netns};
use tokio::runtime::Builder;

use crate::report::{Report, Row, median, number};
use plant::Plant;
use scheme::{NODES, SUBNETS, Scheme};

const FEW: usize = 1_000;
const MANY: usize = 5_000;
/// Pods that are added one by one, of whose times the median is taken.
const ADDED: usize = 9;

/// What one way out costs at one number of pods, column by column.
#[derive(Clone, Copy)]
struct Cost([f64; 8]);

const COLUMNS: [(&str, &str); 8] = [
    ("NB routes", "rows"),
    ("NB policies", "rows"),
    ("NB port groups", "rows"),
    ("SB address sets", "rows"),
    ("SB logical flows", "rows"),
    ("OpenFlow flows of a chassis", "flows"),
    ("a pod until it is southbound", "ms"),
    ("northd computes for a pod", "ms"),
];
/// Routes, policies, port groups and address sets.
const ROWS: std::ops::Range<usize> = 0..4;
const OPENFLOW: usize = 5;

pub fn measure(report: &mut Report) {
    let costs = Scheme::ALL.map(|scheme| {
        let [few, many] = Namespace::new().measured(scheme);
        for (column, (what, unit)) in COLUMNS.into_iter().enumerate() {
            let row = Row::new(format!("egress, {}, 5,000 pods: {what}", scheme.name()), many.0[column], unit);
            report.add(row.against("1,000 pods", few.0[column]));
        }
        [few, many]
    });
    let [none, localnet] = [Scheme::None, Scheme::Localnet].map(|wanted| costs[Scheme::ALL.iter().position(|s| *s == wanted).unwrap()]);
    // What the way out adds, where the count is also of other things.
    let added = |at: usize| localnet[at].0[OPENFLOW] - none[at].0[OPENFLOW];
    let mut growth: Vec<_> = ROWS.map(|column| (COLUMNS[column].0.to_owned(), localnet[1].0[column] - localnet[0].0[column])).collect();
    growth.push(("OpenFlow flows for it".to_owned(), added(1) - added(0)));
    for (what, grown) in &growth {
        report.add(Row::new(format!("egress, localnet, 1,000 to 5,000 pods: more {what}"), *grown, "").exactly(0.0));
    }
    print(&costs);
    assert!(growth.iter().all(|(_, grown)| *grown == 0.0), "localnet grows with pods: {growth:?}");
}

fn print(costs: &[[Cost; 2]]) {
    println!("\n{NODES} nodes, {SUBNETS} subnets; OpenFlow flows of one chassis, and how many of them are for the way out");
    let titles =
        ["routes", "policies", "port groups", "address sets", "logical flows", "OpenFlow", "of it egress", "southbound", "northd computes"];
    println!("{:<26} {:>6} {}", "", "pods", titles.map(|title| format!("{title:>16}")).concat());
    for (scheme, of_scheme) in Scheme::ALL.iter().zip(costs) {
        for (at, (pods, Cost(cost))) in [FEW, MANY].into_iter().zip(of_scheme).enumerate() {
            let [routes, policies, groups, sets, logical, flows, southbound, northd] = cost.map(number);
            let egress = number(cost[OPENFLOW] - costs[0][at].0[OPENFLOW]);
            let cells = [routes, policies, groups, sets, logical, flows, egress, format!("{southbound} ms"), format!("{northd} ms")];
            println!("{:<26} {:>6} {}", scheme.name(), number(pods as f64), cells.map(|cell| format!("{cell:>16}")).concat());
        }
    }
    println!();
}

/// A network namespace for the switch of the real chassis; gone when dropped.
struct Namespace {
    name: String,
    netns: Netns,
}

impl Namespace {
    fn new() -> Self {
        let name = format!("fvb-{}", std::process::id());
        let netns = Netns::create(&name).unwrap();
        Self { name, netns }
    }

    /// What a way out costs among few pods, and among many.
    fn measured(&self, scheme: Scheme) -> [Cost; 2] {
        let folder = tempfile::tempdir().unwrap();
        // Processes begin in the namespace of the thread that starts them.
        let measured = self.netns.run(|| {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut plant = Plant::start(folder.path(), scheme).await;
                let few = cost(&mut plant, FEW).await;
                [few, cost(&mut plant, MANY).await]
            })
        });
        measured.unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = netns::delete(&self.name);
    }
}

async fn cost(plant: &mut Plant, pods: usize) -> Cost {
    plant.grow(pods).await;
    let flows = plant.settled_flows().await as f64;
    let rows = plant.rows().await;
    let rows = |table: &str| rows[table] as f64;
    let counts = ["Logical_Router_Static_Route", "Logical_Router_Policy", "Port_Group", "Address_Set", "Logical_Flow"].map(rows);
    let [routes, policies, groups, sets, logical] = counts;
    let (southbound, northd) = plant.add_one_by_one(ADDED).await;
    Cost([routes, policies, groups, sets, logical, flows, median(southbound), median(northd)])
}
