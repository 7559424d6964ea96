//! Pods that are virtual machines: real guests of QEMU.

mod alone;
mod migration;
mod paths;
mod vhost;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::probe::{Endpoint, Ping};
use lab::{Place, Vlans};
use linux::Netns;
use linux::process::{self, Process, Signal};
use serde_json::{Value, json};

use crate::harness::{LAN, Lab, NET1, VLAN100, ferrovia};

/// How long a guest may take to boot where others boot beside it.
const BOOT: &str = "--timeout=60s";
const TRANSFER: usize = 50_000_000;

fn machine(name: &str, node: &str, more: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" },
        "spec": { "nodeName": node, "runtimeClassName": "vm", "containers": [{ "name": "c", "image": "none" }] },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        match key.as_str() {
            "command" | "env" => pod["spec"]["containers"][0][key] = value.clone(),
            _ => pod["spec"][key] = value.clone(),
        }
    }
    pod
}

fn container(name: &str, node: &str) -> Value {
    machine(name, node, &json!({ "runtimeClassName": null }))
}

fn apply(lab: &Lab, pods: &[Value]) {
    lab.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string());
}

fn ready(lab: &Lab, pods: &[&str]) {
    let named: Vec<String> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
    let named = named.iter().map(String::as_str);
    lab.kubectl(&[&["wait", "--for=condition=Ready", BOOT], named.collect::<Vec<_>>().as_slice()].concat());
}

fn field(lab: &Lab, pod: &str, path: &str) -> String {
    lab.kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

fn inside(lab: &Lab, pod: &str, command: &[&str]) -> (String, String, Option<i32>) {
    ferrovia(&[&["lab", "exec", "--name", lab.name(), pod, "--"], command].concat())
}

/// The QEMU processes of a pod.
fn qemu(uid: &str) -> Vec<Process> {
    process::with_environment(&format!("FERROVIA_MACHINE={uid}")).into_iter().filter_map(|pid| Process::open(pid).ok()).collect()
}

fn netns(lab: &Lab, uid: &str) -> Netns {
    Netns::named(&lab.layout().name().pod_netns(uid)).unwrap()
}

#[test]
fn machines_and_containers_reach_each_other_on_one_node_and_on_two() {
    let lab = Lab::up(&["--nodes", "2", "--dual-stack"]);
    let started = Instant::now();
    apply(&lab, &[machine("vm-1", "node1", &json!({})), container("pod-1", "node1"), container("pod-2", "node2")]);
    ready(&lab, &["vm-1"]);
    println!("a virtual machine is ready {:.1?} after its pod was made", started.elapsed());
    let started = Instant::now();
    apply(&lab, &[machine("vm-2", "node1", &json!({})), machine("vm-3", "node2", &json!({}))]);
    ready(&lab, &["vm-2", "vm-3", "pod-1", "pod-2"]);
    println!("two at once after {:.1?}", started.elapsed());

    // TCP, UDP, ICMP, full packets and transfers in both families: every pair, gateways, nodes, and outside.
    let started = Instant::now();
    let checks = lab.checked();
    let of = |from: &str, to: &str| checks.iter().filter(|c| c["from"] == from && c["to"] == to && c["observed"] == true).count();
    for [from, to] in [["vm-1", "vm-2"], ["vm-1", "vm-3"], ["vm-3", "pod-1"], ["pod-2", "vm-3"]] {
        assert_eq!(of(&format!("default/{from}"), &format!("default/{to}")), 10, "{from} → {to}");
    }
    println!("{} checks, as expected, in {:.1?}", checks.len(), started.elapsed());

    // Its own network says what the pod's annotations say, and nothing else of the namespace speaks on its link.
    let (shown, _, _) = inside(&lab, "vm-1", &["ip", "addr", "show", "eth0"]);
    let mac = field(&lab, "vm-1", r".metadata.annotations.ovn\.kubernetes\.io/mac_address");
    for expected in [format!("link/ether {mac}"), "mtu 1400".to_owned(), format!("inet {}/16", field(&lab, "vm-1", ".status.podIP"))] {
        assert!(shown.contains(&expected), "{expected}: {shown}");
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ends = ["vm-1", "vm-3", "pod-1", "pod-2"].map(|pod| {
            let uid = field(&lab, pod, ".metadata.uid");
            (pod, field(&lab, pod, ".status.podIP").parse().unwrap(), Endpoint::open(&uid, &netns(&lab, &uid)).unwrap())
        });
        for [from, to] in [[0, 1], [0, 2], [3, 0], [0, 3]] {
            let ((from, _, source), (to, address, target)) = (&ends[from], &ends[to]);
            let started = Instant::now();
            let sent = tokio::time::timeout(Duration::from_secs(60), source.tcp(target, *address, TRANSFER)).await;
            sent.expect("within a minute").unwrap();
            println!("{from} → {to}: {:.0} MB/s", TRANSFER as f64 / 1e6 / started.elapsed().as_secs_f64());
        }
    });
    lab.down();
}

