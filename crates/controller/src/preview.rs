//! What the controller would do to the northbound database, without doing it.

use std::collections::BTreeMap;
use std::fmt;

use api::{DEFAULT_VPC, VENDOR};
use ovsdb_types::{Atom, Condition, Datum, Monitored, Mutator, Operation, Replica, TableId, nb};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use topology::northbound;
use uuid::Uuid;

use crate::config::Config;
use crate::core::{Batch, Core};
use crate::inputs::{self, Input, Key};
use crate::metrics::Metrics;
use crate::run::defaults;

/// What the first commit of a controller would change, and what it would leave alone.
#[derive(Debug, Default)]
pub struct Preview {
    /// Objects that would be created in Kubernetes.
    pub created: Vec<String>,
    /// Facts that only the database knows, and where in Kubernetes they would be recorded.
    pub imported: Vec<String>,
    /// Rows that would be added, by table and name.
    pub added: Vec<String>,
    /// Changes of rows that keep their identifiers: column by column, as it is and as it would be.
    pub changed: Vec<String>,
    /// Rows that would be removed.
    pub removed: Vec<String>,
    /// Rows with the mark of this controller or an earlier one that stay because no feature claims them, by table.
    pub kept: BTreeMap<&'static str, usize>,
    /// Why the commit would be held until a person confirms it.
    pub held: Option<String>,
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, lines) in [
            ("Created in Kubernetes", &self.created),
            ("Taken over and recorded", &self.imported),
            ("Added", &self.added),
            ("Changed in place", &self.changed),
            ("Removed, since no object asks for them", &self.removed),
        ] {
            if !lines.is_empty() {
                writeln!(f, "{title}: {}", lines.len())?;
            }
            for line in lines {
                writeln!(f, "  {line}")?;
            }
        }
        if !self.kept.is_empty() {
            writeln!(f, "Kept, since no feature claims them: {}", self.kept.values().sum::<usize>())?;
        }
        for (table, count) in &self.kept {
            writeln!(f, "  {table}: {count}")?;
        }
        if let Some(held) = &self.held {
            writeln!(f, "Would be held: {held}")?;
        }
        let (added, changed, removed) = (self.added.len(), self.changed.len(), self.removed.len());
        write!(f, "Northbound rows: {added} added, {changed} changed in place, {removed} removed; nothing was written.")
    }
}

/// Reads the cluster and the database as a controller that starts does, and says what its first commit would be. Returns
/// `None` when it was stopped before both were known. Writes nothing.
pub async fn preview(client: kube::Client, config: Config, shutdown: CancellationToken) -> Option<Preview> {
    let (input_tx, mut inputs) = mpsc::channel(4096);
    let options = ovsdb::Options::new(config.northbound.clone(), everything_marked());
    // The leader has everything that is committed.
    let (_database, mut events, driver) = ovsdb::connect(ovsdb::Options { leader: true, tls: config.tls.clone(), ..options });
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    let keep_vm_ip = config.keep_vm_ip;
    tasks.spawn(async move { inputs::watch(client, keep_vm_ip, input_tx).await });
    let mut core = Core::new(config.clone(), Metrics::default());
    while !core.is_ready() {
        tokio::select! {
            () = shutdown.cancelled() => return None,
            Some(input) = inputs.recv() => core.input(input),
            Some(event) = events.recv() => core.northbound(event),
        }
    }
    let mut preview = Preview::default();
    let (vpc, subnets) = defaults(&config);
    if core.lacks(&Key::Vpc(DEFAULT_VPC.into())) {
        preview.created.push(format!("Vpc {DEFAULT_VPC}"));
        core.input(Input::Set(Box::new(inputs::vpc(&vpc))));
    }
    for subnet in subnets {
        let name = subnet.metadata.name.as_deref().unwrap_or_default();
        if core.lacks(&Key::Subnet(name.into())) {
            preview.created.push(format!("Subnet {name} {}", subnet.spec.cidr_block.as_deref().unwrap_or_default()));
            core.input(Input::Set(Box::new(inputs::subnet(&subnet))));
        }
    }
    // In the term that the database knows, so that no other one need begin.
    let epoch = core.shown_epoch()?;
    core.lead(epoch);
    let batch = core.plan(std::time::Instant::now());
    let replica = core.replica()?;
    for (subnet, mac) in core.gateway_macs() {
        preview.imported.push(format!("MAC {mac} of the gateway of Subnet {subnet}, as annotation {}", api::annotations::GATEWAY_MAC));
    }
    explain(&batch, replica, &mut preview);
    count_kept(&batch, replica, &mut preview);
    preview.held = core.held();
    Some(preview)
}

