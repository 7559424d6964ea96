//! Taps (`linux/if_tun.h`): links whose other side is a program, such as a virtual machine's. Netlink makes none.

use std::fs::File;
use std::io;

use rustix::ioctl::{IntegerSetter, Updater, ioctl};

use crate::{Error, Netns, Result};

const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETPERSIST: u32 = 0x4004_54cb;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const NAME: usize = 16;

/// `struct ifreq` with its `ifr_flags` member.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    unused: [u8; 22],
}

/// Makes a tap inside `netns` that stays when nobody uses it, and takes packets with what of their checksums and segmentation
/// is left to do (`IFF_VNET_HDR`). One that is there and free is taken.
///
/// # Errors
/// When a program uses it, another kind of link has the name, or the kernel has no taps.
pub fn create(netns: &Netns, name: &str) -> Result<()> {
    netns.run(|| persist(name))?.map_err(|e| Error::new(format!("tap {name} in {}", netns.label()), "create", e))
}

fn persist(name: &str) -> io::Result<()> {
    let mut request = Request { name: [0; NAME], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, unused: [0; 22] };
    if name.len() >= NAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "name is longer than 15 characters"));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // It belongs to the namespace of the thread that opens this.
    let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: `request` has the layout and size of `struct ifreq` on 64-bit Linux and is borrowed for the length of the call;
    // TUNSETPERSIST takes an integer in place of a pointer.
    #[allow(unsafe_code)]
    unsafe {
        ioctl(&tap, Updater::<TUNSETIFF, Request>::new(&mut request))?;
        ioctl(&tap, IntegerSetter::<TUNSETPERSIST>::new_usize(1))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use crate::{Handle, LinkChange};

    #[tokio::test]
    async fn a_tap_stays_and_joins_a_bridge() {
        let scratch = Scratch::new("tap");
        let handle = Handle::open(&scratch.netns).unwrap();
        create(&scratch.netns, "tap0").unwrap();
        // A program that another test starts in that moment has the file until its exec(2), and so the tap is in use.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
        while let Err(error) = create(&scratch.netns, "tap0") {
            assert!(error.to_string().contains("Device or resource busy") && tokio::time::Instant::now() < deadline, "{error}");
            tokio::task::yield_now().await;
        }
        let bridge = handle.create_bridge("br0").await.unwrap();
        let tap = handle.link("tap0").await.unwrap().unwrap();
        assert_eq!((tap.kind.as_str(), tap.up), ("tun", false));
        let change = LinkChange { master: Some(bridge), mtu: Some(1400), up: Some(true), ..LinkChange::default() };
        handle.change(tap.index, change).await.unwrap();
        let tap = handle.link("tap0").await.unwrap().unwrap();
        assert_eq!((tap.master, tap.mtu, tap.up), (Some(bridge), 1400, true));
        assert!(create(&scratch.netns, "br0").unwrap_err().to_string().starts_with("tap br0 in network namespace fvt-"));
    }
}
