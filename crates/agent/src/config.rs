//! Every setting of the agent, with its default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ovsdb::Remote;

/// Settings of the agent. Links are made in the network namespace that the agent is started in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Kubernetes node.
    pub node: String,
    /// Where the node's Open vSwitch database listens.
    pub ovs: Remote,
    /// Unix socket on which the CNI plugin is served.
    pub socket: PathBuf,
    /// Folder in which is kept what was made, and what is to be removed.
    pub state: PathBuf,
    /// Where the kubelet keeps volumes of pods.
    pub kubelet: PathBuf,
    /// Where the kernel shows the node's devices.
    pub sysfs: PathBuf,
    /// Where `ovs-vswitchd` and `ovn-controller` have their control sockets.
    pub run: Vec<PathBuf>,
    /// CNI configuration to install, and to install again when it is gone or different; none when `None`.
    pub conflist: Option<PathBuf>,
    /// Whether `portmap` is in it, behind us.
    pub portmap: bool,
    /// The host's `/run`, in which its network services are told to leave our links alone; they are not told when `None`.
    pub host_run: Option<PathBuf>,
    /// How pods of the default VPC leave through this node, as the controller has it; `None`: they do not.
    pub egress: Option<api::Egress>,
    /// MTU of pods in bytes, where their subnet names none.
    pub mtu: u32,
    /// Bridge that ports are added to.
    pub bridge: String,
    /// Port of the bridge to which is copied what pods with the annotation `mirror` send and receive; made while there are some.
    pub mirror: String,
    /// The pods for which an ADD asks for others that have the address already (RFC 5227).
    pub detect_duplicates: Detect,
    /// How long others may take to say that they have an address.
    pub duplicate_patience: Duration,
    /// How long an ADD waits for its address.
    pub address_patience: Duration,
    /// How long an ADD waits for its port to be programmed.
    pub port_patience: Duration,
    /// How long an ADD waits for the gateway of a subnet that is new to the node.
    pub gateway_patience: Duration,
}

/// Pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detect {
    /// None.
    None,
    /// Those on a VLAN, where others are whom the allocator does not know.
    Underlay,
    /// All.
    All,
}

impl std::str::FromStr for Detect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "underlay" => Ok(Self::Underlay),
            "all" => Ok(Self::All),
            _ => Err(format!("{text:?} is none of none, underlay and all")),
        }
    }
}

impl Config {
    /// The defaults: bridge `br-int`, mirror port `mirror0`, MTU 1400, 60 s for the address, 30 s for the port, 3 s for the gateway; duplicates are
    /// looked for on VLANs; state and control sockets beside the sockets that are given; the kubelet's folder `/var/lib/kubelet`, sysfs at `/sys`.
    #[must_use]
    pub fn new(node: String, ovs: Remote, socket: PathBuf) -> Self {
        let beside = |path: &Path| path.parent().map(Path::to_owned).unwrap_or_default();
        let mut run = vec![PathBuf::from("/run/openvswitch"), PathBuf::from("/run/ovn")];
        if let Remote::Unix(path) = &ovs {
            run.insert(0, beside(path));
        }
        Self {
            node,
            ovs,
            state: beside(&socket),
            socket,
            run,
            kubelet: PathBuf::from("/var/lib/kubelet"),
            sysfs: PathBuf::from("/sys"),
            conflist: None,
            portmap: true,
            host_run: None,
            egress: None,
            mtu: 1400,
            bridge: "br-int".to_owned(),
            mirror: "mirror0".to_owned(),
            detect_duplicates: Detect::Underlay,
            duplicate_patience: Duration::from_millis(300),
            address_patience: Duration::from_secs(60),
            port_patience: Duration::from_secs(30),
            gateway_patience: Duration::from_secs(3),
        }
    }
}
