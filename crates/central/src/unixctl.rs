//! The control socket of a program of OVS or OVN (ovs-appctl(8)): JSON-RPC with texts as parameters and result.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ovsdb::Framer;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take; a program that is busy answers between two rounds of work.
const PATIENCE: Duration = Duration::from_secs(10);
/// Greatest answer in bytes.
const LIMIT: usize = 16 << 20;

#[derive(Deserialize)]
struct Reply {
    result: Option<String>,
    error: Option<String>,
}

/// Sends a command and yields what it prints.
pub(crate) async fn command(socket: &Path, method: &str, params: &[&str]) -> anyhow::Result<String> {
    let work = async {
        let mut stream = UnixStream::connect(socket).await?;
        let request = serde_json::json!({"id": 0, "method": method, "params": params});
        stream.write_all(&serde_json::to_vec(&request)?).await?;
        let mut framer = Framer::new(LIMIT);
        loop {
            if let Some(message) = framer.next_message()? {
                let reply: Reply = serde_json::from_slice(&message)?;
                return match reply {
                    Reply { error: Some(error), .. } => bail!("{error}"),
                    Reply { result, .. } => Ok(result.unwrap_or_default()),
                };
            }
            if stream.read_buf(framer.buffer()).await? == 0 {
                bail!("connection closed without an answer");
            }
        }
    };
    let answered = timeout(PATIENCE, work).await.with_context(|| format!("no answer for {PATIENCE:?}")).and_then(|answer| answer);
    answered.with_context(|| format!("{method} through {}", socket.display()))
}
