//! Settings of the node's kernel that pods need to be reached and to leave: made what they must be, and told by the node's condition
//! `HostReady`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node as NodeObject, NodeCondition};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use linux::{Netns, sysctl};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::node::{Node, PAUSE};

/// Type of the condition.
const CONDITION: &str = "HostReady";

/// What became of a setting that was not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Setting {
    /// It was otherwise, and has been set.
    Changed { found: String, value: &'static str },
    /// It is otherwise, and cannot be set.
    Wrong { value: &'static str, why: String },
}

/// By their paths under `/proc/sys`.
type Found = BTreeMap<String, Setting>;

/// What is known of settings.
#[derive(Debug, Default)]
struct Seen {
    /// Whether all were looked at once: nothing is told before.
    all: bool,
    /// Those that were found otherwise.
    found: Found,
}

/// Settings that somebody requires.
pub(crate) struct Settings {
    netns: Netns,
    seen: watch::Sender<Seen>,
}

impl Settings {
    pub(crate) fn new(netns: Netns) -> Self {
        Self { netns, seen: watch::Sender::default() }
    }

    /// Makes a setting what it must be.
    ///
    /// # Errors
    /// When there is none, or it cannot be set.
    pub(crate) fn require(&self, key: &str, value: &'static str) -> linux::Result<()> {
        let shown = sysctl::read(&self.netns, key);
        if shown.as_ref().is_ok_and(|shown| shown == value) {
            // It may have been changed by us.
            self.update(|all| matches!(all.get(key), Some(Setting::Wrong { .. })) && all.remove(key).is_some());
            return Ok(());
        }
        let set = shown.and_then(|found| sysctl::write(&self.netns, key, value).map(|()| found));
        let setting = match &set {
            Ok(found) => {
                tracing::info!(key, %found, value, "kernel setting");
                Setting::Changed { found: found.clone(), value }
            }
            Err(error) => Setting::Wrong { value, why: error.to_string() },
        };
        self.update(|all| all.insert(key.to_owned(), setting.clone()) != Some(setting));
        set.map(drop)
    }

    /// A setting that is needed no more, whatever it is by now.
    pub(crate) fn forget(&self, key: &str) {
        self.update(|all| all.remove(key).is_some());
    }

    /// All were looked at: what was set on links that are gone has gone with them.
    pub(crate) fn looked(&self) {
        let of_link = |key: &str| key.contains("/conf/") && !key.contains("/conf/all/");
        let gone = |key: &str| of_link(key) && sysctl::read(&self.netns, key).is_err_and(|error| error.is_missing());
        self.seen.send_if_modified(|seen| {
            let before = seen.found.len();
            seen.found.retain(|key, _| !gone(key));
            !std::mem::replace(&mut seen.all, true) || seen.found.len() != before
        });
    }

    fn update(&self, change: impl FnOnce(&mut Found) -> bool) {
        self.seen.send_if_modified(|seen| change(&mut seen.found) && seen.all);
    }
}

/// Keeps the node's condition true until `shutdown`.
pub(crate) async fn tell(node: &Node, client: kube::Client, shutdown: &CancellationToken) {
    let nodes: Api<NodeObject> = Api::all(client);
    let mut seen = node.settings.seen.subscribe();
    let mut shown: Option<Said> = None;
    loop {
        let wanted = {
            let seen = seen.borrow_and_update();
            seen.all.then(|| said(&seen.found))
        };
        let mut failed = false;
        if let Some(wanted) = wanted {
            let told = say(&nodes, &node.config.node, &wanted, &mut shown).await;
            failed = told.inspect_err(|error| tracing::warn!(%error, "the node's condition cannot be written; tried again")).is_err();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = seen.changed() => if changed.is_err() { return },
            () = sleep(PAUSE), if failed => {}
        }
    }
}

/// Status, reason and message of the condition.
type Said = (&'static str, &'static str, String);

/// Writes the condition, if it is another one.
async fn say(nodes: &Api<NodeObject>, node: &str, wanted: &Said, shown: &mut Option<Said>) -> Result<(), kube::Error> {
    if shown.as_ref() == Some(wanted) {
        return Ok(());
    }
    let object = nodes.get(node).await?;
    let conditions = object.status.and_then(|status| status.conditions).unwrap_or_default();
    let there = conditions.iter().find(|condition| condition.type_ == CONDITION);
    if let Some(patch) = patch(wanted, there, Timestamp::now()) {
        nodes.patch_status(node, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    }
    *shown = Some(wanted.clone());
    Ok(())
}

/// The patch that makes the condition say so; `None` when it does. Conditions of others stay, and theirs leave this one alone.
fn patch((status, reason, message): &Said, there: Option<&NodeCondition>, now: Timestamp) -> Option<Value> {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let is = |there: &NodeCondition| {
        there.status == *status && there.reason.as_deref() == Some(reason) && there.message.as_deref() == Some(message)
    };
    if there.is_some_and(is) {
        return None;
    }
    let mut condition = json!({ "type": CONDITION, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": now });
    if there.is_none_or(|there| there.status != *status) {
        condition["lastTransitionTime"] = json!(now);
    }
    Some(json!({ "status": { "conditions": [condition] } }))
}

fn said(all: &Found) -> Said {
    let texts = |wrong: bool| {
        let of = all.iter().filter(|(_, setting)| matches!(setting, Setting::Wrong { .. }) == wrong);
        let text = |(key, setting): (&String, &Setting)| match setting {
            Setting::Changed { found, value } => format!("{} was {found}, and has been set to {value}", spell(key)),
            Setting::Wrong { value, why } => format!("{} must be {value}: {why}", spell(key)),
        };
        of.map(text).collect::<Vec<_>>()
    };
    let (wrong, changed) = (texts(true), texts(false));
    match (wrong.is_empty(), changed.is_empty()) {
        (false, _) => ("False", "SettingWrong", [wrong, changed].concat().join("; ")),
        (true, false) => ("True", "SettingChanged", changed.join("; ")),
        (true, true) => ("True", "SettingsFit", "the kernel's settings are as they must be".to_owned()),
    }
}

/// As sysctl(8) names it: dots in names of links are slashes there.
fn spell(key: &str) -> String {
    let swapped = |c| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    key.chars().map(swapped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_names_what_is_wrong_first_and_what_was_found() {
        let mut all = Found::new();
        assert_eq!(said(&all).1, "SettingsFit");
        all.insert("net/ipv4/conf/eth0.7/rp_filter".to_owned(), Setting::Changed { found: "1".to_owned(), value: "2" });
        assert_eq!(said(&all), ("True", "SettingChanged", "net.ipv4.conf.eth0/7.rp_filter was 1, and has been set to 2".to_owned()));
        all.insert("net/ipv4/ip_forward".to_owned(), Setting::Wrong { value: "1", why: "read-only".to_owned() });
        let (status, reason, message) = said(&all);
        assert_eq!((status, reason), ("False", "SettingWrong"));
        assert_eq!(message, "net.ipv4.ip_forward must be 1: read-only; net.ipv4.conf.eth0/7.rp_filter was 1, and has been set to 2");
    }

    #[test]
    fn a_condition_that_says_the_same_is_not_written_and_its_time_is_that_of_its_status() {
        let now = Timestamp::UNIX_EPOCH;
        let wanted = said(&Found::new());
        let first = patch(&wanted, None, now).unwrap();
        let there: NodeCondition = serde_json::from_value(first["status"]["conditions"][0].clone()).unwrap();
        assert!(there.last_transition_time.is_some());
        assert_eq!(patch(&wanted, Some(&there), now), None);
        let changed = patch(&("True", "SettingChanged", "m".to_owned()), Some(&there), now).unwrap();
        assert_eq!(changed["status"]["conditions"][0].get("lastTransitionTime"), None);
        let wrong = patch(&("False", "SettingWrong", "m".to_owned()), Some(&there), now).unwrap();
        assert_eq!(wrong["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }
}
