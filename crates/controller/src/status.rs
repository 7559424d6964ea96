//! Status objects from what the rules say.

use api::annotations::join;
use api::{Condition, DEFAULT_VPC, v1};
use ipam::{AddressRanges, Holding};
use topology::{Allocation, NetworkState, Problem, SubnetState, VlanState, VpcState};
use uuid::Uuid;

use crate::core::Addresses;
use crate::inputs::ShownVip;

/// Type of the condition that says whether something is held until a person confirms it.
const REMOVAL_HELD: &str = "RemovalHeld";

/// The condition of the default VPC that says what is held, unless nothing is nor was.
pub(crate) fn removal_held(held: Option<String>, shown: &[Condition]) -> Option<Condition> {
    let (status, message) = match held {
        Some(message) => ("True", message),
        None => ("False", String::new()),
    };
    let shown = shown.iter().any(|condition| condition.r#type == REMOVAL_HELD);
    (shown || status == "True").then(|| Condition {
        r#type: REMOVAL_HELD.to_owned(),
        status: status.to_owned(),
        reason: if status == "True" { "WaitsForConfirmation" } else { "NothingHeld" }.to_owned(),
        message,
        ..Condition::default()
    })
}

/// The status of a VPC, to be compared with the one shown.
pub(crate) fn vpc(
    name: &str,
    state: &VpcState,
    generation: Option<i64>,
    default_subnet: Option<&str>,
    held: Option<Condition>,
) -> v1::VpcStatus {
    let note = state.told().map(|problem| problem.message).unwrap_or_default();
    let ready = ready(state.problem.as_ref(), state.waiting.as_ref(), &note, generation);
    v1::VpcStatus {
        conditions: Some(std::iter::once(ready).chain(held).collect()),
        standby: Some(true),
        default: Some(name == DEFAULT_VPC),
        default_logical_switch: default_subnet.map(str::to_owned),
        router: Some(name.to_owned()),
        subnets: Some(state.subnets.iter().map(ToString::to_string).collect()),
        ..v1::VpcStatus::default()
    }
}

/// The status of a subnet, to be compared with the one shown.
pub(crate) fn subnet(
    state: &SubnetState,
    blocked: Option<&Problem>,
    addresses: &Addresses,
    dhcp: [Option<Uuid>; 2],
    generation: Option<i64>,
    gateway: Option<Option<&str>>,
    shown: &v1::SubnetStatus,
) -> v1::SubnetStatus {
    let note =
        if state.refused.is_empty() { String::new() } else { format!("overlapping subnets are refused: {}", state.refused.join(", ")) };
    let works = state.network.is_ok();
    #[allow(clippy::cast_precision_loss)] // the API's own type is a JSON number
    let count = |n: u128| works.then_some(n as f64);
    let ranges = |list: &AddressRanges| works.then(|| spelled(list));
    let Addresses { usage, used, available } = addresses;
    let found = state.interconnection.as_ref().and_then(|found| found.as_ref().ok());
    let found = found.and_then(|found| Some((&found.vpc, found.held.as_ref()?)));
    // What is no more is shown no more; most subnets never show anything.
    let router = |shown: &Option<String>, text: fn((&std::sync::Arc<str>, &Allocation)) -> String| {
        found.map(text).or_else(|| shown.as_ref().map(|_| String::new()))
    };
    let row = |shown: &Option<String>, row: Option<Uuid>| row.map(|row| row.to_string()).or_else(|| shown.as_ref().map(|_| String::new()));
    let [v4, v6] = dhcp;
    v1::SubnetStatus {
        conditions: Some(vec![ready(state.network.as_ref().err().or(blocked), state.waiting.as_ref(), &note, generation)]),
        v4_available_ips: count(usage.v4_available),
        v4_using_ips: count(usage.v4_used),
        v6_available_ips: count(usage.v6_available),
        v6_using_ips: count(usage.v6_used),
        v4_available_ip_range: ranges(&available.v4),
        v4_using_ip_range: ranges(&used.v4),
        v6_available_ip_range: ranges(&available.v6),
        v6_using_ip_range: ranges(&used.v6),
        dhcp_v4_options_uuid: row(&shown.dhcp_v4_options_uuid, v4),
        dhcp_v6_options_uuid: row(&shown.dhcp_v6_options_uuid, v6),
        // Not told before it is known.
        activate_gateway: gateway
            .and_then(|node| node.map(str::to_owned).or_else(|| shown.activate_gateway.as_ref().map(|_| String::new()))),
        u2o_interconnection_ip: router(&shown.u2o_interconnection_ip, |(_, held)| join(&held.addresses)),
        u2o_interconnection_mac: router(&shown.u2o_interconnection_mac, |(_, held)| held.mac.to_string()),
        u2o_interconnection_vpc: router(&shown.u2o_interconnection_vpc, |(vpc, _)| vpc.to_string()),
        ..v1::SubnetStatus::default()
    }
}

/// The status of a provider network, to be compared with the one shown.
pub(crate) fn provider_network(state: &NetworkState, generation: Option<i64>) -> v1::ProviderNetworkStatus {
    let names = |names: &[std::sync::Arc<str>]| Some(names.iter().map(ToString::to_string).collect());
    v1::ProviderNetworkStatus {
        conditions: Some(vec![ready(state.problem.as_ref(), state.waiting.as_ref(), "", generation)]),
        ready: Some(state.problem.is_none()),
        ready_nodes: names(&state.ready),
        not_ready_nodes: names(&state.not_ready),
        vlans: names(&state.vlans),
    }
}

/// The status of a Vlan, to be compared with the one shown.
pub(crate) fn vlan(state: &VlanState, generation: Option<i64>) -> v1::VlanStatus {
    v1::VlanStatus {
        conditions: Some(vec![ready(state.problem.as_ref(), state.waiting.as_ref(), "", generation)]),
        conflict: Some(state.conflict),
        subnets: Some(state.subnets.iter().map(ToString::to_string).collect()),
    }
}

/// The status of a pool, to be compared with the one shown.
pub(crate) fn pool(problem: Option<&Problem>, addresses: &Addresses, generation: Option<i64>) -> v1::IpPoolStatus {
    #[allow(clippy::cast_precision_loss)] // the API's own type is a JSON number
    let count = |n: u128| problem.is_none().then_some(n as f64);
    let ranges = |list: &AddressRanges| problem.is_none().then(|| spelled(list));
    let Addresses { usage, used, available } = addresses;
    v1::IpPoolStatus {
        conditions: Some(vec![ready(problem, None, "", generation)]),
        v4_available_ips: count(usage.v4_available),
        v4_using_ips: count(usage.v4_used),
        v6_available_ips: count(usage.v6_available),
        v6_using_ips: count(usage.v6_used),
        v4_available_ip_range: ranges(&available.v4),
        v4_using_ip_range: ranges(&used.v4),
        v6_available_ip_range: ranges(&available.v6),
        v6_using_ip_range: ranges(&used.v6),
    }
}

/// The status of a virtual IP, to be compared with the one shown.
pub(crate) fn vip(problem: Option<&Problem>, held: Option<&Holding>, shown: &ShownVip) -> v1::VipStatus {
    // What it holds no more is shown no more.
    let family = |v4: bool| held.and_then(|held| held.addresses.iter().find(|ip| ip.is_ipv4() == v4)).map(ToString::to_string);
    v1::VipStatus {
        // The kind has no status subresource: its generation counts the writes of its status, too, and would be run after forever.
        conditions: Some(vec![ready(problem, None, "", None)]),
        r#type: Some(shown.r#type.clone()),
        v4_ip: Some(family(true).unwrap_or_default()),
        v6_ip: Some(family(false).unwrap_or_default()),
        mac: Some(held.map(|held| held.mac.to_string()).unwrap_or_default()),
        selector: Some(shown.selector.clone()),
    }
}

/// Ranges as a status shows them. Of very many the first, since an object has its limits; the counts tell of all.
fn spelled(ranges: &AddressRanges) -> String {
    const SHOWN: usize = 512;
    if ranges.0.len() <= SHOWN {
        return ranges.to_string();
    }
    format!("{},...", AddressRanges(ranges.0[..SHOWN].to_vec()))
}

fn ready(problem: Option<&Problem>, waiting: Option<&Problem>, note: &str, generation: Option<i64>) -> Condition {
    let (status, reason, message) = match (problem, waiting) {
        (Some(p), _) => ("False", p.reason, p.message.as_str()),
        (None, Some(w)) => ("True", w.reason, w.message.as_str()),
        (None, None) => ("True", "Ready", note),
    };
    Condition {
        r#type: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        ..Condition::default()
    }
}

/// Gives the wanted conditions their times: `now`, unless the shown one says the same already. Other conditions that are
/// shown stay. Returns `None` when nothing differs.
pub(crate) fn stamp(wanted: &[Condition], shown: &[Condition], now: &str) -> Option<Vec<Condition>> {
    let mut changed = false;
    let mut out: Vec<Condition> = shown.iter().filter(|s| wanted.iter().all(|w| w.r#type != s.r#type)).cloned().collect();
    for condition in wanted {
        let old = shown.iter().find(|s| s.r#type == condition.r#type);
        let same = old.is_some_and(|o| {
            (&o.status, &o.reason, &o.message, o.observed_generation)
                == (&condition.status, &condition.reason, &condition.message, condition.observed_generation)
        });
        if let (true, Some(old)) = (same, old) {
            out.push(old.clone());
            continue;
        }
        changed = true;
        let transition = old.filter(|o| o.status == condition.status).and_then(|o| o.last_transition_time.clone());
        out.push(Condition {
            last_update_time: Some(now.to_owned()),
            last_transition_time: Some(transition.unwrap_or_else(|| now.to_owned())),
            ..condition.clone()
        });
    }
    changed.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_times_until_it_changes() {
        let one = ready(None, None, "", Some(1));
        let first = stamp(std::slice::from_ref(&one), &[], "t1").unwrap();
        assert_eq!(stamp(std::slice::from_ref(&one), &first, "t2"), None);
        let noted = ready(None, None, "note", Some(1));
        let second = stamp(&[noted], &first, "t2").unwrap();
        assert_eq!((second[0].last_update_time.as_deref(), second[0].last_transition_time.as_deref()), (Some("t2"), Some("t1")));
        let broken = ready(Some(&Problem { reason: "Overlap", message: "m".into() }), None, "", Some(2));
        let third = stamp(&[broken], &second, "t3").unwrap();
        assert_eq!((third[0].status.as_str(), third[0].last_transition_time.as_deref()), ("False", Some("t3")));
    }
}
