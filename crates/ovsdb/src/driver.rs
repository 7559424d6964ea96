//! The task that owns a connection: it goes from server to server until one serves.

use std::time::Duration;

use ovsdb_types::{Condition, Monitored, TableId, TableUpdates};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::{Client, Request, TransactError};
use crate::remote::Remotes;
use crate::session::{Ended, Progress, Session};
use crate::status::Status;
use crate::tls::Tls;

/// How to talk to the servers of a database.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where they listen.
    pub remotes: Remotes,
    /// What to monitor; tables and columns that the server lacks are left out.
    pub monitored: Monitored,
    /// The rows to monitor of some tables, which satisfy one of the conditions; all of the others.
    pub only: Vec<(TableId, Vec<Condition>)>,
    /// Whether only the server that leads a cluster will do. A writer wants that: a follower passes transactions on, and
    /// shows their effects later.
    pub leader: bool,
    /// Keys and certificates for `ssl` remotes.
    pub tls: Option<Tls>,
    /// Silence after which the peer is probed; twice as long without an answer ends the connection.
    pub probe: Duration,
    /// Greatest size of one message in bytes.
    pub limit: usize,
    /// First and longest pause between rounds of attempts to connect; it doubles in between.
    pub backoff: (Duration, Duration),
}

impl Options {
    /// Any server will do; messages up to 1 GiB, pauses from 50 ms. One server alone is probed after 5 s, with pauses of
    /// up to 4 s; where another may take over, these are 2 s and 500 ms.
    #[must_use]
    pub fn new(remotes: impl Into<Remotes>, monitored: Monitored) -> Self {
        let remotes = remotes.into();
        let alone = remotes.as_slice().len() == 1;
        let (probe, longest) = if alone { (5_000, 4_000) } else { (2_000, 500) };
        let backoff = (Duration::from_millis(50), Duration::from_millis(longest));
        Self {
            remotes,
            monitored,
            only: Vec::new(),
            leader: false,
            tls: None,
            probe: Duration::from_millis(probe),
            limit: 1 << 30,
            backoff,
        }
    }
}

/// What happens to a monitored database.
#[derive(Debug)]
pub enum Event {
    /// The whole content, in place of all that came before.
    Snapshot(Monitored, TableUpdates),
    /// Changes since the last event.
    Updates(TableUpdates),
    /// What the server at the other end says of the database; `None` when it does not serve it.
    Status(Option<Status>),
    /// The connection is gone, or a round of attempts has failed; transactions fail until the next snapshot or updates.
    Disconnected(String),
}

/// Owns the connection. Does nothing until [`Driver::run`] is awaited.
pub struct Driver {
    options: Options,
    requests: mpsc::Receiver<Request>,
    events: mpsc::Sender<Event>,
}

/// Prepares a connection: the handle, the events, and the driver, which the caller runs in a task that it owns.
#[must_use]
pub fn connect(options: Options) -> (Client, mpsc::Receiver<Event>, Driver) {
    let (request_tx, requests) = mpsc::channel(256);
    let (events, event_rx) = mpsc::channel(64);
    let client = Client { database: options.monitored.schema.name, requests: request_tx };
    (client, event_rx, Driver { options, requests, events })
}

impl Driver {
    /// Runs until all handles, or the receiver of events, are dropped.
    pub async fn run(mut self) {
        let remotes = self.options.remotes.clone();
        let mut progress = Progress::default();
        let mut pause = self.options.backoff.0;
        let mut failures = Vec::new();
        for remote in remotes.as_slice().iter().cycle() {
            let mut session = Session::new(&self.options, &self.events, &mut progress);
            let ended = match timeout(self.options.probe, remote.open(self.options.tls.as_ref())).await {
                Ok(Ok(stream)) => session.run(stream, &mut self.requests).await,
                Ok(Err(error)) => Ended::Io(error),
                Err(_) => Ended::Silent(self.options.probe),
            };
            let served = session.has_served();
            if matches!(ended, Ended::Stopped) || self.events.is_closed() {
                return;
            }
            let reason = format!("{remote}: {ended}");
            tracing::debug!(%reason, "database connection ended");
            if served {
                // Whoever follows it, another server may serve by now: a new round begins with the next one.
                pause = self.options.backoff.0;
                failures.clear();
                if self.events.send(Event::Disconnected(reason.clone())).await.is_err() {
                    return;
                }
            }
            failures.push(reason);
            if failures.len() < remotes.as_slice().len() {
                continue;
            }
            let reasons = std::mem::take(&mut failures).join("; ");
            if !served && self.events.send(Event::Disconnected(reasons)).await.is_err() {
                return;
            }
            if self.rest(pause).await.is_err() {
                return;
            }
            pause = (pause * 2).min(self.options.backoff.1);
        }
    }

    /// Pauses, and answers transactions meanwhile. Fails when nobody is left to work for.
    async fn rest(&mut self, pause: Duration) -> Result<(), ()> {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                () = self.events.closed() => return Err(()),
                request = self.requests.recv() => match request {
                    // The caller may have given up; then nobody wants the answer.
                    Some(request) => drop(request.reply.send(Err(TransactError::NotConnected))),
                    None => return Err(()),
                },
            }
        }
    }
}
