//! How the node's host stack and pods of the default VPC reach each other, and how pods leave by it: the node's own port `ovn0` in
//! the VPC; the bridge `br-ex` between OVN's egress switch and the host stack; and the translation of addresses. All of it
//! follows from the node's record and the VPC's subnets, and is put right when the kernel, the switch or the API server tell
//! that it differs.

mod exits;
mod external;
mod flows;
mod host;
mod neighbours;
mod rules;
mod session;
mod wire;

use std::net::IpAddr;
use std::time::Duration;

use api::annotations::NicRecord;
use api::{DEFAULT_VPC, EGRESS_NETWORK, Egress, Transit, egress_port};
use ipnet::IpNet;
use linux::{Changed, Event, Events, SettingChanges, Subject};
use openflow::Port;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cluster::OwnNode;
use crate::node::Node;
use crate::ovs::{NodePort, OvsError};
use crate::provider;
pub(crate) use exits::{Exits, Source};
use host::Leads;
use neighbours::{Asked, Found};
use session::{Loss, Session, SessionError};
use wire::Way;

/// Name of the gateway bridge.
pub(crate) const BRIDGE: &str = "br-ex";
/// Name of the node's own port, and of its link.
const PORT: &str = "ovn0";

/// From one look at all to the next.
const REST: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long what there is stays while it is not known how pods leave.
const HOLD: Duration = Duration::from_secs(5);

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
    #[error(
        "provider network {0}: pods leave by the host: its annotation {exit} names no gateway, and this node has no default route by {1}",
        exit = api::provider_network::EXIT
    )]
    NoWire(String, String),
    #[error("provider network {0}: pods leave by the host: gateway {gateways} does not answer", gateways = .1.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    SilentGateway(String, Vec<IpAddr>),
    #[error("provider network {0}: pods leave by the host: this node has ways of its own to {1} ranges")]
    TooManyRoutes(String, usize),
    #[error("pods leave by provider network {0}, which is older than {1}: annotation {exit}", exit = api::provider_network::EXIT)]
    SeveralWires(String, String),
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
    wire: Wired,
}

/// What was done for a way out past the host.
#[derive(Default)]
struct Wired {
    /// The connection to the bridge of the network by which pods leave.
    session: Option<(String, Session)>,
    /// What our flows there say; `None` while a former agent's may be there.
    says: Option<Option<wire::Wire>>,
    /// That bridge, whose link and routes count, as those of all links do.
    network: Option<String>,
    /// Since when it is not known how pods leave.
    unknown: Option<Instant>,
    /// Whether flows of the gateway bridge are this agent's own.
    rendered: bool,
    told: Option<String>,
}

/// What is asked of gateways, and answered.
struct Asks {
    wanted: watch::Sender<Option<Asked>>,
    found: watch::Receiver<Found>,
}

/// What of the switch and the cluster all this depends on. Pods come and go without changing it.
#[derive(PartialEq)]
struct View {
    /// Whether port, bridge and mapping are there; `None` without a switch.
    stands: Option<bool>,
    installed: bool,
    led: bool,
    patches: Vec<Option<Port>>,
    exits: Option<Exits>,
    own: Option<OwnNode>,
    wire: wire::Seen,
}

impl View {
    fn of(node: &Node) -> Self {
        let (own, exits) = (node.cluster.own_node(), node.cluster.exits());
        let lacks = node.ovs.look().and_then(|()| {
            let bridged = exits.as_ref().is_some_and(|exits| bridged(node, exits).is_some());
            let bridge = if bridged { node.ovs.gateway_lacks(BRIDGE, EGRESS_NETWORK, node.config.mtu)? } else { Vec::new() };
            let port = own.as_ref().and_then(|own| own.port.as_ref());
            let port = port.map(|record| node.ovs.node_port_lacks(&wanted(node, record))).transpose()?;
            Ok(bridge.is_empty() && port.is_none_or(|lacks| lacks.is_empty()))
        });
        let others = exits.iter().flat_map(|exits| &exits.others).map(|other| patch(node, &other.vpc));
        let patches = std::iter::once(patch(node, DEFAULT_VPC)).chain(others).collect();
        let (installed, led) = (node.ovs.is_installed(PORT), node.ovs.is_led_to(BRIDGE));
        Self { stands: lacks.ok(), installed, led, patches, exits, own, wire: wire::Seen::of(node) }
    }
}

