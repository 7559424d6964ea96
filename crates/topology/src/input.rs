//! From API objects to inputs: parsed once, without status or metadata noise.

use std::net::IpAddr;
use std::sync::Arc;

use api::annotations::{self, LOGICAL_SWITCH};
use api::cidr::parse_addresses;
use api::view::{NamespaceView, PodView};
use api::{Cidrs, DEFAULT_VPC, FINALIZER, OVN_PROVIDER, v1};
use engine::Age;
use k8s_meta::ObjectMeta;

use crate::fact::Problem;
use crate::world::{Name, Namespace, Pod, PodKey, Subnet, SubnetSpec, Vpc};

mod k8s_meta {
    pub(super) use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
}

/// When the object was created, for conflicts.
#[must_use]
pub fn age(meta: &ObjectMeta) -> Age {
    Age(meta.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second()))
}

fn name(meta: &ObjectMeta) -> Name {
    meta.name.as_deref().unwrap_or_default().into()
}

fn uid(meta: &ObjectMeta) -> Name {
    meta.uid.as_deref().unwrap_or_default().into()
}

fn finalizer(meta: &ObjectMeta) -> bool {
    meta.finalizers.as_ref().is_some_and(|list| list.iter().any(|f| f == FINALIZER))
}

/// A VPC.
#[must_use]
pub fn vpc(object: &v1::Vpc) -> (Name, Vpc, Age) {
    let meta = &object.metadata;
    let vpc = Vpc { uid: uid(meta), deleting: meta.deletion_timestamp.is_some(), finalizer: finalizer(meta) };
    (name(meta), vpc, age(meta))
}

/// A subnet.
#[must_use]
pub fn subnet(object: &v1::Subnet) -> (Name, Subnet, Age) {
    let meta = &object.metadata;
    let age = age(meta);
    let subnet = Subnet {
        uid: uid(meta),
        deleting: meta.deletion_timestamp.is_some(),
        finalizer: finalizer(meta),
        created: age.0,
        spec: subnet_spec(&object.spec),
    };
    (name(meta), subnet, age)
}

fn subnet_spec(spec: &v1::SubnetSpec) -> Result<SubnetSpec, Problem> {
    let bad = |field: &str, why: &dyn std::fmt::Display| Problem { reason: "BadField", message: format!("spec.{field}: {why}") };
    let not_yet = |field: &str, value: &str| Problem { reason: "NotYet", message: format!("spec.{field}: {value}: not yet") };
    if let Some(provider) = spec.provider.as_deref().filter(|p| !p.is_empty() && *p != OVN_PROVIDER) {
        return Err(not_yet("provider", provider));
    }
    if let Some(vlan) = spec.vlan.as_deref().filter(|v| !v.is_empty()) {
        return Err(not_yet("vlan", vlan));
    }
    let cidrs: Cidrs = spec.cidr_block.as_deref().unwrap_or_default().parse().map_err(|e| bad("cidrBlock", &e))?;
    let given = parse_addresses(spec.gateway.as_deref().unwrap_or_default()).map_err(|e| bad("gateway", &e))?;
    if let Some(outside) = given.iter().find(|ip| !cidrs.contains(**ip)) {
        return Err(bad("gateway", &format!("{outside} lies outside cidrBlock {cidrs}")));
    }
    if let Some(edge) =
        given.iter().find(|ip| cidrs.of_family(**ip).is_some_and(|net| **ip == net.network() || (ip.is_ipv4() && **ip == net.broadcast())))
    {
        return Err(bad("gateway", &format!("{edge} is the network or broadcast address of cidrBlock {cidrs}")));
    }
    let gateways = cidrs
        .first_hosts()
        .into_iter()
        .map(|first| given.iter().copied().find(|g| g.is_ipv4() == first.is_ipv4()).unwrap_or(first))
        .collect();
    let mut excluded = Vec::new();
    for entry in spec.exclude_ips.iter().flatten().flat_map(|e| e.split(',')).map(str::trim).filter(|e| !e.is_empty()) {
        excluded.push(range(entry).map_err(|e| bad("excludeIps", &e))?);
    }
    let vpc = spec.vpc.as_deref().filter(|v| !v.is_empty()).unwrap_or(DEFAULT_VPC);
    Ok(SubnetSpec {
        vpc: vpc.into(),
        cidrs,
        gateways,
        excluded,
        namespaces: spec.namespaces.iter().flatten().map(|n| n.as_str().into()).collect(),
        default: spec.default.unwrap_or(false),
    })
}

/// `a` or `a..b`, inclusive.
fn range(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let parse = |t: &str| t.trim().parse::<IpAddr>().map_err(|_| format!("{text:?} is neither an address nor a range a..b"));
    let (from, to) = (parse(from)?, parse(to)?);
    if from.is_ipv4() != to.is_ipv4() || from > to {
        return Err(format!("{text:?} does not run from a lower to a higher address of one family"));
    }
    Ok((from, to))
}

/// A namespace.
#[must_use]
pub fn namespace(object: &NamespaceView) -> (Name, Namespace, Age) {
    let meta = &object.metadata;
    let subnet = meta.annotations.as_ref().and_then(|a| a.get(LOGICAL_SWITCH)).and_then(|list| list.split(',').next());
    let subnet = subnet.map(str::trim).filter(|s| !s.is_empty()).map(Arc::from);
    (name(meta), Namespace { subnet }, age(meta))
}

/// Name and namespace of a pod.
#[must_use]
pub fn pod_key(meta: &ObjectMeta) -> PodKey {
    PodKey { namespace: meta.namespace.as_deref().unwrap_or_default().into(), name: name(meta) }
}

/// A pod; `None` when it needs no network of its own, because it uses its node's or has ended.
#[must_use]
pub fn pod(object: &PodView) -> (PodKey, Option<Pod>, Age) {
    let meta = &object.metadata;
    let key = pod_key(meta);
    if object.spec.host_network == Some(true) || object.is_over() {
        return (key, None, age(meta));
    }
    let none = Default::default();
    let notes = meta.annotations.as_ref().unwrap_or(&none);
    let (asked, recorded) = match annotations::recorded(notes) {
        Ok(recorded) => (annotations::requested(notes), recorded),
        Err(why) => (Err(why), None),
    };
    (key, Some(Pod { uid: uid(meta), asked, recorded }), age(meta))
}
