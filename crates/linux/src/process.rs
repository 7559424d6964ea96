//! Processes: start one in a network namespace and a session of its own, hold it by a pidfd, find those that are left.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use crate::{Error, Netns, Result, ready};

/// A process, held so that its id cannot come to mean another one.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn open(pid: u32) -> Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| failed(pid, "find", io::ErrorKind::NotFound.into()))?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::NONBLOCK).map_err(|e| failed(pid, "open", e.into()))?;
        Ok(Self { pid, pidfd })
    }

    /// Its id.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal; one that ended already is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(failed(self.pid, "signal", error.into())),
        }
    }

    /// Whether it has ended, waiting up to `patience` for that; blocks.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn ended(&self, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(self.pid, "wait for", error.into())),
            }
        }
    }

    /// Waits until it has ended. Who started it must still reap it.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub async fn exited(&self) -> Result<()> {
        let fd = self.pidfd.try_clone().and_then(ready::watch).map_err(|e| failed(self.pid, "wait for", e))?;
        fd.readable().await.map(|_| ()).map_err(|e| failed(self.pid, "wait for", e))
    }

    /// Reaps it, if it is a child of ours that has ended: yields its exit status, or 128 plus the signal that ended it.
    #[must_use]
    pub fn reap(&self) -> Option<i32> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options).ok()??;
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
    }

    /// Asks it to end, and after `patience` makes it; blocks until it has ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stop(&self, patience: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        if !self.ended(patience)? {
            self.signal(Signal::KILL)?;
            self.ended(Duration::from_secs(10))?;
        }
        Ok(())
    }

    /// Whether it is stopped, as by `SIGSTOP`.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // proc_pid_stat(5): the state follows the name.
        text.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    }

    /// When it started, in clock ticks since boot: with its id, its identity across our own restarts.
    ///
    /// # Errors
    /// When it is gone.
    pub fn start_time(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid)).map_err(|e| failed(self.pid, "read the state of", e))?;
        // proc_pid_stat(5): field 22; the second field may hold spaces and ends with the last parenthesis.
        let start = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
        start.ok_or_else(|| failed(self.pid, "read the state of", io::ErrorKind::InvalidData.into()))
    }

    /// Whether its environment holds `entry` (`NAME=value`) exactly.
    #[must_use]
    pub fn has_environment(&self, entry: &str) -> bool {
        environment_holds(self.pid, entry)
    }
}

/// The value of a variable in the environment of a process, as it was started.
#[must_use]
pub fn variable(pid: u32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

/// The words that a process was started with; none when it is gone.
#[must_use]
pub fn command_line(pid: u32) -> Vec<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Starts a command in a session of its own, inside `netns` if given.
///
/// # Errors
/// When it cannot be executed.
pub fn spawn(mut command: Command, netns: Option<&Netns>) -> Result<Child> {
    let program = command.get_program().to_string_lossy().into_owned();
    // SAFETY: setsid is one system call, safe between fork and exec.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(Into::into));
    }
    let spawned = match netns {
        Some(netns) => netns.run(|| command.spawn())?,
        None => command.spawn(),
    };
    spawned.map_err(|e| Error::new(format!("program {program}"), "start", e))
}

/// Processes whose environment holds `entry` (`NAME=value`) exactly, the calling one left out.
#[must_use]
pub fn with_environment(entry: &str) -> Vec<u32> {
    all().filter(|pid| environment_holds(*pid, entry)).collect()
}

/// Processes inside one of the namespaces, by inode, the calling one left out.
#[must_use]
pub fn inside(inodes: &[u64]) -> Vec<u32> {
    let inode = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|file| file.ino());
    all().filter(|pid| inode(*pid).is_some_and(|inode| inodes.contains(&inode))).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| std::str::from_utf8(entry.ok()?.file_name().as_bytes()).ok()?.parse().ok()).filter(move |pid| *pid != own)
}

// Unreadable means gone, or not ours to see.
fn environment_holds(pid: u32, entry: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|found| found == entry.as_bytes())
}

fn failed(pid: u32, operation: &str, cause: io::Error) -> Error {
    Error::new(format!("process {pid}"), operation, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn a_process_is_found_by_environment_and_namespace_and_stopped() {
        let scratch = Scratch::new("proc");
        let entry = format!("FERROVIA_TEST=proc-{}", std::process::id());
        let mut command = Command::new("sleep");
        command.arg("1000").env("FERROVIA_TEST", entry.split_once('=').unwrap().1);
        let pid = spawn(command, Some(&scratch.netns)).unwrap().id();
        let process = Process::open(pid).unwrap();
        assert_eq!(with_environment(&entry), [pid]);
        assert_eq!(with_environment(&entry[..entry.len() - 1]), Vec::<u32>::new(), "a prefix is not a match");
        assert_eq!((variable(pid, "FERROVIA_TEST"), variable(pid, "FERROVIA_TES")), (Some(entry[14..].to_owned()), None));
        assert_eq!(inside(&[scratch.netns.inode()]), [pid]);
        assert_eq!(command_line(pid), ["sleep", "1000"]);
        assert!(process.start_time().unwrap() > 0);
        assert!(!process.ended(Duration::ZERO).unwrap());
        process.signal(Signal::STOP).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !process.is_stopped() {
            assert!(Instant::now() < deadline, "it stops");
        }
        process.signal(Signal::CONT).unwrap();
        process.stop(Duration::from_secs(5)).unwrap();
        process.exited().await.unwrap();
        assert_eq!((process.reap(), process.reap()), (Some(128 + 15), None));
        process.signal(Signal::KILL).unwrap();
        assert!(Process::open(pid).is_err());
    }
}
