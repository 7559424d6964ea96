//! The node's Open vSwitch: ports of pods, and what the switch reports of them.

mod gateway;
mod limits;
mod mirror;
mod node_port;
mod notes;
mod patch;
mod provider;
mod representor;
mod vhost;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ovsdb::{Client, Event, Options, Remote, TransactError};
use ovsdb_types::vswitch::{bridge, interface, mirror as mirrors, open_vswitch, port, qos};
use ovsdb_types::{Atom, Condition, Datum, IndexDef, Monitored, Mutation, Mutator, Operation, Replica, Row, RowKey, Uuid, vswitch};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

pub(crate) use limits::Limits;
pub(crate) use node_port::NodePort;
pub(crate) use patch::Patch;
pub(crate) use provider::Bridge;
pub(crate) use representor::DEVICE;
pub(crate) use vhost::VhostPort;

/// What was committed is seen long before this.
const SIGHT: Duration = Duration::from_secs(5);

/// A port to add to the integration bridge.
#[derive(Clone, Debug)]
pub(crate) struct PodPort {
    /// Name of the host's link, or of the port alone.
    pub(crate) link: String,
    /// The socket that is there in place of a link.
    pub(crate) vhost: Option<VhostPort>,
    /// What the switch is to let pass; `None` where that is said elsewhere.
    pub(crate) limits: Option<Limits>,
    /// Logical switch port that it stands for.
    pub(crate) iface_id: String,
    /// Further keys for people: pod, namespace, network namespace, container.
    pub(crate) external_ids: Vec<(&'static str, String)>,
}

/// Why a port is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OvsError {
    #[error("Open vSwitch: {0}")]
    Transact(#[from] TransactError),
    #[error("Open vSwitch has no bridge {0}")]
    NoBridge(String),
    #[error("bridge {0} is there already and not ours: remove it, or start the agent with --egress none")]
    ForeignBridge(String),
    #[error("port {0} is there already and not ours: remove it")]
    ForeignPort(String),
    #[error("ovn-bridge-mappings has {0} behind bridge {1} already, which is not ours: take it out, or start the agent with --egress none")]
    ForeignNetwork(String, String),
    #[error("bridge {0} is there already and not ours")]
    NotOurs(String),
    #[error("Open vSwitch cannot open {0}: {1}")]
    Port(String, String),
    #[error("port {0} is not programmed after {1:?}: {2}")]
    NotInstalled(String, Duration, &'static str),
    #[error("not connected to Open vSwitch")]
    Disconnected,
}

pub(crate) struct State {
    replica: Replica,
    connected: bool,
}

/// The node's switch.
#[derive(Clone)]
pub(crate) struct Ovs {
    client: Client,
    state: watch::Receiver<State>,
    bridge: String,
}

/// Prepares the connection, and the future that keeps it; the caller owns the task that awaits it.
pub(crate) fn open(remote: Remote, bridge_name: &str) -> (Ovs, impl Future<Output = ()> + Send + use<>) {
    let monitored = Monitored {
        schema: &vswitch::SCHEMA,
        tables: vec![
            (
                bridge::TABLE,
                vec![
                    bridge::DATAPATH_TYPE.index,
                    bridge::EXTERNAL_IDS.index,
                    bridge::MIRRORS.index,
                    bridge::NAME.index,
                    bridge::OTHER_CONFIG.index,
                    bridge::PORTS.index,
                ],
            ),
            (
                interface::TABLE,
                vec![
                    interface::ERROR.index,
                    interface::EXTERNAL_IDS.index,
                    interface::INGRESS_POLICING_BURST.index,
                    interface::INGRESS_POLICING_RATE.index,
                    interface::MAC.index,
                    interface::MTU_REQUEST.index,
                    interface::NAME.index,
                    interface::OFPORT.index,
                    interface::OPTIONS.index,
                    interface::TYPE.index,
                ],
            ),
            (
                mirrors::TABLE,
                vec![mirrors::NAME.index, mirrors::OUTPUT_PORT.index, mirrors::SELECT_DST_PORT.index, mirrors::SELECT_SRC_PORT.index],
            ),
            (
                open_vswitch::TABLE,
                vec![
                    open_vswitch::DPDK_INITIALIZED.index,
                    open_vswitch::EXTERNAL_IDS.index,
                    open_vswitch::IFACE_TYPES.index,
                    open_vswitch::OTHER_CONFIG.index,
                ],
            ),
            (port::TABLE, vec![port::INTERFACES.index, port::NAME.index, port::QOS.index]),
            (qos::TABLE, vec![qos::OTHER_CONFIG.index, qos::TYPE.index]),
        ],
    };
    let indexes = vec![
        IndexDef { table: interface::TABLE, columns: vec![interface::NAME.index] },
        IndexDef { table: port::TABLE, columns: vec![port::NAME.index] },
    ];
    let (sender, state) = watch::channel(State { replica: Replica::new(monitored.clone(), indexes), connected: false });
    let (client, events, driver) = ovsdb::connect(Options::new(remote, monitored));
    let work = async move {
        tokio::join!(driver.run(), follow(events, sender));
    };
    (Ovs { client, state, bridge: bridge_name.to_owned() }, work)
}

async fn follow(mut events: mpsc::Receiver<Event>, state: watch::Sender<State>) {
    while let Some(event) = events.recv().await {
        state.send_modify(|state| {
            let applied = match event {
                Event::Snapshot(monitored, snapshot) => state.replica.replace(monitored, snapshot),
                Event::Updates(updates) => state.replica.apply(updates),
                Event::Status(_) => return,
                Event::Disconnected(why) => {
                    tracing::warn!(%why, "Open vSwitch database");
                    state.connected = false;
                    return;
                }
            };
            state.connected = applied.is_ok();
            if let Err(error) = applied {
                tracing::error!(%error, "the replica does not fit the database's update");
            }
        });
    }
}

fn named<'a>(replica: &'a Replica, table: ovsdb_types::TableId, column: u16, name: &str) -> Option<Row<'a>> {
    replica.find(table, &[column], &[Datum::One(Atom::from(name))]).next()
}

