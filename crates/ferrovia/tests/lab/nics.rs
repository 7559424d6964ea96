//! Pods with several NICs, and what a NIC lets through.

use lab::Place;
use lab::runtime::{Attachment, Network, Runtime, Verb};
use serde_json::{Value, json};

use crate::harness::{Lab, pod};

/// Two VPCs; in each a subnet of a definition, and in one another.
const NETWORKS: &str = r#"
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: red}
spec: {}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: ovn-default}
spec: {vpc: ovn-cluster, cidrBlock: 10.16.0.0/16, default: true}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: second}
spec: {vpc: ovn-cluster, cidrBlock: 10.20.0.0/24, provider: second.default.ovn}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: red}
spec: {vpc: red, cidrBlock: 10.30.0.0/24, provider: red.default.ovn}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: red-small}
spec: {vpc: red, cidrBlock: 10.31.0.0/24, mtu: 1300}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: second, namespace: default}
spec: {config: '{"cniVersion":"1.0.0","type":"ferrovia","provider":"second.default.ovn"}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: red, namespace: default}
spec: {config: '{"cniVersion":"1.0.0","type":"kube-ovn","provider":"red.default.ovn"}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan, namespace: default}
spec: {config: '{"cniVersion":"1.0.0","type":"macvlan","ipam":{"type":"ferrovia","provider":"lan.default"}}'}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: lan}
spec: {provider: lan.default, cidrBlock: 172.20.0.0/24}
"#;

fn ready(lab: &Lab, pods: &[&str]) {
    for pod in pods {
        lab.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=30s"]);
    }
}

fn inside(lab: &Lab, pod: &str, command: &[&str]) -> (bool, String) {
    let mut words = vec!["lab", "exec", "--name", lab.name(), pod, "--"];
    words.extend_from_slice(command);
    let (out, err, status) = crate::harness::ferrovia(&words);
    (status == Some(0), out + &err)
}

fn pings(lab: &Lab, pod: &str, arguments: &[&str]) -> bool {
    inside(lab, pod, &[&["ping", "-c", "2", "-i", "0.2", "-W", "1"], arguments].concat()).0
}

#[test]
fn a_pod_has_four_nics_in_two_subnets_each_of_two_vpcs_with_and_without_being_asked_for_each() {
    let lab = Lab::up(&["--nodes", "2"]);
    lab.apply(NETWORKS);
    let networks = json!({
        "k8s.v1.cni.cncf.io/networks": "second,red,red@data",
        "red.default.ovn.data.kubernetes.io/logical_switch": "red-small",
    });
    lab.apply(&pod("four", "node1", &networks).to_string());
    lab.apply(&pod("red-peer", "node2", &json!({ "ovn.kubernetes.io/logical_switch": "red-small" })).to_string());
    lab.apply(&pod("peer", "node2", &json!({})).to_string());
    ready(&lab, &["four", "red-peer", "peer"]);

    let (_, shown) = inside(&lab, "four", &["ip", "-j", "-4", "addr"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let links: Vec<(&str, &str, u64)> = shown
        .as_array()
        .unwrap()
        .iter()
        .filter(|link| link["ifname"] != "lo")
        .map(|link| {
            let address = link["addr_info"][0]["local"].as_str().unwrap();
            (link["ifname"].as_str().unwrap(), address.rsplit_once('.').unwrap().0, link["mtu"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(links, [("eth0", "10.16.0", 1400), ("net1", "10.20.0", 1400), ("net2", "10.30.0", 1400), ("data", "10.31.0", 1300)]);
    let (_, default) = inside(&lab, "four", &["ip", "route", "show", "default"]);
    assert!(default.contains("via 10.16.0.1 dev eth0"), "{default}");
    let status = lab.kubectl(&["get", "pod", "four", "-o", r"jsonpath={.metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status}"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let names: Vec<_> =
        status.as_array().unwrap().iter().map(|s| (s["name"].as_str().unwrap(), s["interface"].as_str().unwrap())).collect();
    assert_eq!(names, [("ferrovia", "eth0"), ("default/second", "net1"), ("default/red", "net2"), ("default/red", "data")]);

    // Each NIC reaches its own VPC, and no other.
    let address = |pod: &str| lab.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]);
    let (red_peer, peer) = (address("red-peer"), address("peer"));
    assert!(pings(&lab, "four", &["-I", "data", &red_peer]) && pings(&lab, "four", &["-I", "eth0", &peer]));
    assert!(!pings(&lab, "red-peer", &[&peer]) && !pings(&lab, "peer", &[&red_peer]));
    assert!(pings(&lab, "red-peer", &["10.30.0.1"]), "the other subnet's gateway, in the same VPC");

    // As Multus does it: each NIC is asked for by itself, and nothing is made twice.
    let inner = lab::Lab::open(lab.layout()).unwrap();
    let runtime = Runtime::new(inner, Place::Node(1));
    let uid = lab.kubectl(&["get", "pod", "four", "-o", "jsonpath={.metadata.uid}"]);
    let kept = std::fs::read_dir(lab.folder().join("node1/attachments")).unwrap();
    let kept: Vec<Value> = kept.map(|file| serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap()).collect();
    let netns = kept.iter().find(|kept| kept["pod"] == "four").unwrap()["netns"].as_str().unwrap().to_owned();
    let netns = netns.rsplit_once('/').unwrap().1.to_owned();
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let ask = |ifname: &str, plugin: Value| {
        let attachment = Attachment { ifname: ifname.to_owned(), ..Attachment::of_pod("default", "four", &uid, &netns) };
        let answer = tokio.block_on(runtime.add(&Network::of("1.0.0", "by-name", vec![plugin]), &attachment)).unwrap();
        answer.ok().unwrap()
    };
    for (ifname, provider, net) in [("net1", "second.default.ovn", "10.20.0."), ("data", "red.default.ovn.data", "10.31.0.")] {
        let result = ask(ifname, json!({ "type": "ferrovia", "provider": provider }));
        assert_eq!(result["interfaces"].as_array().unwrap().len(), 2, "{result}");
        assert!(result["ips"][0]["address"].as_str().unwrap().starts_with(net), "{result}");
    }
    let ports = lab.ok(&["node", "node1", "--", "ovs-vsctl", "list-ports", "br-int"]);
    assert_eq!(ports.lines().filter(|port| port.ends_with("_h")).count(), 4, "{ports}");

    // A NIC that another plugin makes has an address of ours, and no port.
    lab.apply(&pod("lan", "node1", &json!({ "k8s.v1.cni.cncf.io/networks": "lan" })).to_string());
    ready(&lab, &["lan"]);
    let uid = lab.kubectl(&["get", "pod", "lan", "-o", "jsonpath={.metadata.uid}"]);
    let attachment = Attachment { ifname: "net1".to_owned(), ..Attachment::of_pod("default", "lan", &uid, &netns) };
    let plugin = json!({ "type": "ferrovia" });
    let call = runtime.call(Verb::Add, &Network::of("1.0.0", "lan", Vec::new()), &plugin, &attachment, None).unwrap();
    // What the other plugin hands on is its own configuration.
    let macvlan =
        json!({ "cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "ipam": { "type": "ferrovia", "provider": "lan.default" } });
    let result = tokio.block_on(runtime.execute(&call.reading(macvlan.to_string()))).unwrap().ok().unwrap();
    assert_eq!((&result["ips"][0]["address"], result.get("interfaces")), (&json!("172.20.0.2/24"), None));
    lab.down();
}

#[test]
fn with_port_security_a_pod_sends_as_itself_and_as_what_it_is_allowed_and_as_nobody_else() {
    let lab = Lab::up(&["--nodes", "2"]);
    lab.apply(NETWORKS);
    let secure = json!({ "ovn.kubernetes.io/port_security": "true", "ovn.kubernetes.io/port_vips": "10.16.0.200" });
    lab.apply(&pod("secure", "node1", &secure).to_string());
    lab.apply(&pod("open", "node1", &json!({})).to_string());
    lab.apply(&pod("peer", "node2", &json!({})).to_string());
    ready(&lab, &["secure", "open", "peer"]);
    let peer = lab.kubectl(&["get", "pod", "peer", "-o", "jsonpath={.status.podIP}"]);
    for (pod, forged, passes) in [("secure", "10.16.0.200", true), ("secure", "10.16.0.201", false), ("open", "10.16.0.202", true)] {
        assert!(inside(&lab, pod, &["ip", "addr", "add", &format!("{forged}/32"), "dev", "eth0"]).0);
        assert_eq!(pings(&lab, pod, &["-I", forged, &peer]), passes, "{pod} as {forged}");
    }
    assert!(pings(&lab, "secure", &[&peer]));
    let (changed, why) = inside(&lab, "secure", &["ip", "link", "set", "eth0", "address", "02:00:00:00:00:99"]);
    assert!(changed, "{why}");
    assert!(inside(&lab, "secure", &["ip", "route", "replace", "default", "via", "10.16.0.1"]).0);
    assert!(!pings(&lab, "secure", &[&peer]), "under another MAC");
    lab.down();
}
