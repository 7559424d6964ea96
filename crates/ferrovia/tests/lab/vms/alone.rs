//! Subnets that give MACs alone: pods and machines ask a DHCP server of the physical network for their addresses.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::Vlans;
use lab::probe::{Endpoint, Ping};
use serde_json::{Value, json};

use super::migration::{instance, migrate, pause, pods};
use super::{apply, field, inside, machine, netns, ready};
use crate::harness::{Lab, NET1, VLAN100};

const PATIENCE: Duration = Duration::from_secs(60);

/// For primary NICs, and for further ones.
const ALONE: &str = r#"
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: alone}
spec: {vlan: vlan100}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: more}
spec: {vlan: vlan100, protocol: Mac, provider: more.default.ovn}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: more, namespace: default}
spec: {config: '{"cniVersion":"1.0.0","type":"ferrovia","provider":"more.default.ovn"}'}
"#;

/// What a container's client does with what it is told.
const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = bound ] || exit 0
ip -4 address add "$ip/$mask" dev "$interface"
if [ "$interface" = eth0 ]; then ip route replace default via "$router" dev eth0; fi
"#;

/// A DHCP server on the VLAN, of the guests' busybox, which has a client for containers, too.
struct Server {
    folder: tempfile::TempDir,
    server: Child,
}

impl Server {
    fn start(lab: &Lab) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let parameters: Value = serde_json::from_slice(&std::fs::read(lab.folder().join("lab.json")).unwrap()).unwrap();
        let image = Path::new(parameters["guest"].as_str().unwrap()).join("base.cpio");
        let mut unpacked = Command::new("cpio");
        unpacked.args(["-i", "-d", "--quiet", "./bin/busybox", "bin/busybox"]).current_dir(&folder);
        let done = unpacked.stdin(std::fs::File::open(image).unwrap()).status().unwrap();
        assert!(done.success(), "busybox is in the guests' image");
        let script = folder.path().join("script");
        std::fs::write(&script, SCRIPT).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let options = "option subnet 255.255.255.0\noption router 172.31.0.1\noption lease 600\n";
        let settings =
            format!("start 172.31.0.100\nend 172.31.0.149\ninterface eth1\nlease_file {path}/leases\npidfile {path}/pid\n{options}");
        std::fs::write(folder.path().join("settings"), settings).unwrap();
        let place = lab.layout().name().netns(Vlans::HOST).unwrap();
        let mut server = Command::new("ip");
        server.args(["netns", "exec", &place, &format!("{path}/bin/busybox"), "udhcpd", "-f", &format!("{path}/settings")]);
        Self { server: server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), folder }
    }

    /// A container's command: a client for a link, which goes on.
    fn client(&self, link: &str) -> Vec<String> {
        let path = self.folder.path().display();
        let words = format!("{path}/bin/busybox udhcpc -f -t 5 -T 1 -A 1 -i {link} -s {path}/script");
        words.split(' ').map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The address that a pod has on a link, once it has one of the server's.
fn leased(lab: &Lab, pod: &str, link: &str) -> IpAddr {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (shown, ..) = inside(lab, pod, &["ip", "-4", "-o", "addr", "show", link]);
        if let Some(address) =
            shown.split_whitespace().find_map(|word| word.strip_suffix("/24").filter(|word| word.starts_with("172.31.0.1")))
        {
            return address.parse().unwrap();
        }
        assert!(Instant::now() < deadline, "{pod} has no address on {link}: {shown}");
        pause(Duration::from_millis(100));
    }
}

/// What is recorded of a pod's NIC.
fn note(lab: &Lab, pod: &str, provider: &str, name: &str) -> String {
    let key = format!("{provider}.kubernetes.io/{name}").replace('.', r"\.");
    field(lab, pod, &format!(".metadata.annotations.{key}"))
}