/// A subnet whose machines get all by asking.
const LEASED: &str = "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: leased}
spec:
  vpc: ovn-cluster
  cidrBlock: '10.40.0.0/24,fd00:40::/64'
  enableDHCP: true
  dhcpV4Options: 'lease_time=600,dns_server={10.40.0.53,10.40.0.54}'
  dhcpV6Options: dns_server=fd00:40::53
  enableIPv6RA: true
  mtu: 1300
";

/// The addresses of a pod, of both families.
fn addresses(lab: &Lab, pod: &str) -> Vec<String> {
    field(lab, pod, ".status.podIPs[*].ip").split(' ').map(str::to_owned).collect()
}

/// A machine in [`LEASED`] has what that says, and goes on asking.
fn has_asked(lab: &Lab, machine: &str) {
    let shown = |command: &str| inside(lab, machine, &["sh", "-c", command]).0;
    let own = addresses(lab, machine);
    let links = shown("ip addr show eth0");
    for expected in [format!("inet {}/24", own[0]), format!("inet6 {}/128", own[1]), "mtu 1300".to_owned()] {
        assert!(links.contains(&expected), "{expected}: {links}");
    }
    let routes = shown("ip route; ip -6 route");
    assert!(routes.contains("default via 10.40.0.1 dev eth0") && routes.contains("default via fe80::"), "{routes}");
    let servers = shown("cat /etc/resolv.conf");
    assert_eq!(servers, "nameserver 10.40.0.53\nnameserver 10.40.0.54\nnameserver fd00:40::53\n");
    let clients = shown("pidof udhcpc; pidof dhclient");
    assert_eq!(clients.lines().count(), 2, "leases are renewed: {clients}");
}

#[test]
fn a_machine_gets_its_addresses_its_routes_and_its_name_servers_by_itself() {
    let lab = Lab::up(&["--nodes", "2", "--dual-stack"]);
    let silent = "
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: silent}
spec: {vpc: ovn-cluster, cidrBlock: '10.41.0.0/24,fd00:41::/64', enableDHCP: true}
";
    lab.apply(&[LEASED, silent].concat());
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/leased", "subnet/silent", "--timeout=30s"]);
    let on = |mut pod: Value, subnet: &str| {
        pod["metadata"]["annotations"] = json!({ "ovn.kubernetes.io/logical_switch": subnet });
        pod
    };
    let mut own = on(machine("own", "node2", &json!({})), "leased");
    own["metadata"]["annotations"]["ovn.kubernetes.io/dhcp-v4-options"] = json!("dns_server=10.40.0.99,mtu=1290");
    let machines = [on(machine("asks", "node1", &json!({})), "leased"), on(machine("told", "node2", &json!({})), "silent"), own];
    apply(&lab, &[&machines[..], &[on(container("pod", "node2"), "leased")]].concat());
    ready(&lab, &["asks", "told", "own", "pod"]);
    has_asked(&lab, "asks");
    // One that says so itself is told something else by IPv4, and the same by IPv6.
    assert_eq!(inside(&lab, "own", &["cat", "/etc/resolv.conf"]).0, "nameserver 10.40.0.99\nnameserver fd00:40::53\n");
    let links = inside(&lab, "own", &["ip", "addr", "show", "eth0"]).0;
    assert!(links.contains("mtu 1290") && links.contains(&format!("inet {}/24", addresses(&lab, "own")[0])), "{links}");
    lab.kubectl(&["annotate", "pod", "own", "ovn.kubernetes.io/dhcp-v4-options=dns_server=10.40.0.98", "--overwrite"]);
    let renewed = "kill -USR1 $(pidof udhcpc); i=0; until grep -q 10.40.0.98 /etc/resolv.conf; do i=$((i+1)); [ $i -lt 50 ] || exit 1; usleep 200000; kill -USR1 $(pidof udhcpc); done";
    assert_eq!(inside(&lab, "own", &["sh", "-c", renewed]).2, Some(0), "what is changed is told when the lease is renewed");
    // Where no router advertises itself the way out is as containers have it.
    let routes = inside(&lab, "told", &["ip", "-6", "route"]).0;
    assert!(routes.contains("default via fd00:41::1 dev eth0"), "{routes}");
    lab.checked();
    lab.down();
}

