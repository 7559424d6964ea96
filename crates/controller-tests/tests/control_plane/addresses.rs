//! Addresses as Kubernetes shows them: `IP` objects, and addresses that outlive their pod.

use api::view::{PodView, VirtualMachineView};
use api::{annotations, v1};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::harness::{
    Controller, allocated, cluster, create_pod, create_stateful_set, create_subnet, delete_pod, gone, note, pods, serve, told, until,
    within,
};

fn ips(client: &Client) -> Api<v1::Ip> {
    Api::all(client.clone())
}

/// A pod on a node, owned by a workload.
async fn create_owned_pod(client: &Client, name: &str, node: &str, owner: Value) {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "ownerReferences": [owner] },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "none" }] },
    }))
    .unwrap();
    Api::<Pod>::namespaced(client.clone(), "default").create(&PostParams::default(), &pod).await.unwrap();
}

/// Address and MAC that are recorded on a pod.
fn record(pod: &PodView) -> (String, String) {
    (note(pod, annotations::IP_ADDRESS).unwrap(), note(pod, annotations::MAC_ADDRESS).unwrap())
}

/// Address and MAC that an `IP` object shows.
fn shown(ip: &v1::Ip) -> (String, String) {
    (ip.spec.ip_address.clone().unwrap(), ip.spec.mac_address.clone().unwrap())
}

/// Serves the kinds of KubeVirt, which need no schema here.
pub async fn serve_kubevirt(client: &Client) {
    let list: Value = serde_json::from_str(include_str!("../../../api/tests/kubevirt.json")).unwrap();
    serve(client, &serde_json::from_value::<Vec<CustomResourceDefinition>>(list["items"].clone()).unwrap()).await;
}