#[test]
fn pods_and_machines_get_their_addresses_from_the_server_on_their_vlan() {
    let lab = Lab::up(&["--nodes", "2"]);
    lab.ok(&["vlans"]);
    lab.apply(&[NET1, VLAN100, ALONE].concat());
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/alone", "subnet/more", "--timeout=30s"]);
    let server = Server::start(&lab);
    let with = |mut pod: Value, notes: Value| {
        pod["metadata"]["annotations"] = notes;
        pod
    };
    let primary = json!({ "ovn.kubernetes.io/logical_switch": "alone", "ovn.kubernetes.io/port_security": "true" });
    let further = json!({ "k8s.v1.cni.cncf.io/networks": "more" });
    let asking =
        |name: &str, node: &str, link: &str| machine(name, node, &json!({ "runtimeClassName": null, "command": server.client(link) }));
    apply(
        &lab,
        &[
            with(asking("pod", "node1", "eth0"), primary.clone()),
            with(asking("pod-both", "node2", "net1"), further.clone()),
            with(machine("vm", "node2", &json!({})), primary),
            with(machine("vm-both", "node1", &json!({})), further),
        ],
    );
    ready(&lab, &["pod", "pod-both", "vm", "vm-both"]);

    // What is recorded is the MAC, and where that is.
    for (pod, provider, link, subnet) in [
        ("pod", "ovn", "eth0", "alone"),
        ("vm", "ovn", "eth0", "alone"),
        ("pod-both", "more.default.ovn", "net1", "more"),
        ("vm-both", "more.default.ovn", "net1", "more"),
    ] {
        let shown = |name: &str| note(&lab, pod, provider, name);
        let expected =
            [("allocated", "true"), ("routed", "true"), ("logical_switch", subnet), ("vlan_id", "100"), ("provider_network", "net1")];
        for (name, value) in expected {
            assert_eq!(shown(name), value, "{pod}: {name}");
        }
        for name in ["ip_address", "cidr", "gateway", "logical_router"] {
            assert_eq!(shown(name), "", "{pod}: {name}");
        }
        let (links, ..) = inside(&lab, pod, &["ip", "link", "show", link]);
        assert!(links.contains(&shown("mac_address")) && links.contains("mtu 1500"), "{pod}: {links}");
        let port = api::networks::port(pod, "default", provider);
        let kept =
            lab.kubectl(&["get", "ip", &port, "-o", "jsonpath={.spec.macAddress},{.spec.v4IpAddress},{.spec.ipAddress},{.spec.subnet}"]);
        assert_eq!(kept, format!("{},,,{subnet}", shown("mac_address")));
        let secured = if provider == "ovn" { format!("{}\n", shown("mac_address")) } else { String::new() };
        assert_eq!(
            (lab.nb(&["lsp-get-addresses", &port]).trim(), lab.nb(&["lsp-get-port-security", &port])),
            (shown("mac_address").as_str(), secured)
        );
    }
    assert_eq!(field(&lab, "pod", ".status.podIP"), "");
    let columns = "jsonpath={.spec.protocol},{.status.v4usingIPs},{.status.v4availableIPs},{.status.conditions[0].status}";
    assert_eq!(lab.kubectl(&["get", "subnet", "alone", "-o", columns]), "Mac,0,0,True");
    println!("{}", lab.kubectl(&["get", "subnet"]));

    // Everybody on the VLAN reaches them under the addresses that the server gave, and they everybody.
    let [pod, vm] = ["pod", "vm"].map(|pod| leased(&lab, pod, "eth0"));
    let [pod_both, vm_both] = ["pod-both", "vm-both"].map(|pod| leased(&lab, pod, "net1"));
    println!("the server gave {pod}, {vm}, {pod_both} and {vm_both}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let end = |pod: &str| {
            let uid = field(&lab, pod, ".metadata.uid");
            Endpoint::open(&uid, &netns(&lab, &uid)).unwrap()
        };
        let ends = [(end("pod"), pod), (end("vm"), vm), (end("pod-both"), pod_both), (end("vm-both"), vm_both)];
        let place = |place: lab::Place| Endpoint::open(&place.to_string(), &lab.layout().netns(place).unwrap()).unwrap();
        let (host, beyond) = (place(Vlans::HOST), IpAddr::from(Vlans::BEYOND));
        let long = Ping { seen_by: None, answered: true, payload: 1500 - 28 };
        for (end, address) in &ends {
            tokio::time::timeout(PATIENCE, host.ping(*address, long)).await.expect("a full packet arrives").unwrap();
            tokio::time::timeout(PATIENCE, host.tcp(end, *address, 1_000_000)).await.expect("within a minute").unwrap();
            tokio::time::timeout(PATIENCE, end.tcp(&host, Vlans::address(Vlans::HOST).into(), 1_000_000)).await.unwrap().unwrap();
            for (_, other) in ends.iter().filter(|(_, other)| other != address) {
                let ping = Ping { payload: 56, ..long };
                tokio::time::timeout(PATIENCE, end.ping(*other, ping)).await.unwrap_or_else(|_| panic!("{address} → {other}")).unwrap();
            }
        }
        for (end, _) in &ends[..2] {
            let ping = Ping { payload: 56, ..long };
            tokio::time::timeout(PATIENCE, end.ping(beyond, ping)).await.expect("the server's router leads out").unwrap();
        }
    });
    for (machine, leads) in [("vm", "172.31.0.1 dev eth0"), ("vm-both", "10.16.0.1 dev eth0")] {
        let (routes, ..) = inside(&lab, machine, &["ip", "route"]);
        let ways: Vec<_> = routes.lines().filter(|line| line.starts_with("default ")).collect();
        assert!(ways.len() == 1 && ways[0].contains(leads), "{machine}: {routes}");
    }
    // Nothing is said of who only the server knows.
    let checks = lab.checked();
    assert!(checks.iter().all(|check| check["from"] != "default/pod" && check["to"] != "default/vm"), "{checks:?}");

    // What cannot be had is told.
    let mut greedy = machine("greedy", "node1", &json!({ "runtimeClassName": null }));
    greedy["metadata"]["annotations"] =
        json!({ "ovn.kubernetes.io/logical_switch": "alone", "ovn.kubernetes.io/ip_address": "172.31.0.77" });
    apply(&lab, &[greedy]);
    let deadline = Instant::now() + PATIENCE;
    while !lab.events("Pod", "greedy").contains("address 172.31.0.77 is asked for, and subnet \"alone\" gives MACs alone") {
        assert!(Instant::now() < deadline, "{}", lab.events("Pod", "greedy"));
        pause(Duration::from_millis(100));
    }

    // An agent that starts again finds all as it is to be.
    let counting = lab.writes("node1", "db");
    lab.ok(&["restart", "agent@node1"]);
    pause(Duration::from_secs(1));
    assert_eq!(crate::harness::counted(counting), 0);
    assert_eq!(leased(&lab, "pod", "eth0"), pod);
    lab.down();
}

