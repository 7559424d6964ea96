//! Watches through a `kube::Client` in this process: nothing is missed, nothing is said twice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use proptest::prelude::*;
use serde_json::json;

fn config_map(name: &str, labels: &[(&str, &str)]) -> ConfigMap {
    let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    ConfigMap { metadata: ObjectMeta { name: Some(name.into()), labels: Some(labels), ..Default::default() }, ..Default::default() }
}

async fn seen(api: &Api<ConfigMap>, params: &WatchParams, from: &str, count: usize) -> Vec<String> {
    let events = api.watch(params, from).await.unwrap().take(count).map(|event| match event.unwrap() {
        WatchEvent::Added(o) => format!("added {}", o.name_any()),
        WatchEvent::Modified(o) => format!("modified {}", o.name_any()),
        WatchEvent::Deleted(o) => format!("deleted {}", o.name_any()),
        WatchEvent::Bookmark(b) => format!("bookmark {}", b.metadata.annotations.len()),
        WatchEvent::Error(e) => format!("error {}", e.code),
    });
    tokio::time::timeout(std::time::Duration::from_secs(10), events.collect()).await.expect("events within 10 s")
}

#[tokio::test]
async fn a_watch_starts_at_its_version() {
    let maps = Api::<ConfigMap>::default_namespaced(apiserver::Server::open(None).unwrap().client());
    maps.create(&PostParams::default(), &config_map("a", &[])).await.unwrap();
    let rv = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    maps.create(&PostParams::default(), &config_map("b", &[])).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(seen(&maps, &WatchParams::default(), &rv, 2).await, ["added b", "deleted a"]);
    assert_eq!(seen(&maps, &WatchParams::default(), "0", 1).await, ["added b"]);
}

