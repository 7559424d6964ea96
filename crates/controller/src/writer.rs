//! One write to the API server: what it is, taken from the core, and how it is carried out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::annotations::{self, NicRecord, join};
use api::view::{NodeView, PodView};
use api::{Condition, DEFAULT_SUBNET, DEFAULT_VPC, FINALIZER, MacAddr, OVN_PROVIDER, networks, v1};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};

use topology::SubnetState;

use crate::core::{Core, NicToRecord, PodRecord};
use crate::inputs::Shown;
use crate::ip_object::{self, Content};
use crate::outputs::{Output, Subject};
use crate::status;

/// A write, ready to go.
#[derive(Debug)]
pub(crate) enum Write {
    PodAnnotations { namespace: String, name: String, patch: Value },
    NodeAnnotations { name: String, patch: Value },
    Subnet { name: String, patch: Value, subresource: bool },
    Vpc { name: String, patch: Value, subresource: bool },
    ProviderNetwork { name: String, patch: Value, subresource: bool },
    Vlan { name: String, patch: Value, subresource: bool },
    IpPool { name: String, patch: Value },
    Vip { name: String, patch: Value },
    Event(Box<k8s_openapi::api::core::v1::Event>),
    CreateIp(Box<v1::Ip>),
    PatchIp { name: String, patch: Value },
    DeleteIp { name: String, uid: String },
}

/// What is to be written for `output` now; `None` when the API server shows it already.
pub(crate) fn prepare(core: &Core, output: &Output, now: Timestamp) -> Option<Write> {
    let now_text = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    match output {
        Output::Pod(key) => {
            let PodRecord { uid, machine, nics } = core.pod_record(key)?;
            let mut notes: BTreeMap<String, String> = nics.iter().flat_map(nic_annotations).collect();
            notes.extend(machine.map(|machine| (annotations::VIRTUAL_MACHINE.to_owned(), machine.to_string())));
            // The uid is a precondition: a pod that was re-created meanwhile is not ours to annotate.
            let patch = json!({ "metadata": { "uid": uid, "annotations": notes } });
            Some(Write::PodAnnotations { namespace: key.namespace.to_string(), name: key.name.to_string(), patch })
        }
        Output::Node(name) => {
            let (uid, record) = core.node_record(name)?;
            let mut notes: BTreeMap<String, String> = record_annotations(OVN_PROVIDER, record).into_iter().collect();
            notes.insert(annotations::PORT_NAME.to_owned(), api::node_port(name));
            let patch = json!({ "metadata": { "uid": uid, "annotations": notes } });
            Some(Write::NodeAnnotations { name: name.to_string(), patch })
        }
        Output::Subnet(name) => {
            let (state, addresses, shown) = core.subnet(name)?;
            let name = name.to_string();
            let stranding = core.stranding(&name);
            let mac = core.gateway_macs().get(name.as_str()).copied();
            if let Some(patch) = subnet(state, shown, stranding.map(|waiting| waiting.in_force.as_str()), mac) {
                return Some(Write::Subnet { name, patch, subresource: false });
            }
            let blocked = stranding.map(|waiting| waiting.problem.clone());
            let blocked = blocked.or_else(|| core.blocked(&Subject::Subnet(name.as_str().into())));
            let blocked = blocked.or_else(|| core.interconnection_problem(&name));
            let dhcp = core.dhcp_rows(state);
            let gateway = core.active_gateway(&name);
            let wanted = status::subnet(state, blocked.as_ref(), &addresses, dhcp, shown.generation, gateway, &shown.status);
            let patch = status_patch(&wanted, wanted.conditions.as_deref(), &shown.status, shown.status.conditions.as_deref(), &now_text)?;
            Some(Write::Subnet { name, patch, subresource: true })
        }
        Output::Vpc(name) => {
            let (state, shown) = core.vpc(name)?;
            let name = name.to_string();
            if let Some(patch) = finalizers(shown, state.finalizer) {
                return Some(Write::Vpc { name, patch, subresource: false });
            }
            let default = state.subnets.iter().any(|subnet| name == DEFAULT_VPC && **subnet == *DEFAULT_SUBNET);
            let held = if name == DEFAULT_VPC {
                status::removal_held(core.held(), shown.status.conditions.as_deref().unwrap_or_default())
            } else {
                None
            };
            let wanted = status::vpc(&name, state, shown.generation, default.then_some(DEFAULT_SUBNET), held);
            let patch = status_patch(&wanted, wanted.conditions.as_deref(), &shown.status, shown.status.conditions.as_deref(), &now_text)?;
            Some(Write::Vpc { name, patch, subresource: true })
        }
        Output::ProviderNetwork(name) => {
            let (state, shown) = core.provider_network(name)?;
            let name = name.to_string();
            if let Some(patch) = finalizers(shown, state.finalizer) {
                return Some(Write::ProviderNetwork { name, patch, subresource: false });
            }
            let wanted = status::provider_network(state, shown.generation);
            let patch = status_patch(&wanted, wanted.conditions.as_deref(), &shown.status, shown.status.conditions.as_deref(), &now_text)?;
            Some(Write::ProviderNetwork { name, patch, subresource: true })
        }
        Output::Vlan(name) => {
            let (state, shown) = core.vlan(name)?;
            let name = name.to_string();
            if let Some(patch) = finalizers(shown, state.finalizer) {
                return Some(Write::Vlan { name, patch, subresource: false });
            }
            let wanted = status::vlan(state, shown.generation);
            let patch = status_patch(&wanted, wanted.conditions.as_deref(), &shown.status, shown.status.conditions.as_deref(), &now_text)?;
            Some(Write::Vlan { name, patch, subresource: true })
        }
        Output::IpPool(name) => {
            let (problem, addresses, shown) = core.pool(name)?;
            let wanted = status::pool(problem, &addresses, shown.generation);
            let patch = status_patch(&wanted, wanted.conditions.as_deref(), &shown.status, shown.status.conditions.as_deref(), &now_text)?;
            Some(Write::IpPool { name: name.to_string(), patch })
        }
        Output::Vip(name) => {
            let (problem, held, vip) = core.vip(name)?;
            let shown = &vip.shown;
            if let Some(patch) = finalizers(shown, false) {
                return Some(Write::Vip { name: name.to_string(), patch });
            }
            let wanted = status::vip(problem.as_ref(), held.as_ref(), vip);
            let patch = status_patch(&wanted, wanted.conditions.as_deref(), &shown.status, shown.status.conditions.as_deref(), &now_text)?;
            Some(Write::Vip { name: name.to_string(), patch })
        }
        Output::Event(subject) => event(core, subject, now),
        Output::Ip(name) => ip(core, name),
    }
}

