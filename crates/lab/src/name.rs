//! The name of a lab, and the namespaces that carry it.

use std::fmt;
use std::str::FromStr;

use crate::Place;

/// A lab's name: `a-z`, `0-9` and `-`, at most 12 characters, not beginning or ending with a dash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabName(String);

/// Why a text is not the name of a lab.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lab name {0:?} is not 1 to 12 of a-z, 0-9 and dashes, with no dash at either end")]
pub struct LabNameError(String);

/// Environment variable that every process of a lab carries.
pub const MARK: &str = "FERROVIA_LAB";

impl LabName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the network namespace of a place, or `None` for the machine itself.
    #[must_use]
    pub fn netns(&self, place: Place) -> Option<String> {
        (place != Place::Host).then(|| format!("fv-{self}-{place}"))
    }

    /// Name of the network namespace of a pod: ten hexadecimal digits made of its uid (FNV-1a, 64 bits).
    #[must_use]
    pub fn pod_netns(&self, uid: &str) -> String {
        let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        format!("fv-{self}-p-{:010x}", hash & 0xff_ffff_ffff)
    }

    /// Whether a network namespace of this name belongs to the lab.
    #[must_use]
    pub fn owns(&self, netns: &str) -> bool {
        Self::of_netns(netns).as_ref() == Some(self)
    }

    /// The lab that a network namespace belongs to. No name belongs to two: what follows the lab's name is one of
    /// few words, and none of them could be the end of another lab's name followed by such a word.
    #[must_use]
    pub fn of_netns(netns: &str) -> Option<Self> {
        let rest = netns.strip_prefix("fv-")?;
        let pod = rest.rsplit_once("-p-").filter(|(_, hash)| hash.len() == 10 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        let name = match pod {
            Some((name, _)) => name,
            None => rest.rsplit_once('-').filter(|(_, place)| place.parse::<Place>().is_ok_and(|place| place != Place::Host))?.0,
        };
        name.parse().ok()
    }

    /// What the environment of the lab's processes holds.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("{MARK}={self}")
    }
}

impl FromStr for LabName {
    type Err = LabNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let fits = (1..=12).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-');
        if allowed && fits { Ok(Self(text.to_owned())) } else { Err(LabNameError(text.to_owned())) }
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("lab".parse::<LabName>().is_ok());
        for bad in ["", "-a", "a-", "A", "a_b", "thirteen-char", "a/b", "ä"] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_namespace_belongs_to_one_lab() {
        let (a, ab): (LabName, LabName) = ("a".parse().unwrap(), "a-b".parse().unwrap());
        for lab in [&a, &ab] {
            let names = [Place::Fabric, Place::CENTRAL, Place::Node(1), Place::Outside(1)].map(|place| lab.netns(place).unwrap());
            for netns in names.iter().chain([&lab.pod_netns("6e5f0b12-0000-4000-8000-000000000001")]) {
                assert_eq!([&a, &ab].map(|other| other.owns(netns)), [lab == &a, lab == &ab], "{netns}");
            }
        }
        assert!(!a.owns("fv-a-node") && !a.owns("other-a-node1") && !a.owns("fv-a-host"));
        let odd: LabName = "a-p".parse().unwrap();
        assert!(!a.owns(&odd.netns(Place::CENTRAL).unwrap()) && !a.owns(&odd.pod_netns("x")));
    }
}
