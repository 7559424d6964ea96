//! The NICs of a machine, as QEMU is told of them: taps beside the pod's links, and sockets of vhost-user, which QEMU serves and the
//! switch connects to.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{Dhcp, Nic, names};

/// What QEMU is told: memory of so many MiB, and the NICs. What the switch is to read and write itself is shared with it.
pub(super) fn arguments(memory: u32, nics: &[Nic], accelerated: bool) -> Vec<String> {
    let mut words = vec!["-m".to_owned(), memory.to_string()];
    let mut say = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    if nics.iter().any(|nic| nic.socket.is_some()) {
        say("-machine", "pc,memory-backend=ram".to_owned());
        say("-object", format!("memory-backend-memfd,id=ram,size={memory}M,share=on"));
    }
    for (index, nic) in nics.iter().enumerate() {
        // Without a boot program, which the firmware would try first.
        let device = format!("virtio-net-pci,netdev=nic{index},mac={},host_mtu={},romfile=", nic.mac, nic.mtu);
        if let Some(socket) = &nic.socket {
            say("-chardev", format!("socket,id=socket{index},path={},server=on,wait=off", socket.display()));
            say("-netdev", format!("vhost-user,id=nic{index},chardev=socket{index}"));
            // An emulated machine has no interrupts by messages (MSI-X) for it: QEMU 7.2 dies when the driver starts.
            say("-device", format!("{device}{}", if accelerated { "" } else { ",vectors=0" }));
        } else {
            let (_, tap) = names(index);
            say("-netdev", format!("tap,id=nic{index},ifname={tap},script=no,downscript=no,vhost=off"));
            say("-device", device);
        }
    }
    words
}

/// The NICs of a pod in the order of the CNI plugin's result: those that are `links` in its namespace, and those that are sockets, of which
/// only the result tells.
///
/// # Errors
/// When there is neither, or what the result says of a socket cannot be read.
pub(crate) fn nics(links: Vec<Nic>, result: &Value) -> anyhow::Result<Vec<Nic>> {
    let array = |key: &str| result[key].as_array().map(Vec::as_slice).unwrap_or_default();
    // A result does not say whose its routes are: those that a link has are not a socket's, though it may be in the same subnet.
    let mut routes: Vec<_> = array("routes").iter().filter_map(by_next_hop).collect();
    for route in links.iter().flat_map(|link| &link.routes) {
        if let Some(at) = routes.iter().position(|other| other == route) {
            routes.remove(at);
        }
    }
    let mut links: BTreeMap<String, Nic> = links.into_iter().map(|nic| (nic.name.clone(), nic)).collect();
    let mut nics = Vec::new();
    for (index, interface) in array("interfaces").iter().enumerate() {
        let name = interface["name"].as_str().unwrap_or_default();
        let Some(socket) = interface["socketPath"].as_str() else {
            nics.extend(links.remove(name));
            continue;
        };
        let of_it = array("ips").iter().filter(|ip| ip["interface"].as_u64() == u64::try_from(index).ok());
        let addresses = of_it.map(|ip| Ok(ip["address"].as_str().unwrap_or_default().parse()?)).collect::<anyhow::Result<Vec<IpNet>>>()?;
        let is_own = |(_, via): &mut (IpNet, Option<IpAddr>)| via.is_some_and(|via| addresses.iter().any(|own| own.contains(&via)));
        let routes = routes.extract_if(.., is_own).collect();
        nics.push(Nic {
            name: name.to_owned(),
            mac: interface["mac"].as_str().unwrap_or_default().to_owned(),
            mtu: u32::try_from(interface["mtu"].as_u64().unwrap_or_default())?,
            routes,
            addresses,
            dhcp: Dhcp::default(),
            advertised: false,
            socket: Some(socket.into()),
        });
    }
    nics.extend(links.into_values());
    anyhow::ensure!(!nics.is_empty(), "the CNI plugin made neither link nor socket: {result}");
    Ok(nics)
}

/// A route with a next hop.
fn by_next_hop(route: &Value) -> Option<(IpNet, Option<IpAddr>)> {
    Some((route["dst"].as_str()?.parse().ok()?, Some(route["gw"].as_str()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn link(name: &str) -> Nic {
        let (mac, mtu) = ("02:00:00:00:00:02".to_owned(), 1400);
        let (addresses, routes) = (Vec::new(), Vec::new());
        Nic { name: name.to_owned(), mac, mtu, addresses, routes, dhcp: Dhcp::default(), advertised: false, socket: None }
    }

    #[test]
    fn sockets_are_taken_from_the_plugins_result_and_stand_in_its_order() {
        let result = json!({
            "interfaces": [
                { "name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1300, "sandbox": "/x", "socketPath": "/run/s/eth0" },
                { "name": "0123_net1_h" }, { "name": "net1", "sandbox": "/x" },
            ],
            "ips": [{ "address": "10.16.0.2/16", "gateway": "10.16.0.1", "interface": 0 }, { "address": "10.20.0.2/24", "interface": 2 }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.16.0.1" }, { "dst": "10.9.0.0/16", "gw": "10.20.0.1" }],
        });
        let found = nics(vec![link("net1")], &result).unwrap();
        assert_eq!(found.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>(), ["eth0", "net1"]);
        let routes: Vec<_> = found[0].routes.iter().map(|(to, via)| format!("{to} {}", via.unwrap())).collect();
        assert_eq!(
            (found[0].mtu, found[0].addresses[0].to_string(), routes),
            (1300, "10.16.0.2/16".to_owned(), vec!["0.0.0.0/0 10.16.0.1".to_owned()])
        );
        assert!(nics(Vec::new(), &json!({})).is_err());

        // Of a link and a socket in one subnet the default route is the link's.
        let result = json!({
            "interfaces": [{ "name": "0123_h" }, { "name": "eth0" }, { "name": "net1", "socketPath": "/run/s/net1" }],
            "ips": [{ "address": "10.16.0.2/16", "interface": 1 }, { "address": "10.16.0.3/16", "interface": 2 }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.16.0.1" }],
        });
        let default = ("0.0.0.0/0".parse().unwrap(), Some("10.16.0.1".parse().unwrap()));
        let both = nics(vec![Nic { routes: vec![default], ..link("eth0") }], &result).unwrap();
        assert_eq!((both[0].routes.len(), both[1].routes.len()), (1, 0));

        let words = arguments(256, &found, false).join(" ");
        assert!(words.contains("share=on") && words.contains("path=/run/s/eth0,server=on"), "{words}");
        assert!(words.contains("mac=02:00:00:00:00:01,host_mtu=1300,romfile=,vectors=0") && words.contains("ifname=vmtap1"), "{words}");
        let words = arguments(256, &found[1..], false).join(" ");
        assert!(!words.contains("share=on") && !words.contains("vectors"), "{words}");
    }
}