/// The annotations that record a NIC.
fn nic_annotations(nic: &NicToRecord<'_>) -> Vec<(String, String)> {
    let NicToRecord { provider, vpc, ours, record } = nic;
    let provider = provider.as_deref().unwrap_or(OVN_PROVIDER);
    let further = [
        ("routed", Some("true".to_owned())),
        ("logical_router", vpc.map(str::to_owned)),
        // Another plugin's NIC is of its kind.
        ("pod_nic_type", ours.then(|| "veth-pair".to_owned())),
    ];
    let further = further.into_iter().filter_map(|(name, value)| Some((networks::key(provider, name), value?)));
    record_annotations(provider, record).into_iter().chain(further).collect()
}

/// The annotations from which a record is read back.
fn record_annotations(provider: &str, record: &NicRecord) -> Vec<(String, String)> {
    let given = |addresses: &[IpAddr]| (!addresses.is_empty()).then(|| join(addresses));
    let notes = [
        ("allocated", Some("true".to_owned())),
        ("ip_address", given(&record.addresses)),
        ("mac_address", Some(record.mac.to_string())),
        ("cidr", record.cidrs.map(|cidrs| cidrs.to_string())),
        ("gateway", given(&record.gateways)),
        ("logical_switch", Some(record.subnet.to_string())),
        ("vlan_id", record.segment.as_ref().map(|segment| segment.vlan.to_string())),
        ("provider_network", record.segment.as_ref().map(|segment| segment.network.to_string())),
    ];
    notes.into_iter().filter_map(|(name, value)| Some((networks::key(provider, name), value?))).collect()
}

