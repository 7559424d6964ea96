//! One NIC: its veth, its port, its addresses, routes and rates. Each step looks at what is there and changes what differs, so
//! that done again it does nothing.

use std::net::IpAddr;
use std::time::Duration;

use api::tuning::{Impairment, Rate};
use linux::{
    Answer, Asker, Event, Events, Handle, IpPrefix, Link, LinkChange, Netem, Netns, Qdiscs, Question, Route, Subject, Tbf, VethEnd,
};
use tokio::time::{Instant, timeout_at};

use crate::attachment::Attachment;
use crate::node::Node;
use crate::ovs::{self, OvsError, PodPort};

/// Why a NIC is not as wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The kernel's refusal.
    #[error(transparent)]
    Linux(#[from] linux::Error),
    /// The switch's.
    #[error(transparent)]
    Ovs(#[from] OvsError),
    /// The pod's network namespace is gone, and the NIC with it.
    #[error("network namespace {0} is gone")]
    Gone(String),
    /// A name that is somebody else's.
    #[error("{0}")]
    Taken(String),
    /// What is wrong with a NIC that is a socket.
    #[error("{0}")]
    Socket(String),
    /// What is wrong with one that is a device.
    #[error("{0}")]
    Device(String),
}

/// Least that may leave at once, in bytes: a whole segment of the largest kind.
const LEAST_BURST: u64 = 65_536;
/// How long packets may wait for a rate limit.
const LONGEST_WAIT_MS: u64 = 100;
/// First pause before a question to a neighbour is asked again; longer each time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

impl Node {
    /// The pod's namespace, if it is still the one that the NIC was made in.
    pub(crate) fn namespace_of(attachment: &Attachment) -> Result<Netns, WireError> {
        match Netns::open(&attachment.netns) {
            Ok(netns) if netns.inode() == attachment.inode => Ok(netns),
            Err(error) if !error.is_missing() => Err(error.into()),
            _ => Err(WireError::Gone(attachment.netns.display().to_string())),
        }
    }

    /// Makes a NIC what it is to be. Returns what could not be done for want of the kernel's support.
    pub(crate) async fn wire(&self, attachment: &Attachment) -> Result<Vec<String>, WireError> {
        self.wire_with(attachment, &attachment.nic.addresses).await
    }

    /// The same, with no more than these addresses by now.
    pub(crate) async fn wire_with(&self, attachment: &Attachment, addresses: &[IpPrefix]) -> Result<Vec<String>, WireError> {
        if let Some(vhost) = &attachment.nic.vhost {
            return self.plug(attachment, vhost).await;
        }
        if let Some(lent) = &attachment.nic.device {
            return self.lend(attachment, lent, addresses).await;
        }
        let pod_ns = Self::namespace_of(attachment)?;
        let inside = Handle::open(&pod_ns)?;
        let (near, far, is_new) = self.veth(attachment, &pod_ns, &inside).await?;
        // Up before the switch sees it: to make a link promiscuous it reads all flags and writes them back, and a link that came
        // up meanwhile would be down again.
        self.raise(attachment, Some(&pod_ns), &near).await?;
        // The pod's end is set up while the switch opens the port and ovn-controller installs its flows.
        let port = self.port(attachment);
        let (added, configured) = tokio::join!(self.ovs.add(&port), self.configure(attachment, addresses, &inside, &far));
        added?;
        configured?;
        if is_new && !attachment.nic.tuning.limits() {
            return Ok(Vec::new());
        }
        self.limit(attachment, &inside, near.index, far.index).await
    }

    /// Puts the rate towards the pod back where `ovs-vswitchd` took it away: when it opens a port it removes whatever queueing
    /// discipline it finds and does not know.
    pub(crate) async fn limit_again(&self, attachment: &Attachment) -> Result<(), WireError> {
        let Some(rate) = attachment.nic.tuning.ingress.filter(|_| attachment.nic.limits().is_none()) else { return Ok(()) };
        let Some(near) = self.links.link(&attachment.host).await? else { return Ok(()) };
        match self.links.set_qdiscs(near.index, Qdiscs { tbf: Some(tbf(rate)), netem: None }).await {
            // It was told when the NIC was made.
            Err(error) if error.is_unsupported() => Ok(()),
            done => Ok(done?),
        }
    }

    /// The veth pair, host's end first, and whether it was made now.
    async fn veth(&self, attachment: &Attachment, pod_ns: &Netns, inside: &Handle) -> Result<(Link, Link, bool), WireError> {
        let (host, nic, ifname) = (attachment.host.as_str(), &attachment.nic, attachment.ifname.as_str());
        let (mut near, mut far) = (self.links.link(host).await?, inside.link(ifname).await?);
        let is_pair = near
            .as_ref()
            .zip(far.as_ref())
            .is_some_and(|(near, far)| near.peer == Some(far.index) && far.peer == Some(near.index) && far.kind == "veth");
        if !is_pair {
            if far.is_some() {
                return Err(WireError::Taken(format!("link {ifname} is in {} already, and not ours", pod_ns.label())));
            }
            if let Some(stale) = near {
                self.links.delete_link(stale.index).await?;
            }
            let near_end = VethEnd { name: host, mtu: Some(nic.mtu), ..VethEnd::default() };
            let far_end = VethEnd { name: ifname, netns: Some(pod_ns), mac: Some(nic.mac.octets()), mtu: Some(nic.mtu) };
            self.links.create_veth(&near_end, &far_end).await?;
            (near, far) = (self.links.link(host).await?, inside.link(ifname).await?);
        }
        let vanished = || WireError::Taken(format!("link {host} vanished while it was made"));
        let (near, far) = (near.ok_or_else(vanished)?, far.ok_or_else(vanished)?);
        if far.mac != Some(nic.mac.octets()) || far.mtu != nic.mtu {
            let change = LinkChange { mac: Some(nic.mac.octets()), mtu: Some(nic.mtu), ..LinkChange::default() };
            inside.change(far.index, change).await?;
        }
        Ok((near, far, !is_pair))
    }

    /// Brings up the host's end; the other one, if it is a link, is in the pod's namespace.
    pub(crate) async fn raise(&self, attachment: &Attachment, pod_ns: Option<&Netns>, near: &Link) -> Result<(), WireError> {
        let (host, nic, ifname) = (&near.name, &attachment.nic, attachment.ifname.as_str());
        if near.mtu != nic.mtu {
            self.links.change(near.index, LinkChange { mtu: Some(nic.mtu), ..LinkChange::default() }).await?;
        }
        if !near.up {
            // With IPv6 a link that comes up has an address of its own, and brings a multicast route; any change of a route makes
            // `ovs-vswitchd` read all of them anew: packets that userspace tunnels carry in that moment are lost.
            match linux::sysctl::write(&self.netns, &format!("net/ipv6/conf/{host}/disable_ipv6"), "1") {
                Err(error) if !error.is_missing() => return Err(error.into()),
                _ => {}
            }
            if self.ovs.is_userspace() {
                linux::ethtool::disable_tx_checksums(&self.netns, host)?;
                pod_ns.map_or(Ok(()), |pod_ns| linux::ethtool::disable_tx_checksums(pod_ns, ifname))?;
            }
            let change = LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() };
            self.links.change(near.index, change).await?;
        }
        Ok(())
    }

    /// Addresses and routes of the pod's end.
    pub(crate) async fn configure(
        &self,
        attachment: &Attachment,
        addresses: &[IpPrefix],
        inside: &Handle,
        far: &Link,
    ) -> Result<(), WireError> {
        let (nic, index) = (&attachment.nic, far.index);
        if !far.up && !nic.addresses.is_empty() && nic.addresses.iter().all(|address| address.address().is_ipv4()) {
            // One without addresses may get any, also by IPv6. Otherwise each pod speaks of its link-local address to a group of all, in
            // packets that the switch copies to every port, and looks at anew with each change of its flows.
            inside.change(index, LinkChange { no_link_local: true, ..LinkChange::default() }).await?;
        }
        for address in addresses {
            inside.add_address(index, *address).await?;
        }
        if !far.up && !nic.default_route {
            // Whatever routers say there: the pod leaves by another NIC.
            match linux::sysctl::write(
                &Self::namespace_of(attachment)?,
                &format!("net/ipv6/conf/{}/accept_ra_defrtr", attachment.ifname),
                "0",
            ) {
                Err(error) if !error.is_missing() => return Err(error.into()),
                _ => {}
            }
        }
        inside.set_up(index).await?;
        if addresses.is_empty() && !nic.addresses.is_empty() {
            return Ok(());
        }
        for (destination, gateway) in nic.routes() {
            let route = Route { mtu: gateway.and(nic.routed_mtu), ..Route::new(destination).dev(index) };
            inside.replace_route(&gateway.map_or(route, |gateway| route.via(gateway))).await?;
        }
        Ok(())
    }

    /// The rates of both ends. Returns what the kernel cannot do.
    async fn limit(&self, attachment: &Attachment, inside: &Handle, near: u32, far: u32) -> Result<Vec<String>, WireError> {
        let tuning = &attachment.nic.tuning;
        let mut lacking = Vec::new();
        let ingress = Qdiscs { tbf: tuning.ingress.map(tbf), netem: None };
        let egress = Qdiscs { tbf: tuning.egress.map(tbf), netem: tuning.impairment.map(netem) };
        for (handle, index, wanted) in [(&self.links, near, ingress), (inside, far, egress)] {
            match handle.set_qdiscs(index, wanted).await {
                Err(error) if error.is_unsupported() => {
                    let kind = if wanted.netem.is_some() { "netem" } else { "tbf" };
                    lacking.push(format!("the kernel of node {} has no queueing discipline {kind}: {error}", self.config.node));
                    let without = Qdiscs { netem: None, ..wanted };
                    if wanted.netem.is_some() {
                        handle.set_qdiscs(index, without).await?;
                    }
                }
                done => done?,
            }
        }
        Ok(lacking)
    }

    /// Takes away what was made of a NIC. What is not there any more is as good as removed.
    pub(crate) async fn unwire(&self, host: &str) -> Result<(), WireError> {
        self.ovs.remove(std::slice::from_ref(&host.to_owned())).await?;
        if let Some(link) = self.links.link(host).await? {
            self.links.delete_link(link.index).await?;
        }
        self.unplug(host)
    }

    /// Waits until the gateways of a NIC answer: then what the node's switch needs for the subnet is complete, which
    /// `ovn-installed` does not say of a subnet that is new to the node. A subnet that proved itself is not asked again while it
    /// has NICs here.
    pub(crate) async fn prove(&self, attachment: &Attachment) -> Result<(), WireError> {
        let nic = &attachment.nic;
        if self.proven.contains(&nic.subnet) || nic.gateways.is_empty() || !nic.asks() {
            return Ok(());
        }
        let pod_ns = Self::namespace_of(attachment)?;
        let (inside, mut events) = Events::open(&pod_ns, Subject::Neighbours)?;
        let index = inside.index(&attachment.ifname).await?;
        let deadline = Instant::now() + self.config.gateway_patience;
        for gateway in &nic.gateways {
            if !nic.addresses.iter().any(|address| address.address().is_ipv4() == gateway.is_ipv4()) {
                continue;
            }
            if !resolve(&inside, &mut events, index, *gateway, deadline).await? {
                tracing::warn!(subnet = nic.subnet, %gateway, patience = ?self.config.gateway_patience, "the gateway does not answer");
                return Ok(());
            }
        }
        self.proven.insert(&nic.subnet);
        Ok(())
    }

    /// The port of a NIC.
    pub(crate) fn port(&self, attachment: &Attachment) -> PodPort {
        let addresses: Vec<IpAddr> = attachment.nic.addresses.iter().map(IpPrefix::address).collect();
        let device = attachment.nic.device.as_ref().map(|lent| (ovs::DEVICE, lent.device.to_string()));
        PodPort {
            link: attachment.host.clone(),
            vhost: self.vhost_port(attachment),
            limits: attachment.nic.limits(),
            iface_id: attachment.nic.port.clone(),
            external_ids: [
                ("pod_name", attachment.pod.clone()),
                ("pod_namespace", attachment.namespace.clone()),
                ("pod_netns", attachment.netns.display().to_string()),
                ("ip", api::annotations::join(&addresses)),
                ("container_id", attachment.container.clone()),
            ]
            .into_iter()
            .chain(device)
            .collect(),
        }
    }
}

