//! Every environment variable that `ferrovia` reads, with its default.

use std::path::PathBuf;

/// What the environment says, read once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `RUST_LOG`: which events are logged; `info` by default.
    pub log: Option<String>,
    /// `FERROVIA_RUN_DIR`: folder of all labs.
    pub labs: PathBuf,
    /// `FERROVIA_CNI_BIN`: the CNI plugin that labs install; by default `ferrovia-cni` beside this program.
    pub cni: Option<PathBuf>,
}

impl Settings {
    /// Reads the environment.
    pub fn from_environment() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            log: std::env::var("RUST_LOG").ok().filter(|value| !value.is_empty()),
            labs: path(lab::RUN_VARIABLE).unwrap_or_else(|| lab::RUN_FOLDER.into()),
            cni: path("FERROVIA_CNI_BIN"),
        }
    }
}
