//! One real chassis: Open vSwitch with the userspace datapath, and `ovn-controller`. To be started in a network namespace
//! of its own, since bridges and ports become links there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ovsdb::Remote;

use super::scheme::{node_ip, node_name};
use crate::servers::{Running, listens};

pub struct Chassis {
    folder: PathBuf,
    // In this order they go.
    controller: Running,
    _switch: Running,
    _database: Running,
}

impl Chassis {
    /// The chassis of node 0, with the bridges of a node.
    pub fn start(folder: &Path, southbound: &Remote) -> Self {
        let file = folder.join("conf.db").display().to_string();
        run(Command::new("ovsdb-tool").args(["create", &file, "/usr/share/openvswitch/vswitch.ovsschema"]));
        let start = |program: &str, arguments: &[String]| {
            Running::command(Command::new(program).args(arguments).envs([("OVS_RUNDIR", folder), ("OVN_RUNDIR", folder)]))
        };
        let socket = folder.join("db.sock");
        let remote = format!("unix:{}", socket.display());
        let database = start("ovsdb-server", &[format!("--remote=p{remote}"), "--no-chdir".into(), file]);
        listens(&socket);
        let words = format!(
            "--no-wait -- init -- set open . external-ids:system-id={name} external-ids:hostname={name} external-ids:ovn-remote={southbound} \
             external-ids:ovn-encap-type=geneve external-ids:ovn-encap-ip={address} external-ids:ovn-bridge-mappings={network}:br-ex",
            name = node_name(0),
            address = node_ip(0),
            network = api::EGRESS_NETWORK,
        );
        vsctl(folder, &words);
        let switch = start("ovs-vswitchd", &["--disable-system".into(), remote.clone()]);
        let bridge = |name: &str| format!("-- add-br {name} -- set bridge {name} datapath_type=netdev fail-mode=secure");
        vsctl(folder, &format!("{} {}", bridge("br-int"), bridge("br-ex")));
        let controller = start("ovn-controller", &[remote]);
        Self { folder: folder.to_owned(), controller, _switch: switch, _database: database }
    }

    /// Plugs ports into `br-int`.
    pub fn plug<'a>(&self, ports: impl IntoIterator<Item = &'a str>) {
        let mut words = String::new();
        for (number, port) in ports.into_iter().enumerate() {
            // Names of links are short.
            let link = format!("p{number}-{:04x}", port.bytes().fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())));
            words += &format!(" -- add-port br-int {link} -- set interface {link} type=internal external-ids:iface-id={port}");
        }
        if !words.is_empty() {
            vsctl(&self.folder, &words);
        }
    }

    /// Has `ovn-controller` compute all flows anew, with its next turn.
    pub fn recompute(&self) {
        let control = self.folder.join(format!("ovn-controller.{}.ctl", self.controller.id()));
        run(Command::new("ovn-appctl").arg("-t").arg(control).arg("inc-engine/recompute"));
    }

    /// OpenFlow flows of `br-int`.
    pub fn flows(&self) -> u64 {
        let bridge = format!("unix:{}", self.folder.join("br-int.mgmt").display());
        let said = run(Command::new("ovs-ofctl").args(["-OOpenFlow15", "dump-aggregate", &bridge]));
        let count = said.split_whitespace().find_map(|word| word.strip_prefix("flow_count=")?.trim_end_matches(',').parse().ok());
        count.unwrap_or_else(|| panic!("ovs-ofctl dump-aggregate: {said}"))
    }
}

fn vsctl(folder: &Path, words: &str) {
    let database = format!("--db=unix:{}", folder.join("db.sock").display());
    run(Command::new("ovs-vsctl").args([&database, "--timeout=60"]).args(words.split_whitespace()));
}

/// What a program that must succeed says.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
