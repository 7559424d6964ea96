//! Pods with several NICs: allocation, one record for all, port security.

use api::annotations::{self, NicRecord};
use api::networks::{NETWORKS, key};
use api::v1;
use api::view::{NetworkAttachmentDefinitionView, PodView};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use ovsdb_types::nb::logical_switch_port as lsp;
use serde_json::json;

use crate::harness::*;

const OURS: &str = r#"{"cniVersion": "1.1.0", "type": "kube-ovn"}"#;
const MACVLAN: &str = r#"{"cniVersion": "1.1.0", "type": "macvlan", "master": "eth0", "ipam": {"type": "ferrovia"}}"#;

/// Serves the kind by which pods ask for NICs.
async fn serve_definitions(client: &Client) {
    let manifest = include_str!("../../../../deploy/third-party/network-attachment-definitions.yaml");
    serve(client, &[serde_norway::from_str(manifest).unwrap()]).await;
}

fn definitions(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &ApiResource::erase::<NetworkAttachmentDefinitionView>(&()))
}

async fn define(client: &Client, name: &str, config: &str) {
    let kind = ApiResource::erase::<NetworkAttachmentDefinitionView>(&());
    let object = DynamicObject::new(name, &kind).data(json!({ "spec": { "config": config } }));
    definitions(client).create(&PostParams::default(), &object).await.unwrap();
}

/// A second VPC with a subnet whose range the default one has too, and one of addresses for another plugin.
async fn lay_out(client: &Client) {
    serve_definitions(client).await;
    Api::all(client.clone()).create(&PostParams::default(), &v1::Vpc::new("blue", v1::VpcSpec::default())).await.unwrap();
    create_subnet(client, "blue-net", json!({ "vpc": "blue", "cidrBlock": "10.16.0.0/24" })).await;
    create_subnet(client, "lan", json!({ "cidrBlock": "10.16.0.0/24", "provider": "lan.default" })).await;
    define(client, "data", OURS).await;
    define(client, "more", OURS).await;
    define(client, "lan", MACVLAN).await;
}

/// Four NICs of ours, in two subnets of two VPCs, two of them of one definition.
const FOUR: [(&str, &str); 5] = [
    (NETWORKS, "data,more,data@second"),
    ("data.default.ovn.kubernetes.io/logical_switch", "blue-net"),
    ("data.default.ovn.kubernetes.io/ip_address", "10.16.0.77"),
    ("data.default.ovn.second.kubernetes.io/logical_switch", "blue-net"),
    ("data.default.kubernetes.io/mac_address.second", "02:00:00:00:00:77"),
];
const OF_FOUR: [&str; 4] = ["ovn", "data.default.ovn", "more.default.ovn", "data.default.ovn.second"];

fn record(pod: &PodView, provider: &str) -> Option<NicRecord> {
    annotations::recorded_of(provider, pod.metadata.annotations.as_ref()?).unwrap()
}

async fn recorded(client: &Client, name: &str, provider: &str) -> NicRecord {
    record(&until(&pods(client), name, provider, |pod| record(pod, provider).is_some()).await, provider).unwrap()
}

fn port_of(name: &str, provider: &str) -> String {
    api::networks::port(name, "default", provider)
}

fn row(record: &NicRecord) -> String {
    format!("{} {}", record.mac, record.addresses[0])
}

async fn version(client: &Client) -> String {
    Api::<PodView>::all(client.clone()).list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap()
}

/// How often a pod was written since a version, its creation included.
async fn writes_of(client: &Client, name: &str, version: &str) -> usize {
    use futures::TryStreamExt;
    let params = WatchParams::default().timeout(1).fields(&format!("metadata.name={name}"));
    let events: Vec<_> = pods(client).watch(&params, version).await.unwrap().try_collect().await.unwrap();
    events.iter().filter(|event| matches!(event, WatchEvent::Added(_) | WatchEvent::Modified(_))).count()
}