/// The link between the gateway bridge and the default VPC, if there is to be one: pods leave by it, or those of subnets that leave by
/// chosen nodes, of which this may be one.
fn bridged(node: &Node, exits: &Exits) -> Option<Transit> {
    match &node.config.egress {
        Some(Egress::Localnet(transit)) => Some(transit.clone()),
        Some(Egress::Join) => exits.central.then(Transit::default),
        None => None,
    }
}

/// Whether all pods leave by the gateway bridge.
const fn by_bridge(node: &Node) -> bool {
    matches!(node.config.egress, Some(Egress::Localnet(_)))
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
    /// Whether a setting is one of ours: of one of our links, or of all links.
    fn has_setting(&self, index: i32) -> bool {
        u32::try_from(index).map_or(index == -1, |index| self.0.contains(&index))
    }

    /// Whether an event is about one of our links. What becomes of those indices is followed.
    fn are_touched_by(&mut self, event: &Event, ways: &[u32], network: Option<&str>) -> bool {
        match event {
            Event::Rule => !ways.is_empty(),
            // What the node has a way of its own to does not leave by the wire; and the network's link may be another one.
            Event::Route(_) | Event::RouteGone(_) if network.is_some() => true,
            Event::Link(link) | Event::LinkGone(link) if network == Some(link.name.as_str()) => true,
            Event::Link(link) | Event::LinkGone(link) if ways.contains(&link.index) => true,
            Event::Link(link) | Event::LinkGone(link) if [BRIDGE, PORT].contains(&link.name.as_str()) => {
                self.0.retain(|index| *index != link.index);
                if matches!(event, Event::Link(_)) {
                    self.0.push(link.index);
                }
                true
            }
            // Whether the node has its own address matters, too; and pods' links have none.
            Event::Address(_) => true,
            Event::Route(route) | Event::RouteGone(route) => {
                route.device.is_some_and(|index| ways.contains(&index) || self.0.contains(&index))
            }
            _ => false,
        }
    }
}

/// Runs until `shutdown`.
pub(crate) async fn run(node: &Node, shutdown: &CancellationToken) {
    let (wanted, asked) = watch::channel(None);
    let (answers, found) = watch::channel(Found::new());
    tokio::select! {
        () = follow(node, shutdown, Asks { wanted, found }) => {}
        () = neighbours::ask(&node.netns, asked, answers) => {}
    }
}

async fn follow(node: &Node, shutdown: &CancellationToken, mut asks: Asks) {
    let (mut switch, mut cluster) = (node.ovs.changes(), node.cluster.changes());
    let mut done = Done::default();
    let mut pause = FIRST_PAUSE;
    'open: loop {
        let opened = Events::open(&node.netns, Subject::Addressing)
            .and_then(|(_, events)| Ok((events, rules::changes(&node.netns)?, SettingChanges::open(&node.netns)?)));
        let (mut events, mut table, mut settings) = match opened {
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
            let again = match step(node, &mut asks, &mut done).await {
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
            let held = done.wire.unknown.map(|since| since + HOLD).filter(|at| *at > began);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = switch.changed() => woken |= View::of(node) != seen,
                    _ = cluster.changed() => woken |= View::of(node) != seen,
                    event = events.next() => match event {
                        Some(event) => woken |= links.are_touched_by(&event, done.ways.as_deref().unwrap_or_default(), done.wire.network.as_deref()),
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
                    changed = settings.next() => match changed {
                        Ok(Changed::Anything) => woken = true,
                        Ok(Changed::Of(indexes)) => woken |= indexes.iter().any(|index| links.has_setting(*index)),
                        Err(error) => {
                            tracing::warn!(%error, "settings of the node cannot be followed; opened anew");
                            continue 'open;
                        }
                    },
                    loss = lost(done.session.as_mut()) => {
                        if loss == Loss::Closed {
                            done.session = None;
                        }
                        done.flows = None;
                        woken = true;
                    }
                    loss = lost(done.wire.session.as_mut().map(|(_, session)| session)) => {
                        if loss == Loss::Closed {
                            done.wire.session = None;
                        }
                        done.wire.says = None;
                        woken = true;
                    }
                    answered = asks.found.changed() => woken |= answered.is_ok(),
                    () = sleep_until(held.unwrap_or(began)), if held.is_some() && !woken => woken = true,
                    () = sleep_until(rested), if woken => break,
                }
            }
        }
    }
}

/// Resolves when what was applied by a connection may be there no longer; never without one.
async fn lost(session: Option<&mut Session>) -> Loss {
    match session {
        Some(session) => {
            let loss = session.lost().await;
            if loss == Loss::Changed {
                tracing::warn!("somebody has changed flows of the way out; they are put back");
            }
            loss
        }
        None => std::future::pending().await,
    }
}

