//! The API server's listening sockets, some of them inside other network namespaces.

use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;

use anyhow::Context as _;
use linux::Netns;

/// An address inside a named network namespace: `NAME=ADDR:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenIn {
    netns: String,
    address: SocketAddr,
}

impl FromStr for ListenIn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (netns, address) = text.split_once('=').ok_or("expected NAME=ADDR:PORT")?;
        let address = address.parse().map_err(|_| format!("{address:?} is not an address with a port"))?;
        Ok(Self { netns: netns.to_owned(), address })
    }
}

/// Binds every address.
pub fn bind(here: &[SocketAddr], inside: &[ListenIn]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in here {
        anyhow::ensure!(address.ip().is_loopback(), "--listen {address}: only loopback addresses, as the API is plain HTTP");
        listeners.push(TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?);
    }
    for ListenIn { netns, address } in inside {
        listeners.push(Netns::named(netns)?.tcp_listener(*address)?);
    }
    // Whoever serves them does so with a reactor.
    listeners.iter().try_for_each(|listener| listener.set_nonblocking(true)).context("cannot make a listener nonblocking")?;
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_a_namespace_is_parsed() {
        let parsed: ListenIn = "fv-lab-central=10.9.0.10:6443".parse().unwrap();
        assert_eq!((parsed.netns.as_str(), parsed.address.port()), ("fv-lab-central", 6443));
        assert!("10.9.0.10:6443".parse::<ListenIn>().is_err() && "a=b".parse::<ListenIn>().is_err());
        assert!(bind(&["10.1.1.1:0".parse().unwrap()], &[]).is_err());
    }
}
