//! ADD and DEL: a pod's veth, its port, its addresses.

use std::net::IpAddr;

use api::annotations::NicRecord;
use linux::{Handle, IpPrefix, LinkChange, Netns, Route, VethEnd};
use serde_json::Value;

use crate::cni::{self, CniError, Code, Request};
use crate::config::Config;
use crate::ovs::{Ovs, PodPort};
use crate::pods::{Nic, Pods};

/// What requests are served with.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) pods: Pods,
    pub(crate) ovs: Ovs,
    /// Netlink in the node's namespace.
    pub(crate) links: Handle,
    pub(crate) netns: Netns,
}

/// Name of the host's end: the first twelve characters of the container's identifier, as Kube-OVN names it.
pub(crate) fn host_link(container: &str) -> String {
    format!("{}_h", container.chars().take(12).collect::<String>())
}

fn failed(error: impl std::fmt::Display) -> CniError {
    CniError::new(Code::Failed, error.to_string())
}

impl Node {
    /// Wires a pod. Done again with the same container, it finds everything in place.
    pub(crate) async fn add(&self, request: &Request) -> Result<Value, CniError> {
        let path = request.netns.as_deref().ok_or_else(|| CniError::new(Code::InvalidEnvironment, "CNI_NETNS is not set"))?;
        let pod_ns = Netns::open(path).map_err(failed)?;
        let later = |why: String| CniError::new(Code::TryAgainLater, why);
        let nic =
            self.pods.nic(&request.namespace, &request.pod, request.uid.as_deref(), self.config.address_patience).await.map_err(later)?;
        self.ovs.ready(self.config.port_patience).await.map_err(|e| later(e.to_string()))?;
        match self.wire(request, &pod_ns, &nic).await {
            Ok(result) => Ok(result),
            Err(error) => {
                // Nothing half made stays behind; what cannot be undone is said beside the cause.
                if let Err(undo) = self.del(request).await {
                    tracing::warn!(container = %request.container, error = %undo.message, "cannot undo a failed ADD");
                }
                Err(error)
            }
        }
    }

    async fn wire(&self, request: &Request, pod_ns: &Netns, nic: &Nic) -> Result<Value, CniError> {
        let record = &nic.record;
        let host = host_link(&request.container);
        let inside = Handle::open(pod_ns).map_err(failed)?;
        let mac = record.mac.octets();
        let there =
            self.links.link(&host).await.map_err(failed)?.is_some() && inside.link(&request.ifname).await.map_err(failed)?.is_some();
        if !there {
            if let Some(stale) = self.links.link(&host).await.map_err(failed)? {
                self.links.delete_link(stale.index).await.map_err(failed)?;
            }
            let near = VethEnd { name: &host, mtu: Some(self.config.mtu), ..VethEnd::default() };
            let far = VethEnd { name: &request.ifname, netns: Some(pod_ns), mac: Some(mac), mtu: Some(self.config.mtu) };
            self.links.create_veth(&near, &far).await.map_err(failed)?;
        }
        let near = self.links.link(&host).await.map_err(failed)?.ok_or_else(|| failed(format!("link {host} vanished")))?;
        self.links.change(near.index, LinkChange { no_link_local: true, ..LinkChange::default() }).await.map_err(failed)?;
        // With IPv6 a link that comes up brings a multicast route, and any change of a route makes `ovs-vswitchd` read all of
        // them anew: packets that userspace tunnels carry in that moment are lost.
        match linux::sysctl::write(&self.netns, &format!("net/ipv6/conf/{host}/disable_ipv6"), "1") {
            Err(error) if !error.is_missing() => return Err(failed(error)),
            _ => {}
        }
        if self.ovs.is_userspace() {
            linux::ethtool::disable_tx_checksums(&self.netns, &host).map_err(failed)?;
            linux::ethtool::disable_tx_checksums(pod_ns, &request.ifname).map_err(failed)?;
        }
        self.links.set_up(near.index).await.map_err(failed)?;

        let port = PodPort {
            link: host.clone(),
            iface_id: nic.port.clone(),
            external_ids: vec![
                ("pod_name", request.pod.clone()),
                ("pod_namespace", request.namespace.clone()),
                ("pod_netns", pod_ns.label().to_owned()),
                ("ip", api::annotations::join(&record.addresses)),
                ("container_id", request.container.clone()),
            ],
        };
        self.ovs.add(&port).await.map_err(failed)?;
        // The pod's end is set up while ovn-controller installs the flows.
        let (ips, installed) = tokio::join!(configure(&inside, request, record), self.ovs.installed(&host, self.config.port_patience));
        let ips = ips?;
        installed.map_err(|e| CniError::new(Code::TryAgainLater, e.to_string()))?;
        let host_mac = near.mac.map(linux::display_mac).unwrap_or_default();
        Ok(cni::result(request, &host, &host_mac, &record.mac.to_string(), &ips))
    }

    /// Unwires a container. What is not there any more is as good as removed.
    pub(crate) async fn del(&self, request: &Request) -> Result<(), CniError> {
        let host = host_link(&request.container);
        self.ovs.ready(self.config.port_patience).await.map_err(|e| CniError::new(Code::TryAgainLater, e.to_string()))?;
        self.ovs.remove(std::slice::from_ref(&host)).await.map_err(failed)?;
        if let Some(link) = self.links.link(&host).await.map_err(failed)? {
            match self.links.delete_link(link.index).await {
                Err(error) if !error.is_missing() => return Err(failed(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Addresses and routes of the pod's end. Returns the addresses with their prefix lengths and gateways.
async fn configure(inside: &Handle, request: &Request, record: &NicRecord) -> Result<Vec<(String, Option<IpAddr>)>, CniError> {
    let index = inside.index(&request.ifname).await.map_err(failed)?;
    let mut ips = Vec::new();
    for ip in &record.addresses {
        let length =
            record.cidrs.and_then(|cidrs| cidrs.of_family(*ip)).map_or(if ip.is_ipv4() { 32 } else { 128 }, |net| net.prefix_len());
        let prefix = IpPrefix::new(*ip, length).map_err(failed)?;
        if !inside.addresses(Some(index)).await.map_err(failed)?.contains(&prefix) {
            inside.add_address(index, prefix).await.map_err(failed)?;
        }
        ips.push((format!("{ip}/{length}"), record.gateways.iter().copied().find(|g| g.is_ipv4() == ip.is_ipv4())));
    }
    inside.set_up(index).await.map_err(failed)?;
    for gateway in ips.iter().filter_map(|(_, gateway)| *gateway) {
        let route = Route::new(IpPrefix::default_of(gateway)).via(gateway).dev(index);
        inside.replace_route(&route).await.map_err(failed)?;
    }
    Ok(ips)
}

#[cfg(test)]
mod tests {
    #[test]
    fn host_links_fit_the_kernels_limit() {
        assert_eq!(super::host_link("0123456789abcdef"), "0123456789ab_h");
        assert!(super::host_link(&"x".repeat(64)).len() <= 15);
    }
}
