//! 48-bit MAC addresses (IEEE 802), printed in lower case with colons.

use std::fmt;
use std::str::FromStr;

/// A unicast MAC address that may be given to a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr([u8; 6]);

/// Why a text is no MAC address for a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacAddrError {
    /// Not six two-digit hexadecimal octets separated by `:` or `-`.
    #[error("{0:?} is not a MAC address: expected six hexadecimal octets such as 02:00:00:00:00:01")]
    Malformed(String),
    /// A group (multicast) or all-zero address cannot belong to one port.
    #[error("MAC address {0} is not unicast")]
    NotUnicast(String),
}

impl MacAddr {
    /// Checks the octets: the group bit must be clear and the address not all zero.
    pub fn new(octets: [u8; 6]) -> Result<Self, MacAddrError> {
        let mac = Self(octets);
        if octets[0] & 1 == 1 || octets == [0; 6] {
            return Err(MacAddrError::NotUnicast(mac.to_string()));
        }
        Ok(mac)
    }

    /// A locally administered unicast address with the given first octet bits and 40 bits of `suffix`.
    ///
    /// Bit 0 of `prefix` is cleared and bit 1 (locally administered) set, so the result is always valid.
    #[must_use]
    pub const fn local(prefix: u8, suffix: u64) -> Self {
        let s = suffix.to_be_bytes();
        Self([(prefix & 0xfc) | 2, s[3], s[4], s[5], s[6], s[7]])
    }

    /// The six octets in transmission order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let malformed = || MacAddrError::Malformed(text.to_owned());
        let mut octets = [0u8; 6];
        let mut parts = text.trim().split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(malformed)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        Self::new(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints_in_lower_case() {
        assert_eq!("02:00:AC:a8:00:01".parse::<MacAddr>().unwrap().to_string(), "02:00:ac:a8:00:01");
        assert_eq!("02-00-ac-a8-00-01".parse::<MacAddr>().unwrap().to_string(), "02:00:ac:a8:00:01");
    }

    #[test]
    fn refuses_multicast_zero_and_nonsense() {
        for bad in
            ["01:00:5e:00:00:01", "00:00:00:00:00:00", "", "02:00:ac:a8:00", "02:00:ac:a8:00:01:02", "0:1:2:3:4:5", "+2:00:00:00:00:01"]
        {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn local_is_always_unicast_and_locally_administered() {
        for prefix in 0..=255u8 {
            let mac = MacAddr::local(prefix, u64::MAX);
            assert_eq!(mac.octets()[0] & 3, 2);
            assert!(MacAddr::new(mac.octets()).is_ok());
        }
    }
}
