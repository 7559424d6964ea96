//! A component: one long-running process of a lab, recorded so that it can be started again the same way.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use linux::process::{self, Process, Signal};
use serde::{Deserialize, Serialize};

use crate::layout::{read_json, write, write_json};
use crate::name::MARK;
use crate::{Layout, Place};

/// How long a component may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a component says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ready {
    /// It puts itself into the background, as the programs of OVS do, and its first process ends.
    Detaches,
    /// It prints a line to standard output.
    Announces,
    /// The `central` component of its place keeps it running.
    Kept,
}

/// One long-running process of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// What `lab kill` calls it.
    pub name: String,
    /// Where it belongs.
    pub place: Place,
    /// Whose network it uses.
    pub network: Place,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// File that holds its process id.
    pub pid_file: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// How it says that it is ready.
    pub ready: Ready,
    /// How often it was started again.
    pub restarts: u32,
}

/// What became of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// It runs.
    Running {
        /// Its process id.
        pid: u32,
    },
    /// It is there, and stands still.
    Paused {
        /// Its process id.
        pid: u32,
    },
    /// It does not.
    Stopped,
}

impl Component {
    fn folder(layout: &Layout) -> PathBuf {
        layout.folder().join("components")
    }

    fn record_file(&self, layout: &Layout) -> PathBuf {
        Self::folder(layout).join(format!("{}@{}.json", self.name, self.place))
    }

