//! Tells the host's network services to leave our links alone: systemd-networkd (systemd.network(5), `Unmanaged=`) and
//! NetworkManager (NetworkManager.conf(5), `unmanaged-devices`). Under `/run`, so that nothing is left when the host starts anew.

use std::fs;
use std::io;
use std::path::Path;

/// Host ends of pods, our bridges and gateway links, tunnels.
const LINKS: [&str; 8] = ["*_h", "br-int", "br-ex", "br-phy", "ovn0", "ovs-system", "genev_sys_*", "vxlan_sys_*"];

/// Writes both files, unless they are as wanted.
pub(crate) fn write(run: &Path) -> io::Result<()> {
    let networkd = format!("[Match]\nName={}\n\n[Link]\nUnmanaged=yes\n", LINKS.join(" "));
    let devices: Vec<_> = LINKS.iter().map(|link| format!("interface-name:{link}")).collect();
    let manager = format!("[keyfile]\nunmanaged-devices+={}\n", devices.join(";"));
    for (path, content) in [("systemd/network/05-ferrovia.network", networkd), ("NetworkManager/conf.d/90-ferrovia.conf", manager)] {
        let path = run.join(path);
        if fs::read(&path).is_ok_and(|shown| shown == content.as_bytes()) {
            continue;
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let fresh = path.with_extension("new");
        fs::write(&fresh, content)?;
        fs::rename(&fresh, &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_services_are_told_of_every_link_and_only_once() {
        let run = tempfile::tempdir().unwrap();
        write(run.path()).unwrap();
        let read = |path: &str| fs::read_to_string(run.path().join(path)).unwrap();
        let (networkd, manager) = (read("systemd/network/05-ferrovia.network"), read("NetworkManager/conf.d/90-ferrovia.conf"));
        assert!(LINKS.iter().all(|link| networkd.contains(link) && manager.contains(&format!("interface-name:{link}"))));
        let written = |path: &str| fs::metadata(run.path().join(path)).unwrap().modified().unwrap();
        let before = written("systemd/network/05-ferrovia.network");
        write(run.path()).unwrap();
        assert_eq!(before, written("systemd/network/05-ferrovia.network"));
    }
}
