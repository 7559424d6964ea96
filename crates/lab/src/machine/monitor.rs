//! A machine's process on the node: runs QEMU, and passes frames between the guest and whoever connects.
//!
//! It is what the kubelet sees as the container's process: it writes what the command in the guest writes, passes on the request to
//! end, and ends with the command's status. When QEMU ends first, or is killed, it ends as a killed process does.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command as Program};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::frame::{Frame, Message};
use super::{Machine, PORT, devices};

/// Exit status of a machine that was killed.
const KILLED: i32 = 128 + 9;
/// Exit status of one that was asked to end while nothing ran in it.
const ASKED: i32 = 128 + 15;
/// Signals (signal(7)).
const TERM: i32 = 15;
const KILL: i32 = 9;
/// Session of the machine's own command.
const OWN: u32 = 1;
/// Memory in MiB: the disk is in it, once as an archive and once unpacked.
const MEMORY: u32 = 256;

impl Machine {
    fn arguments(&self) -> anyhow::Result<Vec<String>> {
        let (accelerator, processor) = if self.image.accelerated { ("kvm", "host") } else { ("tcg", "max") };
        let console = self.console.display();
        let mut words: Vec<String> = vec!["-accel".to_owned(), accelerator.to_owned(), "-cpu".to_owned(), processor.to_owned()];
        words.extend(devices::arguments(MEMORY, &self.settings.nics, self.image.accelerated));
        let mut say = |text: &str| words.extend(text.split_whitespace().map(str::to_owned));
        say("-nodefaults -display none -monitor none -no-reboot -device virtio-serial-pci -chardev stdio,id=guest,signal=off");
        say(&format!("-device virtserialport,chardev=guest,name={PORT}"));
        words.extend(["-serial".to_owned(), format!("file:{console}"), "-append".to_owned()]);
        words.push("console=ttyS0 panic=-1 quiet".to_owned());
        for (flag, file) in [("-kernel", &self.image.kernel), ("-initrd", &self.image.initrd)] {
            words.extend([flag.to_owned(), file.to_str().with_context(|| format!("{}: not UTF-8", file.display()))?.to_owned()]);
        }
        Ok(words)
    }

    /// Starts QEMU here, in the pod's namespace, with its end of the guest's port as input and output.
    fn start(&self, port: StdStream) -> anyhow::Result<Child> {
        let mut program = Program::new("qemu-system-x86_64");
        program.args(self.arguments()?).env_clear().envs(&self.marks).env("PATH", "/usr/local/bin:/usr/bin:/bin");
        let input = OwnedFd::from(port.try_clone()?);
        program.stdin(Stdio::from(input)).stdout(Stdio::from(OwnedFd::from(port))).kill_on_drop(true);
        program.spawn().context("cannot start qemu-system-x86_64 (`make setup` installs it)")
    }
}

/// Runs a machine to its end; yields the exit status of what ran in it.
///
/// # Errors
/// When QEMU cannot be started, or the guest is not what it should be.
pub async fn run(machine: Machine, clients: StdListener) -> anyhow::Result<i32> {
    let (near, far) = StdStream::pair().context("cannot make a pair of sockets")?;
    near.set_nonblocking(true)?;
    clients.set_nonblocking(true)?;
    let (near, clients) = (UnixStream::from_std(near)?, UnixListener::from_std(clients)?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut qemu = machine.start(far)?;
    let (from, to) = near.into_split();
    let mut relay = Relay::new(&machine, to);
    let (tell, mut said) = mpsc::channel(64);
    let (guest, mut frames) = mpsc::channel(64);
    tokio::spawn(read(from, guest));
    relay.guest.send(Frame::new(0, Message::Settings(Box::new(machine.settings.clone())))).ok();
    let status = loop {
        tokio::select! {
            Some(frame) = frames.recv() => if let Some(status) = relay.guest_says(frame)? { break status },
            accepted = clients.accept() => relay.welcome(accepted.context("cannot accept a client")?.0, &tell),
            Some((session, message)) = said.recv() => relay.client_says(session, message),
            _ = terminate.recv() => if relay.asked_to_end() { break ASKED },
            status = qemu.wait() => {
                let (status, console) = (status?, super::image::last_line(&machine.console));
                eprintln!("machine: QEMU ended ({status}); its console's last line: {}", console.as_deref().unwrap_or("none"));
                break KILLED;
            }
        }
    };
    let _ = qemu.kill().await;
    Ok(status)
}

async fn read(mut from: OwnedReadHalf, guest: mpsc::Sender<Frame>) {
    loop {
        match Frame::read(&mut from).await {
            Ok(Some(frame)) => {
                if guest.send(frame).await.is_err() {
                    return;
                }
            }
            // QEMU's end tells more, also where what it had not read yet is thrown away.
            Ok(None) => return,
            Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset) => return,
            Err(error) => {
                eprintln!("machine: what the guest says makes no sense: {error:#}");
                return;
            }
        }
    }
}

