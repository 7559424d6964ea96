//! One connection to one server, from the handshake to its end.
//!
//! The server's own `_Server` database is watched first, and tells whether this server will do. Then comes the schema,
//! then the monitor; from then on transactions are taken. When the database is converted to another schema, the server
//! cancels the monitor, and the session begins again with the schema.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use ovsdb_types::{Monitored, OpResult};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::client::{Reply, Request, TransactError};
use crate::driver::{Event, Options};
use crate::frame::Framer;
use crate::remote::Stream;
use crate::status::{self, Status};
use crate::wire::{self, Message, ServerSchema, WireError};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Frame(#[from] crate::frame::FrameError),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("the server refused {0}: {1}")]
    Refused(&'static str, String),
    #[error("the server {0}")]
    Unsuitable(&'static str),
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
pub(crate) struct Progress {
    last_transaction: Option<String>,
    monitored: Option<Monitored>,
    /// The latest state of a server that served: no other server of the cluster may be behind it.
    status: Option<Status>,
}

const AWARE_REQUEST: u64 = 0;
const STATUS_REQUEST: u64 = 1;
const SCHEMA_REQUEST: u64 = 2;
const MONITOR_REQUEST: u64 = 3;
const FIRST_TRANSACTION: u64 = 4;
/// Bytes that may wait to be sent before further transactions are left in their queue.
const OUTPUT_LIMIT: usize = 8 << 20;
/// How much longer a server may be silent for each mebibyte of transactions that it was sent: ten times what it takes alone.
const PER_MEBIBYTE: Duration = Duration::from_millis(500);
const NO_TRANSACTION: &str = "00000000-0000-0000-0000-000000000000";

type Answer = Result<Vec<Option<OpResult>>, TransactError>;

pub(crate) struct Session<'a> {
    framer: Framer,
    output: BytesMut,
    pending: FxHashMap<u64, Reply>,
    /// Bytes of the transactions sent since none was under way.
    outstanding: usize,
    /// Answers that came while there was no monitor: they follow the next snapshot.
    held: Vec<(Reply, Answer)>,
    next_id: u64,
    status: Option<Status>,
    /// Row of the database in `_Server`.
    status_row: Option<String>,
    /// Whether the schema has been asked for: this server will do.
    accepted: bool,
    /// Set once the initial content has been delivered.
    monitored: Option<Monitored>,
    served: bool,
    options: &'a Options,
    events: &'a mpsc::Sender<Event>,
    progress: &'a mut Progress,
}

impl<'a> Session<'a> {
    pub(crate) fn new(options: &'a Options, events: &'a mpsc::Sender<Event>, progress: &'a mut Progress) -> Self {
        Self {
            framer: Framer::new(options.limit),
            output: BytesMut::new(),
            pending: FxHashMap::default(),
            outstanding: 0,
            held: Vec::new(),
            next_id: FIRST_TRANSACTION,
            status: None,
            status_row: None,
            accepted: false,
            monitored: None,
            served: false,
            options,
            events,
            progress,
        }
    }

    /// Whether the content of the database was ever delivered.
    pub(crate) const fn has_served(&self) -> bool {
        self.served
    }

    /// Runs until the connection ends, and says why.
    pub(crate) async fn run(&mut self, stream: Box<dyn Stream>, requests: &mut mpsc::Receiver<Request>) -> Ended {
        let Err(ended) = self.talk(stream, requests).await;
        for reply in self.pending.drain().map(|(_, reply)| reply).chain(self.held.drain(..).map(|(reply, _)| reply)) {
            drop(reply.send(Err(TransactError::Lost)));
        }
        ended
    }

    async fn talk(&mut self, stream: Box<dyn Stream>, requests: &mut mpsc::Receiver<Request>) -> Result<std::convert::Infallible, Ended> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        // Otherwise the server ends the connection when the database is converted.
        self.request("set_db_change_aware", "[true]", AWARE_REQUEST);
        self.request("monitor", status::WATCH, STATUS_REQUEST);
        let mut heard = Instant::now();
        let mut probed = false;
        loop {
            // The server does one thing at a time: it answers nobody while it carries out a large transaction.
            let busy = PER_MEBIBYTE * u32::try_from(self.outstanding >> 20).unwrap_or(u32::MAX);
            let deadline = heard + busy + if probed { self.options.probe * 2 } else { self.options.probe };
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
                    // TLS keeps what it has not sent yet.
                    if self.output.is_empty() {
                        writer.flush().await?;
                    }
                }
                request = requests.recv(), if self.monitored.is_some() && self.output.len() < OUTPUT_LIMIT => {
                    let Some(request) = request else { return Err(Ended::Stopped) };
                    self.transact(request);
                    // One write carries all that wait.
                    while self.output.len() < OUTPUT_LIMIT && let Ok(request) = requests.try_recv() {
                        self.transact(request);
                    }
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

    fn request(&mut self, method: &str, params: &str, id: u64) {
        self.push(&format!(r#"{{"method":"{method}","params":{params},"id":{id}}}"#));
    }

    fn transact(&mut self, request: Request) {
        let id = self.next_id;
        self.next_id += 1;
        self.push(r#"{"method":"transact","params":"#);
        self.output.extend_from_slice(&request.params);
        self.push(&format!(r#","id":{id}}}"#));
        if self.pending.is_empty() {
            self.outstanding = 0;
        }
        self.outstanding += request.params.len();
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
                // Between a cancelled monitor and the next one, updates of the old one may still come.
                let Some(monitored) = &self.monitored else {
                    return if self.served { Ok(()) } else { Err(unexpected("an update before the monitor's reply")) };
                };
                let params = message.params.ok_or_else(|| unexpected("update3 without parameters"))?;
                let (last, updates) = wire::update3(params, monitored)?;
                self.progress.last_transaction = Some(last);
                self.deliver(Event::Updates(updates)).await
            }
            Some("update") => {
                let params = message.params.ok_or_else(|| unexpected("update without parameters"))?;
                let (_, updates) = wire::update(params)?;
                self.server_said(updates).await
            }
            Some("monitor_canceled") => {
                self.monitored = None;
                self.ask_for_schema()
            }
            Some(other) => {
                tracing::debug!(method = other, "message ignored");
                Ok(())
            }
            None => match message.reply_id() {
                Some(AWARE_REQUEST) => Ok(()), // servers before OVS 2.9 know no conversion either
                Some(STATUS_REQUEST) => {
                    let tables = succeeded("to tell of its databases", &message)?;
                    self.server_said(tables).await?;
                    if self.status.is_none() { self.deliver_status().await } else { Ok(()) }
                }
                Some(SCHEMA_REQUEST) => self.monitor(&message),
                Some(MONITOR_REQUEST) => self.start(&message).await,
                Some(id) => self.answered(id, &message),
                None => Ok(()), // the reply to our echo
            },
        }
    }

    fn answered(&mut self, id: u64, message: &Message<'_>) -> Result<(), Ended> {
        let reply = self.pending.remove(&id);
        if self.pending.is_empty() {
            self.outstanding = 0;
        }
        let Some(reply) = reply else { return Err(unexpected(&format!("a reply to unknown request {id}"))) };
        let answer = match (message.failure(), message.result) {
            (Some(why), _) => Err(TransactError::Refused(why)),
            (None, Some(raw)) => wire::results(raw).map_err(|e| TransactError::Malformed(e.to_string())),
            (None, None) => Err(TransactError::Malformed("neither result nor error".into())),
        };
        if self.monitored.is_some() {
            drop(reply.send(answer));
        } else {
            self.held.push((reply, answer));
        }
        Ok(())
    }

    /// `_Server` has changed: this server may have become suitable, or have ceased to be.
    async fn server_said(&mut self, tables: &str) -> Result<(), Ended> {
        let database = self.options.monitored.schema.name;
        let Some(said) = status::update(tables, database, &mut self.status_row).map_err(WireError::from)? else { return Ok(()) };
        let told = |status: &Option<Status>| status.as_ref().map(|s| (s.connected, s.leader, s.cluster));
        let changed = told(&said) != told(&self.status) || said.is_some() != self.status.is_some();
        self.status = said;
        if changed {
            self.deliver_status().await?;
        }
        match self.unsuitable() {
            None if !self.accepted => {
                self.accepted = true;
                self.ask_for_schema()
            }
            None => {
                if self.served {
                    self.progress.status.clone_from(&self.status);
                }
                Ok(())
            }
            // With nowhere else to go, it is waited for; what was served before must not look current meanwhile.
            Some(_) if !self.accepted && self.options.remotes.as_slice().len() == 1 => Ok(()),
            Some(why) => Err(Ended::Unsuitable(why)),
        }
    }

    async fn deliver_status(&self) -> Result<(), Ended> {
        self.deliver(Event::Status(self.status.clone())).await?;
        match self.unsuitable() {
            Some(why) if self.options.remotes.as_slice().len() > 1 => Err(Ended::Unsuitable(why)),
            _ => Ok(()),
        }
    }

    fn unsuitable(&self) -> Option<&'static str> {
        let Some(status) = &self.status else { return Some("does not have the database") };
        let behind = self.progress.status.as_ref().is_some_and(|seen| seen.cluster == status.cluster && seen.index > status.index);
        match () {
            () if !status.connected => Some("is not connected to a majority of its cluster"),
            () if self.options.leader && !status.leader => Some("does not lead its cluster"),
            () if behind && !self.accepted => Some("is behind what was seen of its cluster"),
            () => None,
        }
    }

    fn ask_for_schema(&mut self) -> Result<(), Ended> {
        let database = serde_json::to_string(&[self.options.monitored.schema.name]).map_err(WireError::from)?;
        self.request("get_schema", &database, SCHEMA_REQUEST);
        Ok(())
    }

    /// The schema has arrived: ask for the monitor.
    fn monitor(&mut self, message: &Message<'_>) -> Result<(), Ended> {
        let server: ServerSchema = serde_json::from_str(succeeded("its schema", message)?).map_err(WireError::from)?;
        let monitored = server.restrict(&self.options.monitored);
        let same = self.progress.monitored.as_ref().is_some_and(|m| m.tables == monitored.tables);
        let last = self.progress.last_transaction.clone().filter(|_| same).unwrap_or_else(|| NO_TRANSACTION.to_owned());
        let requests: serde_json::Map<_, _> = monitored
            .tables
            .iter()
            .map(|(id, columns)| {
                let schema = monitored.schema.table(*id);
                let names: Vec<&str> = columns.iter().map(|c| schema.column(*c).name).collect();
                let only = self.options.only.iter().find(|(of, _)| of == id);
                let request = match only {
                    Some((_, conditions)) => serde_json::json!([{ "columns": names, "where": conditions }]),
                    None => serde_json::json!([{ "columns": names }]),
                };
                (schema.name.to_owned(), request)
            })
            .collect();
        let params = serde_json::json!([monitored.schema.name, "ferrovia", requests, last]);
        self.request("monitor_cond_since", &params.to_string(), MONITOR_REQUEST);
        self.progress.monitored = Some(monitored);
        Ok(())
    }

    /// The monitor's reply has arrived: from now on there is a session.
    async fn start(&mut self, message: &Message<'_>) -> Result<(), Ended> {
        let raw = succeeded("a monitor", message)?;
        let Some(monitored) = self.progress.monitored.clone() else { return Err(unexpected("a monitor that was not asked for")) };
        let (found, last, updates) = wire::monitor_reply(raw, &monitored)?;
        self.progress.last_transaction = Some(last);
        self.progress.status.clone_from(&self.status);
        self.monitored = Some(monitored.clone());
        self.served = true;
        self.deliver(if found { Event::Updates(updates) } else { Event::Snapshot(monitored, updates) }).await?;
        for (reply, answer) in self.held.drain(..) {
            drop(reply.send(answer));
        }
        Ok(())
    }

    async fn deliver(&self, event: Event) -> Result<(), Ended> {
        self.events.send(event).await.map_err(|_| Ended::Stopped)
    }
}

fn succeeded<'m>(what: &'static str, message: &'m Message<'_>) -> Result<&'m str, Ended> {
    match (message.failure(), message.result) {
        (Some(why), _) => Err(Ended::Refused(what, why)),
        (None, Some(raw)) => Ok(raw.get()),
        (None, None) => Err(unexpected("a reply with neither result nor error")),
    }
}

fn unexpected(what: &str) -> Ended {
    Ended::Wire(WireError::Unexpected(what.to_owned()))
}
