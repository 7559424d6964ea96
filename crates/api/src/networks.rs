//! Further NICs of a pod: the list on the pod and the definitions that it names, as the Network Plumbing Working Group's
//! "Kubernetes Network Custom Resource Definition De-facto Standard" (version 1.3) has them.
//!
//! Each NIC of ours has a *provider*, which names its annotations and its logical switch port: `ovn` for the primary one,
//! `<nad>.<namespace>.ovn` for one that we make from a `NetworkAttachmentDefinition`, `<nad>.<namespace>` for one that another
//! plugin makes and asks us for addresses. Where a definition is attached several times, all but the first have the name of
//! their link behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::offload::{self, Device};
use crate::{MacAddr, OVN_PROVIDER, VhostUser};

/// On a pod: which definitions to attach.
pub const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// On a pod: the definition of its primary NIC, `[<namespace>/]<name>`; without a namespace, in the pod's.
pub const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";
/// On a pod: what was attached.
pub const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// Values of `type`, in a network configuration and its `ipam`, that mean our plugin.
pub const PLUGIN_TYPES: [&str; 2] = ["ferrovia", "kube-ovn"];

/// One element of the list on a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selection {
    /// Namespace of the definition.
    pub namespace: Box<str>,
    /// Name of the definition.
    pub name: Box<str>,
    /// Name of the link in the pod: as asked for, or `net<n>`, counted from 1 by the place in the list.
    pub interface: Box<str>,
    /// Addresses asked for, without prefix lengths.
    pub addresses: Vec<IpAddr>,
    /// MAC asked for.
    pub mac: Option<MacAddr>,
    /// Gateways of default routes asked for: then the default route is by this NIC.
    pub default_route: Vec<IpAddr>,
}

/// What a `NetworkAttachmentDefinition` says to us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Definition {
    /// We make the NIC.
    Ours {
        /// Provider, which ends in `.ovn`, or is `ovn` for the primary NIC.
        provider: Box<str>,
        /// Where its socket is, if it is one and no link.
        vhost: Option<VhostUser>,
        /// Which device of the node it is, if it is one.
        device: Option<Device>,
    },
    /// Another plugin makes the NIC and asks us for its addresses.
    Addresses {
        /// Provider.
        provider: Box<str>,
    },
    /// Nothing.
    Foreign,
}

/// A NIC of a pod that is not its primary one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// The element of the list.
    pub selection: Selection,
    /// Its provider, unique in the pod.
    pub provider: Box<str>,
    /// Whether another plugin makes the NIC.
    pub addresses_only: bool,
    /// Where its socket is, if it is one and no link.
    pub vhost: Option<VhostUser>,
    /// Which device of the node it is, if it is one.
    pub device: Option<Device>,
}

#[derive(Deserialize)]
struct Element {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    interface: Option<String>,
    #[serde(default)]
    ips: Vec<String>,
    #[serde(default)]
    mac: Option<String>,
    #[serde(default, rename = "default-route")]
    default_route: Vec<IpAddr>,
}

/// Reads the list on a pod of `namespace`; empty when there is none.
///
/// # Errors
/// Says which element is malformed, or which link name two elements ask for.
pub fn selections(annotations: &BTreeMap<String, String>, namespace: &str) -> Result<Vec<Selection>, String> {
    let Some(text) = annotations.get(NETWORKS).map(|text| text.trim()).filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    let bad = |what: &str| format!("annotation {NETWORKS}: {what}");
    let elements: Vec<Element> = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|error| bad(&error.to_string()))?
    } else {
        text.split(',').map(short).collect::<Result<_, _>>().map_err(|what| bad(&what))?
    };
    let mut selections = Vec::with_capacity(elements.len());
    let mut links = BTreeSet::new();
    for (place, element) in elements.into_iter().enumerate() {
        let interface = element.interface.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("net{}", place + 1));
        if !is_link_name(&interface) || interface == "lo" {
            return Err(bad(&format!("{interface:?} is not the name of a link: 1 to 15 characters, no slash, colon or blank")));
        }
        if !links.insert(interface.clone()) {
            return Err(bad(&format!("two elements ask for a link {interface:?}")));
        }
        if element.name.is_empty() {
            return Err(bad(&format!("element {} has no name", place + 1)));
        }
        let mut addresses = Vec::new();
        for text in &element.ips {
            let address = text.split('/').next().unwrap_or_default();
            addresses.push(address.parse().map_err(|_| bad(&format!("{text:?} is not an IP address")))?);
        }
        let mac = element.mac.as_deref().filter(|mac| !mac.is_empty()).map(str::parse).transpose();
        selections.push(Selection {
            namespace: element.namespace.filter(|name| !name.is_empty()).unwrap_or_else(|| namespace.to_owned()).into(),
            name: element.name.into(),
            interface: interface.into(),
            addresses,
            mac: mac.map_err(|why: crate::MacAddrError| bad(&why.to_string()))?,
            default_route: element.default_route,
        });
    }
    Ok(selections)
}

