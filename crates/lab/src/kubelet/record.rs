//! What the kubelet knows of a pod, kept in a file so that a restarted one adopts what runs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use linux::process::Process;
use serde::{Deserialize, Serialize};

use crate::layout::{read_json, write_json};
use crate::machine::Nic;
use crate::{Layout, Place};

/// A pod that the kubelet made or is making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its network namespace; none when it uses its node's.
    pub netns: Option<String>,
    /// Its addresses, once the CNI plugin answered.
    pub addresses: Vec<IpAddr>,
    /// Whether its network is complete.
    pub connected: bool,
    /// When that was (RFC 3339).
    pub since: String,
    /// The NICs of its virtual machine, if it is one.
    #[serde(default)]
    pub nics: Option<Vec<Nic>>,
    /// Its containers, in the order of its specification.
    pub containers: Vec<ContainerRecord>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    /// Its name.
    pub name: String,
    /// What its processes find in their environment.
    pub env: BTreeMap<String, String>,
    /// Its process, if it has a command and that runs.
    pub process: Option<ProcessRecord>,
    /// Exit status of its command, if that ended and was not started again.
    pub ended: Option<i32>,
    /// Whether the guest was ready, if it is a virtual machine.
    #[serde(default)]
    pub ready: bool,
    /// How often its command was started again.
    pub restarts: i32,
}

/// A process, by what does not repeat when ids do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRecord {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

impl ProcessRecord {
    /// Takes hold of the process if it still is the one recorded.
    pub(crate) fn adopt(self) -> Option<Process> {
        let process = Process::open(self.pid).ok()?;
        (process.start_time().ok()? == self.start_time && !process.ended(std::time::Duration::ZERO).ok()?).then_some(process)
    }
}

impl PodRecord {
    fn path(layout: &Layout, place: Place, uid: &str) -> PathBuf {
        layout.pods(place).join(format!("{uid}.json"))
    }

    /// The record of a pod, if there is one.
    pub(crate) fn load(layout: &Layout, place: Place, uid: &str) -> Option<Self> {
        read_json(&Self::path(layout, place, uid)).ok()
    }

    /// The records of a node, sorted by namespace and name.
    ///
    /// # Errors
    /// When they cannot be listed or read.
    pub fn all(layout: &Layout, place: Place) -> anyhow::Result<Vec<Self>> {
        let folder = layout.pods(place);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
        };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension().is_some_and(|e| e == "json"));
        let mut records = Vec::new();
        for path in files {
            match read_json::<Self>(&path) {
                Ok(record) => records.push(record),
                // The pod went between the listing and now.
                Err(_) if !path.exists() => {}
                Err(error) => return Err(error),
            }
        }
        records.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(records)
    }

    /// Where a container's output goes.
    pub(crate) fn log(&self, layout: &Layout, place: Place, container: &str) -> PathBuf {
        layout.pods(place).join(format!("{}-{container}.log", self.uid))
    }

    /// Where the console of a virtual machine goes.
    pub(crate) fn console(&self, layout: &Layout, place: Place) -> PathBuf {
        layout.pods(place).join(format!("{}.console", self.uid))
    }

    /// Socket by which the memory of a virtual machine comes that moves here.
    pub(crate) fn memory(&self, layout: &Layout, place: Place) -> PathBuf {
        layout.pods(place).join(format!("{}.memory", self.uid))
    }

    pub(crate) fn save(&self, layout: &Layout, place: Place) -> anyhow::Result<()> {
        write_json(&Self::path(layout, place, &self.uid), self)
    }

    pub(crate) fn remove(&self, layout: &Layout, place: Place) {
        // Its logs go with it. Missing is what is wanted.
        for container in &self.containers {
            let _ = fs::remove_file(self.log(layout, place, &container.name));
        }
        let _ = fs::remove_file(self.console(layout, place));
        let _ = fs::remove_file(self.memory(layout, place));
        let _ = fs::remove_file(Self::path(layout, place, &self.uid));
    }
}
