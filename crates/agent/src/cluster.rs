//! What the API server shows of this node's pods, and of what their NICs depend on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use api::annotations::{self, NicRecord};
use api::cidr::parse_addresses;
use api::networks::{self, Definition};
use api::offload::{Device, RESOURCE};
use api::routes::{self, NextHop};
use api::tuning::tuning;
use api::view::{MIGRATION_JOB, NetworkAttachmentDefinitionView, NodeView, PodView};
use api::{Cidrs, DEFAULT_VPC, Egress, OVN_PROVIDER, VhostUser, provider_network, v1};
use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use linux::IpPrefix;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::attachment::{Nic, Vhost};
use crate::config::Config;
use crate::gateway::{Exits, Source};

/// Namespace and name.
type Key = (String, String);

/// A pod, as far as its NICs go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pod {
    uid: String,
    /// Name that its ports are on: its own, or its virtual machine's.
    holder: String,
    /// Whether it was made for its virtual machine to move into.
    incoming: bool,
    annotations: BTreeMap<String, String>,
}

/// A subnet, as far as a node goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Subnet {
    /// VPC.
    vpc: String,
    /// Ranges; none that can be read.
    cidrs: Option<Cidrs>,
    /// MTU in bytes, if it names one.
    mtu: Option<u32>,
    /// Vlan that it is on.
    vlan: Option<String>,
    /// Gateways, on a Vlan those of the physical network.
    gateways: Vec<IpAddr>,
    /// Whether its gateway is the router of the VPC, and what that leads to.
    routed: Routed,
    /// If its pods may leave through the node.
    source: Option<Source>,
}

/// A VPC, as far as a node goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vpc {
    /// Creation, in seconds since 1970, of one that leaves through nodes besides the default one.
    leaves: Option<i64>,
    /// Next hops that others stand in for.
    shared: BTreeSet<IpAddr>,
}

/// What the router of its VPC is to a subnet on a Vlan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Routed {
    /// Nothing.
    #[default]
    No,
    /// The gateway of its pods, which leads to overlay subnets and to the physical gateway.
    Pods,
    /// The gateway of everybody there.
    All,
}

/// A NIC that a request is to make, with the name of its link.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) ifname: String,
    pub(crate) nic: Nic,
    /// The device that it is to be, if its definition says so.
    pub(crate) device: Option<Device>,
    /// What is wrong with the annotations, and left out.
    pub(crate) problems: Vec<String>,
}

/// Which NICs of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    /// The pod's identity, if the runtime said.
    pub(crate) uid: Option<&'a str>,
    /// One NIC; for the primary one, with all that the pod's list of networks asks of us.
    pub(crate) provider: &'a str,
    pub(crate) ifname: &'a str,
}

/// This node, as the cluster has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OwnNode {
    /// Its port in the default VPC, once that is recorded.
    pub(crate) port: Option<NicRecord>,
    /// Its own addresses, one per family at most.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its chassis, as its annotation has it.
    pub(crate) chassis: Option<String>,
    /// Next hops that do not answer here, as its annotation has them.
    pub(crate) unreachable: BTreeSet<NextHop>,
}

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pods: HashMap<Key, Pod>,
    definitions: HashMap<Key, Result<Definition, String>>,
    /// This node; nothing before it is known.
    nodes: HashMap<String, OwnNode>,
    /// Subnets; none before they are known.
    subnets: Option<HashMap<String, Subnet>>,
    /// VPCs; none before they are known.
    vpcs: Option<HashMap<String, Vpc>>,
    /// The provider network of each Vlan, and its identifier; none before they are known.
    vlans: Option<HashMap<String, (String, u16)>>,
    /// Provider networks; none before they are known.
    physical: Option<HashMap<String, Physical>>,
    /// MTUs in bytes of the provider networks that are ready on this node; none before they are known.
    networks: Option<BTreeMap<String, u32>>,
}

/// A provider network, as far as all nodes go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Physical {
    /// The nodes that watch next hops there.
    watchers: Vec<String>,
    /// If pods leave by it: its creation, in seconds since 1970, and the gateways that it names.
    exit: Option<(i64, Vec<IpAddr>)>,
}

/// The provider network by which pods leave without the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) network: String,
    /// The gateways there; none for those of the node's own default route.
    pub(crate) gateways: Vec<IpAddr>,
    /// Younger ones that ask for it, too.
    pub(crate) others: Vec<String>,
}

/// Why NICs are not known.
#[derive(Debug, PartialEq, Eq)]
enum Unknown {
    /// What is missing, and may come.
    Yet(String),
    /// What is wrong.
    Wrong(String),
}

