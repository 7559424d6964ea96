//! What the node keeps of each NIC that it made: one file per NIC, written before anything is made and removed after everything
//! is. With it a restarted agent, or a node whose Open vSwitch database was lost, knows what there is to be.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::tuning::{Rate, Tuning};
use api::{DeviceId, MacAddr};
use linux::IpPrefix;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::ovs::Limits;

/// A NIC of a container, as wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// Identifier of the container (`CNI_CONTAINERID`).
    pub(crate) container: String,
    /// Name of the pod's end.
    pub(crate) ifname: String,
    /// Name of the host's end, and of the port.
    pub(crate) host: String,
    /// When it was first asked for, in milliseconds since 1970: of two for one logical switch port the later one has it.
    pub(crate) since: u64,
    /// Link that the runtime asked for when this was made: the same, unless we made it beside another.
    pub(crate) asked: String,
    /// Name of the CNI network.
    pub(crate) network: String,
    /// Path of the pod's network namespace, and which one it is.
    pub(crate) netns: PathBuf,
    pub(crate) inode: u64,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: Option<String>,
    /// Limits that the runtime asked for, by capability; annotations come before them.
    pub(crate) ingress: Option<Rate>,
    pub(crate) egress: Option<Rate>,
    pub(crate) nic: Nic,
}

/// What a NIC is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Nic {
    /// Which of the pod's NICs.
    pub(crate) provider: String,
    /// Name of its logical switch port.
    pub(crate) port: String,
    pub(crate) subnet: String,
    #[serde(with = "text")]
    pub(crate) mac: MacAddr,
    /// None of one that has a MAC alone.
    #[serde(with = "texts")]
    pub(crate) addresses: Vec<IpPrefix>,
    pub(crate) gateways: Vec<IpAddr>,
    /// MTU in bytes.
    pub(crate) mtu: u32,
    /// MTU in bytes of what passes the gateway, if that leads by tunnels, too.
    #[serde(default)]
    pub(crate) routed_mtu: Option<u32>,
    /// On a VLAN, the gateways of the physical network.
    #[serde(default)]
    pub(crate) physical: Option<Vec<IpAddr>>,
    /// Whether the pod was made for a virtual machine to move into: until it is here nothing passes.
    #[serde(default)]
    pub(crate) incoming: bool,
    /// Whether the pod's default route is by this NIC.
    pub(crate) default_route: bool,
    pub(crate) tuning: Tuning,
    /// The socket that it is, and no link.
    #[serde(default)]
    pub(crate) vhost: Option<Vhost>,
    /// The device that it is, and no veth.
    #[serde(default)]
    pub(crate) device: Option<Lent>,
}

impl Nic {
    /// Whether it is a link in the pod's namespace: neither a socket, which no machine serves when it is made (one that boots takes longer than the
    /// switch), nor a device that is passed on to a machine.
    pub(crate) fn is_link(&self) -> bool {
        self.vhost.is_none() && self.device.as_ref().is_none_or(|lent| lent.link.is_some())
    }

    /// What the switch itself is to let pass, where no queueing discipline of ours does that: all of a socket's, and of a device's what the NIC can
    /// take over, which is what leaves the pod.
    pub(crate) fn limits(&self) -> Option<Limits> {
        let Tuning { ingress, egress, .. } = self.tuning;
        (self.vhost.is_some() || self.device.is_some()).then(|| Limits { from: egress, towards: ingress.filter(|_| self.vhost.is_some()) })
    }

    /// Whether it can ask others anything when it is made: not for a machine that moves here, whose address is where it comes from, too, until
    /// nothing but that passes.
    pub(crate) fn asks(&self) -> bool {
        self.is_link() && !self.incoming
    }
}

/// A socket of vhost-user in a volume of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vhost {
    /// Identity of the pod.
    pub(crate) uid: String,
    /// Name of the volume.
    pub(crate) volume: String,
    /// Name of the socket in it.
    pub(crate) socket: String,
}

