//! The agent dies and comes back: attachments under way end well, traffic does not notice, and what it missed it makes up for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream;
use lab::probe::Endpoint;
use lab::runtime::{Attachment, Runtime};
use serde_json::Value;
use tokio::sync::watch;

use super::{NODE1, NODE2, Nodes, PATIENCE, addresses, answers, done, host_link, with_nodes};

/// The pause of a runtime before it tries again.
const AGAIN: Duration = Duration::from_millis(200);

#[test]
fn fifty_pods_that_come_while_the_agent_dies_are_all_wired_once() {
    with_nodes(1, async |nodes| {
        let before = nodes.observe(NODE1).await;
        let pods = nodes.pods(NODE1, "p", 50).await;
        let runtime = nodes.runtime(NODE1);
        let (finished, mut seen) = watch::channel(0);
        let adding = stream::iter(&pods).map(async |pod| {
            let result = until_added(&nodes, &runtime, pod).await;
            finished.send_modify(|count| *count += 1);
            result
        });
        let adding = adding.buffer_unordered(50).collect::<Vec<Value>>();
        let dying = async {
            for count in [5, 20, 35] {
                seen.wait_for(|finished| *finished >= count).await.unwrap();
                nodes.kill("agent@node1").await;
                nodes.restart("agent@node1").await;
            }
        };
        let (results, ()) = tokio::join!(adding, dying);

        let links: BTreeSet<String> = results.iter().map(host_link).collect();
        let all: BTreeSet<_> = results.iter().map(|result| addresses(result)[0]).collect();
        assert_eq!((links.len(), all.len()), (50, 50), "wired twice");
        let now = nodes.observe(NODE1).await;
        let count = |kind: &str| now.lines(kind).filter(|line| links.iter().any(|link| line.contains(link))).count();
        let more = |kind: &str| now.lines(kind).count() - before.lines(kind).count();
        for kind in ["link ", "port ", "interface "] {
            assert_eq!((count(kind), more(kind)), (50, 50), "{kind}: {}", before.difference(&now));
        }
        for pod in &pods {
            nodes.detach(NODE1, pod).await;
        }
        runtime.dismiss(&nodes.client, &pods).await.unwrap();
        nodes.comes_back(NODE1, &before).await;
    });
}

/// ADD as often as it takes, as a kubelet does.
async fn until_added(nodes: &Nodes<'_>, runtime: &Runtime, pod: &Attachment) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match runtime.add(&nodes.network(), pod).await.unwrap().ok() {
            Ok(result) => return result,
            Err(refusal) => assert!(Instant::now() < deadline, "after {PATIENCE:?}: {refusal}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[test]
fn no_ping_of_a_thousand_a_second_is_lost_while_the_agent_restarts_ten_times() {
    with_nodes(2, async |nodes| {
        let (near, far) = (nodes.pods(NODE1, "near", 1).await.remove(0), nodes.pods(NODE2, "far", 1).await.remove(0));
        let address = nodes.attach(NODE1, &near).await[0];
        nodes.attach(NODE2, &far).await;
        let from = Endpoint::open("far", &far.sandbox().unwrap()).unwrap();
        answers(&from, address, "before").await;
        for (component, times, watched) in [("agent@node1", 10, 300), ("ovn-controller@node1", 1, 3000)] {
            let watched = Duration::from_millis(watched);
            let restarts = async {
                for number in 0..times {
                    // By turns asked to end, and killed.
                    if number % 2 == 1 {
                        nodes.kill(component).await;
                    }
                    nodes.restart(component).await;
                    // It has seen the node and its pods when it finds one attached as wanted.
                    assert_eq!(nodes.attach(NODE1, &near).await[0], address);
                    // What a restart does to traffic may show a little later.
                    tokio::time::sleep(watched).await;
                }
            };
            let streamed = from.stream(address, Duration::from_millis(1), restarts).await.unwrap();
            println!("{component} restarted {times} times: {streamed}");
            assert!(streamed.sent > 2000, "{streamed}");
            if component.starts_with("agent") {
                assert_eq!(streamed.lost(), 0, "{streamed}");
            }
        }
        answers(&from, address, "afterwards").await;
    });
}

#[test]
fn a_del_while_the_agent_is_away_succeeds_at_once_and_is_done_when_it_is_back() {
    with_nodes(1, async |nodes| {
        let pods = nodes.pods(NODE1, "p", 3).await;
        nodes.attach(NODE1, &pods[0]).await;
        let one = nodes.observe(NODE1).await;
        for pod in &pods[1..] {
            nodes.attach(NODE1, pod).await;
        }
        nodes.kill("agent@node1").await;
        let runtime = nodes.runtime(NODE1);
        for pod in &pods[1..] {
            let began = Instant::now();
            done(runtime.del(&nodes.network(), pod).await.unwrap());
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        }
        // One of the sandboxes goes before the agent comes.
        pods[1].delete_sandbox().unwrap();
        nodes.restart("agent@node1").await;
        runtime.sandbox(&pods[1].container).await.unwrap();
        nodes.comes_back(NODE1, &one).await;
        done(runtime.check(&nodes.network(), &pods[0]).await.unwrap());
        // A container that comes back meanwhile is not taken for the one that went.
        nodes.attach(NODE1, &pods[1]).await;
        nodes.kill("agent@node1").await;
        done(runtime.del(&nodes.network(), &pods[1]).await.unwrap());
        nodes.restart("agent@node1").await;
        nodes.attach(NODE1, &pods[1]).await;
        nodes.kill("agent@node1").await;
        nodes.restart("agent@node1").await;
        nodes.attach(NODE1, &pods[2]).await;
        done(runtime.check(&nodes.network(), &pods[1]).await.unwrap());
    });
}
