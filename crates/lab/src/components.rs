//! Which components a lab has, with their command lines: the one list of them.

use std::collections::BTreeMap;

use central::Database;

use crate::component::{Component, Ready};
use crate::place::API_PORT;
use crate::{Datapath, Lab, Place};

impl Lab {
    /// What keeps OVN's central services running.
    pub(crate) fn central(&self, place: Place) -> Component {
        let folder = self.layout.place(place).display().to_string();
        let address = |place: Place| place.address().map(|address| address.to_string()).unwrap_or_default();
        let mut arguments = vec![
            "central".to_owned(),
            format!("--data={folder}"),
            format!("--run={folder}"),
            format!("--schemas={}", self.parameters.programs().schema("ovn")),
            format!("--address={}", address(place)),
        ];
        let peers: Vec<_> = self.parameters.central_places().filter(|peer| *peer != place).map(address).collect();
        if !peers.is_empty() {
            arguments.push(format!("--peers={}", peers.join(",")));
            arguments.extend((place == Place::CENTRAL).then(|| "--bootstrap".to_owned()));
        }
        self.own("central", place, &arguments)
    }

    /// What it keeps: both databases and `ovn-northd`.
    pub(crate) fn kept(&self, place: Place) -> [Component; 3] {
        let [nb, sb] = [("nb", Database::Northbound), ("sb", Database::Southbound)];
        [(nb.0, nb.1.stem()), (sb.0, sb.1.stem()), ("northd", "ovn-northd")].map(|(name, stem)| {
            let file = |extension: &str| self.layout.place(place).join(format!("{stem}.{extension}"));
            let (pid_file, log, env) = (file("pid"), file("log"), self.environment(place));
            Component {
                name: name.to_owned(),
                place,
                network: place,
                argv: Vec::new(),
                env,
                pid_file,
                log,
                ready: Ready::Kept,
                restarts: 0,
            }
        })
    }

    /// `ovsdb-server` of a database that nobody keeps running.
    pub(crate) fn database(&self, database: Database) -> anyhow::Result<Component> {
        let (folder, stem) = (self.layout.place(Place::CENTRAL), database.stem());
        let file = |extension: &str| folder.join(format!("{stem}.{extension}")).display().to_string();
        let address = Place::CENTRAL.address().map(|address| address.to_string()).unwrap_or_default();
        let arguments = [
            format!("--unixctl={}", file("ctl")),
            format!("--remote=punix:{}", file("sock")),
            format!("--remote=ptcp:{}:{address}", database.port()),
            file("db"),
        ];
        let name = if database == Database::Northbound { "nb" } else { "sb" };
        self.detached(name, Place::CENTRAL, "ovsdb-server", stem, &arguments)
    }

    /// `ovn-northd` that nobody keeps running.
    pub(crate) fn northd(&self) -> anyhow::Result<Component> {
        let remote = |database: &str| self.layout.remote(Place::CENTRAL, database);
        let arguments = [format!("--ovnnb-db={}", remote("nb")), format!("--ovnsb-db={}", remote("sb"))];
        self.detached("northd", Place::CENTRAL, "ovn-northd", "ovn-northd", &arguments)
    }

    /// Where a central database is reached: through the physical network by `tcp`, or, from this machine, by its sockets.
    pub(crate) fn remotes(&self, database: Database, tcp: bool) -> String {
        let name = if database == Database::Northbound { "nb" } else { "sb" };
        let remotes = self.parameters.central_places().map(|place| match place.address() {
            Some(address) if tcp => format!("tcp:{address}:{}", database.port()),
            _ => self.layout.remote(place, name),
        });
        remotes.collect::<Vec<_>>().join(",")
    }

    /// `ovsdb-server` of a node.
    pub(crate) fn node_database(&self, node: Place) -> anyhow::Result<Component> {
        let folder = self.layout.place(node);
        let arguments = [format!("--remote=p{}", self.layout.remote(node, "db")), folder.join("conf.db").display().to_string()];
        self.detached("ovsdb", node, "ovsdb-server", "ovsdb-server", &arguments)
    }

    /// `ovs-vswitchd` of a node.
    pub(crate) fn vswitchd(&self, node: Place) -> anyhow::Result<Component> {
        let (mut arguments, datapath) = (vec![self.layout.remote(node, "db")], self.parameters.datapath_of(node));
        if datapath.is_userspace() {
            arguments.insert(0, "--disable-system".to_owned());
        }
        let mut vswitchd = self.detached("ovs-vswitchd", node, datapath.program(), "ovs-vswitchd", &arguments)?;
        if datapath == Datapath::Dpdk {
            if let Some(program) = vswitchd.argv.iter_mut().find(|word| word.ends_with(datapath.program())) {
                *program = self.dpdk_program(node).display().to_string();
            }
            // Where DPDK keeps what its processes share (systemd.exec(5), `RuntimeDirectory=`): else one folder of all on the machine.
            vswitchd.env.insert("RUNTIME_DIRECTORY".to_owned(), self.layout.place(node).display().to_string());
        }
        Ok(vswitchd)
    }

    /// `ovn-controller` of a node.
    pub(crate) fn ovn_controller(&self, node: Place) -> anyhow::Result<Component> {
        self.detached("ovn-controller", node, "ovn-controller", "ovn-controller", &[self.layout.remote(node, "db")])
    }

