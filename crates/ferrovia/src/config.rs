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
    /// Folder of what virtual machines of labs boot: `guest` in `FERROVIA_CACHE`, by default `ferrovia` in `XDG_CACHE_HOME`, by
    /// default `.cache` in `HOME`.
    pub guest: PathBuf,
}

impl Settings {
    /// Reads the environment.
    pub fn from_environment() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || path("HOME").unwrap_or_else(|| "/root".into());
        let caches = || path("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache"));
        let cache = path("FERROVIA_CACHE").unwrap_or_else(|| caches().join("ferrovia"));
        Self {
            log: std::env::var("RUST_LOG").ok().filter(|value| !value.is_empty()),
            labs: path(lab::RUN_VARIABLE).unwrap_or_else(|| lab::RUN_FOLDER.into()),
            cni: path("FERROVIA_CNI_BIN"),
            guest: cache.join("guest"),
        }
    }
}
