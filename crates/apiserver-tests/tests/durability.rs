//! What a killed or reopened server still knows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use futures::{StreamExt, TryStreamExt};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::{Client, Config, ResourceExt};

fn config_map(name: &str) -> ConfigMap {
    ConfigMap { metadata: ObjectMeta { name: Some(name.into()), ..Default::default() }, ..Default::default() }
}

/// A server in a process of its own, killed when dropped.
struct Served {
    child: Child,
    client: Client,
}

impl Served {
    fn start(data: &Path) -> Self {
        // Cargo builds examples before it runs integration tests, and puts them beside these.
        let mut program = PathBuf::from(std::env::current_exe().unwrap().parent().unwrap().parent().unwrap());
        program.push("examples/serve");
        let mut child = Command::new(&program)
            .args([data.as_os_str(), "secret".as_ref()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let mut config = Config::new(format!("http://{}", address.trim()).parse().unwrap());
        config.auth_info.token = Some("secret".to_owned().into());
        Self { child, client: Client::try_from(config).unwrap() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn objects_and_versions_survive_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let (made, rv) = {
        let server = apiserver::Server::open(Some(folder.path())).unwrap();
        let maps = Api::<ConfigMap>::default_namespaced(server.client());
        let made = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
        let rv = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        server.close();
        (made, rv)
    };
    let server = apiserver::Server::open(Some(folder.path())).unwrap();
    let maps = Api::<ConfigMap>::default_namespaced(server.client());
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items, [made]);
    assert_eq!(list.metadata.resource_version.as_ref(), Some(&rv));
    let next = maps.create(&PostParams::default(), &config_map("b")).await.unwrap();
    assert!(next.resource_version().unwrap().parse::<u64>().unwrap() > rv.parse().unwrap());
    // The history of the earlier life is gone, and said to be.
    assert!(maps.watch(&WatchParams::default(), &rv).await.is_ok());
    let older = (rv.parse::<u64>().unwrap() - 1).to_string();
    let mut late = maps.watch(&WatchParams::default(), &older).await.unwrap().boxed();
    match late.try_next().await.unwrap() {
        Some(WatchEvent::Error(status)) => assert_eq!(status.code, 410),
        _ => panic!("a version from before the restart was accepted"),
    }
    drop(late);
    let namespaces = Api::<Namespace>::all(server.client()).list(&ListParams::default()).await.unwrap();
    assert_eq!(namespaces.items.len(), 4);
}

#[tokio::test]
async fn every_answered_write_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut answered = Vec::new();
    for life in 0..3 {
        let served = Served::start(folder.path());
        let maps = Api::<ConfigMap>::default_namespaced(served.client.clone());
        let known = maps.list(&ListParams::default()).await.unwrap();
        let names: Vec<_> = known.items.iter().map(ResourceExt::name_any).collect();
        for name in &answered {
            assert!(names.contains(name), "{name} was answered and is lost");
        }
        let (done, mut finished) = tokio::sync::mpsc::unbounded_channel();
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let (maps, done) = (maps.clone(), done.clone());
                tokio::spawn(async move {
                    for n in 0.. {
                        let map = config_map(&format!("life{life}-{writer}-{n}"));
                        match maps.create(&PostParams::default(), &map).await {
                            Ok(made) => drop(done.send(made.name_any())),
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        for _ in 0..200 {
            answered.extend(finished.recv().await);
        }
        drop(served);
        for writer in writers {
            writer.await.unwrap();
        }
        drop(done);
        while let Some(name) = finished.recv().await {
            answered.push(name);
        }
    }
    assert!(answered.len() >= 600);
}
