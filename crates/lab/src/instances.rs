//! Instances of virtual machines, as KubeVirt's controller serves them: a pod for each, and where it runs on its status.

use anyhow::Context as _;
use api::view::{MIGRATION_JOB, VirtualMachineInstanceView};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use watcher::Event;

use crate::pauses::Pauses;
use crate::wait;

/// Label of the pods of instances.
const LAUNCHER: (&str, &str) = ("kubevirt.io", "virt-launcher");
/// Volume of their pods in which machines serve sockets of vhost-user.
const SOCKETS: &str = "vhostuser-sockets";
/// Kind of an instance.
const KIND: &str = "VirtualMachineInstance";

/// The instances of a namespace.
pub(crate) fn instances(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<VirtualMachineInstanceView>(&()))
}

/// Writes to an instance's status.
pub(crate) async fn say(client: &Client, namespace: &str, name: &str, status: &Value) -> kube::Result<()> {
    let patch = Patch::Merge(json!({ "status": status }));
    instances(client, namespace).patch_status(name, &PatchParams::default(), &patch).await.map(drop)
}

/// Serves instances until a watch fails for good.
pub(crate) async fn run(client: Client) -> anyhow::Result<()> {
    let kind = ApiResource::erase::<VirtualMachineInstanceView>(&());
    let all = Api::<DynamicObject>::all_with(client.clone(), &kind);
    let launchers = watcher::Config::default().labels(&format!("{}={}", LAUNCHER.0, LAUNCHER.1));
    let mut instances = std::pin::pin!(watcher(all, watcher::Config::default()).backoff(Pauses::default()));
    let mut pods = std::pin::pin!(watcher(Api::<Pod>::all(client.clone()), launchers).backoff(Pauses::default()));
    loop {
        let served = tokio::select! {
            event = instances.try_next() => match event {
                Ok(Some(Event::InitApply(instance) | Event::Apply(instance))) => launch(&client, &instance).await,
                Ok(None) => anyhow::bail!("the watch of instances ended"),
                Ok(Some(_)) => Ok(()),
                Err(error) => Err(error.into()),
            },
            event = pods.try_next() => match event {
                Ok(Some(Event::InitApply(pod) | Event::Apply(pod))) => tell(&client, &pod).await,
                Ok(None) => anyhow::bail!("the watch of their pods ended"),
                Ok(Some(_)) => Ok(()),
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = served {
            tracing::warn!(error = format!("{error:#}"), "instances of virtual machines");
        }
    }
}

/// Makes the pod of an instance that has had none.
async fn launch(client: &Client, instance: &DynamicObject) -> anyhow::Result<()> {
    if instance.data["status"]["phase"].is_string() || instance.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let (namespace, name, uid) = (instance.namespace().unwrap_or_default(), instance.name_any(), instance.uid().unwrap_or_default());
    // By a name that is the same each time: what was interrupted is not done twice.
    let pod = pod(instance, uid.get(..5).unwrap_or_default())?;
    match Api::<Pod>::namespaced(client.clone(), &namespace).create(&PostParams::default(), &pod).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        created => drop(created.with_context(|| format!("cannot make the pod of instance {namespace}/{name}"))?),
    }
    Ok(say(client, &namespace, &name, &json!({ "phase": "Scheduling" })).await?)
}

/// A pod of an instance, with this at the end of its name.
pub(crate) fn pod(instance: &DynamicObject, end: &str) -> anyhow::Result<Pod> {
    let name = instance.name_any();
    let mut annotations = instance.annotations().clone();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    let mut labels = instance.labels().clone();
    labels.extend([(LAUNCHER.0.to_owned(), LAUNCHER.1.to_owned()), ("vm.kubevirt.io/name".to_owned(), name.clone())]);
    let uid = instance.uid();
    let pod = json!({
        "metadata": {
            "name": format!("{}-{name}-{end}", LAUNCHER.1),
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [{ "apiVersion": "kubevirt.io/v1", "kind": KIND, "name": name, "uid": uid, "controller": true }],
        },
        "spec": {
            "runtimeClassName": "vm",
            // Whose guest has ended is over: what starts again is another instance.
            "restartPolicy": "Never",
            "nodeSelector": instance.data["spec"]["nodeSelector"],
            "containers": [{ "name": "compute", "image": "none" }],
            "volumes": [{ "name": SOCKETS, "emptyDir": {} }],
        },
    });
    Ok(serde_json::from_value(pod)?)
}

/// The instance that a pod is of.
pub(crate) fn instance_of(pod: &Pod) -> Option<&str> {
    let owner = pod.owner_references().iter().find(|owner| owner.kind == KIND && owner.api_version.starts_with("kubevirt.io/"));
    owner.map(|owner| owner.name.as_str())
}

/// Tells where an instance runs whose pod is ready, and that it is over when its guest has ended. Of pods that it moves to tells whoever
/// moves it.
async fn tell(client: &Client, pod: &Pod) -> anyhow::Result<()> {
    let (Some(name), Some(namespace)) = (instance_of(pod), pod.namespace()) else { return Ok(()) };
    let Some(known) = instances(client, &namespace).get_opt(name).await? else { return Ok(()) };
    let (phase, node) = (known.data["status"]["phase"].as_str(), known.data["status"]["nodeName"].as_str());
    let on = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let failed = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed");
    let status = if wait::is_ready(pod) && node.is_none() && !pod.labels().contains_key(MIGRATION_JOB) {
        json!({ "phase": "Running", "nodeName": on })
    } else if failed && phase == Some("Running") && node == on {
        json!({ "phase": "Failed" })
    } else {
        return Ok(());
    };
    Ok(say(client, &namespace, name, &status).await?)
}
