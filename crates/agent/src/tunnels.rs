//! Keeps the userspace datapath's knowledge of its tunnels' other ends.
//!
//! It sends nothing through a tunnel before it knows the MAC of the next hop, which it learns from answers that it sees pass, and
//! loses what comes first. So this asks the kernel to ask, whenever a tunnel is new, and again before the knowledge ages
//! (`tnl/neigh/aging` of ovs-vswitchd(8): 15 minutes). Kernel datapaths keep such packets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

const PERIOD: Duration = Duration::from_secs(300);

/// Runs until `shutdown`.
pub(crate) async fn keep(node: &Node, shutdown: &CancellationToken) {
    let mut switch = node.ovs.changes();
    let mut asked = BTreeSet::new();
    loop {
        switch.mark_unchanged();
        let peers = if node.ovs.is_ready() && node.ovs.is_userspace() { node.ovs.tunnel_peers() } else { BTreeSet::new() };
        for peer in peers.difference(&asked) {
            if let Err(error) = ask(node, *peer).await {
                tracing::warn!(%peer, %error, "the next hop of a tunnel cannot be asked for");
            }
        }
        asked = peers;
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = switch.changed() => {}
            () = sleep(PERIOD) => asked.clear(),
        }
    }
}

async fn ask(node: &Node, peer: IpAddr) -> linux::Result<()> {
    let (device, via) = node.links.route_to(peer).await?;
    node.links.probe_neighbour(device, via.unwrap_or(peer)).await
}