/// What the controller monitors, and of all other tables what tells whose a row is.
fn everything_marked() -> Monitored {
    let mut monitored = northbound::monitored();
    for index in 0..nb::SCHEMA.tables.len() {
        let table = TableId(u16::try_from(index).unwrap_or(u16::MAX));
        let known = monitored.tables.iter().any(|(known, _)| *known == table);
        if let (false, Some(mark)) = (known, nb::SCHEMA.table(table).column_index("external_ids")) {
            monitored.tables.push((table, vec![mark]));
        }
    }
    monitored
}

fn explain(batch: &Batch, replica: &Replica, preview: &mut Preview) {
    let mut rows = Rows { replica, added: BTreeMap::new() };
    for operation in &batch.operations {
        if let Operation::Insert { table, uuid: Some(uuid), row, .. } = operation {
            let name = row.iter().find(|(column, _)| *column == "name").map_or_else(String::new, |(_, name)| rows.text(name));
            rows.added.insert(*uuid, format!("{table} {name}"));
        }
    }
    let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for operation in &batch.operations {
        match operation {
            Operation::Update { table, condition, row } => {
                let Some(uuid) = uuid_of(condition) else { continue };
                for (column, value) in row {
                    let now = observed(replica, table, uuid, column).map_or_else(String::new, |now| rows.text(now));
                    changes.entry(rows.label(uuid)).or_default().push(format!("{column} {now} becomes {}", rows.text(value)));
                }
            }
            // The row that everybody shares carries our term and mark.
            Operation::Mutate { table, condition, mutations } if *table != "NB_Global" => {
                let Some(uuid) = uuid_of(condition) else { continue };
                for mutation in mutations {
                    let sign = if mutation.mutator == Mutator::Insert { "gains" } else { "loses" };
                    let change = format!("{} {sign} {}", mutation.column, rows.text(&mutation.value));
                    let known = changes.entry(rows.label(uuid)).or_default();
                    if !known.contains(&change) {
                        known.push(change);
                    }
                }
            }
            _ => {}
        }
    }
    preview.changed.extend(changes.into_iter().map(|(row, changes)| format!("{row}: {}", changes.join("; "))));
    preview.removed.extend(batch.removed.iter().map(|uuid| rows.label(*uuid)));
    preview.removed.sort_unstable();
    preview.added.extend(rows.added.into_values());
    preview.added.sort_unstable();
}

fn count_kept(batch: &Batch, replica: &Replica, preview: &mut Preview) {
    let owned: Vec<TableId> = northbound::monitored().tables.iter().map(|(table, _)| *table).collect();
    for (table, _) in &replica.monitored().tables {
        let schema = nb::SCHEMA.table(*table);
        let Some(mark) = schema.column_index("external_ids") else { continue };
        if owned.contains(table) {
            continue;
        }
        let marked = replica.rows(*table).filter(|row| row.value(mark).and_then(|ids| ids.get("vendor")) == Some(VENDOR)).count();
        if marked > 0 {
            preview.kept.insert(schema.name, marked);
        }
    }
    if batch.kept > 0 {
        preview.kept.insert("switches, routers and what belongs to them", batch.kept);
    }
}

/// The row that an operation is about.
fn uuid_of(condition: &[Condition]) -> Option<Uuid> {
    condition.iter().find(|c| c.column == "_uuid").and_then(|c| c.value.atoms().first()?.as_uuid())
}

fn observed<'a>(replica: &'a Replica, table: &str, uuid: Uuid, column: &str) -> Option<&'a Datum> {
    let table = nb::SCHEMA.table_id(table)?;
    replica.get(table, uuid)?.value(nb::SCHEMA.table(table).column_index(column)?)
}

/// What rows are called, those that are there and those that would be added.
struct Rows<'a> {
    replica: &'a Replica,
    added: BTreeMap<Uuid, String>,
}

impl Rows<'_> {
    /// A row by table and name.
    fn label(&self, uuid: Uuid) -> String {
        if let Some(name) = self.added.get(&uuid) {
            return name.clone();
        }
        for (table, _) in &self.replica.monitored().tables {
            if let Some(row) = self.replica.get(*table, uuid) {
                let schema = nb::SCHEMA.table(*table);
                let name = schema.column_index("name").and_then(|column| row.value(column)?.as_str());
                return format!("{} {}", schema.name, name.map_or_else(|| uuid.to_string(), str::to_owned));
            }
        }
        uuid.to_string()
    }

    fn text(&self, datum: &Datum) -> String {
        let atom = |atom: &Atom| match (atom.as_str(), atom.as_uuid()) {
            (Some(text), _) => text.to_owned(),
            (_, Some(uuid)) => self.label(uuid),
            _ => format!("{atom:?}"),
        };
        match datum {
            Datum::One(one) => atom(one),
            Datum::Set(atoms) => format!("[{}]", atoms.iter().map(atom).collect::<Vec<_>>().join(", ")),
            Datum::Map(pairs) => {
                format!("{{{}}}", pairs.iter().map(|(k, v)| format!("{}={}", atom(k), atom(v))).collect::<Vec<_>>().join(", "))
            }
        }
    }
}
