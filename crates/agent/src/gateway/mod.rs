//! How the node's host stack and pods of the default VPC reach each other, and how pods leave by it: the node's own port `ovn0` in
//! the VPC; the bridge `br-ex` between OVN's egress switch and the host stack; and the translation of addresses. All of it
//! follows from the node's record and the VPC's subnets, and is put right when the kernel, the switch or the API server tell
//! that it differs.

mod exits;
mod external;
mod flows;
mod host;
mod rules;
mod session;

use std::net::IpAddr;
use std::time::Duration;

use api::annotations::NicRecord;
use api::{DEFAULT_VPC, EGRESS_NETWORK, Egress, Transit, egress_port};
use ipnet::IpNet;
use linux::{Event, Events, Subject};
use openflow::Port;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cluster::OwnNode;
use crate::node::Node;
use crate::ovs::{NodePort, OvsError};
pub(crate) use exits::{Exits, Source};
use host::Leads;
use session::{Session, SessionError};

/// Name of the gateway bridge.
pub(crate) const BRIDGE: &str = "br-ex";
/// Name of the node's own port, and of its link.
const PORT: &str = "ovn0";

/// From one look at all to the next.
const REST: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why the way out is not as it is to be.
#[derive(Debug, thiserror::Error)]
enum GatewayError {
    #[error(transparent)]
    Ovs(#[from] OvsError),
    #[error(transparent)]
    Linux(#[from] linux::Error),
    #[error("rules of our own cannot be read: {0}")]
    Rules(#[from] serde_json::Error),
    #[error("OpenFlow on {BRIDGE}: {0}")]
    Session(#[from] SessionError),
    #[error("pods leave under {0}, as the gatewayNode of their subnet says, and no link of this node has it: nothing comes back")]
    NotHere(IpAddr),
    #[error("externalEgressGateway {0} is on no network of this node: pods of its subnet leave by the node's own routes")]
    NoWay(IpAddr),
    #[error(
        "policyRoutingTableID {0} is another subnet's, which leaves by another next hop: that of externalEgressGateway {1} leaves by the node's own routes"
    )]
    TableTaken(u32, IpAddr),
    #[error("a subnet has the range {0}, in which this node's own address is: there is no way between the node and its pods")]
    OwnRange(IpNet),
}

/// What was done, and is not done again while nothing says that it is undone.
#[derive(Default)]
struct Done {
    session: Option<Session>,
    flows: Option<flows::Ports>,
    /// What is translated; none when the table is away.
    rules: Option<Option<Exits>>,
    /// Whether what a former agent made of the bridge was taken away.
    withdrawn: bool,
    /// By which links subnets leave to next hops of their own; `None` before it is known that there are no rules of ours.
    ways: Option<Vec<u32>>,
}

/// What of the switch and the cluster all this depends on. Pods come and go without changing it.
#[derive(PartialEq)]
struct View {
    /// Whether port, bridge and mapping are there; `None` without a switch.
    stands: Option<bool>,
    installed: bool,
    patches: Vec<Option<Port>>,
    exits: Option<Exits>,
    own: Option<OwnNode>,
}

impl View {
    fn of(node: &Node) -> Self {
        let own = node.cluster.own_node();
        let lacks = node.ovs.look().and_then(|()| {
            let bridge = match node.config.egress {
                Some(Egress::Localnet(_)) => node.ovs.gateway_lacks(BRIDGE, EGRESS_NETWORK, node.config.mtu)?,
                _ => Vec::new(),
            };
            let port = own.as_ref().and_then(|own| own.port.as_ref());
            let port = port.map(|record| node.ovs.node_port_lacks(&wanted(node, record))).transpose()?;
            Ok(bridge.is_empty() && port.is_none_or(|lacks| lacks.is_empty()))
        });
        let exits = node.cluster.exits();
        let others = exits.iter().flat_map(|exits| &exits.others).map(|other| patch(node, &other.vpc));
        let patches = std::iter::once(patch(node, DEFAULT_VPC)).chain(others).collect();
        Self { stands: lacks.ok(), installed: node.ovs.is_installed(PORT), patches, exits, own }
    }
}

/// The node's own port, as it is to be.
fn wanted(node: &Node, record: &NicRecord) -> NodePort {
    NodePort { link: PORT, iface_id: api::node_port(&node.config.node), mac: record.mac, mtu: node.config.mtu }
}

/// The patch port between `br-ex` and OVN's egress switch of a VPC. It comes with the first port on this node, and with another number
/// each time.
fn patch(node: &Node, vpc: &str) -> Option<Port> {
    node.ovs.number_of(&format!("patch-{}-to-br-int", egress_port(vpc)))
}

/// Links that an event is about by index, or, of the links themselves, by name.
#[derive(Default)]
struct Links(Vec<u32>);

impl Links {
    /// Whether an event is about one of our links. What becomes of those indices is followed.
    fn are_touched_by(&mut self, event: &Event, ways: &[u32]) -> bool {
        match event {
            Event::Rule => !ways.is_empty(),
            Event::Link(link) | Event::LinkGone(link) if ways.contains(&link.index) => true,
            Event::Route(index) if ways.contains(index) => true,
            Event::Link(link) | Event::LinkGone(link) if [BRIDGE, PORT].contains(&link.name.as_str()) => {
                self.0.retain(|index| *index != link.index);
                if matches!(event, Event::Link(_)) {
                    self.0.push(link.index);
                }
                true
            }
            // Whether the node has its own address matters, too; and pods' links have none.
            Event::Address(_) => true,
            Event::Route(index) => self.0.contains(index),
            _ => false,
        }
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(node: &Node, shutdown: &CancellationToken) {
    let (mut switch, mut cluster) = (node.ovs.changes(), node.cluster.changes());
    let mut done = Done::default();
    let mut pause = FIRST_PAUSE;
    'open: loop {
        let opened = Events::open(&node.netns, Subject::Addressing).and_then(|(_, events)| Ok((events, rules::changes(&node.netns)?)));
        let (mut events, mut table) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(%error, "links and rules of the node cannot be followed");
                return;
            }
        };
        let mut links = Links::default();
        for name in [BRIDGE, PORT] {
            links.0.extend(node.links.link(name).await.ok().flatten().map(|link| link.index));
        }
        loop {
            let began = Instant::now();
            switch.mark_unchanged();
            cluster.mark_unchanged();
            let seen = View::of(node);
            let again = match step(node, &mut done).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, ?pause, "the way in and out through this node; tried again");
                    // What is over at once, such as while the switch starts, is not told.
                    if pause > FIRST_PAUSE {
                        node.reporter.gateway(error.to_string());
                    }
                    let again = Instant::now() + pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    Some(again)
                }
            };
            // What failed is tried again after its pause, whatever happens meanwhile.
            let rested = again.unwrap_or(began + REST);
            let mut woken = again.is_some();
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = switch.changed() => woken |= View::of(node) != seen,
                    _ = cluster.changed() => woken |= View::of(node) != seen,
                    event = events.next() => match event {
                        Some(event) => woken |= links.are_touched_by(&event, done.ways.as_deref().unwrap_or_default()),
                        None => continue 'open,
                    },
                    taken = table.taken() => match taken {
                        Ok(()) => {
                            done.rules = None;
                            woken = true;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "rules of the node cannot be followed; opened anew");
                            continue 'open;
                        }
                    },
                    () = closed(&mut done.session) => {
                        // The switch is gone, and the flows with it.
                        (done.session, done.flows) = (None, None);
                        woken = true;
                    }
                    () = sleep_until(rested), if woken => break,
                }
            }
        }
    }
}

