//! CHECK, GC and STATUS tell the truth, and configurations and sandboxes that cannot be are refused.

use std::time::Duration;

use lab::runtime::{Answer, Attachment, Call, Network, Refusal, Runtime, Verb};
use linux::{Handle, IpPrefix};
use serde_json::{Value, json};

use super::{NODE1, Nodes, PATIENCE, Random, addresses, done, host_link, refused, with_nodes};

const FUZZED: usize = 200;
const SEED: u64 = 6;

#[test]
fn check_names_what_somebody_took_away_and_an_add_puts_it_back() {
    with_nodes(1, async |nodes| {
        let one = nodes.pods(NODE1, "p", 1).await.remove(0);
        let (runtime, network) = (nodes.runtime(NODE1), nodes.network());
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            let network = network.at(version);
            done(runtime.add(&network, &one).await.unwrap());
            done(runtime.check(&network, &one).await.unwrap());
            done(runtime.del(&network, &one).await.unwrap());
        }
        // Not attached: with the result of an attachment that was.
        let result = done(runtime.add(&network, &one).await.unwrap());
        done(runtime.del(&network, &one).await.unwrap());
        let refusal = refused(&check(&runtime, &one, &result, &network).await);
        assert!(matches!(refusal.code, Some(3 | 100..)), "{refusal:?}");

        let result = done(runtime.add(&network, &one).await.unwrap());
        let (address, link) = (addresses(&result)[0], host_link(&result));
        let sandbox = Handle::open(&one.sandbox().unwrap()).unwrap();
        let eth0 = sandbox.index("eth0").await.unwrap();
        let held = sandbox.addresses(Some(eth0)).await.unwrap().into_iter().find(|prefix| prefix.address() == address).unwrap();

        sandbox.delete_address(eth0, held).await.unwrap();
        names(&nodes, &one, &address.to_string()).await;
        let routes = sandbox.routes().await.unwrap();
        let default = routes.into_iter().find(|route| route.destination == IpPrefix::DEFAULT_V4).unwrap();
        sandbox.delete_route(&default).await.unwrap();
        names(&nodes, &one, "0.0.0.0/0").await;
        sandbox.change(eth0, linux::LinkChange { up: Some(false), ..linux::LinkChange::default() }).await.unwrap();
        names(&nodes, &one, "eth0").await;
        // What the node sees is perhaps put back before anybody asks: then there is nothing to name.
        sandbox.delete_link(eth0).await.unwrap();
        let answer = runtime.check(&network, &one).await.unwrap();
        if answer.ok().is_ok() {
            assert!(sandbox.link("eth0").await.unwrap().is_some(), "eth0 is not there, and CHECK says nothing");
        } else {
            assert!(refused(&answer).message.contains("eth0"), "{answer:?}");
        }
        nodes.attach(NODE1, &one).await;
        nodes.lab.ok(&["node", "node1", "--", "ovs-vsctl", "--no-wait", "del-port", "br-int", &link]);
        let answer = runtime.check(&network, &one).await.unwrap();
        if answer.ok().is_ok() {
            let ports = nodes.lab.ok(&["node", "node1", "--", "ovs-vsctl", "list-ports", "br-int"]);
            assert!(ports.lines().any(|port| port == link), "port {link} is not there, and CHECK says nothing");
        } else {
            assert!(refused(&answer).message.contains(&link), "{answer:?}");
        }
        nodes.attach(NODE1, &one).await;
        done(runtime.check(&network, &one).await.unwrap());
    });
}

/// CHECK with a result of the caller's.
async fn check(runtime: &Runtime, one: &Attachment, result: &Value, network: &Network) -> Answer {
    let plugin = network.plugins().next().unwrap();
    runtime.execute(&runtime.call(Verb::Check, network, plugin, one, Some(result)).unwrap()).await.unwrap()
}

/// CHECK must fail and name something; then ADD puts it right.
async fn names(nodes: &Nodes<'_>, one: &Attachment, what: &str) {
    let (runtime, network) = (nodes.runtime(NODE1), nodes.network());
    let refusal = refused(&runtime.check(&network, one).await.unwrap());
    assert!(refusal.code >= Some(100) && refusal.message.contains(what), "{what}: {refusal:?}");
    done(runtime.add(&network, one).await.unwrap());
    done(runtime.check(&network, one).await.unwrap());
}

#[test]
fn garbage_collection_removes_what_is_not_listed_and_status_tells_whether_work_can_be_done() {
    with_nodes(1, async |nodes| {
        let pods = nodes.pods(NODE1, "p", 4).await;
        let (runtime, network) = (nodes.runtime(NODE1), nodes.network());
        nodes.attach(NODE1, &pods[0]).await;
        let first = nodes.observe(NODE1).await;
        for pod in &pods[1..] {
            nodes.attach(NODE1, pod).await;
        }
        let all = nodes.observe(NODE1).await;
        done(runtime.collect(&network, &pods).await.unwrap());
        nodes.comes_back(NODE1, &all).await;
        // By the plugin alone, whatever the runtime remembers; one sandbox is gone.
        pods[3].delete_sandbox().unwrap();
        done(runtime.collect(&network, &pods[..1]).await.unwrap());
        runtime.sandbox(&pods[3].container).await.unwrap();
        nodes.comes_back(NODE1, &first).await;
        done(runtime.check(&network, &pods[0]).await.unwrap());
        // As a runtime does it, and then nothing is left to do.
        nodes.attach(NODE1, &pods[1]).await;
        for _ in 0..2 {
            done(runtime.gc(&network, &pods[..1]).await.unwrap());
        }
        nodes.comes_back(NODE1, &first).await;

        done(runtime.status(&network).await.unwrap());
        nodes.kill("ovsdb@node1").await;
        let refusal = status_until(&runtime, &network, false).await.unwrap_err();
        assert!(refusal.code == Some(50) && refusal.message.contains("Open vSwitch"), "{refusal:?}");
        nodes.restart("ovsdb@node1").await;
        status_until(&runtime, &network, true).await.unwrap();
        nodes.attach(NODE1, &pods[1]).await;
    });
}

