//! A guest's name and network: what it was told, and what it asks DHCP and routers for.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use linux::{Events, Handle, IpPrefix, LinkChange, Netns, Route, Subject, sysctl};
use tokio::process::Command as Program;

use super::{Nic, Settings};

/// How long the kernel may take for its link-local address, and a router to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// What both clients run (`scripts/machine-dhcp`).
const SCRIPT: &str = "/etc/dhcp-script";

/// Gives the guest its name and its network.
pub(super) async fn configure(settings: &Settings) -> anyhow::Result<()> {
    let own = Netns::current()?;
    sysctl::write(&own, "kernel/hostname", &settings.hostname)?;
    let handle = Handle::open(&own)?;
    handle.set_up(handle.index("lo").await?).await?;
    for nic in &settings.nics {
        let (mac, links) = (nic.mac(), handle.links().await?);
        let link = links.iter().find(|link| link.kind.is_empty() && link.mac.is_some() && link.mac == mac);
        let index = link.with_context(|| format!("NIC {} with MAC {} is missing", nic.name, nic.mac))?.index;
        let is_v6 = nic.addresses.iter().any(|address| address.addr().is_ipv6());
        handle.change(index, LinkChange { name: Some(&nic.name), no_link_local: !is_v6, ..LinkChange::default() }).await?;
        // Addresses are unique: whoever allocated them knows.
        sysctl::write(&own, &format!("net/ipv6/conf/{}/accept_dad", nic.name), "0")?;
        if nic.dhcp {
            ask(&own, &handle, index, nic).await.with_context(|| format!("NIC {}", nic.name))?;
        } else {
            handle.change(index, LinkChange { mtu: Some(nic.mtu), ..LinkChange::default() }).await?;
            tell(&handle, index, nic).await?;
        }
    }
    Ok(())
}

/// Addresses and routes as the pod's link had them.
async fn tell(handle: &Handle, index: u32, nic: &Nic) -> anyhow::Result<()> {
    for address in &nic.addresses {
        handle.add_address(index, IpPrefix::new(address.addr(), address.prefix_len())?).await?;
    }
    handle.set_up(index).await?;
    lead(handle, index, nic.routes.iter().copied()).await
}

/// Routes by a link, each to a destination, by the next hop unless that is on the link.
async fn lead(handle: &Handle, index: u32, routes: impl Iterator<Item = (IpNet, Option<IpAddr>)>) -> anyhow::Result<()> {
    for (destination, via) in routes {
        let route = Route::new(IpPrefix::new(destination.addr(), destination.prefix_len())?).dev(index);
        handle.replace_route(&via.map_or(route, |via| route.via(via))).await?;
    }
    Ok(())
}

/// Addresses by DHCP. The way out over IPv6 is the router's to advertise, or else as the pod's link had it: DHCPv6 knows no routes.
async fn ask(own: &Netns, handle: &Handle, index: u32, nic: &Nic) -> anyhow::Result<()> {
    handle.set_up(index).await?;
    let has = |v4: bool| nic.addresses.iter().any(|address| address.addr().is_ipv4() == v4);
    if has(true) {
        let options = ["-n", "-t", "10", "-T", "1", "-A", "1", "-O", "mtu", "-O", "staticroutes", "-s", SCRIPT, "-i", &nic.name];
        client("udhcpc", &options).await?;
    }
    if !has(false) {
        return Ok(());
    }
    let is_link_local = |prefix: &IpPrefix| matches!(prefix.address(), IpAddr::V6(address) if address.is_unicast_link_local());
    until(own, "no link-local address", async |handle| Ok(handle.addresses(Some(index)).await?.iter().any(is_link_local))).await?;
    let (leases, pid) = (format!("/run/dhclient6.{}.leases", nic.name), format!("/run/dhclient6.{}.pid", nic.name));
    client("dhclient", &["-6", "-1", "-cf", "/dev/null", "-D", "LL", "-lf", &leases, "-pf", &pid, "-sf", SCRIPT, &nic.name]).await?;
    if nic.advertised {
        let leads_out = |route: &Route| route.destination == IpPrefix::DEFAULT_V6 && route.device == Some(index);
        return until(own, "no router advertises itself", async |handle| Ok(handle.routes().await?.iter().any(leads_out))).await;
    }
    let v6 = nic.addresses.iter().filter(|address| address.addr().is_ipv6());
    let on_link = v6.map(|address| (address.trunc(), None)).chain(nic.routes.iter().copied().filter(|(to, _)| to.addr().is_ipv6()));
    lead(handle, index, on_link).await
}

/// Runs a DHCP client, which goes on in the background when it has an address.
async fn client(program: &str, options: &[&str]) -> anyhow::Result<()> {
    let mut client = Program::new(program);
    client.args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = client.status().await.with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} has no answer ({status})");
    }
    Ok(())
}

/// Waits until something holds that addresses or routes decide.
async fn until(own: &Netns, otherwise: &str, holds: impl AsyncFn(&Handle) -> linux::Result<bool>) -> anyhow::Result<()> {
    let (handle, mut events) = Events::open(own, Subject::Addressing)?;
    let wait = async {
        while !holds(&handle).await? {
            events.next().await.context("the kernel tells no more")?;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| bail!("{otherwise} within {PATIENCE:?}"))
}
