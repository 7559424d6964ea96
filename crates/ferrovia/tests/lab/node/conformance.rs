//! What every plugin must do (containernetworking/cni SPEC.md): results of each version, errors by their codes, and nothing
//! left behind.

use lab::runtime::{Attachment, Verb};
use linux::{Handle, VethEnd};
use serde_json::{Value, json};

use super::{NODE1, addresses, done, host_link, refused, with_nodes};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn results_fit_each_version_and_what_was_attached_goes_whole() {
    with_nodes(1, async |nodes| {
        let runtime = nodes.runtime(NODE1);
        let spoken = done(runtime.version("ferrovia").await.unwrap());
        for version in VERSIONS {
            assert!(spoken["supportedVersions"].as_array().unwrap().contains(&json!(version)), "{spoken}");
        }
        let empty = nodes.observe(NODE1).await;
        let one = nodes.pods(NODE1, "p", 1).await.remove(0);
        let before = nodes.observe(NODE1).await;
        for version in VERSIONS {
            let network = nodes.network().at(version);
            let result = done(runtime.add(&network, &one).await.unwrap());
            fits(version, &one, &result).await;
            let attached = nodes.observe(NODE1).await;
            assert!(attached.lines("port ").any(|line| line.ends_with(&host_link(&result))), "{attached}");
            // Done again it finds everything in place, and says the same.
            assert_eq!(done(runtime.add(&network, &one).await.unwrap()), result, "{version}");
            nodes.comes_back(NODE1, &attached).await;
            // Twice, and the second time nothing is known of it.
            for _ in 0..2 {
                done(runtime.del(&network, &one).await.unwrap());
                nodes.comes_back(NODE1, &before).await;
            }
        }
        // The sandbox is gone before: told so, or not.
        for netns in [one.netns.clone(), None] {
            done(runtime.add(&nodes.network(), &one).await.unwrap());
            one.delete_sandbox().unwrap();
            done(runtime.del(&nodes.network(), &Attachment { netns, ..one.clone() }).await.unwrap());
            runtime.sandbox(&one.container).await.unwrap();
            nodes.comes_back(NODE1, &before).await;
        }
        let stranger = Attachment { container: "0123456789abcdef".to_owned(), ..one.clone() };
        done(runtime.del(&nodes.network(), &stranger).await.unwrap());
        nodes.comes_back(NODE1, &before).await;
        runtime.dismiss(&nodes.client, &[one]).await.unwrap();
        nodes.comes_back(NODE1, &empty).await;
    });
}

/// The shape of a result (SPEC.md, section 5), and that the sandbox is as it says.
async fn fits(version: &str, attachment: &Attachment, result: &Value) {
    assert_eq!(result["cniVersion"], version);
    let interfaces = result["interfaces"].as_array().unwrap();
    let inside = interfaces.iter().position(|interface| interface["name"] == "eth0").unwrap();
    assert_eq!(interfaces[inside]["sandbox"], json!(attachment.netns));
    let ips = result["ips"].as_array().unwrap();
    assert!(!ips.is_empty());
    for ip in ips {
        assert_eq!(ip["interface"], inside);
        // The family was told until 1.0.0.
        assert_eq!(ip.get("version"), version.starts_with("0.").then_some(&json!("4")), "{version}");
    }
    let gateway = &ips[0]["gateway"];
    let routes = result["routes"].as_array().unwrap();
    assert!(routes.iter().any(|route| route["dst"] == "0.0.0.0/0" && route["gw"] == *gateway), "{routes:?}");

    let sandbox = Handle::open(&attachment.sandbox().unwrap()).unwrap();
    let eth0 = sandbox.link("eth0").await.unwrap().unwrap();
    assert_eq!(json!(linux::display_mac(eth0.mac.unwrap())), interfaces[inside]["mac"].as_str().unwrap().to_lowercase());
    assert!(eth0.up);
    let held: Vec<_> = sandbox.addresses(Some(eth0.index)).await.unwrap().iter().map(|prefix| prefix.address()).collect();
    assert_eq!(held.iter().copied().filter(std::net::IpAddr::is_ipv4).collect::<Vec<_>>(), addresses(result));
    let routed = sandbox.routes().await.unwrap();
    assert!(routed.iter().any(|route| route.destination.length() == 0 && json!(route.via) == *gateway), "{routed:?}");
}

#[test]
fn what_is_wrong_is_refused_by_the_specifications_code_and_leaves_nothing() {
    with_nodes(1, async |nodes| {
        let one = nodes.pods(NODE1, "p", 1).await.remove(0);
        let (runtime, network) = (nodes.runtime(NODE1), nodes.network());
        let call = runtime.call(Verb::Add, &network, network.plugins().next().unwrap(), &one, None).unwrap();
        let before = nodes.observe(NODE1).await;
        // Code 1: a version that nobody speaks. Code 4: variables that are missing or wrong are named.
        for version in ["0.1.9", "2.0.0", "1", "x"] {
            let refusal = refused(&runtime.add(&network.at(version), &one).await.unwrap());
            assert_eq!(refusal.code, Some(1), "{version}: {refusal}");
            assert!(refusal.message.contains(version), "{refusal}");
        }
        for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
            for call in [call.clone().without(name), call.clone().set(name, "")] {
                let refusal = refused(&runtime.execute(&call).await.unwrap());
                assert_eq!(refusal.code, Some(4), "{name}: {refusal}");
                assert!(refusal.message.contains(name), "{name}: {refusal}");
            }
        }
        for (name, value) in [
            ("CNI_COMMAND", "FLY"),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "longer-than-fifteen"),
            ("CNI_IFNAME", ".."),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default"),
        ] {
            let refusal = refused(&runtime.execute(&call.clone().set(name, value)).await.unwrap());
            assert_eq!(refusal.code, Some(4), "{name}={value}: {refusal}");
            assert!(refusal.message.contains(name), "{name}={value}: {refusal}");
        }
        nodes.comes_back(NODE1, &before).await;

        // Somebody else's link has the name: it stays, and no other comes.
        let sandbox = Handle::open(&one.sandbox().unwrap()).unwrap();
        let foreign = VethEnd { name: "eth0", ..VethEnd::default() };
        sandbox.create_veth(&foreign, &VethEnd { name: "other", ..VethEnd::default() }).await.unwrap();
        let refusal = refused(&runtime.add(&network, &one).await.unwrap());
        assert!(refusal.code >= Some(100) && refusal.message.contains("eth0"), "{refusal:?}");
        nodes.comes_back(NODE1, &before).await;
        let links: Vec<String> = sandbox.links().await.unwrap().into_iter().map(|link| link.name).filter(|name| name != "lo").collect();
        assert!(links.len() == 2 && links.contains(&"eth0".to_owned()), "{links:?}");
        sandbox.delete_link(sandbox.index("eth0").await.unwrap()).await.unwrap();
        // And then all is well.
        nodes.attach(NODE1, &one).await;
        nodes.detach(NODE1, &one).await;
    });
}
