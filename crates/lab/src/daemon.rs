//! `lab run`: the scheduler, and the kubelet of every node on a thread inside the node's network.

use anyhow::Context as _;
use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;

use crate::{Lab, cluster, instances, kubelet, scheduler};

impl Lab {
    /// Runs scheduler and kubelets until `shutdown`. Pods keep running after that, and are adopted next time.
    ///
    /// # Errors
    /// When one of them fails for good.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let client = cluster::client(&self.layout).await?;
        let kubelets = self.parameters.node_places().map(|place| {
            let (lab, shutdown) = (self.clone(), shutdown.clone());
            let netns = self.layout.netns(place);
            async move {
                let task = netns?.spawn(move || kubelet::run(lab, place, shutdown))?;
                task.join().await?.with_context(|| format!("kubelet of {place}"))
            }
        });
        tokio::select! {
            ended = scheduler::run(client.clone()) => ended.context("scheduler"),
            ended = instances::run(client) => ended.context("instances of virtual machines"),
            ended = try_join_all(kubelets) => ended.map(|_| ()),
        }
    }
}
