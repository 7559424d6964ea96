//! Reaching a machine from this machine: a socket without a file, whose name counts in the pod's network namespace only.

use std::io;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream as StdStream};

use anyhow::{Context as _, anyhow, bail};
use linux::Netns;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::frame::{CHUNK, Frame, WINDOW};
use super::{Command, Message, PORT};

/// Listens for clients of the machine in a pod's namespace.
pub(crate) fn listen(netns: &Netns) -> anyhow::Result<UnixListener> {
    let listener = netns.run(|| SocketAddr::from_abstract_name(PORT).and_then(|address| UnixListener::bind_addr(&address)))?;
    listener.with_context(|| format!("cannot listen for what runs in the machine of {}", netns.label()))
}

/// Listens in this network namespace under a name that counts in it.
pub(super) fn listen_here(name: &str) -> io::Result<tokio::net::UnixListener> {
    let listener = SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address))?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// Connects to who listens under a name in a network namespace.
pub(super) fn reach(netns: &Netns, name: &str) -> linux::Result<io::Result<StdStream>> {
    netns.run(|| SocketAddr::from_abstract_name(name).and_then(|address| StdStream::connect_addr(&address)))
}

/// A connection to a machine; for one command at most.
#[derive(Debug)]
pub(crate) struct Client(UnixStream);

impl Client {
    /// Connects to the machine in a pod's namespace; `None` when there is none. Must be called within a tokio runtime.
    pub(crate) fn connect(netns: &Netns) -> anyhow::Result<Option<Self>> {
        match reach(netns, PORT)? {
            Ok(stream) => Self::over(stream).map(Some),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot reach the machine of {}", netns.label())),
        }
    }

    /// Goes on with a connection in the calling runtime.
    pub(crate) fn over(stream: StdStream) -> anyhow::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self(UnixStream::from_std(stream)?))
    }

    /// Leaves the calling runtime.
    pub(crate) fn leave(self) -> anyhow::Result<StdStream> {
        Ok(self.0.into_std()?)
    }

    /// Both directions.
    pub(crate) fn split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.0.into_split()
    }

    /// Waits until the guest is ready for commands. Fails when the machine ends before.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        match self.next().await? {
            Message::Ready => Ok(()),
            other => Err(anyhow!("the machine says {other:?} before it is ready")),
        }
    }

    /// Says something to the machine.
    pub(crate) async fn say(&mut self, message: Message) -> anyhow::Result<()> {
        Frame::new(0, message).write(&mut self.0).await
    }

    /// What the machine says next.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Message> {
        Ok(Frame::read(&mut self.0).await?.context("the machine has ended")?.message)
    }
}

/// Runs a command in the machine of a pod with the streams of this process. Yields its exit status, or 128 plus the signal that
/// ended it.
pub(crate) async fn execute(netns: &Netns, command: Command) -> anyhow::Result<i32> {
    let mut client = Client::connect(netns)?.context("its machine does not run")?;
    client.ready().await?;
    client.say(Message::Start(command)).await?;
    let mut stdin = input()?;
    let mut room = Some(WINDOW);
    let mut input = vec![0; CHUNK];
    let (mut from, mut to) = client.split();
    let mut frames = Box::pin(Frame::read(&mut from));
    loop {
        let open = room.unwrap_or(0).min(CHUNK);
        let message = tokio::select! {
            frame = &mut frames => frame?.context("the machine has ended")?.message,
            length = stdin.read(&mut input[..open]), if open > 0 => {
                let length = length.context("cannot read standard input")?;
                tell(&mut to, Message::Input(input[..length].to_vec())).await?;
                room = room.filter(|_| length > 0).map(|room| room - length);
                continue;
            }
        };
        drop(frames);
        match message {
            Message::Output(bytes) => {
                pass(io::stdout(), &bytes)?;
                tell(&mut to, Message::Taken(u32::try_from(bytes.len())?)).await?;
            }
            Message::Errors(bytes) => {
                pass(io::stderr(), &bytes)?;
                tell(&mut to, Message::Taken(u32::try_from(bytes.len())?)).await?;
            }
            Message::Taken(count) => room = room.map(|room| room + count as usize),
            Message::Ended(status) => return Ok(status),
            Message::Failed(why) => bail!("{why}"),
            _ => {}
        }
        frames = Box::pin(Frame::read(&mut from));
    }
}

/// Says something to a machine that may have said its last word by now: that is there to be read all the same.
async fn tell(to: &mut OwnedWriteHalf, message: Message) -> anyhow::Result<()> {
    match Frame::new(0, message).write(to).await {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) => Ok(()),
        told => told,
    }
}

/// Standard input, as a file: what is not read stays there.
pub(crate) fn input() -> io::Result<tokio::fs::File> {
    Ok(tokio::fs::File::from_std(io::stdin().as_fd().try_clone_to_owned()?.into()))
}

fn pass(mut to: impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test]
    async fn what_a_machine_said_last_is_read_though_it_hears_no_more() {
        let (machine, client) = UnixStream::pair().unwrap();
        let mut machine = Client(machine);
        machine.say(Message::Output(vec![b'x'])).await.unwrap();
        machine.say(Message::Ended(3)).await.unwrap();
        drop(machine);
        let (mut from, mut to) = client.into_split();
        assert!(matches!(Frame::read(&mut from).await.unwrap().unwrap().message, Message::Output(_)));
        tell(&mut to, Message::Taken(1)).await.unwrap();
        assert!(matches!(Frame::read(&mut from).await.unwrap().unwrap().message, Message::Ended(3)));
    }
}
