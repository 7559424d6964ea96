//! Counts the processes that a process starts, exactly, by the kernel's process connector (linux/cn_proc.h): nothing that
//! lives too shortly for `/proc` is missed. It needs root, and the machine's own namespaces.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, bail};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

/// Multicast group, and both parts of the identifier of its messages (`CN_IDX_PROC`, `CN_VAL_PROC`).
const PROC: u32 = 1;
const LISTEN: u32 = 1;
const FORK: u32 = 1;
const EXEC: u32 = 2;
/// `nlmsghdr` and `cn_msg`, and then what happened, on which processor, and when.
const HEADERS: usize = 16 + 20;
const EVENT: usize = HEADERS + 16;
/// Room for more than 100,000 events.
const BUFFER: usize = 128 << 20;

/// A count under way.
#[derive(Debug)]
pub struct Executions {
    socket: OwnedFd,
    family: BTreeSet<u32>,
}

/// What a process and its descendants started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// Processes; threads do not count.
    pub processes: usize,
    /// Programs that they executed.
    pub programs: usize,
}

impl Executions {
    /// Counts what process `pid` starts from now on.
    ///
    /// # Errors
    /// When the kernel has no process connector, or refuses.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let refused = "the kernel's process connector";
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::CONNECTOR));
        let socket = socket.context(refused)?;
        set_socket_recv_buffer_size_force(&socket, BUFFER).context(refused)?;
        bind(&socket, &SocketAddrNetlink::new(0, PROC)).context(refused)?;
        let done = 3_u32; // NLMSG_DONE
        let words = [HEADERS as u32 + 4, done, 0, 0, PROC, PROC, 0, 0, 4, LISTEN];
        let message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        send(&socket, &message, SendFlags::empty()).context(refused)?;
        let mut counting = Self { socket, family: BTreeSet::from([pid]) };
        // The acknowledgement: from then on nothing is missed.
        counting.next(RecvFlags::empty())?;
        Ok(counting)
    }

    /// What was started until now, since the beginning or the last time.
    ///
    /// # Errors
    /// When events were lost, or the kernel refuses to tell.
    pub fn until_now(&mut self) -> anyhow::Result<Executed> {
        let mut executed = Executed::default();
        while let Some((what, [_, first, _, second])) = self.next(RecvFlags::DONTWAIT)? {
            match what {
                // Thread and group of the parent, then of the child; a thread is in its parent's group.
                FORK if self.family.contains(&first) && first != second => {
                    self.family.insert(second);
                    executed.processes += 1;
                }
                EXEC if self.family.contains(&first) => executed.programs += 1,
                _ => {}
            }
        }
        Ok(executed)
    }

    fn next(&mut self, flags: RecvFlags) -> anyhow::Result<Option<(u32, [u32; 4])>> {
        let mut buffer = [0; 256];
        let length = match recv(&self.socket, &mut buffer[..], flags) {
            Ok((length, _)) => length,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::NOBUFS) => bail!("the kernel's process connector lost events"),
            Err(error) => return Err(error).context("the kernel's process connector"),
        };
        anyhow::ensure!(length > HEADERS + 4, "the kernel's process connector sends {length} bytes");
        let word = |at: usize| buffer[at..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        Ok(Some((word(HEADERS), [0, 4, 8, 12].map(|at| word(EVENT + at)))))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn processes_and_programs_are_counted_and_threads_are_not() {
        // A process of its own: this one runs other tests.
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo here; read go; (true); sh -c true; exec true"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let mut counting = Executions::of(shell.id()).unwrap();
        assert_eq!(counting.until_now().unwrap(), Executed::default());
        std::thread::spawn(|| ()).join().unwrap();
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(counting.until_now().unwrap(), Executed { processes: 2, programs: 2 });
        assert_eq!(counting.until_now().unwrap(), Executed::default());
    }
}
