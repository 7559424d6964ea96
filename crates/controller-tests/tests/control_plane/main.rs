//! The controller between an API server, embedded or real, and a real `ovsdb-server`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod addresses;
mod adoption;
mod election;
mod gateways;
mod harness;
mod migration;
mod nics;
#[path = "../../../apiserver-tests/tests/real/mod.rs"]
mod real;
mod storm;
mod underlay;
mod vanished;

use std::collections::BTreeMap;

use api::view::{NamespaceView, PodView};
use api::{annotations, v1};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use harness::*;

#[test]
fn a_pod_gets_its_port_and_then_its_record() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        create_pod(&client, "a", &[]).await;
        let pod = allocated(&client, "a").await;
        // The port was committed before the record was written.
        mirror.until("the port", |m| m.ports().contains_key("a.default")).await;
        assert_eq!(note(&pod, annotations::IP_ADDRESS).as_deref(), Some("10.16.0.2"));
        assert_eq!(note(&pod, annotations::GATEWAY).as_deref(), Some("10.16.0.1"));
        assert_eq!(note(&pod, annotations::CIDR).as_deref(), Some("10.16.0.0/16"));
        assert_eq!(note(&pod, annotations::LOGICAL_SWITCH).as_deref(), Some("ovn-default"));
        assert_eq!(note(&pod, annotations::LOGICAL_ROUTER).as_deref(), Some("ovn-cluster"));
        assert_eq!(note(&pod, annotations::ROUTED).as_deref(), Some("true"));
        let mac = note(&pod, annotations::MAC_ADDRESS).unwrap();
        assert_eq!(mirror.ports()["a.default"], format!("{mac} 10.16.0.2"));

        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        let used = |s: &v1::Subnet| s.status.as_ref().and_then(|s| s.v4_using_ips);
        let subnet = until(&subnets, "ovn-default", "one address in use", |s| used(s) == Some(1.0)).await;
        let status = subnet.status.unwrap();
        assert_eq!(status.v4_available_ips, Some(65532.0));
        assert_eq!(
            (status.v4_using_ip_range.as_deref(), status.v4_available_ip_range.as_deref()),
            (Some("10.16.0.2"), Some("10.16.0.3-10.16.255.254"))
        );

        pods(&client).delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
        mirror.until("the port is gone", |m| !m.ports().contains_key("a.default")).await;
        until(&subnets, "ovn-default", "no address in use", |s| used(s) == Some(0.0)).await;
        controller.stop().await;
    });
}

#[test]
fn killed_and_started_again_it_writes_nothing() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        for i in 0..20 {
            create_pod(&client, &format!("p{i}"), &[]).await;
        }
        for i in 0..20 {
            allocated(&client, &format!("p{i}")).await;
        }
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        until(&subnets, "ovn-default", "20 in use", |s| s.status.as_ref().and_then(|s| s.v4_using_ips) == Some(20.0)).await;
        let ips: Api<v1::Ip> = Api::all(client.clone());
        for i in 0..20 {
            until(&ips, &format!("p{i}.default"), "the object", |_| true).await;
        }
        mirror.catch_up(&database).await;
        controller.kill().await;
        let version = Api::<PodView>::all(client.clone()).list(&ListParams::default()).await.unwrap().metadata.resource_version;

        let controller = started_again(&client, &database, &mut mirror).await;
        // Creation and record of the late pod, one status of its subnet, its `IP` object.
        until(&subnets, "ovn-default", "21 in use", |s| s.status.as_ref().and_then(|s| s.v4_using_ips) == Some(21.0)).await;
        until(&ips, "late.default", "the object", |_| true).await;
        let written = writes_since(&client, &version.unwrap()).await;
        assert_eq!(written.len(), 4, "API writes by a restart: {written:#?}");
        controller.stop().await;
    });
}

