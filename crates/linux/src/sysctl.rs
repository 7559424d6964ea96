//! Kernel parameters under `/proc/sys`; those under `net` belong to a network namespace.

use std::path::PathBuf;

use crate::{Error, Netns, Result};

/// Reads a parameter such as `net/ipv4/ip_forward`, without its line end.
///
/// # Errors
/// When there is no such parameter.
pub fn read(netns: &Netns, key: &str) -> Result<String> {
    let text = netns.run(|| std::fs::read_to_string(path(key)))?.map_err(|e| failed(netns, key, "read", e))?;
    Ok(text.trim_end().to_owned())
}

/// Writes a parameter.
///
/// # Errors
/// When there is no such parameter or the value does not suit it.
pub fn write(netns: &Netns, key: &str, value: &str) -> Result<()> {
    netns.run(|| std::fs::write(path(key), value))?.map_err(|e| failed(netns, key, &format!("write {value:?} to it"), e))
}

// By path, not by dots: a link's name may hold dots.
fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

fn failed(netns: &Netns, key: &str, operation: &str, cause: std::io::Error) -> Error {
    Error::new(format!("sysctl {key} in {}", netns.label()), operation, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_parameter_belongs_to_its_namespace() {
        let (a, b) = (Scratch::new("sysa"), Scratch::new("sysb"));
        write(&a.netns, "net/ipv4/ip_forward", "1").unwrap();
        write(&b.netns, "net/ipv4/ip_forward", "0").unwrap();
        assert_eq!(read(&a.netns, "net/ipv4/ip_forward").unwrap(), "1");
        assert_eq!(read(&b.netns, "net/ipv4/ip_forward").unwrap(), "0");
        let error = read(&a.netns, "net/ipv4/nonsense").unwrap_err();
        assert!(error.is_missing() && error.to_string().contains("sysctl net/ipv4/nonsense"), "{error}");
    }
}
