//! Durability: one thread that gathers waiting writes and commits them to redb together.
//!
//! Every commit is `Durability::Immediate`: redb's `None` loses everything since the last immediate commit when the
//! process is killed. One sync is paid per batch, not per write, and answers are sent after it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use crate::store::{Entry, Shared, WriteError};

/// Key → version (8 bytes, big endian), then the JSON.
const OBJECTS: TableDefinition<&str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const RV: &str = "resourceVersion";

/// Writes in one commit: bounds the time that the first of them waits.
const BATCH: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot create {path}: {source}")]
    Folder { path: String, source: std::io::Error },
    #[error("cannot open the database {path}: {source}")]
    Open { path: String, source: redb::Error },
    #[error("the database holds a damaged object {key:?}")]
    Damaged { key: String },
    #[error("cannot start the writer: {0}")]
    Thread(std::io::Error),
}

/// A decided write on its way to the disk.
#[derive(Debug)]
pub struct Record {
    pub rv: u64,
    pub key: Arc<str>,
    pub bytes: Bytes,
    pub remove: bool,
    pub answer: Option<oneshot::Sender<Result<Bytes, WriteError>>>,
}

/// An opened database whose writer has not started.
#[derive(Debug)]
pub struct Opened(Database);

#[derive(Debug)]
pub struct Disk {
    /// The queue and the thread that serves it, until the database is closed.
    writer: Mutex<Option<(mpsc::Sender<Record>, JoinHandle<()>)>>,
}

impl Disk {
    /// Opens the database, gives every object to `load`, and returns the last version.
    pub fn open(folder: &Path, load: impl FnMut(&str, Entry)) -> Result<(Opened, u64), DiskError> {
        std::fs::create_dir_all(folder).map_err(|source| DiskError::Folder { path: folder.display().to_string(), source })?;
        let path = folder.join("objects.redb");
        let open = |source: redb::Error| DiskError::Open { path: path.display().to_string(), source };
        let database = Database::builder().set_cache_size(64 << 20).create(&path).map_err(|e| open(e.into()))?;
        let rv = read(&database, load).map_err(|error| match error {
            ReadError::Redb(source) => open(*source),
            ReadError::Damaged(key) => DiskError::Damaged { key },
        })?;
        Ok((Opened(database), rv))
    }

    /// Hands a record to the writer.
    pub fn send(&self, record: Record) -> Result<(), &'static str> {
        match &*self.writer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((queue, _)) => queue.send(record).map_err(|_| "the writer has ended"),
            None => Err("the database is closed"),
        }
    }

    /// Writes what is queued, closes the database and accepts nothing more. Blocks for the last commit.
    pub fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((queue, thread)) = writer {
            drop(queue);
            // A panic there has already been printed.
            let _ = thread.join();
        }
    }
}

impl Opened {
    pub fn start(self, shared: Arc<Shared>) -> Result<Disk, DiskError> {
        let (queue, records) = mpsc::channel();
        let writer = std::thread::Builder::new()
            .name("apiserver-disk".to_owned())
            .spawn(move || serve(&self.0, &shared, &records))
            .map_err(DiskError::Thread)?;
        Ok(Disk { writer: Mutex::new(Some((queue, writer))) })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(database: &Database, shared: &Shared, records: &mpsc::Receiver<Record>) {
    while let Ok(first) = records.recv() {
        let mut batch = vec![first];
        batch.extend(records.try_iter().take(BATCH - 1));
        match commit(database, &batch) {
            Ok(()) => shared.publish(batch),
            Err(error) => {
                tracing::error!(%error, "cannot write the database; no further writes are accepted");
                shared.fail(&error.to_string(), batch);
            }
        }
    }
}

fn commit(database: &Database, batch: &[Record]) -> Result<(), Box<redb::Error>> {
    let boxed = |error: redb::Error| Box::new(error);
    let mut transaction = database.begin_write().map_err(|e| boxed(e.into()))?;
    transaction.set_durability(Durability::Immediate).map_err(|e| boxed(e.into()))?;
    {
        let mut objects = transaction.open_table(OBJECTS).map_err(|e| boxed(e.into()))?;
        let mut value = Vec::new();
        for record in batch {
            if record.remove {
                objects.remove(&*record.key).map_err(|e| boxed(e.into()))?;
            } else {
                value.clear();
                value.extend_from_slice(&record.rv.to_be_bytes());
                value.extend_from_slice(&record.bytes);
                objects.insert(&*record.key, value.as_slice()).map_err(|e| boxed(e.into()))?;
            }
        }
        let mut counters = transaction.open_table(COUNTERS).map_err(|e| boxed(e.into()))?;
        let last = batch.last().map_or(0, |record| record.rv);
        counters.insert(RV, last).map_err(|e| boxed(e.into()))?;
    }
    transaction.commit().map_err(|e| boxed(e.into()))
}

enum ReadError {
    Redb(Box<redb::Error>),
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

fn read(database: &Database, mut load: impl FnMut(&str, Entry)) -> Result<u64, ReadError> {
    let setup = database.begin_write()?;
    setup.open_table(OBJECTS)?;
    setup.open_table(COUNTERS)?;
    setup.commit()?;
    let transaction = database.begin_read()?;
    for item in transaction.open_table(OBJECTS)?.iter()? {
        let (key, value) = item?;
        let Some((rv, bytes)) = value.value().split_first_chunk::<8>() else {
            return Err(ReadError::Damaged(key.value().to_owned()));
        };
        load(key.value(), Entry { rv: u64::from_be_bytes(*rv), bytes: Bytes::copy_from_slice(bytes) });
    }
    Ok(transaction.open_table(COUNTERS)?.get(RV)?.map_or(0, |rv| rv.value()))
}
