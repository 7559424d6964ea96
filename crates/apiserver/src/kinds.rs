//! The kinds that are served: a table of the built-in ones, and those that CustomResourceDefinitions add.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::{apps, coordination, core, discovery, events, networking};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use rustc_hash::FxHashMap;
use serde_json::Value;

use crate::admission::Admission;
use crate::store::Store;
use crate::typed::{Typed, of};

/// A served kind, in one version.
#[derive(Debug)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short: Vec<String>,
    pub namespaced: bool,
    /// Whether status is a subresource of its own.
    pub status: bool,
    /// Schema and rules of a custom kind.
    pub admission: Option<Admission>,
    /// The type of a built-in kind.
    pub typed: Option<Typed>,
    /// `additionalPrinterColumns` of a custom kind.
    pub columns: Vec<Value>,
    /// JSONPaths of the fields of a custom kind that may be selected.
    pub selectable: Vec<String>,
    /// Groups of kinds that it belongs to, such as `all`.
    pub categories: Vec<String>,
    /// Key and version of the definition of a custom kind.
    pub definition: Option<(String, u64)>,
    /// A custom kind whose definition is being deleted accepts nothing new.
    pub terminating: bool,
}

impl Kind {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `plural` or `plural.group`: the resource as messages name it.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `Kind` or `Kind.group`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }

    /// What all keys of the kind start with.
    pub fn prefix(&self) -> String {
        resource_prefix(&self.plural, &self.group)
    }

    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace {
            Some(namespace) => format!("{}{namespace}/{name}", self.prefix()),
            None => format!("{}{name}", self.prefix()),
        }
    }

    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }

    pub fn is_pod(&self) -> bool {
        self.is("", "Pod")
    }

    pub fn is_namespace(&self) -> bool {
        self.is("", "Namespace")
    }

    pub fn is_definition(&self) -> bool {
        self.is(DEFINITIONS, "CustomResourceDefinition")
    }

    /// Whether `metadata.generation` counts changes of what is wanted.
    pub fn counts_generations(&self) -> bool {
        let uncounted = self.is_namespace() || self.is("", "Node") || self.is("", "Service");
        self.admission.is_some() || (self.status && !uncounted)
    }
}

pub fn resource_prefix(plural: &str, group: &str) -> String {
    if group.is_empty() { format!("{plural}/") } else { format!("{plural}.{group}/") }
}

pub const DEFINITIONS: &str = "apiextensions.k8s.io";
const NAMESPACED: bool = true;
const CLUSTER: bool = false;
const STATUS: bool = true;
const PLAIN: bool = false;

/// group, version, kind, plural, scope, status subresource, short names, type.
type Row = (&'static str, &'static str, &'static str, &'static str, bool, bool, &'static [&'static str], Typed);

const BUILT_IN: &[Row] = &[
    ("", "v1", "ConfigMap", "configmaps", NAMESPACED, PLAIN, &["cm"], of::<core::v1::ConfigMap>()),
    ("", "v1", "Endpoints", "endpoints", NAMESPACED, PLAIN, &["ep"], of::<core::v1::Endpoints>()),
    ("", "v1", "Event", "events", NAMESPACED, PLAIN, &["ev"], of::<core::v1::Event>()),
    ("", "v1", "Namespace", "namespaces", CLUSTER, STATUS, &["ns"], of::<core::v1::Namespace>()),
    ("", "v1", "Node", "nodes", CLUSTER, STATUS, &["no"], of::<core::v1::Node>()),
    ("", "v1", "Pod", "pods", NAMESPACED, STATUS, &["po"], of::<core::v1::Pod>()),
    ("", "v1", "Secret", "secrets", NAMESPACED, PLAIN, &[], of::<core::v1::Secret>()),
    ("", "v1", "Service", "services", NAMESPACED, STATUS, &["svc"], of::<core::v1::Service>()),
    ("", "v1", "ServiceAccount", "serviceaccounts", NAMESPACED, PLAIN, &["sa"], of::<core::v1::ServiceAccount>()),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        CLUSTER,
        STATUS,
        &["crd", "crds"],
        of::<CustomResourceDefinition>(),
    ),
    ("apps", "v1", "Deployment", "deployments", NAMESPACED, STATUS, &["deploy"], of::<apps::v1::Deployment>()),
    ("apps", "v1", "StatefulSet", "statefulsets", NAMESPACED, STATUS, &["sts"], of::<apps::v1::StatefulSet>()),
    ("coordination.k8s.io", "v1", "Lease", "leases", NAMESPACED, PLAIN, &[], of::<coordination::v1::Lease>()),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", NAMESPACED, PLAIN, &[], of::<discovery::v1::EndpointSlice>()),
    ("events.k8s.io", "v1", "Event", "events", NAMESPACED, PLAIN, &["ev"], of::<events::v1::Event>()),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", NAMESPACED, PLAIN, &["netpol"], of::<networking::v1::NetworkPolicy>()),
];

