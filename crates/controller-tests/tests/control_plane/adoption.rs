//! A northbound database that an earlier controller has filled is taken over: rows keep their identifiers, MACs and names.

use std::collections::BTreeMap;
use std::process::Command;

use api::{annotations, v1};
use controller::Config;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{Controller, Database, allocated, cluster, create_pod, note, pods, until, within};

/// What Kube-OVN leaves for a VPC, its default and `join` subnets, two pods, one node and the features around them.
const FIXTURE: &str = "
lr-add ovn-cluster
set logical_router ovn-cluster external_ids:vendor=kube-ovn options:mac_binding_age_threshold=300
set logical_router ovn-cluster options:dynamic_neigh_routers=true options:always_learn_from_arp_request=false options:chassis=kept
ls-add ovn-default
set logical_switch ovn-default external_ids:vendor=kube-ovn other_config:mcast_snoop=true
lrp-add ovn-cluster ovn-cluster-ovn-default 00:00:00:5a:11:01 10.16.0.1/16
set logical_router_port ovn-cluster-ovn-default external_ids:vendor=kube-ovn options:route_table=main
lsp-add ovn-default ovn-default-ovn-cluster
set logical_switch_port ovn-default-ovn-cluster type=router addresses=router options:router-port=ovn-cluster-ovn-default external_ids:vendor=kube-ovn
ls-add join
set logical_switch join external_ids:vendor=kube-ovn
lrp-add ovn-cluster ovn-cluster-join 00:00:00:5a:11:02 100.64.0.1/16
set logical_router_port ovn-cluster-join external_ids:vendor=kube-ovn
lsp-add join join-ovn-cluster
set logical_switch_port join-ovn-cluster type=router addresses=router options:router-port=ovn-cluster-join external_ids:vendor=kube-ovn
lsp-add join node-one
set logical_switch_port node-one addresses=\"00:00:00:5a:11:03\\ 100.64.0.2\" external_ids:vendor=kube-ovn
lsp-add ovn-default a.default
set logical_switch_port a.default addresses=\"00:00:00:5a:11:0a\\ 10.16.0.10\" port_security=\"00:00:00:5a:11:0a\\ 10.16.0.10\"
set logical_switch_port a.default external_ids:vendor=kube-ovn external_ids:pod=default/a external_ids:ls=ovn-default external_ids:security_groups=web
set logical_switch_port a.default external_ids:associated_sg_web=true options:requested-chassis=one
lsp-add ovn-default b.default
set logical_switch_port b.default addresses=\"00:00:00:5a:11:0b\\ 10.16.0.11\" external_ids:vendor=kube-ovn external_ids:pod=default/b external_ids:ls=ovn-default
lsp-add ovn-default stale.default
set logical_switch_port stale.default addresses=\"00:00:00:5a:11:0c\\ 10.16.0.12\" external_ids:vendor=kube-ovn external_ids:pod=default/stale external_ids:ls=ovn-default
pg-add ovn.default.one a.default b.default
set port_group ovn.default.one external_ids:vendor=kube-ovn external_ids:subnet=ovn-default external_ids:node=one external_ids:np=\"\"
pg-add ovn.sg.web a.default
set port_group ovn.sg.web external_ids:vendor=kube-ovn
acl-add ovn.sg.web to-lport 2003 ip4 drop
create address_set name=ovn.sg.web.associated.v4 addresses=10.16.0.10 external_ids:vendor=kube-ovn
lb-add cluster-tcp-loadbalancer 10.96.0.1:443 10.16.0.10:6443 tcp
set load_balancer cluster-tcp-loadbalancer external_ids:vendor=kube-ovn
ls-lb-add ovn-default cluster-tcp-loadbalancer
lr-policy-add ovn-cluster 30000 ip4.dst==192.0.2.1 reroute 100.64.0.2
--id=@p create logical_router_policy priority=29000 match=\"ip4.src==$ovn.default.one_ip4\" action=reroute nexthops=100.64.0.2 external_ids:vendor=kube-ovn external_ids:node=one external_ids:subnet=ovn-default -- add logical_router ovn-cluster policies @p
lr-route-add ovn-cluster 0.0.0.0/0 100.64.0.1
ls-add foreign
";

