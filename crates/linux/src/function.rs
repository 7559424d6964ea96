//! Functions of NICs that have a switch of their own, as sysfs shows them: virtual functions (SR-IOV) and subfunctions, and for each the link that
//! stands for it at that switch, its representor (Linux, `networking/representors.rst`; `networking/devlink/devlink-port.rst`).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Driver that leaves a function to a virtual machine: it has no link then.
const VFIO: &str = "vfio-pci";

/// A function of a NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its link, in the network namespace that sysfs shows; none while it is in another one, or a virtual machine's.
    pub link: Option<String>,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// The link that stands for it at the switch.
    pub representor: String,
    /// Of a virtual function: link of the physical one, and its number there.
    pub physical: Option<(String, u32)>,
}

impl Function {
    /// Whether it is left to a virtual machine.
    #[must_use]
    pub fn is_passed_through(&self) -> bool {
        self.driver.as_deref() == Some(VFIO)
    }
}

/// What is missing of a function.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The device.
    #[error("there is no device {device}: no folder {}", .folder.display())]
    NoDevice {
        /// The device.
        device: String,
        /// Where it would be.
        folder: PathBuf,
    },
    /// A NIC that it is a function of.
    #[error("device {device} is neither a virtual function nor a subfunction of a NIC: {} {why}", .file.display())]
    NoFunction {
        /// The device.
        device: String,
        /// Where it would lead to its NIC, or have its number.
        file: PathBuf,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The NIC's link.
    #[error("NIC {nic} of device {device} has no link: nothing is in {}; is it bound to its driver?", .folder.display())]
    NoLink {
        /// The device.
        device: String,
        /// Address of the NIC.
        nic: String,
        /// Where its links would be.
        folder: PathBuf,
    },
    /// The switch.
    #[error(
        "NIC {nic} of device {device} has no switch: {} is empty; `devlink dev eswitch set pci/{nic} mode switchdev` turns it on", .file.display()
    )]
    NoSwitch {
        /// The device.
        device: String,
        /// Address of the NIC.
        nic: String,
        /// Where its switch would be named.
        file: PathBuf,
    },
    /// The representor.
    #[error("device {device} has no representor: no link in {} has phys_switch_id {switch} and phys_port_name pf…{number}", .folder.display())]
    NoRepresentor {
        /// The device.
        device: String,
        /// Where links are.
        folder: PathBuf,
        /// Identifier of the switch.
        switch: String,
        /// End of the port's name.
        number: String,
    },
    /// Which of several is it?
    #[error("device {0} has more than one representor: {1}")]
    Several(String, String),
}

/// A function's number at its NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Virtual(u32),
    Sub(u32),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Virtual(number) => write!(f, "vf{number}"),
            Self::Sub(number) => write!(f, "sf{number}"),
        }
    }
}

