//! The flows of the gateway bridge, and ours in the bridge of the network by which pods leave without the host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::{MacAddr, Transit};
use ipnet::IpNet;
use openflow::{Action, Cookie, EtherType, Field, FlowMod, Match, Network, Port, Priority, Table};

use super::wire::{Family, Wire};

/// That a flow of a network's bridge is ours.
pub(super) const COOKIE: Cookie = Cookie(0xfe_0000_0001);

/// Messages that somebody on the way sends to a pod about its packets (RFC 792, RFC 4443): whatever way those took, they are the pod's.
const ERRORS_V4: [u8; 3] = [3, 11, 12];
const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];

/// Operations of ARP (RFC 826).
const ASK: u16 = 1;
const ANSWER: u16 = 2;

/// Messages of neighbour discovery, and the option that has the MAC of whom was asked for (RFC 4861 §4.3, §4.4, §4.6.1).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const TARGET_LINK: u8 = 2;

/// The table in which a question has become an answer.
const ANSWERS: Table = Table(1);

/// What the flows depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// MACs of the routers that leave by the bridge, each with the patch port by which the integration bridge has it.
    pub(super) routers: Vec<(MacAddr, Port)>,
    /// MAC of the bridge's own link.
    pub(super) mac: [u8; 6],
    /// The link to the router of the default VPC.
    pub(super) link: Transit,
    /// Whether the switch can answer neighbour discovery, which the kernel's datapath cannot: it does not set the type of an option, and
    /// then refuses the flow.
    pub(super) discovery: bool,
    /// The way past the host, if there is one.
    pub(super) wire: Option<Wire>,
}

/// All flows, in the place of whatever there is. What none of them is for is dropped: the node knows routers by permanent neighbours, and
/// routers the node by static bindings; where OVN has none of those, by asking.
pub(super) fn render(ports: &Ports) -> Vec<FlowMod> {
    let mut all = FlowMod::add(Priority(0), Match::default(), Vec::new()).in_table(Table::ALL);
    all.command = openflow::Command::Delete;
    let mut flows = vec![all];
    // Whichever switch of a way out it comes from: nodes that are gateways of subnets have some more.
    let to_host = || vec![Action::SetEthDst(ports.mac), Action::Output(Port::LOCAL)];
    for family in [EtherType::IPV4, EtherType::IPV6] {
        let matching = |in_port, eth_dst: MacAddr| Match {
            in_port,
            eth_dst: Some(eth_dst.octets()),
            network: Network::Type(family),
            ..Match::default()
        };
        flows.push(FlowMod::add(Priority(200), matching(None, Transit::NODE_MAC), to_host()));
        for (router, patch) in &ports.routers {
            let to_router = vec![Action::Output(*patch)];
            flows.push(FlowMod::add(Priority(200), matching(Some(Port::LOCAL), *router), to_router));
        }
    }
    answer(&ports.link, ports.discovery, &mut flows);
    if let Some(wire) = &ports.wire {
        past_the_host(wire, ports, &to_host(), &mut flows);
    }
    flows
}

/// A router that asks for the node's end of a link, by ARP (RFC 826) or neighbour discovery (RFC 4861), is told the same MAC on every node:
/// the southbound database remembers one answer for all of them. The host neither answers nor is it answered: it would take its
/// own addresses for another's.
fn answer(link: &Transit, discovers: bool, flows: &mut Vec<FlowMod>) {
    let node = Transit::NODE_MAC.octets();
    let ((v4, mask4), (v6, mask6)) = Transit::NUMBERED_NODES;
    let arp = |target| Match { network: Network::Arp { operation: ASK, target }, ..Match::default() };
    let discovery = |kind, target| Match { network: Network::Discovery { kind, target }, ..Match::default() };
    let mut asks = vec![arp(Some((v4, mask4))), discovery(SOLICITATION, Some((v6, mask6)))];
    asks.extend(link.node().iter().map(|end| match end.addr() {
        IpAddr::V4(address) => arp(Some((address, Ipv4Addr::BROADCAST))),
        IpAddr::V6(address) => discovery(SOLICITATION, Some((address, Ipv6Addr::from_bits(u128::MAX)))),
    }));
    let back = [Action::Move(Field::EthSrc, Field::EthDst), Action::SetEthSrc(node)];
    let by_arp = [
        Action::SetArpOp(ANSWER),
        Action::Move(Field::ArpSha, Field::ArpTha),
        Action::SetArpSha(node),
        Action::Move(Field::ArpSpa, Field::Register),
        Action::Move(Field::ArpTpa, Field::ArpSpa),
        Action::Move(Field::Register, Field::ArpTpa),
        Action::Output(Port::IN_PORT),
    ];
    let by_discovery = [
        Action::Move(Field::Ipv6Src, Field::Ipv6Dst),
        Action::Move(Field::NdTarget, Field::Ipv6Src),
        Action::SetNdOption(TARGET_LINK),
        Action::SetIcmpv6Type(ADVERTISEMENT),
        // The switch lets a flow set the MAC only of what matched as an answer.
        Action::Resubmit(ANSWERS),
    ];
    for matching in [arp(None), discovery(SOLICITATION, None)] {
        flows.push(FlowMod::add(Priority(110), Match { in_port: Some(Port::LOCAL), ..matching }, Vec::new()));
    }
    for matching in asks {
        let further = match matching.network {
            Network::Discovery { .. } if !discovers => continue,
            Network::Discovery { .. } => &by_discovery[..],
            _ => &by_arp,
        };
        flows.push(FlowMod::add(Priority(100), matching, [&back, further].concat()));
    }
    if discovers {
        let told = vec![Action::SetNdTll(node), Action::Output(Port::IN_PORT)];
        flows.push(FlowMod::add(Priority(100), discovery(ADVERTISEMENT, None), told).in_table(ANSWERS));
    }
}

