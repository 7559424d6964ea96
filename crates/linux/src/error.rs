//! The one error of this crate: which object, which operation, and what the kernel said.

use std::io;

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{object}: cannot {operation}: {cause}")]
pub struct Error {
    object: String,
    operation: String,
    cause: io::Error,
}

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(object: impl Into<String>, operation: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { object: object.into(), operation: operation.into(), cause: cause.into() }
    }

    /// The object concerned, such as `link eth0` or `network namespace node1`.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The kind of the cause.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.cause.kind()
    }

    /// The cause as an `errno` value, when the kernel gave one.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }

    /// Whether what was asked for is not there (`ENOENT`, `ENODEV`, `ESRCH`, `EADDRNOTAVAIL`).
    #[must_use]
    pub fn is_missing(&self) -> bool {
        use rustix::io::Errno;
        [Errno::NOENT, Errno::NODEV, Errno::SRCH, Errno::ADDRNOTAVAIL].iter().any(|e| self.raw_os_error() == Some(e.raw_os_error()))
    }

    /// Whether it was there already (`EEXIST`).
    #[must_use]
    pub fn is_existing(&self) -> bool {
        self.kind() == io::ErrorKind::AlreadyExists
    }
}

/// What netlink answered, as an operating-system error.
pub(crate) fn netlink_cause(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map_or_else(
            || io::Error::other("netlink acknowledged with an error message"),
            |code| io::Error::from_raw_os_error(code.get().saturating_neg()),
        ),
        other => io::Error::other(other.to_string()),
    }
}