#[test]
fn each_pod_is_patched_once_and_its_ip_object_written_once() {
    /// How often objects were written after their creation, by how many of them.
    async fn writes<K>(api: Api<K>, version: &str, wanted: usize) -> BTreeMap<usize, usize>
    where
        K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut events = std::pin::pin!(api.watch(&WatchParams::default().timeout(2), version).await.unwrap());
        while let Some(event) = events.try_next().await.unwrap() {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event {
                *seen.entry(object.meta().name.clone().unwrap()).or_default() += 1;
            }
        }
        assert_eq!(seen.len(), wanted);
        let mut counts = BTreeMap::new();
        seen.values().for_each(|times| *counts.entry(times - 1).or_default() += 1);
        counts
    }
    within(async {
        const PODS: usize = 300;
        let (client, database, mut mirror) = cluster().await;
        // A real server knows the history of a kind only from the first request for it.
        let version = |list: kube::core::ListMeta| list.resource_version.unwrap();
        let pods_before = version(Api::<PodView>::all(client.clone()).list(&ListParams::default()).await.unwrap().metadata);
        let ips_before = version(Api::<v1::Ip>::all(client.clone()).list(&ListParams::default()).await.unwrap().metadata);
        let controller = Controller::start(&client, &database);
        for i in 0..PODS {
            create_pod(&client, &format!("p{i}"), &[]).await;
        }
        for i in 0..PODS {
            allocated(&client, &format!("p{i}")).await;
            until(&Api::<v1::Ip>::all(client.clone()), &format!("p{i}.default"), "the object", |_| true).await;
        }
        mirror.catch_up(&database).await;
        // A pod's creation and its record, an `IP` object's creation.
        assert_eq!(writes(Api::<PodView>::all(client.clone()), &pods_before, PODS).await, [(1, PODS)].into());
        assert_eq!(writes(Api::<v1::Ip>::all(client.clone()), &ips_before, PODS).await, [(0, PODS)].into());
        controller.stop().await;
    });
}

#[test]
fn deleting_everything_leaves_the_database_without_our_rows() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        // Rows that are not ours.
        assert!(database.nbctl(&["ls-add", "foreign", "--", "lsp-add", "foreign", "foreign-port", "--", "lr-add", "foreign-router"]).1);
        let controller = Controller::start(&client, &database);
        for i in 0..5 {
            create_pod(&client, &format!("p{i}"), &[]).await;
            allocated(&client, &format!("p{i}")).await;
        }
        // The subnet waits for its pods, the VPC for its subnet.
        let vpcs: Api<v1::Vpc> = Api::all(client.clone());
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        vpcs.delete("ovn-cluster", &DeleteParams::default()).await.unwrap();
        subnets.delete("ovn-default", &DeleteParams::default()).await.unwrap();
        let waits = |s: &v1::Subnet| {
            let conditions = s.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|c| c.message.contains("deletion waits for 5 addresses"))
        };
        until(&subnets, "ovn-default", "the subnet says for whom it waits", waits).await;
        for i in 0..5 {
            pods(&client).delete(&format!("p{i}"), &DeleteParams::default().grace_period(0)).await.unwrap();
        }
        mirror.until("only foreign rows are left", |m| m.rows() == 3).await;
        controller.stop().await;
    });
}

#[test]
fn what_cannot_work_is_told_by_condition_and_event_and_the_rest_goes_on() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        until(&subnets, "ovn-default", "the default subnet is ready", |s| s.status.is_some()).await;
        let subnet = |name: &str, vpc: &str, cidr: &str| -> v1::Subnet {
            serde_json::from_value(json!({
                "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": name }, "spec": { "vpc": vpc, "cidrBlock": cidr },
            }))
            .unwrap()
        };
        subnets.create(&PostParams::default(), &subnet("z-overlap", "ovn-cluster", "10.16.1.0/24")).await.unwrap();
        subnets.create(&PostParams::default(), &subnet("orphan", "nowhere", "10.0.0.0/24")).await.unwrap();
        let message = |s: &v1::Subnet| Some(s.status.as_ref()?.conditions.as_ref()?.first()?.message.clone());
        let overlap = until(&subnets, "z-overlap", "a condition", |s| message(s).is_some()).await;
        assert!(message(&overlap).unwrap().contains("overlaps with 10.16.0.0/16 of subnet \"ovn-default\""), "{:?}", message(&overlap));
        let orphan = until(&subnets, "orphan", "a condition", |s| message(s).is_some()).await;
        assert_eq!(message(&orphan).unwrap(), "spec.vpc: VPC \"nowhere\" does not exist");

        create_pod(&client, "bad", &[(annotations::IP_ADDRESS, "10.99.0.1")]).await;
        create_pod(&client, "lost", &[(annotations::LOGICAL_SWITCH, "orphan")]).await;
        create_pod(&client, "good", &[(annotations::IP_ADDRESS, "10.16.0.77"), (annotations::MAC_ADDRESS, "02:00:00:00:00:77")]).await;
        create_pod(&client, "thief", &[(annotations::IP_ADDRESS, "10.16.0.77")]).await;
        allocated(&client, "good").await;
        mirror.until("the good pod's port", |m| m.ports().get("good.default").is_some_and(|a| a == "02:00:00:00:00:77 10.16.0.77")).await;
        for (name, why) in [
            ("bad", "address 10.99.0.1 lies outside the subnet's range 10.16.0.0/16"),
            ("lost", "subnet \"orphan\" is not usable"),
            ("thief", "address 10.16.0.77 is in use by good.default"),
            ("z-overlap", "overlaps"),
        ] {
            told(&client, name, why).await;
        }
        // The thief is served as soon as the address is free.
        pods(&client).delete("good", &DeleteParams::default().grace_period(0)).await.unwrap();
        assert_eq!(note(&allocated(&client, "thief").await, annotations::IP_ADDRESS).as_deref(), Some("10.16.0.77"));
        controller.stop().await;
    });
}

