//! Virtual machines that move from node to node while they run.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::probe::Endpoint;
use linux::process::Signal;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{apply, container, field, inside, netns, qemu, ready};
use crate::harness::{Lab, ferrovia};

/// Between two echo requests, and two lines of a stream.
const PACE: Duration = Duration::from_millis(10);
/// What a migration may cost beyond what QEMU takes.
const BEYOND: i64 = 250;
const ROUNDS: usize = 10;

pub(super) fn instance(lab: &Lab, subnet: &str, further: &Value) {
    let mut annotations = json!({ "ovn.kubernetes.io/logical_switch": subnet });
    annotations.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    let vm = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": { "name": "vm", "namespace": "default", "annotations": annotations },
        "spec": { "nodeSelector": { "kubernetes.io/hostname": "node1" } },
    });
    apply(lab, &[vm]);
    lab.kubectl(&["wait", "--for=jsonpath={.status.nodeName}=node1", "vmi/vm", "--timeout=60s"]);
}

/// The pods that the machine has.
pub(super) fn pods(lab: &Lab) -> Vec<String> {
    let names = lab.kubectl(&["get", "pods", "-l", "kubevirt.io=virt-launcher", "-o", "jsonpath={.items[*].metadata.name}"]);
    names.split_whitespace().map(str::to_owned).collect()
}

pub(super) fn migrate(lab: &Lab, arguments: &[&str]) -> Result<Value, String> {
    let (out, errors, status) = ferrovia(&[&["lab", "migrate", "--name", lab.name(), "-o", "json"], arguments].concat());
    if status == Some(0) { Ok(serde_json::from_str(&out).unwrap()) } else { Err(errors) }
}

/// When each line of a stream came, all of which are there and in order.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Instant>>>);

impl Lines {
    /// Reads lines `0`, `1`, … until the stream ends.
    fn of(stream: impl std::io::Read + Send + 'static) -> (Self, JoinHandle<()>) {
        let lines = Self::default();
        let seen = lines.clone();
        let reader = std::thread::spawn(move || {
            for (number, line) in BufReader::new(stream).lines().enumerate() {
                let Ok(line) = line else { return };
                assert_eq!(line, number.to_string());
                seen.0.lock().unwrap().push(Instant::now());
            }
        });
        (lines, reader)
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap().last().unwrap()
    }

    /// The longest silence since `from`, in milliseconds.
    fn gap(&self, from: Instant) -> u128 {
        let times = self.0.lock().unwrap();
        let times: Vec<_> = times.iter().copied().filter(|time| *time >= from).chain([Instant::now()]).collect();
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).max().unwrap_or_default()
    }
}

/// A command in the machine, which goes on while that moves, and whose input does not end.
fn begin(lab: &Lab, pod: &str, command: &str) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ferrovia"));
    child.args(["lab", "exec", "--name", lab.name(), pod, "--", "sh", "-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped());
    child.spawn().unwrap()
}

/// Numbers, of which one comes each 10 ms, in the guest's shell.
const COUNT: &str = "i=0; while true; do echo $i; i=$((i+1)); usleep 10000; done";

/// Nothing happens in this time.
pub(super) fn pause(time: Duration) {
    let (_never, tick) = std::sync::mpsc::channel::<()>();
    let _ = tick.recv_timeout(time);
}

fn accepted(listener: &std::net::TcpListener) -> TcpStream {
    listener.accept().unwrap().0
}

/// Writes lines `0`, `1`, … until it is to stop; yields how many.
fn count(mut to: TcpStream, stop: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let stopped = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut number = 0;
        while !stopped.load(Ordering::Relaxed) {
            writeln!(to, "{number}").unwrap();
            number += 1;
            pause(PACE);
        }
        number
    })
}

#[test]
fn a_machine_moves_ten_times_and_its_streams_and_sessions_go_on() {
    moves(&["--nodes", "3"], ROUNDS, &json!({}), false);
}

#[test]
fn a_machine_with_policies_moves_ten_times_and_its_streams_go_on_also_when_they_are_tracked_again() {
    moves(&["--nodes", "3"], ROUNDS, &json!({}), true);
}

#[test]
fn a_machine_with_a_socket_moves_from_switch_to_switch_and_its_streams_and_sessions_go_on() {
    let by_socket = json!({ "v1.multus-cni.io/default-network": "default/socket" });
    moves(&["--nodes", "3", "--dpdk-nodes", "node1,node2"], 4, &by_socket, false);
}

/// NICs in the volume where KubeVirt has them.
const SOCKET: &str = r#"
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: socket, namespace: default}
spec: {config: '{"cniVersion":"1.1.0","type":"ferrovia","provider":"socket.default.ovn","vhost_user_socket_consumption":"kubevirt"}'}
"#;

