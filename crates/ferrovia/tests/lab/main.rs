//! The whole path on real OVN and Open vSwitch: labs of network namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod addresses;
mod chaos;
mod harness;
mod load;
mod nics;
mod node;
mod offload;
mod vms;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::{Lab, counted, example, example_file};
use load::Pings;

/// What the example proves: reachability inside each VPC, none between two with the same addresses.
fn example_works(tunnel: &str) {
    let started = Instant::now();
    let lab = Lab::up(&["--nodes", "3", "--tunnel", tunnel, "-f", &example(), "--wait", "60s"]);
    let took = started.elapsed();
    println!("{tunnel}: lab up with the example is ready after {took:.1?}");
    assert!(took < Duration::from_secs(30), "{took:?}");

    let checks = lab.checked();
    let count = |kind: &str, expected: bool| {
        checks
            .iter()
            .filter(|c| {
                c["kind"] == kind && c["to"] != "gateway" && !c["to"].as_str().unwrap().starts_with("outside") && c["expected"] == expected
            })
            .count()
    };
    // Five pods in the default VPC and two in each of the others, every ordered pair, by every means.
    for kind in ["tcp", "udp", "icmp", "mtu", "transfer"] {
        assert!(count(kind, true) >= 24, "{kind}: {} pairs are expected to work", count(kind, true));
    }
    for kind in ["tcp", "udp", "icmp"] {
        assert!(count(kind, false) >= 48, "{kind}: {} pairs are expected not to work", count(kind, false));
    }
    // Same addresses in two VPCs.
    let address = |pod: &str, namespace: &str| lab.kubectl(&["get", "pod", pod, "-n", namespace, "-o", "jsonpath={.status.podIP}"]);
    assert_eq!(address("a", "blue"), address("a", "green"));
}

#[test]
fn pods_nodes_and_hosts_outside_reach_each_other_in_both_families() {
    for gateway in ["localnet", "join"] {
        let lab =
            Lab::up(&["--nodes", "3", "--dual-stack", "--gateway", gateway, "-f", &example_file("01-default-vpc.yaml"), "--wait", "60s"]);
        let checks = lab.checked();
        for to in ["node1", "outside1"] {
            let tried = checks.iter().filter(|c| c["to"] == to && c["address"].as_str().unwrap().contains(':') && c["observed"] == true);
            assert!(tried.count() >= 3, "{gateway}: {to}");
        }
    }
}

#[test]
fn the_example_works_over_geneve() {
    example_works("geneve");
}

#[test]
fn the_example_works_over_vxlan() {
    example_works("vxlan");
}