/// What makes the `IP` object of a NIC true: it is created, corrected, or, when nobody holds the NIC, deleted. Deletion is
/// only for those that the controller keeps; those of users are theirs.
fn ip(core: &Core, name: &str) -> Option<Write> {
    let (wanted, shown) = core.ip(name);
    let kept = shown.is_none_or(|shown| shown.kept);
    match (wanted.as_ref().map(|(holder, wanted)| ip_object::wanted(name, holder, wanted, kept)), shown) {
        (Some(object), None) => Some(Write::CreateIp(Box::new(object))),
        (Some(object), Some(shown)) if !shown.deleting => {
            let differs = Content::of(&object) != shown.content;
            differs.then(|| Write::PatchIp { name: name.to_owned(), patch: ip_object::patch(&object, &shown.uid) })
        }
        (wanted, Some(shown)) => {
            if wanted.is_none() && !shown.kept && !shown.deleting {
                return None;
            }
            // An earlier controller's finalizer has done its work: the address is released.
            if let Some(list) = &shown.finalizers {
                let list: Vec<_> = list.iter().filter(|f| *f != FINALIZER).collect();
                let patch = json!({ "metadata": { "uid": shown.uid.as_ref(), "finalizers": list } });
                return Some(Write::PatchIp { name: name.to_owned(), patch });
            }
            (!shown.deleting).then(|| Write::DeleteIp { name: name.to_owned(), uid: shown.uid.to_string() })
        }
        (None, None) => None,
    }
}

/// The patch that brings a status up to date; `None` when every field that `wanted` names is shown so. Fields that only the
/// shown status has are not ours.
fn status_patch<S: serde::Serialize>(
    wanted: &S,
    wanted_conditions: Option<&[Condition]>,
    shown: &S,
    shown_conditions: Option<&[Condition]>,
    now: &str,
) -> Option<Value> {
    let shown_conditions = shown_conditions.unwrap_or_default();
    let stamped = status::stamp(wanted_conditions.unwrap_or_default(), shown_conditions, now);
    let (Ok(Value::Object(mut fields)), Ok(Value::Object(shown))) = (serde_json::to_value(wanted), serde_json::to_value(shown)) else {
        return None; // our own types serialize to objects
    };
    fields.remove("conditions");
    if stamped.is_none() && fields.iter().all(|(k, v)| shown.get(k) == Some(v)) {
        return None;
    }
    fields.insert("conditions".to_owned(), json!(stamped.as_deref().unwrap_or(shown_conditions)));
    Some(json!({ "status": fields }))
}

/// The patch of a subnet besides its status: our finalizer, what it leaves open, what is in force while that is not what it
/// says, and the MAC of a gateway that was taken over.
fn subnet(state: &SubnetState, shown: &Shown<v1::SubnetStatus>, in_force: Option<&str>, mac: Option<MacAddr>) -> Option<Value> {
    let defaults = shown.defaults.as_ref().filter(|_| state.network.is_ok() && state.finalizer);
    let noted = shown.in_force.as_ref().map(|(cidrs, gateways)| format!("{cidrs} via {}", join(gateways)));
    let (finalizers, note) = (finalizers(shown, state.finalizer), noted.as_deref() != in_force);
    let mac = mac.filter(|_| shown.gateway_mac.is_none());
    if finalizers.is_none() && defaults.is_none() && !note && mac.is_none() {
        return None;
    }
    let mut patch = finalizers.unwrap_or_else(|| json!({ "metadata": { "resourceVersion": shown.resource_version } }));
    if let Some(defaults) = defaults {
        patch["spec"] = defaults.clone();
    }
    if note {
        patch["metadata"]["annotations"][annotations::IN_FORCE] = json!(in_force);
    }
    if let Some(mac) = mac {
        patch["metadata"]["annotations"][annotations::GATEWAY_MAC] = json!(mac.to_string());
    }
    Some(patch)
}

/// The patch that adds or takes away our finalizer, if it is not as wanted. The resource version guards others' entries.
fn finalizers<S>(shown: &Shown<S>, wanted: bool) -> Option<Value> {
    let has = shown.finalizers.iter().any(|f| f == FINALIZER);
    if has == wanted {
        return None;
    }
    let mut list: Vec<&str> = shown.finalizers.iter().map(String::as_str).filter(|f| *f != FINALIZER).collect();
    if wanted {
        list.push(FINALIZER);
    }
    Some(json!({ "metadata": { "finalizers": list, "resourceVersion": shown.resource_version } }))
}

