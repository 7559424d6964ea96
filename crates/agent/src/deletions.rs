//! DELs that came while no agent was there: the plugin leaves each as a file, with the headers and the body of the request that it
//! would have sent, and reports success. They are done when an agent starts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cni::{self, Command};
use crate::node::Node;

/// Folder of the files, beside the agent's socket.
const FOLDER: &str = "deletions";
/// Before what could not be done is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// Does all that is there, until it is done.
pub(crate) async fn run(node: &Node, shutdown: &CancellationToken) {
    let folder = node.config.socket.with_file_name(FOLDER);
    while !is_done(node, &folder).await {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(PAUSE) => {}
        }
    }
}

/// Does what can be done, and returns whether that was all. What cannot be read is named in the log and set aside.
async fn is_done(node: &Node, folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return true };
    let mut done = true;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_none_or(|extension| extension != "del") {
            continue;
        }
        let Some(request) = fs::read(&path).ok().and_then(|file| parse(&file)) else {
            tracing::error!(path = %path.display(), "a DEL that was left cannot be read; set aside");
            let _ = fs::rename(&path, path.with_extension("unreadable"));
            continue;
        };
        match node.del(&request).await {
            Ok(()) => {
                tracing::info!(container = request.container, ifname = request.ifname, "DEL done that came while no agent was there");
                if let Err(error) = fs::remove_file(&path) {
                    tracing::error!(path = %path.display(), %error, "a DEL that was left is done and cannot be removed");
                }
            }
            Err(error) => {
                tracing::warn!(container = request.container, error = error.message, "a DEL that was left cannot be done yet");
                done = false;
            }
        }
    }
    done
}

/// `NAME: value` lines, an empty line, the network's configuration.
fn parse(file: &[u8]) -> Option<cni::Request> {
    let end = file.windows(2).position(|pair| pair == b"\n\n")?;
    let head = std::str::from_utf8(&file[..end]).ok()?;
    let variable = |name: &str| {
        let value = head.lines().find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name));
        value.map(|(_, value)| value.to_owned())
    };
    cni::parse(variable, &file[end + 2..]).ok().filter(|request| request.command == Command::Del)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_as_the_request_that_it_stands_for() {
        let text = "CNI_COMMAND: DEL\nCNI_CONTAINERID: abcd\nCNI_IFNAME: eth0\n\n{\"cniVersion\":\"1.0.0\",\"name\":\"n\"}";
        let request = parse(text.as_bytes()).unwrap();
        assert_eq!((request.container.as_str(), request.ifname.as_str()), ("abcd", "eth0"));
        for bad in ["", "CNI_COMMAND: ADD\n\n{}", "CNI_COMMAND: DEL\n\n{"] {
            assert!(parse(bad.as_bytes()).is_none());
        }
    }
}
