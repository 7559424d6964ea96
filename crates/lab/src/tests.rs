//! Labs with real OVS and OVN, without our own components: brought up, used, damaged and taken down.

use std::time::Duration;

use linux::process::Signal;
use linux::{Handle, IpPrefix, LinkChange, Mac, Netns, VethEnd, ethtool, netns, process};

use crate::probe::{Endpoint, Ping};
use crate::{Component, Datapath, Lab, LabName, Layout, Parameters, Place, Progress, State, Tunnel, down, labs};

/// A lab that goes down with the test.
struct Scratch {
    lab: Lab,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = down(&self.lab.layout);
    }
}

impl Scratch {
    /// Databases, `ovn-northd` and two nodes, with neither API server nor components of ours.
    async fn up(letter: char, tunnel: Tunnel) -> Self {
        let name: LabName = format!("t{letter}{:x}", std::process::id()).parse().unwrap();
        let layout = Layout::new(std::env::temp_dir().join(format!("fvt-labs-{}", std::process::id())), name);
        let program = std::env::current_exe().unwrap();
        let parameters = Parameters {
            nodes: 2,
            outside: 1,
            central: 1,
            supervised: false,
            controllers: 1,
            gateway: crate::Gateway::default(),
            dual_stack: false,
            tunnel,
            datapath: Datapath::Netdev,
            dpdk_nodes: Vec::new(),
            ovn: None,
            api_port: 0,
            program,
            guest: "none".into(),
        };
        let scratch = Self { lab: Lab::prepare(layout, parameters).unwrap() };
        scratch.lab.start_infrastructure(false, &Progress::new()).await.unwrap();
        scratch
    }

    fn nbctl(&self, words: &str) {
        let mut arguments = vec![format!("--db={}", self.lab.layout.remote(Place::CENTRAL, "nb"))];
        arguments.extend(words.split_whitespace().map(str::to_owned));
        self.lab.parameters.programs().run(None, "ovn-nbctl", &arguments).unwrap();
    }

    /// A port of logical switch `s`, connected by hand as the agent would.
    async fn port(&self, node: Place, last: u8) -> Netns {
        let (name, mac) = (format!("p{last}"), [2, 0, 0, 0, 0, last]);
        let pod = Netns::create(&self.lab.layout.name().pod_netns(&name)).unwrap();
        let host = Handle::open(&self.lab.layout.netns(node).unwrap()).unwrap();
        let far = VethEnd { name: "eth0", netns: Some(&pod), mac: Some(mac), mtu: Some(1400) };
        host.create_veth(&VethEnd { name: &name, mtu: Some(1400), ..VethEnd::default() }, &far).await.unwrap();
        let up = LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() };
        host.change(host.index(&name).await.unwrap(), up).await.unwrap();
        ethtool::disable_tx_checksums(&pod, "eth0").unwrap();
        let inside = Handle::open(&pod).unwrap();
        let eth0 = inside.index("eth0").await.unwrap();
        inside.set_up(eth0).await.unwrap();
        inside.add_address(eth0, IpPrefix::new([10, 16, 0, last].into(), 24).unwrap()).await.unwrap();
        self.nbctl(&format!("lsp-add s {name} -- lsp-set-addresses {name} {}", linux::display_mac(Mac::from(mac))));
        let db = format!("--db={}", self.lab.layout.remote(node, "db"));
        let words = format!("{db} add-port br-int {name} -- set interface {name} external_ids:iface-id={name}");
        self.lab.parameters.programs().run(None, "ovs-vsctl", &words.split(' ').collect::<Vec<_>>()).unwrap();
        pod
    }

    fn left(&self) -> (Vec<u32>, Vec<String>) {
        let name = self.lab.layout.name();
        let namespaces = netns::list().unwrap().into_iter().filter(|netns| name.owns(netns)).collect();
        (process::with_environment(&name.mark()), namespaces)
    }
}