fn event(core: &Core, subject: &Subject, now: Timestamp) -> Option<Write> {
    use k8s_openapi::api::core::v1::{EventSource, ObjectReference};

    let notice = core.notice(subject)?;
    let (kind, api_version, namespace, name) = match subject {
        Subject::Pod(key) => ("Pod", "v1", Some(key.namespace.to_string()), key.name.to_string()),
        Subject::Node(name) => ("Node", "v1", None, name.to_string()),
        Subject::Subnet(name) => ("Subnet", "kubeovn.io/v1", None, name.to_string()),
        Subject::Vpc(name) => ("Vpc", "kubeovn.io/v1", None, name.to_string()),
        Subject::ProviderNetwork(name) => ("ProviderNetwork", "kubeovn.io/v1", None, name.to_string()),
        Subject::Vlan(name) => ("Vlan", "kubeovn.io/v1", None, name.to_string()),
        Subject::IpPool(name) => ("IPPool", "kubeovn.io/v1", None, name.to_string()),
        Subject::Vip(name) => ("Vip", "kubeovn.io/v1", None, name.to_string()),
        Subject::Ip(name) => ("IP", "kubeovn.io/v1", None, name.to_string()),
        Subject::Audit | Subject::Row(_) | Subject::Network => ("Namespace", "v1", None, "kube-system".to_owned()),
    };
    let object = ObjectReference {
        kind: Some(kind.to_owned()),
        api_version: Some(api_version.to_owned()),
        namespace,
        name: Some(name),
        uid: Some(notice.uid.to_string()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    };
    let source = EventSource { component: Some("ferrovia-controller".to_owned()), host: None };
    let event = api::event::warning(object, source, notice.reason, notice.message, now);
    Some(Write::Event(Box::new(event)))
}

/// Carries a write out. What can never succeed (the object is gone, or another one has its name) counts as done: the
/// watch says what is there instead.
///
/// # Errors
/// When it should be tried again.
pub(crate) async fn execute(client: kube::Client, write: Write) -> Result<(), kube::Error> {
    let params = PatchParams::default();
    let result = match write {
        Write::PodAnnotations { namespace, name, patch } => {
            Api::<PodView>::namespaced(client, &namespace).patch(&name, &params, &Patch::Merge(patch)).await.map(drop)
        }
        Write::NodeAnnotations { name, patch } => patch_cluster::<NodeView>(client, &name, patch, false).await,
        Write::Subnet { name, patch, subresource } => patch_cluster::<v1::Subnet>(client, &name, patch, subresource).await,
        Write::Vpc { name, patch, subresource } => patch_cluster::<v1::Vpc>(client, &name, patch, subresource).await,
        Write::ProviderNetwork { name, patch, subresource } => {
            patch_cluster::<v1::ProviderNetwork>(client, &name, patch, subresource).await
        }
        Write::Vlan { name, patch, subresource } => patch_cluster::<v1::Vlan>(client, &name, patch, subresource).await,
        Write::IpPool { name, patch } => patch_cluster::<v1::IpPool>(client, &name, patch, true).await,
        // The kind has no subresource for its status.
        Write::Vip { name, patch } => patch_cluster::<v1::Vip>(client, &name, patch, false).await,
        Write::CreateIp(object) => Api::<v1::Ip>::all(client).create(&PostParams::default(), &object).await.map(drop),
        Write::PatchIp { name, patch } => patch_cluster::<v1::Ip>(client, &name, patch, false).await,
        Write::DeleteIp { name, uid } => {
            // One that was made anew meanwhile is another one.
            let precondition = Preconditions { uid: Some(uid), resource_version: None };
            let params = DeleteParams { preconditions: Some(precondition), ..DeleteParams::default() };
            Api::<v1::Ip>::all(client).delete(&name, &params).await.map(drop)
        }
        Write::Event(event) => {
            let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
            let api = Api::<k8s_openapi::api::core::v1::Event>::namespaced(client, namespace);
            match api.create(&PostParams::default(), &event).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let patch = json!({ "lastTimestamp": event.last_timestamp });
                    api.patch(event.metadata.name.as_deref().unwrap_or_default(), &params, &Patch::Merge(patch)).await.map(drop)
                }
                other => other.map(drop),
            }
        }
    };
    match result {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 410 | 422) => {
            tracing::debug!(code = status.code, message = %status.message, "write not needed any more");
            Ok(())
        }
        other => other,
    }
}

async fn patch_cluster<K>(client: kube::Client, name: &str, patch: Value, subresource: bool) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api = Api::<K>::all(client);
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let result = if subresource { api.patch_status(name, &params, &patch).await } else { api.patch(name, &params, &patch).await };
    result.map(drop)
}