/// What the machine may send, and be sent, as the northbound database says it.
fn restrict(lab: &Lab) {
    for (direction, priority, what, action) in [
        ("to-lport", "1000", "outport == \"vm.default\" && ip", "drop"),
        ("to-lport", "1001", "outport == \"vm.default\" && (icmp4 || tcp.dst == 8000)", "allow-related"),
        ("from-lport", "1000", "inport == \"vm.default\" && ip", "drop"),
        ("from-lport", "1001", "inport == \"vm.default\" && tcp.dst >= 32768", "allow-related"),
    ] {
        lab.nb(&["acl-add", "blue", direction, priority, what, action]);
    }
    lab.nb(&["--timeout=60", "--wait=hv", "sync"]);
}

fn moves(nodes: &[&str], rounds: usize, further: &Value, restricted: bool) {
    let lab = Lab::up(nodes);
    let networks = "
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: blue}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: blue}
spec: {vpc: blue, cidrBlock: 10.70.0.0/24}
";
    lab.apply(&[networks, SOCKET].concat());
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/blue", "--timeout=30s"]);
    let mut peer = container("peer", "node3");
    peer["metadata"]["annotations"] = json!({ "ovn.kubernetes.io/logical_switch": "blue" });
    apply(&lab, &[peer]);
    instance(&lab, "blue", further);
    ready(&lab, &["peer"]);
    if restricted {
        restrict(&lab);
    }
    let pod = pods(&lab).remove(0);
    let address = field(&lab, &pod, ".status.podIP");
    let identity = |pod: &str| inside(&lab, pod, &["sh", "-c", "cat /sys/class/net/eth0/address; ip -4 addr show eth0 | grep inet"]).0;
    let before = identity(&pod);
    assert!(before.contains(&address), "{before}");

    let uid = field(&lab, "peer", ".metadata.uid");
    let peer: IpAddr = field(&lab, "peer", ".status.podIP").parse().unwrap();
    let to: IpAddr = address.parse().unwrap();
    let listen = || netns(&lab, &uid).tcp_listener(SocketAddr::new(peer, 0)).unwrap();
    let connect = |port| netns(&lab, &uid).run(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), Duration::from_secs(1))).unwrap();
    // Up: what the machine writes to the pod. Down: what the pod writes, which the machine's session passes on. Served: what the machine
    // writes to a client.
    let (up, down) = (listen(), listen());
    let mut sender = begin(&lab, &pod, &format!("({COUNT}) | nc {peer} {}", up.local_addr().unwrap().port()));
    let (uploaded, reads) = Lines::of(accepted(&up));
    let mut receiver = begin(&lab, &pod, &format!("exec nc {peer} {}", down.local_addr().unwrap().port()));
    let (downloaded, hears) = Lines::of(receiver.stdout.take().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let writes = count(accepted(&down), &stop);
    let mut server = begin(&lab, &pod, &format!("({COUNT}) | nc -l -p 8000"));
    let client = (0..100).find_map(|_| connect(8000).inspect_err(|_| pause(PACE * 10)).ok()).expect("the machine serves");
    let (served, gets) = Lines::of(client);
    let silent = |from| {
        let [up, down, served] = [&uploaded, &downloaded, &served].map(|lines| lines.gap(from));
        format!("up silent for {up} ms, down for {down} ms, served for {served} ms")
    };

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let pinger = runtime.block_on(async { Arc::new(Endpoint::open(&uid, &netns(&lab, &uid)).unwrap()) });
    let mut beyond = Vec::new();
    for round in 0..rounds {
        let node = ["node2", "node1"][round % 2];
        let (done, is_done) = oneshot::channel::<()>();
        let pings = Arc::clone(&pinger);
        let pings = runtime.spawn(async move { pings.stream(to, PACE, async { drop(is_done.await) }).await.unwrap() });
        let begun = Instant::now();
        let moved = migrate(&lab, &["vm", node]).unwrap();
        done.send(()).unwrap();
        let pings = runtime.block_on(pings).unwrap();
        let downtime = moved["downtime"].as_i64().unwrap();
        println!(
            "{round}: to {node} in {} ms, memory {} ms, still for {downtime} ms; {pings}; {}",
            moved["total"],
            moved["memory"],
            silent(begun)
        );
        beyond.push(pings.gap.as_millis() as i64 - downtime);
        let now = pods(&lab);
        assert_eq!(now, [moved["pod"].as_str().unwrap()]);
        assert_eq!((field(&lab, &now[0], ".status.podIP"), field(&lab, &now[0], ".spec.nodeName")), (address.clone(), node.to_owned()));
    }
    if restricted {
        let begun = Instant::now();
        assert!(connect(8001).is_err(), "nobody may");
        let group = || lab.nb(&["--bare", "--columns=name", "find", "port_group", "name=migrating"]);
        while !group().trim().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(90));
            pause(PACE * 10);
        }
        lab.nb(&["--timeout=60", "--wait=hv", "sync"]);
        let tracked = Instant::now();
        let pings = runtime.block_on(async { pinger.stream(to, PACE, tokio::time::sleep(Duration::from_secs(2))).await.unwrap() });
        println!("tracked again after {:?}: {pings}; {}", tracked - begun, silent(tracked));
        assert!(connect(8001).is_err(), "nobody may");
    }
    // The same guest, as it was; and new sessions find it where it is.
    assert_eq!(identity(&pods(&lab)[0]), before);
    stop.store(true, Ordering::Relaxed);
    let written = writes.join().unwrap();
    assert_eq!([&mut sender, &mut server].map(|child| child.try_wait().unwrap()), [None, None]);
    hears.join().unwrap();
    assert_eq!(downloaded.count(), written);
    println!("{} lines up, {written} down, {} served, in order", uploaded.count(), served.count());
    for lines in [&uploaded, &served] {
        assert!(lines.last() > Instant::now() - Duration::from_secs(5), "a stream stands still");
    }
    for mut child in [sender, server, receiver] {
        let _ = child.kill();
        child.wait().unwrap();
    }
    [reads, gets].into_iter().for_each(|thread| thread.join().unwrap());
    let first = beyond[0];
    beyond.sort_unstable();
    println!("beyond QEMU's own: first {first} ms, median {} ms, longest {} ms", beyond[rounds / 2], beyond[rounds - 1]);
    assert!(beyond[rounds / 2] <= BEYOND, "{beyond:?}");
    assert!(first <= BEYOND.max(beyond[rounds - 1]), "{first}: {beyond:?}");
    lab.down();
}

