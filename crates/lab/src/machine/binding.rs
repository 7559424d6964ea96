//! Bridge binding, as KubeVirt's: each link that the CNI plugin made becomes a port of a bridge, and a tap beside it is the
//! guest's NIC. The guest has the link's MAC, addresses and routes; the link itself keeps none of them.

use ipnet::IpNet;
use linux::{Handle, IpPrefix, LinkChange, Mac, Netns, sysctl, tap};

use super::{Dhcp, Nic, names};

/// Protocols of routes that the kernel makes of addresses and of router advertisements (`RTPROT_KERNEL`, `RTPROT_RA`).
const BY_ITSELF: [u8; 2] = [2, 9];

/// What the CNI plugin made in a pod's namespace: its veths, before [`bind`] takes from them what is the guest's.
pub(crate) async fn read(netns: &Netns) -> anyhow::Result<Vec<Nic>> {
    let handle = Handle::open(netns)?;
    let routes = handle.routes().await?;
    let mut links: Vec<_> = handle.links().await?.into_iter().filter(|link| link.kind == "veth").collect();
    links.sort_by_key(|link| link.index);
    let mut nics = Vec::new();
    for link in links {
        let addresses = handle.addresses(Some(link.index)).await?.into_iter().filter(|address| !address.is_link_local());
        let own =
            routes.iter().filter(|route| route.device == Some(link.index) && route.table == 254 && !BY_ITSELF.contains(&route.protocol));
        let mut routes: Vec<_> = own.map(|route| (net(route.destination), route.via)).collect();
        // What is on the link first: the others may go through it.
        routes.sort_by_key(|(_, via)| via.is_some());
        nics.push(Nic {
            name: link.name,
            mac: linux::display_mac(link.mac.unwrap_or_default()),
            mtu: link.mtu,
            addresses: addresses.map(net).collect(),
            routes,
            dhcp: Dhcp::default(),
            advertised: false,
            socket: None,
        });
    }
    Ok(nics)
}

/// Makes of each NIC's link a port of a bridge, beside a tap. A second time changes nothing.
pub(crate) async fn bind(netns: &Netns, nics: &[Nic]) -> anyhow::Result<()> {
    // Nothing of this namespace's kernel speaks on the guest's links.
    match sysctl::write(netns, "net/ipv6/conf/all/disable_ipv6", "1") {
        Err(error) if !error.is_missing() => return Err(error.into()),
        _ => {}
    }
    let handle = Handle::open(netns)?;
    for (index, nic) in nics.iter().enumerate().filter(|(_, nic)| nic.socket.is_none()) {
        let (bridge, tap) = names(index);
        let link = handle.index(&nic.name).await?;
        for address in handle.addresses(Some(link)).await? {
            handle.delete_address(link, address).await?;
        }
        let bridge = match handle.link(&bridge).await? {
            Some(there) => there.index,
            None => handle.create_bridge(&bridge).await?,
        };
        if handle.link(&tap).await?.is_none() {
            tap::create(netns, &tap)?;
        }
        let port = |mac: Option<Mac>| LinkChange { mac, mtu: Some(nic.mtu), master: Some(bridge), up: Some(true), ..LinkChange::default() };
        // The bridge must not take the guest's MAC for its own port's.
        handle.change(link, port(nic.mac().map(other))).await?;
        handle.change(handle.index(&tap).await?, port(None)).await?;
    }
    Ok(())
}

/// Another MAC, locally administered, the same each time.
const fn other(mac: Mac) -> Mac {
    [(mac[0] ^ 0x40) | 0x02, mac[1], mac[2], mac[3], mac[4], mac[5]]
}

fn net(prefix: IpPrefix) -> IpNet {
    // Both allow the same lengths.
    IpNet::new(prefix.address(), prefix.length()).unwrap_or_else(|_| IpNet::from(prefix.address()))
}

#[cfg(test)]
mod tests {
    use linux::{Route, VethEnd, netns};

    use super::*;

    struct Scratch(String, Netns);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = netns::delete(&self.0);
        }
    }

    #[tokio::test]
    async fn a_link_s_identity_becomes_the_guest_s_and_binding_twice_changes_nothing() {
        let name = format!("fvt-{}-bind", std::process::id());
        let scratch = Scratch(name.clone(), Netns::create(&name).unwrap());
        let netns = &scratch.1;
        let handle = Handle::open(netns).unwrap();
        let mac = [0, 0, 0, 0x11, 0x22, 0x33];
        let far = VethEnd { name: "eth0", mac: Some(mac), mtu: Some(1400), ..VethEnd::default() };
        // Both ends are here, of which the other is no pod's.
        handle.create_veth(&VethEnd { name: "host", mtu: Some(1400), ..VethEnd::default() }, &far).await.unwrap();
        let eth0 = handle.index("eth0").await.unwrap();
        for address in ["10.16.0.2/16", "fd00:10:16::2/112"] {
            handle.add_address(eth0, address.parse().unwrap()).await.unwrap();
        }
        handle.set_up(eth0).await.unwrap();
        handle.set_up(handle.index("host").await.unwrap()).await.unwrap();
        for gateway in ["10.16.0.1", "fd00:10:16::1"] {
            let gateway = gateway.parse().unwrap();
            handle.add_route(&Route::new(IpPrefix::default_of(gateway)).via(gateway).dev(eth0)).await.unwrap();
        }
        let nics: Vec<Nic> = read(netns).await.unwrap().into_iter().filter(|nic| nic.name == "eth0").collect();
        let nic = &nics[0];
        assert_eq!((nic.mac.as_str(), nic.mtu), ("00:00:00:11:22:33", 1400));
        assert_eq!(nic.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.16.0.2/16", "fd00:10:16::2/112"]);
        let routes: Vec<_> = nic.routes.iter().map(|(to, via)| format!("{to} {}", via.unwrap())).collect();
        assert_eq!(routes, ["0.0.0.0/0 10.16.0.1", "::/0 fd00:10:16::1"]);

        bind(netns, &nics).await.unwrap();
        let bound = handle.links().await.unwrap();
        bind(netns, &nics).await.unwrap();
        assert_eq!(handle.links().await.unwrap(), bound);
        let of = |name: &str| bound.iter().find(|link| link.name == name).unwrap();
        assert_eq!((of("eth0").mac, of("eth0").master), (Some([0x42, 0, 0, 0x11, 0x22, 0x33]), Some(of("vmbr0").index)));
        assert_eq!((of("vmtap0").mtu, of("vmtap0").up, of("vmtap0").master), (1400, true, Some(of("vmbr0").index)));
        assert_eq!(handle.addresses(Some(eth0)).await.unwrap(), []);
    }
}
