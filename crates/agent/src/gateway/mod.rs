//! How pods leave through the node that they are on: the bridge `br-ex` between OVN's egress switch and the node's host stack, the
//! host's own end, and the translation of addresses. All of it follows from the subnets of the default VPC, and is put right
//! when the kernel, the switch or the API server tell that it differs.

mod exits;
mod flows;
mod host;
mod rules;
mod session;

use std::net::IpAddr;
use std::time::Duration;

use api::{DEFAULT_VPC, EGRESS_NETWORK, Transit, egress_port};
use linux::{Event, Events, Subject};
use openflow::Port;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::ovs::OvsError;
pub(crate) use exits::{Exception, Exits};
use session::{Session, SessionError};

/// Name of the gateway bridge.
pub(crate) const BRIDGE: &str = "br-ex";

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
}

/// What was done, and is not done again while nothing says that it is undone.
#[derive(Default)]
struct Done {
    session: Option<Session>,
    flows: Option<flows::Ports>,
    rules: Option<Exits>,
}

/// What of the switch and the cluster the way out depends on. Pods come and go without changing it.
#[derive(PartialEq)]
struct View {
    /// Whether bridge and mapping are there; `None` without a switch.
    stands: Option<bool>,
    patch: Option<Port>,
    exits: Option<Exits>,
}

impl View {
    fn of(node: &Node) -> Self {
        let lacks = node.ovs.look().and_then(|()| node.ovs.gateway_lacks(BRIDGE, EGRESS_NETWORK, node.config.mtu));
        Self { stands: lacks.ok().map(|lacks| lacks.is_empty()), patch: patch(node), exits: node.cluster.exits() }
    }
}

/// The patch port between `br-ex` and OVN's egress switch. It comes with the first port on this node, and with another number each time.
fn patch(node: &Node) -> Option<Port> {
    node.ovs.number_of(&format!("patch-{}-to-br-int", egress_port(DEFAULT_VPC)))
}

/// Whether an event of the kernel is about the bridge's own link.
fn is_of_bridge(event: &Event) -> bool {
    matches!(event, Event::Link(link) | Event::LinkGone(link) if link.name == BRIDGE)
}

/// Runs until `shutdown`.
pub(crate) async fn run(node: &Node, transit: &Transit, shutdown: &CancellationToken) {
    let (mut switch, mut cluster) = (node.ovs.changes(), node.cluster.changes());
    let mut done = Done::default();
    let mut pause = FIRST_PAUSE;
    'open: loop {
        let mut links = match Events::open(&node.netns, Subject::Links) {
            Ok((_, links)) => links,
            Err(error) => {
                tracing::error!(%error, "links of the node cannot be followed");
                return;
            }
        };
        loop {
            let began = Instant::now();
            switch.mark_unchanged();
            cluster.mark_unchanged();
            let seen = View::of(node);
            let again = match step(node, transit, &mut done).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, ?pause, "the way out through this node; tried again");
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
                    event = links.next() => match event {
                        Some(event) => woken |= is_of_bridge(&event),
                        None => continue 'open,
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

/// Takes away what a former agent made of it, once the switch is there.
pub(crate) async fn withdraw(node: &Node) {
    let withdrawn = async {
        node.ovs.ready(Duration::MAX).await?;
        if node.ovs.withdraw_gateway(BRIDGE, EGRESS_NETWORK).await? {
            // Addresses, neighbours and routes went with the bridge's link.
            rules::remove(&node.netns)?;
            tracing::info!(bridge = BRIDGE, "the way out through this node is taken away");
        }
        Ok::<(), GatewayError>(())
    };
    if let Err(error) = withdrawn.await {
        tracing::warn!(%error, "the former way out through this node cannot be taken away");
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
async fn step(node: &Node, transit: &Transit, done: &mut Done) -> Result<(), GatewayError> {
    let Some(exits) = node.cluster.exits() else { return Ok(()) };
    if node.ovs.look().is_err() {
        (done.session, done.flows) = (None, None);
        return Ok(());
    }
    node.ovs.gateway(BRIDGE, EGRESS_NETWORK, node.config.mtu).await?;
    if done.rules.as_ref() != Some(&exits) {
        rules::install(&node.netns, &exits)?;
        tracing::info!(ranges = exits.ranges.len(), translated = exits.translated.len(), "translation of addresses");
        done.rules = Some(exits.clone());
    }
    // The bridge's link comes when the switch has made it, and wakes this.
    let Some(link) = node.links.link(BRIDGE).await? else { return Ok(()) };
    host::connect(node, &link, transit, &exits).await?;
    let Some(mac) = link.mac else { return Ok(()) };
    let Some(patch) = patch(node) else { return Ok(()) };
    let ports = flows::Ports { patch, mac };
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
        tracing::info!(patch = %ports.patch, "flows of {BRIDGE} rendered");
        done.flows = Some(ports);
    }
    Ok(())
}

/// Whether both are of one family.
fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