/// The header and the only row of a table of kubectl's, by columns; without the age.
fn row(table: &str) -> Vec<(String, String)> {
    let (header, row) = table.trim_end().split_once('\n').unwrap();
    let starts: Vec<usize> = header.match_indices(|c: char| !c.is_whitespace()).map(|(at, _)| at).collect();
    let starts: Vec<usize> = starts.iter().copied().filter(|at| *at == 0 || header[..*at].ends_with(' ')).collect();
    let cut = |line: &str, from: usize, to: Option<&usize>| {
        line.get(from..to.map_or(line.len(), |to| *to.min(&line.len()))).unwrap_or("").trim().to_owned()
    };
    let cells = starts.iter().enumerate().map(|(i, from)| (cut(header, *from, starts.get(i + 1)), cut(row, *from, starts.get(i + 1))));
    cells.filter(|(column, _)| column != "AGE").collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn kubectl_applies_gets_waits_and_deletes_and_is_told_what_is_wrong() {
    let lab = Lab::up(&["--nodes", "1"]);
    lab.apply(
        "
apiVersion: kubeovn.io/v1
kind: Vpc
metadata: {name: lake}
spec: {namespaces: [lake]}
---
apiVersion: v1
kind: Namespace
metadata: {name: lake}
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: lake}
spec: {vpc: lake, cidrBlock: 10.30.0.0/24, namespaces: [lake]}
---
apiVersion: v1
kind: Pod
metadata: {name: boat, namespace: lake}
spec: {containers: [{name: c, image: none}]}
",
    );
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/boat", "-n", "lake", "--timeout=30s"]);
    lab.kubectl(&["wait", "--for=condition=Ready", "subnet/lake", "--timeout=30s"]);
    assert_eq!(lab.kubectl(&["get", "pod", "boat", "-n", "lake", "-o", "jsonpath={.status.podIP}"]), "10.30.0.2");
    assert!(lab.kubectl(&["get", "subnet,vpc"]).contains("10.30.0.0/24"));
    // Columns as those who know the kinds expect them, and each field documented.
    lab.apply(
        "
apiVersion: kubeovn.io/v1
kind: IPPool
metadata: {name: pier}
spec: {subnet: lake, ips: [10.30.0.40..10.30.0.49]}
---
apiVersion: kubeovn.io/v1
kind: Vip
metadata: {name: buoy}
spec: {subnet: lake, v4ip: 10.30.0.9, macAddress: '02:00:00:00:00:09'}
",
    );
    lab.kubectl(&["wait", "--for=condition=Ready", "vip/buoy", "ippool/pier", "--timeout=30s"]);
    lab.kubectl(&["wait", "--for=jsonpath={.status.v4usingIPs}=2", "subnet/lake", "--timeout=30s"]);
    lab.kubectl(&["wait", "--for=create", "ip/boat.lake", "--timeout=30s"]);
    let mac = lab.kubectl(&["get", "pod", "boat", "-n", "lake", "-o", r"jsonpath={.metadata.annotations.ovn\.kubernetes\.io/mac_address}"]);
    for (object, columns) in [
        (
            "subnet/lake",
            vec![
                ("NAME", "lake"),
                ("PROVIDER", "ovn"),
                ("VPC", "lake"),
                ("VLAN", ""),
                ("PROTOCOL", "IPv4"),
                ("CIDR", "10.30.0.0/24"),
                ("PRIVATE", "false"),
                ("NAT", "false"),
                ("DEFAULT", "false"),
                ("GATEWAYTYPE", ""),
                ("V4USED", "2"),
                ("V4AVAILABLE", "251"),
                ("V6USED", "0"),
                ("V6AVAILABLE", "0"),
                ("EXCLUDEIPS", "[\"10.30.0.1\"]"),
                ("U2OINTERCONNECTIONIP", ""),
            ],
        ),
        (
            "ip/boat.lake",
            vec![("NAME", "boat.lake"), ("V4IP", "10.30.0.2"), ("V6IP", ""), ("MAC", &mac), ("NODE", "node1"), ("SUBNET", "lake")],
        ),
        (
            "ippool/pier",
            vec![
                ("NAME", "pier"),
                ("SUBNET", "lake"),
                ("ENABLEADDRESSSET", "false"),
                ("IPS", "[\"10.30.0.40..10.30.0.49\"]"),
                ("V4USED", "0"),
                ("V4AVAILABLE", "10"),
                ("V6USED", "0"),
                ("V6AVAILABLE", "0"),
            ],
        ),
        (
            "vip/buoy",
            vec![
                ("NAME", "buoy"),
                ("NAMESPACE", ""),
                ("V4IP", "10.30.0.9"),
                ("V6IP", ""),
                ("MAC", "02:00:00:00:00:09"),
                ("SUBNET", "lake"),
                ("TYPE", ""),
            ],
        ),
        (
            "vpc/lake",
            vec![
                ("NAME", "lake"),
                ("ENABLEEXTERNAL", ""),
                ("ENABLEBFD", ""),
                ("STANDBY", "true"),
                ("SUBNETS", "[\"lake\"]"),
                ("EXTRAEXTERNALSUBNETS", ""),
                ("NAMESPACES", "[\"lake\"]"),
                ("DEFAULTSUBNET", ""),
            ],
        ),
    ] {
        assert_eq!(row(&lab.kubectl(&["get", object])), owned(&columns), "{object}");
    }
    for (field, says) in [("subnet.spec.cidrBlock", "cidrBlock"), ("vip.spec.v4ip", "IPv4 address"), ("ippool.status", "status")] {
        let explained = lab.kubectl(&["explain", field]);
        assert!(explained.contains("DESCRIPTION") && explained.contains(says), "{explained}");
    }
    lab.kubectl(&["delete", "vip/buoy", "ippool/pier", "--timeout=30s"]);

    let subnet =
        |name: &str, spec: &str| format!("apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n");
    // What the schema can know is refused at admission, with the field and the reason.
    for (spec, field, reason) in [
        ("cidrBlock: 10.0.0.0/33", "spec.cidrBlock", "must be a CIDR"),
        ("cidrBlock: 10.40.0.0/24, gateway: 10.41.0.1", "spec.gateway", "must lie inside cidrBlock"),
        ("vpc: lake", "spec.cidrBlock", "cidrBlock is required"),
    ] {
        let refused = lab.apply_refused(&subnet("bad", spec));
        assert!(refused.contains(field) && refused.contains(reason), "{refused}");
    }
    // What only other objects can tell stands in the status and in an event.
    for (name, spec, reason) in [
        ("overlap", "vpc: lake, cidrBlock: 10.30.0.128/25", "overlaps with 10.30.0.0/24 of subnet \"lake\""),
        ("orphan", "vpc: nowhere, cidrBlock: 10.50.0.0/24", "VPC \"nowhere\" does not exist"),
    ] {
        lab.apply(&subnet(name, spec));
        lab.kubectl(&["wait", "--for=condition=Ready=False", &format!("subnet/{name}"), "--timeout=30s"]);
        let message = lab.kubectl(&["get", "subnet", name, "-o", "jsonpath={.status.conditions[0].message}"]);
        assert!(message.contains(reason), "{message}");
        let events = lab.kubectl(&["get", "events", "-A", "--field-selector", &format!("involvedObject.name={name}")]);
        assert!(events.contains("spec."), "{events}");
    }
    // Everything else goes on.
    lab.kubectl(&["delete", "subnet", "overlap", "orphan", "--timeout=30s"]);
    lab.kubectl(&["delete", "pod", "boat", "-n", "lake", "--timeout=30s"]);
    lab.kubectl(&["delete", "subnet", "lake", "--timeout=30s"]);
    lab.kubectl(&["delete", "vpc", "lake", "--timeout=30s"]);
    assert!(!lab.nb(&["show"]).contains("lake"));
}

