//! Probing from inside a virtual machine: `ferrovia lab probe` runs in the guest and does what it is asked, a line of JSON each.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use linux::Netns;
use linux::icmp::EchoKind;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::{Endpoint, Outcome, ping};
use crate::machine::{Client, Command, Frame, Message, PROGRAM, input};

/// How long a guest may take until it is ready to probe; it may just be booting.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a guest's probe says first.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    tcp_port: u16,
    udp_port: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    number: u64,
    ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    number: u64,
    outcome: Outcome,
}

/// What a guest's probe is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ask {
    Tcp {
        to: SocketAddr,
        who: String,
        bytes: usize,
    },
    Udp {
        to: SocketAddr,
        who: String,
    },
    Send {
        to: IpAddr,
        key: [u8; ping::KEY],
        length: usize,
    },
    Saw {
        v4: bool,
        request: bool,
        key: [u8; ping::KEY],
        length: usize,
    },
    /// The answer is no longer wanted.
    Forget,
}

/// The probe of a guest.
#[derive(Debug)]
pub(super) struct Remote {
    asks: mpsc::UnboundedSender<(Request, Option<oneshot::Sender<Outcome>>)>,
    last: AtomicU64,
}

/// Forgets a request whose answer nobody waits for any more.
struct Pending<'a>(&'a Remote, u64);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let _ = self.0.asks.send((Request { number: self.1, ask: Ask::Forget }, None));
    }
}

impl Remote {
    /// Starts a probe in the guest of a pod's namespace, if there is one; yields its ports, too.
    pub(super) fn open(id: &str, netns: &Netns, tasks: &mut JoinSet<()>) -> anyhow::Result<Option<(Self, u16, u16)>> {
        // On a thread and runtime of its own: whoever opens an endpoint waits for it, in whatever runtime.
        let opened = std::thread::scope(|scope| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let opening = scope.spawn(move || runtime.block_on(begin(id, netns)));
            opening.join().map_err(|_| anyhow!("the thread of a guest's probe failed"))?
        });
        let Some((stream, opened)) = opened.with_context(|| format!("the guest of {}", netns.label()))? else { return Ok(None) };
        let (asks, queue) = mpsc::unbounded_channel();
        tasks.spawn(relay(Client::over(stream)?, queue));
        Ok(Some((Self { asks, last: AtomicU64::new(0) }, opened.tcp_port, opened.udp_port)))
    }

    pub(super) async fn ask(&self, ask: Ask) -> Outcome {
        let gone = || "the guest's probe has ended".to_owned();
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.asks.send((Request { number, ask }, Some(answer))).map_err(|_| gone())?;
        let _pending = Pending(self, number);
        answered.await.map_err(|_| gone())?
    }
}

async fn begin(id: &str, netns: &Netns) -> anyhow::Result<Option<(std::os::unix::net::UnixStream, Opened)>> {
    let Some(client) = Client::connect(netns)? else { return Ok(None) };
    let begun = tokio::time::timeout(PATIENCE, start(id, client)).await;
    begun.unwrap_or_else(|_| bail!("it does not answer within {PATIENCE:?}")).map(Some)
}

/// Starts the probe, as soon as the guest is ready.
async fn start(id: &str, mut client: Client) -> anyhow::Result<(std::os::unix::net::UnixStream, Opened)> {
    client.ready().await?;
    let argv = [PROGRAM, "lab", "probe", id].map(str::to_owned).to_vec();
    let command = Command::of(argv, BTreeMap::new(), None).context("no command")?;
    client.say(Message::Start(command)).await?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        match client.next().await? {
            Message::Output(bytes) => line.extend(bytes),
            Message::Errors(bytes) => bail!("its probe says: {}", String::from_utf8_lossy(&bytes).trim()),
            Message::Ended(status) => bail!("its probe ended with status {status}"),
            Message::Failed(why) => bail!("{why}"),
            _ => {}
        }
    }
    let opened = serde_json::from_slice(&line)?;
    client.say(Message::Taken(u32::try_from(line.len())?)).await?;
    Ok((client.leave()?, opened))
}

