//! Watches, parsed at once into inputs. A relist arrives as one atomic replacement.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api::view::{
    IpView, NamespaceView, NetworkAttachmentDefinitionView, NodeView, PodView, StatefulSetView, VirtualMachineInstanceView,
    VirtualMachineView,
};
use api::{annotations, v1};
use engine::Age;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use topology::{
    DefinitionKey, Ip, Namespace, NetworkDefinition, Networks, Node, NodeReports, Pod, PodKey, Pool, Problem, ProviderNetwork, Replicas,
    ReplicasKey, ReplicasKind, Subnet, Vip, Vlan, Vpc, Workload, input,
};

use crate::settling::ShownInstance;

type Name = Arc<str>;

/// Before a request that was answered with an error is tried again; longer each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What the API server shows of an object of ours besides its intent: needed to write status and finalizers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown<S> {
    pub(crate) uid: Name,
    pub(crate) generation: Option<i64>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) status: S,
    /// Of a subnet: what the annotation says is in force.
    pub(crate) in_force: Option<crate::stranding::Network>,
    /// Of a subnet: the MAC of its gateway that the annotation records.
    pub(crate) gateway_mac: Option<String>,
    /// What the controller fills in, as a merge patch of `spec`.
    pub(crate) defaults: Option<serde_json::Value>,
}

impl<S> Shown<S> {
    fn new(meta: &ObjectMeta, status: S, defaults: Option<serde_json::Value>) -> Self {
        Self {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            generation: meta.generation,
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            status,
            in_force: None,
            gateway_mac: None,
            defaults,
        }
    }
}

/// What the API server shows of an `IP` object: enough to know whether a write is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownIp {
    pub(crate) uid: Name,
    /// Whether the controller keeps it, and so may delete it.
    pub(crate) kept: bool,
    pub(crate) deleting: bool,
    /// Whether it carries the finalizer of an earlier controller.
    pub(crate) finalizers: Option<Vec<String>>,
    pub(crate) content: crate::ip_object::Content,
}

/// What the API server shows of a `Vip`.
#[derive(Clone, Debug)]
pub(crate) struct ShownVip {
    pub(crate) shown: Shown<v1::VipStatus>,
    /// Of the spec, and repeated in the status.
    pub(crate) r#type: String,
    pub(crate) selector: Vec<String>,
}

/// An object as it is now.
#[derive(Debug)]
pub(crate) enum Object {
    Vpc(Name, Vpc, Age, Box<Shown<v1::VpcStatus>>),
    Subnet(Name, Box<Subnet>, Age, Box<Shown<v1::SubnetStatus>>),
    /// With what a person has agreed to, if it says so.
    Namespace(Name, Namespace, Age, Option<Name>),
    /// With what it reports of physical networks.
    Node(Name, Node, Box<NodeReports>, Age),
    ProviderNetwork(Name, Box<ProviderNetwork>, Age, Box<Shown<v1::ProviderNetworkStatus>>),
    Vlan(Name, Vlan, Age, Box<Shown<v1::VlanStatus>>),
    /// `None`: the pod needs no network of its own, or no NIC but its primary one.
    Pod(PodKey, Option<Pod>, Option<Box<Networks>>, Age),
    Definition(DefinitionKey, NetworkDefinition, Age),
    IpPool(Name, Pool, Age, Box<Shown<v1::IpPoolStatus>>),
    Vip(Name, Vip, Age, Box<ShownVip>),
    /// An error: it reserves nothing, and the user is told why.
    Ip(Name, Result<Option<Ip>, Problem>, Age, ShownIp),
    /// `None`: it keeps nothing any more.
    Replicas(ReplicasKey, Option<Replicas>, Age),
    /// An instance of a virtual machine, and what it says of its migrations.
    Instance(ReplicasKey, Option<Replicas>, Age, Box<ShownInstance>),
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Vpc(Name),
    Subnet(Name),
    Namespace(Name),
    Node(Name),
    ProviderNetwork(Name),
    Vlan(Name),
    Pod(PodKey),
    Definition(DefinitionKey),
    IpPool(Name),
    Vip(Name),
    Ip(Name),
    Replicas(ReplicasKey),
}

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Vpc,
    Subnet,
    Namespace,
    Node,
    ProviderNetwork,
    Vlan,
    Definition,
    Pod,
    IpPool,
    Vip,
    Ip,
    Replicas(ReplicasKind),
}