#[test]
fn a_clash_of_names_is_told_on_the_objects_and_holds_up_nothing_else() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        // A row that is not ours has the name that a pod's port needs.
        assert!(database.nbctl(&["ls-add", "foreign", "--", "lsp-add", "foreign", "taken.default"]).1);
        let controller = Controller::start(&client, &database);
        // `a-b` in `c` and `a` in `b-c` both want the switch port `a-b-c`.
        for (vpc, subnet, cidr) in [("c", "a-b", "10.1.0.0/24"), ("b-c", "a", "10.2.0.0/24")] {
            let json = json!({ "apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": { "name": vpc }, "spec": {} });
            Api::<v1::Vpc>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(json).unwrap()).await.unwrap();
            let json = json!({
                "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": subnet }, "spec": { "vpc": vpc, "cidrBlock": cidr },
            });
            Api::<v1::Subnet>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(json).unwrap()).await.unwrap();
        }
        create_pod(&client, "taken", &[]).await;
        create_pod(&client, "fine", &[]).await;
        allocated(&client, "fine").await;
        mirror.until("the other pod's port", |m| m.ports().contains_key("fine.default")).await;
        assert_eq!(note(&pods(&client).get("taken").await.unwrap(), annotations::ALLOCATED), None);
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        let refused = |s: &v1::Subnet| {
            let conditions = s.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|c| c.status == "False" && c.message.contains("a-b-c"))
        };
        // The later of the two, or both when they came in one batch.
        tokio::select! {
            _ = until(&subnets, "a", "the clash is told", refused) => {}
            _ = until(&subnets, "a-b", "the clash is told", refused) => {}
        }
        // What stood in the way goes: the pod is served.
        assert!(database.nbctl(&["lsp-del", "taken.default"]).1);
        allocated(&client, "taken").await;
        controller.stop().await;
    });
}

#[test]
fn drift_is_put_right_and_foreign_rows_survive() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        create_pod(&client, "a", &[]).await;
        allocated(&client, "a").await;
        mirror.until("the port", |m| m.ports().contains_key("a.default")).await;
        let good = mirror.ports()["a.default"].clone();
        // Changed, taken away, and added by hand.
        assert!(database.nbctl(&["lsp-set-addresses", "a.default", "unknown"]).1);
        // The server may send the change and its correction as one: what counts is the state once it has passed.
        mirror.catch_up(&database).await;
        mirror.until("the address is put right", |m| m.ports().get("a.default") == Some(&good)).await;
        assert!(database.nbctl(&["lsp-del", "a.default"]).1);
        mirror.catch_up(&database).await;
        mirror.until("the port is back", |m| m.ports().get("a.default") == Some(&good)).await;
        let stray = ["--", "set", "logical_switch_port", "stray.default", "external_ids:vendor=kube-ovn", "external_ids:pod=default/stray"];
        assert!(database.nbctl(&[&["lsp-add", "ovn-default", "stray.default"][..], &stray].concat()).1);
        mirror.catch_up(&database).await;
        mirror.until("the stray is gone", |m| !m.ports().contains_key("stray.default")).await;
        assert!(database.nbctl(&["lsp-add", "ovn-default", "foreign"]).1);
        mirror.catch_up(&database).await;
        assert!(mirror.ports().contains_key("foreign"));
        // The whole database wiped: it heals by itself.
        assert!(database.nbctl(&["--all", "destroy", "logical_switch", "--", "--all", "destroy", "logical_router"]).1);
        mirror.catch_up(&database).await;
        mirror.until("all is back", |m| m.ports().get("a.default") == Some(&good) && m.rows() == 5).await;
        controller.stop().await;
    });
}

