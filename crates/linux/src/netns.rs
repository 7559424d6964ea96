//! Named network namespaces, as `ip netns` keeps them, and work inside them.
//!
//! A namespace is per thread: whatever has to happen inside one happens on a thread made for it, so that no thread
//! of the caller ever changes its namespace. Sockets keep the namespace that they were opened in.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{Error, Result, Task};

/// Where named namespaces are mounted.
pub const FOLDER: &str = "/run/netns";

/// An open network namespace; it lives at least as long as this value.
#[derive(Clone, Debug)]
pub struct Netns {
    label: String,
    file: Arc<File>,
    inode: u64,
}

/// Path of the namespace called `name`, whether it exists or not.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Names of all named namespaces, sorted.
///
/// # Errors
/// When the folder cannot be read; a missing folder holds none.
pub fn list() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::new(FOLDER, "list network namespaces", error)),
    };
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Removes the name; the namespace itself goes when nothing uses it any more. A missing one is no error.
///
/// # Errors
/// When it cannot be unmounted or its file not removed.
pub fn delete(name: &str) -> Result<()> {
    let path = path(name);
    // Creation may be half done: a file that nothing is mounted on answers EINVAL.
    loop {
        match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(error) => return Err(Error::new(label(name), "unmount", error)),
        }
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::new(label(name), "delete", error)),
        _ => Ok(()),
    }
}

impl Netns {
    /// Makes a new namespace and mounts it under its name.
    ///
    /// # Errors
    /// When the name is taken, or the kernel refuses.
    pub fn create(name: &str) -> Result<Self> {
        let fail = |operation: &str, cause: io::Error| Error::new(label(name), operation, cause);
        share_folder()?;
        let path = path(name);
        File::options().write(true).create_new(true).open(&path).map_err(|e| fail("create", e))?;
        let mounted = on_thread("netns-create", || {
            // SAFETY: only CLONE_NEWNET is unshared, no file descriptor table.
            #[allow(unsafe_code)]
            unsafe {
                rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)?;
            }
            rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)?;
            Ok(())
        });
        match mounted.and_then(|done: io::Result<()>| done) {
            Ok(()) => Self::named(name),
            Err(error) => {
                // Best effort: the failure to report is the first one.
                let _ = std::fs::remove_file(&path);
                Err(fail("create", error))
            }
        }
    }

    /// Opens the namespace called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<Self> {
        let file = File::open(path(name)).map_err(|e| Error::new(label(name), "open", e))?;
        Self::from_file(label(name), file)
    }

    /// Opens a namespace by path, such as `/proc/7/ns/net` or what `CNI_NETNS` says.
    ///
    /// # Errors
    /// When there is nothing at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let label = format!("network namespace {}", path.as_ref().display());
        let file = File::open(&path).map_err(|e| Error::new(&label, "open", e))?;
        Self::from_file(label, file)
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    fn from_file(label: String, file: File) -> Result<Self> {
        let inode = file.metadata().map_err(|e| Error::new(&label, "stat", e))?.ino();
        Ok(Self { label, file: Arc::new(file), inode })
    }

    /// Identity of the namespace: two values are the same namespace when their inodes are equal.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// What messages call it.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Runs `work` on a thread inside the namespace and waits for it: blocks, so keep it short in async code.
    ///
    /// # Errors
    /// When the namespace cannot be entered. A panic of `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread("netns", || self.enter().map(|()| work())).and_then(|done| done).map_err(|e| Error::new(&self.label, "enter", e))
    }

    /// Runs the future that `work` makes on a thread of its own inside the namespace, with its own reactor.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn spawn<F, Fut, T>(&self, work: F) -> Result<Task<T>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
        T: Send + 'static,
    {
        Task::start(self.clone(), work)
    }

    /// Opens a TCP listener inside the namespace; it works from anywhere.
    ///
    /// # Errors
    /// When the address cannot be bound there.
    pub fn tcp_listener(&self, address: SocketAddr) -> Result<TcpListener> {
        self.run(|| TcpListener::bind(address))?.map_err(|e| Error::new(&self.label, format!("listen on {address}"), e))
    }

    /// Moves the calling thread into the namespace, for good. Meant for threads made for that, and for the moment
    /// between `fork` and `exec`.
    ///
    /// # Errors
    /// When the kernel refuses (`CAP_SYS_ADMIN`).
    pub fn enter(&self) -> io::Result<()> {
        Ok(rustix::thread::move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for Netns {}

fn label(name: &str) -> String {
    format!("network namespace {name}")
}

fn on_thread<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work)?;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes the folder a shared mount, as iproute2 does, so that namespaces mounted or removed here are so in every
/// mount namespace. The lock keeps two makers from mounting it over each other.
fn share_folder() -> Result<()> {
    let fail = |operation: &str, cause: io::Error| Error::new(FOLDER, operation, cause);
    std::fs::create_dir_all(FOLDER).map_err(|e| fail("create", e))?;
    let folder = File::open(FOLDER).map_err(|e| fail("open", e))?;
    flock(&folder, FlockOperation::LockExclusive).map_err(|e| fail("lock", e.into()))?;
    let share = || rustix::mount::mount_change(FOLDER, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match share() {
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(FOLDER, FOLDER).map_err(|e| fail("bind-mount", e.into()))?;
            share().map_err(|e| fail("share", e.into()))
        }
        done => done.map_err(|e| fail("share", e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_namespace_is_listed_until_it_is_deleted() {
        let scratch = Scratch::new("list");
        assert!(list().unwrap().contains(&scratch.name));
        assert!(Netns::create(&scratch.name).unwrap_err().is_existing());
        assert_ne!(scratch.netns, Netns::current().unwrap());
        delete(&scratch.name).unwrap();
        delete(&scratch.name).unwrap();
        assert!(!list().unwrap().contains(&scratch.name));
        assert!(Netns::named(&scratch.name).unwrap_err().is_missing());
    }

    #[test]
    fn work_inside_leaves_the_caller_outside() {
        let scratch = Scratch::new("run");
        let before = Netns::current().unwrap();
        let inside = scratch.netns.run(|| Netns::current().unwrap()).unwrap();
        assert_eq!(inside, scratch.netns);
        assert_eq!(before, Netns::current().unwrap());
        let listener = scratch.netns.tcp_listener(([127, 0, 0, 1], 0).into());
        assert!(listener.is_ok(), "binding needs no link to be up");
    }

    #[test]
    fn many_are_made_at_once() {
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || Scratch::new(&format!("many{i}")))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for scratch in &made {
            assert_eq!(Netns::named(&scratch.name).unwrap(), scratch.netns);
        }
    }
}