impl Known {
    /// The NICs, as recorded on the pod.
    fn nics(&self, ask: Ask<'_>, mtu: u32) -> Result<Vec<Wanted>, Unknown> {
        let Ask { namespace, pod: name, .. } = ask;
        let of = |what: &dyn fmt::Display| format!("pod {namespace}/{name}: {what}");
        let pod = self.pods.get(&(namespace.to_owned(), name.to_owned()));
        let pod = pod.ok_or_else(|| Unknown::Yet(of(&"is not on this node")))?;
        if let Some(uid) = ask.uid.filter(|uid| *uid != pod.uid) {
            return Err(Unknown::Yet(of(&format!("has uid {}, not {uid}", pod.uid))));
        }
        let selections = networks::selections(&pod.annotations, namespace).map_err(|why| Unknown::Wrong(of(&why)))?;
        let mut missing = None;
        let mut definition = |namespace: &str, name: &str| {
            let found = self.definitions.get(&(namespace.to_owned(), name.to_owned()));
            found.cloned().unwrap_or_else(|| {
                missing.get_or_insert_with(|| format!("NetworkAttachmentDefinition {namespace}/{name} does not exist"));
                Ok(Definition::Foreign)
            })
        };
        let attachments = networks::attachments(selections, &mut definition).map_err(|why| Unknown::Wrong(of(&why)))?;
        let primary = networks::default_network(&pod.annotations, namespace).map(|(namespace, name)| definition(namespace, name));
        let primary = primary.transpose().map_err(|why| Unknown::Wrong(of(&why)))?;
        if let Some(missing) = missing {
            return Err(Unknown::Yet(of(&missing)));
        }
        let attachments = attachments.into_iter().filter(|attachment| !attachment.addresses_only);
        let (provider, ifname) = (ask.provider.to_owned(), ask.ifname.to_owned());
        let wanted: Vec<_> = if ask.provider == OVN_PROVIDER {
            let (vhost, device) = if let Some(Definition::Ours { vhost, device, .. }) = primary { (vhost, device) } else { (None, None) };
            let further = attachments.map(|attachment| {
                let routed = !attachment.selection.default_route.is_empty();
                (attachment.provider.into(), attachment.selection.interface.into(), routed, attachment.vhost, attachment.device)
            });
            std::iter::once((provider, ifname, false, vhost, device)).chain(further).collect()
        } else {
            // As whoever makes all makes it.
            let found = attachments.into_iter().find(|attachment| *attachment.provider == *provider);
            let routed = found.as_ref().is_some_and(|found| !found.selection.default_route.is_empty());
            let (vhost, device) = found.map_or((None, None), |found| (found.vhost, found.device));
            vec![(provider, ifname, routed, vhost, device)]
        };
        let mut nics: Vec<Wanted> = Vec::with_capacity(wanted.len());
        for (provider, ifname, routed, vhost, device) in wanted {
            let mut nic = self.nic(pod, namespace, &provider, ifname, routed, mtu).map_err(|unknown| match unknown {
                Unknown::Yet(what) => Unknown::Yet(of(&what)),
                Unknown::Wrong(what) => Unknown::Wrong(of(&what)),
            })?;
            nic.device = device;
            nic.nic.vhost = vhost.map(|vhost| socket(pod, &nic.ifname, vhost));
            if let Some(vhost) = &nic.nic.vhost
                && let Some(other) = nics.iter().find(|other| other.nic.vhost.as_ref() == Some(vhost))
            {
                let both = format!("NICs {} and {}", other.ifname, nic.ifname);
                let what = format!("{both} would be one socket, {} in volume {}", vhost.socket, vhost.volume);
                return Err(Unknown::Wrong(of(&what)));
            }
            nics.push(nic);
        }
        // The default route is by the primary NIC, unless another one asks for it.
        if let Some(at) = nics.iter().skip(1).position(|wanted| wanted.nic.default_route) {
            for (other, wanted) in nics.iter_mut().enumerate() {
                wanted.nic.default_route = other == at + 1;
            }
        }
        // Which device of a resource a NIC is to be says only who calls for it.
        let primary = nics.first().map(|wanted| wanted.ifname.clone());
        nics.retain(|wanted| primary.as_ref() == Some(&wanted.ifname) || !matches!(wanted.device, Some(Device::Of(_))));
        Ok(nics)
    }

