//! What a packet of a pod passes on its way, hop by hop, from what is really configured: links of namespaces as the kernel has them,
//! and Open vSwitch's own trace of the packet (ovs-vswitchd(8), `ofproto/trace`). No packet is sent.

use std::fmt;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, bail};
use api::annotations::{IP_ADDRESS, LOGICAL_ROUTER, LOGICAL_SWITCH, MAC_ADDRESS, VIRTUAL_MACHINE};
use api::cidr::parse_addresses;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use linux::{Handle, Netns};
use serde::Serialize;

use crate::{Lab, Place};

/// What is passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// Where: a pod's namespace and name, or a node.
    pub place: String,
    /// What.
    pub kind: HopKind,
    /// Its name.
    pub name: String,
}

/// What handles a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HopKind {
    /// The link of a virtual machine that its process reads and writes.
    Tap,
    /// A bridge of the kernel.
    Bridge,
    /// A pair of links between a pod's namespace and its node.
    Veth,
    /// Memory that a virtual machine and Open vSwitch share.
    VhostUser,
    /// Open vSwitch.
    Switch,
    /// A tunnel to another node.
    Tunnel,
    /// The node's own stack: routes, nftables.
    Host,
    /// A link to the physical network.
    Nic,
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            HopKind::Tap => "tap",
            HopKind::Bridge => "bridge",
            HopKind::Veth => "veth",
            HopKind::VhostUser => "vhost-user",
            HopKind::Switch => "Open vSwitch",
            HopKind::Tunnel => "tunnel",
            HopKind::Host => "host stack",
            HopKind::Nic => "NIC",
        };
        write!(f, "{}: {kind}", self.place)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, " {}", self.name) }
    }
}

/// A pod, as far as its packets go.
struct End {
    pod: String,
    node: Place,
    uid: String,
    /// Name of its port in the node's switch.
    link: String,
    /// Whether that is a socket.
    is_socket: bool,
    mac: String,
    switch: String,
    router: Option<String>,
    addresses: Vec<IpAddr>,
}

/// Where a packet leaves Open vSwitch.
#[derive(Debug, PartialEq, Eq)]
struct Exit {
    /// The node at the other end, by its address.
    tunnel: Option<IpAddr>,
    /// Name of the port.
    port: String,
}