pub(crate) const KINDS: [Kind; 14] = [
    Kind::Vpc,
    Kind::ProviderNetwork,
    Kind::Vlan,
    Kind::Subnet,
    Kind::Namespace,
    Kind::Node,
    Kind::Definition,
    Kind::Pod,
    Kind::IpPool,
    Kind::Vip,
    Kind::Ip,
    Kind::Replicas(ReplicasKind::StatefulSet),
    Kind::Replicas(ReplicasKind::VirtualMachine),
    Kind::Replicas(ReplicasKind::Instance),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vpc => "Vpc",
            Self::Subnet => "Subnet",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ProviderNetwork => "ProviderNetwork",
            Self::Vlan => "Vlan",
            Self::Definition => "NetworkAttachmentDefinition",
            Self::Pod => "Pod",
            Self::IpPool => "IPPool",
            Self::Vip => "Vip",
            Self::Ip => "IP",
            Self::Replicas(ReplicasKind::StatefulSet) => "StatefulSet",
            Self::Replicas(ReplicasKind::VirtualMachine) => "VirtualMachine",
            Self::Replicas(ReplicasKind::Instance) => "VirtualMachineInstance",
        })
    }
}

impl Object {
    /// Whether its end would take something away that nothing else asks for.
    const fn is_missed(&self) -> bool {
        // The `IP` object of a plain pod only shows what the pod holds, and a definition takes no NIC away that a pod has.
        !matches!(self, Self::Ip(_, Ok(None), ..) | Self::Definition(..))
    }

    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Vpc(name, ..) => Key::Vpc(Arc::clone(name)),
            Self::Subnet(name, ..) => Key::Subnet(Arc::clone(name)),
            Self::Namespace(name, ..) => Key::Namespace(Arc::clone(name)),
            Self::Node(name, ..) => Key::Node(Arc::clone(name)),
            Self::ProviderNetwork(name, ..) => Key::ProviderNetwork(Arc::clone(name)),
            Self::Vlan(name, ..) => Key::Vlan(Arc::clone(name)),
            Self::Pod(key, ..) => Key::Pod(key.clone()),
            Self::Definition(key, ..) => Key::Definition(key.clone()),
            Self::IpPool(name, ..) => Key::IpPool(Arc::clone(name)),
            Self::Vip(name, ..) => Key::Vip(Arc::clone(name)),
            Self::Ip(name, ..) => Key::Ip(Arc::clone(name)),
            Self::Replicas(key, ..) | Self::Instance(key, ..) => Key::Replicas(key.clone()),
        }
    }
}

impl Key {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Vpc(_) => Kind::Vpc,
            Self::Subnet(_) => Kind::Subnet,
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::ProviderNetwork(_) => Kind::ProviderNetwork,
            Self::Vlan(_) => Kind::Vlan,
            Self::Pod(_) => Kind::Pod,
            Self::Definition(_) => Kind::Definition,
            Self::IpPool(_) => Kind::IpPool,
            Self::Vip(_) => Kind::Vip,
            Self::Ip(_) => Kind::Ip,
            Self::Replicas(key) => Kind::Replicas(key.kind),
        }
    }
}

/// A change of the inputs.
#[derive(Debug)]
pub(crate) enum Input {
    Set(Box<Object>),
    Removed(Key),
    /// All objects of a kind: what is not named is gone.
    Replaced(Kind, Vec<Object>),
    /// A change that comes with the end of the kind's definition, which may not be meant.
    Undefined(Box<Input>),
}

pub(crate) fn vpc(object: &v1::Vpc) -> Object {
    let (name, vpc, age) = input::vpc(object);
    Object::Vpc(name, vpc, age, Box::new(Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), None)))
}