/// Resolves when the connection to the bridge ends; never without one.
async fn closed(session: &mut Option<Session>) {
    match session {
        Some(session) => session.closed().await,
        None => std::future::pending().await,
    }
}

/// Looks at all, and makes it what it is to be.
async fn step(node: &Node, done: &mut Done) -> Result<(), GatewayError> {
    // Nothing is moved for want of knowledge: routes that pass from one link to another and back would be noticed.
    let (Some(mut exits), Some(own)) = (node.cluster.exits(), node.cluster.own_node()) else { return Ok(()) };
    if node.ovs.look().is_err() {
        (done.session, done.flows) = (None, None);
        return Ok(());
    }
    let spared = exits.spare(&own.addresses);
    translate(node, &exits, done)?;
    // Each for itself: what keeps one from being made does not keep the other.
    let there: Vec<IpAddr> = node.links.addresses(None).await?.iter().map(|prefix| prefix.address()).collect();
    // The node's own addresses, as far as they are on its links: others are not the kernel's to speak from.
    let speaks: Vec<IpAddr> = own.addresses.iter().copied().filter(|address| there.contains(address)).collect();
    let port = own_port(node, &own, &exits, &speaks).await;
    match &node.config.egress {
        Some(Egress::Localnet(transit)) => {
            let leads = match &own.port {
                None => Leads::Yes,
                Some(_) if node.ovs.is_installed(PORT) => Leads::No,
                Some(_) => Leads::AsBefore,
            };
            let end = host::End::of_bridge(transit, &exits, leads).speaking_as(&speaks);
            bridge(node, &end, &exits, done).await?;
        }
        _ if !done.withdrawn => {
            // Addresses, neighbours and routes go with the bridge's link.
            if node.ovs.withdraw_gateway(BRIDGE, EGRESS_NETWORK).await? {
                tracing::info!(bridge = BRIDGE, "the gateway bridge is taken away");
            }
            done.withdrawn = true;
        }
        _ => {}
    }
    port?;
    let problem = leave_by_their_own(node, &exits, done).await?;
    if let Some(range) = spared {
        return Err(GatewayError::OwnRange(range));
    }
    if let Some(problem) = problem {
        return Err(problem);
    }
    if node.config.egress.is_none() {
        return Ok(());
    }
    match exits.under().find(|under| !there.contains(under)) {
        Some(missing) => Err(GatewayError::NotHere(missing)),
        None => Ok(()),
    }
}

