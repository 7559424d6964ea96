//! Which chassis of OVN the node is, told by an annotation of the node.

use api::annotations::CHASSIS;
use api::view::NodeView;
use kube::Api;
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
    if let Err(error) = node.annotate(nodes, CHASSIS, Some(&chassis)).await {
        tracing::warn!(%error, "the node's chassis cannot be told; tried again");
    }
    true
}
