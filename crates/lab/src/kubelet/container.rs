//! A container: its command as a process in the pod's network namespace, or the virtual machine that its command runs in.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Container;
use linux::Netns;
use linux::process::{self, Process};

use super::kill::{self, pod_mark};
use super::record::{PodRecord, ProcessRecord};
use crate::machine::{self, Client, Image, MACHINE_MARK, Machine, Nic, Settings};
use crate::name::MARK;
use crate::{Lab, Place};

/// Exit status of a process that ended while nobody watched, as the kubelet reports it.
pub(crate) const UNKNOWN_STATUS: i32 = 137;

/// What a container is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Not started yet.
    #[default]
    Waiting,
    /// Its virtual machine boots.
    Starting,
    /// Its process runs, or it has none and sleeps.
    Running,
    /// Its process ended and is to be started again, or never will.
    Ended {
        /// Exit status, or 128 plus the signal.
        status: i32,
    },
}

/// What identifies a process across our own restarts.
pub(crate) fn record(process: &Process) -> Option<ProcessRecord> {
    Some(ProcessRecord { pid: process.pid(), start_time: process.start_time().ok()? })
}

/// Waits for a process's end; yields its exit status.
pub(crate) async fn ended(process: Process) -> i32 {
    if let Err(error) = process.exited().await {
        tracing::warn!(%error, "waiting for a container");
    }
    process.reap().unwrap_or(UNKNOWN_STATUS)
}

/// What the processes of a container find in their environment.
pub(crate) fn environment(lab: &Lab, pod: &PodRecord, container: &Container) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOSTNAME".to_owned(), pod.name.clone()),
    ]);
    env.extend(container.env.iter().flatten().map(|var| (var.name.clone(), var.value.clone().unwrap_or_default())));
    env.extend([(MARK.to_owned(), lab.layout.name().to_string()), pod_mark(&pod.uid)]);
    env
}

/// Starts a container's command; `None` when it has none and only sleeps.
pub(crate) fn start(lab: &Lab, node: Place, pod: &PodRecord, container: &Container, netns: &Netns) -> anyhow::Result<Option<Process>> {
    let words: Vec<_> = container.command.iter().flatten().chain(container.args.iter().flatten()).collect();
    let Some((program, arguments)) = words.split_first() else { return Ok(None) };
    let log = log(lab, node, pod, container)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment(lab, pod, container)).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log).current_dir(container.working_dir.as_deref().unwrap_or("/"));
    let child = process::spawn(command, Some(netns))?;
    Ok(Some(Process::open(child.id())?))
}

fn log(lab: &Lab, node: Place, pod: &PodRecord, container: &Container) -> anyhow::Result<File> {
    let path = pod.log(&lab.layout, node, &container.name);
    File::options().create(true).append(true).open(&path).with_context(|| format!("cannot open {}", path.display()))
}

/// Starts the virtual machine of a pod, in which the container's command runs.
pub(crate) async fn start_machine(
    lab: &Lab,
    node: Place,
    pod: &PodRecord,
    nics: &[Nic],
    container: &Container,
    netns: &Netns,
    moves_here: bool,
) -> anyhow::Result<Process> {
    kill::machine(&pod.uid).await?;
    machine::bind(netns, nics).await?;
    let argv = container.command.iter().flatten().chain(container.args.iter().flatten()).cloned().collect();
    let env = environment(lab, pod, container);
    let machine = Machine {
        image: Image::of(lab)?,
        console: pod.console(&lab.layout, node),
        marks: [(MARK.to_owned(), lab.layout.name().to_string()), (MACHINE_MARK.to_owned(), pod.uid.clone())].into(),
        settings: Settings { hostname: pod.name.clone(), nics: nics.to_vec() },
        command: machine::Command::of(argv, env.clone(), container.working_dir.as_deref().map(Path::new)),
        memory: moves_here.then(|| pod.memory(&lab.layout, node)),
    };
    let mut command = Command::new(&lab.parameters.program);
    command.args(["lab", "machine", &serde_json::to_string(&machine)?]).env_clear();
    command.envs(env.into_iter().filter(|(name, _)| [MARK, kill::POD_MARK].contains(&name.as_str())));
    let log = log(lab, node, pod, container)?;
    command.stdin(OwnedFd::from(machine::listen(netns)?)).stdout(log.try_clone()?).stderr(log).current_dir("/");
    let child = process::spawn(command, Some(netns))?;
    Ok(Process::open(child.id())?)
}

/// Waits until a virtual machine is ready; yields whether it is, or has ended.
pub(crate) async fn ready(process: &Process, netns: &Netns) -> bool {
    let ready = async {
        let mut client = Client::connect(netns)?.context("nobody listens")?;
        client.ready().await
    };
    tokio::select! {
        biased;
        Ok(()) = ready => true,
        _ = process.exited() => false,
    }
}