/// Who is told what.
struct Relay {
    guest: mpsc::UnboundedSender<Frame>,
    command: Option<super::Command>,
    is_ready: bool,
    last: u32,
    clients: HashMap<u32, mpsc::UnboundedSender<Message>>,
}

impl Relay {
    fn new(machine: &Machine, mut to: OwnedWriteHalf) -> Self {
        // What is under way is limited by the sessions' windows.
        let (guest, mut queue) = mpsc::unbounded_channel::<Frame>();
        tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                // QEMU's end tells more.
                if frame.write(&mut to).await.is_err() {
                    return;
                }
            }
        });
        Self { guest, command: machine.command.clone(), is_ready: false, last: OWN, clients: HashMap::new() }
    }

    /// To the guest; one that is gone is noticed elsewhere.
    fn tell(&self, session: u32, message: Message) {
        let _ = self.guest.send(Frame::new(session, message));
    }

    /// Passes a frame of the guest on; yields the exit status of the machine's own command when that has ended.
    fn guest_says(&mut self, frame: Frame) -> anyhow::Result<Option<i32>> {
        match (frame.session, frame.message) {
            (0, Message::Ready) => {
                self.is_ready = true;
                self.clients.values().for_each(|client| drop(client.send(Message::Ready)));
                if let Some(command) = self.command.clone() {
                    self.tell(OWN, Message::Start(command));
                    self.tell(OWN, Message::Input(Vec::new()));
                }
            }
            (0, Message::Failed(why)) => bail!("the guest: {why}"),
            (OWN, Message::Output(bytes)) => self.took(io::stdout(), &bytes)?,
            (OWN, Message::Errors(bytes)) => self.took(io::stderr(), &bytes)?,
            (OWN, Message::Ended(status)) => return Ok(Some(status)),
            (OWN, Message::Failed(why)) => {
                eprintln!("{why}");
                return Ok(Some(127));
            }
            (session, message) => {
                let is_last = matches!(message, Message::Ended(_) | Message::Failed(_));
                if let Some(client) = self.clients.get(&session) {
                    let _ = client.send(message);
                }
                if is_last {
                    self.clients.remove(&session);
                }
            }
        }
        Ok(None)
    }

    /// Writes what the machine's own command wrote.
    fn took(&self, mut to: impl io::Write, bytes: &[u8]) -> anyhow::Result<()> {
        to.write_all(bytes).and_then(|()| to.flush()).context("cannot write the log")?;
        self.tell(OWN, Message::Taken(u32::try_from(bytes.len())?));
        Ok(())
    }

    /// A client, which is told first whether the guest is ready.
    fn welcome(&mut self, client: UnixStream, tell: &mpsc::Sender<(u32, Option<Message>)>) {
        self.last += 1;
        let session = self.last;
        let (to_client, mut queue) = mpsc::unbounded_channel();
        if self.is_ready {
            let _ = to_client.send(Message::Ready);
        }
        self.clients.insert(session, to_client);
        let (mut from, mut to) = client.into_split();
        tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                if Frame::new(0, message).write(&mut to).await.is_err() {
                    return;
                }
            }
        });
        let tell = tell.clone();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = Frame::read(&mut from).await {
                if tell.send((session, Some(frame.message))).await.is_err() {
                    return;
                }
            }
            let _ = tell.send((session, None)).await;
        });
    }

    /// Passes a client's message on. One that is gone takes its command with it.
    fn client_says(&mut self, session: u32, message: Option<Message>) {
        match message {
            Some(message @ (Message::Start(_) | Message::Input(_) | Message::Taken(_) | Message::Signal(_))) => self.tell(session, message),
            // Clients say nothing else.
            Some(_) => {}
            None => {
                if self.clients.remove(&session).is_some() {
                    self.tell(session, Message::Signal(KILL));
                }
            }
        }
    }

    /// Passes the request to end on to every command; yields whether there is nothing to wait for.
    fn asked_to_end(&self) -> bool {
        for session in self.clients.keys().copied().chain([OWN]) {
            self.tell(session, Message::Signal(TERM));
        }
        !self.is_ready || self.command.is_none()
    }
}
