//! A connection to a bridge, over which its flows are replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openflow::{Bundle, BundleId, DecodeError, FlowMod, Message, Next, Refused, Reply, TooLong, Xid, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long the switch may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("no socket {0}.mgmt in {folders}", folders = .1.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoSocket(String, Vec<PathBuf>),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the switch does not speak OpenFlow 1.4; is it among the bridge's `protocols`?")]
    Version,
    #[error("the switch does not answer within {PATIENCE:?}")]
    Silent,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

pub(super) struct Session {
    stream: UnixStream,
    received: Vec<u8>,
    xid: u32,
    bundle: u32,
}

impl Session {
    /// Connects to the bridge's socket in the first of the folders that has one.
    pub(super) async fn open(folders: &[PathBuf], bridge: &str) -> Result<Self, SessionError> {
        let name = format!("{bridge}.mgmt");
        let socket = folders.iter().map(|folder| folder.join(&name)).find(|path| Path::exists(path));
        let socket = socket.ok_or_else(|| SessionError::NoSocket(bridge.to_owned(), folders.to_vec()))?;
        let mut session = Self { stream: UnixStream::connect(socket).await?, received: Vec::new(), xid: 1, bundle: 0 };
        session.stream.write_all(&Message::Hello.encode(Xid(0))?).await?;
        match timeout(PATIENCE, session.receive()).await.map_err(|_| SessionError::Silent)?? {
            (_, Reply::Hello { agreed: true }) => Ok(session),
            _ => Err(SessionError::Version),
        }
    }

    async fn receive(&mut self) -> Result<(Xid, Reply), SessionError> {
        loop {
            if let Some((xid, reply, length)) = decode(&self.received)? {
                self.received.drain(..length);
                if let Reply::EchoRequest(data) = reply {
                    self.stream.write_all(&Message::EchoReply(data).encode(xid)?).await?;
                    continue;
                }
                return Ok((xid, reply));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Resolves when the switch has gone.
    pub(super) async fn closed(&mut self) {
        while self.receive().await.is_ok() {}
    }

    /// Applies the changes, all or none.
    pub(super) async fn apply(&mut self, flows: Vec<FlowMod>) -> Result<(), SessionError> {
        self.bundle += 1;
        let count = flows.len() as u32;
        let (bytes, mut exchange) = Bundle { id: BundleId(self.bundle), flows }.begin(Xid(self.xid))?;
        // Opening, changes, closing, end.
        self.xid = self.xid.wrapping_add(count + 3);
        let work = async {
            self.stream.write_all(&bytes).await?;
            loop {
                let (xid, reply) = self.receive().await?;
                match exchange.receive(xid, &reply) {
                    Next::Wait => {}
                    Next::Send(bytes) => self.stream.write_all(&bytes).await?,
                    Next::Done(result) => return Ok(result?),
                }
            }
        };
        timeout(PATIENCE, work).await.map_err(|_| SessionError::Silent)?
    }
}