#[test]
fn a_pod_with_four_nics_in_two_vpcs_is_told_of_all_at_once() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        lay_out(&client).await;
        let controller = Controller::start(&client, &database);
        let before = version(&client).await;
        create_pod(&client, "a", &FOUR).await;
        let pod = allocated(&client, "a").await;
        let records = OF_FOUR.map(|provider| record(&pod, provider).unwrap());
        let place = |r: &NicRecord| (r.subnet.to_string(), annotations::join(&r.gateways), r.cidrs.unwrap().to_string());
        for (record, subnet, cidr) in [
            (&records[0], "ovn-default", "10.16.0.0/16"),
            (&records[1], "blue-net", "10.16.0.0/24"),
            (&records[2], "ovn-default", "10.16.0.0/16"),
            (&records[3], "blue-net", "10.16.0.0/24"),
        ] {
            assert_eq!(place(record), (subnet.to_owned(), "10.16.0.1".to_owned(), cidr.to_owned()));
        }
        assert_eq!(annotations::join(&records[1].addresses), "10.16.0.77");
        assert_eq!(records[3].mac.to_string(), "02:00:00:00:00:77");
        for (provider, vpc) in OF_FOUR.into_iter().zip(["ovn-cluster", "blue", "ovn-cluster", "blue"]) {
            let said = ["routed", "logical_router", "pod_nic_type"].map(|name| note(&pod, &key(provider, name)).unwrap());
            assert_eq!(said, ["true", vpc, "veth-pair"]);
        }
        let ips: Api<v1::Ip> = Api::all(client.clone());
        for (provider, record) in OF_FOUR.into_iter().zip(&records) {
            let port = port_of("a", provider);
            mirror.until(&port, |m| m.ports().get(&port) == Some(&row(record))).await;
            let ip = until(&ips, &port, "the object", |_| true).await.spec;
            let texts = [&ip.pod_name, &ip.namespace, &ip.subnet, &ip.ip_address, &ip.mac_address].map(|text| text.clone().unwrap());
            let wanted = ["a".into(), "default".into(), record.subnet.to_string(), record.addresses[0].to_string(), record.mac.to_string()];
            assert_eq!(texts, wanted);
        }
        assert_eq!(writes_of(&client, "a", &before).await, 2, "creation and record");

        // A list that changes gives up what it names no more, and nothing else.
        let change = Patch::Merge(json!({ "metadata": { "annotations": { NETWORKS: "data" } } }));
        pods(&client).patch("a", &PatchParams::default(), &change).await.unwrap();
        let (kept, left): (Vec<_>, Vec<_>) = OF_FOUR.into_iter().partition(|provider| ["ovn", "data.default.ovn"].contains(provider));
        for provider in left {
            mirror.until(provider, |m| !m.ports().contains_key(&port_of("a", provider))).await;
            gone(&ips, &port_of("a", provider)).await;
        }
        for provider in kept {
            assert!(mirror.ports().contains_key(&port_of("a", provider)));
        }
        delete_pod(&client, "a").await;
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        for name in ["ovn-default", "blue-net"] {
            let used = |s: &v1::Subnet| s.status.as_ref().and_then(|s| s.v4_using_ips);
            until(&subnets, name, "nothing in use", |s| used(s) == Some(0.0)).await;
        }
        mirror.until("no port", |m| !m.ports().keys().any(|name| name.starts_with("a."))).await;
        gone(&ips, &port_of("a", "data.default.ovn")).await;
        controller.stop().await;
    });
}

#[test]
fn for_another_plugins_nic_there_are_addresses_and_no_port() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        lay_out(&client).await;
        let controller = Controller::start(&client, &database);
        create_pod(&client, "a", &[(NETWORKS, r#"[{"name": "lan", "ips": ["10.16.0.9/24"]}]"#)]).await;
        let nic = recorded(&client, "a", "lan.default").await;
        let pod = pods(&client).get("a").await.unwrap();
        assert_eq!((&*nic.subnet, annotations::join(&nic.addresses).as_str()), ("lan", "10.16.0.9"));
        for absent in ["logical_router", "pod_nic_type"] {
            assert_eq!(note(&pod, &key("lan.default", absent)), None);
        }
        // Nobody else gets it, and the network knows nothing of it.
        create_pod(&client, "b", &[(NETWORKS, "lan"), ("lan.default.kubernetes.io/ip_address", "10.16.0.9")]).await;
        told(&client, "b", "NIC lan.default: subnet lan: address 10.16.0.9 is in use by a.default.lan.default").await;
        allocated(&client, "b").await;
        until(&Api::<v1::Ip>::all(client.clone()), "a.default.lan.default", "the object", |_| true).await;
        mirror.catch_up(&database).await;
        let names: Vec<_> = mirror.ports().into_keys().collect();
        assert_eq!(names, ["a.default", "b.default", "blue-net-blue", "ovn-default-ovn-cluster"]);
        assert!(!database.nbctl(&["ls-list"]).0.contains("lan"));
        let subnet = Api::<v1::Subnet>::all(client.clone()).get("lan").await.unwrap();
        assert_eq!((subnet.spec.provider.as_deref(), subnet.spec.vpc, subnet.spec.gateway_type), (Some("lan.default"), None, None));
        delete_pod(&client, "a").await;
        assert_eq!(recorded(&client, "b", "lan.default").await.addresses, nic.addresses);
        controller.stop().await;
    });
}

