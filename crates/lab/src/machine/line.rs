//! A stream of frames that can be stopped at any byte, and goes on where it was left, in another process, too.

use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::frame::Frame;

/// How long a process that ends waits for its clients.
const MOMENT: Duration = Duration::from_millis(500);

/// Which line says something; nothing when its other end is gone, or says what makes no sense.
pub(crate) type Said = (u32, Option<Frame>);

/// A stream that is read and written. What is under way is limited by the sessions' windows. Once it is dropped it ends when all
/// is written.
#[derive(Debug)]
pub(crate) struct Line {
    queue: UnboundedSender<Frame>,
    stop: CancellationToken,
    task: JoinHandle<(Rest, UnboundedReceiver<Frame>)>,
}

/// A stream that nobody reads or writes.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) stream: UnixStream,
    /// What was read and is no whole frame yet.
    pub(crate) read: Vec<u8>,
    /// What is to be written.
    pub(crate) unwritten: Vec<u8>,
}

impl Rest {
    /// A stream that nothing has passed on.
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new(), unwritten: Vec::new() }
    }

    pub(crate) fn into_std(self) -> std::io::Result<(StdStream, Vec<u8>, Vec<u8>)> {
        Ok((self.stream.into_std()?, self.read, self.unwritten))
    }
}

/// A line that was stopped: what is sent is added to what is to be written.
#[derive(Debug)]
pub(crate) struct Stopped {
    rest: Rest,
    sent: UnboundedReceiver<Frame>,
}

impl Stopped {
    /// Reads what is there; yields whether anything was.
    pub(crate) fn receive(&mut self) -> std::io::Result<bool> {
        let (before, mut some) = (self.rest.read.len(), [0; 1 << 16]);
        loop {
            match rustix::io::read(&self.rest.stream, &mut some) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(self.rest.read.len() > before),
                Ok(length) => self.rest.read.extend_from_slice(&some[..length]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next frame that was read as a whole.
    pub(crate) fn take(&mut self) -> anyhow::Result<Option<Frame>> {
        Frame::take(&mut self.rest.read)
    }

    /// The stream with all that was sent until now.
    pub(crate) fn rest(self) -> anyhow::Result<Rest> {
        let Self { mut rest, mut sent } = self;
        while let Ok(frame) = sent.try_recv() {
            rest.unwritten.extend(frame.encode()?);
        }
        Ok(rest)
    }
}

impl Line {
    /// Goes on with a stream.
    pub(crate) fn go_on(id: u32, rest: Rest, said: UnboundedSender<Said>) -> Self {
        let (queue, frames) = unbounded_channel();
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(id, rest, frames, said, stop.clone()));
        Self { queue, stop, task }
    }

    /// To the other end; one that is gone is noticed elsewhere.
    pub(crate) fn send(&self, frame: Frame) {
        let _ = self.queue.send(frame);
    }

    /// Writes what was sent, as far as that is read within a moment.
    pub(crate) async fn written(self) {
        drop(self.queue);
        let _ = tokio::time::timeout(MOMENT, self.task).await;
    }

    /// Stops reading and writing. What is sent by `sender` until the rest is asked for is not lost.
    pub(crate) async fn stop(self) -> anyhow::Result<(UnboundedSender<Frame>, Stopped)> {
        self.stop.cancel();
        let (rest, sent) = self.task.await?;
        Ok((self.queue, Stopped { rest, sent }))
    }
}

async fn run(
    id: u32,
    mut rest: Rest,
    mut queue: UnboundedReceiver<Frame>,
    said: UnboundedSender<Said>,
    stop: CancellationToken,
) -> (Rest, UnboundedReceiver<Frame>) {
    let (mut reads, mut sends) = (true, true);
    let (mut from, mut to) = rest.stream.split();
    loop {
        loop {
            match Frame::take(&mut rest.read) {
                Ok(Some(frame)) => drop(said.send((id, Some(frame)))),
                Ok(None) => break,
                Err(error) => {
                    eprintln!("machine: what is said makes no sense: {error:#}");
                    reads = false;
                    rest.read.clear();
                    let _ = said.send((id, None));
                }
            }
        }
        let idle = rest.unwritten.is_empty();
        if idle && !sends {
            break;
        }
        // Each of these takes its bytes as a whole, or none.
        tokio::select! {
            () = stop.cancelled() => break,
            length = from.read_buf(&mut rest.read), if reads => if length.unwrap_or(0) == 0 {
                reads = false;
                let _ = said.send((id, None));
            },
            length = to.write(&rest.unwritten), if !idle => match length {
                Ok(length) => drop(rest.unwritten.drain(..length)),
                // Its end tells more.
                Err(_) => rest.unwritten.clear(),
            },
            frame = queue.recv(), if idle => match frame.map(|frame| frame.encode()) {
                Some(Ok(bytes)) => rest.unwritten = bytes,
                Some(Err(error)) => eprintln!("machine: {error:#}"),
                None => sends = false,
            },
        }
    }
    (rest, queue)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Message;

    #[tokio::test]
    async fn a_line_that_is_stopped_anywhere_and_goes_on_loses_no_byte() {
        let (near, far) = UnixStream::pair().unwrap();
        let (said, mut heard) = unbounded_channel();
        let other = Line::go_on(1, Rest::new(far), said.clone());
        let mut line = Line::go_on(0, Rest::new(near), said.clone());
        let frame = |round: u32| Frame::new(round, Message::Output(vec![round as u8; 30_000]));
        let mut got: [Vec<u32>; 2] = Default::default();
        for round in 0..100 {
            line.send(frame(round));
            other.send(frame(round));
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            }
            let (sender, stopped) = line.stop().await.unwrap();
            sender.send(frame(1000 + round)).unwrap();
            line = Line::go_on(0, stopped.rest().unwrap(), said.clone());
        }
        while got[0].len() < 100 || got[1].len() < 200 {
            let (id, came) = heard.recv().await.unwrap();
            let came = came.unwrap();
            assert_eq!(came, frame(came.session));
            got[id as usize].push(came.session);
        }
        assert_eq!(got[0], (0..100).collect::<Vec<_>>());
        assert_eq!(got[1], (0..100).flat_map(|round| [round, 1000 + round]).collect::<Vec<_>>());
        drop(line);
        assert_eq!(heard.recv().await.unwrap(), (1, None));
    }
}