/// Subnets of further NICs that answer, too.
const SECOND: &str = r#"
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: second}
spec:
  vpc: ovn-cluster
  cidrBlock: '10.20.0.0/24,fd20::/64'
  provider: second.default.ovn
  enableDHCP: true
  enableIPv6RA: true
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: second, namespace: default}
spec: {config: '{"cniVersion":"1.0.0","type":"ferrovia","provider":"second.default.ovn"}'}
"#;

#[test]
fn a_machine_asks_on_each_nic_and_leaves_by_one() {
    let lab = Lab::up(&["--nodes", "1", "--dual-stack"]);
    lab.apply(&[LEASED, SECOND].concat());
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/leased", "subnet/second", "--timeout=30s"]);
    let with = |name: &str, networks: &str| {
        let mut pod = if name == "pod" { container(name, "node1") } else { machine(name, "node1", &json!({})) };
        pod["metadata"]["annotations"] = json!({ "ovn.kubernetes.io/logical_switch": "leased", "k8s.v1.cni.cncf.io/networks": networks });
        pod
    };
    let moved = r#"[{"name": "second", "default-route": ["10.20.0.1"]}]"#;
    apply(&lab, &[with("first", "second"), with("other", moved), with("pod", moved)]);
    ready(&lab, &["first", "other", "pod"]);
    for (name, leads, via) in [("first", "eth0", "10.40.0.1"), ("other", "net1", "10.20.0.1")] {
        let shown = |command: &str| inside(&lab, name, &["sh", "-c", command]).0;
        let of = |note: &str| field(&lab, name, &format!(r".metadata.annotations.{note}\.kubernetes\.io/ip_address"));
        let links = shown("ip addr");
        for (note, length) in [("ovn", 24), (r"second\.default\.ovn", 24)] {
            let addresses = of(note);
            let (v4, v6) = addresses.split_once(',').unwrap();
            for expected in [format!("inet {v4}/{length}"), format!("inet6 {v6}/128")] {
                assert!(links.contains(&expected), "{name}: {expected}: {links}");
            }
        }
        // One way out of each family, whoever answered last.
        let routes = shown("ip route; ip -6 route");
        println!("{name}:\n{routes}");
        let ways: Vec<_> = routes.lines().filter(|line| line.starts_with("default ")).collect();
        assert!(ways.len() == 2 && ways.iter().all(|way| way.contains(&format!("dev {leads}"))), "{routes}");
        assert!(ways[0].contains(&format!("via {via}")) && routes.contains("fd20::/64 dev net1"), "{routes}");
        assert_eq!(shown("pidof udhcpc dhclient").split_whitespace().count(), 4, "leases of each NIC are renewed");
        assert_eq!(shown("cat /etc/resolv.conf"), "nameserver 10.40.0.53\nnameserver 10.40.0.54\nnameserver fd00:40::53\n");
    }
    // What routers say is no way out of a container either, by a NIC that is none.
    let ways = inside(&lab, "pod", &["sh", "-c", "ip route; ip -6 route"]).0;
    let ways: Vec<_> = ways.lines().filter(|line| line.starts_with("default ")).collect();
    assert!(ways.len() >= 2 && ways.iter().all(|way| way.contains("dev net1")), "{ways:?}");
    // By each NIC they reach each other, over both families.
    for note in ["ovn", r"second\.default\.ovn"] {
        for address in field(&lab, "other", &format!(r".metadata.annotations.{note}\.kubernetes\.io/ip_address")).split(',') {
            assert_eq!(inside(&lab, "first", &["ping", "-c", "2", "-W", "2", address]).2, Some(0), "{address}");
        }
    }
    // Who leaves by another NIC than it is asked by answers under that one's address.
    lab.kubectl(&["delete", "pod", "other", "pod", "--wait=true", "--timeout=30s"]);
    lab.checked();
    lab.down();
}

