//! NICs that are sockets of vhost-user, which a virtual machine serves and Open vSwitch with DPDK connects to, and no links of the pod: what
//! the network configuration of a `NetworkAttachmentDefinition` says of them.

use serde_json::Value;

/// Values of these keys make a NIC a socket.
const VOLUME: &str = "vhost_user_socket_volume_name";
const NAME: &str = "vhost_user_socket_name";
const CONSUMPTION: &str = "vhost_user_socket_consumption";
/// How all keys begin that are about this.
const KEYS: &str = "vhost_user_";

/// Value of `vhost_user_socket_consumption` for machines of KubeVirt, and the volume in which those have their sockets.
const KUBEVIRT: &str = "kubevirt";
const KUBEVIRT_VOLUME: &str = "vhostuser-sockets";

/// Where the socket of a NIC is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VhostUser {
    /// Name of a volume of the pod, an `emptyDir`.
    pub volume: Box<str>,
    /// Name of the socket in it; that of the NIC's link, where none is given.
    pub socket: Option<Box<str>>,
}

impl VhostUser {
    /// Reads the configuration of a network; nothing when it asks for no socket.
    ///
    /// # Errors
    /// Names the field that is not known, or whose value cannot be, and what could.
    pub fn parse(config: &Value) -> Result<Option<Self>, String> {
        let mut fields = config.as_object().into_iter().flatten();
        if let Some((key, _)) = fields.find(|(key, _)| key.starts_with(KEYS) && ![VOLUME, NAME, CONSUMPTION].contains(&key.as_str())) {
            return Err(format!("{key} is not known: of sockets there are {VOLUME}, {NAME} and {CONSUMPTION}"));
        }
        let text = |key: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(other) => Err(format!("{key}: {other} is no text")),
        };
        let (volume, socket) = (text(VOLUME)?, text(NAME)?);
        let for_kubevirt = match text(CONSUMPTION)? {
            None => false,
            Some(KUBEVIRT) => true,
            Some(other) => return Err(format!("{CONSUMPTION}: {other:?} is not known: only {KUBEVIRT:?} is")),
        };
        let volume = match volume {
            Some(volume) => volume,
            None if for_kubevirt => KUBEVIRT_VOLUME,
            None if socket.is_some() => return Err(format!("{NAME} needs {VOLUME}: the pod's volume that the socket is in")),
            None => return Ok(None),
        };
        // As Kubernetes has volumes' names (RFC 1123).
        let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if volume.len() > 63 || !volume.chars().all(is_label) {
            return Err(format!("{VOLUME}: {volume:?} is not the name of a volume"));
        }
        if let Some(socket) = socket.filter(|socket| *socket == "." || *socket == ".." || socket.contains(['/', '\0'])) {
            return Err(format!("{NAME}: {socket:?} is not the name of a file"));
        }
        // Machines of KubeVirt know no other name.
        Ok(Some(Self { volume: volume.into(), socket: socket.filter(|_| !for_kubevirt).map(Into::into) }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_makes_a_nic_a_socket_and_kubevirt_has_names_of_its_own() {
        let parsed = |config: Value| VhostUser::parse(&config).unwrap();
        let is = |volume: &str, socket: Option<&str>| Some(VhostUser { volume: volume.into(), socket: socket.map(Into::into) });
        assert_eq!(parsed(json!({ "type": "ferrovia" })), None);
        assert_eq!(parsed(json!({ (VOLUME): "sockets", (NAME): "s1" })), is("sockets", Some("s1")));
        assert_eq!(parsed(json!({ (VOLUME): "sockets", (NAME): "" })), is("sockets", None));
        assert_eq!(parsed(json!({ (CONSUMPTION): "kubevirt", (NAME): "s1" })), is("vhostuser-sockets", None));
        assert_eq!(parsed(json!({ (CONSUMPTION): "kubevirt", (VOLUME): "mine" })), is("mine", None));
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (config, said) in [
            (json!({ (VOLUME): "v", "vhost_user_socket_mode": "server" }), "vhost_user_socket_mode is not known"),
            (json!({ (VOLUME): "v", (CONSUMPTION): "kata" }), "\"kata\" is not known: only \"kubevirt\" is"),
            (json!({ (NAME): "s" }), "vhost_user_socket_name needs vhost_user_socket_volume_name"),
            (json!({ (VOLUME): 7 }), "vhost_user_socket_volume_name: 7 is no text"),
            (json!({ (VOLUME): "../etc" }), "\"../etc\" is not the name of a volume"),
            (json!({ (VOLUME): "v", (NAME): "a/b" }), "\"a/b\" is not the name of a file"),
        ] {
            let error = VhostUser::parse(&config).unwrap_err();
            assert!(error.contains(said), "{config}: {error}");
        }
    }
}
