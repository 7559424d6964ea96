//! Watches, parsed at once into inputs. A relist arrives as one atomic replacement.

use std::sync::Arc;

use api::v1;
use api::view::{NamespaceView, PodView, StatefulSetView, VirtualMachineInstanceView, VirtualMachineView};
use engine::Age;
use futures::{Stream, StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use tokio::sync::mpsc;
use topology::{Ip, Namespace, Pod, PodKey, Pool, Problem, Replicas, ReplicasKey, ReplicasKind, Subnet, Vip, Vpc, Workload, input};

type Name = Arc<str>;

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
    Vpc(Name, Vpc, Age, Shown<v1::VpcStatus>),
    Subnet(Name, Subnet, Age, Shown<v1::SubnetStatus>),
    Namespace(Name, Namespace, Age),
    /// `None`: the pod needs no network of its own.
    Pod(PodKey, Option<Pod>, Age),
    IpPool(Name, Pool, Age, Shown<v1::IpPoolStatus>),
    Vip(Name, Vip, Age, ShownVip),
    /// An error: it reserves nothing, and the user is told why.
    Ip(Name, Result<Option<Ip>, Problem>, Age, ShownIp),
    /// `None`: it keeps nothing any more.
    Replicas(ReplicasKey, Option<Replicas>, Age),
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Vpc(Name),
    Subnet(Name),
    Namespace(Name),
    Pod(PodKey),
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
    Pod,
    IpPool,
    Vip,
    Ip,
    Replicas(ReplicasKind),
}

pub(crate) const KINDS: [Kind; 10] = [
    Kind::Vpc,
    Kind::Subnet,
    Kind::Namespace,
    Kind::Pod,
    Kind::IpPool,
    Kind::Vip,
    Kind::Ip,
    Kind::Replicas(ReplicasKind::StatefulSet),
    Kind::Replicas(ReplicasKind::VirtualMachine),
    Kind::Replicas(ReplicasKind::Instance),
];

impl Object {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Vpc(name, ..) => Key::Vpc(Arc::clone(name)),
            Self::Subnet(name, ..) => Key::Subnet(Arc::clone(name)),
            Self::Namespace(name, ..) => Key::Namespace(Arc::clone(name)),
            Self::Pod(key, ..) => Key::Pod(key.clone()),
            Self::IpPool(name, ..) => Key::IpPool(Arc::clone(name)),
            Self::Vip(name, ..) => Key::Vip(Arc::clone(name)),
            Self::Ip(name, ..) => Key::Ip(Arc::clone(name)),
            Self::Replicas(key, ..) => Key::Replicas(key.clone()),
        }
    }
}

impl Key {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Vpc(_) => Kind::Vpc,
            Self::Subnet(_) => Kind::Subnet,
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
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
}

pub(crate) fn vpc(object: &v1::Vpc) -> Object {
    let (name, vpc, age) = input::vpc(object);
    Object::Vpc(name, vpc, age, Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), None))
}

pub(crate) fn subnet(object: &v1::Subnet) -> Object {
    let (name, subnet, age) = input::subnet(object);
    let defaults = input::subnet_defaults(object);
    let shown = Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), defaults);
    Object::Subnet(name, subnet, age, Shown { in_force: input::in_force(object), ..shown })
}

fn pool(object: &v1::IpPool) -> Object {
    let (name, pool, age) = input::pool(object);
    Object::IpPool(name, pool, age, Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), None))
}