#[test]
fn a_migration_that_is_called_off_or_fails_leaves_the_machine_where_it_was() {
    let lab = Lab::up(&["--nodes", "2"]);
    apply(&lab, &[container("pod", "node2")]);
    instance(&lab, "ovn-default", &json!({}));
    ready(&lab, &["pod"]);
    let pod = pods(&lab).remove(0);
    let address = field(&lab, &pod, ".status.podIP");
    let reached = || inside(&lab, "pod", &["ping", "-c", "3", "-i", "0.2", "-W", "2", &address]).2 == Some(0);
    assert!(reached());

    for (machine, node, why) in [
        ("nobody", "node2", "there is no virtual machine default/nobody"),
        ("pod", "node1", "pod default/pod is a container, and no virtual machine"),
        ("vm", "node1", "virtual machine default/vm runs on node1 already"),
        ("vm", "node9", "there is no node node9"),
    ] {
        let error = migrate(&lab, &[machine, node]).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let error = ferrovia(&["lab", "migrate", "--name", lab.name(), "--abort", "vm"]).1;
    assert!(error.contains("virtual machine default/vm does not migrate"), "{error}");

    let session = begin(&lab, &pod, COUNT);
    let mut session = session;
    let (lines, _reads) = Lines::of(session.stdout.take().unwrap());
    for way in ["aborted", "interrupted", "target killed"] {
        let begun = Instant::now();
        let mut slow = Command::new(env!("CARGO_BIN_EXE_ferrovia"));
        slow.args(["lab", "migrate", "--name", lab.name(), "--bandwidth", "1", "vm", "node2"]).stderr(Stdio::piped());
        let mut slow = slow.spawn().unwrap();
        lab.kubectl(&["wait", "--for=jsonpath={.status.migrationState.completed}=false", "vmi/vm", "--timeout=60s"]);
        let target = field_of_instance(&lab, ".status.migrationState.targetPod");
        match way {
            "aborted" => drop(lab.ok(&["migrate", "--abort", "vm"])),
            "interrupted" => linux::process::Process::open(slow.id()).unwrap().signal(Signal::INT).unwrap(),
            _ => qemu(&field(&lab, &target, ".metadata.uid"))[0].signal(Signal::KILL).unwrap(),
        }
        let mut why = String::new();
        slow.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        assert_eq!(slow.wait().unwrap().code(), Some(1), "{why}");
        assert!(why.contains("virtual machine default/vm stays on node1"), "{why}");
        println!("{way}: silent for {} ms; {}", lines.gap(begun), why.trim());
        assert_eq!(pods(&lab), [pod.as_str()], "nothing is left on the other node");
        assert!(reached() && lines.count() > 0);
    }
    // And then it may move after all.
    migrate(&lab, &["vm", "node2"]).unwrap();
    assert!(reached());
    session.kill().unwrap();
    session.wait().unwrap();
    lab.down();
}

fn field_of_instance(lab: &Lab, path: &str) -> String {
    lab.kubectl(&["get", "vmi", "vm", "-o", &format!("jsonpath={{{path}}}")])
}