#[test]
fn each_pod_has_an_ip_object_while_it_lives() {
    within(async {
        let (client, database, _mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        create_pod(&client, "a", &[]).await;
        let pod = allocated(&client, "a").await;
        let ip = until(&ips(&client), "a.default", "the object", |_| true).await;
        assert_eq!((shown(&ip), ip.spec.subnet.as_deref()), (record(&pod), Some("ovn-default")));
        assert_eq!((ip.spec.pod_name.as_deref(), ip.spec.namespace.as_deref()), (Some("a"), Some("default")));
        // Whoever deletes or changes it finds it as it was.
        ips(&client).delete("a.default", &DeleteParams::default()).await.unwrap();
        let again = until(&ips(&client), "a.default", "the object again", |again| again.metadata.uid != ip.metadata.uid).await;
        assert_eq!(again.spec, ip.spec);
        let change = Patch::Merge(json!({ "spec": { "macAddress": "02:00:00:00:00:99" } }));
        ips(&client).patch("a.default", &PatchParams::default(), &change).await.unwrap();
        until(&ips(&client), "a.default", "the MAC as it is", |now| now.spec == ip.spec).await;
        delete_pod(&client, "a").await;
        gone(&ips(&client), "a.default").await;
        controller.stop().await;
    });
}

#[test]
fn a_subnet_shows_what_it_left_open_and_keeps_what_it_said() {
    within(async {
        let (client, database, _mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        let spec = v1::SubnetSpec {
            cidr_block: Some("10.20.0.9/24".to_owned()),
            exclude_ips: Some(vec!["10.20.0.128/25".to_owned()]),
            private: Some(true),
            ..v1::SubnetSpec::default()
        };
        subnets.create(&PostParams::default(), &v1::Subnet::new("s", spec)).await.unwrap();
        let subnet = until(&subnets, "s", "a status", |s| s.status.is_some()).await;
        let spec = &subnet.spec;
        assert_eq!(
            (spec.provider.as_deref(), spec.vpc.as_deref(), spec.protocol.as_deref()),
            (Some("ovn"), Some("ovn-cluster"), Some("IPv4"))
        );
        assert_eq!((spec.cidr_block.as_deref(), spec.gateway.as_deref()), (Some("10.20.0.0/24"), Some("10.20.0.1")));
        assert_eq!((spec.gateway_type.as_deref(), spec.default, spec.nat_outgoing), (Some("distributed"), Some(false), Some(false)));
        assert_eq!((spec.exclude_ips.clone(), spec.private), (Some(vec!["10.20.0.128/25".into(), "10.20.0.1".into()]), Some(true)));
        // 256 addresses without network and gateway, and without the upper half, which holds the broadcast address.
        assert_eq!(subnet.status.unwrap().v4_available_ips, Some(126.0));
        controller.stop().await;
    });
}

#[test]
fn a_subnet_shows_the_rows_with_what_is_answered_to_dhcp_while_it_has_them() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let mut controller = Controller::start(&client, &database);
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        create_subnet(&client, "s", json!({ "cidrBlock": "10.20.0.0/24,fd20::/64", "enableDHCP": true })).await;
        let shown = |s: &v1::Subnet| s.status.as_ref().map(|s| (s.dhcp_v4_options_uuid.clone(), s.dhcp_v6_options_uuid.clone()));
        let row = |family: &str| {
            let of = ["external_ids:ls=s".to_owned(), format!("external_ids:protocol={family}")];
            let found = ["--bare", "--columns=_uuid", "find", "dhcp_options", &of[0], &of[1]];
            database.nbctl(&found).0.trim().to_owned()
        };
        until(&subnets, "s", "its rows", |s| matches!(shown(s), Some((Some(_), Some(_))))).await;
        let subnet = subnets.get("s").await.unwrap();
        assert_eq!(shown(&subnet), Some((Some(row("IPv4")), Some(row("IPv6")))));
        assert!(!row("IPv4").is_empty() && row("IPv4") != row("IPv6"));

        // Nothing is written when nothing changes, as when it starts again.
        let version = subnet.resource_version();
        controller.stop().await;
        controller = Controller::start(&client, &database);
        create_pod(&client, "late", &[]).await;
        allocated(&client, "late").await;
        mirror.catch_up(&database).await;
        assert_eq!(subnets.get("s").await.unwrap().resource_version(), version);

        let change = async |spec: Value| {
            subnets.patch("s", &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await.unwrap();
        };
        change(json!({ "cidrBlock": "10.20.0.0/24", "gateway": "10.20.0.1", "excludeIps": [] })).await;
        let (v4, none) = (Some(row("IPv4")), Some(String::new()));
        until(&subnets, "s", "one family", |s| shown(s) == Some((v4.clone(), none.clone()))).await;
        change(json!({ "enableDHCP": false })).await;
        until(&subnets, "s", "no rows", |s| shown(s) == Some((none.clone(), none.clone()))).await;
        controller.stop().await;
    });
}

