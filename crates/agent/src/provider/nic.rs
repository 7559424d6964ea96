//! A NIC passes into the bridge of a network, and back to the node. Every step can be done again: whoever is killed in between finds
//! in the kernel and in Open vSwitch's database how far it came.

use std::time::Duration;

use api::provider_network;
use api::v1::ProviderNetworkSpec;
use linux::{Event, Events, Link, LinkChange, Subject, ethtool};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use super::addressing::{Addressing, Recorded};
use super::{Done, ProviderError, frames};
use crate::gateway;
use crate::node::Node;
use crate::ovs::Bridge;

/// How long the switch may take to make a link, or to open one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to give a link that is there its address. One that has another address all the same is taken as it is.
const SETTLES: Duration = Duration::from_millis(500);

/// What is recorded before anything is moved. A userspace switch that starts anew makes a new link, which has nothing of what the
/// former one had.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) nic: String,
    /// Whether NIC and bridge have each other's name.
    exchanged: bool,
    /// The run of the host, and the index of the bridge's link in it, that had what follows; 0 before there is one.
    boot: String,
    link: u32,
    #[serde(flatten)]
    moved: Recorded,
}

/// What bridge and NIC are called: `br-<network>` and as ever, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) bridge: String,
    pub(crate) nic: String,
}

impl Names {
    fn of(network: &str, nic: &str, exchanged: bool) -> Self {
        let (bridge, nic) = (provider_network::bridge(network), nic.to_owned());
        if exchanged { Self { bridge: nic, nic: bridge } } else { Self { bridge, nic } }
    }
}

impl Record {
    pub(super) fn names(&self, network: &str) -> Names {
        Names::of(network, &self.nic, self.exchanged)
    }
}

/// What a network has of the node.
pub(super) struct Nic<'a> {
    pub(super) node: &'a Node,
    pub(super) network: &'a str,
}

