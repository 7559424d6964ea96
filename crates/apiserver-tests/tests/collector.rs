//! Garbage collection by owner references, over the API alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::future::poll_fn;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

struct World {
    server: apiserver::Server,
    maps: Api<ConfigMap>,
}

impl World {
    fn open(folder: Option<&Path>) -> Self {
        let server = apiserver::Server::open(folder).unwrap();
        let maps = Api::default_namespaced(server.client());
        Self { server, maps }
    }

    fn client(&self) -> Client {
        self.maps.clone().into_client()
    }

    /// Creates a config map with these owners; a `true` blocks the owner's deletion.
    async fn make(&self, name: &str, owners: &[(&ConfigMap, bool)], finalizers: &[&str]) -> ConfigMap {
        let references: Vec<_> =
            owners.iter().map(|(owner, blocks)| reference("ConfigMap", &owner.name_any(), &owner.uid().unwrap(), *blocks)).collect();
        self.make_with(name, &references, finalizers).await
    }

    async fn make_with(&self, name: &str, references: &[Value], finalizers: &[&str]) -> ConfigMap {
        let map = json!({ "metadata": { "name": name, "ownerReferences": references, "finalizers": finalizers } });
        self.maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap()
    }

    async fn delete(&self, name: &str, policy: &DeleteParams) {
        let _ = self.maps.delete(name, policy).await.unwrap();
    }