#[test]
fn a_subnet_grows_while_it_is_used_and_a_change_that_would_strand_pods_waits_for_them() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let mut controller = Controller::start(&client, &database);
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        let spec = v1::SubnetSpec {
            cidr_block: Some("10.20.0.0/25".to_owned()),
            namespaces: Some(vec!["default".to_owned()]),
            ..v1::SubnetSpec::default()
        };
        subnets.create(&PostParams::default(), &v1::Subnet::new("s", spec)).await.unwrap();
        create_pod(&client, "low", &[(annotations::LOGICAL_SWITCH, "s")]).await;
        allocated(&client, "low").await;
        let change = async |spec: Value| {
            subnets.patch("s", &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await.unwrap();
        };
        let available = |s: &v1::Subnet| s.status.as_ref().and_then(|s| s.v4_available_ips);
        change(json!({ "cidrBlock": "10.20.0.0/24" })).await;
        until(&subnets, "s", "twice as many", |s| available(s) == Some(252.0)).await;
        create_pod(&client, "high", &[(annotations::LOGICAL_SWITCH, "s"), (annotations::IP_ADDRESS, "10.20.0.200")]).await;
        allocated(&client, "high").await;

        let message = |s: &v1::Subnet| s.status.as_ref()?.conditions.as_ref()?.first().map(|c| c.message.clone());
        change(json!({ "cidrBlock": "10.20.0.0/25" })).await;
        let why = "would strand 10.20.0.200 of high.default; in force is 10.20.0.0/24 via 10.20.0.1";
        until(&subnets, "s", why, |s| message(s).is_some_and(|m| m.contains(why))).await;
        told(&client, "s", why).await;
        // A controller that starts now knows it as well, and what is in force stays.
        controller.kill().await;
        controller = Controller::start(&client, &database);
        create_pod(&client, "late", &[(annotations::LOGICAL_SWITCH, "s"), (annotations::IP_ADDRESS, "10.20.0.201")]).await;
        allocated(&client, "late").await;
        let both = "would strand 10.20.0.200 of high.default, 10.20.0.201 of late.default";
        let gateway = |m: &crate::harness::Mirror| m.router_networks("ovn-cluster-s");
        mirror.until("the range in force", |m| gateway(m).as_deref() == Some("10.20.0.1/24")).await;
        change(json!({ "namespaces": [] })).await;
        until(&subnets, "s", both, |s| message(s).is_some_and(|m| m.contains(both))).await;

        delete_pod(&client, "high").await;
        delete_pod(&client, "late").await;
        let done =
            |s: &v1::Subnet| available(s) == Some(124.0) && !s.metadata.annotations.iter().any(|a| a.contains_key(annotations::IN_FORCE));
        until(&subnets, "s", "half as many", done).await;
        mirror.until("the range that was wanted", |m| gateway(m).as_deref() == Some("10.20.0.1/25")).await;
        controller.stop().await;
    });
}

#[test]
fn in_a_subnet_without_a_range_a_pod_has_a_mac_which_a_stateful_sets_pod_keeps() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let mut controller = Controller::start(&client, &database);
        let network = v1::ProviderNetworkSpec { default_interface: "eth1".to_owned(), ..Default::default() };
        Api::all(client.clone()).create(&PostParams::default(), &v1::ProviderNetwork::new("net1", network)).await.unwrap();
        let vlan = v1::VlanSpec { id: Some(7), provider: "net1".to_owned(), ..Default::default() };
        Api::all(client.clone()).create(&PostParams::default(), &v1::Vlan::new("vlan7", vlan)).await.unwrap();
        create_subnet(&client, "alone", json!({ "vlan": "vlan7", "namespaces": ["default"] })).await;
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        let ready = |s: &v1::Subnet| s.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.status == "True");
        let subnet = until(&subnets, "alone", "ready", ready).await;
        assert_eq!((subnet.spec.protocol.as_deref(), subnet.spec.cidr_block, subnet.spec.gateway), (Some("Mac"), None, None));
        let counts = subnet.status.map(|s| (s.v4_using_ips, s.v4_available_ips, s.v6_available_ips));
        assert_eq!(counts, Some((Some(0.0), Some(0.0), Some(0.0))));

        let owner = create_stateful_set(&client, 1).await;
        create_owned_pod(&client, "web-0", "node1", owner.clone()).await;
        create_pod(&client, "plain", &[]).await;
        let mut macs = Vec::new();
        for name in ["web-0", "plain"] {
            let pod = allocated(&client, name).await;
            let absent = [annotations::IP_ADDRESS, annotations::CIDR, annotations::GATEWAY, annotations::LOGICAL_ROUTER];
            assert_eq!(absent.map(|key| note(&pod, key)), [None, None, None, None]);
            assert_eq!(note(&pod, annotations::VLAN_ID).as_deref(), Some("7"));
            let mac = note(&pod, annotations::MAC_ADDRESS).unwrap();
            let ip = until(&ips(&client), &format!("{name}.default"), "the object", |_| true).await;
            assert_eq!(shown(&ip), (String::new(), mac.clone()));
            mirror.until("the port", |m| m.ports().get(&format!("{name}.default")) == Some(&mac)).await;
            macs.push(mac);
        }
        // A controller that starts anew knows them by what is recorded, and writes nothing.
        controller.kill().await;
        delete_pod(&client, "web-0").await;
        mirror.catch_up(&database).await;
        let version = pods(&client).get("plain").await.unwrap().resource_version();
        controller = Controller::start(&client, &database);
        mirror.until("the port of who is gone", |m| !m.ports().contains_key("web-0.default")).await;
        create_pod(&client, "late", &[(annotations::MAC_ADDRESS, &macs[0])]).await;
        told(&client, "late", "is in use by web-0.default in VPC ovn-cluster").await;
        create_owned_pod(&client, "web-0", "node2", owner).await;
        assert_eq!(note(&allocated(&client, "web-0").await, annotations::MAC_ADDRESS), Some(macs[0].clone()));
        assert_eq!(
            (mirror.ports().get("plain.default"), pods(&client).get("plain").await.unwrap().resource_version()),
            (Some(&macs[1]), version)
        );
        // Who has a MAC alone keeps it so when there is a range.
        let change = Patch::Merge(json!({ "spec": { "cidrBlock": "192.0.2.0/24", "protocol": "" } }));
        subnets.patch("alone", &PatchParams::default(), &change).await.unwrap();
        until(&subnets, "alone", "a range", |s| s.status.as_ref().and_then(|s| s.v4_available_ips) == Some(253.0)).await;
        create_pod(&client, "addressed", &[]).await;
        assert!(note(&allocated(&client, "addressed").await, annotations::IP_ADDRESS).is_some());
        mirror.catch_up(&database).await;
        assert_eq!(mirror.ports().get("plain.default"), Some(&macs[1]));
        let change = Patch::Merge(json!({ "spec": { "cidrBlock": null, "gateway": null, "protocol": "Mac" } }));
        subnets.patch("alone", &PatchParams::default(), &change).await.unwrap();
        told(&client, "alone", "no range would strand 192.0.2").await;
        controller.stop().await;
    });
}

