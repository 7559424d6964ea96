//! The handle by which transactions are sent.

use ovsdb_types::{OpError, OpResult, Operation};
use tokio::sync::{mpsc, oneshot};

/// Why a transaction has no result.
#[derive(Debug, thiserror::Error)]
pub enum TransactError {
    /// There is no connection; nothing was sent.
    #[error("not connected to the database")]
    NotConnected,
    /// The connection broke before the reply: the transaction may or may not have been committed.
    #[error("connection lost before the reply; the outcome is unknown")]
    Lost,
    /// The server refused the request as a whole.
    #[error("the server refused the transaction: {0}")]
    Refused(String),
    /// An operation failed, so nothing was committed. The index is the operation's; one past the last is the commit.
    #[error("operation {index}: {error}")]
    Operation {
        /// Index of the operation.
        index: usize,
        /// What is wrong with it.
        #[source]
        error: OpError,
    },
    /// The reply makes no sense.
    #[error("malformed reply: {0}")]
    Malformed(String),
    /// An operation cannot be written as JSON.
    #[error("operations cannot be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

pub(crate) type Reply = oneshot::Sender<Result<Vec<Option<OpResult>>, TransactError>>;

pub(crate) struct Request {
    pub(crate) params: Vec<u8>,
    pub(crate) reply: Reply,
}

/// Sends transactions; cheap to clone. Transactions of several callers are pipelined.
#[derive(Clone)]
pub struct Client {
    pub(crate) database: &'static str,
    pub(crate) requests: mpsc::Sender<Request>,
}

impl Client {
    /// Sends one transaction and awaits its result: one entry per operation.
    ///
    /// # Errors
    /// See [`TransactError`]; after any but `Lost` nothing was committed.
    pub async fn transact(&self, operations: &[Operation]) -> Result<Vec<OpResult>, TransactError> {
        let mut params = Vec::with_capacity(256 * (operations.len() + 1));
        params.extend_from_slice(b"[");
        serde_json::to_writer(&mut params, self.database)?;
        for operation in operations {
            params.push(b',');
            serde_json::to_writer(&mut params, operation)?;
        }
        params.push(b']');
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { params, reply }).await.map_err(|_| TransactError::NotConnected)?;
        let results = answer.await.map_err(|_| TransactError::Lost)??;
        if let Some((index, error)) = results.iter().enumerate().find_map(|(i, r)| Some((i, r.as_ref()?.failure()?))) {
            return Err(TransactError::Operation { index, error });
        }
        if results.len() < operations.len() {
            return Err(TransactError::Malformed(format!("{} results for {} operations", results.len(), operations.len())));
        }
        Ok(results.into_iter().map(Option::unwrap_or_default).collect())
    }
}
