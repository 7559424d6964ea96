//! The programs and schemas of OVS and OVN: the system's, or those under another root directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use linux::Netns;

/// Where programs and schemas are taken from.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    root: Option<PathBuf>,
}

/// Loader and libraries of a foreign root, as Debian lays them out.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// Where programs are looked for.
const FOLDERS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// Programs that people run in a node, for which a foreign root gets wrappers.
const TOOLS: [&str; 11] = [
    "ovn-nbctl",
    "ovn-sbctl",
    "ovn-appctl",
    "ovn-trace",
    "ovs-vsctl",
    "ovs-ofctl",
    "ovs-appctl",
    "ovs-dpctl",
    "ovsdb-client",
    "ovsdb-tool",
    "ovn-detrace",
];

impl Programs {
    /// Programs of the system, or of `root`.
    #[must_use]
    pub const fn new(root: Option<PathBuf>) -> Self {
        Self { root }
    }

    /// The words that start a program.
    ///
    /// # Errors
    /// When it is not there.
    pub fn argv(&self, program: &str) -> anyhow::Result<Vec<String>> {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let path = FOLDERS.iter().map(|folder| root.join(folder).join(program)).find(|path| path.exists());
        let path = path.with_context(|| format!("program {program} is not under {}", root.display()))?.display().to_string();
        Ok(match &self.root {
            None => vec![path],
            Some(root) => {
                let libraries = LIBRARIES.map(|folder| root.join(folder).display().to_string()).join(":");
                vec![root.join(LOADER).display().to_string(), "--library-path".to_owned(), libraries, path]
            }
        })
    }

    /// Path of a schema, such as `ovn/ovn-nb.ovsschema`.
    #[must_use]
    pub fn schema(&self, name: &str) -> String {
        self.root.as_deref().unwrap_or(Path::new("/")).join("usr/share").join(name).display().to_string()
    }

    /// Runs a program to its end, inside `netns` if given, and yields what it prints; blocks.
    ///
    /// # Errors
    /// With what it complains about.
    pub fn run(&self, netns: Option<&Netns>, program: &str, arguments: &[impl AsRef<str>]) -> anyhow::Result<String> {
        let argv = self.argv(program)?;
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).args(arguments.iter().map(AsRef::as_ref)).env_clear();
        let output = match netns {
            Some(netns) => netns.run(|| command.output())?,
            None => command.output(),
        };
        let output = output.with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            bail!(
                "{program} {}: {}",
                arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes wrappers for the programs of a foreign root into `folder`, so that a `PATH` that begins with it finds them.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_wrappers(&self, folder: &Path) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        if self.root.is_none() {
            return Ok(());
        }
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for tool in TOOLS {
            let Ok(argv) = self.argv(tool) else { continue };
            let words: Vec<_> = argv.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
            let path = folder.join(tool);
            std::fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}
