//! Open vSwitch is restarted, and loses its database, under pods that run.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use lab::probe::Endpoint;
use lab::runtime::Attachment;
use linux::Handle;

use super::{NODE1, NODE2, Nodes, answers, with_nodes};

/// Pods of the node whose switch fails.
const PODS: usize = 20;

/// A pod on node2 that pings, and attached pods on node1 with their addresses.
async fn attached(nodes: &Nodes<'_>) -> (Endpoint, Vec<(Attachment, IpAddr)>) {
    let far = nodes.pods(NODE2, "far", 1).await.remove(0);
    nodes.attach(NODE2, &far).await;
    let mut near = Vec::new();
    for pod in nodes.pods(NODE1, "near", PODS).await {
        let address = nodes.attach(NODE1, &pod).await[0];
        near.push((pod, address));
    }
    let from = Endpoint::open("far", &far.sandbox().unwrap()).unwrap();
    all_answer(&from, &near, "before").await;
    (from, near)
}

async fn all_answer(from: &Endpoint, pods: &[(Attachment, IpAddr)], when: &str) {
    join_all(pods.iter().map(|(_, address)| answers(from, *address, when))).await;
}

#[test]
fn a_restarted_vswitchd_carries_every_pod_again_and_adds_under_way_end_well() {
    with_nodes(2, async |nodes| {
        let (from, mut near) = attached(&nodes).await;
        let late = nodes.pods(NODE1, "late", 5).await;
        nodes.kill("ovs-vswitchd@node1").await;
        let began = Instant::now();
        let adds = join_all(late.iter().map(|pod| nodes.attach(NODE1, pod)));
        let (addresses, streamed, ()) = tokio::join!(
            adds,
            from.stream(near[0].1, Duration::from_millis(10), async {
                answers(&from, near[0].1, "after the restart").await;
            }),
            nodes.restart("ovs-vswitchd@node1")
        );
        println!("ovs-vswitchd killed and started, and 5 adds ended, within {:.1?}: {}", began.elapsed(), streamed.unwrap());
        near.extend(late.into_iter().zip(addresses.into_iter().map(|of_one| of_one[0])));
        all_answer(&from, &near, "after the restart").await;
    });
}

#[test]
fn a_lost_switch_database_is_filled_again_and_no_pod_is_touched() {
    with_nodes(2, async |nodes| {
        let (from, near) = attached(&nodes).await;
        let before = nodes.observe(NODE1).await;
        let links = links(&near).await;
        nodes.opened.lose_switch_database(NODE1).await.unwrap();
        let began = Instant::now();
        all_answer(&from, &near, "after the loss").await;
        println!("Open vSwitch's database lost: {PODS} pods answer again after {:.1?}", began.elapsed());
        nodes.comes_back(NODE1, &before).await;
        assert_eq!(self::links(&near).await, links, "sandboxes were touched");
    });
}

/// Index and address of each sandbox's link: another link has another index.
async fn links(pods: &[(Attachment, IpAddr)]) -> Vec<linux::Link> {
    let mut links = Vec::new();
    for (pod, _) in pods {
        links.extend(Handle::open(&pod.sandbox().unwrap()).unwrap().link("eth0").await.unwrap());
    }
    links
}
