//! The objects as bytes, under one increasing resource version, with a bounded history for watches.
//!
//! Knows keys and bytes, not Kubernetes. A write is decided against `latest`; readers and watchers see only what is
//! durable (`committed`), so that nobody acts on a write that a crash would take back.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::disk::{Disk, DiskError, Record};
use crate::history::{Event, History};
use crate::index::Index;

/// An object as it is stored: its JSON, resource version included.
#[derive(Clone, Debug)]
pub struct Entry {
    pub rv: u64,
    pub bytes: Bytes,
}

/// JSON cut where the resource version belongs, so that the version can be assigned without parsing again.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
    /// What the object refers to: see [`Store::referring_to`].
    pub references: Vec<String>,
}

impl Encoded {
    pub fn with_rv(&self, rv: u64) -> Bytes {
        let digits = rv.to_string();
        let mut all = Vec::with_capacity(self.head.len() + digits.len() + self.tail.len());
        all.extend_from_slice(&self.head);
        all.extend_from_slice(digits.as_bytes());
        all.extend_from_slice(&self.tail);
        all.into()
    }
}

/// What the writer believed when it decided to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Absent,
    At(u64),
}

/// A write that only happens if the world is still as expected.
#[derive(Debug)]
pub struct Write<'a> {
    pub key: &'a str,
    pub expect: Expect,
    /// Other objects that must still be at these versions, such as the namespace.
    pub guards: &'a [(String, u64)],
    /// Prefixes under which nothing may be left, for the removal of a container.
    pub empty: &'a [String],
    pub remove: bool,
    /// The new object; for a removal, its last state.
    pub object: Encoded,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the object changed meanwhile")]
    Changed,
    #[error("something is still inside")]
    NotEmpty,
    #[error("the database no longer accepts writes: {0}")]
    Failed(String),
}

#[derive(Debug, Default)]
struct State {
    latest: BTreeMap<Arc<str>, Entry>,
    committed: BTreeMap<Arc<str>, Entry>,
    /// Last version given out.
    rv: u64,
    /// Last version that readers see.
    committed_rv: u64,
    /// Version at opening: no history reaches further back.
    opened_rv: u64,
    history: BTreeMap<Arc<str>, History>,
    /// Of `latest`.
    index: Index,
    failed: Option<String>,
}

/// What readers and the disk thread share.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// Events kept per resource.
    depth: usize,
}

#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    disk: Option<Disk>,
}

/// A key and the object's JSON.
pub type Listed = (Arc<str>, Bytes);

/// What a watch sees next.
#[derive(Debug)]
pub struct Batch {
    pub events: Vec<Arc<Event>>,
    /// Everything up to this version has been seen after these events.
    pub seen: u64,
}

/// The prefix of a key: the resource it belongs to.
fn prefix_of(key: &str) -> &str {
    key.find('/').map_or(key, |slash| &key[..=slash])
}

/// Who waits for a write, and the bytes it will get.
type Waiting = (oneshot::Sender<Result<Bytes, WriteError>>, Bytes);