    /// Of the next hops that others stand in for, those that are in a physical network that this node watches.
    fn watched(&self, node: &str) -> Option<BTreeSet<NextHop>> {
        let (subnets, vpcs, vlans) = (self.subnets.as_ref()?, self.vpcs.as_ref()?, self.vlans.as_ref()?);
        let physical = self.physical.as_ref()?;
        let mut watched = BTreeSet::new();
        for subnet in subnets.values().filter(|subnet| subnet.routed != Routed::No) {
            let Some((network, vlan)) = subnet.vlan.as_ref().and_then(|vlan| vlans.get(vlan)) else { continue };
            if !physical.get(network).is_some_and(|physical| physical.watchers.iter().any(|watcher| watcher == node)) {
                continue;
            }
            let shared = vpcs.get(&subnet.vpc).into_iter().flat_map(|vpc| &vpc.shared);
            let here = shared.filter(|hop| subnet.cidrs.is_some_and(|cidrs| cidrs.contains(**hop)));
            watched.extend(here.map(|hop| NextHop { network: network.as_str().into(), vlan: *vlan, address: *hop }));
        }
        Some(watched)
    }

    /// The network by which pods of this node leave, if any: of several that are ready here the oldest.
    fn exit(&self) -> Option<Option<Exit>> {
        let asking = self.physical.as_ref()?.iter().filter_map(|(name, physical)| Some((name, physical.exit.as_ref()?)));
        let mut asking: Vec<_> = asking.map(|(name, (created, gateways))| (*created, name, gateways)).collect();
        if asking.is_empty() {
            return Some(None);
        }
        let ready = self.networks.as_ref()?;
        asking.retain(|(_, name, _)| ready.contains_key(*name));
        asking.sort_unstable();
        let mut asking = asking.into_iter();
        Some(asking.next().map(|(_, network, gateways)| {
            let others = asking.map(|(_, name, _)| name.clone()).collect();
            Exit { network: network.clone(), gateways: gateways.clone(), others }
        }))
    }

    fn nic(&self, pod: &Pod, namespace: &str, provider: &str, ifname: String, routed: bool, mtu: u32) -> Result<Wanted, Unknown> {
        let record = annotations::recorded_of(provider, &pod.annotations).map_err(Unknown::Wrong)?;
        let record = record.ok_or_else(|| {
            let nic = if provider == OVN_PROVIDER { String::new() } else { format!("NIC {ifname} ({provider}) ") };
            Unknown::Yet(format!("{nic}has no address; its events say why"))
        })?;
        let (tuning, problems) = tuning(provider, &pod.annotations);
        let mut addresses = Vec::with_capacity(record.addresses.len());
        for address in &record.addresses {
            let net = record.cidrs.and_then(|cidrs| cidrs.of_family(*address));
            let whole = if address.is_ipv4() { 32 } else { 128 };
            let prefix = IpPrefix::new(*address, net.map_or(whole, |net| net.prefix_len()));
            addresses.push(prefix.map_err(|why| Unknown::Wrong(why.to_string()))?);
        }
        let subnet = self.subnets.as_ref().and_then(|subnets| subnets.get(record.subnet.as_ref()));
        // A tunnel drops what is too long for it, and says nothing.
        let routed_mtu = (record.segment.is_some() && subnet.is_some_and(|subnet| subnet.routed == Routed::Pods)).then_some(mtu);
        // Nobody on a physical network says that a packet is too long: all there have the same MTU.
        let mtu = match &record.segment {
            Some(segment) => *self.networks.as_ref().and_then(|networks| networks.get(&*segment.network)).ok_or_else(|| {
                Unknown::Yet(format!("provider network {} is not ready on this node; its conditions say why", segment.network))
            })?,
            None => mtu,
        };
        let default_route = tuning.default_route.unwrap_or(provider == OVN_PROVIDER || routed);
        let nic = Nic {
            provider: provider.to_owned(),
            port: networks::port(&pod.holder, namespace, provider),
            mtu: subnet.and_then(|subnet| subnet.mtu).unwrap_or(mtu),
            routed_mtu,
            physical: record.segment.is_some().then(|| subnet.map(|subnet| subnet.gateways.clone()).unwrap_or_default()),
            subnet: record.subnet.into(),
            mac: record.mac,
            addresses,
            gateways: record.gateways,
            incoming: pod.incoming,
            default_route,
            tuning,
            vhost: None,
            device: None,
        };
        Ok(Wanted { ifname, nic, device: None, problems })
    }
}

/// The socket of a pod's NIC.
fn socket(pod: &Pod, ifname: &str, VhostUser { volume, socket }: VhostUser) -> Vhost {
    Vhost { uid: pod.uid.clone(), volume: volume.into(), socket: socket.map_or_else(|| ifname.to_owned(), Into::into) }
}

/// The API server's view. Waiters are woken by the watches.
#[derive(Clone)]
pub(crate) struct Cluster {
    sender: watch::Sender<Known>,
    known: watch::Receiver<Known>,
    mtu: u32,
    /// Whether pods leave by the gateway bridge.
    bridged: bool,
}