/// In the gateway bridge.
fn past_the_host(wire: &Wire, ports: &Ports, to_host: &[Action], flows: &mut Vec<FlowMod>) {
    let from_wire = Match { in_port: Some(wire.here), ..Match::default() };
    flows.push(FlowMod::add(Priority(450), from_wire, Vec::new()));
    for (router, patch) in &ports.routers {
        for family in [EtherType::IPV4, EtherType::IPV6] {
            let matching = Match { eth_dst: Some(router.octets()), untagged: true, network: Network::Type(family), ..from_wire };
            flows.push(FlowMod::add(Priority(500), matching, vec![Action::Output(*patch)]));
        }
    }
    let to_node = Match { eth_dst: Some(Transit::NODE_MAC.octets()), ..Match::default() };
    for net in &wire.by_host {
        flows.push(FlowMod::add(Priority(400), Match { network: ip(None, Some(*net), *net), ..to_node }, to_host.to_vec()));
    }
    for Family { v4, gateway, own } in &wire.families {
        let out = [Action::SetEthSrc(wire.mac), Action::SetEthDst(*gateway), Action::Output(wire.here)];
        for router in &wire.routers {
            let of_router = Match { eth_src: Some(router.mac.octets()), ..to_node };
            for net in router.kept.iter().filter(|net| net.addr().is_ipv4() == *v4) {
                flows.push(FlowMod::add(Priority(300), Match { network: ip(Some(*net), None, *net), ..of_router }, out.to_vec()));
            }
            for end in router.ends.iter().filter(|end| end.is_ipv4() == *v4) {
                // What the router itself has to say of packets that came by the wire.
                let Some(own) = own else { continue };
                let (end, actions) = (IpNet::from(*end), std::iter::once(Action::SetIpSrc(*own)).chain(out));
                flows.push(FlowMod::add(Priority(300), Match { network: ip(Some(end), None, end), ..of_router }, actions.collect()));
            }
        }
    }
}

/// Our flows in the bridge of the network, in the place of those that are there; without a way out by it there are none. What none of them
/// is for is switched as ever. None of them switches, or it would learn addresses on wrong ports, but for what is the host's.
pub(super) fn render_network(wire: Option<&Wire>) -> Vec<FlowMod> {
    let mut flows = vec![FlowMod::delete_by_cookie(COOKIE)];
    let Some(wire) = wire else { return flows };
    let mut add = |priority, matching, actions| flows.push(FlowMod::add(Priority(priority), matching, actions).with_cookie(COOKIE));
    // Nobody but us sends to routers, nor by them to hosts.
    for mac in wire.routers.iter().map(|router| router.mac).chain([Transit::NODE_MAC]) {
        add(500, Match { eth_dst: Some(mac.octets()), ..Match::default() }, Vec::new());
    }
    add(450, Match { in_port: Some(wire.there), ..Match::default() }, vec![Action::Output(wire.nic)]);
    let to_node = Match { in_port: Some(wire.nic), eth_dst: Some(wire.mac), untagged: true, ..Match::default() };
    let leaves = |net: &IpNet| wire.families.iter().any(|family| family.v4 == net.addr().is_ipv4());
    for net in wire.by_host.iter().filter(|net| leaves(net)) {
        add(350, Match { network: ip(Some(*net), None, *net), ..to_node }, vec![Action::Output(Port::NORMAL)]);
    }
    for router in &wire.routers {
        for net in router.kept.iter().filter(|net| leaves(net)) {
            let network = ip(None, Some(*net), *net);
            let to_router = || vec![Action::SetEthDst(router.mac.octets()), Action::Output(wire.there)];
            let errors: &[u8] = if net.addr().is_ipv4() { &ERRORS_V4 } else { &ERRORS_V6 };
            for kind in errors {
                add(400, Match { network, icmp: Some(*kind), ..to_node }, to_router());
            }
            add(300, Match { network, ..to_node }, to_router());
        }
    }
    flows
}