impl State {
    /// Checks a write against the world, gives it the next version and makes it the latest.
    fn decide(&mut self, write: &Write<'_>, answer: oneshot::Sender<Result<Bytes, WriteError>>) -> Result<Record, WriteError> {
        if let Some(why) = &self.failed {
            return Err(WriteError::Failed(why.clone()));
        }
        let now = self.latest.get(write.key).map_or(Expect::Absent, |entry| Expect::At(entry.rv));
        let guarded = write.guards.iter().all(|(key, rv)| self.latest.get(key.as_str()).is_some_and(|entry| entry.rv == *rv));
        if now != write.expect || !guarded {
            return Err(WriteError::Changed);
        }
        for prefix in write.empty {
            let next = self.latest.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded)).next();
            if next.is_some_and(|(key, _)| key.starts_with(prefix.as_str())) {
                return Err(WriteError::NotEmpty);
            }
        }
        self.rv += 1;
        let rv = self.rv;
        let bytes = write.object.with_rv(rv);
        let key: Arc<str> = write.key.into();
        self.index.set(&key, if write.remove { &[] } else { &write.object.references });
        if write.remove {
            self.latest.remove(&key);
        } else {
            self.latest.insert(key.clone(), Entry { rv, bytes: bytes.clone() });
        }
        Ok(Record { rv, key, bytes, remove: write.remove, answer: Some(answer) })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the maps half-changed in a way that matters more than stopping all service would.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes durable records visible, in order, and answers those who wait for them.
    pub fn publish(&self, records: impl IntoIterator<Item = Record>) {
        let answers = self.apply(&mut self.lock(), records);
        for (answer, bytes) in answers {
            // The request may have been given up meanwhile; the write stands.
            let _ = answer.send(Ok(bytes));
        }
    }

    fn apply(&self, state: &mut State, records: impl IntoIterator<Item = Record>) -> Vec<Waiting> {
        let mut answers = Vec::new();
        let mut touched: Vec<Arc<str>> = Vec::new();
        for record in records {
            answers.extend(record.answer.map(|answer| (answer, record.bytes.clone())));
            let previous = if record.remove {
                state.committed.remove(&record.key)
            } else {
                state.committed.insert(record.key.clone(), Entry { rv: record.rv, bytes: record.bytes.clone() })
            };
            state.committed_rv = record.rv;
            let opened = state.opened_rv;
            let prefix: Arc<str> = prefix_of(&record.key).into();
            let previous = previous.map(|entry| entry.bytes);
            let event = Event::new(record.rv, record.key, record.bytes, previous, record.remove);
            state.history.entry(prefix.clone()).or_insert_with(|| History::new(opened, self.depth)).push(event);
            if touched.last() != Some(&prefix) {
                touched.push(prefix);
            }
        }
        touched.sort();
        touched.dedup();
        for prefix in touched {
            if let Some(history) = state.history.get(&prefix) {
                history.wake();
            }
        }
        answers
    }

    /// After a failed commit what was decided since is unknown to the disk: refuse everything from here on.
    pub fn fail(&self, why: &str, records: impl IntoIterator<Item = Record>) {
        self.lock().failed = Some(why.to_owned());
        for answer in records.into_iter().filter_map(|record| record.answer) {
            let _ = answer.send(Err(WriteError::Failed(why.to_owned())));
        }
    }
}