impl Cluster {
    /// Waits until all NICs that are asked for are recorded on the pod.
    ///
    /// # Errors
    /// What is missing after `patience`, or what is wrong.
    pub(crate) async fn nics(&self, ask: Ask<'_>, patience: Duration) -> Result<Vec<Wanted>, String> {
        let mut known = self.known.clone();
        let mut last = Err(Unknown::Yet("the agent is stopping".to_owned()));
        let found = timeout(
            patience,
            known.wait_for(|known| {
                last = known.nics(ask, self.mtu);
                !matches!(last, Err(Unknown::Yet(_)))
            }),
        )
        .await
        .map(drop);
        match last {
            Ok(nics) => Ok(nics),
            Err(Unknown::Yet(what)) if found.is_err() => Err(format!("{what} (after {patience:?})")),
            Err(Unknown::Yet(what) | Unknown::Wrong(what)) => Err(what),
        }
    }

    /// The NICs as they are recorded now.
    pub(crate) fn now(&self, ask: Ask<'_>) -> Option<Vec<Wanted>> {
        self.known.borrow().nics(ask, self.mtu).ok()
    }

    /// What leaves through the node; `None` while subnets and VPCs are not known.
    pub(crate) fn exits(&self) -> Option<Exits> {
        let known = self.known.borrow();
        let subnets = known.subnets.as_ref()?.iter();
        let mut subnets: Vec<_> = subnets.filter_map(|(name, subnet)| Some((name.as_str(), subnet.source.as_ref()?))).collect();
        subnets.sort_unstable_by_key(|(name, _)| *name);
        // Without a way out of the default VPC by the bridge there is none of the others.
        let vpcs = known.vpcs.as_ref()?.iter().filter(|_| self.bridged);
        let vpcs: Vec<_> = vpcs.filter_map(|(name, vpc)| Some((vpc.leaves?, name.as_str()))).collect();
        Some(Exits::new(&subnets, &vpcs))
    }

    /// The network by which pods leave without the host, if any; `None` while that is not known.
    pub(crate) fn exit(&self) -> Option<Option<Exit>> {
        self.known.borrow().exit()
    }

    /// The physical networks into which the node sends under a MAC of its own what it routed; `None` while they are not known. Where
    /// hosts have the router as their gateway, they find it by its own.
    pub(crate) fn routed_networks(&self) -> Option<BTreeSet<String>> {
        let known = self.known.borrow();
        let (subnets, vlans) = (known.subnets.as_ref()?, known.vlans.as_ref()?);
        let of = |routed| {
            let subnets = subnets.values().filter(move |subnet| subnet.routed == routed);
            subnets.filter_map(|subnet| Some(vlans.get(subnet.vlan.as_ref()?)?.0.clone())).collect::<BTreeSet<_>>()
        };
        Some(&of(Routed::Pods) - &of(Routed::All))
    }

    /// The next hops on physical networks that this node is to watch; `None` while that is not known.
    pub(crate) fn watched(&self, node: &str) -> Option<BTreeSet<NextHop>> {
        self.known.borrow().watched(node)
    }

    /// This node, once it is known.
    pub(crate) fn own_node(&self) -> Option<OwnNode> {
        self.known.borrow().nodes.values().next().cloned()
    }

    /// Says which provider networks are ready on this node, with their MTUs in bytes.
    pub(crate) fn networks_are(&self, networks: BTreeMap<String, u32>) {
        self.sender.send_if_modified(|known| {
            let differs = known.networks.as_ref() != Some(&networks);
            known.networks = Some(networks);
            differs
        });
    }

    /// Wakes whenever something changed.
    pub(crate) fn changes(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }
}

/// Prepares the view, and the future that keeps it current; the caller owns the task that awaits it.
pub(crate) fn watch_cluster(client: kube::Client, config: &Config) -> (Cluster, impl Future<Output = ()> + Send + use<>) {
    let (sender, known) = watch::channel(Known::default());
    let on_node = watcher::Config::default().fields(&format!("spec.nodeName={}", config.node));
    let own = watcher::Config::default().fields(&format!("metadata.name={}", config.node));
    let node = config.node.clone();
    let bridged = matches!(config.egress, Some(Egress::Localnet(_)));
    let cluster = Cluster { sender: sender.clone(), known, mtu: config.mtu, bridged };
    let work = async move {
        let mut feeds = JoinSet::new();
        feeds.spawn(feed(client.clone(), on_node, sender.clone(), pod, |known| &mut known.pods));
        feeds.spawn(feed(client.clone(), own, sender.clone(), own_node, |known| &mut known.nodes));
        feeds.spawn(feed(client.clone(), watcher::Config::default(), sender.clone(), definition, |known| &mut known.definitions));
        feeds.spawn(feed(client.clone(), watcher::Config::default(), sender.clone(), vpc, |known| known.vpcs.get_or_insert_default()));
        feeds.spawn(feed(client.clone(), watcher::Config::default(), sender.clone(), vlan, |known| known.vlans.get_or_insert_default()));
        feeds.spawn(feed(client.clone(), watcher::Config::default(), sender.clone(), physical, |known| {
            known.physical.get_or_insert_default()
        }));
        let subnet = move |object| subnet(object, &node);
        feeds.spawn(feed(client, watcher::Config::default(), sender, subnet, |known| known.subnets.get_or_insert_default()));
        while feeds.join_next().await.is_some() {}
    };
    (cluster, work)
}