#[test]
fn a_row_that_somebody_keeps_changing_is_named_and_holds_up_nothing_else() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        create_pod(&client, "a", &[]).await;
        allocated(&client, "a").await;
        mirror.until("the port", |m| m.ports().contains_key("a.default")).await;
        let good = mirror.ports()["a.default"].clone();
        let spoil = || assert!(database.nbctl(&["lsp-set-addresses", "a.default", "unknown"]).1);
        for _ in 0..5 {
            spoil();
            mirror.catch_up(&database).await;
            mirror.until("the address is put right", |m| m.ports().get("a.default") == Some(&good)).await;
        }
        told(&client, "kube-system", "somebody else keeps changing row \"a.default\" of the northbound table Logical_Switch_Port").await;
        // From now on it is left alone for a while, and others are served meanwhile.
        spoil();
        create_pod(&client, "b", &[]).await;
        allocated(&client, "b").await;
        mirror.catch_up(&database).await;
        assert_eq!(mirror.ports()["a.default"], "unknown");
        mirror.until("the address is put right in the end", |m| m.ports().get("a.default") == Some(&good)).await;
        controller.stop().await;
    });
}

#[test]
fn an_audit_finds_nothing_and_metrics_count_it() {
    within(async {
        let (client, database, _mirror) = cluster().await;
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let every = std::time::Duration::from_millis(200);
        let config = controller::Config { audit: Some(every), metrics: Some(address), ..controller::Config::new(database.remote()) };
        let controller = Controller::start_with(&client, config);
        for i in 0..20 {
            create_pod(&client, &format!("p{i}"), &[]).await;
            allocated(&client, &format!("p{i}")).await;
        }
        let metrics = async || {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let value = |text: &str, name: &str| -> Option<u64> { text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()) };
        // Two audits, so that the second could confirm what the first suspects.
        let text = tokio::time::timeout(PATIENCE, async {
            loop {
                let text = metrics().await;
                if value(&text, "ferrovia_audits_total") >= Some(3) {
                    return text;
                }
                tokio::time::sleep(every).await;
            }
        });
        let text = text.await.expect("audits take place");
        assert_eq!(value(&text, "ferrovia_audit_differences_total"), Some(0), "{text}");
        assert!(value(&text, "ferrovia_rule_runs_total{rule=\"port\"}") >= Some(20), "{text}");
        assert!(value(&text, "ferrovia_northbound_rows_total{change=\"inserted\"}") >= Some(24), "{text}");
        assert_eq!((value(&text, "ferrovia_leader"), value(&text, "ferrovia_removal_held")), (Some(1), Some(0)), "{text}");
        controller.stop().await;
    });
}

#[test]
fn a_database_is_marked_complete_with_the_commit_that_completes_it_and_marked_again() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        mirror.until("the mark", Mirror::is_complete).await;
        assert!(mirror.rows() > 0, "the mark comes with the rows, not before them");
        assert!(database.nbctl(&["remove", "nb_global", ".", "external_ids", "ferrovia-complete"]).1);
        mirror.catch_up(&database).await;
        mirror.until("the mark again", Mirror::is_complete).await;
        controller.stop().await;
    });
}

#[test]
fn a_namespace_and_a_subnet_that_names_it_decide_where_pods_land() {
    within(async {
        let (client, database, _mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        for (name, cidr, namespaces) in [("named", "10.20.0.0/24", json!(["team"])), ("chosen", "10.21.0.0/24", json!([]))] {
            let subnet: v1::Subnet = serde_json::from_value(json!({
                "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": name },
                "spec": { "vpc": "ovn-cluster", "cidrBlock": cidr, "namespaces": namespaces },
            }))
            .unwrap();
            subnets.create(&PostParams::default(), &subnet).await.unwrap();
        }
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
        let team = serde_json::from_value(json!({ "metadata": { "name": "team" } })).unwrap();
        namespaces.create(&PostParams::default(), &team).await.unwrap();
        let pod = |name: &str| -> Pod {
            serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "none" }] } }))
                .unwrap()
        };
        let (api, views) = (Api::<Pod>::namespaced(client.clone(), "team"), Api::<PodView>::namespaced(client.clone(), "team"));
        let lands = |name: &'static str| {
            let views = views.clone();
            async move {
                let pod = until(&views, name, "allocated", |p| note(p, annotations::ALLOCATED).is_some()).await;
                note(&pod, annotations::IP_ADDRESS).unwrap()
            }
        };
        api.create(&PostParams::default(), &pod("a")).await.unwrap();
        assert_eq!(lands("a").await, "10.20.0.2");
        let annotated = json!({ "metadata": { "annotations": { annotations::LOGICAL_SWITCH: "chosen" } } });
        Api::<NamespaceView>::all(client.clone()).patch("team", &PatchParams::default(), &Patch::Merge(annotated)).await.unwrap();
        api.create(&PostParams::default(), &pod("b")).await.unwrap();
        assert_eq!(lands("b").await, "10.21.0.2");
        // The first pod keeps what it has.
        assert_eq!(lands("a").await, "10.20.0.2");
        controller.stop().await;
    });
}