#[test]
fn a_machine_takes_its_mac_along_and_the_server_s_address() {
    let lab = Lab::up(&["--nodes", "2"]);
    lab.ok(&["vlans"]);
    lab.apply(&[NET1, VLAN100, ALONE].concat());
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/alone", "--timeout=30s"]);
    let _server = Server::start(&lab);
    instance(&lab, "alone", &json!({}));
    let first = pods(&lab).remove(0);
    ready(&lab, &[&first]);
    let (mac, address) = (note(&lab, &first, "ovn", "mac_address"), leased(&lab, &first, "eth0"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let entered = runtime.enter();
    let host = Endpoint::open("host", &lab.layout().netns(Vlans::HOST).unwrap()).unwrap();
    drop(entered);
    let moving = async {
        let name = lab.name().to_owned();
        tokio::task::spawn_blocking(move || crate::harness::ferrovia(&["lab", "migrate", "--name", &name, "-o", "json", "vm", "node2"]))
            .await
            .unwrap()
    };
    let streamed = runtime.block_on(async {
        let mut moved = None;
        let streamed = host.stream(address, Duration::from_millis(10), async { moved = Some(moving.await) }).await.unwrap();
        let (out, errors, status) = moved.unwrap();
        assert_eq!(status, Some(0), "{out}{errors}");
        streamed
    });
    println!("a host on the VLAN, while the machine moves: {streamed}");
    let second = pods(&lab).into_iter().find(|pod| *pod != first && field(&lab, pod, ".spec.nodeName") == "node2").unwrap();
    assert_eq!((note(&lab, &second, "ovn", "mac_address"), leased(&lab, &second, "eth0")), (mac, address));
    assert!(streamed.gap < Duration::from_secs(3), "{streamed}");
    let back = migrate(&lab, &["vm", "node1"]).unwrap();
    println!("and back: {back}");
    runtime.block_on(async {
        let ping = Ping { seen_by: None, answered: true, payload: 56 };
        tokio::time::timeout(PATIENCE, host.ping(address, ping)).await.unwrap().unwrap();
    });
    lab.down();
}
