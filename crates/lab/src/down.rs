//! Taking a lab down: every process, namespace and file of it, whatever state they were left in.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use linux::process::{self, Process, Signal};
use linux::{Netns, netns};

use crate::layout::RUN_VARIABLE;
use crate::{LabName, Layout};

/// How long processes may take to end by themselves, and then to die.
const PATIENCE: Duration = Duration::from_secs(3);

/// Every lab of which anything is left under `root` or among the network namespaces. One that runs under another
/// folder is somebody else's.
///
/// # Errors
/// When either cannot be listed.
pub fn labs(root: &Path) -> anyhow::Result<Vec<LabName>> {
    let folders: BTreeSet<LabName> = match fs::read_dir(root) {
        Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", root.display())),
    };
    let mut found: BTreeSet<_> = netns::list()?.into_iter().filter_map(|name| LabName::of_netns(&name)).collect();
    found.retain(|name| !folders.contains(name) && !runs_elsewhere(root, name));
    found.extend(folders);
    Ok(found.into_iter().collect())
}

fn runs_elsewhere(root: &Path, name: &LabName) -> bool {
    let roots = process::with_environment(&name.mark()).into_iter().filter_map(|pid| process::variable(pid, RUN_VARIABLE));
    roots.map(PathBuf::from).any(|other| other != root && other.join(name.as_str()).exists())
}

/// Removes a lab; blocks. Yields whether there was anything to remove.
///
/// # Errors
/// When a process would not die, or something could not be deleted.
pub fn down(layout: &Layout) -> anyhow::Result<bool> {
    let names: Vec<_> = netns::list()?.into_iter().filter(|name| layout.name().owns(name)).collect();
    let inodes: Vec<_> = names.iter().filter_map(|name| Netns::named(name).ok()).map(|netns| netns.inode()).collect();
    let stopped = stop_all(layout.name(), &inodes)?;
    for name in &names {
        netns::delete(name)?;
    }
    let folder = layout.folder();
    let removed = match fs::remove_dir_all(&folder) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", folder.display())),
    };
    // The folder of all labs goes with the last one; others keep it.
    let _ = fs::remove_dir(layout.root());
    Ok(stopped || removed || !names.is_empty())
}

/// Asks all processes of the lab to end, then makes them; again for those that they started meanwhile.
fn stop_all(lab: &LabName, inodes: &[u64]) -> anyhow::Result<bool> {
    let mut any = false;
    for (signal, rounds) in [(Signal::TERM, 1), (Signal::KILL, 10)] {
        for _ in 0..rounds {
            let found: BTreeSet<u32> = process::with_environment(&lab.mark()).into_iter().chain(process::inside(inodes)).collect();
            // One that ended since it was listed needs nothing.
            let processes: Vec<_> = found.into_iter().filter_map(|pid| Process::open(pid).ok()).collect();
            if processes.is_empty() {
                return Ok(any);
            }
            any = true;
            for process in &processes {
                process.signal(signal)?;
            }
            let deadline = Instant::now() + PATIENCE;
            for process in &processes {
                process.ended(deadline.saturating_duration_since(Instant::now()))?;
            }
        }
    }
    let left = process::with_environment(&lab.mark());
    anyhow::ensure!(left.is_empty(), "lab {lab}: processes {left:?} do not end");
    Ok(any)
}
