//! What is said to QEMU and what it says: QMP (QEMU's `interop/qmp-spec`), by a socket without a file in the pod's network namespace.

use std::io;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::client;

/// Name of the socket.
const NAME: &str = "ferrovia-qmp";

/// Arguments by which QEMU connects.
pub(crate) fn arguments() -> String {
    format!("-chardev socket,id=qmp,path={NAME},abstract=on -mon chardev=qmp,mode=control")
}

/// Listens for QEMU in this network namespace; to be called before QEMU starts.
pub(crate) fn listen() -> anyhow::Result<UnixListener> {
    client::listen_here(NAME).context("cannot listen for QEMU")
}

/// A connection to QEMU.
pub(crate) struct Qmp {
    to: OwnedWriteHalf,
    replies: mpsc::UnboundedReceiver<Value>,
    /// Names and data of what happens.
    pub(crate) events: mpsc::UnboundedReceiver<(String, Value)>,
}

impl Qmp {
    /// Takes QEMU's connection. Once this is done QEMU has started, and listens for memory if it is to.
    pub(crate) async fn accept(listener: &UnixListener) -> anyhow::Result<Self> {
        let (from, to) = listener.accept().await.context("cannot accept QEMU")?.0.into_split();
        let mut lines = BufReader::new(from).lines();
        let greeting = lines.next_line().await?.context("QEMU has ended")?;
        if !greeting.contains("QMP") {
            bail!("QEMU says {greeting:?}");
        }
        let (reply, replies) = mpsc::unbounded_channel();
        let (happen, events) = mpsc::unbounded_channel();
        tokio::spawn(read(lines, reply, happen));
        let mut qmp = Self { to, replies, events };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Has QEMU do something; yields its answer.
    pub(crate) async fn execute(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let mut line = serde_json::to_vec(&json!({ "execute": command, "arguments": arguments }))?;
        line.push(b'\n');
        self.to.write_all(&line).await.context("cannot speak to QEMU")?;
        let mut reply = self.replies.recv().await.context("QEMU has ended")?;
        match reply.get("error") {
            Some(error) => bail!("{command}: {}", error["desc"].as_str().unwrap_or("QEMU refuses it")),
            None => Ok(reply["return"].take()),
        }
    }
}

async fn read(
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    reply: mpsc::UnboundedSender<Value>,
    happen: mpsc::UnboundedSender<(String, Value)>,
) -> io::Result<()> {
    while let Some(line) = lines.next_line().await? {
        let Ok(mut said) = serde_json::from_str::<Value>(&line) else { continue };
        match said["event"].as_str().map(str::to_owned) {
            Some(event) => drop(happen.send((event, said["data"].take()))),
            None => drop(reply.send(said)),
        }
    }
    Ok(())
}
