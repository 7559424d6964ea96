//! NICs that are devices: virtual functions and subfunctions of a node's NIC that has a switch of its own, which carries packets without the node's
//! CPU. What the network configuration of a `NetworkAttachmentDefinition`, and its annotation, say of them.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// On a `NetworkAttachmentDefinition`: the resource of a device plugin, of which the kubelet gives devices to pods.
pub const RESOURCE: &str = "k8s.v1.cni.cncf.io/resourceName";
/// In a network configuration: the device. Multus puts it there.
pub const DEVICE: &str = "deviceID";

/// A device, as `/sys/bus` names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(Box<str>);

/// A text that names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no device: neither a PCI address such as 0000:05:00.2 nor a name on the auxiliary bus such as mlx5_core.sf.4")]
pub struct DeviceIdError(String);

impl DeviceId {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is an address on the PCI bus.
    #[must_use]
    pub fn is_pci(&self) -> bool {
        self.0.contains(':')
    }
}

impl FromStr for DeviceId {
    type Err = DeviceIdError;

    /// A PCI address is domain, bus, device and function in hexadecimal digits; a name on the auxiliary bus is module, kind and number.
    fn from_str(text: &str) -> Result<Self, DeviceIdError> {
        let is_hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
            digits.contains(&part.len()) && part.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
        };
        let is_address = || {
            let mut parts = text.split([':', '.']);
            // Domains of bridges that the kernel numbers by itself have more digits.
            let all = [4..=8, 2..=2, 2..=2, 1..=1].map(|digits| parts.next().is_some_and(|part| is_hex(part, digits)));
            all == [true; 4] && parts.next().is_none() && text.matches(':').count() == 2 && text.rfind('.') > text.rfind(':')
        };
        let is_auxiliary = || {
            let parts: Vec<_> = text.split('.').collect();
            let is_word = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            parts.len() == 3 && parts.iter().all(is_word) && parts[2].chars().all(|c| c.is_ascii_digit())
        };
        if is_address() || is_auxiliary() { Ok(Self(text.into())) } else { Err(DeviceIdError(text.to_owned())) }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which device a NIC is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// One of a resource: whoever calls for the NIC says which.
    Of(Box<str>),
    /// This one.
    Named(DeviceId),
}

/// The device that a network configuration names, if any; an empty text names none.
///
/// # Errors
/// When it is not the name of a device.
pub fn named(config: &Value) -> Result<Option<DeviceId>, String> {
    match config.get(DEVICE) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|why: DeviceIdError| format!("{DEVICE}: {why}")),
        Some(other) => Err(format!("{DEVICE}: {other} is no text")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_are_addresses_on_the_pci_bus_or_names_on_the_auxiliary_one() {
        for text in ["0000:05:00.2", "0000:af:1f.7", "10000:01:00.0", "mlx5_core.sf.4"] {
            assert_eq!(text.parse::<DeviceId>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "05:00.2",
            "0000:05:00",
            "0000:05:00:2",
            "0000.05.00.2",
            "0000:05:00.2.1",
            "0000:0g:00.2",
            "../../x",
            "a.b.c",
            "eth0",
            "mlx5_core.sf./",
        ] {
            assert!(text.parse::<DeviceId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_configuration_may_name_a_device() {
        assert_eq!(named(&json!({})), Ok(None));
        assert_eq!(named(&json!({ (DEVICE): "" })), Ok(None));
        assert_eq!(named(&json!({ (DEVICE): "0000:05:00.2" })).unwrap().unwrap().as_str(), "0000:05:00.2");
        assert_eq!(named(&json!({ (DEVICE): 7 })), Err("deviceID: 7 is no text".to_owned()));
        assert!(named(&json!({ (DEVICE): "vf0" })).unwrap_err().starts_with("deviceID: \"vf0\" is no device"));
    }
}
