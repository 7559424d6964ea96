//! Provider networks and VLANs.

use api::{annotations, v1};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::harness::{Controller, allocated, cluster, create_pod, create_subnet, gone, note, pods, told, until, within};

#[test]
fn subnets_on_vlans_are_served_and_nodes_and_conflicts_are_summed_up() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        let (networks, vlans) = (Api::<v1::ProviderNetwork>::all(client.clone()), Api::<v1::Vlan>::all(client.clone()));
        let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(client.clone());
        for (name, ready, why) in [("n1", "true", ""), ("n2", "false", "link eth1 does not exist")] {
            let node = json!({ "metadata": {
                "name": name,
                "labels": { "net1.provider-network.kubernetes.io/ready": ready },
                "annotations": { "net1.provider-network.kubernetes.io/err_mesg": why },
            } });
            nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        }
        create_subnet(&client, "lan", json!({ "cidrBlock": "192.0.2.0/24", "gateway": "192.0.2.254", "vlan": "vlan7" })).await;
        told(&client, "lan", "spec.vlan: Vlan \"vlan7\" does not exist").await;
        let network = v1::ProviderNetworkSpec { default_interface: "eth1".to_owned(), ..Default::default() };
        networks.create(&PostParams::default(), &v1::ProviderNetwork::new("net1", network)).await.unwrap();
        let vlan = |name: &str| v1::Vlan::new(name, v1::VlanSpec { id: Some(7), provider: "net1".to_owned(), ..Default::default() });
        vlans.create(&PostParams::default(), &vlan("vlan7")).await.unwrap();
        create_pod(&client, "vm", &[(annotations::LOGICAL_SWITCH, "lan")]).await;
        let pod = allocated(&client, "vm").await;
        let shown = [annotations::VLAN_ID, annotations::PROVIDER_NETWORK, annotations::GATEWAY, annotations::LOGICAL_ROUTER];
        let shown = shown.map(|key| note(&pod, key));
        assert_eq!(shown, [Some("7".to_owned()), Some("net1".to_owned()), Some("192.0.2.254".to_owned()), None]);
        assert_eq!(database.nbctl(&["--bare", "--columns=tag", "list", "logical_switch_port", "localnet.lan"]).0.trim(), "7");

        let summed_up = |network: &v1::ProviderNetwork| {
            let status = network.status.clone().unwrap_or_default();
            let condition = status.conditions.and_then(|all| all.first().map(|c| (c.status.clone(), c.message.clone())));
            status.ready_nodes == Some(vec!["n1".to_owned()])
                && status.not_ready_nodes == Some(vec!["n2".to_owned()])
                && status.ready == Some(false)
                && status.vlans == Some(vec!["vlan7".to_owned()])
                && condition == Some(("False".to_owned(), "node n2: link eth1 does not exist".to_owned()))
        };
        until(&networks, "net1", "the nodes are summed up", summed_up).await;
        let used = |vlan: &v1::Vlan| vlan.status.as_ref().and_then(|s| s.subnets.clone()) == Some(vec!["lan".to_owned()]);
        until(&vlans, "vlan7", "the subnet is named", used).await;
        // Older by name, if created within one second: the second one is the one that is refused.
        vlans.create(&PostParams::default(), &vlan("vlan8")).await.unwrap();
        until(&vlans, "vlan8", "the conflict is told", |vlan| vlan.status.as_ref().and_then(|s| s.conflict) == Some(true)).await;
        told(&client, "vlan8", "Vlan \"vlan7\", which is older, has 7 on provider network \"net1\"").await;
        vlans.delete("vlan8", &DeleteParams::default()).await.unwrap();
        gone(&vlans, "vlan8").await;

        let repaired = json!({ "metadata": { "labels": { "net1.provider-network.kubernetes.io/ready": "true" } } });
        nodes.patch("n2", &PatchParams::default(), &Patch::Merge(repaired)).await.unwrap();
        until(&networks, "net1", "all nodes are ready", |network| network.status.as_ref().and_then(|s| s.ready) == Some(true)).await;

        // Deleted in the wrong order: each waits for what needs it.
        networks.delete("net1", &DeleteParams::default()).await.unwrap();
        vlans.delete("vlan7", &DeleteParams::default()).await.unwrap();
        told(&client, "net1", "deletion waits for Vlans vlan7").await;
        told(&client, "vlan7", "deletion waits for subnets lan").await;
        mirror.catch_up(&database).await;
        assert!(mirror.ports().contains_key("vm.default"));
        pods(&client).delete("vm", &DeleteParams::default().grace_period(0)).await.unwrap();
        Api::<v1::Subnet>::all(client.clone()).delete("lan", &DeleteParams::default()).await.unwrap();
        gone(&vlans, "vlan7").await;
        gone(&networks, "net1").await;
        mirror.until("no port to the network", |m| !m.ports().contains_key("localnet.lan")).await;
        controller.stop().await;
    });
}

