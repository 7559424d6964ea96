//! Where a server listens (ovsdb(7), "Connection Methods").

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`; IPv6 addresses stand in brackets.
    Tcp(String),
}

/// Why a text is no remote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError {
    /// Neither of the known methods.
    #[error("{0:?} is no OVSDB remote: expected unix:PATH or tcp:HOST:PORT")]
    Malformed(String),
    /// TLS is not there yet.
    #[error("{0:?}: not yet: ssl remotes")]
    Ssl(String),
}

/// A connected byte stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Remote {
    pub(crate) async fn open(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address.as_str()).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        if text.starts_with("ssl:") {
            return Err(RemoteError::Ssl(text.to_owned()));
        }
        if let Some(path) = text.strip_prefix("unix:").filter(|p| !p.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let tcp = text
            .strip_prefix("tcp:")
            .filter(|a| a.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)));
        tcp.map(|address| Self::Tcp(address.to_owned())).ok_or_else(|| RemoteError::Malformed(text.to_owned()))
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_read_back_as_written() {
        for text in ["unix:/run/ovn/ovnnb_db.sock", "tcp:10.0.0.1:6641", "tcp:[fd00::1]:6641"] {
            assert_eq!(text.parse::<Remote>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_was_expected() {
        for text in ["", "unix:", "tcp:", "tcp:10.0.0.1", "tcp::6641", "tcp:a:0", "tcp:a:99999", "ssl:10.0.0.1:6641", "/run/x"] {
            assert!(text.parse::<Remote>().is_err(), "{text}");
        }
    }
}