#[test]
fn a_stateful_sets_pod_keeps_its_address_on_another_node_and_through_a_restart_of_the_controller() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let mut controller = Some(Controller::start(&client, &database));
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), "default");
        let owner = create_stateful_set(&client, 2).await;
        let mut before = Vec::new();
        for name in ["web-0", "web-1"] {
            create_owned_pod(&client, name, "node1", owner.clone()).await;
            before.push(record(&allocated(&client, name).await));
            let node = |ip: &v1::Ip| ip.spec.node_name.as_deref() == Some("node1") && ip.spec.pod_type.as_deref() == Some("StatefulSet");
            until(&ips(&client), &format!("{name}.default"), "the record", node).await;
        }
        for kill in [false, true] {
            if let Some(running) = controller.take_if(|_| kill) {
                running.kill().await;
            }
            delete_pod(&client, "web-1").await;
            controller.get_or_insert_with(|| Controller::start(&client, &database));
            mirror.until("the port goes", |m| !m.ports().contains_key("web-1.default")).await;
            // What comes meanwhile gets another one.
            let other = if kill { "other-1" } else { "other-0" };
            create_pod(&client, other, &[]).await;
            assert!(!before.contains(&record(&allocated(&client, other).await)));
            create_owned_pod(&client, "web-1", "node2", owner.clone()).await;
            assert_eq!(record(&allocated(&client, "web-1").await), before[1]);
            until(&ips(&client), "web-1.default", "the new node", |ip| ip.spec.node_name.as_deref() == Some("node2")).await;
        }
        // Scaled below: released once the pod is gone.
        sets.patch("web", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "replicas": 1 } }))).await.unwrap();
        delete_pod(&client, "web-1").await;
        gone(&ips(&client), "web-1.default").await;
        // Deleted: the last one too.
        sets.delete("web", &DeleteParams::background()).await.unwrap();
        // No kubelet ends it here.
        delete_pod(&client, "web-0").await;
        gone(&ips(&client), "web-0.default").await;
        controller.unwrap().stop().await;
    });
}

