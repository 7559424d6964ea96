//! The nftables table of the way out: who leaves under the node's address.

use ipnet::IpNet;
use linux::Netns;
use linux::nft::schema::NfListObject;
use linux::nft::types::NfFamily;
use serde_json::{Value, json};

use super::{BRIDGE, Exception, Exits, GatewayError};

/// Name of the table, of the family `inet`.
const TABLE: &str = "ferrovia";
const CHAIN: &str = "postrouting";

/// Puts the table in the place of whatever it holds, in one step.
pub(super) fn install(netns: &Netns, exits: &Exits) -> Result<(), GatewayError> {
    let content: Vec<NfListObject<'static>> = serde_json::from_value(content(exits))?;
    Ok(linux::nft::replace_table(netns, NfFamily::INet, TABLE, content)?)
}

/// Takes the table away.
pub(super) fn remove(netns: &Netns) -> linux::Result<()> {
    linux::nft::delete_table(netns, NfFamily::INet, TABLE)
}

/// Chain and rules, as libnftables-json(5) spells them.
fn content(exits: &Exits) -> Value {
    let mut rules = vec![vec![json!({ "match": { "op": "==", "left": { "meta": { "key": "oifname" } }, "right": BRIDGE } }), accept()]];
    // What goes to pods is not translated.
    rules.extend(families(&exits.ranges).filter_map(|ranges| Some(vec![among("daddr", &ranges)?, accept()])));
    for Exception { range, sources, destinations, translated } in &exits.exceptions {
        let verdict = if *translated { masquerade() } else { accept() };
        let matches = [among("saddr", &[*range]), among("saddr", sources), among("daddr", destinations)];
        rules.push(matches.into_iter().flatten().chain([verdict]).collect());
    }
    rules.extend(families(&exits.translated).filter_map(|ranges| Some(vec![among("saddr", &ranges)?, masquerade()])));
    let chain = json!({ "chain": {
        "family": "inet", "table": TABLE, "name": CHAIN, "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept",
    }});
    let rules =
        rules.into_iter().map(|expressions| json!({ "rule": { "family": "inet", "table": TABLE, "chain": CHAIN, "expr": expressions } }));
    std::iter::once(chain).chain(rules).collect()
}

fn accept() -> Value {
    json!({ "accept": null })
}

fn masquerade() -> Value {
    json!({ "masquerade": null })
}

/// The ranges of each family.
fn families(ranges: &[IpNet]) -> impl Iterator<Item = Vec<IpNet>> {
    [true, false].into_iter().map(|is_v4| ranges.iter().copied().filter(|range| range.addr().is_ipv4() == is_v4).collect())
}

/// That a field of the packet is in one of the ranges, which are of one family; nothing for none.
fn among(field: &str, ranges: &[IpNet]) -> Option<Value> {
    let protocol = if ranges.first()?.addr().is_ipv4() { "ip" } else { "ip6" };
    // Of two that overlap, nft takes only the wider.
    let prefixes =
        IpNet::aggregate(&ranges.to_vec()).into_iter().map(|net| json!({ "prefix": { "addr": net.network(), "len": net.prefix_len() } }));
    let field = json!({ "payload": { "protocol": protocol, "field": field } });
    Some(json!({ "match": { "op": "==", "left": field, "right": { "set": prefixes.collect::<Vec<_>>() } } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn exceptions_come_before_what_is_translated_and_families_stay_apart() {
        let exception = |destinations: &[&str], translated| Exception {
            range: "10.16.0.0/16".parse().unwrap(),
            sources: Vec::new(),
            destinations: nets(destinations),
            translated,
        };
        let exits = Exits {
            ranges: nets(&["10.16.0.0/16", "10.18.0.0/16", "fd00::/64"]),
            translated: nets(&["10.16.0.0/16"]),
            exceptions: vec![exception(&["192.0.2.7/32"], true), exception(&["192.0.2.0/24", "192.0.2.128/25"], false)],
        };
        let content = content(&exits);
        let objects: Vec<NfListObject<'_>> = serde_json::from_value(content.clone()).unwrap();
        // Chain, bridge, pods of two families, two exceptions, one translation.
        assert_eq!(objects.len(), 7);
        let texts: Vec<String> = content.as_array().unwrap().iter().map(ToString::to_string).collect();
        assert!(texts[2].contains("10.16.0.0") && texts[2].contains("10.18.0.0") && texts[2].contains("accept"), "{}", texts[2]);
        assert!(texts[3].contains("fd00::") && texts[3].contains("ip6"), "{}", texts[3]);
        assert!(texts[4].contains("192.0.2.7") && texts[4].contains("masquerade"), "{}", texts[4]);
        assert!(texts[5].contains("192.0.2.0") && !texts[5].contains("192.0.2.128") && texts[5].contains("accept"), "{}", texts[5]);
        assert!(texts[6].contains("saddr") && texts[6].contains("masquerade"), "{}", texts[6]);
    }
}
