//! One program of OVS or OVN. It detaches by itself and outlives us; its pid file tells which process it is.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use linux::process::{self, Process};
use tokio::process::Command;

/// How long a program may take to end by itself when it is restarted.
const PATIENCE: Duration = Duration::from_secs(5);

/// How to start a program, and where it keeps what.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    /// Program, found on the `PATH`.
    pub(crate) program: &'static str,
    /// Stem of its files.
    pub(crate) name: &'static str,
    /// Folder of its files.
    pub(crate) run: PathBuf,
    pub(crate) arguments: Vec<String>,
}

impl Daemon {
    fn file(&self, extension: &str) -> PathBuf {
        self.run.join(format!("{}.{extension}", self.name))
    }

    fn pid_argument(&self) -> String {
        format!("--pidfile={}", self.file("pid").display())
    }

    /// Its process, if it runs: the one of its pid file, checked against the command line, since process ids are used again.
    pub(crate) fn running(&self) -> Option<Process> {
        let pid = std::fs::read_to_string(self.file("pid")).ok()?.trim().parse().ok()?;
        let process = Process::open(pid).ok()?;
        process::command_line(pid).contains(&self.pid_argument()).then_some(process)
    }

    /// Starts it, and waits until it has detached: it is ready then.
    pub(crate) async fn start(&self) -> anyhow::Result<Process> {
        let mut command = Command::new(self.program);
        command.args(["--detach", "--no-chdir", "-vconsole:off", &self.pid_argument()]);
        command.arg(format!("--log-file={}", self.file("log").display())).args(&self.arguments);
        // By these `ovn-appctl` and `ovs-appctl` find the sockets.
        command.env("OVS_RUNDIR", &self.run).env("OVN_RUNDIR", &self.run).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().await.with_context(|| format!("cannot execute {}", self.program))?;
        if !output.status.success() {
            bail!("{} did not start: {}", self.program, String::from_utf8_lossy(&output.stderr).trim());
        }
        self.running().with_context(|| format!("{} started and is gone; see {}", self.program, self.file("log").display()))
    }

    /// Ends a process of it.
    pub(crate) async fn stop(process: Process) -> anyhow::Result<()> {
        Ok(tokio::task::spawn_blocking(move || process.stop(PATIENCE)).await??)
    }
}