#[test]
fn two_labs_run_side_by_side_and_deleting_everything_leaves_nothing() {
    let one = Lab::up(&["--nodes", "2", "-f", &example_file("02-vpc-blue.yaml")]);
    let two = Lab::up(&["--nodes", "2", "-f", &example_file("02-vpc-blue.yaml")]);
    for lab in [&one, &two] {
        lab.ok(&["check"]);
        // Things that are not ours, in the database and on a node.
        lab.nb(&["ls-add", "foreign"]);
        lab.ok(&["node", "node1", "--", "ip", "link", "add", "foreign0", "type", "bridge"]);
        lab.ok(&["node", "node1", "--", "ip", "route", "add", "blackhole", "198.51.100.0/24"]);
        lab.ok(&["node", "node1", "--", "nft", "add", "table", "inet", "foreign"]);
        lab.ok(&[
            "node",
            "node1",
            "--",
            "ovs-vsctl",
            "add-port",
            "br-int",
            "foreign1",
            "--",
            "set",
            "interface",
            "foreign1",
            "type=internal",
        ]);
        lab.kubectl(&["delete", "pod", "--all", "-A", "--timeout=60s"]);
        // The subnet of the nodes' ports waits for them, as any does for its pods.
        lab.kubectl(&["delete", "node", "--all", "--timeout=30s"]);
        lab.kubectl(&["delete", "subnet", "--all", "--timeout=30s"]);
        lab.kubectl(&["delete", "vpc", "--all", "--timeout=30s"]);
        lab.ok(&["restart", "agent@node1"]);
        for table in ["logical_switch", "logical_router", "logical_switch_port", "logical_router_port"] {
            let ours = lab.nb(&["--bare", "--columns=name", "find", table, "external_ids:vendor=kube-ovn"]);
            assert_eq!(ours.trim(), "", "{table}");
        }
        assert_eq!(lab.nb(&["--bare", "--columns=name", "list", "logical_switch"]).trim(), "foreign");
        for node in ["node1", "node2"] {
            let ports = lab.ok(&["node", node, "--", "ovs-vsctl", "list-ports", "br-int"]);
            // Tunnels and patch ports are `ovn-controller`'s, and `ovn0` the node's.
            let remains = |port: &str| ["ovn", "patch-", "foreign"].iter().any(|kind| port.starts_with(kind));
            assert!(ports.lines().all(remains), "{ports}");
            assert!(!lab.ok(&["node", node, "--", "ip", "-br", "link"]).contains("_h"));
        }
        let links = lab.ok(&["node", "node1", "--", "ip", "-br", "link"]);
        assert!(links.contains("foreign0") && links.contains("foreign1"), "{links}");
        assert!(lab.ok(&["node", "node1", "--", "ip", "route"]).contains("198.51.100.0/24"));
        assert!(lab.ok(&["node", "node1", "--", "nft", "list", "tables"]).contains("inet foreign"));
    }
    // The other one is as it was, while the first goes; then it goes too, although much of it was killed.
    let name = one.name().to_owned();
    one.down();
    assert!(!harness::left_over(&name), "namespaces, processes or files of lab {name} are left");
    assert!(two.ok(&["status"]).contains("node2"));
    for component in ["controller", "agent@node1", "ovs-vswitchd@node2", "nb", "ovn-controller@node1", "apiserver"] {
        two.ok(&["kill", component]);
    }
    let name = two.name().to_owned();
    two.down();
    assert!(!harness::left_over(&name), "namespaces, processes or files of lab {name} are left");
}

