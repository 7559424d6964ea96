//! Device settings through the `SIOCETHTOOL` ioctl (`linux/ethtool.h`).

use std::ffi::c_void;
use std::io;

use rustix::ioctl::{Updater, ioctl};
use rustix::net::{AddressFamily, SocketType, socket};

use crate::{Error, Netns, Result};

const SIOCETHTOOL: u32 = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const NAME: usize = 16;

/// `struct ifreq` with its `ifr_data` member.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    data: *mut c_void,
    unused: [u8; 16],
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// Turns checksum offload on transmission off (`ethtool -K LINK tx off`): a userspace datapath reads packets whose
/// checksums nobody would ever fill in.
///
/// # Errors
/// When there is no such link, or it cannot do without.
pub fn disable_tx_checksums(netns: &Netns, link: &str) -> Result<()> {
    let mut value = Value { command: ETHTOOL_STXCSUM, data: 0 };
    netns.run(|| call(link, &mut value))?.map_err(|e| failed(netns, link, "turn transmit checksums off", e))
}

/// Whether checksums are offloaded on transmission.
///
/// # Errors
/// When there is no such link.
pub fn tx_checksums(netns: &Netns, link: &str) -> Result<bool> {
    let mut value = Value { command: ETHTOOL_GTXCSUM, data: 0 };
    netns.run(|| call(link, &mut value))?.map_err(|e| failed(netns, link, "read transmit checksums", e))?;
    Ok(value.data != 0)
}

/// Name of the link's driver, such as `veth` or `virtio_net`.
///
/// # Errors
/// When there is no such link or it has no driver.
pub fn driver(netns: &Netns, link: &str) -> Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    netns.run(|| call(link, &mut info))?.map_err(|e| failed(netns, link, "read the driver", e))?;
    Ok(String::from_utf8_lossy(&info.driver).trim_end_matches('\0').to_owned())
}

fn failed(netns: &Netns, link: &str, operation: &str, cause: io::Error) -> Error {
    Error::new(format!("link {link} in {}", netns.label()), operation, cause)
}

/// Passes one of the structures above, which must begin with its command.
fn call<T>(link: &str, data: &mut T) -> io::Result<()> {
    let mut request = Request { name: [0; NAME], data: std::ptr::from_mut(data).cast(), unused: [0; 16] };
    if link.len() >= NAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "name is longer than 15 characters"));
    }
    request.name[..link.len()].copy_from_slice(link.as_bytes());
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: `request` has the layout of `struct ifreq` on 64-bit Linux, and `data` points to a structure of the size
    // that its command implies, borrowed for the length of the call.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(&socket, Updater::<SIOCETHTOOL, Request>::new(&mut request))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::{Handle, VethEnd};

    #[tokio::test]
    async fn transmit_checksums_are_turned_off() {
        let scratch = Scratch::new("eth");
        let near = VethEnd { name: "a", ..VethEnd::default() };
        Handle::open(&scratch.netns).unwrap().create_veth(&near, &VethEnd { name: "b", ..near }).await.unwrap();
        assert!(tx_checksums(&scratch.netns, "a").unwrap());
        disable_tx_checksums(&scratch.netns, "a").unwrap();
        assert!(!tx_checksums(&scratch.netns, "a").unwrap());
        assert!(tx_checksums(&scratch.netns, "b").unwrap(), "the other end is left alone");
        assert_eq!(driver(&scratch.netns, "a").unwrap(), "veth");
        assert!(driver(&scratch.netns, "c").unwrap_err().is_missing());
    }
}
