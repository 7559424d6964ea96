//! A guest's name and network: what it was told, and what it asks DHCP and routers for.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use linux::{Events, Handle, IpPrefix, LinkChange, Netns, Route, Subject, sysctl};
use tokio::process::Command as Program;

use super::{Dhcp, Nic, Settings};

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
    let leading = settings.leading();
    for (at, nic) in settings.nics.iter().enumerate() {
        let (mac, links) = (nic.mac(), handle.links().await?);
        let link = links.iter().find(|link| link.kind.is_empty() && link.mac.is_some() && link.mac == mac);
        let index = link.with_context(|| format!("NIC {} with MAC {} is missing", nic.name, nic.mac))?.index;
        let is_v6 = nic.addresses.iter().any(|address| address.addr().is_ipv6());
        handle.change(index, LinkChange { name: Some(&nic.name), no_link_local: !is_v6, ..LinkChange::default() }).await?;
        let set = |name: &str, value: &str| sysctl::write(&own, &format!("net/ipv6/conf/{}/{name}", nic.name), value);
        // Addresses are unique: whoever allocated them knows.
        set("accept_dad", "0")?;
        // Any router advertises itself as a way out, also by a NIC that is none.
        set("accept_ra_defrtr", if at == leading { "1" } else { "0" })?;
        address(&own, &handle, index, nic, at == leading).await.with_context(|| format!("NIC {}", nic.name))?;
    }
    Ok(())
}

/// Of each family that the guest does not ask for: addresses and routes as the pod's link had them. Then it asks. The way out over IPv6 is the
/// router's to advertise, or else as the pod's link had it: DHCPv6 knows no routes.
async fn address(own: &Netns, handle: &Handle, index: u32, nic: &Nic, leads_out: bool) -> anyhow::Result<()> {
    let told = |of: IpAddr| if of.is_ipv4() { !nic.dhcp.v4 } else { !nic.dhcp.v6 };
    if nic.dhcp == Dhcp::default() {
        handle.change(index, LinkChange { mtu: Some(nic.mtu), ..LinkChange::default() }).await?;
    }
    for address in nic.addresses.iter().filter(|address| told(address.addr())) {
        handle.add_address(index, IpPrefix::new(address.addr(), address.prefix_len())?).await?;
    }
    handle.set_up(index).await?;
    lead(handle, index, nic.routes.iter().copied().filter(|(to, _)| told(to.addr()))).await?;
    if nic.dhcp.v4 {
        // Whether a server of the physical network answers nobody here knows: it is asked on and on.
        let (otherwise, times) = if nic.addresses.is_empty() { ("-b", "3") } else { ("-n", "10") };
        let options = [otherwise, "-t", times, "-T", "1", "-A", "1", "-O", "mtu", "-O", "staticroutes", "-s", SCRIPT, "-i", &nic.name];
        client("udhcpc", &options, leads_out).await?;
    }
    if !nic.dhcp.v6 {
        return Ok(());
    }
    until(own, "no link-local address", async |handle| Ok(handle.addresses(Some(index)).await?.iter().any(IpPrefix::is_link_local)))
        .await?;
    let (leases, pid) = (format!("/run/dhclient6.{}.leases", nic.name), format!("/run/dhclient6.{}.pid", nic.name));
    let options = ["-6", "-1", "-cf", "/dev/null", "-D", "LL", "-lf", &leases, "-pf", &pid, "-sf", SCRIPT, &nic.name];
    client("dhclient", &options, leads_out).await?;
    let on_link = nic.addresses.iter().filter(|address| address.addr().is_ipv6()).map(|address| (address.trunc(), None));
    if nic.advertised {
        let mut expected = on_link.map(|(range, _)| IpPrefix::new(range.addr(), range.prefix_len())).collect::<Result<Vec<_>, _>>()?;
        expected.extend(leads_out.then_some(IpPrefix::DEFAULT_V6));
        let has = |routes: &[Route], to: &IpPrefix| routes.iter().any(|route| route.destination == *to && route.device == Some(index));
        return until(own, "no router advertises itself", async |handle| {
            let routes = handle.routes().await?;
            Ok(expected.iter().all(|to| has(&routes, to)))
        })
        .await;
    }
    lead(handle, index, on_link.chain(nic.routes.iter().copied().filter(|(to, _)| to.addr().is_ipv6()))).await
}

/// Routes by a link, each to a destination, by the next hop unless that is on the link.
async fn lead(handle: &Handle, index: u32, routes: impl Iterator<Item = (IpNet, Option<IpAddr>)>) -> anyhow::Result<()> {
    for (destination, via) in routes {
        let route = Route::new(IpPrefix::new(destination.addr(), destination.prefix_len())?).dev(index);
        handle.replace_route(&via.map_or(route, |via| route.via(via))).await?;
    }
    Ok(())
}

/// Runs a DHCP client, which goes on in the background when it has an address.
async fn client(program: &str, options: &[&str], leads_out: bool) -> anyhow::Result<()> {
    let mut client = Program::new(program);
    client.env("leads_out", leads_out.to_string()).args(options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
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
