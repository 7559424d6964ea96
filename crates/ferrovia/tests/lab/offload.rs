//! Pods whose NICs are devices. There is no such hardware: a tree like sysfs says that one end of a veth pair is a virtual function, and the other one
//! its representor.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::runtime::{Attachment, Network, Runtime};
use lab::{Place, probe::Endpoint};
use linux::Netns;
use serde_json::{Value, json};

use crate::harness::{Lab, ferrovia, pod};

const NODE1: Place = Place::Node(1);
const DEVICE: &str = "0000:05:00.2";

const NETWORKS: &str = r#"
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: fast}
spec: {vpc: ovn-cluster, cidrBlock: '10.50.0.0/24,fd00:50::/112', mtu: 1300}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: fast, namespace: default, annotations: {k8s.v1.cni.cncf.io/resourceName: example.com/vf}}
spec: {config: '{"cniVersion":"1.1.0","type":"ferrovia","provider":"fast.default.ovn"}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: absent, namespace: default}
spec: {config: '{"cniVersion":"1.1.0","type":"ferrovia","deviceID":"0000:07:00.2"}'}
"#;

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, format!("{text}\n")).unwrap();
}

fn link(path: &Path, target: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

/// What the kernel shows of a NIC with one virtual function, after [`DEVICE`], by the links `uplink`, `vf0` and `rep0`.
fn tree(root: &Path) {
    let (nic, function) = ("0000:05:00.0", root.join("devices").join(DEVICE));
    let physical = root.join("devices").join(nic);
    for device in [nic, DEVICE] {
        link(&root.join("bus/pci/devices").join(device), &format!("../../../devices/{device}"));
    }
    link(&physical.join("virtfn0"), &format!("../{DEVICE}"));
    link(&function.join("physfn"), &format!("../{nic}"));
    link(&function.join("driver"), "../../bus/pci/drivers/mlx5_core");
    for (device, name, port, switch) in
        [(&physical, "uplink", "p0", "e8a1"), (&physical, "rep0", "pf0vf0", "e8a1"), (&function, "vf0", "", "")]
    {
        let folder = device.join("net").join(name);
        write(&folder.join("phys_port_name"), port);
        write(&folder.join("phys_switch_id"), switch);
        link(&folder.join("device"), &format!("../../../{}", device.file_name().unwrap().to_string_lossy()));
        link(&root.join("class/net").join(name), &folder.display().to_string());
    }
}

fn inside(lab: &Lab, pod: &str, command: &[&str]) -> (String, Option<i32>) {
    let (out, errors, status) = ferrovia(&[&["lab", "exec", "--name", lab.name(), pod, "--"], command].concat());
    (out + &errors, status)
}

fn field(lab: &Lab, pod: &str, path: &str) -> String {
    lab.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

/// What a link of the node is: name, MAC, MTU and alias; nothing when it is not there.
fn on_node(lab: &Lab, name: &str) -> Option<[String; 4]> {
    let links: Value = serde_json::from_str(&lab.ok(&["node", "node1", "--", "ip", "-j", "link"])).unwrap();
    let found = links.as_array().unwrap().iter().find(|link| link["ifname"] == name)?;
    let text = |key: &str| found[key].as_str().map_or_else(|| found[key].to_string(), str::to_owned);
    Some(["ifname", "address", "mtu", "ifalias"].map(text))
}

#[test]
fn a_pod_has_a_device_s_link_its_packets_pass_the_representor_and_the_node_gets_it_back() {
    let lab = Lab::up(&["--nodes", "2", "--dual-stack"]);
    lab.apply(NETWORKS);
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/fast", "--timeout=30s"]);
    tree(&lab.layout().sysfs(NODE1));
    lab.ok(&["node", "node1", "--", "ip", "link", "add", "vf0", "address", "02:00:00:00:50:09", "type", "veth", "peer", "name", "rep0"]);
    lab.ok(&["node", "node1", "--", "ip", "link", "set", "rep0", "up"]);
    let before = on_node(&lab, "vf0").unwrap();

    let key = "k8s.v1.cni.cncf.io/networks";
    let of = |what: &str| format!("fast.default.ovn.kubernetes.io/{what}");
    let quick = json!({ (key): "fast", (of("logical_switch")): "fast", (of("egress_rate")): "50", (of("ingress_rate")): "50" });
    let pods = [pod("quick", "node1", &quick), pod("peer", "node2", &json!({ "ovn.kubernetes.io/logical_switch": "fast" }))];
    lab.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string());
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/quick", "pod/peer", "--timeout=30s"]);
    // Whoever knows the device calls for it.
    assert!(!inside(&lab, "quick", &["ip", "link"]).0.contains("net1"));

    let uid = field(&lab, "quick", ".metadata.uid");
    let runtime = Runtime::new(lab::Lab::open(lab.layout()).unwrap(), NODE1);
    let netns = lab.layout().name().pod_netns(&uid);
    let attachment = Attachment { ifname: "net1".to_owned(), ..Attachment::of_pod("default", "quick", &uid, &netns) };
    // As Multus does it.
    let fast = |device: &str| {
        let plugin = json!({ "type": "ferrovia", "provider": "fast.default.ovn", "deviceID": device });
        Network::of("1.1.0", "fast", vec![plugin])
    };
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let refused = runtime.add(&fast(""), &attachment).await.unwrap().ok().unwrap_err();
        assert!(refused.message.contains("NIC net1 of pod default/quick is to be a device of example.com/vf"), "{refused}");
        let refused = runtime.add(&fast("0000:05:00.7"), &attachment).await.unwrap().ok().unwrap_err();
        assert!(refused.message.contains("there is no device 0000:05:00.7: no folder /"), "{refused}");

        let made = runtime.add(&fast(DEVICE), &attachment).await.unwrap().ok().unwrap();
        assert_eq!(made["interfaces"][0]["name"], "rep0", "{made}");
        assert_eq!((&made["interfaces"][1]["name"], &made["interfaces"][1]["pciID"]), (&json!("net1"), &json!(DEVICE)), "{made}");
        // Once more, and looked at.
        assert_eq!(runtime.add(&fast(DEVICE), &attachment).await.unwrap().ok().unwrap(), made);
        runtime.check(&fast(DEVICE), &attachment).await.unwrap().ok().unwrap();
        let address = made["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();

        let shown = inside(&lab, "quick", &["ip", "addr", "show", "net1"]).0;
        let mac = field(&lab, "quick", r".metadata.annotations.fast\.default\.ovn\.kubernetes\.io/mac_address");
        for expected in ["mtu 1300", "state UP", &format!("link/ether {mac}"), &format!("inet {address}/24"), "inet6 fd00:50::"] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        assert_eq!((on_node(&lab, "vf0"), on_node(&lab, "rep0").unwrap()[2].as_str()), (None, "1300"));
        // In the same subnet, on the other node.
        let ends = [("quick", &address), ("peer", &field(&lab, "peer", ".status.podIP"))].map(|(pod, address)| {
            let uid = field(&lab, pod, ".metadata.uid");
            let netns = Netns::named(&lab.layout().name().pod_netns(&uid)).unwrap();
            (Endpoint::open(&uid, &netns).unwrap(), address.parse().unwrap())
        });
        ends[0].0.tcp(&ends[1].0, ends[1].1, 5_000_000).await.unwrap();
        ends[1].0.tcp(&ends[0].0, ends[0].1, 5_000_000).await.unwrap();
        let passed = lab.ok(&["node", "node1", "--", "ip", "-s", "-j", "link", "show", "rep0"]);
        let passed: Value = serde_json::from_str(&passed).unwrap();
        for way in ["rx", "tx"] {
            let bytes = passed[0]["stats64"][way]["bytes"].as_u64().unwrap();
            assert!(bytes > 5_000_000, "{way}: {bytes} bytes passed the representor");
        }

        let policed = lab.ok(&["node", "node1", "--", "ovs-vsctl", "get", "interface", "rep0", "ingress_policing_rate"]);
        assert_eq!(policed.trim(), "50000");
        let told = format!("NIC net1 is device {DEVICE}, and Open vSwitch on node node1 leaves nothing to it");
        let unlimited = format!("NIC net1 is device {DEVICE}, and what reaches the pod has no limit");
        let (started, mut events) = (Instant::now(), String::new());
        while !(events.contains(&told) && events.contains(&unlimited)) && started.elapsed() < Duration::from_secs(20) {
            events = lab.events("Pod", "quick");
        }
        assert!(events.contains(&unlimited), "{events}");
        assert!(events.contains(&told) && events.contains("other_config:hw-offload of Open_vSwitch is \"\""), "{events}");

        // A new agent goes on, and two pods never have one device.
        lab.ok(&["kill", "agent@node1"]);
        lab.ok(&["restart", "agent@node1"]);
        runtime.check(&fast(DEVICE), &attachment).await.unwrap().ok().unwrap();
        lab.ok(&["node", "node1", "--", "ovs-vsctl", "del-port", "rep0"]);
        let (said, status) = inside(
            &lab,
            "quick",
            &["sh", "-c", &format!("for i in $(seq 60); do ping -c 1 -W 1 -I net1 {} && exit 0; done; exit 1", ends[1].1)],
        );
        assert_eq!(status, Some(0), "the port was taken away, and is put back: {said}");
        let other = Attachment { ifname: "net2".to_owned(), ..attachment.clone() };
        let refused = runtime.add(&fast(DEVICE), &other).await.unwrap().ok().unwrap_err();
        assert!(refused.message.contains("which is NIC net1 of pod default/quick still"), "{refused}");
        drop(ends);

        for _ in 0..2 {
            runtime.del(&fast(DEVICE), &attachment).await.unwrap().ok().unwrap();
            assert_eq!(on_node(&lab, "vf0").as_ref(), Some(&before));
            assert!(!inside(&lab, "quick", &["ip", "link"]).0.contains("net1"));
        }
        assert!(on_node(&lab, "rep0").is_some());
        let ports = lab.ok(&["node", "node1", "--", "ovs-vsctl", "list-ports", "br-int"]);
        assert!(!ports.contains("rep0"), "{ports}");

        // One that a node's start left in its database: the link is there without a pod, too.
        let ids = ["vendor=kube-ovn", "container_id=x", "iface-id=quick.default.fast.default.ovn", "device=x"]
            .map(|id| format!("external_ids:{id}"));
        let add = ["node", "node1", "--", "ovs-vsctl", "add-port", "br-int", "rep0", "--", "set", "interface", "rep0"];
        lab.ok(&add.into_iter().chain(ids.iter().map(String::as_str)).collect::<Vec<_>>());
        let started = Instant::now();
        while lab.ok(&["node", "node1", "--", "ovs-vsctl", "list-ports", "br-int"]).contains("rep0") {
            assert!(started.elapsed() < Duration::from_secs(20), "a port that is nobody's is still there");
        }

        // As the kernel returns it from a namespace that ends.
        runtime.add(&fast(DEVICE), &attachment).await.unwrap().ok().unwrap();
        let node = format!("fv-{}-node1", lab.name());
        lab.ok(&["node", "node1", "--", "ip", "-n", &netns, "link", "set", "net1", "netns", &node, "name", "eth7"]);
        runtime.del(&fast(DEVICE), &attachment).await.unwrap().ok().unwrap();
        assert_eq!(on_node(&lab, "vf0"), Some(before));
    });

    // What the node lacks of a device that a definition names is told on the pod.
    lab.apply(&pod("lacks", "node1", &json!({ (key): "absent" })).to_string());
    let waiting = r"--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=FailedCreatePodSandBox";
    lab.kubectl(&["wait", waiting, "pod/lacks", "--timeout=20s"]);
    let events = lab.events("Pod", "lacks");
    assert!(events.contains("NIC net1 of pod default/lacks is to be device 0000:07:00.2 of node node1: there is no device"), "{events}");
    lab.kubectl(&["delete", "pod", "lacks", "quick", "--wait=true", "--timeout=20s"]);

    // A pod's only NIC, in a namespace that ends before the runtime says so: ends of veths end with it.
    lab.ok(&["kill", "kubelet"]);
    lab.apply(&pod("only", "node1", &json!({})).to_string());
    let recorded = r"--for=jsonpath={.metadata.annotations.ovn\.kubernetes\.io/allocated}=true";
    lab.kubectl(&["wait", recorded, "pod/only", "--timeout=20s"]);
    let uid = field(&lab, "only", ".metadata.uid");
    tokio.block_on(async {
        let sandbox = runtime.sandbox(&uid).await.unwrap();
        let network = Network::of("1.1.0", "ferrovia", vec![json!({ "type": "ferrovia", "deviceID": DEVICE })]);
        let attachment = Attachment::of_pod("default", "only", &uid, sandbox.name());
        let made = runtime.add(&network, &attachment).await.unwrap().ok().unwrap();
        let address = made["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        let routes = lab.ok(&["node", "node1", "--", "ip", "-n", sandbox.name(), "route"]);
        assert!(routes.contains("default via 10.16.0.1 dev eth0"), "{routes}");
        let peer = field(&lab, "peer", ".metadata.uid");
        let peer = Endpoint::open(&peer, &Netns::named(&lab.layout().name().pod_netns(&peer)).unwrap()).unwrap();
        peer.tcp(&Endpoint::open(&uid, sandbox.netns()).unwrap(), address, 1_000_000).await.unwrap();
        sandbox.delete().unwrap();
        drop(sandbox);
        runtime.del(&network, &attachment).await.unwrap().ok().unwrap();
        let kept: Vec<_> = fs::read_dir(lab.folder().join("node1/attachments")).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(kept, Vec::<std::ffi::OsString>::new());
    });
    lab.down();
}