#[test]
fn the_router_of_a_vpc_has_an_address_on_a_vlan_that_stays_and_is_told_when_it_is_not_to_be_had() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let controller = Controller::start(&client, &database);
        let subnets = Api::<v1::Subnet>::all(client.clone());
        let network = v1::ProviderNetworkSpec { default_interface: "eth1".to_owned(), ..Default::default() };
        let network = v1::ProviderNetwork::new("net1", network);
        Api::all(client.clone()).create(&PostParams::default(), &network).await.unwrap();
        let vlan = v1::Vlan::new("vlan7", v1::VlanSpec { id: Some(7), provider: "net1".to_owned(), ..Default::default() });
        Api::all(client.clone()).create(&PostParams::default(), &vlan).await.unwrap();
        create_subnet(&client, "lan", json!({ "cidrBlock": "192.0.2.0/24", "gateway": "192.0.2.254", "vlan": "vlan7" })).await;
        create_pod(&client, "vm", &[(annotations::LOGICAL_SWITCH, "lan")]).await;
        let pod = allocated(&client, "vm").await;
        let taken = note(&pod, annotations::IP_ADDRESS).unwrap();
        let gateway = async || note(&pods(&client).get("vm").await.unwrap(), annotations::GATEWAY);
        assert_eq!(gateway().await.as_deref(), Some("192.0.2.254"));

        let set = async |spec: serde_json::Value| {
            subnets.patch("lan", &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await.unwrap();
        };
        let ready = |subnet: &v1::Subnet| {
            let condition = subnet.status.as_ref()?.conditions.as_ref()?.first()?.clone();
            Some((condition.status, condition.reason))
        };
        let shown = |subnet: &v1::Subnet| {
            let status = subnet.status.clone().unwrap_or_default();
            (status.u2o_interconnection_ip.unwrap_or_default(), status.u2o_interconnection_vpc.unwrap_or_default())
        };
        // An address that a pod has is not taken from it, and the subnet goes on without.
        set(json!({ "u2oInterconnection": true, "u2oInterconnectionIP": taken })).await;
        told(&client, "lan", &format!("spec.u2oInterconnectionIP: subnet lan: address {taken} is in use by vm.default")).await;
        let refused = Some(("False".to_owned(), "NotInterconnected".to_owned()));
        until(&subnets, "lan", "the address is refused", |subnet| ready(subnet) == refused).await;
        assert_eq!(gateway().await.as_deref(), Some("192.0.2.254"));

        set(json!({ "u2oInterconnectionIP": "192.0.2.9" })).await;
        let connected = |subnet: &v1::Subnet| shown(subnet) == ("192.0.2.9".to_owned(), "ovn-cluster".to_owned());
        until(&subnets, "lan", "it is connected", connected).await;
        until(&subnets, "lan", "it is ready", |subnet| ready(subnet).is_some_and(|(status, _)| status == "True")).await;
        until(&pods(&client), "vm", "the pod is told", |pod| note(pod, annotations::GATEWAY).as_deref() == Some("192.0.2.9")).await;
        mirror.until("the router's port", |m| m.router_networks("ovn-cluster-lan").is_some()).await;
        let name = "u2o-interconnection.ovn-cluster.lan";
        let ips = Api::<v1::Ip>::all(client.clone());
        let held = until(&ips, name, "its object", |ip| ip.spec.ip_address.as_deref() == Some("192.0.2.9")).await;

        // What was chosen stays, with its MAC, when nobody asks for it by name any more and another controller begins.
        set(json!({ "u2oInterconnectionIP": "" })).await;
        controller.stop().await;
        let controller = Controller::start(&client, &database);
        create_pod(&client, "next", &[(annotations::LOGICAL_SWITCH, "lan")]).await;
        let next = allocated(&client, "next").await;
        assert_eq!(note(&next, annotations::GATEWAY).as_deref(), Some("192.0.2.9"));
        let again = ips.get(name).await.unwrap();
        assert_eq!((again.metadata.uid, again.spec), (held.metadata.uid, held.spec));

        // The router's own address holds nothing up.
        for pod in ["vm", "next"] {
            pods(&client).delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
        }
        subnets.delete("lan", &DeleteParams::default()).await.unwrap();
        gone(&subnets, "lan").await;
        gone(&ips, name).await;
        mirror.until("no port of the router", |m| m.router_networks("ovn-cluster-lan").is_none()).await;
        controller.stop().await;
    });
}