fn bridge_row<'a>(replica: &'a Replica, name: &str) -> Option<Row<'a>> {
    replica.rows(bridge::TABLE).find(|row| row.text(bridge::NAME) == name)
}

impl Ovs {
    /// Waits until the database is there and holds the bridge.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<(), OvsError> {
        let mut state = self.state.clone();
        let there = state.wait_for(|s| s.connected && bridge_row(&s.replica, &self.bridge).is_some());
        match timeout(patience, there).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(OvsError::Disconnected),
            Err(_) => self.look(),
        }
    }

    /// Whether the database is there and holds the bridge.
    pub(crate) fn is_ready(&self) -> bool {
        self.look().is_ok()
    }

    /// What is missing of the database and the bridge.
    pub(crate) fn look(&self) -> Result<(), OvsError> {
        let state = self.state.borrow();
        if !state.connected {
            return Err(OvsError::Disconnected);
        }
        bridge_row(&state.replica, &self.bridge).map(drop).ok_or_else(|| OvsError::NoBridge(self.bridge.clone()))
    }

    /// Wakes whenever the database changed.
    pub(crate) fn changes(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Whether a port is there as wanted, and the switch has opened it.
    pub(crate) fn check(&self, wanted: &PodPort) -> Result<(), String> {
        let state = self.state.borrow();
        let replica = &state.replica;
        let link = &wanted.link;
        let missing = || format!("port {link} is missing in Open vSwitch");
        let port_row = named(replica, port::TABLE, port::NAME.index, link).ok_or_else(missing)?;
        let bridge = bridge_row(replica, &self.bridge).ok_or_else(|| format!("Open vSwitch has no bridge {}", self.bridge))?;
        if !bridge.get(bridge::PORTS).is_some_and(|ports| ports.contains(&Atom::Uuid(port_row.uuid))) {
            return Err(format!("port {link} is not in bridge {}", self.bridge));
        }
        let row = named(replica, interface::TABLE, interface::NAME.index, link).ok_or_else(missing)?;
        let id = |key: &str| row.get(interface::EXTERNAL_IDS).and_then(|ids| ids.get(key)).unwrap_or_default();
        if id("iface-id") != wanted.iface_id {
            return Err(format!("port {link} is that of {:?} in Open vSwitch, not of {:?}", id("iface-id"), wanted.iface_id));
        }
        if wanted.vhost.as_ref().is_some_and(|vhost| !vhost.is(&row)) {
            return Err(format!("port {link} does not lead to its socket, or has another MTU"));
        }
        if wanted.limits.is_some_and(|limits| !limits.changes(replica, link).is_empty()) {
            return Err(format!("port {link} has other rates"));
        }
        let error = row.text(interface::ERROR);
        if error.is_empty() { Ok(()) } else { Err(format!("Open vSwitch cannot open {link}: {error}")) }
    }

    /// Links of the ports that are of pods.
    pub(crate) fn pod_links(&self) -> Vec<String> {
        let state = self.state.borrow();
        let of_pod = |row: &Row<'_>| row.get(interface::EXTERNAL_IDS).is_some_and(|ids| is_ours(ids) && ids.get("container_id").is_some());
        state.replica.rows(interface::TABLE).filter(of_pod).map(|row| row.text(interface::NAME).to_owned()).collect()
    }

    /// The container of the port of a link.
    pub(crate) fn container_of(&self, link: &str) -> Option<String> {
        let state = self.state.borrow();
        let row = named(&state.replica, interface::TABLE, interface::NAME.index, link)?;
        let ids = row.get(interface::EXTERNAL_IDS).filter(|ids| is_ours(ids))?;
        ids.get("container_id").map(str::to_owned)
    }

    /// Identifier of the chassis (`external_ids:system-id`, ovn-controller(8)).
    pub(crate) fn system_id(&self) -> Option<String> {
        self.note("system-id")
    }

    /// Where tunnels lead to.
    pub(crate) fn tunnel_peers(&self) -> BTreeSet<IpAddr> {
        let state = self.state.borrow();
        let tunnels = state.replica.rows(interface::TABLE).filter(|row| matches!(row.text(interface::TYPE), "geneve" | "vxlan"));
        tunnels.filter_map(|row| row.get(interface::OPTIONS)?.get("remote_ip")?.parse().ok()).collect()
    }

    /// Whether the bridge runs in userspace, where links must compute their checksums themselves.
    pub(crate) fn is_userspace(&self) -> bool {
        bridge_row(&self.state.borrow().replica, &self.bridge).is_some_and(|row| row.text(bridge::DATAPATH_TYPE) == "netdev")
    }

    /// Adds the port, unless it is there as wanted; another port for the same logical port goes in the same transaction.
    pub(crate) async fn add(&self, wanted: &PodPort) -> Result<(), OvsError> {
        let operations = {
            let state = self.state.borrow();
            let replica = &state.replica;
            let bridge_uuid = bridge_row(replica, &self.bridge).ok_or_else(|| OvsError::NoBridge(self.bridge.clone()))?.uuid;
            let stale: Vec<String> = replica
                .rows(interface::TABLE)
                .filter(|row| row.get(interface::EXTERNAL_IDS).and_then(|d| d.get("iface-id")) == Some(wanted.iface_id.as_str()))
                .map(|row| row.text(interface::NAME).to_owned())
                .collect();
            let mut operations = self.removals(replica, stale.iter().filter(|name| **name != wanted.link));
            if !stale.contains(&wanted.link) {
                operations.extend(wanted.limits.iter().flat_map(|limits| limits.policer(replica, &wanted.link)));
                operations.extend(insertions(bridge_uuid, wanted));
            } else if let Some(row) = named(replica, interface::TABLE, interface::NAME.index, &wanted.link) {
                if let Some(vhost) = wanted.vhost.as_ref().filter(|vhost| !vhost.is(&row)) {
                    let (condition, row) = (Condition::row(row.uuid), vhost.columns().into());
                    operations.push(Operation::Update { table: "Interface", condition, row });
                }
                operations.extend(wanted.limits.iter().flat_map(|limits| limits.changes(replica, &wanted.link)));
            }
            if operations.is_empty() {
                return Ok(());
            }
            operations
        };
        self.client.transact(&operations).await?;
        self.shows(|replica| named(replica, port::TABLE, port::NAME.index, &wanted.link).is_some()).await;
        Ok(())
    }

    /// Waits until what was committed is seen: whoever comes next goes by what is seen.
    async fn shows(&self, seen: impl Fn(&Replica) -> bool) {
        let mut state = self.state.clone();
        // A connection that broke meanwhile brings a new view anyway.
        let _ = timeout(SIGHT, state.wait_for(|state| !state.connected || seen(&state.replica))).await;
    }

    /// Takes the ports of these links out of the bridge.
    pub(crate) async fn remove(&self, links: &[String]) -> Result<(), OvsError> {
        let operations = self.removals(&self.state.borrow().replica, links.iter());
        if operations.is_empty() {
            return Ok(());
        }
        self.client.transact(&operations).await?;
        self.shows(|replica| links.iter().all(|link| named(replica, port::TABLE, port::NAME.index, link).is_none())).await;
        Ok(())
    }

    fn removals<'a>(&self, replica: &Replica, links: impl Iterator<Item = &'a String>) -> Vec<Operation> {
        let mut operations = Vec::new();
        for link in links {
            operations.extend(limits::removals(replica, link));
            let Some(row) = named(replica, port::TABLE, port::NAME.index, link) else { continue };
            for holder in replica.rows(bridge::TABLE).filter(|b| b.get(bridge::PORTS).is_some_and(|d| d.contains(&Atom::Uuid(row.uuid)))) {
                // Without a reference, port and interface vanish (RFC 7047 §3.2).
                let mutation = Mutation { column: "ports", mutator: Mutator::Delete, value: Datum::One(Atom::Uuid(row.uuid)) };
                operations.push(Operation::Mutate { table: "Bridge", condition: Condition::row(holder.uuid), mutations: vec![mutation] });
            }
        }
        operations
    }

    /// Waits until `ovn-controller` has installed the port's flows.
    pub(crate) async fn installed(&self, link: &str, patience: Duration) -> Result<(), OvsError> {
        enum Verdict {
            Wait(&'static str),
            Up,
            Failed(String),
        }
        let verdict = |state: &State| {
            let Some(row) = named(&state.replica, interface::TABLE, interface::NAME.index, link) else {
                return Verdict::Wait("its interface is not in the database");
            };
            let error = row.text(interface::ERROR);
            if !error.is_empty() {
                return Verdict::Failed(error.to_owned());
            }
            if row.get(interface::OFPORT).is_none_or(|d| d.atoms().is_empty()) {
                return Verdict::Wait("ovs-vswitchd has not opened it; is it running?");
            }
            match row.get(interface::EXTERNAL_IDS).and_then(|d| d.get("ovn-installed")) {
                Some("true") => Verdict::Up,
                _ => Verdict::Wait("ovn-controller has not installed its flows; is it running, and connected to the southbound database?"),
            }
        };
        let mut state = self.state.clone();
        let done = timeout(patience, state.wait_for(|s| !matches!(verdict(s), Verdict::Wait(_)))).await.map(|r| r.map(|s| verdict(&s)));
        match done {
            Ok(Ok(Verdict::Failed(why))) => Err(OvsError::Port(link.to_owned(), why)),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(OvsError::Disconnected),
            Err(_) => match verdict(&self.state.borrow()) {
                Verdict::Wait(why) => Err(OvsError::NotInstalled(link.to_owned(), patience, why)),
                Verdict::Failed(why) => Err(OvsError::Port(link.to_owned(), why)),
                Verdict::Up => Ok(()),
            },
        }
    }
}