#[test]
fn a_virtual_machine_keeps_its_address_from_pod_to_pod_until_it_is_deleted() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        serve_kubevirt(&client).await;
        let controller = Controller::start(&client, &database);
        let machines: Api<VirtualMachineView> = Api::namespaced(client.clone(), "default");
        let resource = ApiResource::erase::<VirtualMachineView>(&());
        let whole: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
        whole.create(&PostParams::default(), &DynamicObject::new("vm", &resource)).await.unwrap();
        // The instance, which owns the pod, comes and goes with it.
        let owner = json!({ "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "vm", "uid": "i" });
        create_owned_pod(&client, "virt-launcher-vm-a", "node1", owner.clone()).await;
        let pod = allocated(&client, "virt-launcher-vm-a").await;
        assert_eq!(note(&pod, annotations::VIRTUAL_MACHINE).as_deref(), Some("vm"));
        let before = record(&pod);
        let ip = until(&ips(&client), "vm.default", "the record", |_| true).await;
        assert_eq!((shown(&ip), ip.spec.pod_type.as_deref()), (before.clone(), Some("VirtualMachine")));
        assert_eq!(mirror.ports().keys().filter(|name| name.contains("virt-launcher")).count(), 0);

        delete_pod(&client, "virt-launcher-vm-a").await;
        mirror.until("a stopped machine has no port", |m| !m.ports().contains_key("vm.default")).await;
        create_owned_pod(&client, "virt-launcher-vm-b", "node2", owner).await;
        assert_eq!(record(&allocated(&client, "virt-launcher-vm-b").await), before);

        machines.delete("vm", &DeleteParams::default()).await.unwrap();
        delete_pod(&client, "virt-launcher-vm-b").await;
        gone(&ips(&client), "vm.default").await;
        controller.stop().await;
    });
}

#[test]
fn pools_give_their_addresses_to_those_who_name_them_and_to_nobody_else() {
    within(async {
        let (client, database, _mirror) = cluster().await;
        let pools: Api<v1::IpPool> = Api::all(client.clone());
        let pool = |name: &str, ips: &[&str]| {
            let ips = ips.iter().map(|ip| (*ip).to_owned()).collect();
            v1::IpPool::new(name, v1::IpPoolSpec { subnet: "ovn-default".to_owned(), ips, ..v1::IpPoolSpec::default() })
        };
        pools.create(&PostParams::default(), &pool("web", &["10.16.0.2..10.16.0.3"])).await.unwrap();
        let controller = Controller::start(&client, &database);
        let message = |p: &v1::IpPool| Some(p.status.as_ref()?.conditions.as_ref()?.first()?.message.clone());
        until(&pools, "web", "a condition", |p| message(p).is_some()).await;
        let address = async |name: &str, notes: &[(&str, &str)]| {
            create_pod(&client, name, notes).await;
            note(&allocated(&client, name).await, annotations::IP_ADDRESS).unwrap()
        };
        assert_eq!(address("plain", &[]).await, "10.16.0.4");
        assert_eq!(address("web-a", &[(annotations::IP_POOL, "web")]).await, "10.16.0.2");
        assert_eq!(address("web-b", &[(annotations::IP_POOL, "web")]).await, "10.16.0.3");
        // Who finds it full waits, and gets the next that is free.
        create_pod(&client, "web-c", &[(annotations::IP_POOL, "web")]).await;
        told(&client, "web-c", "no free IPv4 address is left in pool web").await;
        let full = |p: &v1::IpPool| p.status.as_ref().is_some_and(|s| s.v4_available_ips == Some(0.0) && s.v4_using_ips == Some(2.0));
        let shown = until(&pools, "web", "full", full).await.status.unwrap();
        assert_eq!(shown.v4_using_ip_range.as_deref(), Some("10.16.0.2-10.16.0.3"));
        delete_pod(&client, "web-a").await;
        assert_eq!(note(&allocated(&client, "web-c").await, annotations::IP_ADDRESS).as_deref(), Some("10.16.0.2"));
        // A list of addresses is a pool of the pod's own.
        assert_eq!(address("listed", &[(annotations::IP_POOL, "10.16.0.50,10.16.0.51")]).await, "10.16.0.50");
        assert_eq!(address("listed-too", &[(annotations::IP_POOL, "10.16.0.50,10.16.0.51")]).await, "10.16.0.51");
        // What cannot work is told.
        create_pod(&client, "lost", &[(annotations::IP_POOL, "nowhere")]).await;
        told(&client, "lost", "pool \"nowhere\" does not exist").await;
        for (name, ips, why) in
            [("x-overlap", "10.16.0.3..10.16.0.9", "overlaps with pool \"web\""), ("x-outside", "10.99.0.0/24", "lies outside")]
        {
            pools.create(&PostParams::default(), &pool(name, &[ips])).await.unwrap();
            until(&pools, name, why, |p| message(p).is_some_and(|m| m.contains(why))).await;
            told(&client, name, why).await;
        }
        controller.stop().await;
    });
}