pub(crate) fn subnet(object: &v1::Subnet) -> Object {
    let (name, subnet, age) = input::subnet(object);
    let defaults = input::subnet_defaults(object);
    let shown = Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), defaults);
    let gateway_mac = object.metadata.annotations.as_ref().and_then(|notes| notes.get(annotations::GATEWAY_MAC)).cloned();
    Object::Subnet(name, Box::new(subnet), age, Box::new(Shown { in_force: input::in_force(object), gateway_mac, ..shown }))
}

fn pool(object: &v1::IpPool) -> Object {
    let (name, pool, age) = input::pool(object);
    Object::IpPool(name, pool, age, Box::new(Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), None)))
}

fn vip(object: &v1::Vip) -> Object {
    let (name, vip, age) = input::vip(object);
    let shown = Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), None);
    let (r#type, selector) = (object.spec.r#type.clone().unwrap_or_default(), object.spec.selector.clone().unwrap_or_default());
    Object::Vip(name, vip, age, Box::new(ShownVip { shown, r#type, selector }))
}

fn namespace(object: &NamespaceView) -> Object {
    let (name, namespace, age) = input::namespace(object);
    let confirmed = object.metadata.annotations.as_ref().and_then(|notes| notes.get(annotations::CONFIRM_REMOVAL));
    Object::Namespace(name, namespace, age, confirmed.map(|token| token.trim().into()))
}

fn node(object: &NodeView) -> Object {
    let (name, node, age) = input::node(object);
    Object::Node(name, node, Box::new(input::node_reports(object)), age)
}

fn provider_network(object: &v1::ProviderNetwork) -> Object {
    let (name, network, age) = input::provider_network(object);
    let shown = Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), None);
    Object::ProviderNetwork(name, Box::new(network), age, Box::new(shown))
}

fn vlan(object: &v1::Vlan) -> Object {
    let (name, vlan, age) = input::vlan(object);
    Object::Vlan(name, vlan, age, Box::new(Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), None)))
}

fn pod(object: &PodView) -> Object {
    let (key, pod, age) = input::pod(object);
    Object::Pod(key, pod, input::networks(object).map(Box::new), age)
}

fn definition(object: &NetworkAttachmentDefinitionView) -> Object {
    let (key, definition, age) = input::definition(object);
    Object::Definition(key, definition, age)
}

/// A pod whose virtual machine keeps nothing for it.
fn plain_pod(object: &PodView) -> Object {
    let mut plain = pod(object);
    if let Object::Pod(_, Some(pod), ..) = &mut plain
        && matches!(pod.workload, Some(Workload::VirtualMachine(_)))
    {
        pod.workload = None;
    }
    plain
}

fn ip(view: &IpView) -> Object {
    let object = &v1::Ip::from(view);
    let meta = &object.metadata;
    let shown = ShownIp {
        uid: meta.uid.as_deref().unwrap_or_default().into(),
        kept: input::is_kept(object),
        deleting: meta.deletion_timestamp.is_some(),
        finalizers: meta.finalizers.clone().filter(|list| list.iter().any(|f| f == api::FINALIZER)),
        content: crate::ip_object::Content::of(object),
    };
    Object::Ip(meta.name.as_deref().unwrap_or_default().into(), input::ip(object), input::age(meta), shown)
}

fn stateful_set(object: &StatefulSetView) -> Object {
    let (key, replicas) = input::stateful_set(object);
    Object::Replicas(key, replicas, input::age(&object.metadata))
}

fn virtual_machine(object: &VirtualMachineView) -> Object {
    let (key, replicas) = input::virtual_machine(ReplicasKind::VirtualMachine, &object.metadata);
    Object::Replicas(key, replicas, input::age(&object.metadata))
}

fn instance(object: &VirtualMachineInstanceView) -> Object {
    let (key, replicas) = input::virtual_machine(ReplicasKind::Instance, &object.metadata);
    Object::Instance(key, replicas, input::age(&object.metadata), Box::new(ShownInstance::of(object)))
}

