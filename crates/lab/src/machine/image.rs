//! What a machine boots: the kernel and the modules that `scripts/guest-image` has put aside, and this very program, which is the
//! guest's first one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::PROGRAM;
use crate::Lab;

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    /// The guest's whole disk, in memory.
    pub(crate) initrd: PathBuf,
    /// Whether guests run on the processor itself (KVM), or are emulated.
    pub(crate) accelerated: bool,
}

impl Image {
    /// The image of a lab's machines, made for the first of them.
    pub(crate) fn of(lab: &Lab) -> anyhow::Result<Self> {
        let folder = &lab.parameters.guest;
        let (kernel, base) = (folder.join("vmlinuz"), folder.join("base.cpio"));
        if !kernel.exists() || !base.exists() {
            bail!("virtual machines need the guest's kernel in {}: `make setup` puts it there", folder.display());
        }
        let initrd = lab.layout.folder().join("guest.initrd");
        if !initrd.exists() {
            // Two nodes may need it at once, and write the same.
            let draft = initrd.with_extension(format!("draft-{}", uuid::Uuid::new_v4()));
            compose(&base, &draft)
                .and_then(|()| Ok(fs::rename(&draft, &initrd)?))
                .with_context(|| format!("cannot make {}", initrd.display()))?;
        }
        let tried = fs::read_to_string(folder.join("accelerator")).unwrap_or_default();
        Ok(Self { kernel, initrd, accelerated: tried.trim() == "kvm" && Path::new("/dev/kvm").exists() })
    }
}

/// Appends this program and its libraries to the base.
fn compose(base: &Path, to: &Path) -> anyhow::Result<()> {
    let mut out = File::create(to)?;
    io::copy(&mut File::open(base)?, &mut out)?;
    let mut archive = Vec::new();
    let own = loadable(&fs::read("/proc/self/exe").context("cannot read this program")?)?;
    entry(&mut archive, Path::new(PROGRAM), &own);
    for library in libraries()? {
        // Their folders are in the base where the loader looks, and the last name is what programs ask for.
        let name = library.file_name().unwrap_or_default();
        let folder = if name.to_string_lossy().starts_with("ld-linux") { "/lib64" } else { "/lib/x86_64-linux-gnu" };
        entry(
            &mut archive,
            &Path::new(folder).join(name),
            &fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?,
        );
    }
    header(&mut archive, "TRAILER!!!", 0, 0);
    Ok(out.write_all(&archive)?)
}

/// The shared libraries of this process, the loader among them.
fn libraries() -> anyhow::Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps").context("cannot read what this process has loaded")?;
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    Ok(files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"))).collect())
}

/// What of a program the kernel loads: not its debugging symbols, which are most of it and come last.
fn loadable(elf: &[u8]) -> anyhow::Result<Vec<u8>> {
    // ELF-64, little-endian (elf(5)): e_phoff, e_shoff, e_phentsize, e_phnum; p_type, p_offset, p_filesz.
    let at = |offset: usize, length: usize| elf.get(offset..offset + length).context("this program is no ELF file");
    let word = |offset: usize| -> anyhow::Result<usize> {
        let bytes = at(offset, 8)?.first_chunk::<8>().copied().unwrap_or_default();
        Ok(usize::try_from(u64::from_le_bytes(bytes))?)
    };
    let half = |offset: usize| -> anyhow::Result<usize> {
        Ok(usize::from(u16::from_le_bytes(at(offset, 2)?.first_chunk::<2>().copied().unwrap_or_default())))
    };
    anyhow::ensure!(at(0, 6)? == b"\x7fELF\x02\x01", "this program is no 64-bit ELF file");
    let (first, size, count) = (word(32)?, half(54)?, half(56)?);
    let mut end = first + size * count;
    for header in (0..count).map(|index| first + size * index) {
        // PT_LOAD
        if at(header, 4)? == [1, 0, 0, 0] {
            end = end.max(word(header + 8)? + word(header + 32)?);
        }
    }
    let mut loaded = at(0, end)?.to_vec();
    // e_shoff, e_shnum and e_shstrndx: there are no sections any more.
    loaded[40..48].fill(0);
    loaded[60..64].fill(0);
    Ok(loaded)
}

/// A file of an archive in the kernel's format (`newc`, Documentation/driver-api/early-userspace/buffer-format.rst).
fn entry(archive: &mut Vec<u8>, path: &Path, content: &[u8]) {
    header(archive, &path.display().to_string()[1..], 0o100_755, content.len());
    archive.extend_from_slice(content);
    pad(archive);
}

fn header(archive: &mut Vec<u8>, name: &str, mode: u32, length: usize) {
    // Magic; inode, mode, owner, group, links, time, length; device and special device, major and minor; name's length, checksum.
    let fields = [0, mode as usize, 0, 0, 1, 0, length, 0, 0, 0, 0, name.len() + 1, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// The last words of a file, such as of a console.
pub(crate) fn last_line(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_loaded_of_a_program_is_a_program() {
        let folder = std::env::temp_dir().join(format!("fvt-image-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let whole = fs::read("/proc/self/exe").unwrap();
        let loaded = loadable(&whole).unwrap();
        assert!(loaded.len() < whole.len());
        let program = folder.join("program");
        fs::write(&program, loaded).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let listed = Command::new(&program).arg("--list").output().unwrap();
        assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("what_is_loaded"));
        fs::remove_dir_all(folder).unwrap();
        assert!(loadable(b"#! /bin/sh").is_err());
    }

    #[test]
    fn libraries_are_those_that_programs_need() {
        let names: Vec<_> = libraries().unwrap().into_iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert!(names.iter().any(|name| name == "libc.so.6") && names.iter().any(|name| name.starts_with("ld-linux")), "{names:?}");
    }

    #[test]
    fn entries_are_padded_to_four_bytes() {
        let mut archive = Vec::new();
        entry(&mut archive, Path::new("/bin/a"), b"xyz");
        header(&mut archive, "TRAILER!!!", 0, 0);
        assert!(archive.starts_with(b"07070100000000000081ed"));
        assert_eq!(&archive[110..120], b"bin/a\0xyz\0".as_slice());
        assert_eq!(archive.len() % 4, 0);
    }
}
