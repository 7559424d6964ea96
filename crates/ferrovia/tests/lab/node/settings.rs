//! Settings of a node's kernel, as the node's condition tells them.

use lab::Gateway;
use tokio::time::{Duration, Instant, sleep};

use super::{NODE1, Nodes, PATIENCE, with_nodes_of};

/// A field of the condition.
fn shown(nodes: &Nodes<'_>, field: &str) -> String {
    let path = format!("jsonpath={{.status.conditions[?(@.type==\"HostReady\")].{field}}}");
    nodes.lab.kubectl(&["get", "node", "node1", "-o", &path])
}

/// Waits until the condition says this, and is true.
async fn says(nodes: &Nodes<'_>, reason: &str, messages: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, because, message) = (shown(nodes, "status"), shown(nodes, "reason"), shown(nodes, "message"));
        if status == "True" && because == reason && messages.iter().all(|said| message.contains(said)) {
            return;
        }
        assert!(Instant::now() < deadline, "{status} {because}: {message}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_was_found_otherwise_is_put_right_and_told_and_the_nodes_own_way_out_stays() {
    with_nodes_of(1, &["--dual-stack"], async |nodes| {
        let sh = |command: &str| nodes.lab.ok(&["node", "node1", "--", "sh", "-c", command]);
        let read = |key: &str| sh(&format!("cat /proc/sys/net/{key}")).trim().to_owned();
        nodes.kill("agent@node1").await;
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding");
        // As a router's advertisement makes it.
        sh("echo 1 > /proc/sys/net/ipv6/conf/br-phy/accept_ra; ip -6 route add default via fe80::99 dev br-phy proto ra");
        nodes.restart("agent@node1").await;
        let otherwise = [
            "net.ipv4.ip_forward was 0, and has been set to 1",
            "net.ipv6.conf.all.forwarding was 0, and has been set to 1",
            "net.ipv6.conf.br-phy.accept_ra was 1, and has been set to 2",
        ];
        says(&nodes, "SettingChanged", &otherwise).await;
        assert_eq!(["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/br-phy/accept_ra"].map(read), ["1", "1", "2"]);
        assert!(sh("ip -6 route show default").contains("via fe80::99 dev br-phy proto ra"));

        // Nothing is left to say once all was found as it must be; another condition stays.
        nodes.kill("agent@node1").await;
        nodes.restart("agent@node1").await;
        says(&nodes, "SettingsFit", &[]).await;
        let available = nodes.lab.kubectl(&["get", "node", "node1", "-o", "jsonpath={.status.conditions[*].type}"]);
        assert!(available.contains("NetworkUnavailable"), "{available}");

        // What somebody changes is put back at once.
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        says(&nodes, "SettingChanged", &otherwise[..1]).await;
        assert_eq!(read("ipv4/ip_forward"), "1");
        sh("echo 1 > /proc/sys/net/ipv4/conf/br-ex/rp_filter");
        says(&nodes, "SettingChanged", &["net.ipv4.conf.br-ex.rp_filter was 1, and has been set to 2"]).await;

        // Of what is not needed any more nothing is said, and forwarding stays.
        nodes.opened.leave_by(Gateway::None).await.unwrap();
        nodes.settles(NODE1).await;
        says(&nodes, "SettingsFit", &[]).await;
        assert_eq!(read("ipv4/ip_forward"), "1");
    });
}
