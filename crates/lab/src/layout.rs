//! Where a lab keeps its files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use central::Database;
use linux::{Netns, netns};

use crate::{LabName, Place};

/// Folder of all labs, unless configured otherwise.
pub const RUN_FOLDER: &str = "/run/ferrovia";

/// Environment variable that names another folder; components carry it.
pub const RUN_VARIABLE: &str = "FERROVIA_RUN_DIR";

/// The files and namespaces of one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    name: LabName,
}

impl Layout {
    /// The layout of lab `name` under the folder of all labs.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, name: LabName) -> Self {
        Self { root: root.into(), name }
    }

    /// The lab's name.
    #[must_use]
    pub const fn name(&self) -> &LabName {
        &self.name
    }

    /// Folder of all labs.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of this lab.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.root.join(self.name.as_str())
    }

    /// Folder of one place.
    #[must_use]
    pub fn place(&self, place: Place) -> PathBuf {
        self.folder().join(place.to_string())
    }

    /// What the lab was started with.
    #[must_use]
    pub fn parameters(&self) -> PathBuf {
        self.folder().join("lab.json")
    }

    /// Kubeconfig for programs on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    /// Kubeconfig for programs on the physical network.
    #[must_use]
    pub fn internal_kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig.internal")
    }

    /// Bearer token of the API server.
    #[must_use]
    pub fn token(&self) -> PathBuf {
        self.folder().join("token")
    }

    /// Folder with what the kubelet of a node knows of its pods, a file each.
    #[must_use]
    pub fn pods(&self, place: Place) -> PathBuf {
        self.place(place).join("pods")
    }

    /// Folder of the kubelet of a node, with volumes of pods.
    #[must_use]
    pub fn kubelet(&self, place: Place) -> PathBuf {
        self.place(place).join("kubelet")
    }

    /// Where the agent of a node looks for devices: this machine's are none of the node's. None unless somebody makes some.
    #[must_use]
    pub fn sysfs(&self, place: Place) -> PathBuf {
        self.place(place).join("sys")
    }

    /// Socket on which the agent of a node serves the CNI plugin.
    #[must_use]
    pub fn agent_socket(&self, place: Place) -> PathBuf {
        self.place(place).join("agent.sock")
    }

    /// Socket of a database in a place: `nb`, `sb` or `db`.
    #[must_use]
    pub fn socket(&self, place: Place, database: &str) -> PathBuf {
        // As OVN's own tools expect them.
        let stem = match database {
            "nb" => Database::Northbound.stem(),
            "sb" => Database::Southbound.stem(),
            other => other,
        };
        self.place(place).join(format!("{stem}.sock"))
    }

    /// OVSDB remote of a database in a place.
    #[must_use]
    pub fn remote(&self, place: Place, database: &str) -> String {
        format!("unix:{}", self.socket(place, database).display())
    }

    /// Socket on which the central services of a place answer.
    #[must_use]
    pub fn central_socket(&self, place: Place) -> PathBuf {
        self.place(place).join("central.sock")
    }

    /// Opens the network namespace of a place.
    ///
    /// # Errors
    /// When the lab has no such place.
    pub fn netns(&self, place: Place) -> anyhow::Result<Netns> {
        match self.name.netns(place) {
            Some(name) => Netns::named(&name).with_context(|| format!("lab {} has no {place}", self.name)),
            None => Ok(Netns::current()?),
        }
    }

    /// The command that looks inside a place.
    #[must_use]
    pub fn look_inside(&self, place: Place) -> String {
        match self.name.netns(place) {
            Some(name) => format!("nsenter --net={}", netns::path(&name).display()),
            None => "sh".to_owned(),
        }
    }
}

/// Writes a file as a whole: readers see the old or the new one.
pub(crate) fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    fs::write(&draft, content).and_then(|()| fs::rename(&draft, path)).with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a JSON file.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a JSON file as a whole.
pub(crate) fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    write(path, &serde_json::to_vec_pretty(value)?)
}
