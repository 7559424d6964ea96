//! What a node has, as lines that are compared: whoever did something and undid it finds the same lines as before.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use central::Database;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use linux::{Handle, netns};
use serde_json::Value;

use crate::{Lab, Place};

/// How often a node is looked at while it settles: no one event tells of all that is looked at.
const AGAIN: Duration = Duration::from_millis(100);

/// Links, addresses, routes, sandboxes and ports of a node, and the cluster's `IP` objects and logical ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation(BTreeSet<String>);

impl Observation {
    /// Looks at a node.
    ///
    /// # Errors
    /// When the kernel, a database or the API server does not answer.
    pub async fn of(lab: &Lab, node: Place, client: &Client) -> anyhow::Result<Self> {
        let mut lines = BTreeSet::new();
        links(lab, node, &mut lines).await?;
        lines.extend(netns::list()?.into_iter().filter(|name| lab.layout.name().owns(name)).map(|name| format!("namespace {name}")));
        let switch = |columns: &str, table: &str| rows(lab, "ovs-vsctl", &lab.layout.remote(node, "db"), columns, table);
        // Those between bridges are `ovn-controller`'s, and come with the first port that needs them.
        let ours = |row: &Vec<Value>| !text(&row[0]).starts_with("patch-");
        lines.extend(switch("name", "port")?.iter().filter(|row| ours(row)).map(|row| format!("port {}", text(&row[0]))));
        for row in switch("name,external_ids,error,ingress_policing_rate", "interface")?.into_iter().filter(ours) {
            // `ovn-controller` notes there how far it is.
            let ids = text(&row[1]).split(' ').filter(|pair| !pair.starts_with("ovn-installed")).collect::<Vec<_>>().join(" ");
            lines.insert(format!("interface {} {ids} {} {}", text(&row[0]), text(&row[2]), text(&row[3])).trim_end().to_owned());
        }
        lines.extend(switch("queues,external_ids", "qos")?.iter().map(|row| format!("qos {}", text(&row[1]))));
        let northbound = lab.remotes(Database::Northbound, false);
        let ports = rows(lab, "ovn-nbctl", &northbound, "name,addresses", "logical_switch_port")?;
        lines.extend(ports.iter().map(|row| format!("logical port {} {}", text(&row[0]), text(&row[1]))));
        let ips = Api::<api::v1::Ip>::all(client.clone()).list(&ListParams::default()).await.context("cannot list IP objects")?;
        lines.extend(ips.iter().map(|ip| format!("IP {} {}", ip.name_any(), ip.spec.ip_address.as_deref().unwrap_or_default())));
        Ok(Self(lines))
    }

    /// Looks at the node until it is as this says.
    ///
    /// # Errors
    /// With the difference that is left after `patience`.
    pub async fn comes_back(&self, lab: &Lab, node: Place, client: &Client, patience: Duration) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut ticks = tokio::time::interval(AGAIN);
        loop {
            ticks.tick().await;
            let now = Self::of(lab, node, client).await?;
            if now == *self {
                return Ok(());
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "{node} after {patience:?}:\n{}", self.difference(&now));
        }
    }

    /// What is gone (`-`) and what has come (`+`) since this, a line each; nothing when `now` is the same.
    #[must_use]
    pub fn difference(&self, now: &Self) -> String {
        let gone = self.0.difference(&now.0).map(|line| format!("- {line}\n"));
        gone.chain(now.0.difference(&self.0).map(|line| format!("+ {line}\n"))).collect()
    }

    /// The lines that begin with `kind`.
    pub fn lines(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(move |line| line.starts_with(kind))
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

async fn links(lab: &Lab, node: Place, lines: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let handle = Handle::open(&lab.layout.netns(node)?)?;
    let links = handle.links().await?;
    for link in &links {
        lines.insert(format!("link {} {}", link.name, link.kind).trim_end().to_owned());
        lines.extend(handle.addresses(Some(link.index)).await?.into_iter().map(|prefix| format!("address {} {prefix}", link.name)));
    }
    for route in handle.routes().await? {
        let link = route.device.and_then(|index| links.iter().find(|link| link.index == index)).map_or("", |link| link.name.as_str());
        let via = route.via.map(|via| format!(" via {via}")).unwrap_or_default();
        lines.insert(format!("route {}{via} dev {link} table {}", route.destination, route.table));
    }
    Ok(())
}

/// Rows of a database, as the tools of OVS and OVN print them (`--format=json`: RFC 7047 values).
fn rows(lab: &Lab, program: &str, remote: &str, columns: &str, table: &str) -> anyhow::Result<Vec<Vec<Value>>> {
    let arguments =
        [format!("--db={remote}"), "--format=json".to_owned(), format!("--columns={columns}"), "list".to_owned(), table.to_owned()];
    let printed = lab.parameters.programs().run(None, program, &arguments)?;
    let mut printed: Value = serde_json::from_str(&printed).with_context(|| format!("{program} prints no JSON"))?;
    let data = printed["data"].take();
    serde_json::from_value(data).with_context(|| format!("{program} prints no rows"))
}

/// A value on one line: an atom as it is, a set's members, a map's pairs sorted.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => match (parts.first().and_then(Value::as_str), parts.get(1)) {
            (Some("set"), Some(Value::Array(members))) => members.iter().map(text).collect::<Vec<_>>().join(","),
            (Some("map"), Some(Value::Array(pairs))) => {
                let mut pairs: Vec<_> =
                    pairs.iter().map(|pair| format!("{}={}", text(&pair[0]), text(&pair[1]).replace(' ', "_"))).collect();
                pairs.sort();
                pairs.join(" ")
            }
            (Some(_), Some(value)) => text(value),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_the_tools_are_one_line_in_one_order() {
        assert_eq!(text(&json!("a b")), "a b");
        assert_eq!(text(&json!(["set", []])), "");
        assert_eq!(text(&json!(["set", ["a", 3]])), "a,3");
        assert_eq!(text(&json!(["map", [["b", "x y"], ["a", "1"]]])), "a=1 b=x_y");
        assert_eq!(text(&json!(["uuid", "1-2"])), "1-2");
    }

    #[test]
    fn a_difference_says_what_went_and_what_came() {
        let of = |lines: &[&str]| Observation(lines.iter().map(|line| (*line).to_owned()).collect());
        assert_eq!(of(&["link a", "link b"]).difference(&of(&["link b", "link c"])), "- link a\n+ link c\n");
        assert_eq!(of(&["link a"]).difference(&of(&["link a"])), "");
    }
}
