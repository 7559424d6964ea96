//! Machines whose NICs are sockets, which Open vSwitch with DPDK connects to.

use lab::runtime::{Attachment, Runtime};

use super::*;

/// A definition of NICs that are sockets.
fn definition(name: &str, fields: &Value) -> Value {
    let mut config = json!({ "cniVersion": "1.0.0", "type": "ferrovia", "provider": format!("{name}.default.ovn") });
    for (key, value) in fields.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": { "name": name, "namespace": "default" }, "spec": { "config": config.to_string() },
    })
}

/// A pod whose primary NIC is of a definition.
fn by(mut pod: Value, definition: &str) -> Value {
    pod["metadata"]["annotations"] = json!({ "v1.multus-cni.io/default-network": definition });
    pod
}

fn volumes() -> Value {
    json!({ "volumes": [{ "name": "sockets", "emptyDir": {} }] })
}

/// How long it takes until `pod` reaches an address.
fn reached(lab: &Lab, pod: &str, address: &str) -> Duration {
    let started = Instant::now();
    let again = format!("for i in $(seq 60); do ping -c 1 -W 1 {address} && exit 0; done; exit 1");
    let (said, errors, status) = inside(lab, pod, &["sh", "-c", &again]);
    assert_eq!(status, Some(0), "{pod} → {address}: {said}{errors}");
    started.elapsed()
}