/// From and to ranges of the family of a third.
fn ip(source: Option<IpNet>, destination: Option<IpNet>, family: IpNet) -> Network {
    let v4 = |net| if let Some(IpNet::V4(net)) = net { Some(net) } else { None };
    let v6 = |net| if let Some(IpNet::V6(net)) = net { Some(net) } else { None };
    match family.addr() {
        IpAddr::V4(_) => Network::Ipv4 { source: v4(source), destination: v4(destination) },
        IpAddr::V6(_) => Network::Ipv6 { source: v6(source), destination: v6(destination) },
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Router;
    use super::*;

    const HOST: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const NIC: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 3];

    fn port(number: i64) -> Port {
        Port::new(number).unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn wire() -> Wire {
        let router = |number: u16, kept: &str| Router {
            mac: Transit::numbered_mac(number),
            ends: vec![Transit::numbered(number).router()[0].addr()],
            kept: vec![net(kept)],
        };
        Wire {
            bridge: "br-net1".to_owned(),
            here: port(5),
            there: port(6),
            nic: port(7),
            mac: NIC,
            families: vec![Family { v4: true, gateway: GATEWAY, own: Some("172.30.0.11".parse().unwrap()) }],
            routers: vec![router(1, "10.91.0.0/24"), router(2, "10.93.0.0/24")],
            by_host: ["10.91.0.0/24", "10.92.0.0/24", "10.93.0.0/24", "172.30.0.0/24", "fd30::/64"].map(net).into(),
        }
    }

    /// A packet without a tag.
    struct Packet<'a> {
        port: Port,
        macs: [[u8; 6]; 2],
        addresses: [&'a str; 2],
        icmp: Option<u8>,
    }

    /// What the flow of the highest priority does with it.
    fn actions(flows: &[FlowMod], packet: &Packet<'_>) -> Vec<Action> {
        let [source, destination] = packet.addresses.map(|address| address.parse::<IpAddr>().unwrap());
        let within = |nets: [Option<IpNet>; 2]| {
            nets.iter().zip([source, destination]).all(|(net, address)| net.is_none_or(|net| net.contains(&address)))
        };
        let is_for = |matching: &Match| {
            let network = match matching.network {
                Network::Any => true,
                Network::Type(kind) => (kind == EtherType::IPV4) == source.is_ipv4(),
                Network::Ipv4 { source: s, destination: d } => source.is_ipv4() && within([s.map(IpNet::from), d.map(IpNet::from)]),
                Network::Ipv6 { source: s, destination: d } => source.is_ipv6() && within([s.map(IpNet::from), d.map(IpNet::from)]),
                Network::Arp { .. } | Network::Discovery { .. } => false,
            };
            network
                && matching.in_port.is_none_or(|port| port == packet.port)
                && matching.eth_src.is_none_or(|mac| mac == packet.macs[0])
                && matching.eth_dst.is_none_or(|mac| mac == packet.macs[1])
                && matching.icmp.is_none_or(|kind| packet.icmp == Some(kind))
        };
        let found = flows.iter().filter(|flow| flow.command == openflow::Command::Add && is_for(&flow.matching));
        let best = found.max_by_key(|flow| flow.priority);
        best.map(|flow| flow.actions.clone()).unwrap_or_default()
    }

    #[test]
    fn pods_leave_past_the_host_but_for_what_it_must_see() {
        let (one, two) = (Transit::numbered_mac(1).octets(), Transit::numbered_mac(2).octets());
        let ports = |wire| Ports {
            routers: vec![(Transit::numbered_mac(1), port(1)), (Transit::numbered_mac(2), port(2))],
            mac: HOST,
            link: Transit::default(),
            discovery: true,
            wire,
        };
        let flows = render(&ports(Some(wire())));
        let leaves = |flows: &[FlowMod], router, addresses| {
            actions(flows, &Packet { port: port(1), macs: [router, Transit::NODE_MAC.octets()], addresses, icmp: None })
        };
        let host = vec![Action::SetEthDst(HOST), Action::Output(Port::LOCAL)];
        let out = vec![Action::SetEthSrc(NIC), Action::SetEthDst(GATEWAY), Action::Output(port(5))];
        assert_eq!(leaves(&flows, one, ["10.91.0.2", "203.0.113.9"]), out);
        assert_eq!(leaves(&flows, two, ["10.93.0.2", "203.0.113.9"]), out);
        assert_eq!(leaves(&render(&ports(None)), one, ["10.91.0.2", "203.0.113.9"]), host);
        // Another subnet's, another VPC's address, another VPC, a host nearby, a family without a gateway.
        for (router, addresses) in [
            (one, ["10.92.0.2", "203.0.113.9"]),
            (two, ["10.91.0.2", "203.0.113.9"]),
            (one, ["10.91.0.2", "10.93.0.2"]),
            (one, ["10.91.0.2", "172.30.0.1"]),
            (one, ["fd91::2", "fd99::9"]),
        ] {
            assert_eq!(leaves(&flows, router, addresses), host, "{addresses:?}");
        }
        // What a router says leaves under the node's address.
        let end = Transit::numbered(1).router()[0].addr().to_string();
        let said = leaves(&flows, one, [&end, "203.0.113.9"]);
        assert_eq!(said[..2], [Action::SetIpSrc("172.30.0.11".parse().unwrap()), Action::SetEthSrc(NIC)]);
        // From the network comes only what is for a router.
        let comes =
            |to| actions(&flows, &Packet { port: port(5), macs: [GATEWAY, to], addresses: ["203.0.113.9", "10.91.0.2"], icmp: None });
        assert_eq!((comes(one), comes(Transit::NODE_MAC.octets())), (vec![Action::Output(port(1))], Vec::new()));
    }

    #[test]
    fn the_kernels_datapath_is_not_given_what_it_refuses() {
        let ports = |discovery| Ports { routers: Vec::new(), mac: HOST, link: Transit::default(), discovery, wire: None };
        let sets = |flows: Vec<FlowMod>| flows.iter().flat_map(|flow| &flow.actions).any(|action| matches!(action, Action::SetNdOption(_)));
        assert!(sets(render(&ports(true))) && !sets(render(&ports(false))));
    }

    #[test]
    fn what_comes_back_is_led_to_its_router_and_the_rest_is_the_hosts() {
        assert_eq!(render_network(None), [FlowMod::delete_by_cookie(COOKIE)]);
        let flows = render_network(Some(&wire()));
        assert!(flows.iter().all(|flow| flow.cookie == COOKIE));
        let comes = |addresses, icmp| actions(&flows, &Packet { port: port(7), macs: [GATEWAY, NIC], addresses, icmp });
        let led = |number| vec![Action::SetEthDst(Transit::numbered_mac(number).octets()), Action::Output(port(6))];
        assert_eq!(comes(["203.0.113.9", "10.91.0.2"], None), led(1));
        assert_eq!(comes(["203.0.113.9", "10.93.0.2"], None), led(2));
        // From a host nearby, and from a pod, by the host; but what is wrong with a packet is told to whoever sent it.
        let normal = vec![Action::Output(Port::NORMAL)];
        assert_eq!((comes(["172.30.0.1", "10.91.0.2"], None), comes(["10.93.0.2", "10.91.0.2"], None)), (normal.clone(), normal));
        assert_eq!(comes(["172.30.0.1", "10.91.0.2"], Some(3)), led(1));
        // Others are not touched: who leaves under the node's address, IPv6 without a gateway.
        assert_eq!((comes(["203.0.113.9", "10.92.0.2"], None), comes(["fd99::9", "fd91::2"], None)), (Vec::new(), Vec::new()));
        let from_pods = Packet { port: port(6), macs: [NIC, GATEWAY], addresses: ["10.91.0.2", "203.0.113.9"], icmp: None };
        assert_eq!(actions(&flows, &from_pods), [Action::Output(port(7))]);
        let to_router = Packet {
            port: port(7),
            macs: [GATEWAY, Transit::numbered_mac(1).octets()],
            addresses: ["203.0.113.9", "10.91.0.2"],
            icmp: None,
        };
        assert_eq!(actions(&flows, &to_router), []);
        let dropped = flows.iter().filter(|flow| flow.command == openflow::Command::Add && flow.actions.is_empty());
        assert_eq!(dropped.count(), 3, "two routers' MACs, and that of hosts");
    }
}
