//! Results of ADD, kept in files so that CHECK, DEL and GC know them whoever calls, as libcni's cache does.

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attachment, Network, Runtime};
use crate::layout::{read_json, write_json};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    network: String,
    attachment: Attachment,
    result: Value,
}

impl Runtime {
    fn results(&self) -> PathBuf {
        self.folder().join("results")
    }

    fn file(&self, network: &Network, attachment: &Attachment) -> PathBuf {
        self.results().join(format!("{}-{}-{}.json", network.name(), attachment.container, attachment.ifname))
    }

    pub(super) fn keep(&self, network: &Network, attachment: &Attachment, result: &Value) -> anyhow::Result<()> {
        fs::create_dir_all(self.results()).context("cannot create the folder of CNI results")?;
        let kept = Kept { network: network.name().to_owned(), attachment: attachment.clone(), result: result.clone() };
        write_json(&self.file(network, attachment), &kept)
    }

    /// The result of an attachment's last ADD that succeeded, unless it was deleted since.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn kept(&self, network: &Network, attachment: &Attachment) -> anyhow::Result<Option<Value>> {
        let file = self.file(network, attachment);
        if !file.exists() {
            return Ok(None);
        }
        read_json::<Kept>(&file).map(|kept| Some(kept.result))
    }

    pub(super) fn forget(&self, network: &Network, attachment: &Attachment) -> anyhow::Result<()> {
        let file = self.file(network, attachment);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// Attachments of a network with a kept result.
    pub(super) fn remembered(&self, network: &Network) -> anyhow::Result<Vec<Attachment>> {
        let entries = match fs::read_dir(self.results()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("cannot list the CNI results")?,
        };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension().is_some_and(|e| e == "json"));
        let kept = files.map(|path| read_json::<Kept>(&path)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(kept.into_iter().filter(|kept| kept.network == network.name()).map(|kept| kept.attachment).collect())
    }
}