/// Names of what is in a folder of node2.
fn files(lab: &Lab, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(lab.folder().join("node2").join(folder)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn sockets(lab: &Lab) -> usize {
    let types = lab.ok(&["node", "node2", "--", "ovs-vsctl", "--columns=type", "list", "interface"]);
    types.lines().filter(|line| line.contains("dpdkvhostuserclient")).count()
}

/// How much memory of guests the switch of node2 holds, in mappings.
fn guests_memory(lab: &Lab) -> usize {
    let pid = std::fs::read_to_string(lab.folder().join("node2/ovs-vswitchd.pid")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", pid.trim())).unwrap();
    maps.lines().filter(|line| line.contains("memfd:memory-backend")).count()
}

/// Megabits that pass from one pod to another in a second, by TCP.
fn rate(lab: &Lab, from: &str, to: &str, bytes: usize) -> f64 {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let address = field(lab, to, ".status.podIP").parse().unwrap();
    let [source, target] = [from, to].map(|pod| netns(lab, &field(lab, pod, ".metadata.uid")));
    let started = Instant::now();
    tokio.block_on(async {
        let (source, target) = (Endpoint::open(from, &source).unwrap(), Endpoint::open(to, &target).unwrap());
        let sent = tokio::time::timeout(Duration::from_secs(60), source.tcp(&target, address, bytes)).await;
        sent.expect("within a minute").unwrap();
    });
    bytes as f64 * 8.0 / 1e6 / started.elapsed().as_secs_f64()
}

#[test]
fn sockets_and_taps_reach_each_other_and_whoever_is_started_anew_is_reconnected() {
    let lab = Lab::up(&["--nodes", "2", "--dual-stack", "--dpdk-nodes", "node2"]);
    let started = Instant::now();
    lab.ok(&["apply", "-f", &crate::harness::example_file("dpdk")]);
    apply(&lab, &[machine("tap", "node1", &json!({})), container("pod-1", "node1"), container("pod-2", "node2")]);
    ready(&lab, &["vm-vhost-1", "vm-vhost-2", "tap", "pod-1", "pod-2"]);
    println!("three machines at once are ready after {:.1?}", started.elapsed());
    let started = Instant::now();
    // A switch with DPDK on a busy machine may lose a packet: what is lost twice is not there.
    let (first, _, code) = ferrovia(&["lab", "check", "--name", lab.name()]);
    if code != Some(0) {
        println!("a first check: {first}");
    }
    let checks = lab.checked();
    println!("{} checks, as expected, in {:.1?}", checks.len(), started.elapsed());
    let of = |from: &str, to: &str| checks.iter().filter(|c| c["from"] == from && c["to"] == to && c["observed"] == true).count();
    for [from, to] in [["vm-vhost-1", "vm-vhost-2"], ["tap", "vm-vhost-1"], ["vm-vhost-1", "pod-1"], ["pod-2", "vm-vhost-1"]] {
        assert_eq!(of(&format!("default/{from}"), &format!("default/{to}")), 10, "{from} → {to}");
    }
    // From socket to socket, of which the second one is not a primary NIC.
    let second = field(&lab, "vm-vhost-2", r".metadata.annotations.vhost-user\.default\.ovn\.kubernetes\.io/ip_address");
    reached(&lab, "vm-vhost-1", &second);
    assert_eq!((sockets(&lab), files(&lab, "vhost").len()), (2, 2));
    assert!(guests_memory(&lab) > 0);

    let (uid, address) = (field(&lab, "vm-vhost-1", ".metadata.uid"), field(&lab, "vm-vhost-1", ".status.podIP"));
    let runtime = Runtime::new(lab::Lab::open(lab.layout()).unwrap(), Place::Node(2));
    let attachment = Attachment::of_pod("default", "vm-vhost-1", &uid, &lab.layout().name().pod_netns(&uid));
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(runtime.check(&runtime.network().unwrap(), &attachment)).unwrap().ok().unwrap();
    let port: String = uid.chars().take(12).chain("_h".chars()).collect();
    let switch = |words: &[&str]| lab.ok(&[&["node", "node2", "--", "ovs-vsctl", "--timeout=10"], words].concat());
    let free = rate(&lab, "pod-1", "vm-vhost-1", 10_000_000);
    let (ingress, egress) = ("ovn.kubernetes.io/ingress_rate", "ovn.kubernetes.io/egress_rate");
    lab.kubectl(&["annotate", "pod", "vm-vhost-1", &format!("{ingress}=16"), &format!("{egress}=24")]);
    switch(&["wait-until", "interface", &port, "ingress_policing_rate=24000"]);
    for (way, from, to, wanted) in [("ingress", "pod-1", "vm-vhost-1", 16.0), ("egress", "vm-vhost-1", "pod-1", 24.0)] {
        let reached = rate(&lab, from, to, 6_000_000);
        println!("{way}: {reached:.1} of {wanted} Mbit/s; without a limit towards it {free:.0}");
        // What is too much is dropped, so that TCP falls behind; and what passes at once comes on top.
        assert!((wanted * 0.5..wanted * 1.1).contains(&reached), "{way}: {reached:.1} of {wanted} Mbit/s");
    }
    lab.kubectl(&["annotate", "pod", "vm-vhost-1", &format!("{ingress}-"), &format!("{egress}-")]);
    switch(&["wait-until", "interface", &port, "ingress_policing_rate=0"]);
    assert_eq!(switch(&["--columns=_uuid", "find", "qos", "type=egress-policer"]), "");
    lab.kubectl(&["annotate", "pod", "vm-vhost-1", &format!("{ingress}=100")]);
    switch(&["wait-until", "port", &port, "qos!=[]"]);
    lab.ok(&["node", "node2", "--", "ovs-vsctl", "del-port", &port]);
    println!("the port was taken away, and put back: {:.1?}", reached(&lab, "pod-1", &address));
    lab.ok(&["kill", "agent@node2"]);
    lab.ok(&["restart", "agent@node2"]);
    println!("without an agent, and with a new one: {:.1?}", reached(&lab, "pod-1", &address));
    lab.ok(&["kill", "ovs-vswitchd@node2"]);
    lab.ok(&["restart", "ovs-vswitchd@node2"]);
    println!("the switch was killed and started: {:.1?}", reached(&lab, "pod-1", &address));
    reached(&lab, "vm-vhost-2", &address);
    assert_eq!(field(&lab, "vm-vhost-1", ".status.containerStatuses[0].restartCount"), "0");
    qemu(&uid)[0].signal(Signal::KILL).unwrap();
    lab.kubectl(&["wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/vm-vhost-1", "--timeout=30s"]);
    ready(&lab, &["vm-vhost-1"]);
    println!("the guest was killed, and has booted: {:.1?}", reached(&lab, "pod-1", &address));

    lab.kubectl(&["delete", "pod", "vm-vhost-1", "vm-vhost-2", "--wait=true", "--timeout=30s"]);
    assert_eq!((sockets(&lab), files(&lab, "vhost"), qemu(&uid).len()), (0, Vec::new(), 0));
    assert_eq!(switch(&["--columns=_uuid", "find", "qos", "type=egress-policer"]), "");
    let left = files(&lab, "kubelet/pods").into_iter().chain(files(&lab, "attachments").into_iter().filter(|file| file.contains(&uid)));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new());
    assert_eq!(guests_memory(&lab), 0, "the switch has let go of the guests' memory");
    lab.down();
}

#[test]
fn a_machine_asks_for_its_addresses_over_its_socket() {
    let lab = Lab::up(&["--nodes", "2", "--dual-stack", "--dpdk-nodes", "node2"]);
    lab.apply(LEASED);
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/leased", "--timeout=30s"]);
    let mut asks = by(machine("asks", "node2", &volumes()), "usual");
    asks["metadata"]["annotations"]["ovn.kubernetes.io/logical_switch"] = json!("leased");
    let usual = definition("usual", &json!({ "vhost_user_socket_volume_name": "sockets" }));
    let started = Instant::now();
    apply(&lab, &[usual, asks, container("pod", "node1")]);
    ready(&lab, &["asks", "pod"]);
    println!("a machine that asks over its socket is ready after {:.1?}", started.elapsed());
    assert_eq!(sockets(&lab), 1);
    has_asked(&lab, "asks");
    let (own, others) = (addresses(&lab, "asks"), addresses(&lab, "pod"));
    // By the router, to a node with another datapath.
    for family in 0..2 {
        reached(&lab, "asks", &others[family]);
        reached(&lab, "pod", &own[family]);
    }
    lab.down();
}

#[test]
fn what_node_or_pod_lack_for_a_socket_is_told_on_the_pod() {
    let lab = Lab::up(&["--nodes", "2", "--dpdk-nodes", "node2"]);
    let (volume, name) = ("vhost_user_socket_volume_name", "vhost_user_socket_name");
    let pods = [
        by(machine("no-dpdk", "node1", &volumes()), "usual"),
        by(machine("no-volume", "node2", &json!({})), "usual"),
        by(machine("long", "node2", &volumes()), "long"),
        by(machine("unknown", "node2", &volumes()), "unknown"),
    ];
    let definitions = [
        definition("usual", &json!({ (volume): "sockets" })),
        definition("long", &json!({ (volume): "sockets", (name): "x".repeat(100) })),
        definition("unknown", &json!({ (volume): "sockets", "vhost_user_socket_mode": "server" })),
    ];
    apply(&lab, &[&definitions[..], &pods[..]].concat());
    let told = [
        ("no-dpdk", "node node1 has no OVS-DPDK: its ovs-vswitchd knows no ports of type dpdkvhostuserclient"),
        ("no-volume", "in its volume sockets, an emptyDir, and there is none: no folder"),
        ("long", "a socket's path has at most 107 bytes, and"),
        ("unknown", "NetworkAttachmentDefinition default/unknown: spec.config: vhost_user_socket_mode is not known"),
    ];
    for (pod, expected) in told {
        let waiting = r"--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=FailedCreatePodSandBox";
        lab.kubectl(&["wait", waiting, &format!("pod/{pod}"), "--timeout=20s"]);
        let events = lab.events("Pod", pod);
        assert!(events.contains(expected), "{pod}: {events}");
    }
    assert_eq!((sockets(&lab), files(&lab, "vhost"), files(&lab, "attachments")), (0, Vec::new(), Vec::new()));
    lab.kubectl(&["delete", "pod", "--all", "--wait=true", "--timeout=20s"]);
    lab.down();
}