#[test]
fn a_nic_whose_definition_is_missing_follows_when_it_comes_and_stays_when_it_goes() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        // The cluster need not even serve the kind.
        create_pod(&client, "a", &[(NETWORKS, "data,data")]).await;
        allocated(&client, "a").await;
        told(&client, "a", "NetworkAttachmentDefinition default/data: does not exist").await;
        let before = version(&client).await;
        serve_definitions(&client).await;
        define(&client, "data", OURS).await;
        let nics = [recorded(&client, "a", "data.default.ovn").await, recorded(&client, "a", "data.default.ovn.net2").await];
        assert_eq!(writes_of(&client, "a", &before).await, 1);

        definitions(&client).delete("data", &DeleteParams::default()).await.unwrap();
        // Pods and definitions are watched apart: who is seen before the deletion has the NIC still.
        let mut number = 0;
        let late = loop {
            let late = format!("b{number}");
            create_pod(&client, &late, &[(NETWORKS, "data")]).await;
            if note(&allocated(&client, &late).await, "data.default.ovn.kubernetes.io/allocated").is_none() {
                break late;
            }
            number += 1;
            assert!(number < 100, "the deletion is not seen");
        };
        told(&client, &late, "NetworkAttachmentDefinition default/data: does not exist").await;
        mirror.catch_up(&database).await;
        controller.kill().await;
        let controller = started_again(&client, &database, &mut mirror).await;
        assert_eq!(mirror.ports()["a.default.data.default.ovn"], row(&nics[0]));
        assert_eq!(mirror.ports()["a.default.data.default.ovn.net2"], row(&nics[1]));
        controller.stop().await;
    });
}

#[test]
fn killed_and_started_again_nothing_is_written_for_any_nic() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        lay_out(&client).await;
        let controller = Controller::start(&client, &database);
        let list = "data,more,data@second,lan";
        let notes: Vec<_> = FOUR.iter().map(|(k, v)| (*k, if *k == NETWORKS { list } else { *v })).collect();
        create_pod(&client, "a", &notes).await;
        create_pod(&client, "b", &[(NETWORKS, "data"), ("data.default.ovn.kubernetes.io/port_security", "true")]).await;
        for provider in OF_FOUR.into_iter().chain(["lan.default"]) {
            recorded(&client, "a", provider).await;
            until(&Api::<v1::Ip>::all(client.clone()), &port_of("a", provider), "the object", |_| true).await;
        }
        recorded(&client, "b", "data.default.ovn").await;
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        let used = |n: f64| move |s: &v1::Subnet| s.status.as_ref().and_then(|s| s.v4_using_ips) == Some(n);
        for (name, n) in [("ovn-default", 4.0), ("blue-net", 2.0), ("lan", 1.0)] {
            until(&subnets, name, "in use", used(n)).await;
        }
        let ips: Api<v1::Ip> = Api::all(client.clone());
        for port in ["b.default", "b.default.data.default.ovn"] {
            until(&ips, port, "the object", |_| true).await;
        }
        mirror.catch_up(&database).await;
        controller.kill().await;
        let before = version(&client).await;
        let controller = started_again(&client, &database, &mut mirror).await;
        // Creation and record of the late pod, one status of its subnet, its `IP` object.
        until(&subnets, "ovn-default", "one more in use", used(5.0)).await;
        until(&ips, "late.default", "the object", |_| true).await;
        let written = writes_since(&client, &before).await;
        assert_eq!(written.len(), 4, "API writes by a restart: {written:#?}");
        controller.stop().await;
    });
}

#[test]
fn a_stateful_sets_pod_keeps_each_of_its_nics_and_is_told_of_all_at_once() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        lay_out(&client).await;
        let controller = Controller::start(&client, &database);
        let owner = create_stateful_set(&client, 1).await;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "web-0",
                "annotations": { NETWORKS: "data,lan,data" },
                "ownerReferences": [owner],
            },
            "spec": { "containers": [{ "name": "c", "image": "none" }] },
        }))
        .unwrap();
        let providers = ["ovn", "data.default.ovn", "lan.default", "data.default.ovn.net3"];
        let mut first = None;
        for _ in 0..2 {
            let before = version(&client).await;
            Api::<Pod>::namespaced(client.clone(), "default").create(&PostParams::default(), &pod).await.unwrap();
            let shown = allocated(&client, "web-0").await;
            let records = providers.map(|provider| record(&shown, provider).unwrap());
            assert_eq!(writes_of(&client, "web-0", &before).await, 2, "creation and record");
            mirror.until("the port", |m| m.ports().contains_key("web-0.default.data.default.ovn.net3")).await;
            delete_pod(&client, "web-0").await;
            mirror.until("no port", |m| !m.ports().keys().any(|name| name.starts_with("web-0."))).await;
            // What comes meanwhile gets others.
            let other = if first.is_none() { "other-0" } else { "other-1" };
            create_pod(&client, other, &[(NETWORKS, "data,lan")]).await;
            let others = [recorded(&client, other, "data.default.ovn").await, recorded(&client, other, "lan.default").await];
            assert!(
                records
                    .iter()
                    .all(|record| others.iter().all(|other| (&other.subnet, &other.addresses) != (&record.subnet, &record.addresses)))
            );
            assert_eq!(first.get_or_insert_with(|| records.clone()), &records);
        }
        // Deleted, it keeps none of them.
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), "default");
        sets.delete("web", &DeleteParams::background()).await.unwrap();
        for provider in providers {
            gone(&Api::<v1::Ip>::all(client.clone()), &port_of("web-0", provider)).await;
        }
        controller.stop().await;
    });
}

