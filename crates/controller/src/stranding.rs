//! Changes of a subnet that would strand who holds an address there: what is in force stays until they are gone.

use std::net::IpAddr;
use std::sync::Arc;

use api::{Cidrs, annotations};
use ipam::{Ipam, Owner};
use topology::{Problem, Subnet, SubnetSpec};

/// Holders that are named; of more only the number is told.
const NAMED: usize = 10;

/// A change that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The subnet as the user wants it.
    pub(crate) wanted: Subnet,
    pub(crate) problem: Problem,
    /// What is in force, as the annotation spells it.
    pub(crate) in_force: String,
}

/// Ranges and gateways of a subnet.
pub(crate) type Network = (Cidrs, Vec<IpAddr>);

/// The change from `now` to `wanted`, if it must wait. `known` says whether the allocator knows all holders.
pub(crate) fn waits(ipam: &Ipam, known: bool, name: &str, now: &Network, wanted: &Subnet) -> Option<Waiting> {
    let spec = wanted.spec.as_ref().ok()?;
    if (&spec.cidrs, &spec.gateways) == (&now.0, &now.1) {
        return None;
    }
    // An address that is excluded stays with its holder; one outside the ranges, or the gateway's, does not work any more.
    let gateways = spec.gateways.iter().map(|ip| (*ip, *ip)).collect();
    let mut stranded = ipam.stranded(name, &ipam::SubnetSpec::new(Arc::clone(&spec.vpc), spec.cidrs, gateways));
    // The router of the VPC goes along.
    let router = api::interconnection_port(&spec.vpc, name);
    stranded.retain(|(owner, _)| **owner != *router);
    if stranded.is_empty() && known {
        return None;
    }
    let in_force = format!("{} via {}", now.0, annotations::join(&now.1));
    Some(Waiting { wanted: wanted.clone(), problem: problem(spec, &in_force, &stranded), in_force })
}

fn problem(spec: &SubnetSpec, in_force: &str, stranded: &[(Owner, IpAddr)]) -> Problem {
    let named: Vec<String> = stranded.iter().take(NAMED).map(|(owner, ip)| format!("{ip} of {owner}")).collect();
    let more = stranded.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let wanted =
        if spec.cidrs.is_empty() { "no range".to_owned() } else { format!("{} via {}", spec.cidrs, annotations::join(&spec.gateways)) };
    let message = format!("spec.cidrBlock, spec.gateway: {wanted} would strand {}{more}; in force is {in_force}", named.join(", "));
    Problem { reason: "Stranded", message }
}

/// The subnet with ranges and gateways that are in force in place of those that it wants.
pub(crate) fn with(mut subnet: Subnet, (cidrs, gateways): Network) -> Subnet {
    if let Ok(spec) = &mut subnet.spec {
        (spec.cidrs, spec.gateways) = (cidrs, gateways);
    }
    subnet
}
