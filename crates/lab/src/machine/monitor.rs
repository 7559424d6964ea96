//! A machine's process on the node: runs QEMU, and passes frames between the guest and whoever connects.
//!
//! It is what the kubelet sees as the container's process: it writes what the command in the guest writes, passes on the request to
//! end, and ends with the command's status. When QEMU ends first, or is killed, it ends as a killed process does.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command as Program};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::frame::{Frame, Message};
use super::handover::{self, Handover};
use super::line::{Line, Rest, Said};
use super::migration::{Frozen, Migration, News};
use super::qmp::{self, Qmp};
use super::{Machine, PORT, Target, devices};

/// Exit status of a machine that was killed.
const KILLED: i32 = 128 + 9;
/// Exit status of one that was asked to end while nothing ran in it.
const ASKED: i32 = 128 + 15;
/// Signals (signal(7)).
const TERM: i32 = 15;
const KILL: i32 = 9;
/// The guest itself.
const GUEST: u32 = 0;
/// Session of the machine's own command.
const OWN: u32 = 1;
/// More bytes than are ever under way to QEMU.
const UNREAD: usize = 1 << 24;
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
        say(&qmp::arguments());
        words.extend(["-serial".to_owned(), format!("file:{console}"), "-append".to_owned()]);
        words.push("console=ttyS0 panic=-1 quiet".to_owned());
        for (flag, file) in [("-kernel", &self.image.kernel), ("-initrd", &self.image.initrd)] {
            words.extend([flag.to_owned(), file.to_str().with_context(|| format!("{}: not UTF-8", file.display()))?.to_owned()]);
        }
        if let Some(memory) = &self.memory {
            words.extend(["-incoming".to_owned(), format!("unix:{}", memory.display())]);
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

/// Runs a machine to its end, here; yields the exit status of what ran in it.
///
/// # Errors
/// When QEMU cannot be started, or the guest is not what it should be.
pub async fn run(machine: Machine, clients: StdListener) -> anyhow::Result<i32> {
    let (near, far) = StdStream::pair().context("cannot make a pair of sockets")?;
    near.set_nonblocking(true)?;
    clients.set_nonblocking(true)?;
    let (guest, clients) = (Rest::new(UnixStream::from_std(near)?), UnixListener::from_std(clients)?);
    let mut terminate = signal(SignalKind::terminate())?;
    let (control, moves) = (qmp::listen()?, machine.memory.as_ref().map(|_| handover::listen()).transpose()?);
    // What QEMU has not read when it stops for good is read here.
    let unread = far.try_clone()?;
    let mut qemu = machine.start(far)?;
    let (mut monitor, mut said) = Monitor::new(&machine, unread);
    let mut qmp = tokio::select! {
        qmp = Qmp::accept(&control) => qmp?,
        _ = terminate.recv() => return Ok(ASKED),
        status = qemu.wait() => return Ok(killed(&machine, status?)),
    };
    monitor.begins(guest, &machine);
    // One future for all rounds: what it has begun to take is nowhere else.
    let mut arriving = std::pin::pin!(arrival(moves.as_ref()));
    let status = loop {
        tokio::select! {
            Some((line, frame)) = said.recv() => {
                if let Some(status) = monitor.takes(line, frame)? {
                    break status;
                }
                monitor.does(&mut qmp).await;
            }
            accepted = clients.accept(), if !monitor.is_frozen() => monitor.welcome(accepted.context("cannot accept a client")?.0),
            arrived = &mut arriving, if monitor.awaited.is_some() => monitor.arrived(arrived?),
            Some((event, data)) = qmp.events.recv() => if let Some(news) = News::of(&event, &data)
                && let Some(status) = monitor.hears(&mut qmp, news, &mut said).await?
            {
                break status;
            },
            _ = terminate.recv() => if monitor.asked_to_end() { break ASKED },
            status = qemu.wait() => break killed(&machine, status?),
        }
    };
    let _ = qemu.kill().await;
    if let Some(session) = monitor.moved {
        // Until then the pod and its port are there: who is to follow decides.
        tokio::select! {
            () = hangs_up(session, &mut said) => {}
            _ = terminate.recv() => {}
        }
    }
    monitor.written().await;
    Ok(status)
}

/// What comes with the guest that moves here.
async fn arrival(moves: Option<&UnixListener>) -> anyhow::Result<Handover> {
    match moves {
        Some(moves) => handover::receive(moves.accept().await.context("cannot accept who moves here")?.0).await,
        None => std::future::pending().await,
    }
}

/// Until the client of a session has gone.
async fn hangs_up(session: u32, said: &mut UnboundedReceiver<Said>) {
    while said.recv().await.is_some_and(|(line, frame)| line != session || frame.is_some()) {}
}

fn killed(machine: &Machine, status: std::process::ExitStatus) -> i32 {
    let console = super::image::last_line(&machine.console);
    eprintln!("machine: QEMU ended ({status}); its console's last line: {}", console.as_deref().unwrap_or("none"));
    KILLED
}

/// The streams of a machine, and who is told what.
struct Monitor {
    lines: BTreeMap<u32, Way>,
    say: UnboundedSender<Said>,
    unread: StdStream,
    command: Option<super::Command>,
    is_ready: bool,
    last: u32,
    /// The stream of a guest that is to come.
    awaited: Option<Rest>,
    migration: Option<Migration>,
    /// A migration that a client has asked for.
    asked: Option<(u32, Target)>,
    /// Whether who asked for the migration has gone.
    called_off: bool,
    /// Once the machine has moved, the session of who asked for it.
    moved: Option<u32>,
}

/// How something is said to who is at the other end of a line.
enum Way {
    Runs(Line),
    Stopped(UnboundedSender<Frame>),
}

impl Monitor {
    fn new(machine: &Machine, unread: StdStream) -> (Self, UnboundedReceiver<Said>) {
        let (say, said) = unbounded_channel();
        let monitor = Self {
            lines: BTreeMap::new(),
            say,
            unread,
            command: machine.command.clone(),
            is_ready: false,
            last: OWN,
            awaited: None,
            migration: None,
            asked: None,
            called_off: false,
            moved: None,
        };
        (monitor, said)
    }

    /// The guest boots, or is to come from elsewhere.
    fn begins(&mut self, guest: Rest, machine: &Machine) {
        if machine.memory.is_some() {
            self.awaited = Some(guest);
            self.is_ready = true;
        } else {
            self.go_on(GUEST, guest);
            self.tell(GUEST, Message::Settings(Box::new(machine.settings.clone())));
        }
    }

    /// Goes on where the process left off that the guest comes from.
    fn arrived(&mut self, handover: Handover) {
        let Some(guest) = self.awaited.take() else { return };
        let Handover { guest: (read, unwritten), clients, last } = handover;
        // Who has come meanwhile has asked for nothing.
        let known = std::mem::take(&mut self.lines);
        self.go_on(GUEST, Rest { read, unwritten, ..guest });
        clients.into_iter().for_each(|(session, rest)| self.go_on(session, rest));
        self.last = last.max(self.last);
        drop(known);
    }

    fn go_on(&mut self, line: u32, rest: Rest) {
        self.lines.insert(line, Way::Runs(Line::go_on(line, rest, self.say.clone())));
    }

    const fn is_frozen(&self) -> bool {
        matches!(self.migration, Some(Migration { frozen: Some(_), .. }))
    }

    /// Says something by a line; one that is gone is noticed elsewhere.
    fn send(&self, line: u32, frame: Frame) {
        match self.lines.get(&line) {
            Some(Way::Runs(line)) => line.send(frame),
            Some(Way::Stopped(queue)) => drop(queue.send(frame)),
            None => {}
        }
    }

    /// To the guest.
    fn tell(&self, session: u32, message: Message) {
        self.send(GUEST, Frame::new(session, message));
    }

    fn tell_client(&self, session: u32, message: Message) {
        self.send(session, Frame::new(0, message));
    }

    fn tell_clients(&self, message: &Message) {
        self.lines.keys().filter(|line| **line != GUEST).for_each(|line| self.tell_client(*line, message.clone()));
    }

    /// Passes on what is said; yields the exit status of the machine's own command when that has ended.
    fn takes(&mut self, line: u32, frame: Option<Frame>) -> anyhow::Result<Option<i32>> {
        match frame {
            Some(frame) if line == GUEST => return self.guest_says(frame),
            // QEMU's end tells more.
            None if line == GUEST => {}
            frame => self.client_says(line, frame.map(|frame| frame.message)),
        }
        Ok(None)
    }

    /// Passes a frame of the guest on; yields the exit status of the machine's own command when that has ended.
    fn guest_says(&mut self, frame: Frame) -> anyhow::Result<Option<i32>> {
        match (frame.session, frame.message) {
            (0, Message::Ready) => {
                self.is_ready = true;
                self.tell_clients(&Message::Ready);
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
                self.tell_client(session, message);
                if is_last {
                    self.lines.remove(&session);
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
    fn welcome(&mut self, client: UnixStream) {
        self.last += 1;
        self.go_on(self.last, Rest::new(client));
        if self.is_ready {
            self.tell_client(self.last, Message::Ready);
        }
    }

    /// Passes a client's message on. One that is gone takes its command with it.
    fn client_says(&mut self, session: u32, message: Option<Message>) {
        match message {
            Some(Message::Start(_)) if self.awaited.is_some() => {
                self.tell_client(session, Message::Failed("it moves here, and has not arrived".to_owned()));
            }
            // Who asked for a migration has nothing in the guest.
            Some(Message::Signal(_)) if self.migration.as_ref().is_some_and(|migration| migration.session == session) => {
                self.called_off = true
            }
            Some(message @ (Message::Start(_) | Message::Input(_) | Message::Taken(_) | Message::Signal(_))) => self.tell(session, message),
            Some(Message::Move(target)) => self.asked = Some((session, target)),
            // Clients say nothing else.
            Some(_) => {}
            None => {
                self.called_off |= self.migration.as_ref().is_some_and(|migration| migration.session == session);
                if self.lines.remove(&session).is_some() {
                    self.tell(session, Message::Signal(KILL));
                }
            }
        }
    }

    /// Does what a client has asked for that is not for the guest.
    async fn does(&mut self, qmp: &mut Qmp) {
        if let Some((session, target)) = self.asked.take() {
            let begun = match (&self.migration, self.is_ready && self.awaited.is_none()) {
                (Some(_), _) => Err(anyhow::anyhow!("it is moving already")),
                (None, false) => Err(anyhow::anyhow!("its guest is not ready")),
                (None, true) => Migration::begin(qmp, session, target).await,
            };
            match begun {
                Ok(migration) => self.migration = Some(migration),
                Err(error) => self.tell_client(session, Message::Failed(format!("{error:#}"))),
            }
        }
        // Which comes too late when all has gone.
        if std::mem::take(&mut self.called_off)
            && let Err(error) = Migration::cancel(qmp).await
        {
            eprintln!("machine: {error:#}");
        }
    }

    /// What becomes of a migration; yields the exit status when the machine is no longer here.
    async fn hears(&mut self, qmp: &mut Qmp, news: News, said: &mut UnboundedReceiver<Said>) -> anyhow::Result<Option<i32>> {
        let Some(mut migration) = self.migration.take() else { return Ok(None) };
        match news {
            News::Stopped => {
                let frozen = match self.freeze(qmp, migration.session, said).await? {
                    Ok(frozen) => frozen,
                    // Its command has ended in that moment, and it with that.
                    Err(status) => return Ok(Some(status)),
                };
                let went_on = migration.go_on(qmp, frozen).await;
                self.migration = Some(migration);
                if let Err(error) = went_on {
                    // It was called off just now: QEMU says so next.
                    eprintln!("machine: {error:#}");
                }
                Ok(None)
            }
            News::Completed => {
                let session = migration.session;
                // Where it is by now it cannot be without what goes along.
                let moved = migration.complete(qmp, self.last).await?;
                self.tell_client(session, Message::Moved(moved));
                self.moved = Some(session);
                Ok(Some(0))
            }
            News::Failed => {
                let why = Migration::why(qmp).await;
                if let Some(Frozen { guest, clients }) = migration.frozen {
                    self.go_on(GUEST, guest);
                    clients.into_iter().for_each(|(session, rest)| self.go_on(session, rest));
                }
                self.tell_client(migration.session, Message::Failed(why));
                Ok(None)
            }
        }
    }

    /// Stops every line but that of who asked for the migration. The guest stands still: what it has said is passed on, and what it has
    /// not heard is taken back. An error is the exit status of the machine's own command.
    async fn freeze(&mut self, qmp: &mut Qmp, but: u32, said: &mut UnboundedReceiver<Said>) -> anyhow::Result<Result<Frozen, i32>> {
        let mut stopped = BTreeMap::new();
        for (id, way) in std::mem::take(&mut self.lines) {
            let way = match way {
                Way::Runs(line) if id != but => {
                    let (queue, rest) = line.stop().await?;
                    stopped.insert(id, rest);
                    Way::Stopped(queue)
                }
                way => way,
            };
            self.lines.insert(id, way);
        }
        while let Ok((line, frame)) = said.try_recv() {
            if let Some(status) = self.takes(line, frame)? {
                return Ok(Err(status));
            }
        }
        let guest = stopped.get_mut(&GUEST).context("the guest has no line")?;
        loop {
            // What QEMU has taken from the guest it writes as there is room, before it does the next thing that it is told.
            qmp.execute("query-status", json!({})).await?;
            if !guest.receive()? {
                break;
            }
        }
        while let Some(frame) = guest.take()? {
            if let Some(status) = self.guest_says(frame)? {
                return Ok(Err(status));
            }
        }
        let mut clients = BTreeMap::new();
        for (id, rest) in stopped {
            // One that has ended in between has been told so, which is to be written yet.
            clients.insert(id, rest.rest()?);
            self.lines.remove(&id);
        }
        let mut guest = clients.remove(&GUEST).context("the guest has no line")?;
        let mut taken_back = vec![0; UNREAD];
        let length = match (&self.unread).read(&mut taken_back) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            length => length?,
        };
        taken_back.truncate(length);
        guest.unwritten = [taken_back, guest.unwritten].concat();
        Ok(Ok(Frozen { guest, clients }))
    }

    /// Passes the request to end on to every command; yields whether there is nothing to wait for.
    fn asked_to_end(&self) -> bool {
        for session in self.lines.keys().copied().filter(|line| *line != GUEST).chain([OWN]) {
            self.tell(session, Message::Signal(TERM));
        }
        !self.is_ready || self.command.is_none()
    }

    /// Waits until clients have been told all, as far as they read it.
    async fn written(self) {
        let clients = self.lines.into_iter().filter(|(line, _)| *line != GUEST).filter_map(|(_, way)| match way {
            Way::Runs(line) => Some(line.written()),
            Way::Stopped(_) => None,
        });
        futures::future::join_all(clients).await;
    }
}
