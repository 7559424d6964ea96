//! All services of a host, together.

use std::fs;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::backup;
use crate::config::Config;
use crate::control::{self, Services};
use crate::database::Database;
use crate::northd::Northd;
use crate::state::State;

/// Runs until `shutdown`; the databases and `ovn-northd` go on without us. Calls `ready` once both databases serve and
/// `ovn-northd` runs.
///
/// # Errors
/// When the configuration cannot work, or the control socket fails.
pub async fn run(
    config: Config,
    listener: UnixListener,
    ready: impl FnOnce() -> anyhow::Result<()>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    anyhow::ensure!(config.cluster.is_none() || config.address.is_some(), "members of a cluster need an address of their own");
    for folder in [&config.data, &config.run] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let state = Arc::new(watch::Sender::new(State::default()));
    state.send_modify(|state| state.northd.released = !config.hold);
    let northd = Northd::new(&config, Arc::clone(&state));
    let channel = || mpsc::channel(8);
    let ((nb, nb_restarts), (sb, sb_restarts), (northd_tx, northd_restarts)) = (channel(), channel(), channel());
    let services = Services { state: Arc::clone(&state), nb, sb, northd: northd_tx.clone() };
    let mut states = state.subscribe();
    let announce = async {
        if states.wait_for(State::is_ready).await.is_ok() {
            ready()?;
        }
        std::future::pending().await
    };
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        failed = announce => failed,
        failed = control::serve(listener, services) => failed,
        failed = backup::keep(&config) => failed,
        failed = northd.keep(&config, northd_restarts) => failed.context("ovn-northd"),
        failed = northd.keep_connected(&northd_tx) => failed.context("ovn-northd"),
        failed = Database::Northbound.keep(&config, &northd, &state, nb_restarts) => failed.context("northbound database"),
        failed = Database::Southbound.keep(&config, &northd, &state, sb_restarts) => failed.context("southbound database"),
    }
}
