//! The task that owns a connection.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use ovsdb_types::{Monitored, TableUpdates};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::{Client, Reply, Request, TransactError};
use crate::frame::Framer;
use crate::remote::{Remote, Stream};
use crate::wire::{self, Message, ServerSchema, WireError};

/// How to talk to a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub remote: Remote,
    /// What to monitor; tables and columns that the server lacks are left out.
    pub monitored: Monitored,
    /// Silence after which the peer is probed; twice as long without an answer ends the connection.
    pub probe: Duration,
    /// Greatest size of one message in bytes.
    pub limit: usize,
    /// First and longest pause between attempts to connect; it doubles in between.
    pub backoff: (Duration, Duration),
}

impl Options {
    /// Probes after 5 s, messages up to 1 GiB, back-off from 50 ms to 4 s.
    #[must_use]
    pub const fn new(remote: Remote, monitored: Monitored) -> Self {
        let backoff = (Duration::from_millis(50), Duration::from_secs(4));
        Self { remote, monitored, probe: Duration::from_secs(5), limit: 1 << 30, backoff }
    }
}

/// What happens to a monitored database.
#[derive(Debug)]
pub enum Event {
    /// The whole content, in place of all that came before.
    Snapshot(Monitored, TableUpdates),
    /// Changes since the last event.
    Updates(TableUpdates),
    /// The connection is gone; transactions fail until the next event.
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

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Frame(#[from] crate::frame::FrameError),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("the server refused {0}: {1}")]
    Refused(&'static str, String),
    #[error("the server closed the connection")]
    Closed,
    #[error("no answer for {0:?}")]
    Silent(Duration),
    /// Nobody listens to events any more.
    #[error("stopped")]
    Stopped,
}

/// What survives a reconnection.
#[derive(Default)]
struct Progress {
    last_transaction: Option<String>,
    monitored: Option<Monitored>,
}

const SCHEMA_REQUEST: u64 = 0;
const MONITOR_REQUEST: u64 = 1;
const FIRST_TRANSACTION: u64 = 2;
/// Bytes that may wait to be sent before further transactions are left in their queue.
const OUTPUT_LIMIT: usize = 8 << 20;
const NO_TRANSACTION: &str = "00000000-0000-0000-0000-000000000000";

impl Driver {
    /// Runs until all handles, or the receiver of events, are dropped.
    pub async fn run(mut self) {
        let mut progress = Progress::default();
        let mut pause = self.options.backoff.0;
        loop {
            let mut alive = false;
            let ended = match timeout(self.options.probe, self.options.remote.open()).await {
                Ok(Ok(stream)) => self.session(stream, &mut progress, &mut alive).await,
                Ok(Err(error)) => Ended::Io(error),
                Err(_) => Ended::Silent(self.options.probe),
            };
            if matches!(ended, Ended::Stopped) || self.events.is_closed() {
                return;
            }
            if alive {
                pause = self.options.backoff.0;
            }
            let reason = format!("{}: {ended}", self.options.remote);
            tracing::debug!(%reason, "database connection ended");
            if self.events.send(Event::Disconnected(reason)).await.is_err() {
                return;
            }
            let until = Instant::now() + pause;
            pause = (pause * 2).min(self.options.backoff.1);
            loop {
                tokio::select! {
                    () = sleep_until(until) => break,
                    () = self.events.closed() => return,
                    request = self.requests.recv() => match request {
                        // The caller may have given up; then nobody wants the answer.
                        Some(request) => drop(request.reply.send(Err(TransactError::NotConnected))),
                        None => return,
                    },
                }
            }
        }
    }

    async fn session(&mut self, stream: Box<dyn Stream>, progress: &mut Progress, alive: &mut bool) -> Ended {
        let mut session = Session {
            framer: Framer::new(self.options.limit),
            output: BytesMut::new(),
            pending: FxHashMap::default(),
            next_id: FIRST_TRANSACTION,
            monitored: None,
            options: &self.options,
            events: &self.events,
            progress,
            alive,
        };
        let ended = match session.run(stream, &mut self.requests).await {
            Ok(()) => Ended::Closed,
            Err(ended) => ended,
        };
        for (_, reply) in session.pending.drain() {
            drop(reply.send(Err(TransactError::Lost)));
        }
        ended
    }
}

struct Session<'a> {
    framer: Framer,
    output: BytesMut,
    pending: FxHashMap<u64, Reply>,
    next_id: u64,
    /// Set once the initial content has been delivered.
    monitored: Option<Monitored>,
    options: &'a Options,
    events: &'a mpsc::Sender<Event>,
    progress: &'a mut Progress,
    alive: &'a mut bool,
}

impl Session<'_> {
    async fn run(&mut self, stream: Box<dyn Stream>, requests: &mut mpsc::Receiver<Request>) -> Result<(), Ended> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let database = serde_json::to_string(self.options.monitored.schema.name).map_err(WireError::from)?;
        self.push(&format!(r#"{{"method":"get_schema","params":[{database}],"id":{SCHEMA_REQUEST}}}"#));
        let mut heard = Instant::now();
        let mut probed = false;
        loop {
            let deadline = heard + if probed { self.options.probe * 2 } else { self.options.probe };
            tokio::select! {
                read = reader.read_buf(self.framer.buffer()) => {
                    if read? == 0 {
                        return Err(Ended::Closed);
                    }
                    heard = Instant::now();
                    probed = false;
                    while let Some(message) = self.framer.next_message()? {
                        self.receive(&message).await?;
                    }
                }
                written = writer.write(&self.output), if !self.output.is_empty() => {
                    let written = written?;
                    self.output.advance(written);
                }
                request = requests.recv(), if self.monitored.is_some() && self.output.len() < OUTPUT_LIMIT => {
                    let Some(request) = request else { return Err(Ended::Stopped) };
                    self.transact(request);
                }
                () = self.events.closed() => return Err(Ended::Stopped),
                () = sleep_until(deadline) => {
                    if probed {
                        return Err(Ended::Silent(self.options.probe * 2));
                    }
                    probed = true;
                    self.push(r#"{"method":"echo","params":[],"id":"echo"}"#);
                }
            }
        }
    }

    fn push(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
    }

    fn transact(&mut self, request: Request) {
        let id = self.next_id;
        self.next_id += 1;
        self.push(r#"{"method":"transact","params":"#);
        self.output.extend_from_slice(&request.params);
        self.push(&format!(r#","id":{id}}}"#));
        self.pending.insert(id, request.reply);
    }

    async fn receive(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        let message: Message<'_> = serde_json::from_slice(bytes).map_err(WireError::from)?;
        match message.method.as_deref() {
            Some("echo") => {
                let params = message.params.map_or("[]", |p| p.get());
                let id = message.id.map_or("null", |i| i.get());
                let reply = format!(r#"{{"result":{params},"error":null,"id":{id}}}"#);
                self.push(&reply);
                Ok(())
            }
            Some("update3") => {
                let Some(monitored) = &self.monitored else { return Err(unexpected("an update before the monitor's reply")) };
                let params = message.params.ok_or_else(|| unexpected("update3 without parameters"))?;
                let (last, updates) = wire::update3(params, monitored)?;
                self.progress.last_transaction = Some(last);
                self.deliver(Event::Updates(updates)).await
            }
            Some(other) => {
                tracing::debug!(method = other, "message ignored");
                Ok(())
            }
            None => match message.reply_id() {
                Some(SCHEMA_REQUEST) => self.monitor(&message),
                Some(MONITOR_REQUEST) => self.start(&message).await,
                Some(id) => {
                    let Some(reply) = self.pending.remove(&id) else { return Err(unexpected(&format!("a reply to unknown request {id}"))) };
                    let answer = match (message.failure(), message.result) {
                        (Some(why), _) => Err(TransactError::Refused(why)),
                        (None, Some(raw)) => wire::results(raw).map_err(|e| TransactError::Malformed(e.to_string())),
                        (None, None) => Err(TransactError::Malformed("neither result nor error".into())),
                    };
                    drop(reply.send(answer));
                    Ok(())
                }
                None => Ok(()), // the reply to our echo
            },
        }
    }

    /// The schema has arrived: ask for the monitor.
    fn monitor(&mut self, message: &Message<'_>) -> Result<(), Ended> {
        if let Some(why) = message.failure() {
            return Err(Ended::Refused("get_schema", why));
        }
        let raw = message.result.ok_or_else(|| unexpected("get_schema without a result"))?;
        let server: ServerSchema = serde_json::from_str(raw.get()).map_err(WireError::from)?;
        let monitored = server.restrict(&self.options.monitored);
        let same = self.progress.monitored.as_ref().is_some_and(|m| m.tables == monitored.tables);
        let last = self.progress.last_transaction.clone().filter(|_| same).unwrap_or_else(|| NO_TRANSACTION.to_owned());
        let requests: serde_json::Map<_, _> = monitored
            .tables
            .iter()
            .map(|(id, columns)| {
                let schema = monitored.schema.table(*id);
                let names: Vec<&str> = columns.iter().map(|c| schema.column(*c).name).collect();
                (schema.name.to_owned(), serde_json::json!([{ "columns": names }]))
            })
            .collect();
        let params = serde_json::json!([monitored.schema.name, "ferrovia", requests, last]);
        self.push(&format!(r#"{{"method":"monitor_cond_since","params":{params},"id":{MONITOR_REQUEST}}}"#));
        self.progress.monitored = Some(monitored);
        Ok(())
    }

    /// The monitor's reply has arrived: from now on there is a session.
    async fn start(&mut self, message: &Message<'_>) -> Result<(), Ended> {
        if let Some(why) = message.failure() {
            return Err(Ended::Refused("monitor_cond_since", why));
        }
        let raw = message.result.ok_or_else(|| unexpected("monitor_cond_since without a result"))?;
        let Some(monitored) = self.progress.monitored.clone() else { return Err(unexpected("a monitor that was not asked for")) };
        let (found, last, updates) = wire::monitor_reply(raw, &monitored)?;
        self.progress.last_transaction = Some(last);
        self.monitored = Some(monitored.clone());
        *self.alive = true;
        self.deliver(if found { Event::Updates(updates) } else { Event::Snapshot(monitored, updates) }).await
    }

    async fn deliver(&self, event: Event) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended::Stopped)
    }
}

fn unexpected(what: &str) -> Ended {
    Ended::Wire(WireError::Unexpected(what.to_owned()))
}