    async fn release(&self, name: &str) {
        let patch = json!({ "metadata": { "finalizers": null } });
        self.maps.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn names(&self) -> Vec<String> {
        self.maps.list(&ListParams::default()).await.unwrap().items.iter().map(ResourceExt::name_any).collect()
    }

    /// Waits until the config maps are as wanted.
    async fn until(&self, wanted: impl Fn(&[ConfigMap]) -> bool) -> Vec<ConfigMap> {
        let mut last = Vec::new();
        let wait = async {
            loop {
                let list = self.maps.list(&ListParams::default()).await.unwrap();
                let rv = list.metadata.resource_version.clone().unwrap();
                last = list.items;
                if wanted(&last) {
                    return;
                }
                let mut changes = self.maps.watch(&WatchParams::default(), &rv).await.unwrap().boxed();
                match changes.try_next().await.unwrap() {
                    Some(WatchEvent::Error(error)) => panic!("{error:?}"),
                    Some(_) => {}
                    None => panic!("the watch has ended"),
                }
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(within.is_ok(), "still {last:#?}");
        last
    }

    async fn until_left(&self, names: &[&str]) {
        self.until(|maps| maps.iter().map(ResourceExt::name_any).eq(names.iter().map(|name| (*name).to_owned()))).await;
    }
}

fn reference(kind: &str, name: &str, uid: &str, blocks: bool) -> Value {
    json!({ "apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": blocks })
}

fn is_terminating(maps: &[ConfigMap], name: &str) -> bool {
    maps.iter().any(|map| map.name_any() == name && map.metadata.deletion_timestamp.is_some())
}

#[tokio::test]
async fn dependents_of_dependents_go_with_their_owner() {
    let world = World::open(None);
    let a = world.make("a", &[], &[]).await;
    let b = world.make("b", &[(&a, false)], &[]).await;
    world.make("c", &[(&b, true)], &[]).await;
    world.make("other", &[], &[]).await;
    world.delete("a", &DeleteParams::background()).await;
    world.until_left(&["other"]).await;
}

#[tokio::test]
async fn a_dependent_stays_while_one_of_its_owners_does_and_forgets_the_others() {
    let world = World::open(None);
    let (a, b) = (world.make("a", &[], &[]).await, world.make("b", &[], &[]).await);
    world.make("c", &[(&a, false), (&b, false)], &[]).await;
    world.delete("a", &DeleteParams::default()).await;
    let owners = |maps: &[ConfigMap]| maps.iter().find(|map| map.name_any() == "c").map(|map| map.owner_references().to_vec());
    let maps = world.until(|maps| owners(maps).is_some_and(|owners| owners.len() == 1)).await;
    assert_eq!(owners(&maps).unwrap()[0].uid, b.uid().unwrap());
    world.delete("b", &DeleteParams::default()).await;
    world.until_left(&[]).await;
}

#[tokio::test]
async fn foreground_deletion_waits_for_dependents_that_block_and_for_no_others() {
    let world = World::open(None);
    let a = world.make("a", &[], &[]).await;
    world.make("blocking", &[(&a, true)], &["example.com/hold"]).await;
    world.make("other", &[(&a, false)], &["example.com/hold"]).await;
    world.delete("a", &DeleteParams::foreground()).await;
    let maps = world.until(|maps| is_terminating(maps, "blocking") && is_terminating(maps, "other")).await;
    assert_eq!(maps[0].finalizers(), ["foregroundDeletion"]);
    world.release("blocking").await;
    world.until_left(&["other"]).await;
    world.release("other").await;
    assert!(world.names().await.is_empty());
}

#[tokio::test]
async fn foreground_deletion_reaches_the_dependents_of_dependents() {
    let world = World::open(None);
    let a = world.make("a", &[], &[]).await;
    let b = world.make("b", &[(&a, true)], &[]).await;
    world.make("c", &[(&b, true)], &["example.com/hold"]).await;
    world.delete("a", &DeleteParams::foreground()).await;
    let maps = world.until(|maps| is_terminating(maps, "c")).await;
    assert_eq!(maps[1].finalizers(), ["foregroundDeletion"]);
    world.release("c").await;
    world.until_left(&[]).await;
}

#[tokio::test]
async fn owners_that_own_each_other_do_not_wait_for_ever() {
    let world = World::open(None);
    let a = world.make("a", &[], &[]).await;
    let b = world.make("b", &[(&a, true)], &[]).await;
    let patch = json!({ "metadata": { "ownerReferences": [reference("ConfigMap", "b", &b.uid().unwrap(), true)] } });
    world.maps.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    world.delete("a", &DeleteParams::foreground()).await;
    world.until_left(&[]).await;
}

#[tokio::test]
async fn orphans_lose_their_reference_and_stay() {
    let world = World::open(None);
    let (a, b) = (world.make("a", &[], &[]).await, world.make("b", &[], &[]).await);
    world.make("c", &[(&a, true), (&b, false)], &[]).await;
    world.delete("a", &DeleteParams::orphan()).await;
    world.until_left(&["b", "c"]).await;
    let owners = world.maps.get("c").await.unwrap().owner_references().to_vec();
    assert_eq!(owners.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>(), [b.uid().unwrap()]);
}

#[tokio::test]
async fn an_owner_that_is_not_there_owns_nothing() {
    let world = World::open(None);
    let a = world.make("a", &[], &[]).await;
    world.make_with("namesake", &[reference("ConfigMap", "a", "another-uid", false)], &[]).await;
    world.make_with("nobody", &[reference("Secret", "none", "no-uid", false)], &[]).await;
    world.make_with("unserved", &[json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u" })], &[]).await;
    world.make("owned", &[(&a, false)], &[]).await;
    world.until_left(&["a", "owned", "unserved"]).await;
}

#[tokio::test]
async fn an_owner_in_another_namespace_is_absent_and_one_in_none_is_not() {
    let world = World::open(None);
    let secrets = Api::<Secret>::namespaced(world.client(), "kube-system");
    let far =
        secrets.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": "far" } })).unwrap()).await.unwrap();
    let nodes = Api::<Node>::all(world.client());
    let node =
        nodes.create(&PostParams::default(), &serde_json::from_value(json!({ "metadata": { "name": "n" } })).unwrap()).await.unwrap();
    world.make_with("of-far", &[reference("Secret", "far", &far.uid().unwrap(), false)], &[]).await;
    world.make_with("of-node", &[reference("Node", "n", &node.uid().unwrap(), false)], &[]).await;
    world.until_left(&["of-node"]).await;
    nodes.delete("n", &DeleteParams::default()).await.unwrap();
    world.until_left(&[]).await;
}

#[tokio::test]
async fn a_finalizer_on_the_object_decides_where_the_deletion_does_not() {
    let world = World::open(None);
    let a = world.make("a", &[], &["orphan"]).await;
    world.make("b", &[(&a, false)], &[]).await;
    world.delete("a", &DeleteParams::default()).await;
    world.until_left(&["b"]).await;
    let c = world.make("c", &[], &["orphan"]).await;
    world.make("d", &[(&c, false)], &[]).await;
    world.delete("c", &DeleteParams::background()).await;
    world.until_left(&["b"]).await;
}

#[tokio::test]
async fn a_foreground_deletion_is_resumed_by_the_next_life() {
    let folder = tempfile::tempdir().unwrap();
    {
        let world = World::open(Some(folder.path()));
        let a = world.make("a", &[], &[]).await;
        world.make("b", &[(&a, true)], &["example.com/hold"]).await;
        world.delete("a", &DeleteParams::foreground()).await;
        world.until(|maps| is_terminating(maps, "b")).await;
        world.server.close();
    }
    let world = World::open(Some(folder.path()));
    world.server.resume().await.unwrap();
    assert_eq!(world.names().await, ["a", "b"]);
    world.release("b").await;
    world.until_left(&[]).await;
    world.server.close();
}

#[tokio::test]
async fn a_collection_that_was_cut_short_is_completed_by_the_next_life() {
    const DEPENDENTS: usize = 400;
    for policy in [DeleteParams::background(), DeleteParams::foreground(), DeleteParams::orphan()] {
        let folder = tempfile::tempdir().unwrap();
        {
            let world = World::open(Some(folder.path()));
            let owner = world.make("owner", &[], &[]).await;
            let made = (0..DEPENDENTS).map(|n| {
                let (world, owner) = (&world, &owner);
                async move { drop(world.make(&format!("d{n}"), &[(owner, true)], &[]).await) }
            });
            futures::future::join_all(made).await;
            world.delete("owner", &policy).await;
            // Whatever has been done by now, nothing more will be.
            world.server.close();
        }
        let world = World::open(Some(folder.path()));
        world.server.resume().await.unwrap();
        let orphans = |maps: &[ConfigMap]| maps.len() == DEPENDENTS && maps.iter().all(|map| map.owner_references().is_empty());
        let keeps = policy == DeleteParams::orphan();
        world.until(|maps| if keeps { orphans(maps) } else { maps.is_empty() }).await;
        world.server.close();
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_dependents_behind() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(Some(folder.path()));
    let a = world.make("a", &[], &[]).await;
    world.make("b", &[(&a, false)], &[]).await;
    let request = http::Request::delete("/api/v1/namespaces/default/configmaps/a").body(axum::body::Body::empty()).unwrap();
    let mut asked = Box::pin(tower::ServiceExt::oneshot(world.server.router(), request));
    // Asked once, and dropped before the disk has answered.
    let answered = poll_fn(|context| Poll::Ready(asked.as_mut().poll(context).is_ready())).await;
    assert!(!answered);
    drop(asked);
    world.until_left(&[]).await;
    world.server.close();
}
