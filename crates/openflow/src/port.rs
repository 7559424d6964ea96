//! Ports of a bridge ("Port Structures").

use std::fmt;

/// A port that packets come from or go to: a number that Open vSwitch shows in `Interface:ofport`, or a reserved one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(u32);

/// A number that no port has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("port {0} is not between 1 and {max}", max = Port::MAX)]
pub struct PortError(pub i64);

impl Port {
    /// Back through the port that the packet came from (`OFPP_IN_PORT`), which plain output never does.
    pub const IN_PORT: Self = Self(0xffff_fff8);
    /// As a learning switch would (`OFPP_NORMAL`).
    pub const NORMAL: Self = Self(0xffff_fffa);
    /// The bridge's own link, which has its name (`OFPP_LOCAL`).
    pub const LOCAL: Self = Self(0xffff_fffe);
    /// The highest number that Open vSwitch gives: its ports have 16 bits, of which the top 256 values are reserved.
    pub const MAX: i64 = 0xfeff;

    /// The port with `number`, as the `ofport` column has it: -1 there means that the port could not be opened.
    ///
    /// # Errors
    /// When the number is not between 1 and [`Port::MAX`].
    pub fn new(number: i64) -> Result<Self, PortError> {
        match u32::try_from(number) {
            Ok(value) if (1..=Self::MAX).contains(&number) => Ok(Self(value)),
            _ => Err(PortError(number)),
        }
    }

    pub(crate) const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::IN_PORT => f.write_str("IN_PORT"),
            Self::NORMAL => f.write_str("NORMAL"),
            Self::LOCAL => f.write_str("LOCAL"),
            Self(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_that_the_switch_gives_are_ports() {
        assert_eq!(Port::new(1).map(Port::number), Ok(1));
        assert_eq!(Port::new(Port::MAX).map(Port::number), Ok(0xfeff));
        for bad in [-1, 0, 0xff00, 0xffff_fffe, i64::MAX] {
            assert_eq!(Port::new(bad), Err(PortError(bad)));
        }
        assert_eq!(PortError(-1).to_string(), "port -1 is not between 1 and 65279");
    }
}
