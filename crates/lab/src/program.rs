//! The programs and schemas of OVS and OVN: the system's, or those under another root directory.

use std::io::Read as _;
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
/// Where programs are looked for. In the first two `ovs-vswitchd` lives on Debian, without and with DPDK: its alternatives exist only
/// once packages are configured, and may be either.
const FOLDERS: [&str; 6] = ["usr/lib/openvswitch-switch", "usr/lib/openvswitch-switch-dpdk", "usr/sbin", "usr/bin", "sbin", "bin"];
/// How many symbolic links are followed, as in Linux (path_resolution(7)).
const LINKS: u32 = 40;

/// Programs that people run in a node, and that `ferrovia central` runs, for which a foreign root gets wrappers.
const TOOLS: [&str; 13] = [
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
    "ovsdb-server",
    "ovn-northd",
];

impl Programs {
    /// Programs of the system, or of `root`.
    #[must_use]
    pub const fn new(root: Option<PathBuf>) -> Self {
        Self { root }
    }

    /// The root directory.
    pub(crate) fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new("/"))
    }

    /// The words that start a program.
    ///
    /// # Errors
    /// When it is not there.
    pub fn argv(&self, program: &str) -> anyhow::Result<Vec<String>> {
        let path = self.path(program)?.display().to_string();
        Ok(match &self.root {
            None => vec![path],
            Some(root) => {
                let libraries = LIBRARIES.map(|folder| root.join(folder).display().to_string()).join(":");
                vec![root.join(LOADER).display().to_string(), "--library-path".to_owned(), libraries, path]
            }
        })
    }

    /// Path of a program.
    pub(crate) fn path(&self, program: &str) -> anyhow::Result<PathBuf> {
        let root = self.root();
        let path = FOLDERS.iter().find_map(|folder| inside(root, root.join(folder).join(program)));
        path.with_context(|| format!("program {program} is not under {}", root.display()))
    }

    /// Path of a schema, such as `ovn/ovn-nb.ovsschema`.
    #[must_use]
    pub fn schema(&self, name: &str) -> String {
        self.root().join("usr/share").join(name).display().to_string()
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
            // A script would need the root's interpreter and modules too.
            let Some(argv) = self.argv(tool).ok().filter(|argv| argv.last().is_some_and(|program| is_elf(program))) else { continue };
            let words: Vec<_> = argv.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
            let path = folder.join(tool);
            std::fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))
                .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The file that a path under `root` names. Links that begin with `/`, such as those of Debian's alternatives, mean the
/// root's own files.
fn inside(root: &Path, mut path: PathBuf) -> Option<PathBuf> {
    for _ in 0..LINKS {
        let Ok(target) = path.read_link() else { return path.exists().then_some(path) };
        path = match target.strip_prefix("/") {
            Ok(target) => root.join(target),
            Err(_) => path.parent()?.join(target),
        };
    }
    None
}

fn is_elf(program: &str) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(program).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_a_foreign_root_stay_inside_it() {
        let root = std::env::temp_dir().join(format!("fvt-root-{}", std::process::id()));
        for folder in ["usr/sbin", "usr/bin", "etc/alternatives", "usr/lib/openvswitch-switch"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let real = root.join("usr/lib/openvswitch-switch/ovs-vswitchd");
        std::fs::write(&real, b"\x7fELF").unwrap();
        std::fs::write(root.join("usr/bin/ovn-detrace"), "#! /usr/bin/python3\n").unwrap();
        symlink("/bin/sh", root.join("usr/sbin/sh")).unwrap();
        symlink("loop", root.join("usr/sbin/loop")).unwrap();
        symlink("../lib/openvswitch-switch/ovs-vswitchd", root.join("usr/bin/ovs-vsctl")).unwrap();
        let programs = Programs::new(Some(root.clone()));
        let found = |program: &str| programs.argv(program).map(|argv| argv[3].parse::<PathBuf>().unwrap().canonicalize().unwrap()).ok();
        // Unpacked, and then configured with an alternative.
        assert_eq!(found("ovs-vswitchd").as_ref(), Some(&real));
        symlink("/usr/lib/openvswitch-switch/ovs-vswitchd", root.join("etc/alternatives/ovs-vswitchd")).unwrap();
        symlink("/etc/alternatives/ovs-vswitchd", root.join("usr/sbin/ovs-vswitchd")).unwrap();
        assert_eq!(found("ovs-vswitchd").as_ref(), Some(&real));
        // Never this machine's.
        assert_eq!((found("sh"), found("loop")), (None, None));

        programs.write_wrappers(&root.join("bin")).unwrap();
        assert!(root.join("bin/ovs-vsctl").exists() && !root.join("bin/ovn-detrace").exists());
        std::fs::remove_dir_all(root).unwrap();
    }
}