/// Follows a kind into a table. What parses to nothing is not in it.
async fn feed<O, K, V>(
    client: kube::Client,
    config: watcher::Config,
    known: watch::Sender<Known>,
    parse: impl Fn(O) -> (K, Option<V>) + Send,
    table: fn(&mut Known) -> &mut HashMap<K, V>,
) where
    O: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + fmt::Debug + Send + 'static,
    K: std::hash::Hash + Eq + Send + 'static,
    V: PartialEq + Send + 'static,
{
    let events = watcher::watcher(Api::<O>::all(client), config).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listing = HashMap::new();
    let mut unserved = false;
    let set = |known: &mut Known, (key, value): (K, Option<V>)| {
        let table = table(known);
        match value {
            Some(value) if table.get(&key) == Some(&value) => false,
            Some(value) => {
                table.insert(key, value);
                true
            }
            None => table.remove(&key).is_some(),
        }
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(object)) => {
                if let (key, Some(value)) = parse(object) {
                    listing.insert(key, value);
                }
            }
            Ok(Event::InitDone) => {
                unserved = false;
                known.send_modify(|known| *table(known) = std::mem::take(&mut listing));
            }
            Ok(Event::Apply(object)) => {
                known.send_if_modified(|known| set(known, parse(object)));
            }
            Ok(Event::Delete(object)) => {
                known.send_if_modified(|known| set(known, (parse(object).0, None)));
            }
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => {
                if !std::mem::replace(&mut unserved, true) {
                    tracing::info!(kind = %O::kind(&()), "this API server does not serve the kind");
                }
            }
            Err(error) => tracing::warn!(kind = %O::kind(&()), %error, "watch interrupted; it goes on by itself"),
        }
    }
}

fn pod(pod: PodView) -> (Key, Option<Pod>) {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let mut annotations = pod.metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| [networks::NETWORKS, networks::DEFAULT_NETWORK].contains(&key.as_str()) || key.contains(".kubernetes.io/"));
    let machine = annotations.get(annotations::VIRTUAL_MACHINE).filter(|machine| !machine.is_empty());
    let holder = machine.unwrap_or(&name).clone();
    let incoming = machine.is_some() && pod.metadata.labels.is_some_and(|labels| labels.contains_key(MIGRATION_JOB));
    ((namespace, name), Some(Pod { uid: pod.metadata.uid.unwrap_or_default(), holder, incoming, annotations }))
}

fn own_node(node: NodeView) -> (String, Option<OwnNode>) {
    let (name, addresses) = (node.name_any(), node.internal_addresses());
    let notes = node.metadata.annotations.unwrap_or_default();
    let recorded = annotations::recorded(&notes).unwrap_or_else(|error| {
        tracing::warn!(%error, node = name, "what is recorded of the node's port cannot be read");
        None
    });
    let port = recorded.filter(|record| *record.subnet == *api::JOIN_SUBNET);
    let (chassis, unreachable) = (notes.get(annotations::CHASSIS).cloned(), routes::unreachable(notes.get(routes::UNREACHABLE)));
    (name, Some(OwnNode { port, addresses, chassis, unreachable }))
}

fn definition(object: NetworkAttachmentDefinitionView) -> (Key, Option<Result<Definition, String>>) {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let what = format!("NetworkAttachmentDefinition {namespace}/{name}");
    let resource = object.metadata.annotations.as_ref().and_then(|notes| notes.get(RESOURCE)).map(String::as_str);
    let parsed = Definition::parse(&namespace, &name, &object.spec.config).and_then(|parsed| parsed.of(resource));
    let parsed = parsed.map_err(|why| format!("{what}: {why}"));
    ((namespace, name), Some(parsed))
}

fn vlan(object: v1::Vlan) -> (String, Option<(String, u16)>) {
    let id = object.spec.identifier();
    (object.name_any(), Some((object.spec.provider, id)))
}

