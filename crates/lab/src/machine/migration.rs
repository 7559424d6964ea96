//! A machine moves to another process of QEMU, and all that passes between its guest and the sessions' clients with it.
//!
//! QEMU copies the memory while the guest runs, stops it, and before the last of it (`pause-before-switchover`) lets us stop, too: what has
//! been said by then and not been heard goes along, so that no session loses a byte. If it comes to nothing all goes on here.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::handover::{self, Handover};
use super::line::Rest;
use super::qmp::Qmp;
use super::{Moved, Target};

/// With how little left to copy, in milliseconds, the guest is stopped. With none QEMU looks once at what has become dirty: after it has
/// stopped. An emulated processor of QEMU 7.2 that goes on afterwards writes by what it has cached of pages (its TLB) without being seen, so that another look
/// while it runs loses pages.
const DOWNTIME: u64 = 0;
/// Bytes a second, unless somebody says otherwise: as fast as it goes.
const BANDWIDTH: u64 = 1 << 32;

/// A migration under way.
#[derive(Debug)]
pub(crate) struct Migration {
    /// The session of the client that asked for it.
    pub(crate) session: u32,
    target: Target,
    /// What stands still while the last of the memory goes.
    pub(crate) frozen: Option<Frozen>,
}

/// Streams that nobody reads or writes.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) guest: Rest,
    pub(crate) clients: BTreeMap<u32, Rest>,
}

/// What QEMU says of a migration.
pub(crate) enum News {
    /// The guest has stopped, and what is left waits for us.
    Stopped,
    /// The guest runs there.
    Completed,
    /// The guest runs here.
    Failed,
}

impl News {
    pub(crate) fn of(event: &str, data: &Value) -> Option<Self> {
        match (event, data["status"].as_str()?) {
            ("MIGRATION", "pre-switchover") => Some(Self::Stopped),
            ("MIGRATION", "completed") => Some(Self::Completed),
            ("MIGRATION", "failed" | "cancelled") => Some(Self::Failed),
            _ => None,
        }
    }
}

impl Migration {
    /// Begins it.
    pub(crate) async fn begin(qmp: &mut Qmp, session: u32, target: Target) -> anyhow::Result<Self> {
        let capabilities = ["events", "pause-before-switchover"].map(|name| json!({ "capability": name, "state": true }));
        qmp.execute("migrate-set-capabilities", json!({ "capabilities": capabilities })).await?;
        let parameters = json!({ "max-bandwidth": target.bandwidth.unwrap_or(BANDWIDTH), "downtime-limit": DOWNTIME });
        qmp.execute("migrate-set-parameters", parameters).await?;
        qmp.execute("migrate", json!({ "uri": format!("unix:{}", target.memory.display()) })).await?;
        Ok(Self { session, target, frozen: None })
    }

    /// Lets the last of the memory go.
    pub(crate) async fn go_on(&mut self, qmp: &mut Qmp, frozen: Frozen) -> anyhow::Result<()> {
        self.frozen = Some(frozen);
        qmp.execute("migrate-continue", json!({ "state": "pre-switchover" })).await?;
        Ok(())
    }

    /// Calls it off.
    pub(crate) async fn cancel(qmp: &mut Qmp) -> anyhow::Result<()> {
        qmp.execute("migrate_cancel", json!({})).await.map(drop)
    }

    /// Hands over what stood still; yields what QEMU says of how long.
    pub(crate) async fn complete(self, qmp: &mut Qmp, last: u32) -> anyhow::Result<Moved> {
        let Frozen { guest, clients } = self.frozen.context("QEMU did not wait for what is under way")?;
        handover::send(self.target.netns, Handover { guest: (guest.read, guest.unwritten), clients, last }).await?;
        let told = loop {
            // It says that it is done before it has worked out how long it took, and nothing after.
            let told = qmp.execute("query-migrate", json!({})).await?;
            if told["total-time"].as_u64() != Some(0) {
                break told;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let milliseconds = |name: &str| told[name].as_u64().with_context(|| format!("query-migrate: no {name}"));
        Ok(Moved { downtime: milliseconds("downtime")?, total: milliseconds("total-time")? })
    }

    /// Why it came to nothing.
    pub(crate) async fn why(qmp: &mut Qmp) -> String {
        let told = qmp.execute("query-migrate", json!({})).await.unwrap_or_default();
        match (told["status"].as_str(), told["error-desc"].as_str()) {
            (Some("cancelled"), _) => "it was called off".to_owned(),
            (_, Some(why)) => why.to_owned(),
            _ => "QEMU does not say why".to_owned(),
        }
    }
}
