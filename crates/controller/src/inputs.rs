//! Watches, parsed at once into inputs. A relist arrives as one atomic replacement.

use std::sync::Arc;

use api::v1;
use api::view::{NamespaceView, PodView};
use engine::Age;
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use tokio::sync::mpsc;
use topology::{Namespace, Pod, PodKey, Subnet, Vpc, input};

type Name = Arc<str>;

/// What the API server shows of an object of ours besides its intent: needed to write status and finalizers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown<S> {
    pub(crate) uid: Name,
    pub(crate) generation: Option<i64>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) status: S,
}

impl<S> Shown<S> {
    fn new(meta: &ObjectMeta, status: S) -> Self {
        Self {
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            generation: meta.generation,
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            status,
        }
    }
}

/// An object as it is now.
#[derive(Debug)]
pub(crate) enum Object {
    Vpc(Name, Vpc, Age, Shown<v1::VpcStatus>),
    Subnet(Name, Subnet, Age, Shown<v1::SubnetStatus>),
    Namespace(Name, Namespace, Age),
    /// `None`: the pod needs no network of its own.
    Pod(PodKey, Option<Pod>, Age),
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Vpc(Name),
    Subnet(Name),
    Namespace(Name),
    Pod(PodKey),
}

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Vpc,
    Subnet,
    Namespace,
    Pod,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Vpc, Kind::Subnet, Kind::Namespace, Kind::Pod];

impl Object {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Vpc(name, ..) => Key::Vpc(Arc::clone(name)),
            Self::Subnet(name, ..) => Key::Subnet(Arc::clone(name)),
            Self::Namespace(name, ..) => Key::Namespace(Arc::clone(name)),
            Self::Pod(key, ..) => Key::Pod(key.clone()),
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
    Object::Vpc(name, vpc, age, Shown::new(&object.metadata, object.status.clone().unwrap_or_default()))
}

pub(crate) fn subnet(object: &v1::Subnet) -> Object {
    let (name, subnet, age) = input::subnet(object);
    Object::Subnet(name, subnet, age, Shown::new(&object.metadata, object.status.clone().unwrap_or_default()))
}

fn namespace(object: &NamespaceView) -> Object {
    let (name, namespace, age) = input::namespace(object);
    Object::Namespace(name, namespace, age)
}

fn pod(object: &PodView) -> Object {
    let (key, pod, age) = input::pod(object);
    Object::Pod(key, pod, age)
}

/// Runs all watches until the receiver is dropped.
pub(crate) async fn watch(client: kube::Client, inputs: mpsc::Sender<Input>) {
    tokio::join!(
        feed(Api::all(client.clone()), Kind::Vpc, vpc, &inputs),
        feed(Api::all(client.clone()), Kind::Subnet, subnet, &inputs),
        feed(Api::all(client.clone()), Kind::Namespace, namespace, &inputs),
        feed(Api::all(client), Kind::Pod, pod, &inputs),
    );
}

async fn feed<K>(api: Api<K>, kind: Kind, parse: fn(&K) -> Object, inputs: &mpsc::Sender<Input>)
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut listing = Vec::new();
    while let Some(event) = events.next().await {
        let input = match event {
            Ok(Event::Init) => {
                listing.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listing.push(parse(&object));
                continue;
            }
            Ok(Event::InitDone) => Input::Replaced(kind, std::mem::take(&mut listing)),
            Ok(Event::Apply(object)) => Input::Set(Box::new(parse(&object))),
            Ok(Event::Delete(object)) => Input::Removed(parse(&object).key()),
            Err(error) => {
                tracing::warn!(?kind, %error, "watch interrupted; it goes on by itself");
                continue;
            }
        };
        if inputs.send(input).await.is_err() {
            return;
        }
    }
}
