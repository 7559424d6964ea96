//! What happens to the files of a folder (inotify(7)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

use crate::{Error, Result, ready};

/// A folder that is watched.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    fd: AsyncFd<OwnedFd>,
}

impl Folder {
    /// Watches a folder. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is none, or the kernel refuses.
    pub fn watch(path: &Path) -> Result<Self> {
        let failed = |cause: io::Error| Error::new(format!("folder {}", path.display()), "watch", cause);
        let open = || -> io::Result<OwnedFd> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let flags = WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE;
            inotify::add_watch(&fd, path, flags | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR)?;
            Ok(fd)
        };
        let fd = open().and_then(ready::watch).map_err(failed)?;
        Ok(Self { path: path.to_owned(), fd })
    }

    /// Waits until something happened, and takes note of all that did. Returns whether the folder itself is still there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn changed(&mut self) -> Result<bool> {
        let failed = |cause: io::Error| Error::new(format!("folder {}", self.path.display()), "watch", cause);
        loop {
            let mut guard = self.fd.readable().await.map_err(failed)?;
            let read = guard.try_io(|fd| {
                let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
                let mut reader = inotify::Reader::new(fd.get_ref(), &mut buffer);
                let mut stands = true;
                loop {
                    let event = reader.next()?;
                    stands &= !event
                        .events()
                        .intersects(inotify::ReadFlags::IGNORED | inotify::ReadFlags::DELETE_SELF | inotify::ReadFlags::MOVE_SELF);
                    if reader.is_buffer_empty() {
                        return Ok(stands);
                    }
                }
            });
            if let Ok(read) = read {
                return read.map_err(failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_that_come_and_go_and_the_folders_end_are_told() {
        let path = std::env::temp_dir().join(format!("fvt-{}-folder", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let mut folder = Folder::watch(&path).unwrap();
        std::fs::write(path.join("a"), "x").unwrap();
        assert!(folder.changed().await.unwrap());
        std::fs::remove_file(path.join("a")).unwrap();
        assert!(folder.changed().await.unwrap());
        std::fs::remove_dir(&path).unwrap();
        while folder.changed().await.unwrap() {}
        assert!(Folder::watch(&path).unwrap_err().is_missing());
    }
}