fn vip(object: &v1::Vip) -> Object {
    let (name, vip, age) = input::vip(object);
    let shown = Shown::new(&object.metadata, object.status.clone().unwrap_or_default(), None);
    let (r#type, selector) = (object.spec.r#type.clone().unwrap_or_default(), object.spec.selector.clone().unwrap_or_default());
    Object::Vip(name, vip, age, ShownVip { shown, r#type, selector })
}

fn namespace(object: &NamespaceView) -> Object {
    let (name, namespace, age) = input::namespace(object);
    Object::Namespace(name, namespace, age)
}

fn pod(object: &PodView) -> Object {
    let (key, pod, age) = input::pod(object);
    Object::Pod(key, pod, age)
}

/// A pod whose virtual machine keeps nothing for it.
fn plain_pod(object: &PodView) -> Object {
    let (key, mut pod, age) = input::pod(object);
    if let Some(pod) = &mut pod
        && matches!(pod.workload, Some(Workload::VirtualMachine(_)))
    {
        pod.workload = None;
    }
    Object::Pod(key, pod, age)
}

fn ip(object: &v1::Ip) -> Object {
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
    Object::Replicas(key, replicas, input::age(&object.metadata))
}

/// Runs all watches until the receiver is dropped.
pub(crate) async fn watch(client: kube::Client, keep_vm_ip: bool, inputs: mpsc::Sender<Input>) {
    let (machines, instances) = (Kind::Replicas(ReplicasKind::VirtualMachine), Kind::Replicas(ReplicasKind::Instance));
    let virtual_machines = async {
        if keep_vm_ip {
            tokio::join!(
                feed(&client, machines, virtual_machine, definitions::<VirtualMachineView>(&client), &inputs),
                feed(&client, instances, instance, definitions::<VirtualMachineInstanceView>(&client), &inputs),
            );
        } else {
            for kind in [machines, instances] {
                let _ = inputs.send(Input::Replaced(kind, Vec::new())).await;
            }
        }
    };
    let ours = stream::pending;
    tokio::join!(
        feed(&client, Kind::Vpc, vpc, ours(), &inputs),
        feed(&client, Kind::Subnet, subnet, ours(), &inputs),
        feed(&client, Kind::Namespace, namespace, ours(), &inputs),
        feed(&client, Kind::Pod, if keep_vm_ip { pod } else { plain_pod }, ours(), &inputs),
        feed(&client, Kind::IpPool, pool, ours(), &inputs),
        feed(&client, Kind::Vip, vip, ours(), &inputs),
        feed(&client, Kind::Ip, ip, ours(), &inputs),
        feed(&client, Kind::Replicas(ReplicasKind::StatefulSet), stateful_set, ours(), &inputs),
        virtual_machines,
    );
}

/// Yields whenever the definition of a kind that need not be installed comes or changes.
fn definitions<K: Resource<DynamicType = ()>>(client: &kube::Client) -> impl Stream<Item = ()> + Send + use<K> {
    let name = format!("metadata.name={}.{}", K::plural(&()), K::group(&()));
    let api = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client.clone());
    watcher::watcher(api, watcher::Config::default().fields(&name)).default_backoff().filter_map(|event| {
        // Errors do not matter: the kind's own watch tries again by itself, with longer and longer pauses.
        std::future::ready(matches!(event, Ok(Event::Apply(_) | Event::InitApply(_))).then_some(()))
    })
}

/// Follows the objects of a kind. One that the cluster need not serve has `definitions`: there is none of it until it is
/// served, which is tried at once when they yield.
async fn feed<K>(
    client: &kube::Client,
    kind: Kind,
    parse: fn(&K) -> Object,
    definitions: impl Stream<Item = ()> + Send,
    inputs: &mpsc::Sender<Input>,
) where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let follow = || Box::pin(watcher::watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff());
    let mut events = follow();
    let mut definitions = std::pin::pin!(definitions);
    let optional = matches!(kind, Kind::Replicas(ReplicasKind::VirtualMachine | ReplicasKind::Instance));
    let mut listing = Vec::new();
    let mut unserved = false;
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
                continue;
            }
            Some(Ok(Event::InitApply(object))) => {
                listing.push(parse(&object));
                continue;
            }
            Some(Ok(Event::InitDone)) => {
                unserved = false;
                Input::Replaced(kind, std::mem::take(&mut listing))
            }
            Some(Ok(Event::Apply(object))) => Input::Set(Box::new(parse(&object))),
            Some(Ok(Event::Delete(object))) => Input::Removed(parse(&object).key()),
            Some(Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))) if status.code == 404 && optional => {
                if unserved {
                    continue;
                }
                tracing::info!(?kind, "this API server does not serve the kind");
                unserved = true;
                Input::Replaced(kind, Vec::new())
            }
            // Not to be served is not to be empty: without its definition nothing is known of a kind of ours.
            Some(Err(error)) => {
                tracing::warn!(?kind, %error, "watch interrupted; it goes on by itself");
                continue;
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}
