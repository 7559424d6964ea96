//! Addresses on real nodes: a subnet that is too small, workloads that move, and both families.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use api::view::{VirtualMachineInstanceView, VirtualMachineView};
use api::{annotations, v1};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::harness::Lab;
use crate::load::is_ready;

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test that speaks with the API server of a lab.
fn within<F: Future>(lab: &Lab, test: impl FnOnce(Client) -> F) -> F::Output {
    let layout = lab.layout();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { test(lab::cluster::client(&layout).await.unwrap()).await })
}

/// A pod of some workload, in the namespace `default`.
fn pod(name: &str, node: Option<&str>, owner: Option<Value>) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "ownerReferences": owner.into_iter().collect::<Vec<_>>() },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "none" }], "terminationGracePeriodSeconds": 0 },
    }))
    .unwrap()
}

/// Looks at objects until `found` is content, woken by changes of them.
async fn until<K, T>(api: &Api<K>, what: &str, found: impl Fn(Vec<K>) -> Option<T>) -> T
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = api.list(&ListParams::default()).await.unwrap();
        let version = list.metadata.resource_version.clone().unwrap();
        if let Some(value) = found(list.items) {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        let mut changes = api.watch(&WatchParams::default().timeout(5), &version).await.unwrap().boxed();
        let _ = tokio::time::timeout(Duration::from_secs(5), changes.next()).await;
    }
}

/// Addresses of pods that are ready, by name.
fn ready(pods: &[Pod]) -> BTreeMap<String, String> {
    let address = |pod: &Pod| Some((pod.name_any(), pod.status.as_ref()?.pod_ip.clone()?));
    pods.iter().filter(|pod| is_ready(pod)).filter_map(address).collect()
}

#[test]
fn a_full_subnet_serves_as_many_as_fit_and_the_others_as_soon_as_some_go() {
    let lab = Lab::up(&["--nodes", "2"]);
    lab.apply(
        "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: small}
spec: {cidrBlock: 10.30.0.0/24, excludeIps: [10.30.0.11..10.30.0.30], namespaces: [default]}
",
    );
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/small", "--timeout=30s"]);
    within(&lab, |client| async move {
        let pods = Api::<Pod>::namespaced(client.clone(), "default");
        let began = Instant::now();
        for i in 0..300 {
            pods.create(&PostParams::default(), &pod(&format!("p{i}"), None, None)).await.unwrap();
        }
        // 256, less the first, the last and the gateway, less 20.
        let served = until(&pods, "233 pods are ready", |pods| Some(ready(&pods)).filter(|ready| ready.len() >= 233)).await;
        println!("233 of 300 pods are ready {:.1?} after the first was created", began.elapsed());
        let addresses: BTreeSet<&String> = served.values().collect();
        assert_eq!((served.len(), addresses.len()), (233, 233), "an address twice");
        for excluded in (11..=30).map(|i| format!("10.30.0.{i}")) {
            assert!(!addresses.contains(&excluded), "{excluded}");
        }

        // Each of the others is told which subnet is full.
        let waiting: BTreeSet<String> = (0..300).map(|i| format!("p{i}")).filter(|name| !served.contains_key(name)).collect();
        let told = |events: Vec<Event>| {
            let says = |event: &Event| event.message.as_deref() == Some("subnet small: no free IPv4 address is left");
            let named: BTreeSet<_> = events.iter().filter(|e| says(e)).filter_map(|e| e.involved_object.name.clone()).collect();
            waiting.is_subset(&named).then_some(())
        };
        until(&Api::<Event>::namespaced(client.clone(), "default"), "every pod that waits is told", told).await;
        for name in &waiting {
            assert_eq!(pods.get(name).await.unwrap().status.unwrap().phase.as_deref(), Some("Pending"), "{name}");
        }
        counts(&client, "small", 233.0, 0.0).await;

        // Whoever goes makes room for one that waits.
        let mut took: Vec<(Duration, Duration)> = Vec::new();
        for name in served.keys().take(20) {
            took.push(makes_room(&client, name).await);
        }
        took.sort_unstable();
        let ((median, _), (longest, _)) = (took[took.len() / 2], took[took.len() - 1]);
        let until_ready = took.iter().map(|(_, ready)| *ready).max().unwrap();
        println!(
            "after a deletion one that waits has its address in {median:.0?} (median), {longest:.0?} (longest); ready at most {until_ready:.0?}"
        );
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        counts(&client, "small", 233.0, 0.0).await;

        pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        counts(&client, "small", 0.0, 233.0).await;
    });
}