#[test]
fn a_machine_is_on_a_vlan_with_one_nic_and_in_a_tunnel_with_the_other() {
    let lab = Lab::up(&["--nodes", "2"]);
    lab.ok(&["vlans"]);
    let lan = LAN.replace("vlan: vlan100", "vlan: vlan100, enableDHCP: true");
    let second = r#"
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: second}
spec: {vpc: ovn-cluster, cidrBlock: 10.20.0.0/24, provider: second.default.ovn}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: second, namespace: default}
spec: {config: '{"cniVersion":"1.0.0","type":"ferrovia","provider":"second.default.ovn"}'}
"#;
    lab.apply(&[NET1, VLAN100, &lan, second].concat());
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/lan", "subnet/second", "--timeout=30s"]);
    let both = |mut pod: Value| {
        pod["metadata"]["annotations"] = json!({ "ovn.kubernetes.io/logical_switch": "lan", "k8s.v1.cni.cncf.io/networks": "second" });
        pod
    };
    apply(&lab, &[both(machine("vm", "node1", &json!({}))), both(container("pod", "node2"))]);
    ready(&lab, &["vm", "pod"]);
    let (links, _, _) = inside(&lab, "vm", &["sh", "-c", "ip -4 addr; ip route; ip link"]);
    let second = field(&lab, "pod", r".metadata.annotations.second\.default\.ovn\.kubernetes\.io/ip_address");
    for expected in ["default via 172.31.0.1 dev eth0", "inet 10.20.0.", "net1: <", "mtu 1500", "mtu 1400"] {
        assert!(links.contains(expected), "{expected}: {links}");
    }
    assert_eq!(inside(&lab, "vm", &["ping", "-c", "2", "-I", "net1", &second]).2, Some(0), "{second}");

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let [vm, pod] = ["vm", "pod"].map(|pod| {
            let uid = field(&lab, pod, ".metadata.uid");
            Endpoint::open(&uid, &netns(&lab, &uid)).unwrap()
        });
        let place = |place: Place| Endpoint::open(&place.to_string(), &lab.layout().netns(place).unwrap()).unwrap();
        let (gateway, host) = (place(Vlans::GATEWAY), place(Vlans::HOST));
        let (address, other) = ["vm", "pod"].map(|pod| field(&lab, pod, ".status.podIP").parse().unwrap()).into();
        let ways = [
            (&vm, &pod, other),
            (&pod, &vm, address),
            (&vm, &host, Vlans::address(Vlans::HOST).into()),
            (&host, &vm, address),
            (&vm, &gateway, Vlans::BEYOND.into()),
        ];
        for (from, to, address) in ways {
            let sent = tokio::time::timeout(Duration::from_secs(60), from.tcp(to, address, TRANSFER / 10)).await;
            sent.expect("within a minute").unwrap_or_else(|why| panic!("{} → {address}: {why}", from.id()));
            let ping = Ping { seen_by: Some(to), answered: true, payload: 1500 - 28 };
            tokio::time::timeout(Duration::from_secs(10), from.ping(address, ping)).await.expect("a full packet arrives").unwrap();
        }
    });
    lab.down();
}

