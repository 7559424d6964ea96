//! What passes between a machine's process, its guest and its clients: frames of sessions, over any stream of bytes.
//!
//! Output and input are sent as far as the receiver has room: each side of a session may have `WINDOW` bytes under way that the
//! other has not taken, so that one session whose reader is slow holds up no other.

use std::io;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{Command, Moved, Settings, Target};

/// Bytes of a session that may be under way in one direction.
pub(crate) const WINDOW: usize = 1 << 18;
/// Most bytes of output or input in a frame.
pub(crate) const CHUNK: usize = 1 << 15;
/// Most bytes of any frame.
const LONGEST: u32 = 1 << 20;
/// Session, kind and length.
const HEADER: usize = 4 + 1 + 4;

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// To the guest, first of all: what it is.
    Settings(Box<Settings>),
    /// From the guest, and first of all to each client: commands may come.
    Ready,
    /// Begins a session.
    Start(Command),
    /// Input of the command; empty: there is no more.
    Input(Vec<u8>),
    /// What it wrote.
    Output(Vec<u8>),
    /// What it wrote to its standard error.
    Errors(Vec<u8>),
    /// The receiver of output or input has taken this many bytes.
    Taken(u32),
    /// A signal to the command and what it started.
    Signal(i32),
    /// Ends a session: exit status, or 128 plus the signal.
    Ended(i32),
    /// Ends a session, or the guest before it is ready: why it did not begin.
    Failed(String),
    /// To the machine: that it is to move. Whoever asked calls it off by going away.
    Move(Target),
    /// That it has moved: the last that its process here says.
    Moved(Moved),
}

/// A message of a session. Session 0 is the guest itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) session: u32,
    pub(crate) message: Message,
}

impl Frame {
    pub(crate) const fn new(session: u32, message: Message) -> Self {
        Self { session, message }
    }

    pub(crate) fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let number = |number: i32| number.to_be_bytes().to_vec();
        let (kind, payload) = match &self.message {
            Message::Settings(settings) => (0, serde_json::to_vec(settings)?),
            Message::Ready => (1, Vec::new()),
            Message::Start(command) => (2, serde_json::to_vec(command)?),
            Message::Input(bytes) => (3, bytes.clone()),
            Message::Output(bytes) => (4, bytes.clone()),
            Message::Errors(bytes) => (5, bytes.clone()),
            Message::Taken(count) => (6, count.to_be_bytes().to_vec()),
            Message::Signal(signal) => (7, number(*signal)),
            Message::Ended(status) => (8, number(*status)),
            Message::Failed(why) => (9, why.clone().into_bytes()),
            Message::Move(target) => (10, serde_json::to_vec(target)?),
            Message::Moved(moved) => (11, serde_json::to_vec(moved)?),
        };
        let length = u32::try_from(payload.len()).ok().filter(|length| *length <= LONGEST);
        let length = length.with_context(|| format!("a frame of {} bytes is too long", payload.len()))?;
        let mut bytes = Vec::with_capacity(HEADER + payload.len());
        bytes.extend_from_slice(&self.session.to_be_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&payload);
        Ok(bytes)
    }

    /// Writes the frame as a whole.
    pub(crate) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> anyhow::Result<()> {
        to.write_all(&self.encode()?).await?;
        Ok(to.flush().await?)
    }

    /// The next frame; `None` when the stream has ended. Takes no byte beyond it.
    pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<Option<Self>> {
        let session = match from.read_u32().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            session => session?,
        };
        let (kind, length) = (from.read_u8().await?, from.read_u32().await?);
        if length > LONGEST {
            bail!("a frame of {length} bytes is too long");
        }
        let mut payload = vec![0; usize::try_from(length)?];
        from.read_exact(&mut payload).await?;
        Self::decode(session, kind, payload).map(Some)
    }

    /// Takes the first frame out of what was read, if it is there as a whole.
    pub(crate) fn take(read: &mut Vec<u8>) -> anyhow::Result<Option<Self>> {
        let Some((&[a, b, c, d, kind, e, f, g, h], rest)) = read.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([e, f, g, h]);
        if length > LONGEST {
            bail!("a frame of {length} bytes is too long");
        }
        let Some(payload) = rest.get(..usize::try_from(length)?).map(<[u8]>::to_vec) else { return Ok(None) };
        read.drain(..HEADER + payload.len());
        Self::decode(u32::from_be_bytes([a, b, c, d]), kind, payload).map(Some)
    }

    fn decode(session: u32, kind: u8, payload: Vec<u8>) -> anyhow::Result<Self> {
        let word = || payload.first_chunk::<4>().copied().context("a number is missing");
        let message = match kind {
            0 => Message::Settings(serde_json::from_slice(&payload)?),
            1 => Message::Ready,
            2 => Message::Start(serde_json::from_slice(&payload)?),
            3 => Message::Input(payload),
            4 => Message::Output(payload),
            5 => Message::Errors(payload),
            6 => Message::Taken(word().map(u32::from_be_bytes)?),
            7 => Message::Signal(word().map(i32::from_be_bytes)?),
            8 => Message::Ended(word().map(i32::from_be_bytes)?),
            9 => Message::Failed(String::from_utf8_lossy(&payload).into_owned()),
            10 => Message::Move(serde_json::from_slice(&payload)?),
            11 => Message::Moved(serde_json::from_slice(&payload)?),
            kind => bail!("a frame of unknown kind {kind}"),
        };
        Ok(Self { session, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_back_as_they_went_and_garbage_is_refused() {
        let command = Command::of(vec!["sh".to_owned()], [("A".to_owned(), "b".to_owned())].into(), None).unwrap();
        let messages = [
            Message::Settings(Box::new(Settings { hostname: "vm".to_owned(), nics: Vec::new() })),
            Message::Ready,
            Message::Start(command),
            Message::Input(Vec::new()),
            Message::Output(vec![0, 255, 10]),
            Message::Errors(vec![7; CHUNK]),
            Message::Taken(u32::MAX),
            Message::Signal(15),
            Message::Ended(-1),
            Message::Failed("why".to_owned()),
            Message::Move(Target { memory: "/m".into(), netns: "n".to_owned(), bandwidth: Some(1) }),
            Message::Moved(Moved { downtime: 1, total: 2 }),
        ];
        let mut bytes = Vec::new();
        for (session, message) in (0..).zip(messages.clone()) {
            Frame::new(session, message).write(&mut bytes).await.unwrap();
        }
        // As they come, a byte at a time.
        let (mut read, mut taken) = (Vec::new(), Vec::new());
        for byte in &bytes {
            read.push(*byte);
            taken.extend(Frame::take(&mut read).unwrap());
        }
        assert_eq!(taken.into_iter().map(|frame| frame.message).collect::<Vec<_>>(), messages);
        let mut stream = bytes.as_slice();
        for (session, message) in (0..).zip(messages) {
            assert_eq!(Frame::read(&mut stream).await.unwrap(), Some(Frame::new(session, message)));
        }
        assert_eq!(Frame::read(&mut stream).await.unwrap(), None);
        assert!(Frame::read(&mut &[0, 0, 0, 1, 77, 0, 0, 0, 0][..]).await.unwrap_err().to_string().contains("unknown kind 77"));
        assert!(Frame::read(&mut &[0, 0, 0, 1, 4, 255, 0, 0, 0][..]).await.unwrap_err().to_string().contains("too long"));
        assert!(Frame::read(&mut &[0, 0, 0, 1, 4, 0, 0, 0, 9, 1][..]).await.is_err());
    }
}
