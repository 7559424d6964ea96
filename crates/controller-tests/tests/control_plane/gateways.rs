//! By which of its gateways a subnet's pods leave, as the southbound database says.

use std::process::Command;

use api::{annotations, v1};
use controller::{Config, Election};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use ovsdb::Remote;
use serde_json::json;

use crate::harness::{Controller, OvsdbServer, allocated, cluster, create_pod, create_subnet, until, within, writes_since};

/// A southbound database without `ovn-northd`: a test says what `ovn-controller` would.
struct Southbound(OvsdbServer);

impl Southbound {
    fn sbctl(&self, args: &[&str]) {
        let out = Command::new("ovn-sbctl").arg(format!("--db={}", self.0.remote())).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn port(&self, name: &str, kind: &str, number: u8) {
        let (number, name) = (format!("tunnel_key={number}"), format!("logical_port={name}"));
        let port = ["create", "Port_Binding", &name, &format!("type={kind:?}"), "datapath=@d", &number];
        self.sbctl(&[&["--", "--id=@d", "create", "Datapath_Binding", &number, "--"][..], &port].concat());
    }

    /// A port is on a chassis now.
    fn moves(&self, port: &str, from: Option<&str>, to: Option<&str>) {
        let unbind = from.map_or(vec![], |_| vec!["--", "lsp-unbind", port]);
        let bind = to.map_or(vec![], |to| vec!["--", "lsp-bind", port, to]);
        self.sbctl(&[unbind, bind].concat());
    }
}

#[test]
fn a_centralized_subnet_shows_the_gateway_that_its_pods_leave_by() {
    within(async {
        let (client, database, _mirror) = cluster().await;
        let southbound = Southbound(OvsdbServer::create("ovn-sb"));
        southbound.0.start();
        let nodes: Api<Node> = Api::all(client.clone());
        for (name, address) in [("n1", "192.0.2.1"), ("n2", "192.0.2.2")] {
            let notes = json!({ annotations::CHASSIS: format!("c-{name}") });
            let node = json!({ "metadata": { "name": name, "annotations": notes } });
            nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
            southbound.sbctl(&["chassis-add", &format!("c-{name}"), "geneve", address]);
        }
        let gateway = topology::gateway_port(&"ovn-cluster".into(), None, &["c-n1", "c-n2"].map(Into::into));
        let port = format!("cr-{gateway}");
        southbound.port(&port, "chassisredirect", 1);
        southbound.port("somebody", "", 2);
        let config = |southbound: Option<Remote>| Config {
            egress: Some(api::Egress::Localnet(api::Transit::default())),
            southbound: southbound.map(Into::into),
            ..Config::new(database.remote())
        };
        let start = |identity: &str| {
            let config = Config { election: Some(Election::new(identity)), ..config(Some(southbound.0.remote())) };
            Controller::start_with(&client, config)
        };
        let (one, two) = (start("one"), start("two"));
        let gateways = |cidr: &str| json!({ "cidrBlock": cidr, "gatewayType": "centralized", "gatewayNode": "n1,n2" });
        create_subnet(&client, "central", gateways("10.20.0.0/24")).await;
        let subnets: Api<v1::Subnet> = Api::all(client.clone());
        let shows_on = async |name: &str, node: Option<&str>| {
            let shown = |subnet: &v1::Subnet| subnet.status.as_ref().and_then(|status| status.activate_gateway.clone());
            until(&subnets, name, &format!("its gateway is {node:?}"), |subnet| shown(subnet).as_deref() == node).await;
        };
        let shows = async |node: Option<&str>| shows_on("central", node).await;
        let written = async || subnets.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        southbound.moves(&port, None, Some("c-n1"));
        shows(Some("n1")).await;
        create_pod(&client, "first", &[]).await;
        allocated(&client, "first").await;
        let used = |subnet: &v1::Subnet| subnet.status.as_ref().and_then(|status| status.v4_using_ips) == Some(1.0);
        until(&subnets, "ovn-default", "one address in use", used).await;
        until(&Api::<v1::Ip>::all(client.clone()), "first.default", "the object", |_| true).await;

        // One of the two writes, once; and nobody when others move.
        let mut version = written().await;
        while !writes_since(&client, &version).await.is_empty() {
            version = written().await;
        }
        southbound.moves(&port, Some("c-n1"), Some("c-n2"));
        shows(Some("n2")).await;
        southbound.moves("somebody", None, Some("c-n1"));
        southbound.sbctl(&["chassis-add", "c-n3", "geneve", "192.0.2.3"]);
        let writes = writes_since(&client, &version).await;
        assert_eq!(writes.len(), 1, "the gateway moved once: {writes:#?}");

        // Without the database all goes on, and what is shown stays: what another controller has seen of it since, too.
        southbound.0.stop();
        create_pod(&client, "second", &[]).await;
        allocated(&client, "second").await;
        let seen = json!({ "status": { "activateGateway": "n1" } });
        subnets.patch_status("central", &PatchParams::default(), &Patch::Merge(&seen)).await.unwrap();
        let private = json!({ "spec": { "private": true } });
        let changed = subnets.patch("central", &PatchParams::default(), &Patch::Merge(&private)).await.unwrap();
        create_subnet(&client, "meanwhile", gateways("10.22.0.0/24")).await;
        until(&subnets, "meanwhile", "a status", |subnet| subnet.status.is_some()).await;
        until(&subnets, "central", "the status of the change", |subnet| {
            let conditions = subnet.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|c| c.observed_generation >= changed.metadata.generation))
        })
        .await;
        shows(Some("n1")).await;
        southbound.0.start();
        for subnet in ["central", "meanwhile"] {
            shows_on(subnet, Some("n2")).await;
        }
        southbound.moves(&port, Some("c-n2"), Some("c-n1"));
        shows(Some("n1")).await;

        // Started again without it, nothing of it is written.
        two.stop().await;
        one.stop().await;
        southbound.0.stop();
        let version = written().await;
        let one = start("one");
        create_subnet(&client, "later", json!({ "cidrBlock": "10.21.0.0/24" })).await;
        until(&subnets, "later", "a status", |subnet| subnet.status.is_some()).await;
        shows(Some("n1")).await;
        let changed = subnets.list(&ListParams::default()).await.unwrap();
        let central = changed.items.iter().find(|subnet| subnet.metadata.name.as_deref() == Some("central")).unwrap();
        assert!(central.metadata.resource_version.as_deref().unwrap().parse::<u64>().unwrap() <= version.parse::<u64>().unwrap());
        southbound.0.start();
        southbound.moves(&port, Some("c-n1"), None);
        shows(Some("")).await;
        southbound.moves(&port, None, Some("c-n2"));
        shows(Some("n2")).await;
        one.stop().await;

        // Who is not told of it shows nothing.
        let blind = Controller::start_with(&client, config(None));
        shows(Some("")).await;
        blind.stop().await;
    });
}