/// Waits until a subnet's status shows how many addresses are in use and available.
async fn counts(client: &Client, name: &str, using: f64, available: f64) {
    let shown = |subnets: Vec<v1::Subnet>| {
        let status = subnets.into_iter().find(|subnet| subnet.name_any() == name)?.status?;
        (status.v4_using_ips == Some(using) && status.v4_available_ips == Some(available)).then_some(())
    };
    until(&Api::all(client.clone()), &format!("{using} addresses in use, {available} available"), shown).await;
}

/// Deletes a pod: how long after it the next has its address, and is ready.
async fn makes_room(client: &Client, name: &str) -> (Duration, Duration) {
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let has_record = |pod: &Pod| pod.annotations().contains_key(annotations::ALLOCATED);
    let list = pods.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.clone().unwrap();
    let before: BTreeSet<String> = list.items.iter().filter(|pod| has_record(pod)).map(|pod| pod.name_any()).collect();
    let mut changes = pods.watch(&WatchParams::default().timeout(30), &version).await.unwrap().boxed();
    let began = Instant::now();
    pods.delete(name, &DeleteParams::default()).await.unwrap();
    let mut served = None;
    while let Some(change) = changes.next().await {
        let WatchEvent::Modified(pod) = change.unwrap() else { continue };
        if before.contains(&pod.name_any()) {
            continue;
        }
        if has_record(&pod) {
            served.get_or_insert(began.elapsed());
        }
        if let Some(served) = served.filter(|_| is_ready(&pod)) {
            return (served, began.elapsed());
        }
    }
    panic!("nobody is served after {name} was deleted");
}

/// What a pod was given.
fn record(pod: &Pod) -> (String, String) {
    let note = |key: &str| pod.annotations()[key].clone();
    (note(annotations::IP_ADDRESS), note(annotations::MAC_ADDRESS))
}

#[test]
fn workloads_that_move_to_another_node_come_with_their_address_and_mac() {
    let lab = &Lab::up(&["--nodes", "2"]);
    // Instances are of the lab's kinds.
    let mut kinds: Value = serde_json::from_str(include_str!("../../../api/tests/kubevirt.json")).unwrap();
    kinds["items"].as_array_mut().unwrap().retain(|kind| kind["spec"]["names"]["kind"] == "VirtualMachine");
    lab.apply(&kinds.to_string());
    within(lab, |client| async move {
        let (set, machine) = (stateful_set(&client).await, virtual_machine(&client).await);
        for (owner, names) in [(&set, ["web-0", "web-0"]), (&machine, ["virt-launcher-vm-a", "virt-launcher-vm-b"])] {
            let there = lives_and_dies(lab, &client, &pod(names[0], Some("node1"), Some(owner.clone()))).await;
            // Somebody else comes meanwhile, and does not get it.
            let other = lives_and_dies(lab, &client, &pod("other", Some("node1"), None)).await;
            assert!(other.0 != there.0 && other.1 != there.1, "{other:?}");
            assert_eq!(lives_and_dies(lab, &client, &pod(names[1], Some("node2"), Some(owner.clone()))).await, there);
        }
        // Without its owner the record goes, and the address with it.
        let ips = Api::<v1::Ip>::all(client.clone());
        let there =
            |records: Vec<v1::Ip>| records.iter().filter(|ip| ["web-0.default", "vm.default"].contains(&ip.name_any().as_str())).count();
        assert_eq!(there(ips.list(&ListParams::default()).await.unwrap().items), 2);
        lab.kubectl(&["delete", "statefulset/web", "virtualmachine/vm"]);
        until(&ips, "the records go with their owners", |records| (there(records) == 0).then_some(())).await;
        counts(&client, "ovn-default", 0.0, 65533.0).await;
    });
}

/// Runs a pod until it was ready, with what it was given in its namespace, and is gone; yields that.
async fn lives_and_dies(lab: &Lab, client: &Client, pod: &Pod) -> (String, String) {
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    let name = pod.name_any();
    pods.create(&PostParams::default(), pod).await.unwrap();
    let found = |pods: Vec<Pod>| pods.into_iter().find(|pod| pod.name_any() == name && is_ready(pod));
    let record = record(&until(&pods, &format!("{name} is ready"), found).await);
    let inside = lab.ok(&["exec", &name, "--", "ip", "addr", "show", "eth0"]);
    assert!(inside.contains(&format!("inet {}/", record.0)) && inside.contains(&record.1.to_lowercase()), "{record:?}: {inside}");
    pods.delete(&name, &DeleteParams::default()).await.unwrap();
    until(&pods, &format!("{name} is gone"), |pods| pods.iter().all(|pod| pod.name_any() != name).then_some(())).await;
    record
}

