//! Bundles and a real `ovs-vswitchd`, with its dummy datapath: no kernel, no root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use openflow::{
    Action, Bundle, BundleId, Cookie, EtherType, FlowMod, Match, Message, Network, Next, Port, Priority, Refused, Reply, Table, Xid, decode,
};

/// A switch with the bridge `br`.
struct Switch {
    folder: tempfile::TempDir,
}

impl Switch {
    fn start() -> Self {
        let switch = Self { folder: tempfile::tempdir().unwrap() };
        let (database, socket) = (switch.path("conf.db"), switch.path("db.sock"));
        let (database, socket) = (database.to_str().unwrap(), socket.to_str().unwrap());
        switch.run("ovsdb-tool", &["create", database, "/usr/share/openvswitch/vswitch.ovsschema"]);
        // Both detach when they are ready.
        switch.daemon("ovsdb-server", &[&format!("--remote=punix:{socket}"), database]);
        switch.daemon("ovs-vswitchd", &["--disable-system", "--enable-dummy", &format!("unix:{socket}")]);
        let made = ["--timeout=20", "add-br", "br", "--", "set", "bridge", "br", "datapath_type=dummy", "fail_mode=secure"];
        switch.run("ovs-vsctl", &[&[format!("--db=unix:{socket}").as_str()], made.as_slice()].concat());
        switch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("OVS_RUNDIR", self.folder.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}; run `make setup`"));
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn daemon(&self, program: &str, arguments: &[&str]) {
        let option = |name: &str, extension: &str| format!("--{name}={}", self.path(&format!("{program}.{extension}")).display());
        let mut command = self.command(program);
        command.args(["--detach", "--no-chdir"]).args([option("pidfile", "pid"), option("unixctl", "ctl"), option("log-file", "log")]);
        // Not to be captured: what is detached would hold the pipe open.
        let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.unwrap_or_else(|error| panic!("{program}: {error}; run `make setup`"));
        let log = || std::fs::read_to_string(self.path(&format!("{program}.log"))).unwrap_or_default();
        assert!(status.success(), "{program} does not start: {}", log());
    }

    fn connect(&self) -> Connection {
        let stream = UnixStream::connect(self.path("br.mgmt")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut connection = Connection { stream, received: Vec::new() };
        connection.send(&Message::Hello.encode(Xid(0)).unwrap());
        assert_eq!(connection.receive().1, Reply::Hello { agreed: true });
        connection
    }

    /// The flows as `ovs-ofctl` shows them, sorted, without counters.
    fn flows(&self) -> Vec<String> {
        let target = format!("unix:{}", self.path("br.mgmt").display());
        let printed = self.run("ovs-ofctl", &["--protocols=OpenFlow14", "--no-stats", "dump-flows", &target]);
        let mut flows: Vec<_> = printed.lines().map(|line| line.trim().to_owned()).collect();
        flows.sort();
        flows
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for program in ["ovs-vswitchd", "ovsdb-server"] {
            let control = self.path(&format!("{program}.ctl"));
            let _ = self.command("ovs-appctl").arg("-t").arg(control).arg("exit").stderr(Stdio::null()).status();
        }
    }
}

struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn receive(&mut self) -> (Xid, Reply) {
        loop {
            if let Some((xid, reply, length)) = decode(&self.received).unwrap() {
                self.received.drain(..length);
                return (xid, reply);
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).expect("the switch says nothing");
            assert!(count > 0, "the switch closed the connection");
            self.received.extend_from_slice(&buffer[..count]);
        }
    }
}

impl Connection {
    fn apply(&mut self, id: BundleId, first: Xid, flows: Vec<FlowMod>) -> Result<(), Refused> {
        let (bytes, mut exchange) = Bundle { id, flows }.begin(first).unwrap();
        self.send(&bytes);
        loop {
            let (xid, reply) = self.receive();
            match exchange.receive(xid, &reply) {
                Next::Wait => {}
                Next::Send(bytes) => self.send(&bytes),
                Next::Done(result) => return result,
            }
        }
    }
}

fn to_host(priority: u16) -> FlowMod {
    let network = Network::Ipv4 { source: Some("10.16.0.0/16".parse().unwrap()), destination: None };
    let matching = Match { in_port: Some(Port::new(3).unwrap()), network, ..Match::default() };
    let actions = vec![Action::SetEthDst([2, 0, 0, 0, 0, 1]), Action::Output(Port::LOCAL)];
    FlowMod::add(Priority(priority), matching, actions).with_cookie(Cookie(7))
}

#[test]
fn a_committed_bundle_is_in_effect_when_its_reply_arrives() {
    let switch = Switch::start();
    let mut connection = switch.connect();
    let arp = Match { network: Network::Type(EtherType::ARP), ..Match::default() };
    let arp = FlowMod::add(Priority(50), arp, vec![Action::Output(Port::NORMAL)]);
    assert_eq!(connection.apply(BundleId(1), Xid(10), vec![to_host(100), arp]), Ok(()));
    assert_eq!(
        switch.flows(),
        [
            "cookie=0x7, priority=100,ip,in_port=3,nw_src=10.16.0.0/16 actions=set_field:02:00:00:00:00:01->eth_dst,LOCAL",
            "priority=50,arp actions=NORMAL",
        ]
    );

    // Ours are replaced by their cookie; the other flow stays.
    assert_eq!(connection.apply(BundleId(2), Xid(20), vec![FlowMod::delete_by_cookie(Cookie(7)), to_host(200)]), Ok(()));
    let flows = switch.flows();
    assert!(flows.len() == 2 && flows[0].contains("priority=200") && flows[1].contains("priority=50,arp"), "{flows:?}");
}

#[test]
fn what_others_do_to_flows_is_told_and_what_this_connection_does_is_not() {
    let switch = Switch::start();
    let mut connection = switch.connect();
    connection.send(&Message::WatchFlows.encode(Xid(5)).unwrap());
    assert_eq!(connection.receive(), (Xid(5), Reply::FlowsChanged(Vec::new())));
    assert_eq!(connection.apply(BundleId(1), Xid(10), vec![to_host(100), to_host(200).in_table(Table(3))]), Ok(()));
    let target = format!("unix:{}", switch.path("br.mgmt").display());
    let ofctl = |words: &[&str]| switch.run("ovs-ofctl", &[&["--protocols=OpenFlow14", words[0], &target], &words[1..]].concat());
    let mut told = || loop {
        match connection.receive().1 {
            Reply::FlowsChanged(cookies) if cookies.is_empty() => {}
            Reply::FlowsChanged(cookies) => return cookies,
            other => panic!("{other:?}"),
        }
    };
    ofctl(&["add-flow", "cookie=9,priority=5,arp,actions=drop"]);
    assert_eq!(told(), [Cookie(9)]);
    ofctl(&["del-flows", "table=3"]);
    assert_eq!(told(), [Cookie(7)]);
    ofctl(&["mod-flows", "ip,actions=drop"]);
    assert_eq!(told(), [Cookie(7)]);
}

#[test]
fn a_bundle_with_a_bad_flow_changes_nothing() {
    let switch = Switch::start();
    let mut connection = switch.connect();
    // Table 254 is the switch's own.
    let flows = vec![to_host(100), to_host(101).in_table(Table(254)), to_host(102)];
    let refused = connection.apply(BundleId(1), Xid(10), flows).unwrap_err();
    assert_eq!(refused.to_string(), "flow 1 of the bundle: the switch refused: BAD_REQUEST: EPERM");
    assert_eq!(switch.flows(), Vec::<String>::new());
    // The number is free again.
    assert_eq!(connection.apply(BundleId(1), Xid(20), vec![to_host(100)]), Ok(()));
    assert_eq!(switch.flows().len(), 1);
}