/// A provider network. Of what cannot be read the controller tells.
fn physical(object: v1::ProviderNetwork) -> (String, Option<Physical>) {
    let name = object.name_any();
    let exit = provider_network::exit(object.metadata.annotations.as_ref()).ok().flatten();
    let exit = exit.map(|gateways| (api::created(&object.metadata), gateways));
    let ready = object.status.and_then(|status| status.ready_nodes).unwrap_or_default();
    (name, Some(Physical { watchers: ready.into_iter().take(routes::WATCHERS).collect(), exit }))
}

fn subnet(object: v1::Subnet, node: &str) -> (String, Option<Subnet>) {
    let (name, spec) = (object.name_any(), &object.spec);
    // Below 576 bytes IPv4 need not work (RFC 791), nor IPv6 below 1280 (RFC 8200).
    let mtu = spec.mtu.and_then(|mtu| u32::try_from(mtu).ok()).filter(|mtu| (576..=65_535).contains(mtu));
    let vlan = spec.vlan.clone().filter(|vlan| !vlan.is_empty());
    let routed = match (spec.logical_gateway, spec.u2o_interconnection) {
        (Some(true), _) => Routed::All,
        (_, Some(true)) => Routed::Pods,
        _ => Routed::No,
    };
    let gateways = parse_addresses(spec.gateway.as_deref().unwrap_or_default()).unwrap_or_default();
    let source = Source::of(&object, node);
    let (vpc, cidrs) = (spec.vpc_name().to_owned(), spec.cidr_block.as_deref().and_then(|text| text.parse().ok()));
    (name, Some(Subnet { vpc, cidrs, mtu, vlan, gateways, routed, source }))
}