    /// Every recorded component of a lab, by place and name.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn recorded(layout: &Layout) -> anyhow::Result<Vec<Self>> {
        let folder = Self::folder(layout);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let records = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension().is_some_and(|e| e == "json"));
        let mut components = records.map(|path| read_json::<Self>(&path)).collect::<anyhow::Result<Vec<_>>>()?;
        components.sort_by(|a, b| (a.place, &a.name).cmp(&(b.place, &b.name)));
        Ok(components)
    }

    /// Finds `NAME` or `NAME@PLACE` among the recorded components. The place of `nb` and `sb` may also be `leader` or
    /// `follower`: what a server of that database is at the moment.
    ///
    /// # Errors
    /// When there is none, or several because the place is missing.
    pub fn find(layout: &Layout, text: &str) -> anyhow::Result<Self> {
        let (name, place) = text.split_once('@').map_or((text, None), |(name, place)| (name, Some(place)));
        let all = Self::recorded(layout)?;
        let known =
            || all.iter().map(|c| c.name.as_str()).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
        let is_at = |component: &Self, place: &str| match place {
            "leader" | "follower" => component.role(layout) == Some(place),
            place => component.place.to_string() == place,
        };
        let mut found = all.iter().filter(|c| c.name == name && place.is_none_or(|place| is_at(c, place)));
        match (found.next(), found.next()) {
            (Some(one), _) if place == Some("follower") => Ok(one.clone()),
            (Some(one), None) => Ok(one.clone()),
            (None, _) => bail!("lab {} has no component {text}; it has: {}", layout.name(), known()),
            (Some(one), Some(_)) => bail!("component {name} runs in several places: say which, as in {name}@{}", one.place),
        }
    }

    /// What a server of a database is in its cluster: `leader`, `follower`, or `alone`; for `ovn-northd`, whether it is
    /// `released` or `held`. `None` for other components, and when nobody answers.
    #[must_use]
    pub fn role(&self, layout: &Layout) -> Option<&'static str> {
        if self.ready != Ready::Kept {
            return None;
        }
        let asked = central::ask(&layout.central_socket(self.place), "GET", "/status").ok()?;
        let state: central::State = serde_json::from_str(&asked).ok()?;
        let member = match self.name.as_str() {
            "nb" => state.nb,
            "sb" => state.sb,
            _ => return Some(if state.northd.released { "released" } else { "held" }),
        };
        match (member.connected, member.clustered, member.leader) {
            (false, ..) => None,
            (_, false, _) => Some("alone"),
            (_, _, leader) => Some(if leader { "leader" } else { "follower" }),
        }
    }

    /// Records it, so that it is found.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub(crate) fn record(&self, layout: &Layout) -> anyhow::Result<()> {
        fs::create_dir_all(Self::folder(layout)).context("cannot create the folder of components")?;
        write_json(&self.record_file(layout), self)
    }

    /// Starts it and waits until it is ready; blocks.
    ///
    /// # Errors
    /// With the last line of its log, and the command that looks inside its place.
    pub fn start(&self, layout: &Layout) -> anyhow::Result<()> {
        self.record(layout)?;
        self.launch(layout).with_context(|| {
            let inside = layout.look_inside(self.network);
            format!("{}@{} did not start{}; look inside with `{inside}`", self.name, self.place, self.last_words())
        })
    }

    fn launch(&self, layout: &Layout) -> anyhow::Result<()> {
        if self.ready == Ready::Kept {
            return central::ask(&layout.central_socket(self.place), "POST", &format!("/restart/{}", self.name)).map(drop);
        }
        let netns = (self.network != Place::Host).then(|| layout.netns(self.network)).transpose()?;
        let log =
            || File::options().create(true).append(true).open(&self.log).with_context(|| format!("cannot open {}", self.log.display()));
        let (program, arguments) = self.argv.split_first().context("nothing to execute")?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(&self.env).env(MARK, layout.name().as_str()).current_dir("/").stdin(Stdio::null());
        match self.ready {
            Ready::Detaches => {
                command.stdout(log()?).stderr(Stdio::piped());
                let output = process::spawn(command, netns.as_ref())?.wait_with_output()?;
                if !output.status.success() {
                    bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
                }
            }
            Ready::Kept => {}
            Ready::Announces => {
                command.stdout(Stdio::piped()).stderr(log()?);
                let mut child = process::spawn(command, netns.as_ref())?;
                write(&self.pid_file, child.id().to_string().as_bytes())?;
                let mut line = String::new();
                let stdout = child.stdout.take().context("no standard output")?;
                BufReader::new(stdout).read_line(&mut line)?;
                if line.is_empty() {
                    let status = child.wait()?;
                    bail!("it ended with {}", status.signal().map_or_else(|| status.to_string(), |signal| format!("signal {signal}")));
                }
            }
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().rfind(|line| !line.trim().is_empty()).map_or_else(String::new, |line| format!("; {}: {line}", self.log.display()))
    }

    /// Its process, if it runs: the process id in its file, checked to be the lab's.
    #[must_use]
    pub fn process(&self, layout: &Layout) -> Option<Process> {
        let pid = fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()?;
        let process = Process::open(pid).ok()?;
        // A process that ended and is not yet reaped has no environment left.
        process.has_environment(&layout.name().mark()).then_some(process)
    }

    /// Whether it runs.
    #[must_use]
    pub fn state(&self, layout: &Layout) -> State {
        match self.process(layout) {
            None => State::Stopped,
            Some(process) if process.is_stopped() => State::Paused { pid: process.pid() },
            Some(process) => State::Running { pid: process.pid() },
        }
    }

    /// Kills it (`SIGKILL`) and waits for its end; blocks.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, layout: &Layout) -> anyhow::Result<u32> {
        let process = self.process(layout).ok_or_else(|| anyhow!("{}@{} does not run", self.name, self.place))?;
        process.signal(Signal::KILL)?;
        process.ended(PATIENCE)?;
        Ok(process.pid())
    }

    /// Makes it stand still (`SIGSTOP`), or go on (`SIGCONT`).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self, layout: &Layout, paused: bool) -> anyhow::Result<u32> {
        let process = self.process(layout).ok_or_else(|| anyhow!("{}@{} does not run", self.name, self.place))?;
        process.signal(if paused { Signal::STOP } else { Signal::CONT })?;
        Ok(process.pid())
    }

    /// Stops it if it runs and starts it again the same way; blocks.
    ///
    /// # Errors
    /// As [`Component::start`].
    pub fn restart(&mut self, layout: &Layout) -> anyhow::Result<()> {
        if let Some(process) = self.process(layout) {
            process.signal(Signal::CONT)?;
            if self.ready != Ready::Kept {
                process.stop(PATIENCE)?;
            }
        }
        self.restarts += 1;
        self.start(layout)
    }
}