/// Who leaves under the node's address.
fn translate(node: &Node, exits: &Exits, done: &mut Done) -> Result<(), GatewayError> {
    let wanted = node.config.egress.is_some().then_some(exits);
    if done.rules.as_ref().is_some_and(|done| done.as_ref() == wanted) {
        return Ok(());
    }
    match wanted {
        Some(exits) => {
            host::forward(node, exits)?;
            rules::install(&node.netns, exits)?;
            let (ranges, vpcs) = (exits.ranges().len(), exits.others.len() + 1);
            tracing::info!(ranges, vpcs, "what leaves through this node");
        }
        // Where there is no nft, there is no table.
        None => drop(rules::remove(&node.netns).inspect_err(|error| tracing::debug!(%error, "no table was taken away"))),
    }
    done.rules = Some(wanted.cloned());
    Ok(())
}

/// Ranges that leave by next hops of their own. Yields what keeps one from doing so.
async fn leave_by_their_own(node: &Node, exits: &Exits, done: &mut Done) -> Result<Option<GatewayError>, GatewayError> {
    let incoming = if matches!(node.config.egress, Some(Egress::Join)) { PORT } else { BRIDGE };
    let wanted: Vec<_> =
        exits.leaving().filter(|_| node.config.egress.is_some()).flat_map(|leaving| leaving.external.iter().copied()).collect();
    if wanted.is_empty() && done.ways.as_ref().is_some_and(Vec::is_empty) {
        return Ok(None);
    }
    let ways = external::apply(node, &wanted, incoming).await?;
    done.ways = Some(ways.links);
    Ok(ways.problem)
}

/// The node's own port in the VPC, and the host's end of it.
async fn own_port(node: &Node, own: &OwnNode, exits: &Exits, speaks: &[IpAddr]) -> Result<(), GatewayError> {
    let Some(record) = &own.port else { return Ok(()) };
    node.ovs.node_port(&wanted(node, record)).await?;
    // It comes when the switch has made it, and wakes this; nobody is sent there before OVN knows of it.
    let Some(link) = node.links.link(PORT).await? else { return Ok(()) };
    if node.ovs.is_installed(PORT) {
        host::connect(node, &link, &host::End::of_port(record, &exits.own).speaking_as(speaks)).await?;
    }
    Ok(())
}

/// The gateway bridge, its flows, and the host's end of it.
async fn bridge(node: &Node, end: &host::End, exits: &Exits, done: &mut Done) -> Result<(), GatewayError> {
    node.ovs.gateway(BRIDGE, EGRESS_NETWORK, node.config.mtu).await?;
    // The bridge's link comes when the switch has made it, and wakes this.
    let Some(link) = node.links.link(BRIDGE).await? else { return Ok(()) };
    host::accept_pods(node)?;
    host::connect(node, &link, end).await?;
    let Some(mac) = link.mac else { return Ok(()) };
    let others = exits.others.iter().map(|other| (other.vpc.as_str(), Transit::numbered_mac(other.link)));
    let routers = std::iter::once((DEFAULT_VPC, Transit::ROUTER_MAC)).chain(others);
    let routers: Vec<_> = routers.filter_map(|(vpc, mac)| Some((mac, patch(node, vpc)?))).collect();
    if routers.is_empty() {
        return Ok(());
    }
    let ports = flows::Ports { routers, mac };
    if done.flows.as_ref() == Some(&ports) {
        return Ok(());
    }
    if done.session.is_none() {
        done.session = Some(Session::open(&node.config.run, BRIDGE).await?);
    }
    if let Some(session) = &mut done.session {
        let applied = session.apply(flows::render(&ports)).await;
        if applied.is_err() {
            done.session = None;
        }
        applied?;
        tracing::info!(routers = ports.routers.len(), "flows of {BRIDGE} rendered");
        done.flows = Some(ports);
    }
    Ok(())
}

/// Whether both are of one family.
fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
