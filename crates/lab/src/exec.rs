//! Running a command inside a place or a pod, with streams and exit status passed through.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use anyhow::Context as _;
use linux::Netns;

use crate::name::MARK;
use crate::{Lab, Place, Record, machine};

impl Lab {
    /// Runs a command in the network of a place, where OVS's and OVN's programs find their databases; blocks. Yields
    /// its exit status, or 128 plus the signal that ended it.
    ///
    /// # Errors
    /// When the lab has no such place, or the command cannot be executed.
    pub fn run_in(&self, place: Place, command: &[String]) -> anyhow::Result<u8> {
        self.run_inside(&self.layout.netns(place)?, &self.environment(place), command)
    }

    /// Runs a command in a pod, with the environment of one of its containers; in the guest if the pod is a virtual machine.
    /// Blocks. Yields its exit status, or 128 plus the signal that ended it.
    ///
    /// # Errors
    /// When there is no such pod or container, or the command cannot be executed.
    pub fn run_in_pod(&self, namespace: &str, pod: &str, container: Option<&str>, command: &[String]) -> anyhow::Result<u8> {
        let mut found = None;
        for node in self.parameters.node_places() {
            let mut records =
                Record::all(&self.layout, node)?.into_iter().filter(|record| record.namespace == namespace && record.name == pod);
            found = found.or_else(|| records.rfind(|record| record.connected).map(|record| (node, record)));
        }
        let (node, record) = found.with_context(|| format!("pod {namespace}/{pod} does not run in lab {}", self.layout.name()))?;
        let env = match container {
            None => record.containers.first().map(|container| container.env.clone()).unwrap_or_default(),
            Some(name) => {
                let known = record.containers.iter().find(|container| container.name == name);
                known.with_context(|| format!("pod {namespace}/{pod} has no container {name}"))?.env.clone()
            }
        };
        if let (Some(_), Some(name)) = (&record.nics, &record.netns) {
            let (netns, command) = (Netns::named(name)?, machine::Command::of(command.to_vec(), env, None).context("no command given")?);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let status = runtime.block_on(machine::execute(&netns, command)).with_context(|| format!("pod {namespace}/{pod}"));
            // Someone may still wait for input.
            runtime.shutdown_background();
            return Ok(u8::try_from(status?).unwrap_or(u8::MAX));
        }
        let netns = match &record.netns {
            Some(name) => Netns::named(name)?,
            None => self.layout.netns(node)?,
        };
        self.run_inside(&netns, &env, command)
    }

    fn run_inside(&self, netns: &Netns, env: &BTreeMap<String, String>, command: &[String]) -> anyhow::Result<u8> {
        let (program, arguments) = command.split_first().context("no command given")?;
        let mut child = Command::new(program);
        child.args(arguments).envs(env).env(MARK, self.layout.name().as_str());
        let status = netns.run(|| child.spawn())?.and_then(|mut child| child.wait());
        let status = status.with_context(|| format!("cannot run {program}"))?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    }
}
