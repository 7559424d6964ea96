//! Which components a lab has, with their command lines: the one list of them.

use std::collections::BTreeMap;

use crate::component::{Component, Ready};
use crate::place::API_PORT;
use crate::{Lab, Place};

impl Lab {
    /// `ovsdb-server` of the northbound (`nb`) or southbound (`sb`) database.
    pub(crate) fn database(&self, database: &str, port: u16) -> anyhow::Result<Component> {
        let folder = self.layout.place(Place::Central);
        let file = |extension: &str| folder.join(format!("{database}.{extension}")).display().to_string();
        let address = Place::Central.address().map(|address| address.to_string()).unwrap_or_default();
        let arguments = [
            format!("--unixctl={}", file("ctl")),
            format!("--remote=punix:{}", file("sock")),
            format!("--remote=ptcp:{port}:{address}"),
            file("db"),
        ];
        self.detached(database, Place::Central, "ovsdb-server", database, &arguments)
    }

    /// `ovn-northd`.
    pub(crate) fn northd(&self) -> anyhow::Result<Component> {
        let remote = |database: &str| self.layout.remote(Place::Central, database);
        let arguments = [format!("--ovnnb-db={}", remote("nb")), format!("--ovnsb-db={}", remote("sb"))];
        self.detached("northd", Place::Central, "ovn-northd", "ovn-northd", &arguments)
    }

    /// `ovsdb-server` of a node.
    pub(crate) fn node_database(&self, node: Place) -> anyhow::Result<Component> {
        let folder = self.layout.place(node);
        let arguments = [format!("--remote=p{}", self.layout.remote(node, "db")), folder.join("conf.db").display().to_string()];
        self.detached("ovsdb", node, "ovsdb-server", "ovsdb-server", &arguments)
    }

    /// `ovs-vswitchd` of a node.
    pub(crate) fn vswitchd(&self, node: Place) -> anyhow::Result<Component> {
        let mut arguments = vec![self.layout.remote(node, "db")];
        if self.parameters.datapath == crate::Datapath::Netdev {
            arguments.insert(0, "--disable-system".to_owned());
        }
        self.detached("ovs-vswitchd", node, "ovs-vswitchd", "ovs-vswitchd", &arguments)
    }

    /// `ovn-controller` of a node.
    pub(crate) fn ovn_controller(&self, node: Place) -> anyhow::Result<Component> {
        self.detached("ovn-controller", node, "ovn-controller", "ovn-controller", &[self.layout.remote(node, "db")])
    }

    /// The API server: on the machine's loopback, and on central's physical address.
    pub(crate) fn apiserver(&self) -> Component {
        let netns = self.layout.name().netns(Place::Central).unwrap_or_default();
        let address = Place::Central.address().map(|address| address.to_string()).unwrap_or_default();
        let arguments = [
            "apiserver".to_owned(),
            format!("--data={}", self.layout.folder().join("apiserver").display()),
            format!("--listen=127.0.0.1:{}", self.parameters.api_port),
            format!("--token-file={}", self.layout.token().display()),
            format!("--listen-netns={netns}={address}:{API_PORT}"),
        ];
        Component { network: Place::Host, ..self.own("apiserver", Place::Central, &arguments) }
    }

    /// The controller.
    pub(crate) fn controller(&self) -> Component {
        let arguments = [
            "controller".to_owned(),
            format!("--kubeconfig={}", self.layout.internal_kubeconfig().display()),
            format!("--northbound={}", self.layout.remote(Place::Central, "nb")),
            format!("--tunnel={}", self.parameters.tunnel.as_str()),
        ];
        self.own("controller", Place::Central, &arguments)
    }

    /// The agent of a node.
    pub(crate) fn agent(&self, node: Place) -> Component {
        let arguments = [
            "agent".to_owned(),
            format!("--kubeconfig={}", self.layout.internal_kubeconfig().display()),
            format!("--node={node}"),
            format!("--ovs={}", self.layout.remote(node, "db")),
            format!("--socket={}", self.layout.agent_socket(node).display()),
            format!("--mtu={}", self.parameters.tunnel.pod_mtu()),
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
        let nb = self.layout.remote(Place::Central, "nb");
        let sb = self.layout.remote(Place::Central, "sb");
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
