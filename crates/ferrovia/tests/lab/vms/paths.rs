//! What packets of virtual machines and containers pass, as docs/datapath.md draws it, from what is really configured.

use std::time::{Duration, Instant};

use lab::HopKind::{self, Bridge, Host, Nic, Switch, Tap, Tunnel, Veth, VhostUser};
use lab::Vlans;
use serde_json::{Value, json};

use crate::harness::{LAN, Lab, NET1, VLAN100};

const PATIENCE: Duration = Duration::from_secs(120);

const SOCKETS: &str = r#"
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: vhost-user, namespace: default}
spec: {config: '{"cniVersion": "1.0.0", "type": "ferrovia", "provider": "vhost-user.default.ovn", "vhost_user_socket_volume_name": "s"}'}
"#;

fn pod(name: &str, node: &str, subnet: &str, class: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "annotations": { "ovn.kubernetes.io/logical_switch": subnet } },
        "spec": { "nodeName": node, "runtimeClassName": class, "containers": [{ "name": "c", "image": "none" }] },
    })
}

/// A virtual machine whose NIC is a socket.
fn socket(name: &str, subnet: &str) -> Value {
    let mut pod = pod(name, "node2", subnet, Some("vm"));
    pod["metadata"]["annotations"]["v1.multus-cni.io/default-network"] = json!("default/vhost-user");
    pod["spec"]["volumes"] = json!([{ "name": "s", "emptyDir": {} }]);
    pod
}

/// The kinds of what a packet passes, and the names, as soon as both ends are wired.
fn path(lab: &Lab, from: &str, to: &str) -> (Vec<HopKind>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opened = lab::Lab::open(lab.layout()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let hops = runtime.block_on(async {
        loop {
            match opened.path("default", from, to).await {
                Ok(hops) => break hops,
                Err(error) => assert!(Instant::now() < deadline, "{from} → {to}: {error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let shown = hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    println!("{from} → {to}: {} hops: {shown}", hops.len());
    (hops.into_iter().map(|hop| hop.kind).collect(), shown)
}

#[test]
fn packets_take_the_short_way() {
    let lab = Lab::up(&["--nodes", "2", "--dpdk-nodes", "node2"]);
    lab.ok(&["vlans"]);
    lab.apply(&[SOCKETS, NET1, VLAN100, LAN].concat());
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/lan", "--timeout=30s"]);
    let vm = Some("vm");
    let pods = [
        pod("vm-1", "node1", "ovn-default", vm),
        pod("vm-2", "node1", "ovn-default", vm),
        pod("vm-3", "node2", "ovn-default", vm),
        pod("vm-lan", "node1", "lan", vm),
        pod("pod-1", "node1", "ovn-default", None),
        pod("pod-2", "node2", "ovn-default", None),
        socket("socket-1", "ovn-default"),
        socket("socket-2", "ovn-default"),
        socket("socket-lan", "lan"),
    ];
    lab.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string());
    // Where a guest's link is wired matters, and not whether it has booted.
    let wired = |pod: &str| lab.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.phase}"]) == "Running";
    let deadline = Instant::now() + PATIENCE;
    while !pods.iter().all(|pod| wired(pod["metadata"]["name"].as_str().unwrap())) {
        assert!(Instant::now() < deadline, "{}", lab.kubectl(&["get", "pods", "-o", "wide"]));
    }
    let machine = [Tap, Bridge, Veth];
    let back = [Veth, Bridge, Tap];
    let other = [Switch, Tunnel, Nic, Switch];
    let outside = "10.9.0.101";
    let gateway = Vlans::address(Vlans::GATEWAY).to_string();
    let ways: [(&str, &str, Vec<HopKind>); 12] = [
        ("vm-1", "vm-2", [&machine[..], &[Switch], &back].concat()),
        ("vm-1", "vm-3", [&machine[..], &other, &back].concat()),
        ("vm-1", outside, [&machine[..], &[Switch, Host, Nic]].concat()),
        // Without a stack of any host on the way.
        ("vm-lan", &gateway, [&machine[..], &[Switch, Nic]].concat()),
        ("pod-1", "vm-1", [&[Veth, Switch][..], &back].concat()),
        ("pod-1", "pod-2", [&[Veth][..], &other, &[Veth]].concat()),
        ("pod-1", outside, vec![Veth, Switch, Host, Nic]),
        ("socket-1", "socket-2", vec![VhostUser, Switch, VhostUser]),
        ("socket-1", "vm-1", [&[VhostUser][..], &other, &back].concat()),
        ("socket-1", outside, vec![VhostUser, Switch, Host, Nic]),
        ("socket-lan", &gateway, vec![VhostUser, Switch, Nic]),
        // A node is reached by its own port.
        ("pod-1", "10.9.0.12", [&[Veth][..], &other[..3], &[Switch, Host]].concat()),
    ];
    for (from, to, wanted) in &ways {
        assert_eq!(path(&lab, from, to).0, *wanted, "{from} → {to}");
    }
    let (_, bridged) = path(&lab, "vm-1", outside);
    assert!(bridged.contains("node1: host stack br-ex, node1: NIC br-phy"), "{bridged}");
    // The initial design's way out, by the node's own port.
    lab.ok(&["gateway", "join"]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (kinds, shown) = path(&lab, "vm-1", outside);
        if shown.contains("host stack ovn0") {
            assert_eq!(kinds, ways[2].2);
            break;
        }
        assert!(Instant::now() < deadline, "{shown}");
    }
    lab.down();
}
