//! A netlink connection opened inside a network namespace.

use std::sync::Arc;

use futures::{Stream, TryStreamExt};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use crate::error::netlink_cause;
use crate::{Error, Netns, Result};

/// A netlink connection: every request concerns the namespace it was opened in, wherever the caller is.
/// Clones share the connection, which closes with the last of them.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) netlink: rtnetlink::Handle,
    label: Arc<str>,
    /// The kernel answers one list at a time on a socket, and refuses another with `EBUSY`.
    lists: Arc<Mutex<()>>,
    _connection: Arc<Connection>,
}

#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Handle {
    /// Opens a connection inside `netns`. Must be called within a tokio runtime, which drives it.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not opened.
    pub fn open(netns: &Netns) -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| Error::new(netns.label(), "open a netlink socket in", std::io::Error::other(e.to_string())))?;
        let (connection, netlink, _unsolicited) = netns
            .run(|| {
                let _context = runtime.enter();
                rtnetlink::new_connection()
            })?
            .map_err(|e| Error::new(netns.label(), "open a netlink socket in", e))?;
        Ok(Self::of(netlink, netns.label(), tokio::spawn(connection).abort_handle()))
    }

    pub(crate) fn of(netlink: rtnetlink::Handle, label: &str, connection: AbortHandle) -> Self {
        Self { netlink, label: label.into(), lists: Arc::default(), _connection: Arc::new(Connection(connection)) }
    }

    /// Opens a connection in the calling thread's namespace.
    ///
    /// # Errors
    /// As [`Handle::open`].
    pub fn here() -> Result<Self> {
        Self::open(&Netns::current()?)
    }

    pub(crate) fn failed(&self, object: &str, operation: impl Into<String>, error: rtnetlink::Error) -> Error {
        Error::new(format!("{object} in {}", self.label), operation, netlink_cause(error))
    }

    pub(crate) fn failed_by(&self, object: &str, operation: impl Into<String>, cause: std::io::Error) -> Error {
        Error::new(format!("{object} in {}", self.label), operation, cause)
    }

    /// What `ask` yields. It is called when the socket is free: a request is sent as soon as it is made.
    pub(crate) async fn collect<T, S>(&self, object: &str, ask: impl FnOnce() -> S) -> Result<Vec<T>>
    where
        S: Stream<Item = std::result::Result<T, rtnetlink::Error>>,
    {
        let _alone = self.lists.lock().await;
        ask().try_collect().await.map_err(|error| self.failed(object, "list", error))
    }
}