/// Asks for STATUS until it is as wanted: nothing tells when that changes.
async fn status_until(runtime: &Runtime, network: &Network, fine: bool) -> Result<Value, Refusal> {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        ticks.tick().await;
        let answer = runtime.status(network).await.unwrap();
        let now = answer.ok();
        if now.is_ok() == fine {
            return now;
        }
        assert!(tokio::time::Instant::now() < deadline, "STATUS after {PATIENCE:?}: {answer:?}");
    }
}

#[test]
fn verbs_of_later_versions_damaged_configurations_and_missing_sandboxes_are_refused_by_code() {
    with_nodes(1, async |nodes| {
        let one = nodes.pods(NODE1, "p", 1).await.remove(0);
        let (runtime, network) = (nodes.runtime(NODE1), nodes.network());
        let plugin = network.plugins().next().unwrap();
        let before = nodes.observe(NODE1).await;
        for (verb, version) in [(Verb::Check, "0.3.1"), (Verb::Gc, "1.0.0"), (Verb::Status, "1.0.0"), (Verb::Gc, "0.4.0")] {
            let call = runtime.call(verb, &network.at(version), plugin, &one, None).unwrap();
            let refusal = refused(&runtime.execute(&call).await.unwrap());
            assert_eq!(refusal.code, Some(1), "{verb} in {version}: {refusal}");
        }
        // JSON, and no configuration: code 7 names the field.
        let call = runtime.call(Verb::Add, &network, plugin, &one, None).unwrap();
        let correct: Value = serde_json::from_slice(&call.stdin).unwrap();
        for (field, value) in [("name", None), ("name", Some(json!(""))), ("name", Some(json!("a/b"))), ("name", Some(json!(7)))] {
            let mut wrong = correct.clone();
            wrong.as_object_mut().unwrap().remove(field);
            wrong.as_object_mut().unwrap().extend(value.map(|value| (field.to_owned(), value)));
            let refusal = refused(&runtime.execute(&call.clone().reading(wrong.to_string())).await.unwrap());
            // Of the wrong type: whoever decodes into types says so as a failure to decode.
            let code = refusal.code == Some(7) || refusal.code == Some(6) && wrong[field].is_number();
            assert!(code && refusal.message.contains(field), "{wrong}: {refusal:?}");
        }
        // CHECK without the result that it compares with.
        let check = runtime.call(Verb::Check, &network, plugin, &one, None).unwrap();
        let refusal = refused(&runtime.execute(&check).await.unwrap());
        assert!(matches!(refusal.code, Some(7 | 100..)) && refusal.message.contains("prevResult"), "{refusal:?}");
        // A sandbox that is not there: its container is unknown, or the variable wrong, and both name the path.
        let nowhere = Attachment { netns: Some("/run/netns/nowhere".into()), ..one.clone() };
        let refusal = refused(&runtime.add(&network, &nowhere).await.unwrap());
        assert!(matches!(refusal.code, Some(3 | 4)) && refusal.message.contains("/run/netns/nowhere"), "{refusal:?}");
        assert!(refusal.code == Some(3) || refusal.message.contains("CNI_NETNS"), "{refusal:?}");
        fuzz(&nodes, &network, &one, &call).await;
        nodes.comes_back(NODE1, &before).await;
    });
}

/// Damaged configurations: code 6 for what is no JSON, 6 or 7 for what is no configuration, never anything half made.
async fn fuzz(nodes: &Nodes<'_>, network: &Network, one: &Attachment, call: &Call) {
    println!("{FUZZED} damaged configurations, seed {SEED}");
    let (runtime, mut random) = (nodes.runtime(NODE1), Random(SEED));
    for case in 0..FUZZED {
        let mut stdin = call.stdin.clone();
        match random.below(4) {
            0 => stdin = (0..random.below(64)).map(|_| u8::try_from(random.below(256)).unwrap()).collect(),
            1 => stdin.truncate(random.below(stdin.len())),
            2 => {
                for _ in 0..=random.below(4) {
                    let at = random.below(stdin.len());
                    stdin[at] = u8::try_from(random.below(256)).unwrap();
                }
            }
            _ => {
                let at = random.below(stdin.len());
                stdin.splice(at..at, std::iter::repeat_n(b"[{\"\\,:0"[random.below(7)], 1 + random.below(1000)));
            }
        }
        let answer = runtime.execute(&call.clone().reading(stdin.clone())).await.unwrap();
        let told = || format!("case {case}, {}: {}", String::from_utf8_lossy(&stdin), String::from_utf8_lossy(&answer.stdout));
        let expected: &[u32] = match serde_json::from_slice::<Value>(&stdin) {
            Err(_) => &[6],
            Ok(value) if !value.is_object() || value.get("cniVersion").is_some_and(|version| !version.is_string()) => &[6, 7],
            // A changed version or name, or none: what is left of it may do.
            Ok(_) => &[1, 6, 7],
        };
        if answer.exit == Some(0) {
            assert!(expected.contains(&1), "{}", told());
            done(runtime.del(network, one).await.unwrap());
        } else {
            assert!(refused(&answer).code.is_some_and(|code| expected.contains(&code)), "{}", told());
        }
    }
}
