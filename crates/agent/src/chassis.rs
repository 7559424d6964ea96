//! Which chassis of OVN the node is, told by an annotation of the node.

use api::annotations::CHASSIS;
use api::view::NodeView;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Keeps the annotation true until `shutdown`.
pub(crate) async fn tell(node: &Node, client: kube::Client, shutdown: &CancellationToken) {
    let nodes = Api::all(client);
    node.whenever_it_changes(shutdown, || annotate(node, &nodes)).await;
}

/// Writes the annotation, if it is another one; whether to look again, since by then the watch shows what was written, or that it is to
/// be tried again.
async fn annotate(node: &Node, nodes: &Api<NodeView>) -> bool {
    let (Some(chassis), Some(own)) = (node.ovs.system_id(), node.cluster.own_node()) else { return false };
    if own.chassis.as_deref() == Some(chassis.as_str()) {
        return false;
    }
    let patch = json!({ "metadata": { "annotations": { CHASSIS: chassis } } });
    if let Err(error) = nodes.patch(&node.config.node, &PatchParams::default(), &Patch::Merge(patch)).await {
        tracing::warn!(%error, "the node's chassis cannot be told; tried again");
    }
    true
}