/// A StatefulSet, as its pods name it.
async fn stateful_set(client: &Client) -> Value {
    let set: StatefulSet = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 1, "serviceName": "web", "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c", "image": "none" }] } },
        },
    }))
    .unwrap();
    let set = Api::<StatefulSet>::namespaced(client.clone(), "default").create(&PostParams::default(), &set).await.unwrap();
    json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": set.uid() })
}

/// A virtual machine of KubeVirt's shape, as the pods of its instances name it.
async fn virtual_machine(client: &Client) -> Value {
    let create = async |kind: ApiResource, owner: Option<&DynamicObject>| {
        let mut object = DynamicObject::new("vm", &kind).data(json!({ "spec": { "nodeSelector": { "kubernetes.io/hostname": "none" } } }));
        object.metadata.owner_references = owner.map(|owner| {
            let owner = json!([{ "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm", "uid": owner.uid() }]);
            serde_json::from_value(owner).unwrap()
        });
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &kind);
        api.create(&PostParams::default(), &object).await.unwrap()
    };
    // The machine owns its instance, and that owns the pods.
    let machine = create(ApiResource::erase::<VirtualMachineView>(&()), None).await;
    let instances = ApiResource::erase::<VirtualMachineInstanceView>(&());
    let instance = create(instances.clone(), Some(&machine)).await;
    // The lab makes the first of them, which no node takes, and with that has done its part: it would hold the address.
    let instances: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &instances);
    let served = |all: Vec<DynamicObject>| all.iter().any(|one| one.data["status"]["phase"].is_string()).then_some(());
    until(&instances, "the lab has made the instance's pod", served).await;
    let pods = Api::<Pod>::namespaced(client.clone(), "default");
    pods.delete_collection(&DeleteParams::default(), &ListParams::default().labels("kubevirt.io=virt-launcher")).await.unwrap();
    until(&pods, "that pod is gone", |pods| pods.is_empty().then_some(())).await;
    json!({ "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm", "uid": instance.uid() })
}

#[test]
fn dual_stack_and_ipv6_only_pods_reach_each_other_between_nodes() {
    let lab = Lab::up(&["--nodes", "2"]);
    for (vpc, cidr) in [("two", "10.50.0.0/24,fd00:50::/64"), ("six", "fd00:60::/64")] {
        lab.apply(&format!(
            "
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {{name: {vpc}}}
spec: {{namespaces: [{vpc}]}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {vpc}}}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {{name: {vpc}}}
spec: {{vpc: {vpc}, cidrBlock: '{cidr}', namespaces: [{vpc}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: a, namespace: {vpc}}}
spec: {{nodeName: node1, containers: [{{name: c, image: none}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: b, namespace: {vpc}}}
spec: {{nodeName: node2, containers: [{{name: c, image: none}}]}}
"
        ));
        lab.kubectl(&["wait", "--for=condition=Ready", "pod/a", "pod/b", "-n", vpc, "--timeout=30s"]);
    }
    let addresses = |vpc: &str| lab.kubectl(&["get", "pod", "b", "-n", vpc, "-o", "jsonpath={.status.podIPs[*].ip}"]);
    assert_eq!(addresses("two").split(' ').count(), 2, "{}", addresses("two"));
    assert!(addresses("six").starts_with("fd00:60::"), "{}", addresses("six"));
    let pairs = lab.checked();
    // Between nodes, in both directions, by each means and family that the two have.
    let text = |pair: &Value, key: &str| pair[key].as_str().unwrap_or_default().to_owned();
    for (vpc, families) in [("two", 2), ("six", 1)] {
        let between = |pair: &&Value| {
            let ends = [text(pair, "from"), text(pair, "to")];
            pair["expected"] == true
                && ends.iter().all(|end| end.contains(vpc))
                && ends[0] != ends[1]
                && !ends.iter().any(|e| e == "gateway")
        };
        let kinds = ["tcp", "udp", "icmp", "mtu", "transfer"];
        for kind in kinds {
            let seen = pairs.iter().filter(between).filter(|pair| pair["kind"] == kind).count();
            assert_eq!(seen, 2 * families, "{vpc} {kind}: {:#?}", pairs.iter().filter(between).collect::<Vec<_>>());
        }
    }
}