impl Nic<'_> {
    /// Makes the bridge with the NIC in it, unless it stands. Returns its MTU. What fails is undone.
    pub(super) async fn take(
        &self,
        nic: &str,
        spec: &ProviderNetworkSpec,
        record: Option<Record>,
        done: &mut Done,
    ) -> Result<u32, ProviderError> {
        let usual = provider_network::bridge(self.network);
        let taken = (usual == self.node.config.bridge || usual == gateway::BRIDGE).then(|| format!("{:?} is reserved", self.network));
        if let Some(why) = provider_network::unusable(self.network).or(taken) {
            return Err(ProviderError::Name(why));
        }
        let exchanged = spec.exchange_link_name == Some(true);
        let names = Names::of(self.network, nic, exchanged);
        let record = match record {
            Some(record) if record.nic != nic || record.exchanged != exchanged => {
                self.give_back(&record, done).await?;
                None
            }
            record => record,
        };
        // Up to here nothing of the node was touched.
        let (link, mac) = self.look(nic, &names, record.as_ref()).await?;
        let bridge = Bridge { network: self.network, name: &names.bridge, nic: &names.nic, mac, mtu: link.mtu };
        let record = match record {
            Some(record) => record,
            None => {
                let moved = Addressing::of(&self.node.links, link.index).await?.record();
                let record = Record { nic: nic.to_owned(), exchanged, boot: self.boot()?, link: 0, moved };
                self.write(&record).await?;
                record
            }
        };
        let connected = async {
            if link.name != names.nic {
                self.rename(&link, &names.nic).await?;
            }
            self.connect(bridge, &link, &record, done).await
        };
        match connected.await {
            Ok(()) => Ok(link.mtu),
            Err(error) => {
                if let Err(undo) = self.give_back(&record, done).await {
                    tracing::error!(network = self.network, nic, error = %undo, "what failed cannot be undone; tried again");
                }
                Err(error)
            }
        }
    }

    /// Whether the NIC can be had. If it was before, it may have its new name, which a start of the host takes from it.
    async fn look(&self, nic: &str, names: &Names, before: Option<&Record>) -> Result<(Link, linux::Mac), ProviderError> {
        let (ovs, links) = (&self.node.ovs, &self.node.links);
        let stands = ovs.has_bridge(&names.bridge)?;
        let boot = self.boot()?;
        let renamed = match before {
            Some(before) => links.link(&names.nic).await?.is_some() || (stands && before.boot == boot),
            None => false,
        };
        let called = if renamed { &names.nic } else { nic };
        let link = links.link(called).await?.filter(|link| link.name != "lo").ok_or_else(|| ProviderError::NoLink(called.to_owned()))?;
        let mac = link.mac.ok_or_else(|| ProviderError::NoMac(nic.to_owned()))?;
        match ovs.bridge_of(nic) {
            Some(other) if other != names.bridge => return Err(ProviderError::InBridge(nic.to_owned(), other)),
            Some(_) => {}
            None => {
                if let Some(master) = link.master {
                    let all = links.links().await?;
                    let master = all.into_iter().find(|link| link.index == master).map_or_else(|| master.to_string(), |link| link.name);
                    // The kernel's datapath is that of ports which were there a moment ago.
                    if master != "ovs-system" {
                        return Err(ProviderError::HasMaster(nic.to_owned(), master));
                    }
                }
            }
        }
        let usual = provider_network::bridge(self.network);
        if !stands && before.is_none() && links.link(&usual).await?.is_some() {
            return Err(ProviderError::Taken(usual));
        }
        ovs.mapped_elsewhere(self.network, &names.bridge)?;
        Ok((link, mac))
    }

    /// Makes everything so that the node is reached by the bridge's link. It has the addresses before the NIC is in the bridge,
    /// and the NIC has them until the routes lead over the bridge.
    async fn connect(&self, wanted: Bridge<'_>, nic: &Link, record: &Record, done: &mut Done) -> Result<(), ProviderError> {
        let Node { ovs, links, netns, .. } = self.node;
        let was_in = ovs.bridge_of(wanted.nic).is_some();
        ovs.make_bridge(wanted).await?;
        let bridge = self.link(wanted.name).await?;
        for link in [&bridge, nic].into_iter().filter(|link| !link.up) {
            links.set_up(link.index).await?;
        }
        let on_nic = Addressing::of(links, nic.index).await?;
        let lost = self.lost(record, bridge.index, &on_nic)?;
        if on_nic.has_ipv6() || lost.has_ipv6() {
            // A switch that sets flags of its link, which it read before, may put it down for a moment.
            linux::sysctl::write(netns, &format!("net/ipv6/conf/{}/keep_addr_on_down", wanted.name), "1")?;
        }
        lost.give_addresses(links, bridge.index).await?;
        on_nic.give_addresses(links, bridge.index).await?;
        let userspace = ovs.is_userspace();
        // A NIC of the virtual kind leaves checksums to the kernel, which the switch does not see.
        if userspace && ethtool::driver(netns, wanted.nic).is_ok_and(|driver| driver == "veth") && ethtool::tx_checksums(netns, wanted.nic)?
        {
            ethtool::disable_tx_checksums(netns, wanted.nic)?;
        }
        ovs.add_nic(wanted).await?;
        self.opened(wanted.nic).await?;
        lost.lead_over(links, bridge.index).await?;
        on_nic.lead_over(links, bridge.index).await?;
        Addressing::take_from(netns, links, nic.index, bridge.index).await?;
        // Not before: until here the node is reached by these copies.
        if userspace && done.dropped.get(self.network) != Some(&nic.index) {
            frames::drop_copies(netns, self.network, wanted.nic)?;
            done.dropped.insert(self.network.to_owned(), nic.index);
        }

        let moved = Addressing::of(links, bridge.index).await?.record();
        let now = Record { boot: self.boot()?, link: bridge.index, moved, ..record.clone() };
        if now != *record {
            self.write(&now).await?;
        }
        if !was_in {
            tracing::info!(network = self.network, nic = wanted.nic, bridge = wanted.name, "NIC in its bridge");
        }
        Ok(())
    }

    /// What the bridge's link does not have, since it is not the one that had it. After a start of the host what is configured of
    /// the NIC is right, if anything is.
    fn lost(&self, record: &Record, link: u32, on_nic: &Addressing) -> Result<Addressing, ProviderError> {
        let same_boot = record.boot == self.boot()?;
        if (same_boot && record.link == link) || (!same_boot && !on_nic.is_empty()) {
            return Ok(Addressing::default());
        }
        Ok(record.moved.read())
    }

    /// Gives the NIC back to the node, with what it is reached by, and takes the bridge away.
    pub(super) async fn give_back(&self, record: &Record, done: &mut Done) -> Result<(), ProviderError> {
        let Node { ovs, links, netns, .. } = self.node;
        let names = record.names(self.network);
        let bridge = if ovs.has_bridge(&names.bridge)? { links.link(&names.bridge).await? } else { None };
        let called = match links.link(&names.nic).await? {
            None if bridge.is_none() => &record.nic,
            _ => &names.nic,
        };
        let on_bridge = match &bridge {
            Some(bridge) => Addressing::of(links, bridge.index).await?,
            None => Addressing::default(),
        };
        done.dropped.remove(self.network);
        if let Some(nic) = links.link(called).await? {
            let on_nic = Addressing::of(links, nic.index).await?;
            let back = self.lost(record, bridge.as_ref().map_or(0, |link| link.index).max(1), &on_nic)?.and(on_bridge);
            if !nic.up {
                links.set_up(nic.index).await?;
            }
            if record.exchanged {
                // The bridge has the name that the NIC is to have: it goes first, and what it had is nowhere but in the record.
                self.write(&Record { boot: self.boot()?, link: 0, moved: back.record(), ..record.clone() }).await?;
                ovs.remove_bridge(self.network, &names.bridge).await?;
                frames::receive(netns, self.network)?;
                if nic.name != record.nic {
                    self.gone(&names.bridge).await?;
                    self.rename(&nic, &record.nic).await?;
                }
                back.give_addresses(links, nic.index).await?;
            } else {
                back.give_addresses(links, nic.index).await?;
                frames::receive(netns, self.network)?;
            }
            back.lead_over(links, nic.index).await?;
            if let Some(bridge) = bridge.filter(|_| !record.exchanged && ovs.is_userspace()) {
                // The kernel's stack receives by the NIC again: nothing need wait for the switch to take its link away.
                Addressing::take_from(netns, links, bridge.index, nic.index).await?;
            }
        } else {
            frames::receive(netns, self.network)?;
        }
        ovs.remove_bridge(self.network, &names.bridge).await?;
        ovs.record(self.network, None).await?;
        tracing::info!(network = self.network, nic = record.nic, "NIC given back to the node");
        Ok(())
    }

    /// Gives a link another name, for which it has to be down for a moment, and loses its routes.
    async fn rename(&self, link: &Link, name: &str) -> Result<(), ProviderError> {
        let links = &self.node.links;
        links.change(link.index, LinkChange { up: Some(false), ..LinkChange::default() }).await?;
        links.change(link.index, LinkChange { name: Some(name), ..LinkChange::default() }).await?;
        Ok(links.set_up(link.index).await?)
    }

    /// Waits until a link of the switch is gone.
    async fn gone(&self, name: &str) -> Result<(), ProviderError> {
        let (handle, mut events) = Events::open(&self.node.netns, Subject::Links)?;
        let gone = async {
            while handle.link(name).await?.is_some() {
                while !matches!(events.next().await, None | Some(Event::LinkGone(_))) {}
            }
            Ok(())
        };
        timeout(PATIENCE, gone).await.unwrap_or_else(|_| Err(ProviderError::NotGone(name.to_owned(), PATIENCE)))
    }

    async fn write(&self, record: &Record) -> Result<(), ProviderError> {
        Ok(self.node.ovs.record(self.network, Some(&serde_json::to_string(record)?)).await?)
    }

    /// Which run of the host this is (proc_sys_kernel(5), `random/boot_id`).
    fn boot(&self) -> linux::Result<String> {
        linux::sysctl::read(&self.node.netns, "kernel/random/boot_id")
    }

    /// The bridge's link, once the switch has made it and given it its address: a userspace switch puts it down for that (tap devices,
    /// `netdev_linux_set_etheraddr`), and the kernel would take its routes.
    async fn link(&self, name: &str) -> Result<Link, ProviderError> {
        let (handle, mut events) = Events::open(&self.node.netns, Subject::Links)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let made = handle.link(name).await?;
            let until = match &made {
                Some(link) if self.node.ovs.is_addressed(name, link.mac) != Some(false) => return Ok(link.clone()),
                Some(_) => deadline.min(Instant::now() + SETTLES),
                None => deadline,
            };
            let changed = async { while !matches!(events.next().await, None | Some(Event::Link(_))) {} };
            if timeout_at(until, changed).await.is_err() {
                return made.ok_or_else(|| ProviderError::NotOpened(name.to_owned(), PATIENCE));
            }
        }
    }

    /// Waits until the switch has opened the NIC.
    async fn opened(&self, nic: &str) -> Result<(), ProviderError> {
        let ovs = &self.node.ovs;
        let mut switch = ovs.changes();
        let opened = async {
            while !ovs.opened(nic)? {
                if switch.changed().await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        timeout(PATIENCE, opened).await.unwrap_or_else(|_| Err(ProviderError::NotOpened(nic.to_owned(), PATIENCE)))
    }
}
