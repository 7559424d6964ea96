//! Running a command inside a place or a pod, with streams and exit status passed through.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use anyhow::Context as _;
use linux::Netns;

use crate::name::MARK;
use crate::{Lab, Place};

impl Lab {
    /// Runs a command in the network of a place, where OVS's and OVN's programs find their databases; blocks. Yields
    /// its exit status, or 128 plus the signal that ended it.
    ///
    /// # Errors
    /// When the lab has no such place, or the command cannot be executed.
    pub fn run_in(&self, place: Place, command: &[String]) -> anyhow::Result<u8> {
        self.run_inside(&self.layout.netns(place)?, &self.environment(place), command)
    }

    pub(crate) fn run_inside(&self, netns: &Netns, env: &BTreeMap<String, String>, command: &[String]) -> anyhow::Result<u8> {
        let (program, arguments) = command.split_first().context("no command given")?;
        let mut child = Command::new(program);
        child.args(arguments).envs(env).env(MARK, self.layout.name().as_str());
        let status = netns.run(|| child.spawn())?.and_then(|mut child| child.wait());
        let status = status.with_context(|| format!("cannot run {program}"))?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    }
}
