//! NICs that are sockets of vhost-user: a virtual machine serves one in a volume of its pod, and Open vSwitch with DPDK connects to it, and
//! again whenever either was started anew.
//!
//! The path of a socket has little room, and that of a volume is long: the switch goes by a symbolic link to the volume, in a folder of the
//! agent's own. What is in the volume is the pod's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::attachment::{Attachment, Vhost};
use crate::node::Node;
use crate::ovs::VhostPort;
use crate::wire::WireError;

/// Most bytes of a socket's path: `sun_path` has one more, for the zero (unix(7)).
const LONGEST: usize = 107;
/// Folder of the links, in that of what is kept.
const LINKS: &str = "vhost";

fn wrong(message: String) -> WireError {
    WireError::Socket(message)
}

impl Node {
    /// Where the switch finds the socket of a NIC, if it is one.
    pub(crate) fn socket(&self, attachment: &Attachment) -> Option<PathBuf> {
        let vhost = attachment.nic.vhost.as_ref()?;
        Some(self.link_to_volume(&attachment.host).join(&vhost.socket))
    }

    fn link_to_volume(&self, host: &str) -> PathBuf {
        self.config.state.join(LINKS).join(host)
    }

    /// The volume, where the kubelet keeps those of pods.
    fn volume(&self, vhost: &Vhost) -> PathBuf {
        self.config.kubelet.join("pods").join(&vhost.uid).join("volumes/kubernetes.io~empty-dir").join(&vhost.volume)
    }

    /// How the switch connects to a NIC, if it is a socket.
    pub(crate) fn vhost_port(&self, attachment: &Attachment) -> Option<VhostPort> {
        let path = self.socket(attachment)?.display().to_string();
        Some(VhostPort { path, mtu: attachment.nic.mtu })
    }

    /// Makes a NIC that is a socket what it is to be. Returns what it cannot have.
    pub(crate) async fn plug(&self, attachment: &Attachment, vhost: &Vhost) -> Result<Vec<String>, WireError> {
        Self::namespace_of(attachment)?;
        let Attachment { ifname, namespace, pod, host, .. } = attachment;
        let nic = format!("NIC {ifname} of pod {namespace}/{pod} is to be a socket of vhost-user");
        if let Some(lacking) = self.ovs.lacks_vhost() {
            return Err(wrong(format!("{nic}, and node {} has no OVS-DPDK: {lacking}", self.config.node)));
        }
        let volume = self.volume(vhost);
        if !volume.is_dir() {
            let (name, node) = (&vhost.volume, &self.config.node);
            let path = volume.display();
            return Err(wrong(format!("{nic} in its volume {name}, an emptyDir, and there is none: no folder {path} on node {node}")));
        }
        let link = self.link_to_volume(host);
        let path = link.join(&vhost.socket).display().to_string();
        if path.len() > LONGEST {
            let room = format!("a socket's path has at most {LONGEST} bytes, and {path} has {}", path.len());
            return Err(wrong(format!("{nic}: {room}: shorten vhost_user_socket_name, or start the agent with a shorter --state")));
        }
        let failed = |error: io::Error| wrong(format!("{nic}: link {}: {error}", link.display()));
        point(&link, &volume).map_err(failed)?;
        self.ovs.add(&self.port(attachment)).await?;
        let impaired = attachment.nic.tuning.impairment.is_some();
        Ok(impaired.then(|| format!("NIC {ifname} is a socket of vhost-user, and its line is not impaired")).into_iter().collect())
    }

    /// What is not as it was made of a NIC that is a socket, short of its port.
    pub(crate) fn unplugged(&self, attachment: &Attachment, vhost: &Vhost) -> Option<String> {
        let (link, volume) = (self.link_to_volume(&attachment.host), self.volume(vhost));
        let leads = fs::read_link(&link).is_ok_and(|target| target == volume);
        (!leads).then(|| format!("link {} does not lead to {}", link.display(), volume.display()))
    }

    /// Takes the link away, if there is one.
    pub(crate) fn unplug(&self, host: &str) -> Result<(), WireError> {
        let link = self.link_to_volume(host);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(wrong(format!("link {}: {error}", link.display()))),
            _ => Ok(()),
        }
    }
}

/// Has a link lead to a folder, in one step where it led elsewhere.
fn point(link: &Path, folder: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|target| target == folder) {
        return Ok(());
    }
    if let Some(parent) = link.parent() {
        fs::create_dir_all(parent)?;
    }
    let fresh = link.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(folder, &fresh)?;
    fs::rename(&fresh, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_where_it_should_wherever_it_led() {
        let root = tempfile::tempdir().unwrap();
        let (link, one, other) = (root.path().join("links/a_h"), root.path().join("one"), root.path().join("other"));
        for folder in [&one, &other, &other] {
            point(&link, folder).unwrap();
            assert_eq!(&fs::read_link(&link).unwrap(), folder);
        }
        assert_eq!(fs::read_dir(link.parent().unwrap()).unwrap().count(), 1);
        // What is no link of ours stays.
        let foreign = root.path().join("links/b_h");
        fs::create_dir(&foreign).unwrap();
        assert!(point(&foreign, &one).is_err() && foreign.is_dir());
    }
}