    /// The API server: on the machine's loopback, and on central's physical address.
    pub(crate) fn apiserver(&self) -> Component {
        let netns = self.layout.name().netns(Place::CENTRAL).unwrap_or_default();
        let address = Place::CENTRAL.address().map(|address| address.to_string()).unwrap_or_default();
        let arguments = [
            "apiserver".to_owned(),
            format!("--data={}", self.layout.folder().join("apiserver").display()),
            format!("--listen=127.0.0.1:{}", self.parameters.api_port),
            format!("--token-file={}", self.layout.token().display()),
            format!("--listen-netns={netns}={address}:{API_PORT}"),
        ];
        Component { network: Place::Host, ..self.own("apiserver", Place::CENTRAL, &arguments) }
    }

    /// The controllers: `controller`, and as standbys `controller2` and so on.
    pub(crate) fn controllers(&self) -> impl Iterator<Item = Component> {
        let count = self.parameters.controllers;
        (1..=count).map(move |number| {
            let name = if number == 1 { "controller".to_owned() } else { format!("controller{number}") };
            let arguments = [
                "controller".to_owned(),
                format!("--kubeconfig={}", self.layout.internal_kubeconfig().display()),
                // Of several servers the near one is no better than the others.
                format!("--northbound={}", self.remotes(Database::Northbound, self.parameters.central > 1)),
                format!("--southbound={}", self.remotes(Database::Southbound, self.parameters.central > 1)),
                format!("--tunnel={}", self.parameters.tunnel.as_str()),
                format!("--egress={}", self.parameters.gateway.as_str()),
                // One that is alone is started again by hand only.
                format!("--leader-elect={}", count > 1),
                format!("--identity={name}"),
            ];
            let both = ["--default-cidr=10.16.0.0/16,fd00:10:16::/112", "--join-cidr=100.64.0.0/16,fd00:100:64::/112"].map(str::to_owned);
            let arguments = [&arguments[..], if self.parameters.dual_stack { &both } else { &[] }].concat();
            let mut controller = self.own(&name, Place::CENTRAL, &arguments);
            // A large heap that is read all over: the glibc manual, "Memory Allocation Tunables".
            controller.env.insert("GLIBC_TUNABLES".to_owned(), "glibc.malloc.hugetlb=1".to_owned());
            controller
        })
    }

    /// The agent of a node.
    pub(crate) fn agent(&self, node: Place) -> Component {
        let arguments = [
            "agent".to_owned(),
            format!("--kubeconfig={}", self.layout.internal_kubeconfig().display()),
            format!("--node={node}"),
            format!("--ovs={}", self.layout.remote(node, "db")),
            format!("--socket={}", self.layout.agent_socket(node).display()),
            format!("--kubelet={}", self.layout.kubelet(node).display()),
            format!("--sysfs={}", self.layout.sysfs(node).display()),
            format!("--mtu={}", self.parameters.tunnel.pod_mtu()),
            format!("--egress={}", self.parameters.gateway.as_str()),
        ];
        self.own("agent", node, &arguments)
    }

    /// The scheduler and the kubelets of all nodes.
    pub(crate) fn kubelet(&self) -> Component {
        let arguments = ["lab".to_owned(), "run".to_owned(), format!("--name={}", self.layout.name())];
        Component { network: Place::Host, ..self.own("kubelet", Place::Host, &arguments) }
    }

    /// What processes of a place find in their environment: where OVS and OVN keep their sockets, and the databases.
    #[must_use]
    pub fn environment(&self, place: Place) -> BTreeMap<String, String> {
        let folder = self.layout.place(place).display().to_string();
        let host_path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let path = format!("{}:{host_path}", self.layout.folder().join("bin").display());
        let nb = self.remotes(Database::Northbound, false);
        let sb = self.remotes(Database::Southbound, false);
        let pairs = [
            ("PATH", path),
            ("OVS_RUNDIR", folder.clone()),
            ("OVS_DBDIR", folder.clone()),
            ("OVS_LOGDIR", folder.clone()),
            ("OVN_RUNDIR", folder),
            ("OVN_NB_DB", nb),
            ("OVN_SB_DB", sb),
            (crate::layout::RUN_VARIABLE, self.layout.root().display().to_string()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    // A program of OVS or OVN: it detaches when ready, and keeps its process id and log in its place's folder.
    fn detached(&self, name: &str, place: Place, program: &str, file: &str, arguments: &[String]) -> anyhow::Result<Component> {
        let folder = self.layout.place(place);
        let (pid_file, log) = (folder.join(format!("{file}.pid")), folder.join(format!("{file}.log")));
        let mut argv = self.parameters.programs().argv(program)?;
        argv.extend(["--detach".to_owned(), "--no-chdir".to_owned(), "-vconsole:off".to_owned()]);
        argv.extend([format!("--pidfile={}", pid_file.display()), format!("--log-file={}", log.display())]);
        argv.extend_from_slice(arguments);
        let (name, env) = (name.to_owned(), self.environment(place));
        Ok(Component { name, place, network: place, argv, env, pid_file, log, ready: Ready::Detaches, restarts: 0 })
    }

    // A subcommand of our own program.
    fn own(&self, name: &str, place: Place, arguments: &[String]) -> Component {
        let folder = self.layout.place(place);
        let mut argv = vec![self.parameters.program.display().to_string()];
        argv.extend_from_slice(arguments);
        argv.push("--announce-ready".to_owned());
        let mut env = self.environment(place);
        env.insert("RUST_LOG".to_owned(), "info".to_owned());
        env.insert("RUST_BACKTRACE".to_owned(), "1".to_owned());
        let (pid_file, log) = (folder.join(format!("{name}.pid")), folder.join(format!("{name}.log")));
        Component { name: name.to_owned(), place, network: place, argv, env, pid_file, log, ready: Ready::Announces, restarts: 0 }
    }
}
