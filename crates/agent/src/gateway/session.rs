//! A connection to a bridge, over which its flows are replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openflow::{Bundle, BundleId, Cookie, DecodeError, FlowMod, Message, Next, Refused, Reply, TooLong, Xid, decode};
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

/// Number of the request to be told of what others do to flows; those of bundles follow.
const WATCH: Xid = Xid(1);

/// Why flows that were applied may be there no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The switch has gone, or says what cannot be understood: the connection is of no use any more.
    Closed,
    /// Somebody else has changed them.
    Changed,
}

pub(super) struct Session {
    stream: UnixStream,
    received: Vec<u8>,
    xid: u32,
    bundle: u32,
    /// The flows of interest to us; without, all.
    ours: Option<Cookie>,
    /// Whether others have changed such.
    changed: bool,
}

impl Session {
    /// Connects to the bridge's socket in the first of the folders that has one. Of what others do to flows from now on, that to flows
    /// with the cookie `ours` counts, or all. Open vSwitch before 2.16 does not tell of it.
    pub(super) async fn open(folders: &[PathBuf], bridge: &str, ours: Option<Cookie>) -> Result<Self, SessionError> {
        let name = format!("{bridge}.mgmt");
        let socket = folders.iter().map(|folder| folder.join(&name)).find(|path| Path::exists(path));
        let socket = socket.ok_or_else(|| SessionError::NoSocket(bridge.to_owned(), folders.to_vec()))?;
        let (stream, received) = (UnixStream::connect(socket).await?, Vec::new());
        let mut session = Self { stream, received, xid: WATCH.0 + 1, bundle: 0, ours, changed: false };
        session.stream.write_all(&Message::Hello.encode(Xid(0))?).await?;
        let (_, Reply::Hello { agreed: true }) = timeout(PATIENCE, session.receive()).await.map_err(|_| SessionError::Silent)?? else {
            return Err(SessionError::Version);
        };
        session.stream.write_all(&Message::WatchFlows.encode(WATCH)?).await?;
        Ok(session)
    }

    async fn receive(&mut self) -> Result<(Xid, Reply), SessionError> {
        loop {
            if let Some((xid, reply, length)) = decode(&self.received)? {
                self.received.drain(..length);
                match &reply {
                    Reply::EchoRequest(data) => {
                        self.stream.write_all(&Message::EchoReply(data.clone()).encode(xid)?).await?;
                        continue;
                    }
                    Reply::FlowsChanged(cookies) => {
                        self.changed |= cookies.iter().any(|cookie| self.ours.is_none_or(|ours| ours == *cookie))
                    }
                    Reply::Error(error) if xid == WATCH => tracing::info!(%error, "flows that somebody changes are not noticed"),
                    _ => {}
                }
                return Ok((xid, reply));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Resolves when flows that were applied may be there no longer.
    pub(super) async fn lost(&mut self) -> Loss {
        while !std::mem::take(&mut self.changed) {
            if self.receive().await.is_err() {
                return Loss::Closed;
            }
        }
        Loss::Changed
    }

    /// Applies the changes, all or none.
    pub(super) async fn apply(&mut self, flows: Vec<FlowMod>) -> Result<(), SessionError> {
        self.changed = false;
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