/// Runs all watches until the receiver is dropped. Each is a task of its own: at a start they parse side by side.
pub(crate) async fn watch(client: kube::Client, keep_vm_ip: bool, inputs: mpsc::Sender<Input>) {
    let (machines, instances) = (Kind::Replicas(ReplicasKind::VirtualMachine), Kind::Replicas(ReplicasKind::Instance));
    let built_in = stream::pending;
    let (c, i) = (&client, &inputs);
    let mut tasks = JoinSet::new();
    tasks.spawn(feed(c.clone(), Kind::Vpc, vpc, definitions::<v1::Vpc>(c), i.clone()));
    tasks.spawn(feed(c.clone(), Kind::Subnet, subnet, definitions::<v1::Subnet>(c), i.clone()));
    tasks.spawn(feed(c.clone(), Kind::Namespace, namespace, built_in(), i.clone()));
    tasks.spawn(feed(c.clone(), Kind::Node, node, built_in(), i.clone()));
    let defined = definitions::<v1::ProviderNetwork>(c);
    tasks.spawn(feed(c.clone(), Kind::ProviderNetwork, provider_network, defined, i.clone()));
    tasks.spawn(feed(c.clone(), Kind::Vlan, vlan, definitions::<v1::Vlan>(c), i.clone()));
    tasks.spawn(feed(c.clone(), Kind::Pod, if keep_vm_ip { pod } else { plain_pod }, built_in(), i.clone()));
    let defined = definitions::<NetworkAttachmentDefinitionView>(c);
    tasks.spawn(feed(c.clone(), Kind::Definition, definition, defined, i.clone()));
    tasks.spawn(feed(c.clone(), Kind::IpPool, pool, definitions::<v1::IpPool>(c), i.clone()));
    tasks.spawn(feed(c.clone(), Kind::Vip, vip, definitions::<v1::Vip>(c), i.clone()));
    tasks.spawn(feed(c.clone(), Kind::Ip, ip, definitions::<v1::Ip>(c), i.clone()));
    tasks.spawn(feed(c.clone(), Kind::Replicas(ReplicasKind::StatefulSet), stateful_set, built_in(), i.clone()));
    if keep_vm_ip {
        tasks.spawn(feed(c.clone(), machines, virtual_machine, definitions::<VirtualMachineView>(c), i.clone()));
        tasks.spawn(feed(c.clone(), instances, instance, definitions::<VirtualMachineInstanceView>(c), i.clone()));
    } else {
        for kind in [machines, instances] {
            let _ = inputs.send(Input::Replaced(kind, Vec::new())).await;
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn doubted_if(doubtful: bool, input: Input) -> Input {
    if doubtful { Input::Undefined(Box::new(input)) } else { input }
}

fn definition_of<K: Resource<DynamicType = ()>>() -> String {
    format!("{}.{}", K::plural(&()), K::group(&()))
}

/// Whether the kind is a custom one whose definition is gone or going: its objects go with it, which nobody may have meant.
async fn is_undefined<K: Resource<DynamicType = ()>>(client: &kube::Client) -> bool {
    // Built-in groups have one label, or end in `.k8s.io`.
    if !K::group(&()).contains('.') || K::group(&()).ends_with(".k8s.io") {
        return false;
    }
    let api = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
    let mut pause = FIRST_PAUSE;
    loop {
        match api.get_opt(&definition_of::<K>()).await {
            Ok(definition) => return definition.is_none_or(|definition| definition.metadata.deletion_timestamp.is_some()),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::warn!(kind = %K::kind(&()), "whether its definition stands cannot be read: deletions are believed");
                return false;
            }
            Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "whether its definition stands is not known yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// Yields whenever the definition of a kind that need not be installed comes or changes.
fn definitions<K: Resource<DynamicType = ()>>(client: &kube::Client) -> impl Stream<Item = ()> + Send + use<K> {
    let name = format!("metadata.name={}", definition_of::<K>());
    let api = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
    watcher::watcher(api, watcher::Config::default().fields(&name)).default_backoff().filter_map(|event| {
        // Errors do not matter: the kind's own watch tries again by itself, with longer and longer pauses.
        std::future::ready(matches!(event, Ok(Event::Apply(_) | Event::InitApply(_))).then_some(()))
    })
}

/// Follows the objects of a kind. When `definitions` of a kind that is not served yield, it is tried again at once. Of a kind
/// that the cluster need not serve there is none until it is.
async fn feed<K>(
    client: kube::Client,
    kind: Kind,
    parse: fn(&K) -> Object,
    definitions: impl Stream<Item = ()> + Send,
    inputs: mpsc::Sender<Input>,
) where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + fmt::Debug + Send + 'static,
{
    let follow = || Box::pin(watcher::watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff());
    let mut events = follow();
    let mut definitions = std::pin::pin!(definitions);
    let optional = matches!(kind, Kind::Definition | Kind::Replicas(ReplicasKind::VirtualMachine | ReplicasKind::Instance));
    let mut listing = Vec::new();
    // Of those that are being deleted: where in the list, and as what.
    let mut going = Vec::new();
    let mut unserved = false;
    let mut pause = FIRST_PAUSE;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(()) = definitions.next() => {
                if unserved {
                    events = follow();
                }
                continue;
            }
        };
        let input = match event {
            None => return,
            Some(Ok(Event::Init)) => {
                listing.clear();
                going.clear();
                continue;
            }
            Some(Ok(Event::InitApply(mut object))) => {
                let parsed = parse(&object);
                if object.meta().deletion_timestamp.is_some() && parsed.is_missed() {
                    going.push((listing.len(), parsed));
                    object.meta_mut().deletion_timestamp = None;
                    listing.push(parse(&object));
                } else {
                    listing.push(parsed);
                }
                continue;
            }
            Some(Ok(Event::InitDone)) => {
                unserved = false;
                let (mut listing, going) = (std::mem::take(&mut listing), std::mem::take(&mut going));
                if !going.is_empty() && is_undefined::<K>(&client).await {
                    // They were there, and whether they are to go is for a person to say.
                    if inputs.send(Input::Replaced(kind, listing)).await.is_err() {
                        return;
                    }
                    for (_, object) in going {
                        if inputs.send(Input::Undefined(Box::new(Input::Set(Box::new(object))))).await.is_err() {
                            return;
                        }
                    }
                    continue;
                }
                for (at, object) in going {
                    listing[at] = object;
                }
                Input::Replaced(kind, listing)
            }
            Some(Ok(Event::Apply(object))) => {
                let is_deleted = object.meta().deletion_timestamp.is_some();
                let object = parse(&object);
                let doubtful = is_deleted && object.is_missed() && is_undefined::<K>(&client).await;
                doubted_if(doubtful, Input::Set(Box::new(object)))
            }
            Some(Ok(Event::Delete(object))) => {
                let object = parse(&object);
                let doubtful = object.is_missed() && is_undefined::<K>(&client).await;
                doubted_if(doubtful, Input::Removed(object.key()))
            }
            Some(Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))) if status.code == 404 => {
                // Not to be served is not to be empty: without its definition nothing is known of a kind of ours.
                let known = std::mem::replace(&mut unserved, true);
                if !known {
                    tracing::warn!(%kind, optional, "this API server does not serve the kind");
                }
                if known || !optional {
                    continue;
                }
                Input::Replaced(kind, Vec::new())
            }
            // The API server knows no more, or not yet, what came after the last change seen here: perhaps it was restored from
            // a backup. The watcher would ask the same for ever.
            Some(Err(watcher::Error::WatchStartFailed(kube::Error::Api(status)))) if matches!(status.code, 410 | 504) => {
                tracing::warn!(%kind, reason = %status.reason, message = %status.message, "listed anew");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
                events = follow();
                continue;
            }
            Some(Err(error)) => {
                tracing::warn!(%kind, %error, "watch interrupted; it goes on by itself");
                continue;
            }
        };
        if matches!(input, Input::Set(_) | Input::Removed(_)) {
            pause = FIRST_PAUSE;
        }
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_list_of_very_many_objects_is_held_in_little_room() {
        assert!(size_of::<Object>() <= 264, "{} bytes", size_of::<Object>());
    }
}