/// A VPC. Of what cannot be read the controller tells.
fn vpc(object: v1::Vpc) -> (String, Option<Vpc>) {
    let (name, meta) = (object.name_any(), object.metadata);
    let leaves = name != DEFAULT_VPC && annotations::leaves_by_host(meta.annotations.as_ref()) == Ok(true);
    let (own, _) = routes::parse(object.spec.static_routes.as_deref().unwrap_or_default());
    (name, Some(Vpc { leaves: leaves.then(|| api::created(&meta)), shared: routes::shared(&own) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Definition = Definition::Foreign;

    fn known(pairs: &[(&str, &str)]) -> Known {
        let annotations = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let pod = Pod { uid: "u".to_owned(), holder: "p".to_owned(), incoming: false, annotations };
        let pods = HashMap::from([(("ns".to_owned(), "p".to_owned()), pod)]);
        Known { pods, ..Known::default() }
    }

    fn recorded(provider: &str, last: u8) -> Vec<(String, String)> {
        let note = |name: &str, value: String| (networks::key(provider, name), value);
        vec![
            note("allocated", "true".to_owned()),
            note("logical_switch", format!("s{last}")),
            note("ip_address", format!("10.0.{last}.2")),
            note("mac_address", format!("02:00:00:00:00:{last:02x}")),
            note("cidr", format!("10.0.{last}.0/24")),
            note("gateway", format!("10.0.{last}.1")),
        ]
    }

    #[test]
    fn a_nic_with_a_mac_alone_is_known_by_that() {
        let notes =
            recorded("ovn", 1).into_iter().filter(|(key, _)| !["ip_address", "cidr", "gateway"].iter().any(|name| key.ends_with(name)));
        let mut notes: Vec<_> = notes.collect();
        notes.push((networks::key("ovn", "provider_network"), "net1".to_owned()));
        let pairs: Vec<_> = notes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut known = known(&pairs);
        assert!(matches!(known.nics(ASK, 1400), Err(Unknown::Yet(what)) if what.contains("net1 is not ready")));
        known.networks = Some(BTreeMap::from([("net1".to_owned(), 9000)]));
        let nic = known.nics(ASK, 1400).unwrap().remove(0).nic;
        assert_eq!((nic.addresses.len(), nic.gateways.len(), nic.routes().len(), nic.mtu), (0, 0, 0, 9000));
        assert_eq!((nic.physical, nic.mac.to_string().as_str()), (Some(Vec::new()), "02:00:00:00:00:01"));
    }

    const ASK: Ask<'_> = Ask { namespace: "ns", pod: "p", uid: Some("u"), provider: OVN_PROVIDER, ifname: "eth0" };

    #[test]
    fn a_pod_is_waited_for_and_so_are_its_addresses() {
        let of = |known: Known, ask| match known.nics(ask, 1400) {
            Err(Unknown::Yet(what)) => what,
            other => panic!("{other:?}"),
        };
        assert!(of(Known::default(), ASK).contains("is not on this node"));
        assert!(of(known(&[]), Ask { uid: Some("other"), ..ASK }).contains("has uid u, not other"));
        assert!(of(known(&[]), ASK).contains("has no address"));
    }

    #[test]
    fn the_list_of_networks_makes_further_nics_and_one_of_them_may_have_the_default_route() {
        let mut notes = recorded("ovn", 1);
        notes.extend(recorded("d.ns.ovn", 2));
        notes.push((networks::NETWORKS.to_owned(), "d,foreign".to_owned()));
        let pairs: Vec<_> = notes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut known = known(&pairs);
        assert!(matches!(known.nics(ASK, 1400), Err(Unknown::Yet(what)) if what.contains("ns/d does not exist")));
        let provider = "d.ns.ovn".into();
        known.definitions.insert(("ns".to_owned(), "d".to_owned()), Ok(Definition::Ours { provider, vhost: None, device: None }));
        known.definitions.insert(("ns".to_owned(), "foreign".to_owned()), Ok(OURS));
        known.subnets = Some(HashMap::from([("s2".to_owned(), Subnet { mtu: Some(1300), ..Subnet::default() })]));
        let nics = known.nics(ASK, 1400).unwrap();
        let shown: Vec<_> = nics.iter().map(|w| (w.ifname.as_str(), w.nic.port.as_str(), w.nic.mtu, w.nic.default_route)).collect();
        assert_eq!(shown, [("eth0", "p.ns", 1400, true), ("net1", "p.ns.d.ns.ovn", 1300, false)]);

        let pod = known.pods.values_mut().next().unwrap();
        pod.annotations.insert(networks::key("d.ns.ovn", "default_route"), "true".to_owned());
        let nics = known.nics(ASK, 1400).unwrap();
        assert_eq!(nics.iter().map(|w| w.nic.default_route).collect::<Vec<_>>(), [false, true]);
        // As Multus asks for one.
        let one = known.nics(Ask { provider: "d.ns.ovn", ifname: "net7", ..ASK }, 1400).unwrap();
        assert_eq!((one.len(), one[0].ifname.as_str()), (1, "net7"));
    }

    #[test]
    fn a_device_of_a_resource_is_left_to_who_names_it_and_one_with_a_name_is_not() {
        let mut notes = recorded("ovn", 1);
        notes.extend(recorded("d.ns.ovn", 2));
        notes.push((networks::NETWORKS.to_owned(), "d".to_owned()));
        let pairs: Vec<_> = notes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut known = known(&pairs);
        let mut of = |device: Device| {
            let definition = Definition::Ours { provider: "d.ns.ovn".into(), vhost: None, device: Some(device) };
            known.definitions.insert(("ns".to_owned(), "d".to_owned()), Ok(definition));
            [ASK, Ask { provider: "d.ns.ovn", ifname: "net1", ..ASK }].map(|ask| {
                let nics = known.nics(ask, 1400).unwrap();
                nics.into_iter().map(|wanted| (wanted.ifname, wanted.device)).collect::<Vec<_>>()
            })
        };
        let (resource, named) = (Device::Of("example.com/vf".into()), Device::Named("0000:05:00.2".parse().unwrap()));
        let (eth0, net1) = (|| ("eth0".to_owned(), None), |device| ("net1".to_owned(), Some(device)));
        assert_eq!(of(resource.clone()), [vec![eth0()], vec![net1(resource)]]);
        assert_eq!(of(named.clone()), [vec![eth0(), net1(named.clone())], vec![net1(named)]]);
        // The default route is not the primary NIC's where the one that comes later asks for it.
        let definition = Definition::Ours { provider: "d.ns.ovn".into(), vhost: None, device: Some(Device::Of("example.com/vf".into())) };
        known.definitions.insert(("ns".to_owned(), "d".to_owned()), Ok(definition));
        let list = r#"[{"name":"d","default-route":["10.0.2.1"]}]"#.to_owned();
        known.pods.values_mut().next().unwrap().annotations.insert(networks::NETWORKS.to_owned(), list);
        let routed = |ask| known.nics(ask, 1400).unwrap().iter().map(|wanted| wanted.nic.default_route).collect::<Vec<_>>();
        assert_eq!((routed(ASK), routed(Ask { provider: "d.ns.ovn", ifname: "net1", ..ASK })), (vec![false], vec![true]));
    }

    #[test]
    fn nics_are_sockets_where_their_definitions_say_so_and_no_two_are_one() {
        let mut notes = recorded("ovn", 1);
        notes.extend(recorded("d.ns.ovn", 2));
        notes.push((networks::NETWORKS.to_owned(), "d".to_owned()));
        notes.push((networks::DEFAULT_NETWORK.to_owned(), "other/primary".to_owned()));
        let pairs: Vec<_> = notes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut known = known(&pairs);
        let ours = |name: &str, socket: Option<&str>| {
            let vhost = Some(VhostUser { volume: "v".into(), socket: socket.map(Into::into) });
            Ok(Definition::Ours { provider: format!("{name}.ns.ovn").into(), vhost, device: None })
        };
        known.definitions.insert(("ns".to_owned(), "d".to_owned()), ours("d", None));
        assert!(matches!(known.nics(ASK, 1400), Err(Unknown::Yet(what)) if what.contains("other/primary does not exist")));
        known.definitions.insert(("other".to_owned(), "primary".to_owned()), ours("primary", Some("s")));
        let of = |nics: Vec<Wanted>| nics.into_iter().map(|wanted| wanted.nic.vhost.unwrap().socket).collect::<Vec<_>>();
        assert_eq!(of(known.nics(ASK, 1400).unwrap()), ["s", "net1"]);
        assert_eq!(of(known.nics(Ask { provider: "d.ns.ovn", ifname: "net1", ..ASK }, 1400).unwrap()), ["net1"]);
        known.definitions.insert(("ns".to_owned(), "d".to_owned()), ours("d", Some("s")));
        assert!(
            matches!(known.nics(ASK, 1400), Err(Unknown::Wrong(what)) if what.contains("NICs eth0 and net1 would be one socket, s in"))
        );
    }

    #[test]
    fn a_pod_on_a_physical_network_waits_for_it_and_has_its_mtu() {
        let mut notes = recorded("ovn", 1);
        notes.push((annotations::PROVIDER_NETWORK.to_owned(), "net1".to_owned()));
        let pairs: Vec<_> = notes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut known = known(&pairs);
        assert!(matches!(known.nics(ASK, 1400), Err(Unknown::Yet(what)) if what.contains("provider network net1 is not ready")));
        known.networks = Some(BTreeMap::from([("net1".to_owned(), 9000)]));
        let mtus = |known: &Known| {
            let nic = known.nics(ASK, 1400).unwrap().remove(0).nic;
            (nic.mtu, nic.routed_mtu)
        };
        assert_eq!(mtus(&known), (9000, None));
        // By the gateway to what tunnels carry.
        known.subnets = Some(HashMap::from([("s1".to_owned(), Subnet { routed: Routed::Pods, ..Subnet::default() })]));
        assert_eq!(mtus(&known), (9000, Some(1400)));
    }

    #[test]
    fn a_node_that_watches_a_network_watches_the_next_hops_there_that_others_stand_in_for() {
        let mut known = Known::default();
        let subnet = |routed, range: &str| Subnet {
            vpc: "blue".to_owned(),
            cidrs: range.parse().ok(),
            vlan: Some("lan".to_owned()),
            routed,
            ..Subnet::default()
        };
        known.subnets = Some(HashMap::from([
            ("a".to_owned(), subnet(Routed::All, "192.0.2.0/24")),
            // Its router has no address there.
            ("b".to_owned(), subnet(Routed::No, "198.51.100.0/24")),
        ]));
        let shared = ["192.0.2.1", "192.0.2.2", "198.51.100.1", "203.0.113.1"].map(|text| text.parse().unwrap()).into();
        known.vpcs = Some(HashMap::from([("blue".to_owned(), Vpc { leaves: None, shared })]));
        known.vlans = Some(HashMap::from([("lan".to_owned(), ("net1".to_owned(), 7))]));
        assert_eq!(known.watched("n1"), None);
        let physical = Physical { watchers: vec!["n1".to_owned(), "n2".to_owned()], exit: None };
        known.physical = Some(HashMap::from([("net1".to_owned(), physical)]));
        let shown: Vec<_> = known.watched("n1").unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["net1.7/192.0.2.1", "net1.7/192.0.2.2"]);
        assert_eq!(known.watched("n3"), Some(BTreeSet::new()));
    }

    #[test]
    fn pods_leave_by_the_oldest_network_that_asks_and_is_ready_here() {
        let mut known = Known::default();
        assert_eq!(known.exit(), None);
        let physical = |exit| Physical { exit, ..Physical::default() };
        let mut networks = HashMap::from([("quiet".to_owned(), physical(None))]);
        known.physical = Some(networks.clone());
        assert_eq!(known.exit(), Some(None), "whatever is ready");
        let gateway: IpAddr = "192.0.2.1".parse().unwrap();
        for (name, created) in [("young", 7), ("old", 5), ("older", 3)] {
            networks.insert(name.to_owned(), physical(Some((created, vec![gateway]))));
        }
        known.physical = Some(networks);
        assert_eq!(known.exit(), None, "not known yet");
        known.networks = Some(["quiet", "old", "young"].map(|name| (name.to_owned(), 1500)).into());
        let exit = Exit { network: "old".to_owned(), gateways: vec![gateway], others: vec!["young".to_owned()] };
        assert_eq!(known.exit(), Some(Some(exit)));
    }
}