#[test]
fn a_virtual_ip_holds_addresses_and_shows_them() {
    within(async {
        let (client, database, _mirror) = cluster().await;
        let mut controller = Controller::start(&client, &database);
        let vips: Api<v1::Vip> = Api::all(client.clone());
        let create = async |name: &str, spec: v1::VipSpec| vips.create(&PostParams::default(), &v1::Vip::new(name, spec)).await.unwrap();
        let held = async |name: &str| {
            let status = |vip: &v1::Vip| vip.status.clone().filter(|s| s.mac.as_deref().is_some_and(|mac| !mac.is_empty()));
            status(&until(&vips, name, "an address", |vip| status(vip).is_some()).await).unwrap()
        };
        create("any", v1::VipSpec::default()).await;
        let chosen = v1::VipSpec {
            v4_ip: Some("10.16.0.50".to_owned()),
            mac_address: Some("02:00:00:00:00:50".to_owned()),
            r#type: Some("switch_lb_vip".to_owned()),
            ..v1::VipSpec::default()
        };
        create("chosen.too", chosen.clone()).await;
        let any = held("any").await;
        let shown = held("chosen.too").await;
        assert_eq!(any.v4_ip.as_deref(), Some("10.16.0.2"));
        let texts = [shown.v4_ip.as_deref(), shown.mac.as_deref(), shown.r#type.as_deref()];
        assert_eq!(texts, [Some("10.16.0.50"), Some("02:00:00:00:00:50"), Some("switch_lb_vip")]);
        // Nobody else gets it, not even after a restart, and no `IP` object is made of it.
        controller.kill().await;
        controller = Controller::start(&client, &database);
        create_pod(&client, "thief", &[(annotations::IP_ADDRESS, "10.16.0.2")]).await;
        told(&client, "thief", "address 10.16.0.2 is in use by vip/any").await;
        create("second", v1::VipSpec { mac_address: None, ..chosen }).await;
        told(&client, "second", "address 10.16.0.50 is in use by vip/chosen.too").await;
        assert_eq!(held("any").await, any);
        create("lost", v1::VipSpec { subnet: Some("nowhere".to_owned()), ..v1::VipSpec::default() }).await;
        told(&client, "lost", "spec.subnet: subnet \"nowhere\" does not exist").await;
        assert_eq!(ips(&client).list(&kube::api::ListParams::default()).await.unwrap().items.len(), 0);
        // Whoever waits for it is served when it goes, and an earlier controller's finalizer does not hold it.
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": [api::FINALIZER] } }));
        vips.patch("any", &PatchParams::default(), &patch).await.unwrap();
        for name in ["any", "chosen.too"] {
            vips.delete(name, &DeleteParams::default()).await.unwrap();
            gone(&vips, name).await;
        }
        assert_eq!(record(&allocated(&client, "thief").await).0, "10.16.0.2");
        assert_eq!(held("second").await.v4_ip.as_deref(), Some("10.16.0.50"));
        controller.stop().await;
    });
}

#[test]
fn of_pods_that_record_one_address_one_keeps_it_and_the_other_gets_it_afterwards() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let recorded = |mac| {
            [
                (annotations::ALLOCATED, "true"),
                (annotations::IP_ADDRESS, "10.16.0.9"),
                (annotations::MAC_ADDRESS, mac),
                (annotations::LOGICAL_SWITCH, "ovn-default"),
            ]
        };
        // Both are there when the controller starts.
        create_pod(&client, "a-first", &recorded("02:00:00:00:00:09")).await;
        create_pod(&client, "b-second", &recorded("02:00:00:00:00:0a")).await;
        create_pod(&client, "c-same-mac", &[recorded("02:00:00:00:00:09"), [(annotations::IP_ADDRESS, "10.16.0.10"); 4]].concat()).await;
        let controller = Controller::start(&client, &database);
        told(&client, "b-second", "address 10.16.0.9 is in use by a-first.default").await;
        // One MAC twice is told to both, and tolerated.
        told(&client, "c-same-mac", "a-first.default has the same MAC address").await;
        told(&client, "a-first", "c-same-mac.default has the same MAC address").await;
        mirror
            .until("ports of those who have an address", |m| m.ports().keys().filter(|name| name.ends_with(".default")).count() == 2)
            .await;
        delete_pod(&client, "a-first").await;
        mirror.until("the other has it", |m| m.ports().get("b-second.default").is_some_and(|a| a == "02:00:00:00:00:0a 10.16.0.9")).await;
        controller.stop().await;
    });
}