/// `[<namespace>/]<name>[@<interface>]`.
fn short(text: &str) -> Result<Element, String> {
    let text = text.trim();
    let (path, interface) = text.split_once('@').map_or((text, None), |(path, interface)| (path, Some(interface.to_owned())));
    let (namespace, name) = path.split_once('/').map_or((None, path), |(namespace, name)| (Some(namespace.to_owned()), name));
    if name.is_empty() || name.contains('/') {
        return Err(format!("{text:?} is not [<namespace>/]<name>[@<interface>]"));
    }
    Ok(Element { name: name.to_owned(), namespace, interface, ips: Vec::new(), mac: None, default_route: Vec::new() })
}

/// Whether the kernel takes this as the name of a link.
#[must_use]
pub fn is_link_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.chars().any(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
}

impl Definition {
    /// The NIC of this definition is ours to make.
    #[must_use]
    pub fn ours(namespace: &str, name: &str) -> Self {
        Self::Ours { provider: format!("{name}.{namespace}.{OVN_PROVIDER}").into(), vhost: None, device: None }
    }

    /// Only the addresses of this definition's NIC are ours to give.
    #[must_use]
    pub fn addresses(namespace: &str, name: &str) -> Self {
        Self::Addresses { provider: format!("{name}.{namespace}").into() }
    }

    /// Provider of the first NIC of this definition in a pod; nothing when we have no part in it.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        match self {
            Self::Ours { provider, .. } | Self::Addresses { provider } => Some(provider),
            Self::Foreign => None,
        }
    }

    /// Reads `spec.config` of the definition `name` in `namespace`: the configuration of a network, or a list of plugins.
    /// Without a configuration the network is configured on the node, and we know nothing of it.
    ///
    /// # Errors
    /// When it is not JSON, its `provider` is not the definition's nor the primary NIC's, or what it says of a socket makes no sense.
    pub fn parse(namespace: &str, name: &str, config: &str) -> Result<Self, String> {
        if config.trim().is_empty() {
            return Ok(Self::Foreign);
        }
        let config: Value = serde_json::from_str(config).map_err(|error| format!("spec.config: {error}"))?;
        let plugins = config.get("plugins").and_then(Value::as_array).map_or(std::slice::from_ref(&config), Vec::as_slice);
        let is_ours = |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(|kind| PLUGIN_TYPES.contains(&kind));
        let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        for plugin in plugins {
            let ipam = plugin.get("ipam").unwrap_or(&Value::Null);
            let (given, mut definition) = if is_ours(plugin.get("type")) {
                // Such as Multus calls for the primary NIC.
                (text(plugin, "provider").filter(|given| given != OVN_PROVIDER), Self::ours(namespace, name))
            } else if is_ours(ipam.get("type")) {
                (text(ipam, "provider"), Self::addresses(namespace, name))
            } else {
                continue;
            };
            if let (Some(given), Some(own)) = (given, definition.provider())
                && given != own
            {
                return Err(format!("spec.config: provider {given:?} is not {own:?}"));
            }
            if let Self::Ours { vhost, device, .. } = &mut definition {
                let wrong = |what| format!("spec.config: {what}");
                *vhost = VhostUser::parse(plugin).map_err(wrong)?;
                *device = offload::named(plugin).map_err(wrong)?.map(Device::Named);
            }
            return definition.of(None);
        }
        Ok(Self::Foreign)
    }

    /// The same, where the definition names a resource: its NICs are devices of that, unless the configuration names one.
    ///
    /// # Errors
    /// When its NICs are sockets already.
    pub fn of(mut self, resource: Option<&str>) -> Result<Self, String> {
        if let Self::Ours { vhost, device, .. } = &mut self {
            *device = device.take().or_else(|| resource.filter(|name| !name.is_empty()).map(|name| Device::Of(name.into())));
            if let (Some(_), Some(device)) = (vhost, device) {
                let which = match device {
                    Device::Of(resource) => format!("annotation {} is {resource:?}", offload::RESOURCE),
                    Device::Named(device) => format!("{} is {device}", offload::DEVICE),
                };
                return Err(format!("spec.config: vhost_user_… says that its NICs are sockets, and {which}: they cannot be devices, too"));
            }
        }
        Ok(self)
    }
}