fn is_ours(ids: &Datum) -> bool {
    ids.get("vendor") == Some(api::VENDOR)
}

/// A pod's port.
fn insertions(bridge: Uuid, wanted: &PodPort) -> [Operation; 3] {
    let mut external_ids: Vec<(Atom, Atom)> = wanted.external_ids.iter().map(|(k, v)| (Atom::from(*k), Atom::from(v.as_str()))).collect();
    external_ids.push((Atom::from("iface-id"), Atom::from(wanted.iface_id.as_str())));
    external_ids.push((Atom::from("vendor"), Atom::from(api::VENDOR)));
    let mut interface = vec![("external_ids", Datum::map(external_ids))];
    interface.extend(wanted.vhost.iter().flat_map(VhostPort::columns));
    interface.extend(wanted.limits.iter().flat_map(Limits::columns));
    let port = wanted.limits.iter().map(|limits| limits.column(&wanted.link)).collect();
    port_insertions(bridge, &wanted.link, interface, port)
}

/// The row of a port of that name that we make.
fn port_uuid(name: &str) -> Uuid {
    RowKey::new(port::TABLE, name).uuid(&vswitch::SCHEMA)
}

/// A port of a bridge and its only interface, with what is said of each besides their name.
fn port_insertions(
    bridge: Uuid,
    name: &str,
    mut interface: Vec<(&'static str, Datum)>,
    mut port: Vec<(&'static str, Datum)>,
) -> [Operation; 3] {
    let interface_uuid = RowKey::new(interface::TABLE, name).uuid(&vswitch::SCHEMA);
    let named = || ("name", Datum::One(Atom::from(name)));
    interface.push(named());
    port.extend([named(), ("interfaces", Datum::One(Atom::Uuid(interface_uuid)))]);
    let mutation = Mutation { column: "ports", mutator: Mutator::Insert, value: Datum::One(Atom::Uuid(port_uuid(name))) };
    [
        Operation::Insert { table: "Interface", uuid: Some(interface_uuid), name: None, row: interface },
        Operation::Insert { table: "Port", uuid: Some(port_uuid(name)), name: None, row: port },
        Operation::Mutate { table: "Bridge", condition: Condition::row(bridge), mutations: vec![mutation] },
    ]
}
