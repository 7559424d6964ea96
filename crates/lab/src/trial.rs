//! `lab trial`: what the lab must do with every version of OVN and on every datapath, and how it went, as a table.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use comfy_table::{Cell, CellAlignment};
use linux::{netns, process};

use crate::table::headed;
use crate::{Component, Datapath, Lab, Layout, Programs, Progress, Request, Tunnel, check, cluster, down, up};

/// One component of each kind that carries or programs traffic, and not all on one node.
const KILLED: [&str; 8] = ["nb", "sb", "northd", "ovsdb@node1", "ovn-controller@node1", "ovs-vswitchd@node2", "controller", "agent@node1"];

/// How one trial went.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Version of OVN, as its programs say.
    pub ovn: String,
    /// Version of Open vSwitch.
    pub ovs: String,
    /// Datapath of the nodes.
    pub datapath: Datapath,
    /// Encapsulation between nodes.
    pub tunnel: Tunnel,
    /// How many checks were made.
    pub checks: usize,
    /// How many of them came out other than expected.
    pub differing: usize,
    /// How long it took, from nothing to nothing.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

impl Trial {
    /// Brings a lab up, checks it, kills and restarts components, checks again, takes the lab down, and looks for what is
    /// left of it.
    ///
    /// # Errors
    /// When it cannot begin: there is such a lab, the datapath does not work here, or programs are missing.
    pub async fn run(layout: &Layout, request: &Request) -> anyhow::Result<Self> {
        let began = Instant::now();
        anyhow::ensure!(!layout.folder().exists(), "lab {} is up: a trial would take it down", layout.name());
        let programs = Programs::new(request.ovn.clone());
        let mut trial = Self {
            ovn: version(&programs, "ovn-controller")?,
            ovs: version(&programs, "ovs-vswitchd")?,
            datapath: request.datapath.settle(&programs)?,
            tunnel: request.tunnel,
            checks: 0,
            differing: 0,
            took: Duration::ZERO,
            failure: None,
        };
        let used = trial.use_lab(layout, request).await;
        let gone = leave_nothing(layout).await;
        trial.failure = used.and(gone).err().map(|error| format!("{error:#}"));
        trial.took = began.elapsed();
        Ok(trial)
    }

    async fn use_lab(&mut self, layout: &Layout, request: &Request) -> anyhow::Result<()> {
        let progress = Progress::new();
        let lab = up(layout.clone(), request, &progress).await;
        progress.finish();
        let lab = lab?;
        self.check(&lab).await.context("after `up`")?;
        for component in KILLED {
            let files = layout.clone();
            tokio::task::spawn_blocking(move || Component::find(&files, component)?.kill(&files)).await??;
            lab.restart(component).await?;
        }
        self.check(&lab).await.with_context(|| format!("after {} were killed and restarted", KILLED.join(", ")))
    }

    async fn check(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let checked = lab.check(&cluster::client(&lab.layout).await?).await?;
        self.checks += checked.checks;
        self.differing += checked.differing;
        anyhow::ensure!(checked.passed(), "what pods reach differs from what is expected\n{}", check::table(&checked));
        Ok(())
    }
}

fn version(programs: &Programs, program: &str) -> anyhow::Result<String> {
    let said = programs.run(None, program, &["--version"])?;
    // As in `ovs-vswitchd (Open vSwitch) 3.1.0`.
    let version = said.lines().next().and_then(|line| line.split_whitespace().last());
    version.map(str::to_owned).with_context(|| format!("{program} --version says {said:?}"))
}

async fn leave_nothing(layout: &Layout) -> anyhow::Result<()> {
    let taken = layout.clone();
    tokio::task::spawn_blocking(move || down(&taken)).await??;
    let name = layout.name();
    let namespaces: Vec<_> = netns::list()?.into_iter().filter(|netns| name.owns(netns)).collect();
    let processes = process::with_environment(&name.mark());
    let folder = Some(layout.folder()).filter(|folder| folder.exists());
    anyhow::ensure!(
        namespaces.is_empty() && processes.is_empty() && folder.is_none(),
        "left of lab {name}: namespaces {namespaces:?}, processes {processes:?}, folder {folder:?}"
    );
    Ok(())
}

/// Trials as a table, a row each.
#[must_use]
pub fn table(trials: &[Trial]) -> String {
    let header = ["OVN", "Open vSwitch", "datapath", "tunnels", "checks", "differing", "seconds", ""];
    let mut table = headed(header.map(str::to_owned));
    for trial in trials {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let took = format!("{:.1}", trial.took.as_secs_f64());
        let numbers = [trial.checks.to_string(), trial.differing.to_string(), took].map(right);
        let texts = [&*trial.ovn, &*trial.ovs, trial.datapath.as_str(), trial.tunnel.as_str()].map(Cell::new);
        let verdict = Cell::new(if trial.failure.is_none() { "passed" } else { "FAILED" });
        table.add_row(texts.into_iter().chain(numbers).chain([verdict]));
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_trial_says_so_in_its_row() {
        let trial = |failure| Trial {
            ovn: "25.03.0".to_owned(),
            ovs: "3.5.0".to_owned(),
            datapath: Datapath::Netdev,
            tunnel: Tunnel::Vxlan,
            checks: 12,
            differing: 1,
            took: Duration::from_millis(20_340),
            failure,
        };
        let text = table(&[trial(None), trial(Some("after `up`".to_owned()))]);
        let words = |line: usize| text.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(2), "25.03.0 3.5.0 netdev vxlan 12 1 20.3 passed");
        assert_eq!(words(3), "25.03.0 3.5.0 netdev vxlan 12 1 20.3 FAILED");
    }
}
