//! The nftables table of the way out: who leaves under the node's address, and who leaves at all.

use api::Transit;
use ipnet::IpNet;
use linux::nft::schema::NfListObject;
use linux::nft::types::NfFamily;
use linux::{Netns, TableChanges};
use serde_json::{Value, json};

use super::exits::{Exception, Exits, Leaving, Other, Translated};
use super::{BRIDGE, GatewayError, PORT};

/// Name of the table, of the family `inet`.
const TABLE: &str = "ferrovia";

/// Puts the table in the place of whatever it holds, in one step.
pub(super) fn install(netns: &Netns, exits: &Exits) -> Result<(), GatewayError> {
    let content: Vec<NfListObject<'static>> = serde_json::from_value(content(exits))?;
    Ok(linux::nft::replace_table(netns, NfFamily::INet, TABLE, content)?)
}

/// Who says that something of the table was taken away.
pub(super) fn changes(netns: &Netns) -> linux::Result<TableChanges> {
    TableChanges::open(netns, NfFamily::INet, TABLE)
}

/// Takes the table away.
pub(super) fn remove(netns: &Netns) -> linux::Result<()> {
    linux::nft::delete_table(netns, NfFamily::INet, TABLE)
}

/// Chains and rules, as libnftables-json(5) spells them.
fn content(exits: &Exits) -> Value {
    let mut chains = vec![("postrouting", "nat", "postrouting", 100, translation(exits))];
    if !exits.others.is_empty() {
        // Before connections are tracked, and before destinations are translated.
        chains.push(("sources", "filter", "prerouting", -300, sources(&exits.others)));
        chains.push(("vpcs", "filter", "forward", 0, between(exits)));
    }
    let chain = |(name, kind, hook, priority, rules): (&str, &str, &str, i32, Vec<Vec<Value>>)| {
        let chain = json!({ "chain": {
            "family": "inet", "table": TABLE, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        }});
        let rules = rules.into_iter().map(|expressions| json!({ "family": "inet", "table": TABLE, "chain": name, "expr": expressions }));
        std::iter::once(chain).chain(rules.map(|rule| json!({ "rule": rule }))).collect::<Vec<_>>()
    };
    chains.into_iter().flat_map(chain).collect()
}

/// Who leaves under the node's address.
fn translation(exits: &Exits) -> Vec<Vec<Value>> {
    let mut rules = vec![vec![meta("oifname", &[BRIDGE]), accept()]];
    // What goes to pods is not translated.
    rules.extend(families(&exits.ranges()).filter_map(|ranges| Some(vec![among("daddr", &ranges)?, accept()])));
    for Exception { of, sources, destinations, translated } in exits.leaving().flat_map(|leaving| &leaving.exceptions) {
        let verdict = if *translated { translate(of) } else { accept() };
        let matches = [among("saddr", &[of.range]), among("saddr", sources), among("daddr", destinations)];
        rules.push(matches.into_iter().flatten().chain([verdict]).collect());
    }
    let (fixed, by_node): (Vec<_>, Vec<_>) =
        exits.leaving().flat_map(|leaving| leaving.translated.iter().copied()).partition(|translated| translated.under.is_some());
    rules.extend(fixed.iter().filter_map(|translated| Some(vec![among("saddr", &[translated.range])?, translate(translated)])));
    let by_node: Vec<IpNet> = by_node.iter().map(|translated| translated.range).collect();
    rules.extend(families(&by_node).filter_map(|ranges| Some(vec![among("saddr", &ranges)?, masquerade()])));
    rules
}

/// From a VPC comes what is under addresses to which there is a way back (RFC 2827). A packet's sender on the bridge is its VPC's router.
fn sources(others: &[Other]) -> Vec<Vec<Value>> {
    let mut rules = Vec::new();
    for Other { link, leaving, .. } in others {
        let from = [meta("iifname", &[BRIDGE]), ether("==", &[*link])];
        for ranges in families(&leaving.ranges) {
            rules.extend(among("saddr", &ranges).map(|own| from.iter().cloned().chain([own, accept()]).collect()));
        }
        rules.push(from.into_iter().chain([drop_it()]).collect());
    }
    rules
}

/// No VPC reaches another one by the host's stack, whatever address a packet's destination was before it was translated.
fn between(exits: &Exits) -> Vec<Vec<Value>> {
    let rules = |from: Vec<Value>, to: Vec<&Leaving>| {
        let ranges: Vec<IpNet> = to.iter().flat_map(|leaving| &leaving.ranges).copied().collect();
        let rule = |ranges: Vec<IpNet>| Some(from.iter().cloned().chain([among("daddr", &ranges)?, drop_it()]).collect::<Vec<_>>());
        families(&ranges).filter_map(rule).collect::<Vec<_>>()
    };
    let links: Vec<u16> = exits.others.iter().map(|other| other.link).collect();
    let others = exits.others.iter().map(|other| &other.leaving).collect();
    let mut all = rules(vec![meta("iifname", &[BRIDGE, PORT]), ether("!=", &links)], others);
    for Other { link, leaving, .. } in &exits.others {
        let rest = exits.leaving().filter(|other| !std::ptr::eq(*other, leaving)).collect();
        all.extend(rules(vec![meta("iifname", &[BRIDGE]), ether("==", &[*link])], rest));
    }
    all
}