/// Asks for an address until somebody has it. Returns whether somebody does.
async fn resolve(handle: &Handle, events: &mut Events, index: u32, address: IpAddr, deadline: Instant) -> linux::Result<bool> {
    let mut pause = FIRST_PAUSE;
    loop {
        handle.solicit(index, address).await?;
        let answered = async {
            loop {
                match events.next().await {
                    Some(Event::Neighbour(on, of, _)) if on == index && of == address => return true,
                    Some(_) => {}
                    None => return false,
                }
            }
        };
        let until = (Instant::now() + pause).min(deadline);
        if let Ok(answered) = timeout_at(until, answered).await {
            return Ok(answered);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        // A question that is open is not asked again before the kernel's own second is over.
        handle.forget_neighbour(index, address).await?;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// How long what does not answer is taken to get no question.
const QUIET: Duration = Duration::from_millis(200);

/// Whether the switch holds back, by `deadline`, what a NIC says that a machine is to move to: `ovn-controller` tells that its flows are installed a moment before
/// those. The overlay's gateways are asked, which answer while it does not; a physical network is told nothing of the MAC, which is elsewhere yet.
pub(crate) async fn held_back(pod_ns: &Netns, attachment: &Attachment, deadline: Instant) -> linux::Result<bool> {
    let index = Handle::open(pod_ns)?.index(&attachment.ifname).await?;
    let nic = &attachment.nic;
    let gateways: Vec<_> = nic.gateways.iter().filter(|_| nic.physical.is_none()).collect();
    let asker = Asker::open(pod_ns, index, gateways.iter().any(|gateway| gateway.is_ipv6()))?;
    while Instant::now() < deadline {
        for gateway in &gateways {
            asker.ask(&Question { vlan: 0, from: nic.mac.octets(), address: **gateway })?;
        }
        let heard = answer(&asker, Instant::now() + QUIET, |answer| gateways.contains(&&answer.address)).await?;
        let Some(heard) = heard else { return Ok(true) };
        tracing::debug!(link = attachment.host, gateway = %heard.address, "answers a NIC that is to be held back; asked again");
    }
    Ok(false)
}

/// How often others are asked whether they have an address: one question may be lost.
const PROBES: u32 = 3;

/// Who else on a NIC's link has one of its addresses (RFC 5227; RFC 4862, section 5.4), asked before they are set. `gateways` are asked before,
/// for no longer than `settling`: what they answer has passed all that the node's switch does for the link.
pub(crate) async fn duplicate(
    pod_ns: &Netns,
    attachment: &Attachment,
    gateways: &[IpAddr],
    settling: Duration,
    wait: Duration,
) -> linux::Result<Option<(IpAddr, String)>> {
    let inside = Handle::open(pod_ns)?;
    let index = inside.index(&attachment.ifname).await?;
    let (nic, mac) = (&attachment.nic, attachment.nic.mac.octets());
    let own = inside.addresses(Some(index)).await?;
    // What the pod has it was given before.
    let new = nic.addresses.iter().filter(|address| !own.contains(address)).map(IpPrefix::address);
    let asked: Vec<IpAddr> = new.collect();
    if asked.is_empty() {
        return Ok(None);
    }
    let asker = Asker::open(pod_ns, index, asked.iter().any(IpAddr::is_ipv6))?;
    let ask = |address: IpAddr| asker.ask(&Question { vlan: 0, from: mac, address });
    for gateway in gateways.iter().filter(|gateway| !asked.contains(gateway)) {
        if !asked.iter().any(|address| address.is_ipv4() == gateway.is_ipv4()) {
            continue;
        }
        let (deadline, mut pause) = (Instant::now() + settling, FIRST_PAUSE);
        while Instant::now() < deadline {
            ask(*gateway)?;
            let until = (Instant::now() + pause).min(deadline);
            if answer(&asker, until, |answer| answer.address == *gateway).await?.is_some() {
                break;
            }
            pause *= 2;
        }
    }
    for _ in 0..PROBES {
        for address in &asked {
            ask(*address)?;
        }
        // A virtual machine that moves has its address, with its MAC, where it comes from, too.
        let is_another = |answer: &Answer| asked.contains(&answer.address) && answer.by != mac;
        if let Some(found) = answer(&asker, Instant::now() + wait / PROBES, is_another).await? {
            return Ok(Some((found.address, linux::display_mac(found.by))));
        }
    }
    Ok(None)
}

/// The first answer of this kind that comes in time.
async fn answer(asker: &Asker, until: Instant, is: impl Fn(&Answer) -> bool) -> linux::Result<Option<Answer>> {
    while let Ok(answer) = timeout_at(until, asker.answer()).await {
        let answer = answer?;
        if is(&answer) {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

fn tbf(rate: Rate) -> Tbf {
    let bytes = rate.rate / 8;
    // Without a wish: what passes in 10 ms.
    let burst = rate.burst.map_or(bytes / 100, |bits| bits / 8).max(LEAST_BURST);
    let limit = burst + bytes * LONGEST_WAIT_MS / 1000;
    let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    Tbf { rate: bytes, burst: narrow(burst), limit: narrow(limit) }
}

fn netem(impairment: Impairment) -> Netem {
    let Impairment { latency, jitter, loss, limit } = impairment;
    let micros = |milliseconds: f64| (milliseconds * 1000.0).round() as u32;
    let loss = (loss / 100.0 * f64::from(u32::MAX)).round() as u32;
    // As tc-netem(8) has it.
    Netem { latency: micros(latency), jitter: micros(jitter), loss, limit: limit.unwrap_or(1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_segment_and_what_passes_in_ten_milliseconds() {
        assert_eq!(tbf(Rate { rate: 8_000_000, burst: None }), Tbf { rate: 1_000_000, burst: 65_536, limit: 165_536 });
        assert_eq!(tbf(Rate { rate: 8_000_000_000, burst: None }).burst, 10_000_000);
        assert_eq!(tbf(Rate { rate: 8_000_000, burst: Some(8_000_000) }).burst, 1_000_000);
    }
}
