//! ADD, DEL, CHECK, GC and STATUS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::OVN_PROVIDER;
use api::view::NodeView;
use kube::Api;
use kube::api::{Patch, PatchParams};
use linux::{Handle, Netns};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::attachment::{Attachment, Store, host_links};
use crate::cluster::{Ask, Cluster, Wanted};
use crate::cni::{self, CniError, Code, Request};
use crate::config::{Config, Detect};
use crate::health::Health;
use crate::offload;
use crate::ovs::Ovs;
use crate::report::Reporter;
use crate::settings::Settings;
use crate::wire::{self, WireError};

/// What requests are served with.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) ovs: Ovs,
    /// Netlink in the node's namespace.
    pub(crate) links: Handle,
    pub(crate) netns: Netns,
    pub(crate) store: Store,
    pub(crate) containers: Containers,
    pub(crate) proven: Proven,
    pub(crate) health: Health,
    pub(crate) reporter: Reporter,
    pub(crate) settings: Settings,
}

/// From one failure to the next try.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

impl Node {
    /// Does something now, and again whenever what switch or cluster show has changed, until `shutdown`; after a pause, if it says that it
    /// is to be done again anyway.
    pub(crate) async fn whenever_it_changes<F: Future<Output = bool>>(&self, shutdown: &CancellationToken, mut act: impl FnMut() -> F) {
        let (mut switch, mut cluster) = (self.ovs.changes(), self.cluster.changes());
        loop {
            switch.mark_unchanged();
            cluster.mark_unchanged();
            let again = act().await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(PAUSE), if again => {}
                _ = switch.changed(), if !again => {}
                _ = cluster.changed(), if !again => {}
            }
        }
    }

    /// Writes an annotation of the node's own object; without a text takes it away.
    pub(crate) async fn annotate(&self, nodes: &Api<NodeView>, key: &str, text: Option<&str>) -> Result<(), kube::Error> {
        let patch = json!({ "metadata": { "annotations": { key: text } } });
        nodes.patch(&self.config.node, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }
}

