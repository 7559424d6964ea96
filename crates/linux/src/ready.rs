//! A file descriptor watched by the reactor.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor for readability. Must be called within a tokio runtime.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, and the same one until it is dropped; nothing here replaces it.
    #[allow(unsafe_code)]
    unsafe {
        Ok(AsyncFd::register_with_interest(fd, Interest::READABLE)?)
    }
}