/// Looks at all, and makes it what it is to be.
async fn step(node: &Node, asks: &mut Asks, done: &mut Done) -> Result<(), GatewayError> {
    // Nothing is moved for want of knowledge: routes that pass from one link to another and back would be noticed.
    let (Some(mut exits), Some(own)) = (node.cluster.exits(), node.cluster.own_node()) else { return Ok(()) };
    if node.ovs.look().is_err() {
        (done.session, done.flows) = (None, None);
        (done.wire.session, done.wire.says) = (None, None);
        return Ok(());
    }
    let spared = exits.spare(&own.addresses);
    let forwards = host::forward(node, node.config.egress.is_some().then_some(&exits)).await;
    translate(node, &exits, done)?;
    // Each for itself: what keeps one from being made does not keep the other.
    let there: Vec<IpAddr> = node.links.addresses(None).await?.iter().map(|prefix| prefix.address()).collect();
    // The node's own addresses, as far as they are on its links: others are not the kernel's to speak from.
    let speaks: Vec<IpAddr> = own.addresses.iter().copied().filter(|address| there.contains(address)).collect();
    let port = own_port(node, &own, &exits, &speaks).await;
    match bridged(node, &exits) {
        Some(transit) => {
            let leads = match &own.port {
                None if by_bridge(node) => Leads::Yes,
                Some(_) if by_bridge(node) && !node.ovs.is_installed(PORT) => Leads::AsBefore,
                _ => Leads::No,
            };
            let end = host::End::of_bridge(&transit, &exits, leads).speaking_as(&speaks);
            done.withdrawn = false;
            bridge(node, (&transit, &end), &exits, asks, done).await?;
        }
        // Until OVN has policies by which nothing leaves by it.
        _ if matches!(node.config.egress, Some(Egress::Join)) && node.ovs.is_led_to(BRIDGE) => {}
        _ if !done.withdrawn => {
            forget(node, None, done).await?;
            node.ovs.patch(None).await?;
            // Addresses, neighbours and routes go with the bridge's link.
            (done.session, done.flows) = (None, None);
            if node.ovs.withdraw_gateway(BRIDGE, EGRESS_NETWORK).await? {
                tracing::info!(bridge = BRIDGE, "the gateway bridge is taken away");
            }
            done.withdrawn = true;
        }
        _ => {}
    }
    port?;
    node.settings.looked();
    forwards?;
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
    let externals = exits.leaving().filter(|_| node.config.egress.is_some()).flat_map(|leaving| leaving.external.iter().copied());
    let wanted: Vec<_> = externals.map(|external| (external, if by_bridge(node) || external.central { BRIDGE } else { PORT })).collect();
    if wanted.is_empty() && done.ways.as_ref().is_some_and(Vec::is_empty) {
        return Ok(None);
    }
    let ways = external::apply(node, &wanted).await?;
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
async fn bridge(
    node: &Node,
    (transit, end): (&Transit, &host::End),
    exits: &Exits,
    asks: &mut Asks,
    done: &mut Done,
) -> Result<(), GatewayError> {
    node.ovs.gateway(BRIDGE, EGRESS_NETWORK, node.config.mtu).await?;
    // The bridge's link comes when the switch has made it, and wakes this.
    let Some(link) = node.links.link(BRIDGE).await? else { return Ok(()) };
    host::accept_pods(node)?;
    host::connect(node, &link, end).await?;
    let Some(mac) = link.mac else { return Ok(()) };
    let others = exits.others.iter().map(|other| (other.vpc.as_str(), Transit::numbered_mac(other.link)));
    let routers = std::iter::once((DEFAULT_VPC, Transit::ROUTER_MAC)).chain(others);
    let routers: Vec<_> = routers.filter_map(|(vpc, mac)| Some((mac, patch(node, vpc)?))).collect();

    let found = asks.found.borrow_and_update().clone();
    let looked = wire::look(node, exits, &found).await?;
    let network = looked.patch.as_ref().map(|patch| patch.network.as_str());
    let is_known = !matches!(looked.way, Way::Unknown);
    let passed = is_known && node.ovs.patched().iter().any(|other| Some(other.as_str()) != network);
    if let Some(patch) = looked.patch.as_ref().filter(|_| !passed) {
        node.ovs.patch(Some(patch)).await?;
    }
    done.wire.network.clone_from(&looked.bridge);
    if is_known || looked.asked.is_some() {
        asks.wanted.send_if_modified(|wanted| {
            let differs = *wanted != looked.asked;
            wanted.clone_from(&looked.asked);
            differs
        });
    }
    // Nothing is changed for want of knowledge.
    let Some(mut way) = choose(node, looked.way, done) else { return Ok(()) };
    // From one network to another pods leave by the host.
    way = way.filter(|_| !passed);
    // What comes back is led to the router before anything leaves so, and as long as anything does.
    let led = match &way {
        Some(wire) => lead_back(node, &wire.bridge, Some(wire), done).await,
        None => Ok(()),
    };
    way = way.filter(|_| led.is_ok());
    let by_host = way.is_none();
    // With `join` nothing is for routers there: pods are reached by the node's own port.
    if !routers.is_empty() || !by_bridge(node) {
        let (link, discovery) = (transit.clone(), node.ovs.is_userspace());
        render(node, flows::Ports { routers, mac, link, discovery, wire: way }, done).await?;
    }
    led?;
    if by_host && let Some(patch) = &looked.patch {
        lead_back(node, &patch.bridges[1], None, done).await?;
    }
    if is_known && (passed || network.is_none()) {
        forget(node, network, done).await?;
        node.ovs.patch(looked.patch.as_ref()).await?;
    }
    Ok(())
}

/// How pods leave, as far as it is known, or has not been for too long; `None`: as until now. Tells what is not as it was asked for.
fn choose(node: &Node, way: Way, done: &mut Done) -> Option<Option<wire::Wire>> {
    let (way, problem) = match way {
        Way::Unknown => {
            let since = *done.wire.unknown.get_or_insert_with(Instant::now);
            // Those of a former agent may be there; a switch that was started again has none.
            let kept = !done.wire.rendered || done.flows.is_some();
            return (!kept || since.elapsed() >= HOLD).then_some(None);
        }
        Way::Host(problem) => (None, problem),
        Way::Wire(wire, problem) => (Some(wire), problem),
    };
    done.wire.unknown = None;
    let told = problem.map(|problem| problem.to_string());
    if done.wire.told != told {
        if let Some(told) = &told {
            tracing::warn!(told, "the way out by the wire");
            node.reporter.gateway(told.clone());
        }
        done.wire.told = told;
    }
    Some(way)
}

/// The flows of the gateway bridge.
async fn render(node: &Node, ports: flows::Ports, done: &mut Done) -> Result<(), GatewayError> {
    if done.flows.as_ref() == Some(&ports) {
        return Ok(());
    }
    if done.session.is_none() {
        done.session = Some(Session::open(&node.config.run, BRIDGE, None).await?);
    }
    if let Some(session) = &mut done.session {
        let applied = session.apply(flows::render(&ports)).await;
        if applied.is_err() {
            done.session = None;
        }
        applied?;
        tracing::info!(routers = ports.routers.len(), wire = ports.wire.is_some(), "flows of {BRIDGE} rendered");
        done.flows = Some(ports);
        done.wire.rendered = true;
    }
    Ok(())
}

/// Our flows in the bridge of the network by which pods leave, or none there.
async fn lead_back(node: &Node, bridge: &str, wire: Option<&wire::Wire>, done: &mut Done) -> Result<(), GatewayError> {
    let wired = &mut done.wire;
    if wired.session.as_ref().is_none_or(|(name, _)| name != bridge) {
        (wired.session, wired.says) = (None, None);
    }
    if wired.says.as_ref().is_some_and(|says| says.as_ref() == wire) {
        return Ok(());
    }
    let session = match &mut wired.session {
        Some((_, session)) => session,
        none => &mut none.insert((bridge.to_owned(), Session::open(&node.config.run, bridge, Some(flows::COOKIE)).await?)).1,
    };
    if let Err(error) = session.apply(flows::render_network(wire)).await {
        (wired.session, wired.says) = (None, None);
        return Err(error.into());
    }
    tracing::info!(bridge, wire = wire.is_some(), "flows of the network rendered");
    wired.says = Some(wire.cloned());
    Ok(())
}

/// Takes our flows out of the bridges of networks by which pods left, but for this one.
async fn forget(node: &Node, network: Option<&str>, done: &mut Done) -> Result<(), GatewayError> {
    for other in node.ovs.patched().into_iter().filter(|other| Some(other.as_str()) != network) {
        let names = provider::names(node, &other);
        // Flows go with their bridge.
        if let Some(names) = names.filter(|names| node.ovs.has_bridge(&names.bridge).unwrap_or(false)) {
            lead_back(node, &names.bridge, None, done).await?;
        }
        (done.wire.session, done.wire.says) = (None, None);
    }
    Ok(())
}

/// Whether both are of one family.
fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
