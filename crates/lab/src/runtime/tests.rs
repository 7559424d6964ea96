//! The runtime with plugins that are shell scripts and write down how they were called.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Attachment, Network, Runtime, Verb};
use crate::{Datapath, Lab, Layout, Parameters, Place, Tunnel};

/// Writes its environment's verb and its standard input into a file of its own, one call a line, and echoes a result that
/// names it; a plugin called `bad` fails in a way of its own.
const SCRIPT: &str = r#"#!/bin/sh
me=${0##*/}
read -r stdin
printf '%s %s %s %s\n' "$CNI_COMMAND" "$me" "${CNI_CONTAINERID:--}" "$stdin" >>"${0%/*}/../calls"
case $me in
  bad) printf '{"cniVersion":"1.0.0","code":107,"msg":"no luck","details":"none at all"}'; exit 1 ;;
  mute) echo oops >&2; exit 3 ;;
  hangs) exec sleep 1000 ;;
esac
if [ "$CNI_COMMAND" = ADD ]; then printf '{"by":"%s"}' "$me"; fi
"#;

struct Scratch {
    runtime: Runtime,
    root: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Scratch {
    /// The machine itself is the node.
    fn new(subject: &str) -> Self {
        let root = std::env::temp_dir().join(format!("fvt-cni-{}-{subject}", std::process::id()));
        let parameters = Parameters {
            nodes: 1,
            outside: 1,
            central: 1,
            supervised: false,
            controllers: 1,
            gateway: crate::Gateway::default(),
            dual_stack: false,
            tunnel: Tunnel::Geneve,
            datapath: Datapath::Netdev,
            dpdk_nodes: Vec::new(),
            ovn: None,
            api_port: 0,
            program: "none".into(),
            guest: "none".into(),
        };
        let lab = Lab { layout: Layout::new(&root, "cni".parse().unwrap()), parameters };
        let runtime = Runtime::new(lab, Place::Host);
        let bin = runtime.folder().join("bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["first", "second", "bad", "mute", "hangs"] {
            fs::write(bin.join(name), SCRIPT).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { runtime, root }
    }

    /// Verb, plugin, container and standard input of each call since the last time.
    fn calls(&self) -> Vec<(String, String, String, Value)> {
        let file = self.runtime.folder().join("calls");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        text.lines()
            .map(|line| {
                let words: Vec<&str> = line.splitn(4, ' ').collect();
                (words[0].to_owned(), words[1].to_owned(), words[2].to_owned(), serde_json::from_str(words[3]).unwrap())
            })
            .collect()
    }
}

fn attachment(container: &str) -> Attachment {
    Attachment { container: container.to_owned(), ifname: "eth0".to_owned(), ..Attachment::default() }
}

fn network(version: &str, plugins: &[&str]) -> Network {
    Network::of(version, "net", plugins.iter().map(|name| json!({ "type": name })).collect())
}

#[tokio::test]
async fn results_are_handed_on_kept_and_given_back() {
    let scratch = Scratch::new("chain");
    let (runtime, network, one) = (&scratch.runtime, network("1.0.0", &["first", "second"]), attachment("one"));
    let done = runtime.add(&network, &one).await.unwrap();
    assert_eq!(done.ok(), Ok(json!({ "by": "second" })));
    assert!(done.took > Duration::ZERO);
    runtime.check(&network, &one).await.unwrap().ok().unwrap();
    runtime.del(&network, &one).await.unwrap().ok().unwrap();
    // Nothing is kept any more.
    runtime.del(&network, &one).await.unwrap().ok().unwrap();
    let calls = scratch.calls();
    let seen: Vec<_> = calls.iter().map(|(verb, by, _, conf)| (verb.as_str(), by.as_str(), conf["prevResult"]["by"].as_str())).collect();
    let expected = [
        ("ADD", "first", None),
        ("ADD", "second", Some("first")),
        ("CHECK", "first", Some("second")),
        ("CHECK", "second", Some("second")),
        ("DEL", "second", Some("second")),
        ("DEL", "first", Some("second")),
        ("DEL", "second", None),
        ("DEL", "first", None),
    ];
    assert_eq!(seen, expected);
    assert!(calls.iter().all(|(.., conf)| conf["name"] == "net" && conf["cniVersion"] == "1.0.0"));
}

#[tokio::test]
async fn a_failure_ends_the_chain_and_keeps_its_words() {
    let scratch = Scratch::new("fail");
    let runtime = &scratch.runtime;
    for (plugin, code, message) in [("bad", Some(107), "no luck: none at all"), ("mute", None, "exit status 3: oops")] {
        let refusal = runtime.add(&network("1.0.0", &[plugin, "second"]), &attachment("one")).await.unwrap().ok().unwrap_err();
        assert_eq!((refusal.verb, refusal.code, refusal.message.as_str()), (Verb::Add, code, message));
    }
    assert!(scratch.calls().iter().all(|(_, by, ..)| by != "second"));
    assert_eq!(runtime.kept(&network("1.0.0", &["bad"]), &attachment("one")).unwrap(), None);
}

#[tokio::test]
async fn garbage_collection_deletes_what_is_kept_and_not_listed_and_tells_the_rest() {
    let scratch = Scratch::new("gc");
    let (runtime, network) = (&scratch.runtime, network("1.1.0", &["first"]));
    let [one, two] = ["one", "two"].map(attachment);
    for each in [&one, &two] {
        runtime.add(&network, each).await.unwrap().ok().unwrap();
    }
    scratch.calls();
    runtime.gc(&network, std::slice::from_ref(&two)).await.unwrap().ok().unwrap();
    let calls = scratch.calls();
    assert_eq!((calls[0].0.as_str(), calls[0].2.as_str()), ("DEL", "one"));
    assert_eq!((calls[1].0.as_str(), calls[1].2.as_str()), ("GC", "-"));
    assert_eq!(calls[1].3["cni.dev/valid-attachments"], json!([{ "containerID": "two", "ifname": "eth0" }]));
    assert!(runtime.kept(&network, &two).unwrap().is_some() && runtime.kept(&network, &one).unwrap().is_none());
    // An older network knows no GC, and one older still no CHECK and no result at DEL.
    assert!(runtime.collect(&network.at("1.0.0"), &[]).await.is_err());
    assert!(runtime.check(&network.at("0.3.1"), &two).await.is_err());
    runtime.del(&network.at("0.3.1"), &two).await.unwrap().ok().unwrap();
    assert_eq!(scratch.calls()[0].3.get("prevResult"), None);
}

#[tokio::test]
async fn plugins_get_the_capability_arguments_that_they_announce() {
    let scratch = Scratch::new("capability");
    let able = json!({ "type": "first", "capabilities": { "mac": true, "ips": false } });
    let capabilities = Map::from_iter([("mac".to_owned(), json!("02:00:00:00:00:01")), ("ips".to_owned(), json!(["10.0.0.1"]))]);
    let one = Attachment { capabilities, ..attachment("one") };
    let network = Network::of("1.0.0", "net", vec![able, json!({ "type": "second" })]);
    scratch.runtime.add(&network, &one).await.unwrap().ok().unwrap();
    let calls = scratch.calls();
    assert_eq!(calls[0].3["runtimeConfig"], json!({ "mac": "02:00:00:00:00:01" }));
    assert_eq!(calls[1].3.get("runtimeConfig"), None);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_killed() {
    let scratch = Scratch::new("kill");
    let call = scratch.runtime.call(Verb::Status, &network("1.1.0", &["hangs"]), &json!({ "type": "hangs" }), &attachment("one"), None);
    let call = call.unwrap().set("FERROVIA_TEST", scratch.root.display().to_string());
    let mark = format!("FERROVIA_TEST={}", scratch.root.display());
    assert!(tokio::time::timeout(Duration::from_millis(300), scratch.runtime.execute(&call)).await.is_err());
    for pid in linux::process::with_environment(&mark) {
        if let Ok(process) = linux::process::Process::open(pid) {
            assert!(process.ended(Duration::from_secs(5)).unwrap(), "process {pid}");
        }
    }
}