#[test]
fn killed_and_started_again_nothing_is_written_and_no_ping_is_lost() {
    let lab = Lab::up(&["--nodes", "2", "-f", &example_file("02-vpc-blue.yaml")]);
    // The first packet to a tunnel's peer is lost while Open vSwitch resolves its MAC in userspace: not what is asked here.
    lab.ok(&["check"]);
    let pings = Pings::start(&lab, &["-n", "blue", "a"], "192.168.10.12");
    let northbound = lab.writes("central", "nb");
    let switches = [lab.writes("node1", "db"), lab.writes("node2", "db")];
    let ports = lab.nb(&["show"]);
    for component in ["controller", "agent@node1", "agent@node2"] {
        lab.ok(&["kill", component]);
    }
    for component in ["controller", "agent@node1", "agent@node2"] {
        lab.ok(&["restart", component]);
    }
    // A refused subnet proves that the controller has looked at everything: it writes no row.
    lab.apply("apiVersion: kubeovn.io/v1\nkind: Subnet\nmetadata: {name: marker}\nspec: {vpc: nowhere, cidrBlock: 10.99.0.0/24}\n");
    lab.kubectl(&["wait", "--for=condition=Ready=False", "subnet/marker", "--timeout=30s"]);
    let answered = pings.stop();
    println!("{answered}");
    assert_eq!(answered.lost(), 0, "{answered}");
    assert_eq!(counted(northbound), 0, "northbound rows written by a restart");
    for node in switches {
        assert_eq!(counted(node), 0, "rows of a node's Open vSwitch written by a restart");
    }
    assert_eq!(lab.nb(&["show"]), ports);
    lab.ok(&["check"]);

    // The API server too: watches list again, and pods are served as before.
    lab.ok(&["kill", "apiserver"]);
    lab.ok(&["restart", "apiserver"]);
    lab.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: late, namespace: blue}\nspec: {containers: [{name: c, image: none}]}\n");
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/late", "-n", "blue", "--timeout=60s"]);
}

/// Sends bytes to a socket and returns what comes back before the peer hangs up. A server that has had enough may close
/// before it has read all: that resets the connection, and is an answer too.
fn exchange(socket: &Path, sent: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    let mut reply = Vec::new();
    match stream.read_to_end(&mut reply) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{sent:?}: {error}"),
        _ => String::from_utf8(reply).unwrap(),
    }
}

#[test]
fn garbage_on_the_agents_socket_is_answered_and_harms_nothing() {
    // With the programs of another root directory: this machine's own will do.
    let lab = Lab::up(&["--nodes", "1", "--ovn", "/"]);
    let socket = lab.folder().join("node1/agent.sock");
    let request = |headers: &str, body: &str| {
        format!("POST /cni HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    for (sent, answer) in [
        ("garbage\r\n\r\n".to_owned(), "400"),
        (request("", "{}"), "CNI_COMMAND is not set"),
        (request("CNI-COMMAND: ADD\r\n", "not json"), "network configuration"),
        (request("CNI-COMMAND: ADD\r\n", "{\"cniVersion\":\"0.1.0\"}"), "cniVersion"),
        (request("CNI-COMMAND: CHECK\r\n", "{\"cniVersion\":\"1.0.0\",\"name\":\"n\"}"), "prevResult"),
        (request("CNI-COMMAND: VERSION\r\n", "{\"cniVersion\":\"1.0.0\"}"), "supportedVersions"),
    ] {
        let reply = exchange(&socket, &sent);
        assert!(reply.contains(answer), "{sent:?}: {reply:?}");
    }
    // An ADD in a namespace that does not exist names it; nothing is left behind.
    let headers = "CNI-COMMAND: ADD\r\nCNI-CONTAINERID: 0123456789abcdef\r\nCNI-NETNS: /run/netns/nowhere\r\nCNI-IFNAME: eth0\r\nCNI-ARGS: K8S_POD_NAMESPACE=default;K8S_POD_NAME=x\r\n";
    let reply = exchange(&socket, &request(headers, "{\"cniVersion\":\"1.0.0\",\"name\":\"n\"}"));
    assert!(reply.contains("/run/netns/nowhere"), "{reply}");
    assert!(!lab.ok(&["node", "node1", "--", "ip", "-br", "link"]).contains("0123456789ab_h"));
    // And pods are still served.
    lab.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: fine, namespace: default}\nspec: {containers: [{name: c, image: none}]}\n");
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/fine", "--timeout=30s"]);
}

#[test]
fn a_trial_leaves_a_lab_that_is_up_alone() {
    let lab = Lab::up(&["--nodes", "1"]);
    let (_, stderr, code) = harness::ferrovia(&["lab", "trial", "--name", lab.name(), "-f", &example()]);
    assert!(stderr.contains("is up") && code == Some(1), "{code:?}: {stderr}");
    assert!(lab.ok(&["status"]).contains("node1"));
}

#[test]
fn what_is_not_there_yet_says_so() {
    for arguments in [&["lab", "up", "--kubeconfig", "nowhere"][..], &["status"], &["trace", "a", "b"]] {
        let (_, stderr, code) = harness::ferrovia(arguments);
        assert!(stderr.contains("not yet"), "{arguments:?}: {stderr}");
        assert_eq!(code, Some(2), "{arguments:?}");
    }
}
