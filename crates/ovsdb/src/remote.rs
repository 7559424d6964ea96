//! Where servers listen (ovsdb(7), "Connection Methods").

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::tls::Tls;

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`; IPv6 addresses stand in brackets.
    Tcp(String),
    /// `ssl:HOST:PORT`; both sides show certificates.
    Ssl(String),
}

/// The addresses of one database's servers, tried in turn: `REMOTE[,REMOTE…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remotes(Vec<Remote>);

/// Why a text is no remote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no OVSDB remote: expected unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT")]
pub struct RemoteError(String);

/// A connected byte stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Remote {
    pub(crate) async fn open(&self, tls: Option<&Tls>) -> std::io::Result<Box<dyn Stream>> {
        let address = match self {
            Self::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Tcp(address) | Self::Ssl(address) => address,
        };
        let stream = TcpStream::connect(address.as_str()).await?;
        stream.set_nodelay(true)?;
        match (self, tls) {
            (Self::Ssl(_), Some(tls)) => Ok(Box::new(tls.connect(stream).await?)),
            (Self::Ssl(_), None) => {
                Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "an ssl remote needs a private key, a certificate and a CA"))
            }
            _ => Ok(Box::new(stream)),
        }
    }
}

impl Remotes {
    /// The addresses; at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[Remote] {
        &self.0
    }

    /// Whether any of them is reached through TLS.
    #[must_use]
    pub fn need_tls(&self) -> bool {
        self.0.iter().any(|remote| matches!(remote, Remote::Ssl(_)))
    }
}

impl From<Remote> for Remotes {
    fn from(remote: Remote) -> Self {
        Self(vec![remote])
    }
}

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let malformed = || RemoteError(text.to_owned());
        let (method, rest) = text.split_once(':').ok_or_else(malformed)?;
        let address = || {
            let (host, port) = rest.rsplit_once(':').ok_or_else(malformed)?;
            let complete = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
            if complete { Ok(rest.to_owned()) } else { Err(malformed()) }
        };
        match method {
            "unix" if !rest.is_empty() => Ok(Self::Unix(rest.into())),
            "tcp" => address().map(Self::Tcp),
            "ssl" => address().map(Self::Ssl),
            _ => Err(malformed()),
        }
    }
}

impl FromStr for Remotes {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        text.split(',').map(|remote| remote.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Ssl(address) => write!(f, "ssl:{address}"),
        }
    }
}

impl fmt::Display for Remotes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, remote) in self.0.iter().enumerate() {
            write!(f, "{}{remote}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_read_back_as_written() {
        for text in ["unix:/run/ovn/ovnnb_db.sock", "tcp:10.0.0.1:6641", "ssl:[fd00::1]:6641", "tcp:10.0.0.1:6641,ssl:b:6641,unix:/x"] {
            assert_eq!(text.parse::<Remotes>().unwrap().to_string(), text);
        }
        assert_eq!("tcp:a:1, tcp:b:2".parse::<Remotes>().unwrap().as_slice().len(), 2);
    }

    #[test]
    fn anything_else_is_refused_with_what_was_expected() {
        for text in ["", "unix:", "tcp:", "tcp:10.0.0.1", "tcp::6641", "tcp:a:0", "ssl:a:99999", "ssl:10.0.0.1", "/run/x", "tcp:a:1,,"] {
            assert!(text.parse::<Remotes>().is_err(), "{text}");
        }
    }
}
