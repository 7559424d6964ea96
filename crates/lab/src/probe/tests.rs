//! Probes between namespaces joined by veths, two pairs of which hold the same addresses.

use std::time::Duration;

use linux::{Handle, LinkChange, Netns, VethEnd, netns};

use super::{Endpoint, Outcome, Ping};

struct Scratch(String, Netns);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = netns::delete(&self.0);
    }
}

fn scratch(subject: &str) -> Scratch {
    let name = format!("fvt-{}-{subject}", std::process::id());
    let netns = Netns::create(&name).unwrap();
    Scratch(name, netns)
}

/// Two namespaces with 10.0.0.1 and fd00::1 on the one side, 10.0.0.2 and fd00::2 on the other.
async fn joined(subject: &str) -> [Scratch; 2] {
    let sides = [scratch(&format!("{subject}-a")), scratch(&format!("{subject}-b"))];
    let near = VethEnd { name: "eth0", mtu: Some(1400), ..VethEnd::default() };
    let first = Handle::open(&sides[0].1).unwrap();
    first.create_veth(&near, &VethEnd { netns: Some(&sides[1].1), ..near }).await.unwrap();
    for (side, last) in sides.iter().zip([1, 2]) {
        let handle = Handle::open(&side.1).unwrap();
        let eth0 = handle.index("eth0").await.unwrap();
        handle.change(eth0, LinkChange { up: Some(true), no_link_local: true, ..LinkChange::default() }).await.unwrap();
        handle.set_up(handle.index("lo").await.unwrap()).await.unwrap();
        for prefix in [format!("10.0.0.{last}/24"), format!("fd00::{last}/64")] {
            handle.add_address(eth0, prefix.parse().unwrap()).await.unwrap();
        }
    }
    sides
}

async fn within(milliseconds: u64, probe: impl Future<Output = Outcome>) -> Outcome {
    tokio::time::timeout(Duration::from_millis(milliseconds), probe).await.unwrap_or_else(|_| Err("timed out".to_owned()))
}

#[tokio::test]
async fn every_probe_reaches_a_neighbour_over_both_families() {
    let sides = joined("near").await;
    let [a, b] = ["a", "b"].map(|id| Endpoint::open(id, &sides[usize::from(id == "b")].1).unwrap());
    for address in ["10.0.0.2", "fd00::2"].map(|address| address.parse().unwrap()) {
        within(5000, a.tcp(&b, address, 32)).await.unwrap();
        within(9000, a.tcp(&b, address, 10 << 20)).await.unwrap();
        within(5000, a.udp(&b, address)).await.unwrap();
        let ping = Ping { seen_by: Some(&b), answered: true, payload: 56 };
        within(5000, a.ping(address, ping)).await.unwrap();
        within(5000, a.ping(address, Ping { seen_by: None, ..ping })).await.unwrap();
        let header = if address.is_ipv4() { 28 } else { 48 };
        within(5000, a.ping(address, Ping { payload: 1400 - header, ..ping })).await.unwrap();
        let too_long = within(5000, a.ping(address, Ping { payload: 1401 - header, ..ping })).await.unwrap_err();
        assert!(too_long.contains("Message too long"), "{too_long}");
    }
}

#[tokio::test]
async fn reaching_another_with_the_same_address_is_not_reaching_the_target() {
    let (red, blue) = (joined("red").await, joined("blue").await);
    let from = Endpoint::open("red-a", &red[0].1).unwrap();
    let _twin = Endpoint::open("red-b", &red[1].1).unwrap();
    let target = Endpoint::open("blue-b", &blue[1].1).unwrap();
    for address in ["10.0.0.2", "fd00::2"].map(|address| address.parse().unwrap()) {
        assert!(within(700, from.tcp(&target, address, 32)).await.is_err());
        assert!(within(700, from.udp(&target, address)).await.is_err());
        let ping = Ping { seen_by: Some(&target), answered: false, payload: 56 };
        assert_eq!(within(700, from.ping(address, ping)).await, Err("timed out".to_owned()));
    }
}

#[tokio::test]
async fn the_wrong_answerer_is_named() {
    let sides = joined("named").await;
    let from = Endpoint::open("from", &sides[0].1).unwrap();
    let real = Endpoint::open("real", &sides[1].1).unwrap();
    let mut other = Endpoint::open("other", &sides[1].1).unwrap();
    (other.tcp_port, other.udp_port) = (real.tcp_port, real.udp_port);
    let address = "10.0.0.2".parse().unwrap();
    assert_eq!(within(5000, from.tcp(&other, address, 1)).await, Err("answered by \"real\"".to_owned()));
    assert_eq!(within(5000, from.udp(&other, address)).await, Err("answered by \"real\"".to_owned()));
}

#[tokio::test]
async fn a_stream_counts_what_is_answered_and_the_longest_gap() {
    let sides = joined("stream").await;
    let from = Endpoint::open("a", &sides[0].1).unwrap();
    let pace = Duration::from_millis(2);
    let whole = from.stream("10.0.0.2".parse().unwrap(), pace, tokio::time::sleep(Duration::from_millis(200))).await.unwrap();
    assert!(whole.sent > 50 && whole.lost() == 0 && whole.gap == Duration::ZERO, "{whole}");
    let none = from.stream("10.0.0.3".parse().unwrap(), pace, tokio::time::sleep(Duration::from_millis(20))).await.unwrap();
    assert!(none.answered == 0 && none.gap == pace * u32::try_from(none.sent).unwrap(), "{none}");
}

#[tokio::test]
async fn a_rate_is_what_arrives_in_a_second() {
    let sides = joined("rate").await;
    for address in ["10.0.0.2", "fd00::2"].map(|address| address.parse().unwrap()) {
        let period = Duration::from_millis(100);
        let rate = super::rate(&sides[0].1, &sides[1].1, address, period, period).await.unwrap();
        assert!(rate > 1e6, "{rate} B/s");
    }
}
