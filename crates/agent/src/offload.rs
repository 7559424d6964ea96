//! NICs that are devices: a virtual function or subfunction of the node's NIC, whose switch carries its packets without the node's CPU. The pod has the
//! function's link, and the switch the link that stands for it, its representor, which keeps its name.
//!
//! The link goes back to the node when the pod has no use for it any more. Its alias says which one it is, wherever it is and whatever its name: the
//! kernel itself gives back the links of a namespace that ends.

use std::time::Duration;

use api::offload::{Device, DeviceId};
use linux::{Events, Function, Handle, IpPrefix, Link, LinkChange, Netns, Subject, function};
use tokio::time::timeout;

use crate::attachment::{Attachment, Lent, LentLink};
use crate::cluster::Wanted;
use crate::cni::{CniError, Code, Request};
use crate::node::Node;
use crate::wire::WireError;

/// How long the kernel may take to give a link back whose namespace has ended.
const RETURN: Duration = Duration::from_secs(2);

fn wrong(message: String) -> WireError {
    WireError::Device(message)
}

/// The device that a NIC is to be, if it is one: the one that the request names, or else its definition.
pub(crate) fn asked<'a>(request: &'a Request, wanted: &'a Wanted) -> Result<Option<&'a DeviceId>, CniError> {
    let named = request.device.as_ref().filter(|_| wanted.ifname == request.ifname);
    let nic = || format!("NIC {} of pod {}/{}", wanted.ifname, request.namespace, request.pod);
    let invalid = |message: String| CniError::new(Code::InvalidConfig, message);
    match (named, &wanted.device) {
        (Some(device), _) if wanted.nic.vhost.is_some() => {
            Err(invalid(format!("deviceID: {} is a socket of vhost-user, and cannot be device {device}, too", nic())))
        }
        (Some(device), _) | (None, Some(Device::Named(device))) => Ok(Some(device)),
        (None, Some(Device::Of(resource))) => Err(invalid(format!(
            "deviceID: is missing: {} is to be a device of {resource}, and whoever calls for it (such as Multus) names none; do the pod's \
             limits have {resource}?",
            nic()
        ))),
        (None, None) => Ok(None),
    }
}

impl Lent {
    /// Alias of its link while a pod has it: the device, and the link's name on the node.
    fn alias(&self, was: &LentLink) -> String {
        format!("{} {}", self.device, was.name)
    }
}

/// The link with an alias.
fn aliased(links: Vec<Link>, alias: &str) -> Option<Link> {
    links.into_iter().find(|link| link.alias == alias)
}

