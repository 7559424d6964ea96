//! `ovn-northd`, kept running, and held while the northbound database is not complete.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Config;
use crate::daemon::Daemon;
use crate::database::Database;
use crate::kept::{Kept, Restart};
use crate::state::State;
use crate::unixctl;

/// Time from one look at its connections to the next.
const PROBE: Duration = Duration::from_millis(500);

/// How often in a row it may be seen without a connection: the first time, and at most.
const PROBES: (u32, u32) = (2, 16);

/// The program, and whether it may work.
pub(crate) struct Northd {
    daemon: Daemon,
    hold: bool,
    /// Whether it may work, once that is known. Who changes that, or starts the program, holds the lock until it is so.
    released: Mutex<Option<bool>>,
    state: Arc<watch::Sender<State>>,
}

impl Northd {
    pub(crate) fn new(config: &Config, state: Arc<watch::Sender<State>>) -> Self {
        let mut arguments = vec![
            format!("--ovnnb-db={}", Database::Northbound.remotes(config)),
            format!("--ovnsb-db={}", Database::Southbound.remotes(config)),
        ];
        if config.hold {
            // Despite its name: it starts paused (ovn-northd(8)).
            arguments.push("--dry-run".to_owned());
        }
        arguments.extend(crate::database::tls_arguments(config));
        let daemon = Daemon { program: "ovn-northd", name: "ovn-northd", run: config.run.clone(), arguments };
        Self { daemon, hold: config.hold, released: Mutex::new((!config.hold).then_some(true)), state }
    }

    fn socket(&self, pid: u32) -> PathBuf {
        self.daemon.run.join(format!("ovn-northd.{pid}.ctl"))
    }

    /// Sees to it that it does nothing, before this returns.
    pub(crate) async fn pause(&self) {
        self.set(false).await;
    }

    /// Lets it work.
    pub(crate) async fn release(&self) {
        self.set(true).await;
    }

    async fn set(&self, released: bool) {
        if !self.hold {
            return;
        }
        let mut current = self.released.lock().await;
        if *current == Some(released) {
            return;
        }
        tracing::info!("{}", if released { "ovn-northd released" } else { "ovn-northd held" });
        *current = Some(released);
        self.state.send_modify(|state| state.northd.released = released);
        self.apply(released).await;
    }

    async fn apply(&self, released: bool) {
        let Some(process) = self.daemon.running() else { return };
        let verb = if released { "resume" } else { "pause" };
        if let Err(error) = unixctl::command(&self.socket(process.pid()), verb, &[]).await {
            // One that does not listen must not go on either; the next one starts paused.
            tracing::error!(error = format!("{error:#}"), "ovn-northd does not obey, and is ended");
            if let Err(error) = Daemon::stop(process).await {
                tracing::error!(error = format!("{error:#}"), "ovn-northd cannot be ended");
            }
        }
    }

    /// Ends it when it stays without a database that is there: after some failures it waits up to 8 s for its next attempt
    /// (ovsdb(7), "Reconnection"), while a new process connects at once.
    pub(crate) async fn keep_connected(&self, restarts: &mpsc::Sender<Restart>) -> anyhow::Result<()> {
        let mut ticks = interval(PROBE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut missed, mut patience) = (0, PROBES.0);
        loop {
            ticks.tick().await;
            let served = {
                let state = self.state.borrow();
                state.nb.connected && state.sb.connected
            };
            let process = self.daemon.running().filter(|_| served);
            let Some(process) = process else { continue };
            let mut connected = true;
            for database in ["nb-connection-status", "sb-connection-status"] {
                let said = unixctl::command(&self.socket(process.pid()), database, &[]).await;
                connected &= said.is_ok_and(|said| said.trim() != "not connected");
            }
            if connected {
                (missed, patience) = (0, PROBES.0);
                continue;
            }
            missed += 1;
            if missed >= patience {
                // Longer each time: it may be the database that is slow.
                (missed, patience) = (0, (patience * 2).min(PROBES.1));
                tracing::warn!("ovn-northd is not connected to a database that is there, and is started afresh");
                let (done, is_done) = oneshot::channel();
                restarts.send(done).await?;
                is_done.await?;
            }
        }
    }

    /// Keeps it running.
    pub(crate) async fn keep(&self, config: &Config, restarts: mpsc::Receiver<Restart>) -> anyhow::Result<()> {
        let mut kept = Kept::new(restarts, config.backoff);
        // It tries a database that is not there only once a second.
        self.state.subscribe().wait_for(|state| state.nb.connected && state.sb.connected).await?;
        loop {
            kept.turn().await;
            let begun = {
                let released = self.released.lock().await;
                let begun = match self.daemon.running() {
                    Some(process) => Ok(process),
                    None => self.daemon.start().await,
                };
                if let (true, Ok(_), Some(released)) = (self.hold, &begun, *released) {
                    self.apply(released).await;
                }
                begun
            };
            match begun {
                Ok(process) => {
                    tracing::info!(pid = process.pid(), "ovn-northd runs");
                    kept.runs();
                    self.state.send_modify(|state| (state.northd.pid, state.northd.problem) = (Some(process.pid()), None));
                    kept.ended(process).await?;
                    tracing::warn!("ovn-northd has ended");
                    self.state.send_modify(|state| {
                        state.northd.pid = None;
                        state.northd.restarts += 1;
                    });
                }
                Err(error) => {
                    let problem = format!("{error:#}");
                    tracing::error!(problem);
                    kept.failed();
                    self.state.send_modify(|state| state.northd.problem = Some(problem));
                }
            }
        }
    }
}
