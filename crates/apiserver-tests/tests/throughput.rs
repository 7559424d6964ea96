//! How many small pods the server takes per second with a durable store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_share_commits() {
    const PODS: usize = 3000;
    let folder = tempfile::tempdir().unwrap();
    let server = apiserver::Server::open(Some(folder.path())).unwrap();
    let pods = Api::<Pod>::default_namespaced(server.client());
    let begun = Instant::now();
    futures::stream::iter(0..PODS)
        .for_each_concurrent(256, |n| {
            let pods = pods.clone();
            async move {
                let pod =
                    json!({ "metadata": { "name": format!("p{n}") }, "spec": { "containers": [{ "name": "c", "image": "busybox" }] } });
                pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
            }
        })
        .await;
    let rate = PODS as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} pods/s created, durable");
    let begun = Instant::now();
    for n in 0..100 {
        let patch = json!({ "metadata": { "annotations": { "n": n.to_string() } } });
        pods.patch("p0", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
    println!("{:.0} patches/s one after the other", 100.0 / begun.elapsed().as_secs_f64());
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), PODS);
    server.close();
    // One sync per write would make a few hundred; the bound leaves room for a busy machine.
    assert!(rate > 1000.0, "only {rate:.0} pods/s");
}