#[test]
fn an_ip_object_of_a_user_reserves_and_one_that_cannot_is_told_why() {
    within(async {
        let (client, database, _mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        let reserve = async |name: &str, spec: v1::IpSpec| ips(&client).create(&PostParams::default(), &v1::Ip::new(name, spec)).await;
        let in_default = || v1::IpSpec { subnet: Some("ovn-default".to_owned()), ..v1::IpSpec::default() };
        reserve("db.default", v1::IpSpec { v4_ip_address: Some("10.16.0.77".to_owned()), ..in_default() }).await.unwrap();
        // Without an address it gets one, with a MAC.
        reserve("appliance", in_default()).await.unwrap();
        let ip = until(&ips(&client), "appliance", "an address", |ip| ip.spec.mac_address.is_some()).await;
        assert_eq!((ip.spec.pod_name.as_deref(), ip.spec.v4_ip_address.as_deref().map(|ip| ip.starts_with("10.16."))), (None, Some(true)));
        until(&ips(&client), "db.default", "a MAC", |ip| ip.spec.mac_address.is_some()).await;
        create_pod(&client, "db", &[]).await;
        assert_eq!(record(&allocated(&client, "db").await).0, "10.16.0.77");
        // It stays when its pod goes, since it is the user's.
        delete_pod(&client, "db").await;
        create_pod(&client, "thief", &[(annotations::IP_ADDRESS, "10.16.0.77")]).await;
        told(&client, "thief", "address 10.16.0.77 is in use by db.default").await;
        ips(&client).delete("db.default", &DeleteParams::default()).await.unwrap();
        assert_eq!(record(&allocated(&client, "thief").await).0, "10.16.0.77");

        reserve("lost", v1::IpSpec { subnet: Some("nowhere".to_owned()), ..v1::IpSpec::default() }).await.unwrap();
        told(&client, "lost", "spec.subnet: subnet \"nowhere\" does not exist").await;
        reserve("odd.default", v1::IpSpec { pod_name: Some("even".to_owned()), ..in_default() }).await.unwrap();
        told(&client, "odd.default", "spec.podName: \"even\" is not that of an IP named \"odd.default\"").await;
        controller.stop().await;
    });
}
