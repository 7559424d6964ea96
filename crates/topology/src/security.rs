//! Port security: which senders the switch lets through from a NIC.

use std::net::IpAddr;

use api::annotations::PortSecurity;
use api::{MacAddr, OVN_PROVIDER, networks};
use engine::Cx;

use crate::fact::Problem;
use crate::world::{Allocation, NicKey, Vip, World};

/// The elements of `port_security`, ovn-nb(5): MAC, then addresses; nothing when every sender is let through. What is not as the
/// annotations ask is told, and the rest holds.
pub(crate) fn pairs(
    cx: &mut Cx<'_, World>,
    key: &NicKey,
    nic: &Allocation,
    security: Option<&PortSecurity>,
) -> (Vec<String>, Option<Problem>) {
    let Some(security) = security else { return (Vec::new(), None) };
    let mut wrong: Vec<Problem> = security.wrong.iter().map(|why| Problem { reason: "BadAnnotation", message: why.clone() }).collect();
    let mut pairs = Vec::new();
    if security.enabled {
        let mut own: Vec<IpAddr> = nic.addresses.iter().chain(&security.addresses).copied().collect();
        let mut others = Vec::new();
        for name in &security.vips {
            match cx.get::<Allocation>(&NicKey::of_vip(name)) {
                Some(held) => {
                    own.extend(&held.addresses);
                    others.push(pair(held.mac, &held.addresses));
                }
                None => {
                    let why = if cx.get::<Vip>(&name.as_ref().into()).is_some() { "holds no address" } else { "does not exist" };
                    let annotation = networks::key(key.provider.as_deref().unwrap_or(OVN_PROVIDER), "aaps");
                    wrong.push(Problem { reason: "NoVip", message: format!("annotation {annotation}: Vip {name:?} {why}") });
                }
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        // Who asks a server for its address has any.
        own.retain(|ip| !nic.addresses.is_empty() && seen.insert(*ip));
        pairs.push(pair(nic.mac, &own));
        pairs.extend(others);
        pairs.sort();
        pairs.dedup();
    }
    let message = wrong.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
    (pairs, wrong.first().map(|first| Problem { reason: first.reason, message }))
}

/// MAC, then addresses, separated by blanks: an element of `addresses` and of `port_security`, ovn-nb(5).
pub(crate) fn pair(mac: MacAddr, addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).fold(mac.to_string(), |text, ip| text + " " + &ip)
}