/// What `kubectl get all` means.
const ALL: [&str; 4] = ["pods", "services", "deployments", "statefulsets"];

pub fn built_in() -> Vec<Arc<Kind>> {
    let kind = |&(group, version, kind, plural, namespaced, status, short, typed): &Row| {
        Arc::new(Kind {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            short: short.iter().map(|&s| s.to_owned()).collect(),
            namespaced,
            status,
            admission: None,
            typed: Some(typed),
            columns: Vec::new(),
            selectable: Vec::new(),
            categories: if ALL.contains(&plural) { vec!["all".to_owned()] } else { Vec::new() },
            definition: None,
            terminating: false,
        })
    };
    BUILT_IN.iter().map(kind).collect()
}

/// Kinds of one definition, compiled from its object at this version.
#[derive(Debug, Clone)]
struct Compiled {
    rv: u64,
    kinds: Vec<Arc<Kind>>,
}

/// Finds kinds by group, version and plural. Definitions are read from the store, so that an endpoint exists exactly as
/// long as its definition does; what they compile to is remembered per version of the definition.
#[derive(Debug)]
pub struct Kinds {
    built_in: Vec<Arc<Kind>>,
    compiled: Mutex<FxHashMap<String, Compiled>>,
}

impl Kinds {
    pub fn new() -> Self {
        Self { built_in: built_in(), compiled: Mutex::default() }
    }

    pub fn find(&self, store: &Store, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        let matches = |kind: &&Arc<Kind>| kind.group == group && kind.version == version && kind.plural == plural;
        self.built_in.iter().find(matches).cloned().or_else(|| {
            let name = format!("{plural}.{group}");
            self.of_definition(store, &name).iter().find(matches).cloned()
        })
    }

    /// The kind whose keys start like this one, in some version.
    pub fn at(&self, store: &Store, key: &str) -> Option<Arc<Kind>> {
        let resource = key.split('/').next().unwrap_or_default();
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let matches = |kind: &&Arc<Kind>| kind.group == group && kind.plural == plural;
        self.built_in.iter().find(matches).or(self.of_definition(store, resource).first()).cloned()
    }

    /// The kind of this name, as references to objects have it.
    pub fn named(&self, store: &Store, group: &str, version: &str, name: &str) -> Option<Arc<Kind>> {
        let matches = |kind: &&Arc<Kind>| kind.kind == name && kind.group == group && kind.version == version;
        self.built_in.iter().find(matches).cloned().or_else(|| {
            let prefix = definitions_prefix();
            let keys = if group.is_empty() { Vec::new() } else { store.keys(&prefix) };
            let mut names = keys.iter().filter_map(|key| key.strip_prefix(&prefix));
            names.find_map(|name| self.of_definition(store, name).iter().find(matches).cloned())
        })
    }

    /// Every kind that is served now.
    pub fn all(&self, store: &Store) -> Vec<Arc<Kind>> {
        let mut kinds = self.built_in.clone();
        let prefix = definitions_prefix();
        for key in store.keys(&prefix) {
            if let Some(name) = key.strip_prefix(&prefix) {
                kinds.extend(self.of_definition(store, name));
            }
        }
        kinds
    }

    fn of_definition(&self, store: &Store, name: &str) -> Vec<Arc<Kind>> {
        let key = format!("{}{name}", definitions_prefix());
        let entry = store.latest(&key);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entry else {
            compiled.remove(name);
            return Vec::new();
        };
        match compiled.get(name) {
            Some(known) if known.rv == entry.rv => known.kinds.clone(),
            _ => {
                let definition: Value = serde_json::from_slice(&entry.bytes).unwrap_or_default();
                let kinds: Vec<_> = crate::definition::kinds(&definition, &key, entry.rv).into_iter().map(Arc::new).collect();
                compiled.insert(name.to_owned(), Compiled { rv: entry.rv, kinds: kinds.clone() });
                kinds
            }
        }
    }
}

fn definitions_prefix() -> String {
    resource_prefix("customresourcedefinitions", DEFINITIONS)
}