/// A device of the node that a pod has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lent {
    #[serde(with = "text")]
    pub(crate) device: DeviceId,
    /// The link that stands for it at its switch.
    pub(crate) representor: String,
    /// Of a virtual function: link of the physical one, and its number there.
    pub(crate) physical: Option<(String, u32)>,
    /// Its link, as it was on the node; none of one that is passed on to a machine.
    pub(crate) link: Option<LentLink>,
}

/// A device's link before a pod had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LentLink {
    pub(crate) name: String,
    pub(crate) mac: Option<linux::Mac>,
    /// MTU in bytes.
    pub(crate) mtu: u32,
}

mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod texts {
    use linux::IpPrefix;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(values: &[IpPrefix], serializer: S) -> Result<S::Ok, S::Error> {
        values.iter().map(ToString::to_string).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpPrefix>, D::Error> {
        Vec::<String>::deserialize(deserializer)?.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

impl Nic {
    /// Destinations and next hops, without what follows from the addresses.
    pub(crate) fn routes(&self) -> Vec<(IpPrefix, Option<IpAddr>)> {
        let gateway_of = |v4: bool| self.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == v4);
        let has = |v4: bool| self.addresses.iter().any(|address| address.address().is_ipv4() == v4);
        let mut routes = Vec::new();
        if self.default_route {
            let gateways = self.gateways.iter().filter(|gateway| has(gateway.is_ipv4()));
            routes.extend(gateways.map(|gateway| (IpPrefix::default_of(*gateway), Some(*gateway))));
        }
        for route in &self.tuning.routes {
            let v4 = route.destination.is_ipv4();
            if let (true, Ok(destination)) = (has(v4), IpPrefix::new(route.destination, route.length)) {
                routes.push((destination, route.gateway.or_else(|| gateway_of(v4))));
            }
        }
        routes
    }
}

/// Container and name of the pod's end.
pub(crate) type Key = (String, String);

impl Attachment {
    pub(crate) fn key(&self) -> Key {
        (self.container.clone(), self.ifname.clone())
    }

    /// Whether it is, or was made with, the link of this name.
    pub(crate) fn is_of(&self, ifname: &str) -> bool {
        self.ifname == ifname || self.asked == ifname
    }
}

/// Names of the host's end, first choice first: the container's first twelve characters, as Kube-OVN names it, with the name of
/// other links than `eth0` in place of the last ones; and a digest of both, where the first is too long or another's.
pub(crate) fn host_links(container: &str, ifname: &str) -> [String; 2] {
    let first = |count: usize| container.chars().take(count).collect::<String>();
    let digest = format!("{:012x}_h", digest(container, ifname));
    let telling = match ifname.len() {
        _ if ifname == "eth0" => format!("{}_h", first(12)),
        length if length <= 6 => format!("{}_{ifname}_h", first(12 - length)),
        _ => digest.clone(),
    };
    [telling, digest]
}

/// 48 bits of two texts: FNV-1a, folded.
pub(crate) fn digest(one: &str, other: &str) -> u64 {
    let bytes = one.bytes().chain([0]).chain(other.bytes());
    let digest = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (digest >> 48) ^ (digest & 0xffff_ffff_ffff)
}

/// The files, and what is in them.
pub(crate) struct Store {
    folder: PathBuf,
    kept: Mutex<BTreeMap<Key, Attachment>>,
    changes: watch::Sender<()>,
}

impl Store {
    /// Reads what a former agent kept. A file that cannot be read is left alone and named in the log.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut kept = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match fs::read(&path)
                .map_err(|e| e.to_string())
                .and_then(|bytes| serde_json::from_slice::<Attachment>(&bytes).map_err(|e| e.to_string()))
            {
                Ok(attachment) => drop(kept.insert(attachment.key(), attachment)),
                Err(error) => tracing::error!(path = %path.display(), error, "what was kept of a NIC cannot be read"),
            }
        }
        Ok(Self { folder: folder.to_owned(), kept: Mutex::new(kept), changes: watch::Sender::new(()) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Attachment>> {
        // Each change is one insertion or removal: there is no half of one.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, (container, ifname): &Key) -> PathBuf {
        self.folder.join(format!("{container}-{ifname}.json"))
    }

    /// Takes in one that is asked for: with the name of its host's end and its time, which it has already if it was asked for
    /// before and nobody has its port since. `now` is in milliseconds since 1970.
    pub(crate) fn admit(&self, mut attachment: Attachment, now: u64) -> io::Result<Attachment> {
        let key = attachment.key();
        let mut kept = self.lock();
        let latest = kept.values().filter(|other| other.nic.port == attachment.nic.port).map(|other| other.since).max();
        let old = kept.get(&key);
        attachment.since = match old {
            Some(old) if Some(old.since) == latest => old.since,
            _ => now.max(latest.map_or(0, |latest| latest + 1)),
        };
        let is_free = |host: &String| kept.values().all(|other| other.host != *host || other.key() == key);
        let taken = || io::Error::new(io::ErrorKind::AlreadyExists, "no name for the host's end is left");
        let mut names = old.map(|old| old.host.clone()).into_iter().chain(host_links(&attachment.container, &attachment.ifname));
        attachment.host = match &attachment.nic.device {
            Some(lent) => Some(lent.representor.clone()).filter(is_free),
            None => names.find(is_free),
        }
        .ok_or_else(taken)?;
        self.write(&mut kept, attachment.clone())?;
        Ok(attachment)
    }

    /// Keeps one, in place of what was kept under its key.
    pub(crate) fn keep(&self, attachment: Attachment) -> io::Result<()> {
        self.write(&mut self.lock(), attachment)
    }

    fn write(&self, kept: &mut BTreeMap<Key, Attachment>, attachment: Attachment) -> io::Result<()> {
        let key = attachment.key();
        if kept.get(&key) == Some(&attachment) {
            return Ok(());
        }
        let path = self.path(&key);
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(&attachment)?)?;
        fs::rename(&fresh, &path)?;
        kept.insert(key, attachment);
        self.changes.send_replace(());
        Ok(())
    }

    pub(crate) fn forget(&self, key: &Key) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.lock().remove(key);
        self.changes.send_replace(());
        Ok(())
    }

    /// Those of a container, or all.
    pub(crate) fn of(&self, container: Option<&str>) -> Vec<Attachment> {
        let kept = self.lock();
        kept.values().filter(|attachment| container.is_none_or(|container| attachment.container == container)).cloned().collect()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Attachment> {
        self.lock().get(key).cloned()
    }

    /// Whether any of these is of a subnet.
    pub(crate) fn uses(&self, subnet: &str) -> bool {
        self.lock().values().any(|attachment| attachment.nic.subnet == subnet)
    }

    /// Whose host's end has this name.
    pub(crate) fn owner_of(&self, host: &str) -> Option<Key> {
        self.lock().values().find(|attachment| attachment.host == host).map(Attachment::key)
    }

    /// Whether a later one has this one's logical switch port.
    pub(crate) fn is_superseded(&self, attachment: &Attachment) -> bool {
        let later = |other: &Attachment| other.nic.port == attachment.nic.port && other.since > attachment.since;
        self.lock().values().any(later)
    }

    /// Wakes whenever one was kept or forgotten.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn attachment(container: &str, ifname: &str) -> Attachment {
        let nic = Nic {
            provider: "ovn".to_owned(),
            port: "p.ns".to_owned(),
            subnet: "s".to_owned(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            addresses: vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            gateways: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            mtu: 1400,
            routed_mtu: None,
            physical: None,
            incoming: false,
            default_route: true,
            tuning: Tuning::default(),
            vhost: None,
            device: None,
        };
        let (container, ifname) = (container.to_owned(), ifname.to_owned());
        let (namespace, pod) = ("ns".to_owned(), "p".to_owned());
        let [host, _] = host_links(&container, &ifname);
        Attachment {
            host,
            since: 0,
            asked: ifname.clone(),
            container,
            ifname,
            network: "n".to_owned(),
            netns: "/x".into(),
            inode: 1,
            namespace,
            pod,
            uid: None,
            ingress: None,
            egress: None,
            nic,
        }
    }

    #[test]
    fn host_links_fit_the_kernels_limit_and_tell_nics_apart() {
        assert_eq!(host_links("0123456789abcdef", "eth0")[0], "0123456789ab_h");
        assert_eq!(host_links("0123456789abcdef", "net1")[0], "01234567_net1_h");
        let names = ["eth0", "eth1", "net10x", "a-long-name", "a-long-name-too"].map(|ifname| host_links(&"x".repeat(64), ifname));
        let names: Vec<_> = names.into_iter().flatten().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        assert_eq!(names.len(), 8, "two names each, and where the name is long one: {names:?}");
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_what_is_forgotten_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (a, b) = (attachment("a", "eth0"), attachment("b", "net1"));
        store.keep(a.clone()).unwrap();
        store.keep(b.clone()).unwrap();
        store.forget(&b.key()).unwrap();
        store.forget(&b.key()).unwrap();
        fs::write(folder.path().join("broken.json"), "{").unwrap();
        fs::write(folder.path().join("half.new"), "{").unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.of(None), std::slice::from_ref(&a));
        assert_eq!((store.of(Some("b")), store.owner_of("a_h")), (Vec::new(), Some(a.key())));
        assert!(store.uses("s") && !store.uses("t"));
    }

    #[test]
    fn of_two_for_one_port_the_later_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let old = store.admit(attachment("0123456789ab-1", "eth0"), 5).unwrap();
        assert!(!store.is_superseded(&old));
        let new = store.admit(attachment("0123456789ab-2", "eth0"), 5).unwrap();
        assert!(store.is_superseded(&old) && !store.is_superseded(&new));
        assert_eq!((old.host.as_str(), new.host == old.host), ("0123456789ab_h", false), "another's name is not taken");
        assert_eq!(store.admit(attachment("0123456789ab-2", "eth0"), 9).unwrap(), new);
        let back = store.admit(attachment("0123456789ab-1", "eth0"), 9).unwrap();
        assert!(back.host == old.host && store.is_superseded(&new));
    }

    #[test]
    fn a_device_s_port_is_the_link_that_stands_for_it_and_of_two_nics_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let lent = |ifname: &str| {
            let mut attachment = attachment("0123456789ab", ifname);
            let link = Some(LentLink { name: "enp5s0f0v0".to_owned(), mac: Some([2, 0, 0, 0, 0, 9]), mtu: 1500 });
            let (device, physical) = ("0000:05:00.2".parse().unwrap(), Some(("enp5s0f0np0".to_owned(), 0)));
            attachment.nic.device = Some(Lent { device, representor: "eth4".to_owned(), physical, link });
            attachment
        };
        let made = store.admit(lent("net1"), 5).unwrap();
        assert_eq!((made.host.as_str(), made.nic.asks()), ("eth4", true));
        assert_eq!(store.admit(lent("net1"), 6).unwrap(), made);
        assert!(store.admit(lent("net2"), 7).is_err());
        assert_eq!(Store::open(folder.path()).unwrap().of(None), [made]);
        let mut passed = lent("net3").nic;
        passed.device.as_mut().unwrap().link = None;
        assert!(!passed.asks() && !passed.is_link());
        let moved = Nic { incoming: true, ..lent("net4").nic };
        assert!(!moved.asks() && moved.is_link());
    }

    #[test]
    fn routes_are_those_of_the_families_that_the_nic_has() {
        let mut nic = attachment("a", "eth0").nic;
        nic.addresses.truncate(1);
        nic.tuning.routes = vec![api::tuning::ExtraRoute { destination: "10.9.0.0".parse().unwrap(), length: 16, gateway: None }];
        let gateway = "10.0.0.1".parse().ok();
        assert_eq!(nic.routes(), [(IpPrefix::DEFAULT_V4, gateway), ("10.9.0.0/16".parse().unwrap(), gateway)]);
        // One with a MAC alone has none.
        nic.addresses.clear();
        assert_eq!(nic.routes(), []);
    }
}
