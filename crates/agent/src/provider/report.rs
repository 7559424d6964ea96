//! What a node says of its provider networks: labels and an annotation of its own object, as Kube-OVN has them.

use std::collections::BTreeMap;

use api::provider_network::{EXIT_MTU, key, of_key};
use serde_json::{Map, Value, json};

/// What is said of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The bridge stands, with this NIC, of this MTU in bytes, and of that of the way out by it, if there is one.
    Ready { nic: String, mtu: u32, exit: Option<u32> },
    /// It does not.
    NotReady { nic: String, why: String },
    /// The node is not part of it.
    Excluded,
}

/// Labels or annotations.
type Notes = BTreeMap<String, String>;

/// The patch that makes a node say this; `None` when it does.
pub(super) fn patch(states: &BTreeMap<String, State>, labels: &Notes, annotations: &Notes) -> Option<Value> {
    let (mut wanted, mut notes) = (Notes::new(), Notes::new());
    for (network, state) in states {
        let mut say = |what: &str, value: &str| drop(wanted.insert(key(network, what), value.to_owned()));
        match state {
            State::Ready { nic, mtu, exit } => {
                say("ready", "true");
                say("interface", nic);
                say("mtu", &mtu.to_string());
                notes.extend(exit.map(|mtu| (key(network, EXIT_MTU), mtu.to_string())));
            }
            State::NotReady { nic, why } => {
                say("ready", "false");
                say("interface", nic);
                notes.insert(key(network, "err_mesg"), why.clone());
            }
            State::Excluded => say("exclude", "true"),
        }
    }
    // A label's value has at most 63 letters, digits and `-_.`; names of links may have others.
    wanted.retain(|_, value| value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
    let (labels, annotations) = (difference(&wanted, labels), difference(&notes, annotations));
    let changed = !labels.is_empty() || !annotations.is_empty();
    changed.then(|| json!({ "metadata": { "labels": labels, "annotations": annotations } }))
}

/// What differs of ours: values to set, and `null` for what is to go.
fn difference(wanted: &Notes, shown: &Notes) -> Map<String, Value> {
    let set = wanted.iter().filter(|(key, value)| shown.get(*key) != Some(value)).map(|(key, value)| (key.clone(), json!(value)));
    let stale = shown.keys().filter(|key| of_key(key).is_some() && !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    set.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_what_it_is_and_no_more_and_only_once() {
        let notes = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Notes>();
        let states = BTreeMap::from([
            ("a".to_owned(), State::Ready { nic: "eth1".to_owned(), mtu: 1500, exit: Some(1400) }),
            ("b".to_owned(), State::NotReady { nic: "eth9".to_owned(), why: "link eth9 does not exist".to_owned() }),
        ]);
        let old = notes(&[("kubernetes.io/os", "linux"), ("gone.provider-network.kubernetes.io/ready", "true")]);
        let patch = patch(&states, &old, &notes(&[])).unwrap();
        let labels = patch["metadata"]["labels"].as_object().unwrap();
        assert_eq!(labels["gone.provider-network.kubernetes.io/ready"], Value::Null);
        assert_eq!((labels.len(), &labels["a.provider-network.kubernetes.io/mtu"]), (6, &json!("1500")));
        assert_eq!(patch["metadata"]["annotations"]["a.provider-network.kubernetes.io/exit_mtu"], "1400");
        assert_eq!(patch["metadata"]["annotations"]["b.provider-network.kubernetes.io/err_mesg"], "link eth9 does not exist");
        let said = |what: &str| {
            let set = patch["metadata"][what].as_object().unwrap().iter();
            set.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect::<Notes>()
        };
        assert_eq!(super::patch(&states, &said("labels"), &said("annotations")), None);
    }
}