#[test]
fn port_security_lets_through_a_nics_own_addresses_and_those_of_its_virtual_ips() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        lay_out(&client).await;
        let controller = Controller::start(&client, &database);
        let secured = |name: &str| key("data.default.ovn", name);
        let (security, aaps) = (secured("port_security"), secured("aaps"));
        let notes = [
            (NETWORKS, "data"),
            (annotations::IP_ADDRESS, "10.16.0.5"),
            (annotations::MAC_ADDRESS, "02:00:00:00:00:05"),
            ("ovn.kubernetes.io/port_security", "true"),
            ("ovn.kubernetes.io/port_vips", "10.16.0.300,10.16.0.6"),
            (security.as_str(), "true"),
            (aaps.as_str(), "shared"),
        ];
        create_pod(&client, "a", &notes).await;
        told(&client, "a", "annotation ovn.kubernetes.io/port_vips: \"10.16.0.300\" is not an IP address").await;
        told(&client, "a", "annotation data.default.ovn.kubernetes.io/aaps: Vip \"shared\" does not exist").await;
        let allowed = |m: &Mirror, port: &str| {
            let row = m.replica.rows(lsp::TABLE).find(|row| row.text(lsp::NAME) == port)?;
            let mut pairs: Vec<_> =
                row.get(lsp::PORT_SECURITY)?.atoms().iter().filter_map(|atom| Some(atom.as_str()?.to_owned())).collect();
            pairs.sort();
            Some(pairs)
        };
        let own = ["02:00:00:00:00:05 10.16.0.5 10.16.0.6".to_owned()];
        mirror.until("its own", |m| allowed(m, "a.default").as_deref() == Some(&own[..])).await;
        let nic = row(&recorded(&client, "a", "data.default.ovn").await);
        let port = "a.default.data.default.ovn";
        mirror.until("its own", |m| allowed(m, port) == Some(vec![nic.clone()])).await;
        let vip = v1::VipSpec {
            v4_ip: Some("10.16.0.99".to_owned()),
            mac_address: Some("00:00:5e:00:01:01".to_owned()),
            ..v1::VipSpec::default()
        };
        let vips: Api<v1::Vip> = Api::all(client.clone());
        vips.create(&PostParams::default(), &v1::Vip::new("shared", vip)).await.unwrap();
        let both = vec!["00:00:5e:00:01:01 10.16.0.99".to_owned(), format!("{nic} 10.16.0.99")];
        mirror.until("the virtual IP's", |m| allowed(m, port).as_ref() == Some(&both)).await;
        vips.delete("shared", &DeleteParams::default()).await.unwrap();
        mirror.until("no more", |m| allowed(m, port) == Some(vec![nic.clone()])).await;
        // Off again, and what somebody writes by hand goes.
        let change = Patch::Merge(json!({ "metadata": { "annotations": { security: null } } }));
        pods(&client).patch("a", &PatchParams::default(), &change).await.unwrap();
        mirror.until("anybody", |m| allowed(m, port) == Some(Vec::new())).await;
        assert!(database.nbctl(&["lsp-set-port-security", port, "02:00:00:00:00:01"]).1);
        mirror.until("a change by hand", |m| allowed(m, port) != Some(Vec::new())).await;
        mirror.until("anybody", |m| allowed(m, port) == Some(Vec::new())).await;
        controller.stop().await;
    });
}

#[test]
fn of_two_nics_whose_ports_would_have_one_name_the_second_waits_for_the_first() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        lay_out(&client).await;
        let controller = Controller::start(&client, &database);
        create_pod(&client, "a", &[(NETWORKS, "lan")]).await;
        let first = recorded(&client, "a", "lan.default").await;
        create_pod(&client, "a.default.lan", &[]).await;
        told(&client, "a.default.lan", "its port would have the name of that of NIC lan.default of pod default/a").await;
        mirror.catch_up(&database).await;
        assert!(!mirror.ports().contains_key("a.default.lan.default"));
        assert_eq!(recorded(&client, "a", "lan.default").await, first);
        delete_pod(&client, "a").await;
        let second = recorded(&client, "a.default.lan", "ovn").await;
        mirror.until("its port", |m| m.ports().get("a.default.lan.default") == Some(&row(&second))).await;
        controller.stop().await;
    });
}
