//! Our bytes, as `ovs-ofctl ofp-print` reads them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use openflow::{
    Action, Bundle, BundleId, BundleStep, Command as Change, Cookie, EtherType, Field, FlowMod, Match, Message, Network, Port, Priority,
    Table, Xid,
};

const ROUTER: [u8; 6] = [0x0e, 0, 0, 0, 0, 1];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0xff];

/// What Open vSwitch makes of `bytes`.
fn print(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = Command::new("ovs-ofctl").args(["ofp-print", &hex]).output();
    let output = output.unwrap_or_else(|error| panic!("ovs-ofctl: {error}; run `make setup`"));
    assert!(output.status.success(), "ovs-ofctl ofp-print {hex}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn encoded(message: &Message) -> Vec<u8> {
    message.encode(Xid(0x1234)).unwrap()
}

fn flow(flow: FlowMod) -> String {
    print(&encoded(&Message::FlowMod(flow)))
}

fn range(text: &str) -> Option<ipnet::Ipv4Net> {
    Some(text.parse().unwrap())
}

#[test]
fn hello_offers_our_version_alone() {
    assert_eq!(print(&encoded(&Message::Hello)), "OFPT_HELLO (OF1.4) (xid=0x1234):\n version bitmap: 0x05");
}

#[test]
fn echo_and_barrier_are_read() {
    assert_eq!(print(&encoded(&Message::EchoRequest(Vec::new()))), "OFPT_ECHO_REQUEST (OF1.4) (xid=0x1234): 0 bytes of payload");
    assert_eq!(
        print(&encoded(&Message::EchoReply(vec![1, 2, 3]))).lines().next(),
        Some("OFPT_ECHO_REPLY (OF1.4) (xid=0x1234): 3 bytes of payload")
    );
    assert_eq!(print(&encoded(&Message::BarrierRequest)), "OFPT_BARRIER_REQUEST (OF1.4) (xid=0x1234):");
}

#[test]
fn flows_are_watched_in_all_tables() {
    let printed = print(&encoded(&Message::WatchFlows));
    assert_eq!(printed, "OFPST_FLOW_MONITOR request (OF1.4) (xid=0x1234):\n id=1 flags=add,delete,modify");
}

#[test]
fn a_flow_hands_packets_to_the_host() {
    let matching = Match { in_port: Some(Port::new(7).unwrap()), eth_dst: Some(ROUTER), ..Match::default() };
    let actions = vec![Action::SetEthDst(HOST), Action::SetEthSrc(ROUTER), Action::Output(Port::LOCAL)];
    let added = FlowMod::add(Priority(100), matching, actions).in_table(Table(3)).with_cookie(Cookie(0xfe));
    assert_eq!(
        flow(added),
        "OFPT_FLOW_MOD (OF1.4) (xid=0x1234): ADD table:3 priority=100,in_port=7,dl_dst=0e:00:00:00:00:01 cookie:0xfe \
         actions=set_field:02:00:00:00:00:ff->eth_dst,set_field:0e:00:00:00:00:01->eth_src,LOCAL"
    );
}

#[test]
fn ports_are_spelled_as_the_switch_spells_them() {
    for port in [Port::LOCAL, Port::IN_PORT, Port::NORMAL, Port::new(65279).unwrap()] {
        let action = if port == Port::new(65279).unwrap() { format!("output:{port}") } else { port.to_string() };
        let printed = flow(FlowMod::add(Priority(1), Match::default(), vec![Action::Output(port)]));
        assert_eq!(printed, format!("OFPT_FLOW_MOD (OF1.4) (xid=0x1234): ADD priority=1 actions={action}"));
    }
    let from_host = Match { in_port: Some(Port::LOCAL), ..Match::default() };
    assert_eq!(
        flow(FlowMod::add(Priority(1), from_host, Vec::new())),
        "OFPT_FLOW_MOD (OF1.4) (xid=0x1234): ADD priority=1,in_port=LOCAL actions=drop"
    );
}

#[test]
fn ranges_match_within_their_family_whatever_their_length() {
    let ip = |source, destination| {
        let matching = Match { network: Network::Ipv4 { source, destination }, ..Match::default() };
        flow(FlowMod::add(Priority(1), matching, Vec::new())).replace("OFPT_FLOW_MOD (OF1.4) (xid=0x1234): ADD priority=1,", "")
    };
    assert_eq!(ip(range("10.16.0.0/16"), range("10.17.0.20/32")), "ip,nw_src=10.16.0.0/16,nw_dst=10.17.0.20 actions=drop");
    // Bits of the host are left out, and the range of all addresses is no condition.
    assert_eq!(ip(range("10.16.3.4/16"), range("0.0.0.0/0")), "ip,nw_src=10.16.0.0/16 actions=drop");
    assert_eq!(ip(None, None), "ip actions=drop");
}

#[test]
fn packets_of_both_families_match_untagged_and_by_the_type_of_an_icmp_message() {
    let spelled =
        |matching| flow(FlowMod::add(Priority(1), matching, Vec::new())).replace("OFPT_FLOW_MOD (OF1.4) (xid=0x1234): ADD priority=1,", "");
    let net = |text: &str| Some(text.parse().unwrap());
    let v6 = Network::Ipv6 { source: net("fd00::5/64"), destination: net("fd01::7/128") };
    assert_eq!(spelled(Match { network: v6, ..Match::default() }), "ipv6,ipv6_src=fd00::/64,ipv6_dst=fd01::7 actions=drop");
    let untagged = Match { untagged: true, eth_dst: Some(HOST), network: v6, icmp: Some(2), ..Match::default() };
    assert_eq!(
        spelled(untagged),
        "icmp6,vlan_tci=0x0000/0x1fff,dl_dst=02:00:00:00:00:ff,ipv6_src=fd00::/64,ipv6_dst=fd01::7,icmp_type=2 actions=drop"
    );
    let v4 = Network::Ipv4 { source: None, destination: range("10.16.0.0/16") };
    let unreachable = Match { network: v4, icmp: Some(3), ..Match::default() };
    assert_eq!(spelled(unreachable), "icmp,nw_dst=10.16.0.0/16,icmp_type=3 actions=drop");
}

#[test]
fn the_source_of_a_packet_is_rewritten() {
    for (address, family) in [("192.0.2.7", EtherType::IPV4), ("fd00::7", EtherType::IPV6)] {
        let matching = Match { network: Network::Type(family), ..Match::default() };
        let actions = vec![Action::SetIpSrc(address.parse().unwrap()), Action::Output(Port::LOCAL)];
        let printed = flow(FlowMod::add(Priority(1), matching, actions));
        let field = if family == EtherType::IPV4 { "ip_src" } else { "ipv6_src" };
        assert!(printed.ends_with(&format!("actions=set_field:{address}->{field},LOCAL")), "{printed}");
    }
}

#[test]
fn questions_for_neighbours_are_answered_by_rewriting_them() {
    let target = Some(("169.254.128.2".parse().unwrap(), "255.255.128.3".parse().unwrap()));
    let ask = Match { network: Network::Arp { operation: 1, target }, ..Match::default() };
    let actions = vec![
        Action::SetArpOp(2),
        Action::Move(Field::ArpSha, Field::ArpTha),
        Action::SetArpSha(ROUTER),
        Action::Move(Field::ArpSpa, Field::Register),
        Action::Move(Field::ArpTpa, Field::ArpSpa),
    ];
    let printed = flow(FlowMod::add(Priority(1), ask, actions));
    let (matching, actions) = printed.split_once(" actions=").unwrap();
    assert!(matching.ends_with("priority=1,arp,arp_tpa=169.254.128.2/255.255.128.3,arp_op=1"), "{printed}");
    assert_eq!(
        actions,
        "set_field:2->arp_op,move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:0e:00:00:00:00:01->arp_sha,\
         move:NXM_OF_ARP_SPA[]->NXM_NX_REG0[],move:NXM_OF_ARP_TPA[]->NXM_OF_ARP_SPA[]"
    );
    let target = Some(("fd00::2".parse().unwrap(), "ffff:ffff::3".parse().unwrap()));
    let network = Network::Discovery { kind: 135, target };
    let actions =
        vec![Action::Move(Field::NdTarget, Field::Ipv6Src), Action::SetNdOption(2), Action::SetIcmpv6Type(136), Action::Resubmit(Table(1))];
    let printed = flow(FlowMod::add(Priority(1), Match { network, ..Match::default() }, actions));
    assert!(
        printed.ends_with(
            "icmp6,icmp_type=135,nd_target=fd00::2/ffff:ffff::3 actions=move:NXM_NX_ND_TARGET[]->NXM_NX_IPV6_SRC[],set_field:2->nd_options_type,\
             set_field:136->icmpv6_type,resubmit(,1)"
        ),
        "{printed}"
    );
    let actions = vec![Action::SetNdTll(HOST), Action::Output(Port::IN_PORT)];
    let network = Network::Discovery { kind: 136, target: None };
    let printed = flow(FlowMod::add(Priority(1), Match { network, ..Match::default() }, actions));
    assert!(printed.ends_with("icmp6,icmp_type=136 actions=set_field:02:00:00:00:00:ff->nd_tll,IN_PORT"), "{printed}");
}

#[test]
fn other_frames_match_by_their_type() {
    for (network, name) in [(Network::Type(EtherType::ARP), "arp"), (Network::Type(EtherType::IPV6), "ipv6"), (Network::Any, "")] {
        let matching = Match { eth_src: Some(HOST), network, ..Match::default() };
        let comma = if name.is_empty() { "" } else { "," };
        assert_eq!(
            flow(FlowMod::add(Priority(9), matching, vec![Action::Output(Port::NORMAL)])),
            format!("OFPT_FLOW_MOD (OF1.4) (xid=0x1234): ADD priority=9{comma}{name},dl_src=02:00:00:00:00:ff actions=NORMAL")
        );
    }
}

#[test]
fn flows_are_removed_by_cookie_and_one_by_one() {
    assert_eq!(
        flow(FlowMod::delete_by_cookie(Cookie(0xfe))),
        "OFPT_FLOW_MOD (OF1.4) (xid=0x1234): DEL table:255 priority=0 cookie:0xfe/0xffffffffffffffff actions=drop"
    );
    let one = FlowMod { command: Change::DeleteStrict, ..FlowMod::add(Priority(5), Match::default(), Vec::new()) };
    assert_eq!(flow(one), "OFPT_FLOW_MOD (OF1.4) (xid=0x1234): DEL_STRICT priority=5 actions=drop");
}

#[test]
fn every_step_of_a_bundle_is_read() {
    for (step, name) in [
        (BundleStep::Open, "OPEN_REQUEST"),
        (BundleStep::Close, "CLOSE_REQUEST"),
        (BundleStep::Commit, "COMMIT_REQUEST"),
        (BundleStep::Discard, "DISCARD_REQUEST"),
    ] {
        assert_eq!(
            print(&encoded(&Message::BundleControl(BundleId(9), step))),
            format!("OFPT_BUNDLE_CONTROL (OF1.4) (xid=0x1234):\n bundle_id=0x9 type={name} flags=atomic ordered")
        );
    }
}

#[test]
fn a_bundle_is_opened_filled_and_closed_with_rising_numbers() {
    let flows = vec![FlowMod::delete_by_cookie(Cookie(1)), FlowMod::add(Priority(5), Match::default(), vec![Action::Output(Port::LOCAL)])];
    let (bytes, _) = Bundle { id: BundleId(2), flows }.begin(Xid(0x10)).unwrap();
    let mut printed = Vec::new();
    let mut rest = bytes.as_slice();
    while let [_, _, high, low, ..] = *rest {
        let (message, after) = rest.split_at(usize::from(u16::from_be_bytes([high, low])));
        printed.push(print(message));
        rest = after;
    }
    assert_eq!(
        printed,
        [
            "OFPT_BUNDLE_CONTROL (OF1.4) (xid=0x10):\n bundle_id=0x2 type=OPEN_REQUEST flags=atomic ordered",
            "OFPT_BUNDLE_ADD_MESSAGE (OF1.4) (xid=0x11):\n bundle_id=0x2 flags=atomic ordered\nOFPT_FLOW_MOD (OF1.4) (xid=0x11): DEL \
             table:255 priority=0 cookie:0x1/0xffffffffffffffff actions=drop",
            "OFPT_BUNDLE_ADD_MESSAGE (OF1.4) (xid=0x12):\n bundle_id=0x2 flags=atomic ordered\nOFPT_FLOW_MOD (OF1.4) (xid=0x12): ADD \
             priority=5 actions=LOCAL",
            "OFPT_BUNDLE_CONTROL (OF1.4) (xid=0x13):\n bundle_id=0x2 type=CLOSE_REQUEST flags=atomic ordered",
        ]
    );
}

#[test]
fn names_of_errors_are_those_of_the_switch() {
    for (kind, code) in [(1, 5), (1, 9), (5, 1), (5, 3), (17, 2), (17, 13), (17, 15)] {
        let reply = openflow::ErrorReply { kind, code, data: Vec::new() };
        let mut bytes = vec![5, 1, 0, 12, 0, 0, 0, 1];
        bytes.extend([kind, code].map(u16::to_be_bytes).concat());
        let name = reply.names().1.unwrap();
        let printed = print(&bytes);
        assert!(printed.contains(name), "type {kind}, code {code}: {printed:?} does not contain {name}");
    }
}