impl Node {
    /// What is to be known of a device before a pod has it.
    pub(crate) async fn borrow_device(&self, attachment: &Attachment, device: &DeviceId) -> Result<Lent, WireError> {
        let Attachment { ifname, namespace, pod, .. } = attachment;
        let nic = format!("NIC {ifname} of pod {namespace}/{pod} is to be device {device} of node {}", self.config.node);
        let holds = |other: &Attachment| other.nic.device.as_ref().is_some_and(|lent| lent.device == *device);
        if let Some(other) = self.store.of(None).into_iter().find(|other| other.key() != attachment.key() && holds(other)) {
            let holder = format!("NIC {} of pod {}/{}", other.ifname, other.namespace, other.pod);
            return Err(wrong(format!("{nic}, which is {holder} still (container {})", other.container)));
        }
        let found = function::find(&self.config.sysfs, device.as_str()).map_err(|error| wrong(format!("{nic}: {error}")))?;
        let Function { representor, physical, .. } = found.clone();
        let kept = self.store.get(&attachment.key()).and_then(|kept| kept.nic.device);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.device != *device) {
            return Err(wrong(format!("{nic}, and is device {} already", kept.device)));
        }
        let link = match (kept.and_then(|kept| kept.link), found.is_passed_through()) {
            (Some(link), false) => Some(link),
            (_, true) => None,
            (None, false) => Some(self.link_of(device, &found).await.map_err(|why| wrong(format!("{nic}: {why}")))?),
        };
        Ok(Lent { device: device.clone(), representor, physical, link })
    }

    /// A function's link as it is on the node.
    async fn link_of(&self, device: &DeviceId, found: &Function) -> Result<LentLink, String> {
        let driver = || match &found.driver {
            Some(driver) => format!("its driver is {driver}"),
            None => "it has no driver".to_owned(),
        };
        let name =
            found.link.as_ref().ok_or_else(|| format!("it has no link on the node: another network namespace has it, or {}", driver()))?;
        let shown = self.links.link(name).await.map_err(|error| error.to_string())?;
        let shown = shown.ok_or_else(|| format!("its link {name} is not in the agent's network namespace"))?;
        // One that came back by itself may have the name that it had in a pod.
        let before = shown.alias.strip_prefix(device.as_str()).and_then(|rest| rest.strip_prefix(' '));
        let name = before.unwrap_or(name).to_owned();
        Ok(LentLink { name, mac: shown.mac, mtu: shown.mtu })
    }

    /// Makes a NIC that is a device what it is to be, with these addresses. Returns what it cannot have.
    pub(crate) async fn lend(&self, attachment: &Attachment, lent: &Lent, addresses: &[IpPrefix]) -> Result<Vec<String>, WireError> {
        let pod_ns = Self::namespace_of(attachment)?;
        let (host, port, node) = (&lent.representor, self.port(attachment), &self.config.node);
        self.ovs.make_room(&port).await?;
        let missing = || wrong(format!("link {host}, which stands for device {} at its switch, is not on node {node}", lent.device));
        let mut near = self.links.link(host).await?.ok_or_else(missing)?;
        if near.up && self.ovs.check(&port).is_err() {
            // It was there before, and is to come up as ours do.
            self.links.change(near.index, LinkChange { up: Some(false), ..LinkChange::default() }).await?;
            near.up = false;
        }
        if let Some(was) = &lent.link {
            let inside = Handle::open(&pod_ns)?;
            let far = self.move_in(attachment, lent, was, &pod_ns, &inside).await?;
            self.raise(attachment, Some(&pod_ns), &near).await?;
            let (added, configured) = tokio::join!(self.ovs.add(&port), self.configure(attachment, addresses, &inside, &far));
            added?;
            configured?;
        } else {
            if let Some((physical, number)) = &lent.physical {
                let physical = self.links.index(physical).await?;
                self.links.set_function_mac(physical, *number, attachment.nic.mac.octets()).await?;
            }
            self.raise(attachment, None, &near).await?;
            self.ovs.add(&port).await?;
        }
        let nic = format!("NIC {} is device {}", attachment.ifname, lent.device);
        let mut lacking = Vec::new();
        if let Some(why) = self.ovs.lacks_offload() {
            lacking.push(format!("{nic}, and Open vSwitch on node {node} leaves nothing to it, so that packets pass the CPU: {why}"));
        }
        let tuning = &attachment.nic.tuning;
        if tuning.ingress.is_some() {
            lacking.push(format!("{nic}, and what reaches the pod has no limit"));
        }
        if tuning.impairment.is_some() {
            lacking.push(format!("{nic}, and its line is not impaired"));
        }
        if lent.link.is_none() && lent.physical.is_none() {
            lacking.push(format!("{nic}, a subfunction without a link: its MAC is to be set with `devlink port function set`"));
        }
        Ok(lacking)
    }

    /// The device's link in the pod, with its name, MAC and MTU.
    async fn move_in(
        &self,
        attachment: &Attachment,
        lent: &Lent,
        was: &LentLink,
        pod_ns: &Netns,
        inside: &Handle,
    ) -> Result<Link, WireError> {
        let (ifname, nic, alias) = (attachment.ifname.as_str(), &attachment.nic, lent.alias(was));
        let far = if let Some(far) = aliased(inside.links().await?, &alias) {
            far
        } else {
            if inside.link(ifname).await?.is_some() {
                return Err(WireError::Taken(format!("link {ifname} is in {} already, and not ours", pod_ns.label())));
            }
            let mut links = self.links.links().await?;
            let at = links.iter().position(|link| link.alias == alias).or_else(|| links.iter().position(|link| link.name == was.name));
            let missing = || wrong(format!("link {} of device {} is not on node {}", was.name, lent.device, self.config.node));
            let own = links.swap_remove(at.ok_or_else(missing)?);
            let change = LinkChange { up: Some(false), alias: Some(&alias), ..LinkChange::default() };
            self.links.change(own.index, change).await?;
            let change = LinkChange { name: Some(ifname), netns: Some(pod_ns), ..LinkChange::default() };
            self.links.change(own.index, change).await?;
            let vanished = || wrong(format!("link {} of device {} vanished while it was moved", was.name, lent.device));
            aliased(inside.links().await?, &alias).ok_or_else(vanished)?
        };
        if far.mac != Some(nic.mac.octets()) || far.mtu != nic.mtu {
            let change = LinkChange { mac: Some(nic.mac.octets()), mtu: Some(nic.mtu), ..LinkChange::default() };
            inside.change(far.index, change).await?;
        }
        Ok(far)
    }

    /// Takes away what was made of a NIC that is a device, and gives the node its link back as it was. What is not there any more is as good
    /// as given back.
    pub(crate) async fn give_back(&self, attachment: &Attachment, lent: &Lent) -> Result<(), WireError> {
        let host = &lent.representor;
        if self.ovs.container_of(host).is_some_and(|container| container == attachment.container) {
            self.ovs.remove(std::slice::from_ref(host)).await?;
            if let Some(near) = self.links.link(host).await?.filter(|near| near.up) {
                self.links.change(near.index, LinkChange { up: Some(false), ..LinkChange::default() }).await?;
            }
        }
        let Some(was) = &lent.link else { return Ok(()) };
        let alias = lent.alias(was);
        let is_gone = match Self::namespace_of(attachment) {
            Ok(pod_ns) => {
                let inside = Handle::open(&pod_ns)?;
                if let Some(far) = aliased(inside.links().await?, &alias) {
                    inside.change(far.index, LinkChange { up: Some(false), ..LinkChange::default() }).await?;
                    let change = LinkChange { name: Some(&was.name), netns: Some(&self.netns), ..LinkChange::default() };
                    inside.change(far.index, change).await?;
                }
                false
            }
            Err(WireError::Gone(_)) => true,
            Err(error) => return Err(error),
        };
        let Some(link) = self.returned(&alias, is_gone).await? else {
            tracing::warn!(device = %lent.device, link = was.name, "the link of a device is neither in the pod nor on the node");
            return Ok(());
        };
        if link.name != was.name {
            let change = LinkChange { up: Some(false), ..LinkChange::default() };
            self.links.change(link.index, change).await?;
            self.links.change(link.index, LinkChange { name: Some(&was.name), ..LinkChange::default() }).await?;
        }
        let as_it_was = LinkChange { mac: was.mac, mtu: Some(was.mtu), ..LinkChange::default() };
        if let Err(error) = self.links.change(link.index, as_it_was).await {
            tracing::warn!(device = %lent.device, link = was.name, %error, "MAC and MTU of a link are not what they were");
        }
        Ok(self.links.change(link.index, LinkChange { alias: Some(""), ..LinkChange::default() }).await?)
    }

    /// The link with an alias, on the node; it may be `awaited`.
    async fn returned(&self, alias: &str, awaited: bool) -> linux::Result<Option<Link>> {
        if !awaited {
            return Ok(aliased(self.links.links().await?, alias));
        }
        let (handle, mut events) = Events::open(&self.netns, Subject::Links)?;
        let comes = async {
            loop {
                let found = aliased(handle.links().await?, alias);
                if found.is_some() || events.next().await.is_none() {
                    return Ok(found);
                }
            }
        };
        timeout(RETURN, comes).await.unwrap_or(Ok(None))
    }
}