fn fill(database: &Database) {
    for line in FIXTURE.lines().filter(|line| !line.is_empty()) {
        // As a shell would, for the one kind of quoting that is used above.
        let words: Vec<String> = line.replace("\\ ", "\u{0}").split(' ').map(|word| word.replace('\u{0}', " ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert!(database.nbctl(&words).1, "{line}");
    }
}

/// Rows of a table by identifier, with the given columns as text.
fn rows(database: &Database, table: &str, columns: &str) -> BTreeMap<String, String> {
    let out = Command::new("ovn-nbctl")
        .arg(format!("--db={}", database.remote()))
        .args(["--format=csv", "--data=bare", "--no-headings", &format!("--columns=_uuid,{columns}"), "list", table])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| line.split_once(',').unwrap()).map(|(uuid, rest)| (uuid.to_owned(), rest.to_owned())).collect()
}

/// Everything that must be the same afterwards.
fn identities(database: &Database) -> BTreeMap<&'static str, BTreeMap<String, String>> {
    [
        ("logical_switch", "name,other_config,load_balancer"),
        ("logical_router", "name,options,policies,static_routes"),
        ("logical_router_port", "name,mac,networks,options"),
        ("logical_switch_port", "name,addresses,options,port_security,type"),
        ("port_group", "name,ports,acls,external_ids"),
        ("address_set", "name,addresses"),
        ("acl", "priority,match,action"),
        ("load_balancer", "name,vips"),
        ("logical_router_policy", "priority,match"),
        ("logical_router_static_route", "ip_prefix,nexthop"),
    ]
    .into_iter()
    .map(|(table, columns)| (table, rows(database, table, columns)))
    .collect()
}