#[test]
fn a_command_in_a_machine_has_its_streams_and_its_status() {
    let lab = Lab::up(&["--nodes", "1"]);
    apply(&lab, &[machine("vm", "node1", &json!({ "env": [{ "name": "WHO", "value": "guest" }] }))]);
    ready(&lab, &["vm"]);
    let (out, errors, status) = inside(&lab, "vm", &["sh", "-c", "echo $WHO; hostname; uname -s; echo no >&2; exit 7"]);
    assert_eq!((out.as_str(), errors.as_str(), status), ("guest\nvm\nLinux\n", "no\n", Some(7)));
    assert_eq!(inside(&lab, "vm", &["sh", "-c", "kill -KILL $$"]).2, Some(137));
    let (_, errors, status) = inside(&lab, "vm", &["nonsense"]);
    assert!(status == Some(1) && errors.contains("pod default/vm: cannot run nonsense"), "{errors}");

    // More than any buffer on the way, there and back.
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferrovia"));
    child.args(["lab", "exec", "--name", lab.name(), "vm", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let sent: Vec<u8> = (0..5_000_000_u32).map(|i| (i * 31 % 251) as u8).collect();
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let got = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(got.status.success() && got.stdout == sent, "{} of {} bytes came back", got.stdout.len(), sent.len());

    // Who hangs up takes the command with it, and what it leaves unread is in nobody's way.
    let mut rude = Command::new(env!("CARGO_BIN_EXE_ferrovia"));
    rude.args(["lab", "exec", "--name", lab.name(), "vm", "--", "sh", "-c", "echo $$; exec yes"]).stdout(Stdio::piped());
    let mut rude = rude.spawn().unwrap();
    let mut first = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(rude.stdout.as_mut().unwrap()), &mut first).unwrap();
    assert_eq!(inside(&lab, "vm", &["kill", "-0", first.trim()]).2, Some(0));
    rude.kill().unwrap();
    rude.wait().unwrap();
    let gone = format!("for i in $(seq 100); do kill -0 {} 2>/dev/null || exit 0; sleep 0.1; done; exit 1", first.trim());
    assert_eq!(inside(&lab, "vm", &["sh", "-c", &gone]).2, Some(0), "process {} ends", first.trim());
    lab.down();
}

#[test]
fn a_machine_comes_back_as_itself_and_leaves_nothing() {
    let lab = Lab::up(&["--nodes", "1"]);
    let patient = "echo here; trap 'echo asked; exit 3' TERM; while true; do sleep 0.1; done";
    apply(&lab, &[machine("vm", "node1", &json!({ "command": ["sh", "-c", patient] })), container("pod", "node1")]);
    ready(&lab, &["vm", "pod"]);
    let uid = field(&lab, "vm", ".metadata.uid");
    let identity = || {
        let (shown, _, _) = inside(&lab, "vm", &["sh", "-c", "cat /sys/class/net/eth0/address; ip -4 addr show eth0 | grep inet"]);
        shown
    };
    let (before, address) = (identity(), field(&lab, "vm", ".status.podIP"));
    assert!(before.contains(&address), "{before}");
    let pings = || inside(&lab, "pod", &["ping", "-c", "2", "-i", "0.2", "-W", "2", &address]).2 == Some(0);
    assert!(pings());

    // Without the kubelet it goes on, and is adopted.
    lab.ok(&["kill", "kubelet"]);
    assert!(pings());
    lab.ok(&["restart", "kubelet"]);
    let first = qemu(&uid);
    assert_eq!((first.len(), field(&lab, "vm", ".status.containerStatuses[0].restartCount").as_str()), (1, "0"));

    // A dead QEMU is a dead container.
    first[0].signal(Signal::KILL).unwrap();
    lab.kubectl(&["wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/vm", "--timeout=20s"]);
    ready(&lab, &["vm"]);
    assert_eq!((identity(), field(&lab, "vm", ".status.podIP")), (before, address.clone()));
    assert!(pings());
    // And so is a dead monitor, which leaves QEMU behind.
    let monitor = process::with_environment(&format!("FERROVIA_POD={uid}"));
    Process::open(monitor[0]).unwrap().signal(Signal::KILL).unwrap();
    lab.kubectl(&["wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=2", "pod/vm", "--timeout=20s"]);
    ready(&lab, &["vm"]);
    assert!(pings() && qemu(&uid).len() == 1);

    // Asked to end, the command may take its time; its last words are in the log.
    let log = lab.folder().join("node1/pods").join(format!("{uid}-c.log"));
    let mut kept = std::fs::File::open(&log).unwrap();
    let started = Instant::now();
    lab.kubectl(&["delete", "pod", "vm", "--wait=true", "--timeout=25s"]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut kept, &mut said).unwrap();
    assert!(said.starts_with("here\n") && said.ends_with("asked\n"), "{said}");
    assert_eq!((qemu(&uid).len(), process::with_environment(&format!("FERROVIA_POD={uid}"))), (0, Vec::new()));
    let netns = linux::netns::list().unwrap();
    assert!(!netns.contains(&lab.layout().name().pod_netns(&uid)), "{netns:?}");
    let files: Vec<_> = std::fs::read_dir(lab.folder().join("node1/pods")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(files.iter().all(|file| !file.to_string_lossy().contains(&uid)), "{files:?}");
    let ports = lab.ok(&["node", "node1", "--", "ovs-vsctl", "--columns=external_ids", "list", "interface"]);
    assert!(!ports.contains("vm.default") && ports.contains("pod.default"), "{ports}");

    // A command that does not end when asked is ended with its guest, and one that ends by itself ends the machine.
    let deaf = json!({ "command": ["sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"], "terminationGracePeriodSeconds": 1 });
    let brief = json!({ "command": ["sh", "-c", "echo done; exit 4"], "restartPolicy": "Never" });
    apply(&lab, &[machine("deaf", "node1", &deaf), machine("brief", "node1", &brief)]);
    ready(&lab, &["deaf"]);
    lab.kubectl(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/brief", BOOT]);
    assert_eq!(field(&lab, "brief", ".status.containerStatuses[0].state.terminated.exitCode"), "4");
    let uids = ["deaf", "brief"].map(|pod| field(&lab, pod, ".metadata.uid"));
    assert_eq!(qemu(&uids[1]).len(), 0);
    lab.kubectl(&["delete", "pod", "deaf", "brief", "--wait=true", "--timeout=10s"]);
    assert!(uids.iter().all(|uid| qemu(uid).is_empty()));
    lab.down();
}

#[test]
fn what_cannot_be_a_machine_says_why() {
    let lab = Lab::up(&["--nodes", "1"]);
    let mut two = machine("two", "node1", &json!({}));
    two["spec"]["containers"].as_array_mut().unwrap().push(json!({ "name": "d", "image": "none" }));
    apply(&lab, &[two, machine("host", "node1", &json!({ "hostNetwork": true }))]);
    let why = |pod: &str, reason: &str| {
        lab.kubectl(&[
            "wait",
            r"--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=InvalidMachine",
            &format!("pod/{pod}"),
            "--timeout=10s",
        ]);
        let events = lab.events("Pod", pod);
        assert!(events.contains(reason), "{pod}: {events}");
    };
    why("two", "a virtual machine has one container, and this pod has 2");
    why("host", "a virtual machine cannot use its node's network");
    lab.kubectl(&["delete", "pod", "two", "host", "--wait=true", "--timeout=10s"]);

    // Where the image is missing, what to do is said.
    let file = lab.folder().join("lab.json");
    let mut parameters: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    parameters["guest"] = json!("/nowhere");
    std::fs::write(&file, parameters.to_string()).unwrap();
    lab.ok(&["restart", "kubelet"]);
    apply(&lab, &[machine("vm", "node1", &json!({ "restartPolicy": "Never" }))]);
    lab.kubectl(&["wait", "--for=jsonpath={.status.phase}=Failed", "pod/vm", "--timeout=20s"]);
    let events = lab.events("Pod", "vm");
    assert!(events.contains("container c: virtual machines need the guest's kernel in /nowhere: `make setup` puts it there"), "{events}");
    lab.down();
}
