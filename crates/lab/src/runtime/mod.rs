//! A container runtime's side of CNI on one node: what libcni does with the plugins of a network, so that tests, benches
//! and the lab's kubelet call them as containerd would (containernetworking/cni SPEC.md, sections 3 and 4).
//!
//! Nothing here knows what the plugins do, and nothing is tried again: the caller sees each answer.

mod answer;
mod attachment;
mod cache;
mod call;
mod network;
mod observation;
mod pods;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

pub use answer::{Answer, Refusal};
pub use attachment::{Attachment, Sandbox};
pub use call::{Call, Verb};
pub use network::Network;
pub use observation::Observation;

use crate::{Lab, Place};

/// Where Debian's reference plugins are.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// The runtime of one node.
#[derive(Clone, Debug)]
pub struct Runtime {
    lab: Lab,
    node: Place,
}

impl Runtime {
    /// The runtime of a node.
    #[must_use]
    pub const fn new(lab: Lab, node: Place) -> Self {
        Self { lab, node }
    }

    /// The lab.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> Place {
        self.node
    }

    /// Folder of the node's plugins, networks and results.
    pub(crate) fn folder(&self) -> PathBuf {
        self.lab.layout.place(self.node).join("cni")
    }

    /// Where plugins are looked for, as in `CNI_PATH`.
    fn search_path(&self) -> [PathBuf; 2] {
        [self.folder().join("bin"), REFERENCE_PLUGINS.into()]
    }

    /// The network that is installed on the node: of several the first by name, as container runtimes choose.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn network(&self) -> anyhow::Result<Network> {
        Network::installed(&self.folder().join("net.d"))
    }

    /// Makes a sandbox: a network namespace of the lab, made of `id`, with its loopback up. One that is there is taken.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn sandbox(&self, id: &str) -> anyhow::Result<Sandbox> {
        Sandbox::create(&self.lab, id).await
    }

    /// ADD of every plugin of a network in turn, each told the result of the one before. The last result is kept.
    ///
    /// # Errors
    /// When a plugin cannot be called; what it answers is the answer.
    pub async fn add(&self, network: &Network, attachment: &Attachment) -> anyhow::Result<Answer> {
        let (mut previous, mut took) = (None, std::time::Duration::ZERO);
        let mut last = None;
        for plugin in network.plugins() {
            let answer = self.execute(&self.call(Verb::Add, network, plugin, attachment, previous.as_ref())?).await?;
            took += answer.took;
            let answer = Answer { took, ..answer };
            match answer.ok() {
                Ok(result) => previous = Some(result),
                Err(_) => return Ok(answer),
            }
            last = Some(answer);
        }
        let last = last.context("the network has no plugins")?;
        self.keep(network, attachment, &previous.unwrap_or_default())?;
        Ok(last)
    }

    /// DEL of every plugin of a network, last to first, each told the kept result, which is forgotten when all succeed.
    ///
    /// # Errors
    /// As [`Runtime::add`].
    pub async fn del(&self, network: &Network, attachment: &Attachment) -> anyhow::Result<Answer> {
        // Before 0.4.0 plugins were told nothing.
        let kept = self.kept(network, attachment)?.filter(|_| network.speaks((0, 4)));
        let answer = self.each(Verb::Del, network, network.plugins().rev(), attachment, kept.as_ref()).await?;
        if answer.ok().is_ok() {
            self.forget(network, attachment)?;
        }
        Ok(answer)
    }

    /// CHECK of every plugin of a network, each told the kept result.
    ///
    /// # Errors
    /// As [`Runtime::add`], and for networks older than 0.4.0, which know no CHECK.
    pub async fn check(&self, network: &Network, attachment: &Attachment) -> anyhow::Result<Answer> {
        if !network.speaks((0, 4)) {
            bail!("network {}: CHECK needs version 0.4.0, and it has {}", network.name(), network.version());
        }
        let kept = self.kept(network, attachment)?;
        self.each(Verb::Check, network, network.plugins(), attachment, kept.as_ref()).await
    }

    /// GC: DEL of each attachment with a kept result that is not among `valid`, then GC of every plugin where the network's
    /// version has it.
    ///
    /// # Errors
    /// As [`Runtime::add`].
    pub async fn gc(&self, network: &Network, valid: &[Attachment]) -> anyhow::Result<Answer> {
        for attachment in self.remembered(network)? {
            if !valid.iter().any(|one| one.container == attachment.container && one.ifname == attachment.ifname) {
                let answer = self.del(network, &attachment).await?;
                if answer.ok().is_err() {
                    return Ok(answer);
                }
            }
        }
        self.collect(network, valid).await
    }

    /// Only the GC of every plugin, whatever results are kept.
    ///
    /// # Errors
    /// As [`Runtime::add`], and for networks older than 1.1.0.
    pub async fn collect(&self, network: &Network, valid: &[Attachment]) -> anyhow::Result<Answer> {
        if !network.speaks((1, 1)) {
            bail!("network {}: GC needs version 1.1.0, and it has {}", network.name(), network.version());
        }
        let listed: Vec<Value> = valid.iter().map(|one| json!({ "containerID": one.container, "ifname": one.ifname })).collect();
        // The specification's name, and the one that libcni had before it was put right (containernetworking/cni#1101).
        let more = Map::from_iter([
            ("cni.dev/valid-attachments".to_owned(), Value::from(listed.clone())),
            ("cni.dev/attachments".to_owned(), Value::from(listed)),
        ]);
        let network = network.with(more);
        self.each(Verb::Gc, &network, network.plugins(), &Attachment::default(), None).await
    }

    /// STATUS of every plugin.
    ///
    /// # Errors
    /// As [`Runtime::add`], and for networks older than 1.1.0.
    pub async fn status(&self, network: &Network) -> anyhow::Result<Answer> {
        if !network.speaks((1, 1)) {
            bail!("network {}: STATUS needs version 1.1.0, and it has {}", network.name(), network.version());
        }
        self.each(Verb::Status, network, network.plugins(), &Attachment::default(), None).await
    }

    /// VERSION of one plugin.
    ///
    /// # Errors
    /// As [`Runtime::add`].
    pub async fn version(&self, plugin: &str) -> anyhow::Result<Answer> {
        // libcni fills what old plugins insist on.
        let dummy = Attachment { ifname: "dummy".to_owned(), netns: Some("dummy".into()), ..Attachment::default() };
        let network = Network::of("1.1.0", "dummy", vec![json!({ "type": plugin })]);
        let mut call = self.call(Verb::Version, &network, &json!({ "type": plugin }), &dummy, None)?;
        call.stdin = br#"{"cniVersion":"1.1.0"}"#.to_vec();
        self.execute(&call).await
    }

    /// One verb of several plugins, until one fails.
    async fn each<'a>(
        &self,
        verb: Verb,
        network: &Network,
        plugins: impl Iterator<Item = &'a Value>,
        attachment: &Attachment,
        previous: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let mut last: Option<Answer> = None;
        for plugin in plugins {
            let answer = self.execute(&self.call(verb, network, plugin, attachment, previous)?).await?;
            let took = answer.took + last.map(|last| last.took).unwrap_or_default();
            let answer = Answer { took, ..answer };
            if answer.ok().is_err() {
                return Ok(answer);
            }
            last = Some(answer);
        }
        last.context("the network has no plugins")
    }

    fn program(&self, plugin: &str) -> anyhow::Result<PathBuf> {
        let path = self.search_path();
        let found = path.iter().map(|folder| folder.join(plugin)).find(|program| program.exists());
        found.with_context(|| format!("CNI plugin {plugin} is in none of {}", join(&path)))
    }
}

fn join(folders: &[impl AsRef<Path>]) -> String {
    folders.iter().map(|folder| folder.as_ref().display().to_string()).collect::<Vec<_>>().join(":")
}
