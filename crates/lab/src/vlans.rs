//! A second physical network, with VLANs: a switch of Open vSwitch with a trunk to the link `eth1` of each node, two gateways and a host on
//! a VLAN, a host behind both gateways, and a neighbour of the nodes themselves, without a VLAN. The kernel's own bridges and links need not
//! know of VLANs for that.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;
use futures::future::try_join_all;
use linux::{Handle, IpPrefix, LinkChange, Netns, Route, VethEnd, ethtool, sysctl};

use crate::place::PHYSICAL_MTU;
use crate::{Lab, Place};

/// Name of the switch's bridge.
const BRIDGE: &str = "vlans";
/// Length of the prefixes of all its networks.
const LENGTH: u8 = 24;

/// A host's end of that network.
#[derive(Clone, Copy, Debug)]
struct Port {
    place: Place,
    /// The host's link.
    link: &'static str,
    address: Ipv4Addr,
    /// VLAN of an access port; a trunk without.
    tag: Option<u16>,
}

/// Who is on the second physical network.
#[derive(Clone, Copy, Debug)]
pub struct Vlans {
    /// The VLAN of gateway and host.
    pub vlan: u16,
}

impl Vlans {
    /// The gateway of the VLAN, 172.31.0.1/24, which has [`Vlans::BEYOND`], too.
    pub const GATEWAY: Place = Place::Outside(8);
    /// Another gateway of the VLAN, 172.31.0.2/24.
    pub const SECOND: Place = Place::Outside(6);
    /// A host behind both gateways, 198.18.0.9/24, whose way back is by the first.
    pub const FAR: Place = Place::Outside(5);
    /// A host on the VLAN, 172.31.0.9/24.
    pub const HOST: Place = Place::Outside(9);
    /// A host that the nodes reach without VLAN, 172.30.0.1/24.
    pub const NEIGHBOUR: Place = Place::Outside(7);
    /// An address that the gateway leads to.
    pub const BEYOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

    /// Address of a place there: of a node, that of its `eth1`.
    #[must_use]
    pub fn address(place: Place) -> Ipv4Addr {
        match place {
            Self::GATEWAY => Ipv4Addr::new(172, 31, 0, 1),
            Self::SECOND => Ipv4Addr::new(172, 31, 0, 2),
            Self::FAR => Ipv4Addr::new(198, 18, 0, 9),
            Self::HOST => Ipv4Addr::new(172, 31, 0, 9),
            Place::Node(n) => Ipv4Addr::new(172, 30, 0, u8::try_from(10 + n).unwrap_or(u8::MAX)),
            _ => Ipv4Addr::new(172, 30, 0, 1),
        }
    }

    /// Address of a gateway on the network behind.
    const fn behind(gateway: Place) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, if matches!(gateway, Self::SECOND) { 2 } else { 1 })
    }

    fn ports(self, lab: &Lab) -> Vec<Port> {
        let port = |place, tag| Port { place, link: "eth1", address: Self::address(place), tag };
        // The network behind has the VLAN next to it.
        let behind = if self.vlan < 4094 { self.vlan + 1 } else { 1 };
        let on_vlan = [Self::GATEWAY, Self::SECOND, Self::HOST].map(|place| port(place, Some(self.vlan)));
        let routers =
            [Self::GATEWAY, Self::SECOND].map(|place| Port { link: "eth2", address: Self::behind(place), ..port(place, Some(behind)) });
        let nodes = lab.parameters.node_places().map(|node| port(node, None));
        nodes.chain(on_vlan).chain(routers).chain([port(Self::FAR, Some(behind)), port(Self::NEIGHBOUR, None)]).collect()
    }
}

impl Port {
    /// The switch's end.
    fn near(&self) -> String {
        format!("{}-{}", if self.link == "eth1" { "v" } else { "w" }, self.place)
    }
}

impl Lab {
    /// Adds the second physical network to a lab that is up.
    ///
    /// # Errors
    /// When a program fails, or the kernel refuses.
    pub async fn add_vlans(&self, vlans: Vlans) -> anyhow::Result<()> {
        let fabric = self.layout.netns(Place::Fabric)?;
        let switch = Handle::open(&fabric)?;
        let ports = vlans.ports(self);
        let hosts: BTreeSet<Place> = ports.iter().map(|port| port.place).filter(|place| !matches!(place, Place::Node(_))).collect();
        for name in hosts.into_iter().filter_map(|host| self.layout.name().netns(host)) {
            Netns::create(&name)?;
        }
        try_join_all(ports.iter().map(|port| self.plug_in_vlans(&switch, *port))).await?;
        self.blocking(move |lab| lab.start_vlans(&ports)).await?;
        // What is beyond the gateway is reached by the host by it, too.
        let gateway = Handle::open(&self.layout.netns(Vlans::GATEWAY)?)?;
        gateway.add_address(gateway.index("lo").await?, IpPrefix::host(Vlans::BEYOND.into())).await?;
        for place in [Vlans::GATEWAY, Vlans::SECOND] {
            sysctl::write(&self.layout.netns(place)?, "net/ipv4/ip_forward", "1")?;
        }
        for (place, via) in [(Vlans::HOST, Vlans::address(Vlans::GATEWAY)), (Vlans::FAR, Vlans::behind(Vlans::GATEWAY))] {
            let host = Handle::open(&self.layout.netns(place)?)?;
            host.replace_route(&Route::new(IpPrefix::DEFAULT_V4).via(IpAddr::V4(via)).dev(host.index("eth1").await?)).await?;
        }
        Ok(())
    }

    async fn plug_in_vlans(&self, switch: &Handle, port: Port) -> anyhow::Result<()> {
        let netns = self.layout.netns(port.place)?;
        let near = port.near();
        let end = VethEnd { name: &near, mtu: Some(PHYSICAL_MTU), ..VethEnd::default() };
        switch.create_veth(&end, &VethEnd { name: port.link, netns: Some(&netns), ..end }).await?;
        let up = LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() };
        switch.change(switch.index(&near).await?, up).await?;
        // The switch would see checksums that nobody filled in.
        ethtool::disable_tx_checksums(&netns, port.link)?;
        let host = Handle::open(&netns)?;
        host.set_up(host.index("lo").await?).await?;
        let link = host.index(port.link).await?;
        host.set_up(link).await?;
        Ok(host.add_address(link, IpPrefix::new(port.address.into(), LENGTH)?).await?)
    }

    /// Starts the switch; blocks.
    fn start_vlans(&self, ports: &[Port]) -> anyhow::Result<()> {
        let folder = self.layout.place(Place::Fabric);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        self.create_switch_database(Place::Fabric)?;
        let mut words: Vec<String> = vec!["--no-wait".to_owned(), format!("--db={}", self.layout.remote(Place::Fabric, "db"))];
        let mut say = |text: &str| words.extend(text.split_whitespace().map(str::to_owned));
        say(&format!("-- init -- add-br {BRIDGE} -- set bridge {BRIDGE} datapath_type=netdev"));
        for port in ports {
            say(&format!("-- add-port {BRIDGE} {} {}", port.near(), port.tag.map(|tag| format!("tag={tag}")).unwrap_or_default()));
        }
        self.parameters.programs().run(None, "ovs-vsctl", &words)?;
        self.vswitchd(Place::Fabric)?.start(&self.layout)
    }
}
