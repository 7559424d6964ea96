//! The first program of a guest: gives it its network, and runs commands for whoever asks through its port.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command as Program};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Command;
use super::addressing;
use super::frame::{CHUNK, Frame, Message, WINDOW};

type Frames = mpsc::Sender<Frame>;

/// Serves a guest until whoever runs it has gone.
///
/// # Errors
/// When the port fails, or the guest cannot be what it is told to be.
pub async fn run(port: &Path) -> anyhow::Result<()> {
    let port = File::options().read(true).write(true).open(port).with_context(|| format!("cannot open {}", port.display()))?;
    let mut to = tokio::fs::File::from_std(port.try_clone()?);
    let mut from = tokio::fs::File::from_std(port);
    let (out, mut queue) = mpsc::channel::<Frame>(16);
    let writer = tokio::spawn(async move {
        while let Some(frame) = queue.recv().await {
            frame.write(&mut to).await?;
        }
        anyhow::Ok(())
    });
    let Some(Frame { message: Message::Settings(settings), .. }) = Frame::read(&mut from).await? else {
        bail!("the guest was not told what it is");
    };
    let first = match addressing::configure(&settings).await {
        Ok(()) => Message::Ready,
        Err(error) => Message::Failed(format!("{error:#}")),
    };
    out.send(Frame::new(0, first)).await?;
    let mut sessions = Sessions::default();
    while let Some(Frame { session, message }) = Frame::read(&mut from).await? {
        sessions.take(session, message, &out).await;
    }
    writer.abort();
    Ok(())
}

/// A command under way.
struct Session {
    group: Option<Pid>,
    input: mpsc::UnboundedSender<Vec<u8>>,
    window: Arc<Semaphore>,
}

/// Commands under way, of which each takes itself out when it has ended.
#[derive(Default)]
struct Sessions(Arc<Mutex<HashMap<u32, Session>>>);

impl Sessions {
    async fn take(&mut self, session: u32, message: Message, out: &Frames) {
        if let Message::Start(command) = message {
            return self.start(session, &command, out).await;
        }
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has ended needs nothing.
        let Some(known) = sessions.get(&session) else { return };
        match message {
            Message::Input(bytes) => drop(known.input.send(bytes)),
            Message::Taken(count) => known.window.add_permits(count as usize),
            Message::Signal(number) => {
                if let (Some(group), Some(signal)) = (known.group, Signal::from_named_raw(number)) {
                    let _ = kill_process_group(group, signal);
                }
            }
            _ => {}
        }
    }

    async fn start(&mut self, session: u32, command: &Command, out: &Frames) {
        let child = match spawn(command) {
            Ok(child) => child,
            Err(error) => {
                let _ = out.send(Frame::new(session, Message::Failed(format!("{error:#}")))).await;
                return;
            }
        };
        let group = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let (input, queue) = mpsc::unbounded_channel();
        let window = Arc::new(Semaphore::new(WINDOW));
        let known = Session { group, input, window: window.clone() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(session, known);
        let (sessions, out) = (self.0.clone(), out.clone());
        tokio::spawn(async move {
            let status = follow(session, child, queue, &window, &out).await;
            sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
            let _ = out.send(Frame::new(session, Message::Ended(status))).await;
        });
    }
}

fn spawn(command: &Command) -> anyhow::Result<Child> {
    let (program, arguments) = command.argv.split_first().context("no command given")?;
    let mut child = Program::new(program);
    child.args(arguments).env_clear().envs(&command.env).current_dir(&command.folder).process_group(0);
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    child.spawn().with_context(|| format!("cannot run {program}"))
}

/// Passes streams on until the command has ended and all that it wrote is on its way.
async fn follow(session: u32, mut child: Child, queue: mpsc::UnboundedReceiver<Vec<u8>>, window: &Semaphore, out: &Frames) -> i32 {
    let ended = CancellationToken::new();
    let stdin = child.stdin.take();
    let feeding = tokio::spawn(feed(session, stdin, queue, out.clone()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let output = pump(stdout, &ended, window, |bytes| out.send(Frame::new(session, Message::Output(bytes))));
    let errors = pump(stderr, &ended, window, |bytes| out.send(Frame::new(session, Message::Errors(bytes))));
    let wait = async {
        let status = child.wait().await;
        ended.cancel();
        status
    };
    let (status, (), ()) = tokio::join!(wait, output, errors);
    feeding.abort();
    use std::os::unix::process::ExitStatusExt as _;
    status.ok().and_then(|status| status.code().or_else(|| status.signal().map(|signal| 128 + signal))).unwrap_or(255)
}

/// Writes input to the command until there is no more, or it takes no more.
async fn feed(session: u32, stdin: Option<ChildStdin>, mut queue: mpsc::UnboundedReceiver<Vec<u8>>, out: Frames) {
    let Some(mut stdin) = stdin else { return };
    while let Some(bytes) = queue.recv().await.filter(|bytes| !bytes.is_empty()) {
        let count = u32::try_from(bytes.len()).unwrap_or_default();
        if stdin.write_all(&bytes).await.is_err() || out.send(Frame::new(session, Message::Taken(count))).await.is_err() {
            return;
        }
    }
}

/// Sends what a command writes, as its receiver has room. What others hold open after its end is read until it is empty.
async fn pump<R, F, Fut>(stream: Option<R>, ended: &CancellationToken, window: &Semaphore, send: F)
where
    R: AsyncRead + AsFd + Unpin,
    F: Fn(Vec<u8>) -> Fut,
    Fut: Future<Output = Result<(), mpsc::error::SendError<Frame>>>,
{
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = tokio::select! {
            biased;
            length = stream.read(&mut buffer) => length.unwrap_or(0),
            // The reactor may not know yet what the kernel has.
            () = ended.cancelled() => rustix::io::read(&stream, &mut buffer).unwrap_or(0),
        };
        if length == 0 {
            return;
        }
        let Ok(room) = window.acquire_many(u32::try_from(length).unwrap_or(u32::MAX)).await else { return };
        room.forget();
        if send(buffer[..length].to_vec()).await.is_err() {
            return;
        }
    }
}
