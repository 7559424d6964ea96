//! The CNI plugin: a pipe to the node's agent. `CNI_*` variables become headers, stdin becomes the body, and what comes
//! back goes to stdout. The agent does all parsing, so that this program never needs an update of its own.
//!
//! A DEL must not fail because no agent is there (CNI SPEC.md, "DEL"): it is left as a file beside the agent's socket, in
//! `deletions/`, with the variables as `NAME: value` lines, an empty line, and stdin. An agent that starts does it.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Where agents listen unless `FERROVIA_AGENT_SOCKET` says otherwise.
const DEFAULT_SOCKET: &str = "/run/ferrovia/agent.sock";
/// Longer than the agent waits for anything.
const PATIENCE: Duration = Duration::from_secs(180);
/// Error codes of the CNI specification, section "Error".
const INVALID_ENVIRONMENT: u32 = 4;
const IO_FAILURE: u32 = 5;
const TRY_AGAIN_LATER: u32 = 11;

struct Failure(u32, String);

fn main() -> ExitCode {
    let (body, ok) = match exchange() {
        Ok((body, ok)) => (body, ok),
        Err(Failure(code, message)) => (error(code, &message).into_bytes(), false),
    };
    let written = io::stdout().write_all(&body).and_then(|()| io::stdout().flush());
    if ok && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sends the request and returns the body, and whether the agent called it a success.
fn exchange() -> Result<(Vec<u8>, bool), Failure> {
    let socket = std::env::var("FERROVIA_AGENT_SOCKET").unwrap_or_else(|_| DEFAULT_SOCKET.to_owned());
    let mut stdin = Vec::new();
    io::stdin().read_to_end(&mut stdin).map_err(|e| Failure(IO_FAILURE, format!("standard input cannot be read: {e}")))?;
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("CNI_")) else { continue };
        let value = value.to_str().filter(|v| !v.chars().any(char::is_control));
        let value = value.ok_or_else(|| Failure(INVALID_ENVIRONMENT, format!("{name} holds control characters or is not UTF-8")))?;
        variables.push((name.to_owned(), value.to_owned()));
    }
    let unreachable = match UnixStream::connect(&socket) {
        Ok(stream) => return ask(stream, &socket, &variables, &stdin),
        Err(error) => Failure(TRY_AGAIN_LATER, format!("cannot reach the agent at {socket}: {error}")),
    };
    let Some(path) = deletion(&socket, &variables) else { return Err(unreachable) };
    leave(&path, &variables, &stdin).map_err(|e| Failure(IO_FAILURE, format!("{}; and {}: {e}", unreachable.1, path.display())))?;
    // An agent that came meanwhile may have looked for what was left already.
    if let Ok(stream) = UnixStream::connect(&socket) {
        let answer = ask(stream, &socket, &variables, &stdin)?;
        if answer.1 {
            let _ = fs::remove_file(&path);
        }
        return Ok(answer);
    }
    Ok((Vec::new(), true))
}

fn ask(mut stream: UnixStream, socket: &str, variables: &[(String, String)], stdin: &[u8]) -> Result<(Vec<u8>, bool), Failure> {
    let mut request = String::from("POST /cni HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n");
    for (name, value) in variables {
        request.push_str(&format!("{}: {value}\r\n", name.replace('_', "-")));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n", stdin.len()));
    let later = |what: &str, e: io::Error| Failure(TRY_AGAIN_LATER, format!("{what} the agent at {socket}: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| later("cannot wait for", e))?;
    stream.write_all(request.as_bytes()).and_then(|()| stream.write_all(stdin)).map_err(|e| later("cannot write to", e))?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).map_err(|e| later("no reply from", e))?;
    parse(&reply).ok_or_else(|| Failure(TRY_AGAIN_LATER, format!("the reply of the agent at {socket} is cut short")))
}

/// Where a DEL is left; `None` when it is none, or names what cannot be the name of a file.
fn deletion(socket: &str, variables: &[(String, String)]) -> Option<PathBuf> {
    let value = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let is_plain =
        |text: &str| !text.is_empty() && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    let (container, ifname) = (value("CNI_CONTAINERID")?, value("CNI_IFNAME")?);
    if value("CNI_COMMAND")? != "DEL" || !is_plain(container) || !is_plain(ifname) {
        return None;
    }
    Some(Path::new(socket).parent()?.join("deletions").join(format!("{container}-{ifname}.del")))
}

/// Leaves the request as a file, whole or not at all.
fn leave(path: &Path, variables: &[(String, String)], stdin: &[u8]) -> io::Result<()> {
    let mut file: Vec<u8> = variables.iter().flat_map(|(name, value)| format!("{name}: {value}\n").into_bytes()).collect();
    file.push(b'\n');
    file.extend_from_slice(stdin);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension(format!("new{}", std::process::id()));
    fs::write(&fresh, file)?;
    fs::rename(&fresh, path)
}

/// Splits `HTTP/1.1 200 OK … \r\n\r\n body` and checks the length.
fn parse(reply: &[u8]) -> Option<(Vec<u8>, bool)> {
    let end = reply.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&reply[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    let body = &reply[end + 4..];
    (body.len() == length).then(|| (body.to_vec(), status == "200"))
}

/// The CNI error object.
fn error(code: u32, message: &str) -> String {
    let mut text = String::new();
    for c in message.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    format!("{{\"cniVersion\":\"1.0.0\",\"code\":{code},\"msg\":\"{text}\"}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_reply_is_read_and_a_short_one_refused() {
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(reply), Some((b"{}".to_vec(), true)));
        assert_eq!(parse(b"HTTP/1.1 500 X\r\nContent-Length: 1\r\n\r\n1"), Some((b"1".to_vec(), false)));
        for bad in [&b""[..], b"garbage", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", b"HTTP/1.1 200 OK\r\n\r\n"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn only_a_del_is_left_and_only_under_a_plain_name() {
        let of = |command: &str, container: &str| {
            let pairs = [("CNI_COMMAND", command), ("CNI_CONTAINERID", container), ("CNI_IFNAME", "eth0")];
            deletion("/run/x/agent.sock", &pairs.map(|(n, v)| (n.to_owned(), v.to_owned())))
        };
        assert_eq!(of("DEL", "abc"), Some("/run/x/deletions/abc-eth0.del".into()));
        assert_eq!((of("ADD", "abc"), of("DEL", "../abc"), of("DEL", "")), (None, None, None));
    }

    #[test]
    fn what_is_left_reads_back() {
        let path = std::env::temp_dir().join(format!("fvt-{}-left", std::process::id())).join("a.del");
        leave(&path, &[("CNI_COMMAND".to_owned(), "DEL".to_owned())], b"{}").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"CNI_COMMAND: DEL\n\n{}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn errors_are_json_whatever_the_message() {
        assert_eq!(error(11, "a \"b\"\n"), "{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"a \\\"b\\\" \"}\n");
    }
}