/// What sysfs, mounted at `root`, shows of a device: an address on the PCI bus, such as `0000:05:00.2`, or a name on the auxiliary bus, such
/// as `mlx5_core.sf.4`.
///
/// # Errors
/// What is missing, and where.
pub fn find(root: &Path, device: &str) -> Result<Function, FunctionError> {
    let devices = |bus: &str| root.join("bus").join(bus).join("devices");
    let is_pci = device.contains(':');
    let own = devices(if is_pci { "pci" } else { "auxiliary" }).join(device);
    if !own.is_dir() {
        return Err(FunctionError::NoDevice { device: device.to_owned(), folder: own });
    }
    let none = |file: PathBuf, why| FunctionError::NoFunction { device: device.to_owned(), file, why };
    let (nic, number) = if is_pci {
        let physical = own.join("physfn");
        let nic = target(&physical).ok_or_else(|| none(physical, "is missing"))?;
        let folder = devices("pci").join(&nic);
        let is_own = |name: &String| name.starts_with("virtfn") && target(&folder.join(name)).as_deref() == Some(device);
        let number = names(&folder).into_iter().find(is_own).and_then(|name| name["virtfn".len()..].parse().ok());
        (nic, Number::Virtual(number.ok_or_else(|| none(folder, "has no virtfn that leads to it"))?))
    } else {
        let number = own.join("sfnum");
        let found = text(&number).and_then(|text| text.parse().ok()).map(Number::Sub);
        let number = found.ok_or_else(|| none(number, "holds no number"))?;
        // A subfunction is in the folder of the NIC that it is of.
        let inside = fs::canonicalize(&own).ok().and_then(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned()));
        (inside.ok_or_else(|| none(own.clone(), "leads nowhere"))?, number)
    };

    let (links, class) = (devices("pci").join(&nic).join("net"), root.join("class/net"));
    // With a switch the representors may be there, too.
    let is_uplink = |link: &String| text(&class.join(link).join("phys_port_name")).and_then(|name| port(&name)).is_none();
    let uplink = names(&links).into_iter().find(is_uplink);
    let uplink = uplink.ok_or_else(|| FunctionError::NoLink { device: device.to_owned(), nic: nic.clone(), folder: links })?;
    let file = class.join(&uplink).join("phys_switch_id");
    let switch = text(&file).ok_or_else(|| FunctionError::NoSwitch { device: device.to_owned(), nic: nic.clone(), file })?;
    Ok(Function {
        link: names(&own.join("net")).into_iter().next(),
        driver: target(&own.join("driver")),
        representor: representor(&class, device, &nic, &switch, number)?,
        physical: match number {
            Number::Virtual(number) => Some((uplink, number)),
            Number::Sub(_) => None,
        },
    })
}

/// The link at a switch that stands for a function of a NIC.
fn representor(class: &Path, device: &str, nic: &str, switch: &str, number: Number) -> Result<String, FunctionError> {
    let mut found = Vec::new();
    for link in names(class) {
        let folder = class.join(&link);
        if text(&folder.join("phys_switch_id")).as_deref() != Some(switch) {
            continue;
        }
        if let Some((physical, of)) = text(&folder.join("phys_port_name")).and_then(|name| port(&name))
            && of == number
        {
            found.push((link, physical, target(&folder.join("device"))));
        }
    }
    // Two NICs whose links are bonded have one switch. A representor's device is its NIC, where the driver says so; else the number of the physical
    // function is that of the NIC's address.
    found.retain(|(_, _, of)| of.as_deref().is_none_or(|of| of == nic));
    if found.len() > 1 {
        let own = nic.rsplit('.').next().and_then(|function| function.parse().ok());
        found.retain(|(_, physical, of)| of.is_some() || *physical == own);
    }
    let mut links = found.into_iter().map(|(link, ..)| link);
    match (links.next(), links.next()) {
        (Some(link), None) => Ok(link),
        (Some(one), Some(other)) => {
            let all: Vec<_> = [one, other].into_iter().chain(links).collect();
            Err(FunctionError::Several(device.to_owned(), all.join(", ")))
        }
        (None, _) => Err(FunctionError::NoRepresentor {
            device: device.to_owned(),
            folder: class.to_owned(),
            switch: switch.to_owned(),
            number: number.to_string(),
        }),
    }
}

/// What a port's name says it stands for: the number of the physical function, if it has it, and that of the function. Older drivers name a
/// virtual function by its number alone. What begins with a controller (`c1pf0vf3`) is of another host.
fn port(name: &str) -> Option<(Option<u32>, Number)> {
    let Some(rest) = name.strip_prefix("pf") else { return Some((None, Number::Virtual(name.parse().ok()?))) };
    let numbers = |(physical, function): (&str, &str)| Some((physical.parse().ok()?, function.parse().ok()?));
    let of = |kind: &str| rest.split_once(kind).and_then(numbers);
    let virtual_one = of("vf").map(|(physical, number)| (Some(physical), Number::Virtual(number)));
    virtual_one.or_else(|| of("sf").map(|(physical, number)| (Some(physical), Number::Sub(number))))
}

