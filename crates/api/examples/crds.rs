//! Writes the definition of each kind of `kubeovn.io/v1` as YAML: `crds FOLDER`. A file of a kind that is gone is removed.

use std::io::{Error, Result};
use std::path::PathBuf;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).ok_or_else(|| Error::other("usage: crds FOLDER"))?;
    std::fs::create_dir_all(&folder)?;
    let definitions = api::v1::crds();
    for file in std::fs::read_dir(&folder)? {
        let path = file?.path();
        let ours = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|end| end == "yaml") && !definitions.iter().any(|crd| crd.metadata.name.as_deref() == Some(ours)) {
            std::fs::remove_file(&path)?;
        }
    }
    for crd in definitions {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let yaml = serde_norway::to_string(&crd).map_err(Error::other)?;
        std::fs::write(folder.join(format!("{name}.yaml")), yaml)?;
    }
    Ok(())
}