/// The NICs that the list on a pod asks of us, in its order. `definition` yields what a definition, by namespace and name, says.
///
/// # Errors
/// What is wrong with the list, or with a definition, or that one does not exist; or that two NICs would have one provider.
pub fn attachments(
    selections: Vec<Selection>,
    mut definition: impl FnMut(&str, &str) -> Result<Definition, String>,
) -> Result<Vec<Attachment>, String> {
    let mut seen = BTreeSet::new();
    let mut attachments = Vec::new();
    for selection in selections {
        let (provider, addresses_only, vhost, device) = match definition(&selection.namespace, &selection.name)? {
            Definition::Ours { provider, vhost, device } => (provider, false, vhost, device),
            Definition::Addresses { provider } => (provider, true, None, None),
            Definition::Foreign => continue,
        };
        let first = seen.insert(provider.clone());
        let provider = if first { provider } else { format!("{provider}.{}", selection.interface).into() };
        // A definition may be named as if it were another one with a link's name behind it.
        if !first && !seen.insert(provider.clone()) {
            return Err(format!("annotation {NETWORKS}: two NICs would have the provider {provider:?}"));
        }
        attachments.push(Attachment { selection, provider, addresses_only, vhost, device });
    }
    Ok(attachments)
}

/// Namespace and name of the definition of a pod's primary NIC, where the pod names one.
#[must_use]
pub fn default_network<'a>(annotations: &'a BTreeMap<String, String>, namespace: &'a str) -> Option<(&'a str, &'a str)> {
    let text = annotations.get(DEFAULT_NETWORK)?.trim();
    let path = text.split_once('@').map_or(text, |(path, _)| path);
    (!path.is_empty()).then(|| path.split_once('/').unwrap_or((namespace, path)))
}

/// Key of an annotation of the NIC with this provider: `<provider>.kubernetes.io/<name>`.
#[must_use]
pub fn key(provider: &str, name: &str) -> String {
    format!("{provider}.kubernetes.io/{name}")
}