#[test]
fn a_database_of_an_earlier_controller_is_taken_over_row_by_row() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        fill(&database);
        let vpc = json!({ "apiVersion": "kubeovn.io/v1", "kind": "Vpc", "metadata": { "name": "ovn-cluster" }, "spec": {} });
        Api::<v1::Vpc>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(vpc).unwrap()).await.unwrap();
        for (name, cidr, default) in [("ovn-default", "10.16.0.0/16", true), ("join", "100.64.0.0/16", false)] {
            let subnet = json!({
                "apiVersion": "kubeovn.io/v1", "kind": "Subnet", "metadata": { "name": name },
                "spec": { "vpc": "ovn-cluster", "cidrBlock": cidr, "default": default },
            });
            Api::<v1::Subnet>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(subnet).unwrap()).await.unwrap();
        }
        for (name, ip, mac) in [("a", "10.16.0.10", "00:00:00:5a:11:0a"), ("b", "10.16.0.11", "00:00:00:5a:11:0b")] {
            let notes = [
                (annotations::ALLOCATED, "true"),
                (annotations::ROUTED, "true"),
                (annotations::IP_ADDRESS, ip),
                (annotations::MAC_ADDRESS, mac),
                (annotations::CIDR, "10.16.0.0/16"),
                (annotations::GATEWAY, "10.16.0.1"),
                (annotations::LOGICAL_SWITCH, "ovn-default"),
                (annotations::LOGICAL_ROUTER, "ovn-cluster"),
                ("ovn.kubernetes.io/port_security", if name == "a" { "true" } else { "false" }),
            ];
            create_pod(&client, name, &notes).await;
        }
        let record = [
            (annotations::ALLOCATED, "true"),
            (annotations::IP_ADDRESS, "100.64.0.2"),
            (annotations::MAC_ADDRESS, "00:00:00:5a:11:03"),
            (annotations::CIDR, "100.64.0.0/16"),
            (annotations::GATEWAY, "100.64.0.1"),
            (annotations::LOGICAL_SWITCH, "join"),
        ];
        let node = json!({ "metadata": { "name": "one", "annotations": BTreeMap::from(record) } });
        Api::<Node>::all(client.clone()).create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        mirror.catch_up(&database).await;
        let (before, changes) = (identities(&database), mirror.changes);

        // What would be done is told, and not done.
        let preview = controller::preview(client.clone(), Config::new(database.remote()), CancellationToken::new()).await.unwrap();
        println!("{preview}");
        assert_eq!((&preview.created[..], &preview.added[..]), (&[][..], &[][..]));
        assert_eq!(preview.removed, ["Logical_Switch_Port stale.default"]);
        let node = "Logical_Switch_Port node-one: external_ids gains {ls=join, node=one}";
        assert_eq!(preview.changed, ["Logical_Switch ovn-default: ports loses Logical_Switch_Port stale.default", node]);
        let mac = |subnet: &str, mac: &str| format!("MAC {mac} of the gateway of Subnet {subnet}, as annotation ferrovia.io/gateway-mac");
        assert_eq!(preview.imported, [mac("join", "00:00:00:5a:11:02"), mac("ovn-default", "00:00:00:5a:11:01")]);
        let kept = [("Address_Set", 1), ("Load_Balancer", 1), ("switches, routers and what belongs to them", 3)];
        assert_eq!(preview.kept, kept.into());
        assert_eq!(preview.held, None);
        // Once pods leave by rules of ours, an earlier controller's of each subnet and node make room.
        let egress = Some(api::Egress::Join);
        let leaving = Config { egress, ..Config::new(database.remote()) };
        let preview = controller::preview(client.clone(), leaving, CancellationToken::new()).await.unwrap();
        println!("{preview}");
        assert!(preview.removed.iter().any(|row| row == "Port_Group ovn.default.one"), "{preview}");
        mirror.catch_up(&database).await;
        assert_eq!((mirror.changes, &identities(&database)), (changes, &before));

        let controller = Controller::start(&client, &database);
        mirror.until("the stale port is gone", |m| !m.ports().contains_key("stale.default")).await;
        create_pod(&client, "c", &[]).await;
        let pod = allocated(&client, "c").await;
        assert!(note(&pod, annotations::IP_ADDRESS).unwrap().starts_with("10.16.0."));
        mirror.catch_up(&database).await;
        let mut after = identities(&database);
        // But for the stale port and the new one, nothing is other than it was.
        let mut wanted = before.clone();
        wanted.get_mut("logical_switch_port").unwrap().retain(|_, row| !row.starts_with("stale.default"));
        after.get_mut("logical_switch_port").unwrap().retain(|_, row| !row.starts_with("c.default"));
        assert_eq!(after, wanted);
        let external_ids = rows(&database, "logical_switch_port", "external_ids");
        assert!(external_ids.values().any(|ids| ids.contains("associated_sg_web=true") && ids.contains("security_groups=web")));

        // What only the database knew is recorded, so that a database made anew has it again.
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        let recorded = |s: &v1::Subnet| s.metadata.annotations.as_ref().and_then(|a| a.get(annotations::GATEWAY_MAC)).cloned();
        let subnet = until(&subnets, "ovn-default", "the MAC", |s| recorded(s).is_some()).await;
        assert_eq!(recorded(&subnet).unwrap(), "00:00:00:5a:11:01");
        controller.stop().await;
        assert!(database.nbctl(&["--all", "destroy", "logical_switch", "--", "--all", "destroy", "logical_router"]).1);
        let controller = Controller::start(&client, &database);
        create_pod(&client, "d", &[]).await;
        allocated(&client, "d").await;
        let gateways = rows(&database, "logical_router_port", "name,mac");
        assert!(gateways.values().any(|row| row == "ovn-cluster-ovn-default,00:00:00:5a:11:01"), "{gateways:#?}");
        assert_eq!(note(&pods(&client).get("a").await.unwrap(), annotations::IP_ADDRESS).as_deref(), Some("10.16.0.10"));
        controller.stop().await;
    });
}