/// Names in a folder, sorted; none when it is not there.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// Name of what a symbolic link leads to.
fn target(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

/// What a file says, if it says anything: where a driver has no answer it cannot be read.
fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A tree as a NIC of two ports, each a physical function with a virtual one, leaves it. Gone when dropped.
    struct Tree(PathBuf);

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    impl Tree {
        fn new() -> Self {
            static TREES: AtomicU32 = AtomicU32::new(0);
            let name = format!("fvt-{}-sysfs{}", std::process::id(), TREES.fetch_add(1, Ordering::Relaxed));
            let tree = Self(std::env::temp_dir().join(name));
            for port in 0..2 {
                let (nic, vf) = (format!("0000:05:00.{port}"), format!("0000:05:00.{}", port + 2));
                tree.link(&format!("bus/pci/devices/{nic}"), &format!("../../../devices/pci0000:00/{nic}"));
                tree.link(&format!("bus/pci/devices/{vf}"), &format!("../../../devices/pci0000:00/{vf}"));
                tree.link(&format!("devices/pci0000:00/{nic}/virtfn0"), &format!("../{vf}"));
                tree.link(&format!("devices/pci0000:00/{vf}/physfn"), &format!("../{nic}"));
                tree.link(&format!("devices/pci0000:00/{vf}/driver"), "../../../bus/pci/drivers/mlx5_core");
                tree.netdev(&nic, &format!("enp5s0f{port}np{port}"), &format!("p{port}"), "e8a1");
                tree.netdev(&vf, &format!("enp5s0f{port}v0"), "", "");
            }
            tree
        }

        fn link(&self, path: &str, target: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }

        /// A link of a device.
        fn netdev(&self, device: &str, name: &str, port: &str, switch: &str) {
            let folder = format!("devices/pci0000:00/{device}/net/{name}");
            self.write(&format!("{folder}/phys_port_name"), port);
            self.write(&format!("{folder}/phys_switch_id"), switch);
            self.link(&format!("{folder}/device"), &format!("../../../{device}"));
            self.link(&format!("class/net/{name}"), &format!("../../{folder}"));
        }

        /// A link of which sysfs does not say whose it is.
        fn virtual_netdev(&self, name: &str, port: &str, switch: &str) {
            self.write(&format!("class/net/{name}/phys_port_name"), port);
            self.write(&format!("class/net/{name}/phys_switch_id"), switch);
        }

        fn remove(&self, path: &str) {
            let path = self.0.join(path);
            if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }

        fn of(&self, device: &str) -> Result<Function, String> {
            find(&self.0, device).map_err(|error| error.to_string().replace(&*self.0.to_string_lossy(), "/sys"))
        }
    }

    #[test]
    fn a_virtual_function_leads_to_its_representor_where_two_ports_have_one_switch() {
        let tree = Tree::new();
        for port in 0..2 {
            let nic = format!("0000:05:00.{port}");
            tree.netdev(&nic, &format!("enp5s0f{port}npf{port}vf0"), &format!("pf{port}vf0"), "e8a1");
            tree.netdev(&nic, &format!("enp5s0f{port}npf{port}vf1"), &format!("pf{port}vf1"), "e8a1");
        }
        // Of other hosts, and at other switches.
        tree.netdev("0000:05:00.0", "far", "c1pf0vf0", "e8a1");
        tree.virtual_netdev("other", "pf0vf0", "beef");
        let expected = Function {
            link: Some("enp5s0f1v0".to_owned()),
            driver: Some("mlx5_core".to_owned()),
            representor: "enp5s0f1npf1vf0".to_owned(),
            physical: Some(("enp5s0f1np1".to_owned(), 0)),
        };
        assert_eq!(tree.of("0000:05:00.3"), Ok(expected));
        assert_eq!(tree.of("0000:05:00.2").unwrap().representor, "enp5s0f0npf0vf0");
    }

    #[test]
    fn a_representor_without_a_device_is_told_by_its_port_s_name() {
        let tree = Tree::new();
        tree.virtual_netdev("eth4", "pf0vf0", "e8a1");
        assert_eq!(tree.of("0000:05:00.2").unwrap().representor, "eth4");
        tree.virtual_netdev("eth5", "pf1vf0", "e8a1");
        assert_eq!(tree.of("0000:05:00.3").unwrap().representor, "eth5");
        tree.virtual_netdev("eth6", "pf1vf0", "e8a1");
        assert_eq!(tree.of("0000:05:00.3").unwrap_err(), "device 0000:05:00.3 has more than one representor: eth5, eth6");
        // Numbers alone.
        let tree = Tree::new();
        tree.virtual_netdev("eth4", "0", "e8a1");
        assert_eq!(tree.of("0000:05:00.2").unwrap().representor, "eth4");
    }

    #[test]
    fn a_function_of_a_machine_has_no_link() {
        let tree = Tree::new();
        tree.virtual_netdev("eth4", "pf0vf0", "e8a1");
        tree.remove("devices/pci0000:00/0000:05:00.2/net");
        tree.remove("devices/pci0000:00/0000:05:00.2/driver");
        tree.link("devices/pci0000:00/0000:05:00.2/driver", "../../../bus/pci/drivers/vfio-pci");
        let found = tree.of("0000:05:00.2").unwrap();
        assert!(found.is_passed_through() && found.link.is_none());
        assert_eq!(found.physical, Some(("enp5s0f0np0".to_owned(), 0)));
    }

    #[test]
    fn a_subfunction_is_found_by_its_number() {
        let tree = Tree::new();
        let folder = "devices/pci0000:00/0000:05:00.0/mlx5_core.sf.4";
        tree.link("bus/auxiliary/devices/mlx5_core.sf.4", &format!("../../../{folder}"));
        tree.write(&format!("{folder}/sfnum"), "88");
        tree.write(&format!("{folder}/net/enp5s0f0s88/ifindex"), "9");
        tree.netdev("0000:05:00.0", "en3f0pf0sf88", "pf0sf88", "e8a1");
        let found = tree.of("mlx5_core.sf.4").unwrap();
        assert_eq!((found.link.as_deref(), found.representor.as_str(), found.physical), (Some("enp5s0f0s88"), "en3f0pf0sf88", None));
        tree.remove(&format!("{folder}/sfnum"));
        assert!(tree.of("mlx5_core.sf.4").unwrap_err().ends_with("mlx5_core.sf.4/sfnum holds no number"));
    }

    #[test]
    fn what_is_missing_is_said_and_where() {
        let tree = Tree::new();
        let device = "0000:05:00.2";
        assert_eq!(tree.of("0000:07:00.2").unwrap_err(), "there is no device 0000:07:00.2: no folder /sys/bus/pci/devices/0000:07:00.2");
        let error = tree.of("0000:05:00.0").unwrap_err();
        assert!(error.ends_with("/sys/bus/pci/devices/0000:05:00.0/physfn is missing"), "{error}");
        let error = tree.of(device).unwrap_err();
        assert!(error.contains("no link in /sys/class/net has phys_switch_id e8a1 and phys_port_name pf…vf0"), "{error}");
        tree.write("class/net/enp5s0f0np0/phys_switch_id", "");
        let error = tree.of(device).unwrap_err();
        assert!(
            error.contains("NIC 0000:05:00.0 of device 0000:05:00.2 has no switch: /sys/class/net/enp5s0f0np0/phys_switch_id"),
            "{error}"
        );
        assert!(error.contains("`devlink dev eswitch set pci/0000:05:00.0 mode switchdev`"), "{error}");
        tree.remove("devices/pci0000:00/0000:05:00.0/net");
        assert!(tree.of(device).unwrap_err().contains("has no link: nothing is in /sys/bus/pci/devices/0000:05:00.0/net"));
        tree.remove("devices/pci0000:00/0000:05:00.0/virtfn0");
        assert!(tree.of(device).unwrap_err().ends_with("0000:05:00.0 has no virtfn that leads to it"));
    }

    #[test]
    fn names_of_ports_say_what_they_stand_for() {
        for (name, expected) in [
            ("pf0vf3", Some((Some(0), Number::Virtual(3)))),
            ("pf1sf88", Some((Some(1), Number::Sub(88)))),
            ("3", Some((None, Number::Virtual(3)))),
            ("p0", None),
            ("p0s1", None),
            ("pf0", None),
            ("c1pf0vf3", None),
            ("", None),
        ] {
            assert_eq!(port(name), expected, "{name}");
        }
    }
}