async fn reaches(from: &Netns, to: &Netns, address: [u8; 4], bytes: usize, payload: usize) {
    let (from, to) = (Endpoint::open("from", from).unwrap(), Endpoint::open("to", to).unwrap());
    let patience = Duration::from_secs(15);
    let ping = Ping { seen_by: Some(&to), answered: true, payload };
    tokio::time::timeout(patience, from.ping(address.into(), ping)).await.expect("no reply").unwrap();
    tokio::time::timeout(patience, from.tcp(&to, address.into(), bytes)).await.expect("no transfer").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_two_nodes_reach_each_other_through_each_tunnel() {
    for (letter, tunnel, mtu) in [('g', Tunnel::Geneve, 1400), ('v', Tunnel::Vxlan, 1400)] {
        let scratch = Scratch::up(letter, tunnel).await;
        scratch.nbctl("ls-add s");
        let (one, two) = (scratch.port(Place::Node(1), 11).await, scratch.port(Place::Node(2), 12).await);
        scratch.nbctl("--wait=hv --timeout=20 sync");
        reaches(&one, &two, [10, 16, 0, 12], 10_000_000, mtu - 28).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_switch_gets_its_address_back() {
    let scratch = Scratch::up('r', Tunnel::Geneve).await;
    let layout = &scratch.lab.layout;
    let find = || Component::find(layout, "ovs-vswitchd@node1").unwrap();
    find().kill(layout).unwrap();
    assert_eq!(find().state(layout), State::Stopped);
    assert!(find().kill(layout).unwrap_err().to_string().contains("does not run"));
    scratch.lab.restart("ovs-vswitchd@node1").await.unwrap();
    assert!(matches!(find().state(layout), State::Running { .. }) && find().restarts == 1);
    let [one, two] = [1, 2].map(|node| layout.netns(Place::Node(node)).unwrap());
    reaches(&two, &one, [10, 9, 0, 11], 1000, 56).await;
    for (text, expected) in [("ovs-vswitchd", "runs in several places"), ("nonsense", "it has: nb, northd, ")] {
        let error = Component::find(layout, text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_lab_goes_down_entirely_and_its_neighbour_stays() {
    let (damaged, neighbour) = tokio::join!(Scratch::up('a', Tunnel::Geneve), Scratch::up('b', Tunnel::Vxlan));
    let layout = &damaged.lab.layout;
    for component in ["nb", "ovs-vswitchd@node1", "ovsdb@node2", "northd"] {
        let component = Component::find(layout, component).unwrap();
        component.process(layout).unwrap().signal(Signal::KILL).unwrap();
    }
    // What someone left running in a node's network, without our mark, in a session of its own, deaf to SIGTERM.
    let mut stray = std::process::Command::new("sh");
    stray.args(["-c", "trap '' TERM; while :; do sleep 1000; done"]);
    let mut stray = process::spawn(stray, Some(&layout.netns(Place::Node(1)).unwrap())).unwrap();
    std::fs::remove_dir_all(layout.folder().join("components")).unwrap();

    assert!(labs(layout.root()).unwrap().contains(layout.name()));
    assert!(!labs(&layout.root().join("other")).unwrap().contains(layout.name()), "who runs elsewhere is left alone");
    assert!(tokio::task::block_in_place(|| down(layout)).unwrap());
    assert_eq!(damaged.left(), (vec![], vec![]));
    assert!(!layout.folder().exists());
    assert!(stray.try_wait().unwrap().is_some(), "the stray process ended");
    assert!(!down(layout).unwrap(), "taking down what is not there does nothing");

    let layout = &neighbour.lab.layout;
    for component in Component::recorded(layout).unwrap() {
        let log = || std::fs::read_to_string(&component.log).unwrap_or_default();
        assert!(matches!(component.state(layout), State::Running { .. }), "{}@{}: {}", component.name, component.place, log());
    }
    let [one, two] = [1, 2].map(|node| layout.netns(Place::Node(node)).unwrap());
    reaches(&one, &two, [10, 9, 0, 12], 1000, 56).await;
    assert!(tokio::task::block_in_place(|| down(layout)).unwrap());
    assert_eq!(neighbour.left(), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_their_place_with_their_status() {
    let scratch = Scratch::up('c', Tunnel::Geneve).await;
    let sh = |place, script: &str| scratch.lab.run_in(place, &["sh".to_owned(), "-c".to_owned(), script.to_owned()]).unwrap();
    assert_eq!(sh(Place::CENTRAL, "ovn-nbctl show && ovn-sbctl show"), 0);
    assert_eq!(sh(Place::Node(1), "ovs-vsctl show | grep -q br-phy && ovs-appctl -t ovs-vswitchd version"), 0);
    assert_eq!(sh(Place::Outside(1), "ip -br addr show eth0 | grep -q 10.9.0.101/24"), 0);
    assert_eq!((sh(Place::Node(2), "exit 7"), sh(Place::Node(2), "kill -KILL $$")), (7, 128 + 9));
    let missing = scratch.lab.run_in(Place::Node(3), &["true".to_owned()]).unwrap_err();
    assert!(missing.to_string().contains("has no node3"), "{missing}");
}

#[test]
fn a_component_that_fails_says_where_to_look() {
    let name: LabName = format!("tf{:x}", std::process::id()).parse().unwrap();
    let layout = Layout::new(std::env::temp_dir().join(format!("fvt-fail-{}", std::process::id())), name.clone());
    let (central, supervised, tunnel, datapath) = (1, false, Tunnel::Geneve, Datapath::Netdev);
    let program = "/bin/false".into();
    let parameters = Parameters {
        nodes: 1,
        outside: 0,
        central,
        supervised,
        controllers: 1,
        gateway: crate::Gateway::default(),
        dual_stack: false,
        tunnel,
        datapath,
        dpdk_nodes: Vec::new(),
        ovn: None,
        api_port: 0,
        program,
        guest: "none".into(),
    };
    let scratch = Scratch { lab: Lab::prepare(layout, parameters).unwrap() };
    Netns::create(&name.netns(Place::Node(1)).unwrap()).unwrap();
    let component = scratch.lab.agent(Place::Node(1));
    std::fs::write(&component.log, "first\nno such database\n\n").unwrap();
    let error = format!("{:#}", component.start(&scratch.lab.layout).unwrap_err());
    assert!(error.starts_with("agent@node1 did not start; "), "{error}");
    assert!(error.contains("agent.log: no such database; look inside with `nsenter --net=/run/netns/fv-tf"), "{error}");
    assert!(error.ends_with("it ended with exit status: 1"), "{error}");
}
