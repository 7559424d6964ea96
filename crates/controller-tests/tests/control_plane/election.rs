//! Several controllers, of which one leads.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use api::annotations;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client};

use crate::harness::{Controller, Mirror, allocated, cluster, create_pod, note, pods, until, within};

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), "kube-system")
}

async fn led_by(client: &Client, identity: &str) {
    let holds = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(identity);
    until(&leases(client), "ferrovia-controller", identity, holds).await;
}

/// Creates a pod: how long until it has its address.
async fn served(client: &Client, name: &str) -> Duration {
    let began = Instant::now();
    create_pod(client, name, &[]).await;
    allocated(client, name).await;
    began.elapsed()
}

async fn nothing_is_held_twice(client: &Client, count: usize) {
    let list = pods(client).list(&ListParams::default()).await.unwrap().items;
    let addresses: BTreeSet<_> = list.iter().filter_map(|pod| note(pod, annotations::IP_ADDRESS)).collect();
    assert_eq!((list.len(), addresses.len()), (count, count));
}

#[test]
fn a_standby_takes_over_at_once_from_who_stops_and_soon_from_who_dies() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        let first = Controller::candidate(&client, &database, "first");
        for i in 0..20 {
            served(&client, &format!("p{i}")).await;
        }
        let second = Controller::candidate(&client, &database, "second");
        // While the standby follows, it decides nothing, and what it has seen is what it goes on from.
        for i in 20..40 {
            served(&client, &format!("p{i}")).await;
        }
        led_by(&client, "first").await;
        mirror.catch_up(&database).await;
        let (before, ports) = (mirror.changes, mirror.ports());
        first.stop().await;
        let took = served(&client, "after-stop").await;
        println!("after a stop, a pod is served in {took:.1?}");
        assert!(took <= Duration::from_secs(2), "{took:?}");
        led_by(&client, "second").await;
        mirror.catch_up(&database).await;
        // The pod's port, its switch's set of ports, and the number of the term.
        assert_eq!(mirror.changes - before, 3, "northbound rows written by a take-over");
        let same = |mirror: &Mirror| ports.iter().all(|(name, addresses)| mirror.ports().get(name) == Some(addresses));
        assert!(same(&mirror), "{:#?}", mirror.ports());

        let third = Controller::candidate(&client, &database, "third");
        served(&client, "before-kill").await;
        second.kill().await;
        let took = served(&client, "after-kill").await;
        println!("after a kill, a pod is served in {took:.1?}");
        assert!(took <= Duration::from_secs(6), "{took:?}");
        led_by(&client, "third").await;
        assert!(same(&mirror));
        nothing_is_held_twice(&client, 43).await;
        third.stop().await;
        // Given up, not left to end.
        led_by(&client, "").await;
    });
}

#[test]
fn who_leads_by_an_older_term_writes_nothing_more() {
    within(async {
        let (client, database, mut mirror) = cluster().await;
        // It knows of no lease, and believes that it leads, as one does that has stood still.
        let old = Controller::start(&client, &database);
        served(&client, "a").await;
        let new = Controller::candidate(&client, &database, "new");
        led_by(&client, "new").await;
        mirror.until("the new term", |mirror| mirror.note("ferrovia-epoch").as_deref() == Some("2")).await;
        // Both want to serve these.
        for i in 0..20 {
            served(&client, &format!("p{i}")).await;
        }
        mirror.catch_up(&database).await;
        let told: BTreeSet<_> = pods(&client).list(&ListParams::default()).await.unwrap().items.iter().map(port).collect();
        let ports: BTreeSet<_> = mirror.ports().into_iter().filter(|(name, _)| name.ends_with(".default")).map(|(_, a)| a).collect();
        assert_eq!(told, ports);
        nothing_is_held_twice(&client, 21).await;
        old.kill().await;
        new.stop().await;
        // Whoever is alone afterwards goes on under the last number.
        let alone = Controller::start(&client, &database);
        served(&client, "alone").await;
        mirror.catch_up(&database).await;
        assert_eq!(mirror.note("ferrovia-epoch").as_deref(), Some("2"));
        alone.stop().await;
    });
}

/// A port's addresses, as the pod was told them.
fn port(pod: &api::view::PodView) -> String {
    let told = |key| note(pod, key).unwrap_or_default();
    format!("{} {}", told(annotations::MAC_ADDRESS), told(annotations::IP_ADDRESS))
}