impl Store {
    /// Opens the database in `folder`, or keeps everything in memory. `references` reads what an object refers to.
    pub fn open(folder: Option<&Path>, depth: usize, references: fn(&[u8]) -> Vec<String>) -> Result<Self, DiskError> {
        let mut state = State::default();
        let disk = match folder {
            None => None,
            Some(folder) => {
                let (disk, rv) = Disk::open(folder, |key, entry| {
                    let key: Arc<str> = key.into();
                    state.index.set(&key, &references(&entry.bytes));
                    state.latest.insert(key, entry);
                })?;
                state.committed = state.latest.clone();
                (state.rv, state.committed_rv, state.opened_rv) = (rv, rv, rv);
                Some(disk)
            }
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), depth });
        let disk = disk.map(|disk| disk.start(shared.clone())).transpose()?;
        Ok(Self { shared, disk })
    }

    /// The object as the next writer must take it, durable or about to be.
    pub fn latest(&self, key: &str) -> Option<Entry> {
        self.shared.lock().latest.get(key).cloned()
    }

    /// The object as readers see it.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.shared.lock().committed.get(key).cloned()
    }

    /// Objects whose keys start with `prefix`, in key order, after `after`, at most `max`, as they were at version `at`
    /// (now if `None`), and that version. `Err` carries the oldest version that can still be asked for.
    pub fn list(&self, prefix: &str, after: Option<&str>, max: usize, at: Option<u64>) -> Result<(Vec<Listed>, u64), u64> {
        let state = self.shared.lock();
        let at = at.unwrap_or(state.committed_rv);
        let mut past = BTreeMap::new();
        if at != state.committed_rv {
            // The past is the present with what happened since taken back.
            let resource = prefix_of(prefix);
            let oldest = state.history.get(resource).map_or(state.opened_rv, History::floor);
            if at < oldest || at > state.committed_rv {
                return Err(oldest);
            }
            for event in state.history.get(resource).map(|history| history.after(at, usize::MAX)).unwrap_or_default() {
                if event.key.starts_with(prefix) && after.is_none_or(|after| *event.key > *after) {
                    past.entry(event.key.clone()).or_insert_with(|| event.previous.clone());
                }
            }
        }
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let present = state.committed.range::<str, _>((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        if past.is_empty() {
            return Ok((present.take(max).map(|(key, entry)| (key.clone(), entry.bytes.clone())).collect(), at));
        }
        // At most `past.len()` of the present are taken back, so this many are enough.
        let mut listed: BTreeMap<_, _> =
            present.take(max.saturating_add(past.len())).map(|(key, entry)| (key.clone(), entry.bytes.clone())).collect();
        let complete = listed.len() < max.saturating_add(past.len());
        let end = listed.last_key_value().map(|(key, _)| key.clone());
        for (key, before) in past {
            match before {
                None => drop(listed.remove(&key)),
                // Beyond the part of the present that was read, the order would have holes.
                Some(bytes) if complete || end.as_ref().is_some_and(|end| key <= *end) => drop(listed.insert(key, bytes)),
                Some(_) => {}
            }
        }
        Ok((listed.into_iter().take(max).collect(), at))
    }

    /// Keys that readers see under a prefix.
    pub fn keys(&self, prefix: &str) -> Vec<Arc<str>> {
        let state = self.shared.lock();
        let range = state.committed.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        range.map(|(key, _)| key.clone()).take_while(|key| key.starts_with(prefix)).collect()
    }

    /// Keys that still exist for a writer under any of the prefixes.
    pub fn latest_keys(&self, prefixes: &[String]) -> Vec<Arc<str>> {
        let state = self.shared.lock();
        let mut keys = Vec::new();
        for prefix in prefixes {
            let range = state.latest.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded));
            keys.extend(range.map(|(key, _)| key.clone()).take_while(|key| key.starts_with(prefix.as_str())));
        }
        keys
    }

    /// Keys of the objects that refer to it, for a writer.
    pub fn referring_to(&self, reference: &str) -> Vec<Arc<str>> {
        self.shared.lock().index.referring_to(reference)
    }

    /// Keys of all objects that refer to anything, for a writer.
    pub fn referring(&self) -> Vec<Arc<str>> {
        self.shared.lock().index.all()
    }

    /// Writes if the world is as expected; resolves when the write is durable and visible, with the stored bytes.
    pub async fn write(&self, write: Write<'_>) -> Result<Bytes, WriteError> {
        let done = self.submit(&write)?;
        done.await.unwrap_or_else(|_| Err(WriteError::Failed("the writer has ended".to_owned())))
    }

    /// Decides a write; its outcome comes through the channel.
    pub fn submit(&self, write: &Write<'_>) -> Result<oneshot::Receiver<Result<Bytes, WriteError>>, WriteError> {
        let (answer, done) = oneshot::channel();
        let answers = {
            let mut state = self.shared.lock();
            let record = state.decide(write, answer)?;
            match &self.disk {
                // Sent under the lock, so that the disk sees versions in order.
                Some(disk) => {
                    if let Err(why) = disk.send(record) {
                        state.failed = Some(why.to_owned());
                        return Err(WriteError::Failed(why.to_owned()));
                    }
                    Vec::new()
                }
                None => self.shared.apply(&mut state, [record]),
            }
        };
        for (answer, bytes) in answers {
            // The request may have been given up meanwhile; the write stands.
            let _ = answer.send(Ok(bytes));
        }
        Ok(done)
    }

    /// Events of `prefix` after `rv`, at most `max`; `Err` carries the oldest version that can still be asked for.
    pub fn events(&self, prefix: &str, rv: u64, max: usize) -> Result<Batch, u64> {
        let state = self.shared.lock();
        let oldest = state.history.get(prefix).map_or(state.opened_rv, History::floor);
        // A version from the future belongs to another life of this server.
        if rv < oldest || rv > state.committed_rv {
            return Err(oldest);
        }
        let events = state.history.get(prefix).map(|history| history.after(rv, max)).unwrap_or_default();
        let seen = if events.len() == max { events.last().map_or(rv, |e| e.rv) } else { state.committed_rv };
        Ok(Batch { events, seen })
    }

    /// Closes the database; what was accepted is written, and nothing more is accepted.
    pub fn close(&self) {
        if let Some(disk) = &self.disk {
            disk.close();
        }
    }

    /// Wakes when events of `prefix` become visible.
    pub fn subscribe(&self, prefix: &str) -> watch::Receiver<u64> {
        let mut state = self.shared.lock();
        let opened = state.opened_rv;
        state.history.entry(prefix.into()).or_insert_with(|| History::new(opened, self.shared.depth)).subscribe()
    }
}
