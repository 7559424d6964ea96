//! Which chassis of OVN the node is, told by an annotation of the node.

use std::time::Duration;

use api::annotations::CHASSIS;
use api::view::NodeView;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the annotation true until `shutdown`.
pub(crate) async fn tell(node: &Node, client: kube::Client, shutdown: &CancellationToken) {
    let nodes: Api<NodeView> = Api::all(client);
    let (mut switch, mut cluster) = (node.ovs.changes(), node.cluster.changes());
    loop {
        switch.mark_unchanged();
        cluster.mark_unchanged();
        if let (Some(chassis), Some(own)) = (node.ovs.system_id(), node.cluster.own_node())
            && own.chassis.as_deref() != Some(chassis.as_str())
        {
            let patch = json!({ "metadata": { "annotations": { CHASSIS: chassis } } });
            if let Err(error) = nodes.patch(&node.config.node, &PatchParams::default(), &Patch::Merge(patch)).await {
                tracing::warn!(%error, "the node's chassis cannot be told; tried again");
            }
            // By then the watch shows what was written, or that it is to be tried again.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(PAUSE) => continue,
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = switch.changed() => {}
            _ = cluster.changed() => {}
        }
    }
}
