//! Objects through a `kube::Client` in this process: create, read, update, patch, delete.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use api::v1::{Subnet, SubnetSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

fn client() -> Client {
    apiserver::Server::open(None).unwrap().client()
}

fn config_map(name: &str) -> ConfigMap {
    ConfigMap { metadata: ObjectMeta { name: Some(name.into()), ..Default::default() }, ..Default::default() }
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "containers": [{ "name": "main", "image": "busybox" }] },
    }))
    .unwrap()
}

fn refusal(error: kube::Error) -> (u16, String, Value) {
    match error {
        kube::Error::Api(status) => (status.code, status.message.clone(), serde_json::to_value(&status.details).unwrap()),
        other => panic!("not a refusal: {other}"),
    }
}

async fn install_crds(client: &Client) {
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    for crd in api::v1::crds() {
        crds.create(&PostParams::default(), &crd).await.unwrap();
    }
}

fn subnet(name: &str, cidr: &str, gateway: Option<&str>) -> Subnet {
    Subnet::new(name, SubnetSpec { cidr_block: Some(cidr.into()), gateway: gateway.map(Into::into), ..Default::default() })
}

#[tokio::test]
async fn a_created_object_carries_the_metadata_of_the_server() {
    let pods = Api::<Pod>::default_namespaced(client());
    let made = pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    assert_eq!(made.metadata.uid.as_ref().unwrap().len(), 36);
    assert_eq!(made.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(made.metadata.generation, Some(1));
    assert!(made.metadata.creation_timestamp.is_some() && made.resource_version().is_some());
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
    let (code, message, _) = refusal(pods.create(&PostParams::default(), &pod("a")).await.unwrap_err());
    assert_eq!((code, message.as_str()), (409, "pods \"a\" already exists"));
    let generated = ConfigMap { metadata: ObjectMeta { generate_name: Some("x-".into()), ..Default::default() }, ..Default::default() };
    let generated = Api::<ConfigMap>::default_namespaced(client()).create(&PostParams::default(), &generated).await.unwrap();
    assert!(generated.name_any().starts_with("x-") && generated.name_any().len() == 7);
}

#[tokio::test]
async fn malformed_names_and_missing_namespaces_are_refused() {
    let client = client();
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    let (code, message, details) = refusal(maps.create(&PostParams::default(), &config_map("No_Good")).await.unwrap_err());
    assert_eq!(code, 422);
    assert!(message.contains("metadata.name"), "{message}");
    assert_eq!(details["causes"][0]["field"], "metadata.name");
    let nowhere = Api::<ConfigMap>::namespaced(client, "nowhere");
    let (code, message, _) = refusal(nowhere.create(&PostParams::default(), &config_map("a")).await.unwrap_err());
    assert_eq!((code, message.as_str()), (404, "namespaces \"nowhere\" not found"));
}

#[tokio::test]
async fn a_stale_update_conflicts_and_an_equal_one_writes_nothing() {
    let maps = Api::<ConfigMap>::default_namespaced(client());
    let first = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let mut second = first.clone();
    second.data = Some(BTreeMap::from([("k".into(), "v".into())]));
    let second = maps.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    assert_eq!(refusal(maps.replace("a", &PostParams::default(), &first).await.unwrap_err()).0, 409);
    let same = maps.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_eq!(same.resource_version(), second.resource_version());
}

#[tokio::test]
async fn patches_honour_the_uid_and_the_version_that_they_carry() {
    let maps = Api::<ConfigMap>::default_namespaced(client());
    let made = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let patch = |body: Value| {
        let maps = maps.clone();
        async move { maps.patch("a", &PatchParams::default(), &Patch::Merge(body)).await }
    };
    assert_eq!(refusal(patch(json!({ "metadata": { "uid": "other" } })).await.unwrap_err()).0, 422);
    assert_eq!(refusal(patch(json!({ "metadata": { "resourceVersion": "1" }, "data": { "a": "b" } })).await.unwrap_err()).0, 409);
    let body = json!({ "metadata": { "uid": made.uid(), "resourceVersion": made.resource_version() }, "data": { "a": "b" } });
    assert_eq!(patch(body).await.unwrap().data.unwrap()["a"], "b");
    let operations = serde_json::from_value(json!([{ "op": "test", "path": "/data/a", "value": "c" }])).unwrap();
    let (code, ..) = refusal(maps.patch("a", &PatchParams::default(), &Patch::Json::<()>(operations)).await.unwrap_err());
    assert_eq!(code, 422);
}

#[tokio::test]
async fn concurrent_patches_all_take_effect() {
    let maps = Api::<ConfigMap>::default_namespaced(client());
    maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let patches = (0..64).map(|n| {
        let maps = maps.clone();
        async move {
            let body = json!({ "data": { format!("k{n}"): "v" } });
            maps.patch("a", &PatchParams::default(), &Patch::Merge(body)).await.unwrap();
        }
    });
    futures::future::join_all(patches).await;
    assert_eq!(maps.get("a").await.unwrap().data.unwrap().len(), 64);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let client = client();
    install_crds(&client).await;
    let subnets = Api::<Subnet>::all(client);
    let made = subnets.create(&PostParams::default(), &subnet("s", "10.0.0.0/16", None)).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let both = json!({ "spec": { "natOutgoing": true }, "status": { "v4usingIPs": 3 } });
    let after = subnets.patch_status("s", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
    assert_eq!((after.spec.nat_outgoing, after.metadata.generation), (None, Some(1)));
    assert_eq!(serde_json::to_value(&after.status).unwrap()["v4usingIPs"], json!(3.0));
    let both = json!({ "spec": { "natOutgoing": true }, "status": { "v4usingIPs": 9 } });
    let after = subnets.patch("s", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
    assert_eq!((after.spec.nat_outgoing, after.metadata.generation), (Some(true), Some(2)));
    assert_eq!(serde_json::to_value(&after.status).unwrap()["v4usingIPs"], json!(3.0));
}

#[tokio::test]
async fn a_malformed_subnet_is_refused_naming_field_and_reason() {
    let client = client();
    install_crds(&client).await;
    let subnets = Api::<Subnet>::all(client);
    let (code, message, details) = refusal(subnets.create(&PostParams::default(), &subnet("s", "10.0.0.0/99", None)).await.unwrap_err());
    assert_eq!(code, 422);
    assert!(
        message.starts_with("Subnet.kubeovn.io \"s\" is invalid: spec.cidrBlock: Invalid value: \"10.0.0.0/99\": must be a CIDR"),
        "{message}"
    );
    assert_eq!(details["causes"][0]["field"], "spec.cidrBlock");
    assert_eq!(details["causes"][0]["reason"], "FieldValueInvalid");
    let outside = subnet("s", "10.0.0.0/16", Some("10.1.0.1"));
    let (_, message, details) = refusal(subnets.create(&PostParams::default(), &outside).await.unwrap_err());
    assert!(message.contains("must lie inside cidrBlock"), "{message}");
    assert_eq!(details["causes"][0]["field"], "spec.gateway");
    let dual = subnet("d", "10.0.0.0/16, fd00::/64", Some("10.0.0.1,fd00::1"));
    subnets.create(&PostParams::default(), &dual).await.unwrap();
    let moved = json!({ "spec": { "vpc": "a" } });
    subnets.patch("d", &PatchParams::default(), &Patch::Merge(&moved)).await.unwrap();
    let moved = json!({ "spec": { "vpc": "b" } });
    let (code, message, _) = refusal(subnets.patch("d", &PatchParams::default(), &Patch::Merge(&moved)).await.unwrap_err());
    assert_eq!(code, 422);
    assert!(message.contains("spec.vpc: Invalid value: \"b\": a subnet cannot move to another VPC"), "{message}");
}

#[tokio::test]
async fn unknown_fields_are_pruned_or_refused() {
    let client = client();
    install_crds(&client).await;
    let subnets = Api::<kube::api::DynamicObject>::all_with(client.clone(), &kube::api::ApiResource::erase::<Subnet>(&()));
    let body = |name: &str| {
        serde_json::from_value(json!({
            "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": name },
            "spec": { "cidrBlock": "10.0.0.0/16", "colour": "red" },
        }))
        .unwrap()
    };
    let made = subnets.create(&PostParams::default(), &body("a")).await.unwrap();
    assert_eq!(made.data["spec"], json!({ "cidrBlock": "10.0.0.0/16" }));
    let strict: kube::api::DynamicObject = body("b");
    let strict =
        http::Request::post("/apis/kubeovn.io/v1/subnets?fieldValidation=Strict").body(serde_json::to_vec(&strict).unwrap()).unwrap();
    let (code, message, _) = refusal(client.request::<Value>(strict).await.unwrap_err());
    assert_eq!(code, 400);
    assert!(message.contains("unknown field \"spec.colour\""), "{message}");
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_and_endpoints_along() {
    let client = client();
    install_crds(&client).await;
    let subnets = Api::<Subnet>::all(client.clone());
    let mut held = subnet("s", "10.0.0.0/16", None);
    held.metadata.finalizers = Some(vec![api::FINALIZER.into()]);
    subnets.create(&PostParams::default(), &held).await.unwrap();
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    let crd = crds.get("subnets.kubeovn.io").await.unwrap();
    assert!(crd.status.unwrap().conditions.unwrap().iter().any(|c| c.type_ == "Established" && c.status == "True"));
    crds.delete("subnets.kubeovn.io", &DeleteParams::default()).await.unwrap();
    assert!(subnets.get("s").await.unwrap().metadata.deletion_timestamp.is_some());
    let (code, ..) = refusal(subnets.create(&PostParams::default(), &subnet("t", "10.0.0.0/16", None)).await.unwrap_err());
    assert_eq!(code, 403);
    let freed = json!({ "metadata": { "finalizers": null } });
    subnets.patch("s", &PatchParams::default(), &Patch::Merge(&freed)).await.unwrap();
    assert!(crds.get_opt("subnets.kubeovn.io").await.unwrap().is_none());
    assert_eq!(refusal(subnets.list(&ListParams::default()).await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let maps = Api::<ConfigMap>::default_namespaced(client());
    let mut held = config_map("a");
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    let held = maps.create(&PostParams::default(), &held).await.unwrap();
    let other =
        DeleteParams { preconditions: Some(Preconditions { uid: Some("other".into()), resource_version: None }), ..Default::default() };
    assert_eq!(refusal(maps.delete("a", &other).await.unwrap_err()).0, 409);
    let marked = maps.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert_ne!(marked.resource_version(), held.resource_version());
    let again = maps.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(again.resource_version(), marked.resource_version());
    let more = json!({ "metadata": { "finalizers": ["example.com/hold", "example.com/more"] } });
    assert_eq!(refusal(maps.patch("a", &PatchParams::default(), &Patch::Merge(more)).await.unwrap_err()).0, 422);
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({ "metadata": { "finalizers": [] } }))).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_bound_pod_stays_until_its_kubelet_lets_go() {
    let client = client();
    let pods = Api::<Pod>::default_namespaced(client.clone());
    pods.create(&PostParams::default(), &pod("loose")).await.unwrap();
    pods.delete("loose", &DeleteParams::default()).await.unwrap();
    assert!(pods.get_opt("loose").await.unwrap().is_none());
    let made = pods.create(&PostParams::default(), &pod("bound")).await.unwrap();
    let bind = |node: &str| {
        let binding =
            json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "bound" }, "target": { "kind": "Node", "name": node } });
        let pods = pods.clone();
        async move { pods.create_subresource::<Value, Value>("binding", "bound", &PostParams::default(), &binding).await }
    };
    bind("n1").await.unwrap();
    assert_eq!(refusal(bind("n2").await.unwrap_err()).0, 409);
    let marked = pods.delete("bound", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!((marked.uid(), marked.metadata.deletion_grace_period_seconds), (made.uid(), Some(30)));
    let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    pods.delete("bound", &now).await.unwrap();
    assert!(pods.get_opt("bound").await.unwrap().is_none());
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_empty() {
    let client = client();
    let namespaces = Api::<Namespace>::all(client.clone());
    let made: Namespace = serde_json::from_value(json!({ "metadata": { "name": "n" } })).unwrap();
    namespaces.create(&PostParams::default(), &made).await.unwrap();
    assert_eq!(refusal(namespaces.delete("default", &DeleteParams::default()).await.unwrap_err()).0, 403);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "n");
    maps.create(&PostParams::default(), &config_map("free")).await.unwrap();
    let mut held = config_map("held");
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    maps.create(&PostParams::default(), &held).await.unwrap();
    namespaces.delete("n", &DeleteParams::default()).await.unwrap();
    assert_eq!(namespaces.get("n").await.unwrap().status.unwrap().phase.as_deref(), Some("Terminating"));
    assert!(maps.get_opt("free").await.unwrap().is_none());
    assert_eq!(refusal(maps.create(&PostParams::default(), &config_map("late")).await.unwrap_err()).0, 403);
    maps.patch("held", &PatchParams::default(), &Patch::Merge(json!({ "metadata": { "finalizers": null } }))).await.unwrap();
    assert!(namespaces.get_opt("n").await.unwrap().is_none());
}

#[tokio::test]
async fn lists_are_selected_paged_and_deleted() {
    let client = client();
    let pods = Api::<Pod>::default_namespaced(client.clone());
    for n in 0..7 {
        let mut pod = pod(&format!("p{n}"));
        pod.spec.as_mut().unwrap().node_name = Some(format!("n{}", n % 2));
        pods.create(&PostParams::default(), &pod).await.unwrap();
    }
    let names = |list: Vec<Pod>| list.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    let found = pods.list(&ListParams::default().fields("spec.nodeName=n1")).await.unwrap();
    assert_eq!(names(found.items), ["p1", "p3", "p5"]);
    let found = pods.list(&ListParams::default().labels("app in (p2,p6)")).await.unwrap();
    assert_eq!(names(found.items), ["p2", "p6"]);
    assert_eq!(refusal(pods.list(&ListParams::default().fields("spec.colour=red")).await.unwrap_err()).0, 400);
    let (mut token, mut seen) = (None, Vec::new());
    loop {
        let mut page = ListParams::default().limit(3);
        page.continue_token = token;
        let page = pods.list(&page).await.unwrap();
        assert!(page.items.len() <= 3);
        seen.extend(names(page.items));
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]);
    let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    pods.delete_collection(&now, &ListParams::default().labels("app!=p3")).await.unwrap();
    assert_eq!(names(pods.list(&ListParams::default()).await.unwrap().items), ["p3"]);
}

#[tokio::test]
async fn a_strategic_patch_merges_containers_by_name() {
    let pods = Api::<Pod>::default_namespaced(client());
    pods.create(&PostParams::default(), &pod("a")).await.unwrap();
    let patch = json!({ "spec": { "containers": [{ "name": "main", "image": "other" }] } });
    let after = pods.patch("a", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    assert_eq!(after.spec.unwrap().containers[0].image.as_deref(), Some("other"));
}

#[tokio::test]
async fn a_node_keeps_the_status_it_is_registered_with() {
    let nodes = Api::<Node>::all(client());
    let node: Node = serde_json::from_value(
        json!({ "metadata": { "name": "n1" }, "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] } }),
    )
    .unwrap();
    let made = nodes.create(&PostParams::default(), &node).await.unwrap();
    assert_eq!(made.status.unwrap().addresses.unwrap()[0].address, "192.0.2.1");
}

#[tokio::test]
async fn an_object_that_its_type_cannot_hold_is_refused_naming_the_field() {
    let client = client();
    let bad = json!({ "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "c", "ports": "80" }] } });
    let request = http::Request::post("/api/v1/namespaces/default/pods").body(serde_json::to_vec(&bad).unwrap()).unwrap();
    let (code, message, _) = refusal(client.request::<Value>(request).await.unwrap_err());
    assert_eq!(code, 400);
    assert!(message.contains("spec.containers[0].ports: invalid type"), "{message}");
    let odd = json!({ "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "c", "colour": "red" }] } });
    let request =
        http::Request::post("/api/v1/namespaces/default/pods?fieldValidation=Strict").body(serde_json::to_vec(&odd).unwrap()).unwrap();
    let (code, message, _) = refusal(client.request::<Value>(request).await.unwrap_err());
    assert_eq!(code, 400);
    assert!(message.contains("unknown field \"spec.containers[0].colour\""), "{message}");
}

#[tokio::test]
async fn both_faces_of_events_show_the_same_events() {
    use k8s_openapi::api::{core::v1::Event as CoreEvent, events::v1::Event};
    let client = client();
    let (core, new) = (Api::<CoreEvent>::default_namespaced(client.clone()), Api::<Event>::default_namespaced(client));
    let made: Event = serde_json::from_value(json!({
        "metadata": { "name": "e" }, "regarding": { "kind": "Pod", "name": "a" }, "note": "hello", "reason": "Tested",
        "reportingController": "us", "reportingInstance": "me", "action": "test", "type": "Normal",
        "eventTime": "2026-01-01T00:00:00.000000Z",
    }))
    .unwrap();
    let made = new.create(&PostParams::default(), &made).await.unwrap();
    assert_eq!(made.note.as_deref(), Some("hello"));
    let found = core.list(&ListParams::default().fields("involvedObject.name=a")).await.unwrap().items;
    assert_eq!((found[0].message.as_deref(), found[0].involved_object.name.as_deref()), (Some("hello"), Some("a")));
    let series = json!({ "note": "again" });
    new.patch("e", &PatchParams::default(), &Patch::Merge(series)).await.unwrap();
    assert_eq!(core.get("e").await.unwrap().message.as_deref(), Some("again"));
    assert_eq!(new.list(&ListParams::default()).await.unwrap().items[0].note.as_deref(), Some("again"));
}

#[tokio::test]
async fn later_pages_show_the_world_of_the_first() {
    let client = client();
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    for name in ["b", "d", "f", "h"] {
        maps.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(1)).await.unwrap();
    maps.delete("d", &DeleteParams::default()).await.unwrap();
    maps.create(&PostParams::default(), &config_map("e")).await.unwrap();
    maps.patch("f", &PatchParams::default(), &Patch::Merge(json!({ "data": { "new": "yes" } }))).await.unwrap();
    maps.delete("h", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    let mut token = first.metadata.continue_.clone();
    while let Some(next) = token.filter(|token| !token.is_empty()) {
        let page = maps.list(&ListParams::default().limit(2).continue_token(&next)).await.unwrap();
        assert_eq!(page.metadata.resource_version, first.metadata.resource_version);
        seen.extend(page.items.into_iter().map(|map| (map.name_any(), map.data.is_some())));
        token = page.metadata.continue_;
    }
    assert_eq!(seen, [("d".to_owned(), false), ("f".to_owned(), false), ("h".to_owned(), false)]);
}

#[tokio::test]
async fn text_of_a_secret_is_stored_as_data() {
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::default_namespaced(client());
    let secret = serde_json::from_value(json!({ "metadata": { "name": "s" }, "stringData": { "k": "v" } })).unwrap();
    let made = secrets.create(&PostParams::default(), &secret).await.unwrap();
    assert_eq!((made.data.unwrap()["k"].0.as_slice(), made.string_data), (b"v".as_slice(), None));
}

#[tokio::test]
async fn a_dry_run_and_an_invalid_definition_leave_nothing() {
    let client = client();
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    maps.create(&PostParams { dry_run: true, ..Default::default() }, &config_map("a")).await.unwrap();
    assert!(maps.get_opt("a").await.unwrap().is_none());
    let mut crd = api::v1::crds().remove(0);
    crd.metadata.name = Some("other.kubeovn.io".into());
    let crds = Api::<CustomResourceDefinition>::all(client);
    let (code, message, _) = refusal(crds.create(&PostParams::default(), &crd).await.unwrap_err());
    assert!(code == 422 && message.contains("metadata.name"), "{message}");
}