/// One at a time works on a container, or on a link of the node, by name. Who needs both takes the container first.
#[derive(Default)]
pub(crate) struct Containers(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Containers {
    fn of(&self, container: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who nobody works on need not be remembered.
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(all.entry(container.to_owned()).or_default())
    }

    pub(crate) async fn take(&self, container: &str) -> OwnedMutexGuard<()> {
        self.of(container).lock_owned().await
    }

    pub(crate) fn try_take(&self, container: &str) -> Option<OwnedMutexGuard<()>> {
        self.of(container).try_lock_owned().ok()
    }
}

/// How long the gateways of a physical network may take to answer before others on it are asked for.
const SETTLING: Duration = Duration::from_secs(1);

/// Subnets whose gateways have answered on this node.
#[derive(Default)]
pub(crate) struct Proven(Mutex<BTreeSet<String>>);

impl Proven {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn contains(&self, subnet: &str) -> bool {
        self.lock().contains(subnet)
    }

    pub(crate) fn insert(&self, subnet: &str) {
        self.lock().insert(subnet.to_owned());
    }

    pub(crate) fn remove(&self, subnet: &str) {
        self.lock().remove(subnet);
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

fn failed(error: impl std::fmt::Display) -> CniError {
    CniError::new(Code::Failed, error.to_string())
}

fn later(error: impl std::fmt::Display) -> CniError {
    CniError::new(Code::TryAgainLater, error.to_string())
}

impl Node {
    /// Wires a pod: the NIC asked for, and with the primary one all that the pod's list of networks asks of us. Done again with
    /// the same container, it finds everything in place.
    pub(crate) async fn add(&self, request: &Request) -> Result<Value, CniError> {
        let path = request.netns.clone().unwrap_or_default();
        let pod_ns = Netns::open(&path).map_err(|error| CniError::new(Code::InvalidEnvironment, format!("CNI_NETNS: {error}")))?;
        if pod_ns == self.netns && !request.addresses_only {
            return Err(CniError::new(Code::InvalidEnvironment, format!("CNI_NETNS: {} is the node's own", path.display())));
        }
        let ask = Ask {
            namespace: &request.namespace,
            pod: &request.pod,
            uid: request.uid.as_deref(),
            provider: &request.provider,
            ifname: &request.ifname,
        };
        let wanted = self.cluster.nics(ask, self.config.address_patience).await.map_err(later)?;
        let mut attachments = wanted.iter().map(|wanted| attachment(request, &pod_ns, wanted)).collect::<Result<Vec<_>, _>>()?;
        if request.addresses_only {
            return Ok(cni::result(request, &attachments, |_| None));
        }
        self.ovs.ready(self.config.port_patience).await.map_err(later)?;
        let guard = self.containers.take(&request.container).await;
        for (attachment, wanted) in attachments.iter_mut().zip(&wanted) {
            if let Some(device) = offload::asked(request, wanted)? {
                attachment.nic.device = Some(self.borrow_device(attachment, device).await.map_err(failed)?);
            }
        }
        let before: Vec<_> = self.store.of(Some(&request.container)).iter().map(Attachment::key).collect();
        match self.make(attachments).await {
            Ok((attachments, lacking)) => {
                drop(guard);
                let problems = wanted.iter().flat_map(|wanted| &wanted.problems).cloned().chain(lacking).collect();
                self.reporter.problems(&attachments[0], problems);
                if request.provider == OVN_PROVIDER && attachments.len() > 1 {
                    self.reporter.status(&attachments);
                }
                Ok(cni::result(request, &attachments, |made| self.socket(made)))
            }
            Err(error) => {
                // Nothing half made stays behind, and nothing that was there before goes.
                for attachment in self.store.of(Some(&request.container)).iter().filter(|made| !before.contains(&made.key())) {
                    if let Err(undo) = self.unmake(attachment).await {
                        tracing::warn!(container = %request.container, error = %undo, "cannot undo a failed ADD");
                    }
                }
                Err(error)
            }
        }
    }

    /// Makes the NICs. Returns them as they are kept, and what could not be done for want of the kernel's support.
    async fn make(&self, wanted: Vec<Attachment>) -> Result<(Vec<Attachment>, Vec<String>), CniError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let (mut attachments, mut names) = (Vec::with_capacity(wanted.len()), Vec::new());
        for wanted in wanted {
            let kept = self.store.admit(wanted, now);
            let attachment = kept.map_err(|error| failed(format!("what is kept of a NIC cannot be written: {error}")))?;
            // Nobody takes a port for left behind by a link of this name.
            names.push(self.containers.take(&attachment.host).await);
            let looked_for = match self.config.detect_duplicates {
                Detect::None => false,
                Detect::Underlay => attachment.nic.physical.is_some(),
                Detect::All => true,
            };
            // Of one that has a MAC alone nobody here knows the address.
            let has_addresses = !attachment.nic.addresses.is_empty();
            if looked_for && has_addresses && attachment.nic.asks() {
                self.look_for_duplicates(&attachment).await?;
            }
            if attachment.nic.incoming && has_addresses && attachment.nic.is_link() {
                self.hold_back(&attachment).await?;
            }
            attachments.push(attachment);
        }
        let mut lacking = Vec::new();
        for attachment in &attachments {
            lacking.extend(self.wire(attachment).await.map_err(failed)?);
        }
        for attachment in &attachments {
            self.ovs.installed(&attachment.host, self.config.port_patience).await.map_err(later)?;
            self.limit_again(attachment).await.map_err(failed)?;
            self.prove(attachment).await.map_err(failed)?;
        }
        drop(names);
        Ok((attachments, lacking))
    }

    /// Makes a NIC that has no address yet, and has its flows installed.
    async fn open(&self, attachment: &Attachment) -> Result<(), CniError> {
        self.wire_with(attachment, &[]).await.map_err(failed)?;
        self.ovs.installed(&attachment.host, self.config.port_patience).await.map_err(later)
    }

    /// Makes a NIC that a machine is to move to. Before ovn-controller holds back what comes, it lets it through for a moment: nobody may have the
    /// address then, or what the machine is sent, which runs elsewhere, is refused.
    async fn hold_back(&self, attachment: &Attachment) -> Result<(), CniError> {
        self.open(attachment).await?;
        let pod_ns = Self::namespace_of(attachment).map_err(failed)?;
        let deadline = tokio::time::Instant::now() + self.config.port_patience;
        match wire::held_back(&pod_ns, attachment, deadline).await.map_err(failed)? {
            true => Ok(()),
            false => {
                Err(later(format!("ovn-controller does not hold back what {} says before a machine has moved to it", attachment.ifname)))
            }
        }
    }

    /// Fails when somebody else on the NIC's link has its address already.
    async fn look_for_duplicates(&self, attachment: &Attachment) -> Result<(), CniError> {
        self.open(attachment).await?;
        let nic = &attachment.nic;
        let pod_ns = Self::namespace_of(attachment).map_err(failed)?;
        // Only the first time on this node; a subnet need have no gateway that is there.
        let link = format!("link of {}", nic.subnet);
        let gateways = nic.physical.as_deref().filter(|_| !self.proven.contains(&link)).unwrap_or_default();
        let (settling, wait) = (self.config.gateway_patience.min(SETTLING), self.config.duplicate_patience);
        let found = wire::duplicate(&pod_ns, attachment, gateways, settling, wait).await.map_err(failed)?;
        self.proven.insert(&link);
        match found {
            Some((address, mac)) => {
                let message = format!("address {address} is in use by {mac} in subnet {}", nic.subnet);
                self.reporter.problems(attachment, vec![message.clone()]);
                Err(failed(message))
            }
            None => Ok(()),
        }
    }

    /// Takes a NIC away and forgets it.
    pub(crate) async fn unmake(&self, attachment: &Attachment) -> Result<(), WireError> {
        match &attachment.nic.device {
            Some(lent) => self.give_back(attachment, lent).await?,
            None => self.unwire(&attachment.host).await?,
        }
        let forgotten = self.store.forget(&attachment.key());
        forgotten.map_err(|error| WireError::Taken(format!("what is kept of a NIC cannot be removed: {error}")))?;
        if !self.store.uses(&attachment.nic.subnet) {
            self.proven.remove(&attachment.nic.subnet);
            self.proven.remove(&format!("link of {}", attachment.nic.subnet));
        }
        Ok(())
    }

    /// Unwires what an ADD made. What is not there any more is as good as removed.
    pub(crate) async fn del(&self, request: &Request) -> Result<(), CniError> {
        if request.addresses_only {
            return Ok(());
        }
        let _guard = self.containers.take(&request.container).await;
        self.ovs.ready(self.config.port_patience).await.map_err(later)?;
        let kept = self.store.of(Some(&request.container));
        for attachment in kept.iter().filter(|kept| kept.is_of(&request.ifname)) {
            self.unmake(attachment).await.map_err(failed)?;
        }
        // One that was made before anything was kept.
        let [host, _] = host_links(&request.container, &request.ifname);
        if self.store.owner_of(&host).is_none() && self.ovs.container_of(&host).is_some_and(|container| container == request.container) {
            self.unwire(&host).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Looks whether everything is as ADD left it.
    pub(crate) async fn check(&self, request: &Request) -> Result<(), CniError> {
        let differs = |what: String| CniError::new(Code::Differs, what);
        if request.addresses_only {
            return Ok(());
        }
        self.ovs.ready(self.config.port_patience).await.map_err(later)?;
        let _guard = self.containers.take(&request.container).await;
        let kept = self.store.of(Some(&request.container));
        let made: Vec<_> = kept.into_iter().filter(|kept| kept.is_of(&request.ifname)).collect();
        if made.is_empty() {
            let what = format!("container {} has no link {} of ours", request.container, request.ifname);
            return Err(CniError::new(Code::UnknownContainer, what));
        }
        let answered = request.answered.as_deref().unwrap_or_default();
        for attachment in &made {
            let of = |what: String| differs(format!("NIC {} of container {}: {what}", attachment.ifname, request.container));
            let nic = &attachment.nic;
            let pod_ns = Self::namespace_of(attachment).map_err(|error| of(error.to_string()))?;
            if request.netns.as_deref().is_some_and(|path| Netns::open(path).is_ok_and(|asked| asked != pod_ns)) {
                return Err(of("is in another network namespace than CNI_NETNS".to_owned()));
            }
            for address in &nic.addresses {
                if !answered.contains(&address.to_string()) {
                    return Err(of(format!("prevResult does not have address {address}")));
                }
            }
            if let Some(vhost) = &nic.vhost {
                if let Some(what) = self.unplugged(attachment, vhost) {
                    return Err(of(what));
                }
                self.ovs.check(&self.port(attachment)).map_err(of)?;
                continue;
            }
            let host = &attachment.host;
            let near = self.links.link(host).await.map_err(failed)?.ok_or_else(|| of(format!("link {host} is missing on the node")))?;
            if !near.up {
                return Err(of(format!("link {host} is down on the node")));
            }
            if !nic.is_link() {
                self.ovs.check(&self.port(attachment)).map_err(of)?;
                continue;
            }
            let inside = Handle::open(&pod_ns).map_err(failed)?;
            let far = inside.link(&attachment.ifname).await.map_err(failed)?;
            let far = far.ok_or_else(|| of("link is missing in the pod".to_owned()))?;
            let mac = far.mac.map(linux::display_mac).unwrap_or_default();
            if mac != nic.mac.to_string() {
                return Err(of(format!("its MAC is {mac}, not {}", nic.mac)));
            }
            if !far.up || far.mtu != nic.mtu {
                return Err(of(format!("link is down in the pod, or its MTU is not {}", nic.mtu)));
            }
            let addresses = inside.addresses(Some(far.index)).await.map_err(failed)?;
            if let Some(address) = nic.addresses.iter().find(|address| !addresses.contains(address)) {
                return Err(of(format!("address {address} is missing")));
            }
            let routes = inside.routes().await.map_err(failed)?;
            for (destination, gateway) in nic.routes() {
                let found = routes.iter().any(|r| r.destination == destination && r.via == gateway && r.device == Some(far.index));
                if !found {
                    let via = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                    return Err(of(format!("route {destination}{via} is missing")));
                }
            }
            self.ovs.check(&self.port(attachment)).map_err(of)?;
        }
        Ok(())
    }

    /// Removes what belongs to no container that the runtime knows.
    pub(crate) async fn gc(&self, request: &Request) -> Result<(), CniError> {
        self.ovs.ready(self.config.port_patience).await.map_err(later)?;
        let mut errors = Vec::new();
        for attachment in self.store.of(None) {
            let valid = request.valid.iter().any(|(container, ifname)| *container == attachment.container && attachment.is_of(ifname));
            if valid || attachment.network != request.network {
                continue;
            }
            let _guard = self.containers.take(&attachment.container).await;
            if let Err(error) = self.unmake(&attachment).await {
                errors.push(format!("{}: {error}", attachment.host));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(failed(errors.join("; "))) }
    }

    /// Whether an ADD can be served.
    pub(crate) async fn status(&self) -> Result<(), CniError> {
        self.health.look().await.map_err(|why| CniError::new(Code::NotAvailable, why))
    }
}

/// What is to be kept of a NIC.
fn attachment(request: &Request, pod_ns: &Netns, wanted: &Wanted) -> Result<Attachment, CniError> {
    let mut nic = wanted.nic.clone();
    let (mut ingress, mut egress) = (None, None);
    if wanted.ifname == request.ifname {
        let asked = &request.capabilities;
        let has = |address: &IpAddr| nic.addresses.iter().any(|held| held.address() == *address);
        if let Some(address) = asked.addresses.iter().find(|address| !has(address)) {
            let what = format!("runtimeConfig.ips: {address} is not what was allocated; ask for it by annotation");
            return Err(CniError::new(Code::InvalidConfig, what));
        }
        if let Some(mac) = asked.mac.filter(|mac| *mac != nic.mac) {
            let what = format!("runtimeConfig.mac: {mac} is not what was allocated, {}; ask for it by annotation", nic.mac);
            return Err(CniError::new(Code::InvalidConfig, what));
        }
        (ingress, egress) = (asked.ingress, asked.egress);
        nic.tuning.ingress = nic.tuning.ingress.or(ingress);
        nic.tuning.egress = nic.tuning.egress.or(egress);
    }
    Ok(Attachment {
        container: request.container.clone(),
        ifname: wanted.ifname.clone(),
        host: String::new(),
        since: 0,
        asked: request.ifname.clone(),
        network: request.network.clone(),
        netns: request.netns.clone().unwrap_or_default(),
        inode: pod_ns.inode(),
        namespace: request.namespace.clone(),
        pod: request.pod.clone(),
        uid: request.uid.clone(),
        ingress,
        egress,
        nic,
    })
}