/// Name of the logical switch port, and of the `IP` object, of a NIC of the pod, or of its virtual machine:
/// `<pod>.<namespace>`, and for an attachment `<pod>.<namespace>.<provider>`.
#[must_use]
pub fn port(pod: &str, namespace: &str, provider: &str) -> String {
    if provider == OVN_PROVIDER { format!("{pod}.{namespace}") } else { format!("{pod}.{namespace}.{provider}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(NETWORKS.to_owned(), text.to_owned())])
    }

    #[test]
    fn both_forms_of_the_list_are_read() {
        let short = selections(&notes("a, other/b@data"), "mine").unwrap();
        let names: Vec<_> = short.iter().map(|s| (s.namespace.as_ref(), s.name.as_ref(), s.interface.as_ref())).collect();
        assert_eq!(names, [("mine", "a", "net1"), ("other", "b", "data")]);
        let long =
            selections(&notes(r#"[{"name":"a","ips":["10.0.0.9/24"],"mac":"02:00:00:00:00:01","default-route":["10.0.0.1"]}]"#), "mine");
        let long = long.unwrap().remove(0);
        assert_eq!((long.addresses, long.default_route), (vec!["10.0.0.9".parse().unwrap()], vec!["10.0.0.1".parse().unwrap()]));
        assert_eq!(selections(&BTreeMap::new(), "mine").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_with_a_list_is_said() {
        for (text, said) in [
            ("[{", "annotation k8s.v1.cni.cncf.io/networks"),
            ("a/b/c", "is not [<namespace>/]<name>[@<interface>]"),
            ("a@x,b@x", "two elements ask for a link \"x\""),
            ("a@much-too-long-a-name", "is not the name of a link"),
            (r#"[{"name":"a","mac":"zz"}]"#, "zz"),
            (r#"[{"name":"a","ips":["10.0.0"]}]"#, "\"10.0.0\" is not an IP address"),
        ] {
            let error = selections(&notes(text), "mine").unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_definition_is_ours_by_its_type_or_by_that_of_its_addresses() {
        let parse = |config| Definition::parse("ns", "d", config);
        let ours = || Definition::Ours { provider: "d.ns.ovn".into(), vhost: None, device: None };
        assert_eq!(parse(r#"{"type":"kube-ovn","provider":"d.ns.ovn"}"#), Ok(ours()));
        assert_eq!(parse(r#"{"type":"kube-ovn","provider":"ovn"}"#), Ok(ours()));
        assert_eq!(parse(r#"{"plugins":[{"type":"ferrovia"},{"type":"tuning"}]}"#), Ok(ours()));
        assert_eq!(
            parse(r#"{"type":"macvlan","ipam":{"type":"kube-ovn","provider":"d.ns"}}"#),
            Ok(Definition::Addresses { provider: "d.ns".into() })
        );
        assert_eq!(parse(r#"{"type":"macvlan","ipam":{"type":"host-local"}}"#), Ok(Definition::Foreign));
        assert_eq!(parse(""), Ok(Definition::Foreign));
        assert!(parse(r#"{"type":"kube-ovn","provider":"x.ns.ovn"}"#).unwrap_err().contains("\"d.ns.ovn\""));
        let socket = parse(r#"{"type":"kube-ovn","vhost_user_socket_volume_name":"v"}"#).unwrap();
        assert!(matches!(socket, Definition::Ours { vhost: Some(VhostUser { socket: None, .. }), .. }));
        assert!(parse(r#"{"type":"kube-ovn","vhost_user_x":"v"}"#).unwrap_err().starts_with("spec.config: vhost_user_x is not known"));
    }

    #[test]
    fn a_definition_s_nics_are_devices_by_its_resource_or_by_name() {
        let parse = |config| Definition::parse("ns", "d", config);
        let device = |definition| if let Definition::Ours { device, .. } = definition { device } else { None };
        let plain = parse(r#"{"type":"kube-ovn"}"#).unwrap();
        assert_eq!(device(plain.clone().of(None).unwrap()), None);
        assert_eq!(device(plain.of(Some("example.com/vf")).unwrap()), Some(Device::Of("example.com/vf".into())));
        let named = parse(r#"{"type":"kube-ovn","deviceID":"0000:05:00.2"}"#).unwrap();
        let expected = Some(Device::Named("0000:05:00.2".parse().unwrap()));
        assert_eq!((device(named.clone()), device(named.of(Some("example.com/vf")).unwrap())), (expected.clone(), expected));
        assert!(parse(r#"{"type":"kube-ovn","deviceID":"x"}"#).unwrap_err().starts_with("spec.config: deviceID: \"x\" is no device"));
        let socket = parse(r#"{"type":"kube-ovn","vhost_user_socket_volume_name":"v"}"#).unwrap();
        assert!(socket.of(Some("example.com/vf")).unwrap_err().contains("\"example.com/vf\": they cannot be devices"));
        // What another plugin makes is no concern of ours.
        let other = parse(r#"{"type":"sriov","ipam":{"type":"kube-ovn","provider":"d.ns"}}"#).unwrap();
        assert_eq!(other.clone().of(Some("example.com/vf")), Ok(other));
    }

    #[test]
    fn the_same_definition_twice_is_told_apart_by_the_link() {
        let selections = selections(&notes("d,d,e"), "ns").unwrap();
        let found = attachments(selections, |namespace, name| Definition::parse(namespace, name, r#"{"type":"ferrovia"}"#)).unwrap();
        let providers: Vec<_> = found.iter().map(|a| a.provider.as_ref()).collect();
        assert_eq!(providers, ["d.ns.ovn", "d.ns.ovn.net2", "e.ns.ovn"]);
        assert_eq!(port("p", "ns", providers[1]), "p.ns.d.ns.ovn.net2");
        assert_eq!((port("p", "ns", "ovn"), key("ovn", "cidr")), ("p.ns".to_owned(), crate::annotations::CIDR.to_owned()));
    }
}