impl Lab {
    /// Reads a pod.
    fn end(&self, pod: &Pod) -> anyhow::Result<End> {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let key = format!("{namespace}/{name}");
        let note = |name: &str| pod.annotations().get(name).filter(|text| !text.is_empty()).cloned();
        let needed = |name: &str| note(name).with_context(|| format!("pod {key} has no annotation {name}; its events say why"));
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).with_context(|| format!("pod {key} is on no node"))?;
        let node: Place = node.parse().with_context(|| format!("pod {key}"))?;
        // In a subnet that gives MACs alone it has none.
        let shown = if note(MAC_ADDRESS).is_some() { note(IP_ADDRESS).unwrap_or_default() } else { needed(IP_ADDRESS)? };
        let addresses = parse_addresses(&shown).map_err(|why| anyhow::anyhow!("pod {key}: {IP_ADDRESS}: {why}"))?;
        let port = api::networks::port(&note(VIRTUAL_MACHINE).unwrap_or(name), &namespace, api::OVN_PROVIDER);
        let which = format!("external_ids:iface-id={port}");
        let shown = self.ask(node, "ovs-vsctl", &["--bare", "--columns=name,type", "find", "interface", &which])?;
        let mut lines = shown.lines().map(str::trim);
        let link = lines.next().filter(|link| !link.is_empty());
        Ok(End {
            link: link.with_context(|| format!("pod {key} has no port in Open vSwitch of {node}"))?.to_owned(),
            is_socket: lines.next() == Some("dpdkvhostuserclient"),
            node,
            uid: pod.uid().unwrap_or_default(),
            mac: needed(MAC_ADDRESS)?,
            switch: needed(LOGICAL_SWITCH)?,
            router: note(LOGICAL_ROUTER),
            addresses,
            pod: key,
        })
    }

    /// The way of an ICMP packet from a pod to an address, which may be a pod's, or to another pod of the namespace by its name.
    ///
    /// # Errors
    /// When there is no such pod, or the packet is dropped, which is said with the end of the switch's trace.
    pub async fn path(&self, namespace: &str, pod: &str, to: &str) -> anyhow::Result<Vec<Hop>> {
        let pods = Api::<Pod>::all(crate::cluster::client(&self.layout).await?).list(&ListParams::default()).await?.items;
        let named = |name: &str| pods.iter().find(|pod| pod.name_any() == name && pod.namespace().as_deref() == Some(namespace));
        let from = self.end(named(pod).with_context(|| format!("there is no pod {namespace}/{pod}"))?)?;
        let (target, to) = if let Ok(address) = to.parse::<IpAddr>() {
            let its = |pod: &&Pod| {
                pod.annotations().get(IP_ADDRESS).is_some_and(|text| parse_addresses(text).is_ok_and(|its| its.contains(&address)))
            };
            let in_vpc = |pod: &&Pod| pod.annotations().get(LOGICAL_ROUTER) == from.router.as_ref();
            (pods.iter().filter(in_vpc).find(its).map(|pod| self.end(pod)).transpose()?, address)
        } else {
            let target =
                self.end(named(to).with_context(|| format!("{to:?} is neither an address nor a pod of namespace {namespace}"))?)?;
            let address = target.addresses.first().copied();
            let address = address.with_context(|| format!("pod {} has no address", target.pod))?;
            (Some(target), address)
        };
        let source = from.addresses.iter().copied().find(|own| own.is_ipv4() == to.is_ipv4());
        let source = source.with_context(|| format!("pod {} has no address of the family of {to}", from.pod))?;

        let mut hops = self.inside(&from).await?;
        let next = match (&target, &from.router) {
            (Some(target), _) if target.switch == from.switch => target.mac.clone(),
            (_, Some(router)) => {
                let port = format!("{router}-{}", from.switch);
                let shown = self.ask(Place::CENTRAL, "ovn-nbctl", &["get", "logical_router_port", &port, "mac"])?;
                shown.trim().trim_matches('"').to_owned()
            }
            // A gateway of the physical network, of which the switch only knows that it is none of its own.
            (_, None) => "0e:fe:00:00:00:fe".to_owned(),
        };
        let (kind, family, asks) = if to.is_ipv4() { ("icmp", "nw", "icmp_type=8") } else { ("icmp6", "ipv6", "icmp_type=128") };
        let End { link, mac, .. } = &from;
        let packet = format!("in_port={link},{kind},dl_src={mac},dl_dst={next},{family}_src={source},{family}_dst={to},nw_ttl=64,{asks}");
        let trace = self.ask(from.node, "ovs-appctl", &["ofproto/trace", "--names", "br-int", &packet])?;
        let Some(exit) = exit(&trace) else {
            if actions(&trace).is_some_and(|actions| actions.contains("hash(") && actions.contains("recirc(")) {
                bail!("Open vSwitch of {} takes one of several ways by a hash of the packet, which its trace does not follow", from.node);
            }
            let last: Vec<&str> = trace.lines().rev().filter(|line| !line.trim().is_empty()).take(12).collect();
            bail!("Open vSwitch of {} drops it:\n{}", from.node, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        };
        self.leave(&from, target.as_ref(), to, &exit, &mut hops).await?;
        Ok(hops)
    }

    /// What comes after the switch of the pod's own node.
    async fn leave(&self, from: &End, target: Option<&End>, to: IpAddr, exit: &Exit, hops: &mut Vec<Hop>) -> anyhow::Result<()> {
        let hop = |place: &dyn fmt::Display, kind, name: &str| Hop { place: place.to_string(), kind, name: name.to_owned() };
        hops.push(hop(&from.node, HopKind::Switch, "br-int"));
        if let Some(end) = exit.tunnel {
            let node = self.parameters.node_places().find(|node| node.addresses().iter().any(|own| own.address() == end));
            let node = node.with_context(|| format!("the tunnel leads to {end}, which is no node"))?;
            hops.push(hop(&from.node, HopKind::Tunnel, &format!("to {node}")));
            // The kernel's datapath hands it to a link of tunnels, and that to the stack.
            let nic = if exit.port.contains("_sys_") { self.link_to(from.node, end).await? } else { exit.port.clone() };
            hops.push(hop(&from.node, HopKind::Nic, &nic));
            hops.push(hop(&node, HopKind::Switch, "br-int"));
            match target.filter(|target| target.node == node) {
                Some(target) => hops.extend(self.inside(target).await?.into_iter().rev()),
                // By the node's own port, or by its end of the way out.
                None => hops.push(hop(&node, HopKind::Host, "")),
            }
            return Ok(());
        }
        if let Some(target) = target.filter(|target| target.node == from.node && target.link == exit.port) {
            hops.extend(self.inside(target).await?.into_iter().rev());
            return Ok(());
        }
        let links = Handle::open(&self.layout.netns(from.node)?)?;
        if matches!(exit.port.as_str(), "br-ex" | "ovn0") {
            hops.push(hop(&from.node, HopKind::Host, &exit.port));
            let own = links.addresses(None).await?.iter().any(|own| own.address() == to);
            if !own {
                hops.push(hop(&from.node, HopKind::Nic, &self.link_to(from.node, to).await?));
            }
        } else {
            hops.push(hop(&from.node, HopKind::Nic, &exit.port));
        }
        Ok(())
    }

    /// The link by which a node reaches an address.
    async fn link_to(&self, node: Place, address: IpAddr) -> anyhow::Result<String> {
        let links = Handle::open(&self.layout.netns(node)?)?;
        let (index, _) = links.route_to(address).await?;
        let device = links.links().await?.into_iter().find(|link| link.index == index);
        Ok(device.map(|device| device.name).unwrap_or_default())
    }

    /// From a pod to its node's switch.
    async fn inside(&self, end: &End) -> anyhow::Result<Vec<Hop>> {
        let hop = |kind, name: &str| Hop { place: end.pod.clone(), kind, name: name.to_owned() };
        if end.is_socket {
            return Ok(vec![hop(HopKind::VhostUser, &end.link)]);
        }
        let netns = Netns::named(&self.layout.name().pod_netns(&end.uid)).with_context(|| format!("pod {} does not run", end.pod))?;
        let links = Handle::open(&netns)?.links().await?;
        let veth = links.iter().find(|link| link.name == "eth0").with_context(|| format!("pod {} has no link eth0", end.pod))?;
        let mut hops = Vec::new();
        if let Some(bridge) = links.iter().find(|link| Some(link.index) == veth.master) {
            let tap = links.iter().find(|link| link.master == Some(bridge.index) && link.index != veth.index);
            hops.extend(tap.map(|tap| hop(HopKind::Tap, &tap.name)));
            hops.push(hop(HopKind::Bridge, &bridge.name));
        }
        hops.push(hop(HopKind::Veth, &veth.name));
        Ok(hops)
    }

    /// What a program of OVS or OVN prints in a place; blocks for as long as it takes, which is short.
    fn ask(&self, place: Place, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment(place));
        let output = self.layout.netns(place)?.run(|| command.output())?.with_context(|| format!("cannot run {program}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What the datapath is told to do at the end of a trace.
fn actions(trace: &str) -> Option<&str> {
    trace.lines().filter_map(|line| line.strip_prefix("Datapath actions: ")).next_back()
}

/// Where a traced packet leaves: the last of the datapath's actions that is a port.
fn exit(trace: &str) -> Option<Exit> {
    let actions = actions(trace)?;
    // Where a router looks at its length, the packet is one that is not too long.
    let actions = actions.rfind(",le(").map_or(actions, |at| actions[at + 4..].trim_end_matches("))"));
    let port = elements(actions).into_iter().rfind(|action| !action.contains('('))?;
    if port == "drop" {
        return None;
    }
    // `tnl_push(… ipv4(src=…,dst=ADDRESS,…` of the userspace datapath, `set(tunnel(…,dst=ADDRESS,…` of the kernel's.
    let tunnel = actions.find("tnl_push(").or_else(|| actions.find("set(tunnel(")).map(|at| &actions[at..]);
    let outer = tunnel.map(|text| text.find("ipv4(").or_else(|| text.find("ipv6(")).map_or(text, |at| &text[at..]));
    let end = |key: &str| {
        let text = outer?.split_once(key)?.1;
        text.split([',', ')']).next()?.parse().ok()
    };
    Some(Exit { tunnel: end("dst=").or_else(|| end("ipv6_dst=")), port: port.to_owned() })
}

/// Elements of a list, without those inside parentheses.
fn elements(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0_u32, 0, Vec::new());
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_trace_says_where_a_packet_leaves() {
        let of = |actions: &str| {
            exit(&format!("Flow: icmp\n\nbridge(\"br-int\")\nDatapath actions: ct,recirc(0x1)\nDatapath actions: {actions}\n"))
        };
        let at = |port: &str, tunnel: Option<&str>| Some(Exit { port: port.to_owned(), tunnel: tunnel.map(|text| text.parse().unwrap()) });
        assert_eq!(of("56772bfd-70b_h"), at("56772bfd-70b_h", None));
        assert_eq!(of("set(eth(src=0e:fe:00:00:00:01,dst=c6:2d:58:b6:dc:51)),set(ipv4(ttl=63)),br-ex"), at("br-ex", None));
        assert_eq!(of("push_vlan(vid=100,pcp=0),eth1"), at("eth1", None));
        let looked_at =
            "set(ipv4(ttl=63)),check_pkt_len(size=1414,gt(userspace(pid=0,controller(reason=1))),le(set(eth(dst=02:00:00:00:00:01)),eth1))";
        assert_eq!(of(looked_at), at("eth1", None));
        let userspace = "set(ipv4(ttl=63)),tnl_push(tnl_port(genev_sys_6081),header(size=58,type=5,eth(dst=02:fe:0a:09:00:0c,src=02:fe:0a:09:00:0b,dl_type=0x0800),ipv4(src=10.9.0.11,dst=10.9.0.12,proto=17,tos=0,ttl=64,frag=0x4000),udp(src=0,dst=6081,csum=0xffff),geneve(crit,vni=0x2)),out_port(br-phy)),eth0";
        assert_eq!(of(userspace), at("eth0", Some("10.9.0.12")));
        let kernel = "set(tunnel(tun_id=0x2,dst=10.9.0.12,ttl=64,tp_dst=6081,geneve({class=0x102}),flags(df|csum|key))),genev_sys_6081";
        assert_eq!(of(kernel), at("genev_sys_6081", Some("10.9.0.12")));
        assert_eq!((of("drop"), of("set(ipv4(ttl=63)),hash(sym_l4(0)),recirc(0x2)")), (None, None));
    }
}