/// That a packet's link is one of these.
fn meta(key: &str, links: &[&str]) -> Value {
    json!({ "match": { "op": "==", "left": { "meta": { "key": key } }, "right": { "set": links } } })
}

/// That a packet's sender on the link is, or is not, the router of one of these links.
fn ether(op: &str, links: &[u16]) -> Value {
    let macs: Vec<String> = links.iter().map(|link| Transit::numbered_mac(*link).to_string()).collect();
    json!({ "match": { "op": op, "left": { "payload": { "protocol": "ether", "field": "saddr" } }, "right": { "set": macs } } })
}

fn drop_it() -> Value {
    json!({ "drop": null })
}

fn accept() -> Value {
    json!({ "accept": null })
}

fn masquerade() -> Value {
    json!({ "masquerade": null })
}

/// To the address of a range, or to that of the link by which the packet leaves.
fn translate(of: &Translated) -> Value {
    match of.under {
        Some(address) => json!({ "snat": { "family": if address.is_ipv4() { "ip" } else { "ip6" }, "addr": address } }),
        None => masquerade(),
    }
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
        let of =
            |range: &str, under: Option<&str>| Translated { range: range.parse().unwrap(), under: under.map(|text| text.parse().unwrap()) };
        let exception = |destinations: &[&str], translated| Exception {
            of: of("10.16.0.0/16", None),
            sources: Vec::new(),
            destinations: nets(destinations),
            translated,
        };
        let own = Leaving {
            ranges: nets(&["10.16.0.0/16", "10.18.0.0/16", "fd00::/64"]),
            translated: vec![of("10.16.0.0/16", None), of("10.18.0.0/16", Some("192.0.2.1")), of("fd00::/64", Some("fd00::1"))],
            exceptions: vec![exception(&["192.0.2.7/32"], true), exception(&["192.0.2.0/24", "192.0.2.128/25"], false)],
            ..Leaving::default()
        };
        let exits = Exits { own, ..Exits::default() };
        let content = content(&exits);
        let objects: Vec<NfListObject<'_>> = serde_json::from_value(content.clone()).unwrap();
        // Chain, bridge, pods of two families, two exceptions, three translations.
        assert_eq!(objects.len(), 9);
        let texts: Vec<String> = content.as_array().unwrap().iter().map(ToString::to_string).collect();
        assert!(texts[2].contains("10.16.0.0") && texts[2].contains("10.18.0.0") && texts[2].contains("accept"), "{}", texts[2]);
        assert!(texts[3].contains("fd00::") && texts[3].contains("ip6"), "{}", texts[3]);
        assert!(texts[4].contains("192.0.2.7") && texts[4].contains("masquerade"), "{}", texts[4]);
        assert!(texts[5].contains("192.0.2.0") && !texts[5].contains("192.0.2.128") && texts[5].contains("accept"), "{}", texts[5]);
        assert!(texts[6].contains("10.18.0.0") && texts[6].contains(r#""snat":{"addr":"192.0.2.1","family":"ip"}"#), "{}", texts[6]);
        assert!(texts[7].contains(r#""snat":{"addr":"fd00::1","family":"ip6"}"#), "{}", texts[7]);
        assert!(texts[8].contains("10.16.0.0") && texts[8].contains("masquerade"), "{}", texts[8]);
    }

    #[test]
    fn vpcs_are_told_apart_by_their_routers() {
        let other = |vpc: &str, link, ranges: &[&str]| Other {
            vpc: vpc.to_owned(),
            link,
            leaving: Leaving { ranges: nets(ranges), ..Leaving::default() },
        };
        let others = vec![other("blue", 7, &["10.20.0.0/16"]), other("red", 8, &[])];
        let exits = Exits { own: Leaving { ranges: nets(&["10.16.0.0/16"]), ..Leaving::default() }, others, central: false };
        let content = content(&exits);
        serde_json::from_value::<Vec<NfListObject<'_>>>(content.clone()).unwrap();
        let rules = |chain: &str| -> Vec<String> {
            let rules = content.as_array().unwrap().iter().filter(|object| object["rule"]["chain"] == chain);
            rules.map(ToString::to_string).collect()
        };
        let sources = rules("sources");
        assert_eq!(sources.len(), 3, "one range, and what is under another address, of each VPC");
        assert!(sources[0].contains("0e:fe:00:01:00:07") && sources[0].contains("10.20.0.0"), "{}", sources[0]);
        assert!(sources[2].contains("0e:fe:00:01:00:08") && sources[2].contains("drop"), "{}", sources[2]);
        let between = rules("vpcs");
        assert_eq!(between.len(), 3, "{between:?}");
        assert!(between[0].contains("!=") && between[0].contains("10.20.0.0") && !between[0].contains("10.16.0.0"), "{}", between[0]);
        assert!(between[1].contains("00:07") && between[1].contains("10.16.0.0"), "{}", between[1]);
        assert!(between[2].contains("00:08") && between[2].contains("10.16.0.0") && between[2].contains("10.20.0.0"), "{}", between[2]);
    }
}
