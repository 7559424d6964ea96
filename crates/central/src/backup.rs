//! Copies of the databases: each is a database of its own, which `ovsdb-server` serves and `ovsdb-tool create-cluster` takes.

use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{Backups, Config};
use crate::database::Database;

/// Copies both databases at once, and then every so often.
pub(crate) async fn keep(config: &Config) -> anyhow::Result<()> {
    let Some(backups) = &config.backups else { return std::future::pending().await };
    let mut ticks = interval(backups.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for database in [Database::Northbound, Database::Southbound] {
            match copy(config, backups, database).await {
                Ok(()) => prune(backups, database),
                Err(error) => tracing::error!(database = database.schema(), error = format!("{error:#}"), "no copy made"),
            }
        }
    }
}

async fn copy(config: &Config, backups: &Backups, database: Database) -> anyhow::Result<()> {
    std::fs::create_dir_all(&backups.folder).with_context(|| format!("cannot create {}", backups.folder.display()))?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    // Names sort by age until the year 2286.
    let path = backups.folder.join(format!("{}-{seconds}.db", database.stem()));
    let draft = backups.folder.join(format!("{}.draft", database.stem()));
    let file = std::fs::File::create(&draft).with_context(|| format!("cannot create {}", draft.display()))?;
    let written = file.try_clone().with_context(|| format!("cannot write {}", draft.display()))?;
    let remote = format!("unix:{}", database.socket(config).display());
    let mut command = Command::new("ovsdb-client");
    command.args(["--timeout=60", "backup", &remote, database.schema()]).stdin(Stdio::null()).stdout(file).stderr(Stdio::piped());
    let copied = command.spawn().context("cannot execute ovsdb-client")?.wait_with_output().await?;
    ensure!(copied.status.success(), "ovsdb-client backup: {}", String::from_utf8_lossy(&copied.stderr).trim());
    written.sync_all().and_then(|()| std::fs::rename(&draft, &path)).with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(copy = %path.display(), "database copied");
    Ok(())
}

fn prune(backups: &Backups, database: Database) {
    let mut copies = copies(&backups.folder, database);
    copies.sort_unstable();
    let excess = copies.len().saturating_sub(backups.keep);
    for old in copies.drain(..excess) {
        let path = backups.folder.join(old);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(copy = %path.display(), %error, "old copy stays");
        }
    }
}

fn copies(folder: &Path, database: Database) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("{}-", database.stem())) && name.ends_with(".db")).collect()
}