#[tokio::test]
async fn a_selecting_watch_sees_objects_come_and_go() {
    let maps = Api::<ConfigMap>::default_namespaced(apiserver::Server::open(None).unwrap().client());
    let rv = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    maps.create(&PostParams::default(), &config_map("a", &[("tier", "web")])).await.unwrap();
    maps.create(&PostParams::default(), &config_map("other", &[])).await.unwrap();
    for tier in ["web", "db", "web"] {
        let patch = json!({ "metadata": { "labels": { "tier": tier, "again": tier } } });
        maps.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let events = seen(&maps, &WatchParams::default().labels("tier=web"), &rv, 5).await;
    assert_eq!(events, ["added a", "modified a", "deleted a", "added a", "deleted a"]);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let maps = Api::<ConfigMap>::default_namespaced(apiserver::Server::open(None).unwrap().client());
    maps.create(&PostParams::default(), &config_map("a", &[])).await.unwrap();
    let events = seen(&maps, &WatchParams::default().initial_events(), "0", 2).await;
    assert_eq!(events, ["added a", "bookmark 1"]);
}

#[tokio::test]
async fn a_version_that_history_has_forgotten_is_gone() {
    let server = apiserver::Server::open_with_history(None, 4).unwrap();
    let maps = Api::<ConfigMap>::default_namespaced(server.client());
    let rv = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut late = maps.watch(&WatchParams::default(), &rv).await.unwrap().boxed();
    for n in 0..6 {
        maps.create(&PostParams::default(), &config_map(&format!("m{n}"), &[])).await.unwrap();
    }
    let mut gone = maps.watch(&WatchParams::default(), &rv).await.unwrap().boxed();
    match gone.try_next().await.unwrap() {
        Some(WatchEvent::Error(status)) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("wanted an error event, got {other:?}"),
    }
    assert!(gone.try_next().await.unwrap().is_none());
    // A watcher that was too slow is told so, and its stream ends.
    match late.try_next().await.unwrap() {
        Some(WatchEvent::Error(status)) => assert_eq!(status.code, 410),
        other => panic!("wanted an error event, got {other:?}"),
    }
    assert!(late.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn watches_end_with_the_server_and_with_their_timeout() {
    let server = apiserver::Server::open(None).unwrap();
    let maps = Api::<ConfigMap>::default_namespaced(server.client());
    let mut short = maps.watch(&WatchParams::default().timeout(1), "0").await.unwrap().boxed();
    assert!(short.try_next().await.unwrap().is_none());
    let mut long = maps.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    server.end_watches();
    assert!(long.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_kube_watcher_lists_and_follows() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists(), watcher::Config::default().page_size(1)] {
        let pods = Api::<Pod>::all(apiserver::Server::open(None).unwrap().client());
        let inside = Api::<Pod>::default_namespaced(pods.clone().into_client());
        let pod = |name: &str| -> Pod {
            serde_json::from_value(json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c" }] } })).unwrap()
        };
        inside.create(&PostParams::default(), &pod("a")).await.unwrap();
        inside.create(&PostParams::default(), &pod("b")).await.unwrap();
        let mut events = watcher(pods, config).boxed();
        let mut log = Vec::new();
        while log.len() < 6 {
            let event =
                tokio::time::timeout(std::time::Duration::from_secs(10), events.try_next()).await.expect("an event").unwrap().unwrap();
            log.push(match event {
                watcher::Event::Init => "init".to_owned(),
                watcher::Event::InitApply(p) => format!("init {}", p.name_any()),
                watcher::Event::InitDone => {
                    inside.create(&PostParams::default(), &pod("c")).await.unwrap();
                    inside.delete("a", &DeleteParams::default()).await.unwrap();
                    "done".to_owned()
                }
                watcher::Event::Apply(p) => format!("apply {}", p.name_any()),
                watcher::Event::Delete(p) => format!("delete {}", p.name_any()),
            });
        }
        assert_eq!(log, ["init", "init a", "init b", "done", "apply c", "delete a"]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// The watcher looks, and may connect anew from where it was.
    Look(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6u8, 0..4u8).prop_map(|(name, value)| Step::Put(name, value)),
        2 => (0..6u8).prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::Look),
    ];
    proptest::collection::vec(step, 1..40)
}

/// What a client knows: name → version and value.
type Known = BTreeMap<String, (String, String)>;

async fn put(client: &Client, name: u8, value: u8) {
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    let labels = [("odd", if value % 2 == 1 { "yes" } else { "no" }), ("value", &*value.to_string())];
    let map = config_map(&format!("m{name}"), &labels);
    if maps.create(&PostParams::default(), &map).await.is_err() {
        maps.patch(&map.name_any(), &PatchParams::default(), &Patch::Merge(&map)).await.unwrap();
    }
}

fn record(map: &ConfigMap) -> (String, (String, String)) {
    (map.name_any(), (map.resource_version().unwrap(), map.labels()["value"].clone()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// A list and the events after it equal a later list, with and without a selector, for any history.
    #[test]
    fn replayed_events_equal_the_final_list(steps in steps(), selecting in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = apiserver::Server::open(None).unwrap().client();
            let maps = Api::<ConfigMap>::default_namespaced(client.clone());
            let labels = if selecting { "odd=yes" } else { "" };
            let (list, watch) = (ListParams::default().labels(labels), WatchParams::default().labels(labels).timeout(290));
            let mut known = Known::new();
            let mut rv = maps.list(&list).await.unwrap().metadata.resource_version.unwrap();
            let mut stream = maps.watch(&watch, &rv).await.unwrap().boxed();
            for step in steps.iter().chain([&Step::Look(false)]) {
                match step {
                    Step::Put(name, value) => put(&client, *name, *value).await,
                    Step::Delete(name) => drop(maps.delete(&format!("m{name}"), &DeleteParams::default()).await),
                    Step::Look(again) => {
                        let wanted: Known = maps.list(&list).await.unwrap().items.iter().map(record).collect();
                        while known != wanted {
                            let next = tokio::time::timeout(std::time::Duration::from_secs(5), stream.try_next()).await;
                            let event = next.unwrap_or_else(|_| panic!("stuck at {known:?}, want {wanted:?}")).unwrap().unwrap();
                            match event {
                                WatchEvent::Added(o) => assert!(known.insert(o.name_any(), record(&o).1).is_none(), "added twice"),
                                WatchEvent::Modified(o) => assert!(known.insert(o.name_any(), record(&o).1).is_some(), "modified unknown"),
                                WatchEvent::Deleted(o) => assert!(known.remove(&o.name_any()).is_some(), "deleted unknown"),
                                other => panic!("unexpected {other:?}"),
                            }
                            if let Some(newest) = known.values().filter_map(|(v, _)| v.parse::<u64>().ok()).max() {
                                rv = rv.parse::<u64>().unwrap().max(newest).to_string();
                            }
                        }
                        if *again {
                            // From the newest version that the client still holds, nothing may be missed.
                            known = wanted;
                            rv = maps.list(&list).await.unwrap().metadata.resource_version.unwrap();
                            stream = maps.watch(&watch, &rv).await.unwrap().boxed();
                        }
                    }
                }
            }
        });
    }
}
