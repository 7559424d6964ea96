//! What is attached: a container's link in its sandbox.

use std::path::PathBuf;

use anyhow::anyhow;
use linux::{Handle, Netns, netns};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Lab;

/// One link of a container, as the runtime tells it to plugins (libcni's `RuntimeConf`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`; empty when the sandbox is gone.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// What plugins get as `runtimeConfig`, of the capabilities that they announce.
    pub capabilities: Map<String, Value>,
}

impl Attachment {
    /// Link `eth0` of a pod's sandbox, with the arguments that containerd gives.
    #[must_use]
    pub fn of_pod(namespace: &str, name: &str, uid: &str, netns: &str) -> Self {
        let args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", namespace),
            ("K8S_POD_NAME", name),
            ("K8S_POD_INFRA_CONTAINER_ID", uid),
            ("K8S_POD_UID", uid),
        ];
        Self {
            container: uid.to_owned(),
            ifname: "eth0".to_owned(),
            netns: Some(netns::path(netns)),
            args: args.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            capabilities: Map::new(),
        }
    }

    /// The sandbox.
    ///
    /// # Errors
    /// When it is gone.
    pub fn sandbox(&self) -> anyhow::Result<Netns> {
        Ok(Netns::open(self.netns.as_ref().ok_or_else(|| anyhow!("container {} has no sandbox", self.container))?)?)
    }

    /// Removes the sandbox's name, and with it the namespace, unless something else uses it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_sandbox(&self) -> anyhow::Result<()> {
        let name = self.netns.as_ref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
        name.map_or(Ok(()), |name| Ok(netns::delete(name)?))
    }
}

/// A sandbox: a named network namespace. It stays until it is deleted, or the lab goes down.
#[derive(Clone, Debug)]
pub struct Sandbox {
    name: String,
    netns: Netns,
}

impl Sandbox {
    pub(super) async fn create(lab: &Lab, id: &str) -> anyhow::Result<Self> {
        let name = lab.layout.name().pod_netns(id);
        let netns = match Netns::create(&name) {
            Err(error) if error.is_existing() => Netns::named(&name)?,
            made => made?,
        };
        let handle = Handle::open(&netns)?;
        handle.set_up(handle.index("lo").await?).await?;
        Ok(Self { name, netns })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Removes its name.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete(&self) -> anyhow::Result<()> {
        Ok(netns::delete(&self.name)?)
    }
}
