//! A process of a bench: it has a log, is measured by what the kernel says of it, and is gone when dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

/// How long a program may take until it is ready, and to end by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clock ticks per second in `/proc`: `USER_HZ`, proc_pid_stat(5).
const TICKS: f64 = 100.0;

/// A process that was started here.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process has used.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// What it is called.
    pub process: String,
    /// Processor time, user and system, in seconds.
    pub cpu_seconds: f64,
    /// Greatest resident memory since it was started, in bytes.
    pub peak_memory: u64,
}

impl Process {
    /// Starts a program, whose words are `argv`, with `env` besides its inherited environment.
    pub fn start(name: &str, logs: &Path, argv: &[String], env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let open = || File::options().create(true).append(true).open(&log).with_context(|| format!("cannot open {}", log.display()));
        let (program, arguments) = argv.split_first().context("nothing to execute")?;
        let mut command = Command::new(program);
        command.args(arguments).envs(env.iter().copied()).current_dir("/").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(open()?);
        // In a session of its own, so that Ctrl-C reaches the bench alone, which ends it in order.
        Ok(Self { name: name.to_owned(), child: linux::process::spawn(command, None)?, log })
    }

    /// Waits until it says on standard output that it is ready.
    pub async fn announced(mut self) -> anyhow::Result<Self> {
        let stdout = self.child.stdout.take().context("no standard output")?;
        let said = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        let Ok(said) = tokio::time::timeout(PATIENCE, said).await else {
            bail!("{} is not ready after {PATIENCE:?}{}", self.name, self.last_words());
        };
        if said??.is_empty() {
            bail!("{} ended before it was ready{}", self.name, self.last_words());
        }
        Ok(self)
    }

    /// What it has used until now.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        usage(&self.name, self.child.id())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("{} has ended, {status}{}", self.name, self.last_words()))
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(self) -> anyhow::Result<()> {
        let process = linux::process::Process::open(self.child.id())?;
        Ok(tokio::task::spawn_blocking(move || process.stop(PATIENCE)).await??)
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().rfind(|line| !line.trim().is_empty()).map_or_else(String::new, |line| format!("; it said: {line}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this very process has used.
pub fn own_usage() -> anyhow::Result<Usage> {
    usage("bench", std::process::id())
}

fn usage(name: &str, pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("{name}, process {pid}, is gone"));
    let (stat, status) = (read("stat")?, read("status")?);
    // proc_pid_stat(5): user and system time are the fields 14 and 15; the name, field 2, may hold spaces and ends with the
    // last parenthesis.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks(14), ticks(15)) else { bail!("the kernel says nothing of the time that {name} took") };
    // proc_pid_status(5): in kibibytes.
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let peak = peak.with_context(|| format!("the kernel says nothing of the memory of {name}"))?;
    Ok(Usage { process: name.to_owned(), cpu_seconds: (user + system) / TICKS, peak_memory: peak * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_this_process_uses() {
        let usage = own_usage().unwrap();
        assert!(usage.peak_memory > 1 << 20 && usage.cpu_seconds >= 0.0, "{usage:?}");
    }

    #[tokio::test]
    async fn a_process_that_ends_before_it_is_ready_leaves_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let argv = ["sh", "-c", "echo no such thing >&2; exit 3"].map(str::to_owned);
        let error = Process::start("thing", folder.path(), &argv, &[]).unwrap().announced().await.err().unwrap();
        assert_eq!(error.to_string(), "thing ended before it was ready; it said: no such thing");
    }
}