/// Passes requests and answers between the endpoint and the guest, until either ends.
async fn relay(client: Client, mut queue: mpsc::UnboundedReceiver<(Request, Option<oneshot::Sender<Outcome>>)>) {
    let mut waiting: HashMap<u64, oneshot::Sender<Outcome>> = HashMap::new();
    let (mut from, mut to) = client.split();
    let (tell, mut said) = mpsc::channel(16);
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        while let Ok(Some(frame)) = Frame::read(&mut from).await {
            if tell.send(frame.message).await.is_err() {
                return;
            }
        }
    });
    let mut text = Vec::new();
    loop {
        let message = tokio::select! {
            asked = queue.recv() => {
                let Some((request, answer)) = asked else { return };
                match answer {
                    Some(answer) => drop(waiting.insert(request.number, answer)),
                    // What has been answered is not to be forgotten.
                    None if waiting.remove(&request.number).is_none() => continue,
                    None => {}
                }
                let Ok(mut line) = serde_json::to_vec(&request) else { continue };
                line.push(b'\n');
                Message::Input(line)
            }
            said = said.recv() => {
                let Some(Message::Output(bytes)) = said else {
                    match said {
                        Some(Message::Taken(_)) => continue,
                        _ => return,
                    }
                };
                text.extend_from_slice(&bytes);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    if let Ok(Answer { number, outcome }) = serde_json::from_slice(&line)
                        && let Some(answer) = waiting.remove(&number)
                    {
                        let _ = answer.send(outcome);
                    }
                }
                Message::Taken(u32::try_from(bytes.len()).unwrap_or_default())
            }
        };
        if Frame::new(0, message).write(&mut to).await.is_err() {
            return;
        }
    }
}

/// Serves as the probe of a guest, by standard input and output.
///
/// # Errors
/// When no sockets can be opened, or the streams fail.
pub async fn serve(id: &str) -> anyhow::Result<()> {
    let endpoint = std::sync::Arc::new(Endpoint::here(id, &Netns::current()?)?);
    let (answers, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
    let say = |value: serde_json::Result<Vec<u8>>| {
        // What can be said has an encoding.
        let mut line = value.unwrap_or_default();
        line.push(b'\n');
        let _ = answers.send(line);
    };
    say(serde_json::to_vec(&Opened { tcp_port: endpoint.tcp_port, udp_port: endpoint.udp_port }));
    let mut lines = BufReader::new(input()?).lines();
    let mut tasks: JoinSet<Answer> = JoinSet::new();
    let mut running: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        tokio::select! {
            Some(line) = queue.recv() => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&line)?;
                stdout.flush()?;
            }
            Some(done) = tasks.join_next() => if let Ok(answer) = done {
                running.remove(&answer.number);
                say(serde_json::to_vec(&answer));
            },
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let Request { number, ask } = serde_json::from_str(&line)?;
                if matches!(ask, Ask::Forget) {
                    running.remove(&number).inspect(AbortHandle::abort);
                    continue;
                }
                let endpoint = endpoint.clone();
                let task = tasks.spawn(async move { Answer { number, outcome: endpoint.does(ask).await } });
                running.insert(number, task);
            }
        }
    }
}

impl Endpoint {
    /// What a guest's probe does when it is asked.
    async fn does(&self, ask: Ask) -> Outcome {
        match ask {
            Ask::Tcp { to, who, bytes } => self.transfer(to, &who, bytes).await,
            Ask::Udp { to, who } => self.exchange(to, &who).await,
            Ask::Send { to, key, length } => self.send(to, key, length).await,
            Ask::Saw { v4, request, key, length } => {
                self.saw(v4, if request { EchoKind::Request } else { EchoKind::Reply }, key, length).await
            }
            Ask::Forget => Ok(()),
        }
    }
}
