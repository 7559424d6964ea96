//! Bringing a lab up.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::try_join_all;

use crate::component::Component;
use crate::layout::write;
use crate::place::{API_PORT, MAX_NODES};
use crate::progress::Progress;
use crate::{DatapathChoice, Gateway, Lab, Layout, NotYet, Parameters, Place, Programs, Tunnel, apply, cluster, datapath, kubelet, wait};

/// What `lab up` is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// How many nodes.
    pub nodes: u32,
    /// Encapsulation between nodes.
    pub tunnel: Tunnel,
    /// Datapath of the nodes.
    pub datapath: DatapathChoice,
    /// Nodes that have DPDK, whatever the others have.
    pub dpdk_nodes: Vec<Place>,
    /// How pods leave the cluster.
    pub gateway: Gateway,
    /// Whether the subnets that a cluster starts with have both families.
    pub dual_stack: bool,
    /// How many servers of OVN's central databases.
    pub central: u32,
    /// Whether `ferrovia central` keeps OVN's central services.
    pub supervised: bool,
    /// How many controllers, of which one leads.
    pub controllers: u32,
    /// Another root directory with the programs of OVS and OVN.
    pub ovn: Option<PathBuf>,
    /// A real API server to use.
    pub kubeconfig: Option<PathBuf>,
    /// Manifests to apply.
    pub manifests: Vec<PathBuf>,
    /// How long pods may take to become ready.
    pub wait: Duration,
    /// The `ferrovia` program, which the lab's own components are subcommands of.
    pub program: PathBuf,
    /// The CNI plugin; `ferrovia-cni` beside the program by default.
    pub cni: Option<PathBuf>,
    /// Folder of what virtual machines boot.
    pub guest: PathBuf,
}

impl Request {
    fn settle(&self) -> anyhow::Result<Parameters> {
        let not_yet = |what: &str| Err(NotYet(what.to_owned()).into());
        match self {
            _ if ![1, 3].contains(&self.central) => bail!("--central {}: 1 or 3 servers", self.central),
            _ if !(1..=3).contains(&self.controllers) => bail!("--controllers {}: 1 to 3", self.controllers),
            _ if self.central == 3 && !self.supervised => bail!("--unsupervised: only with --central 1"),
            _ if self.kubeconfig.is_some() => return not_yet("--kubeconfig: agents cannot reach an API server outside the lab"),
            _ if !(1..=MAX_NODES).contains(&self.nodes) => bail!("--nodes {}: 1 to {MAX_NODES}", self.nodes),
            _ => {}
        }
        let programs = Programs::new(self.ovn.clone());
        let datapath = self.datapath.settle(&programs)?;
        if let Some(place) = self.dpdk_nodes.iter().find(|place| !matches!(place, Place::Node(n) if *n <= self.nodes)) {
            bail!("--dpdk-nodes {place}: no node of this lab, which has {}", self.nodes);
        }
        if !self.dpdk_nodes.is_empty() {
            datapath::has_dpdk(&programs).context("--dpdk-nodes")?;
        }
        for program in ["ovsdb-server", "ovsdb-tool", "ovs-vswitchd", "ovs-vsctl", "ovn-northd", "ovn-controller", "ovn-nbctl", "ovn-sbctl"]
        {
            programs.argv(program)?;
        }
        // The kernel's choice is free now; nothing else asks for loopback ports below the lab's feet in between.
        let api_port =
            TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).context("no free loopback port")?.port();
        let (nodes, tunnel, ovn, program) = (self.nodes, self.tunnel, self.ovn.clone(), self.program.clone());
        let (gateway, central, supervised, controllers) = (self.gateway, self.central, self.supervised, self.controllers);
        Ok(Parameters {
            nodes,
            outside: 1,
            central,
            supervised,
            controllers,
            gateway,
            dual_stack: self.dual_stack,
            tunnel,
            datapath,
            dpdk_nodes: self.dpdk_nodes.clone(),
            ovn,
            api_port,
            program,
            guest: self.guest.clone(),
        })
    }
}

/// Brings a lab up, applies the manifests and waits for the pods. What was started stays when a later step fails.
///
/// # Errors
/// With the component that failed and the last line of its log, or with the pods that are not ready and why.
pub async fn up(layout: Layout, request: &Request, progress: &Progress) -> anyhow::Result<Lab> {
    let parameters = request.settle()?;
    let manifests = apply::read(&request.manifests)?;
    let plugin = request.cni.clone().unwrap_or_else(|| request.program.with_file_name("ferrovia-cni"));
    anyhow::ensure!(plugin.exists(), "there is no CNI plugin at {}: `cargo build -p cni` makes it", plugin.display());
    progress.step(format!("{} nodes, {} tunnels, {}", parameters.nodes, parameters.tunnel.as_str(), parameters.datapaths()));
    let name = layout.name().clone();
    let lab = Lab::prepare(layout, parameters)?;
    let built = async {
        lab.start_infrastructure(true, progress).await?;
        lab.start_cluster(&plugin, progress).await?;
        if manifests.is_empty() {
            return Ok(());
        }
        progress.step(format!("applying {} objects", manifests.len()));
        let client = cluster::client(&lab.layout).await?;
        apply::apply(&client, &manifests).await?;
        progress.step("waiting for pods");
        wait::pods_ready(&client, request.wait).await
    };
    built.await.with_context(|| format!("lab {name} (`ferrovia lab down --name {name}` removes what is there)"))?;
    Ok(lab)
}

impl Lab {
    /// Makes the lab's folder and the files that its components read.
    pub(crate) fn prepare(layout: Layout, parameters: Parameters) -> anyhow::Result<Self> {
        let (folder, name) = (layout.folder(), layout.name());
        fs::create_dir_all(layout.root()).with_context(|| format!("cannot create {}", layout.root().display()))?;
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("lab {name} is up already, or left over: `ferrovia lab down --name {name}` removes it")
            }
            made => made.with_context(|| format!("cannot create {}", folder.display()))?,
        }
        let lab = Self { layout, parameters };
        for place in lab.parameters.hosts().chain([Place::Host]) {
            fs::create_dir_all(lab.layout.pods(place)).with_context(|| format!("cannot create the folder of {place}"))?;
        }
        let token = uuid::Uuid::new_v4().simple().to_string();
        write(&lab.layout.token(), token.as_bytes())?;
        let central = Place::CENTRAL.address().map(|address| address.to_string()).unwrap_or_default();
        // kubectl sends no token without TLS, but it does send the address's path.
        let local = format!("http://127.0.0.1:{}/token/{token}", lab.parameters.api_port);
        write(&lab.layout.kubeconfig(), &cluster::kubeconfig(name_of(&lab), &local, &token)?)?;
        write(&lab.layout.internal_kubeconfig(), &cluster::kubeconfig(name_of(&lab), &format!("http://{central}:{API_PORT}"), &token)?)?;
        lab.parameters.programs().write_wrappers(&lab.layout.folder().join("bin"))?;
        lab.parameters.save(&lab.layout)?;
        Ok(lab)
    }

    /// Builds the physical network, central and the nodes' OVS and OVN, and starts the API server if wanted.
    pub(crate) async fn start_infrastructure(&self, apiserver: bool, progress: &Progress) -> anyhow::Result<()> {
        progress.step("physical network");
        self.build_fabric().await?;
        progress.step("central databases, Open vSwitch");
        let central = self.start_central();
        let nodes = try_join_all(self.parameters.node_places().map(|node| async move {
            self.blocking(move |lab| lab.start_switch(node)).await?;
            self.connect_uplink(node).await
        }));
        let api = async { if apiserver { self.start(self.apiserver()).await } else { Ok(()) } };
        tokio::try_join!(central, nodes, api)?;
        progress.step("ovn-controller");
        // After the southbound database: a connection refused is tried again only a second later.
        try_join_all(self.parameters.node_places().map(|node| async move { self.start(self.ovn_controller(node)?).await })).await?;
        Ok(())
    }

    async fn start_cluster(&self, plugin: &Path, progress: &Progress) -> anyhow::Result<()> {
        progress.step("kinds and nodes");
        let client = cluster::client(&self.layout).await?;
        cluster::install(&client, &self.parameters).await?;
        progress.step("controller, agents, kubelet");
        self.parameters.node_places().try_for_each(|node| kubelet::install_plugin(&self.layout, node, plugin))?;
        let agents = self.parameters.node_places().map(|node| self.agent(node));
        let own = self.controllers().chain([self.kubelet()]).chain(agents);
        try_join_all(own.map(|component| self.start(component))).await?;
        Ok(())
    }

    pub(crate) async fn start(&self, component: Component) -> anyhow::Result<()> {
        self.blocking(move |lab| component.start(&lab.layout)).await
    }

    pub(crate) async fn blocking(&self, work: impl FnOnce(&Self) -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
        let lab = Arc::new(self.clone());
        tokio::task::spawn_blocking(move || work(&lab)).await?
    }

    /// Restarts a component, with what must be put right after it.
    ///
    /// # Errors
    /// When there is no such component, or it does not start.
    pub async fn restart(&self, text: &str) -> anyhow::Result<()> {
        let mut component = Component::find(&self.layout, text)?;
        let (name, place) = (component.name.clone(), component.place);
        self.blocking(move |lab| component.restart(&lab.layout)).await?;
        if name == "ovs-vswitchd" {
            self.connect_uplink(place).await?;
        }
        Ok(())
    }

    /// Changes how pods of a running lab leave. What the new way needs is there before anybody is sent that way: where nodes get
    /// a gateway bridge the agents come first, where they lose it the controllers do.
    ///
    /// # Errors
    /// When a controller or an agent does not start again.
    pub async fn leave_by(&self, gateway: Gateway) -> anyhow::Result<()> {
        let lab = Self { layout: self.layout.clone(), parameters: Parameters { gateway, ..self.parameters.clone() } };
        lab.parameters.save(&lab.layout)?;
        let controllers: Vec<Component> = lab.controllers().collect();
        let agents: Vec<Component> = lab.parameters.node_places().map(|node| lab.agent(node)).collect();
        let order = if gateway == Gateway::Localnet { [agents, controllers] } else { [controllers, agents] };
        for components in order {
            for wanted in components {
                let mut component = Component::find(&lab.layout, &format!("{}@{}", wanted.name, wanted.place))?;
                component.argv = wanted.argv;
                component.record(&lab.layout)?;
                lab.restart(&format!("{}@{}", component.name, component.place)).await?;
            }
        }
        Ok(())
    }
}

fn name_of(lab: &Lab) -> &str {
    lab.layout.name().as_str()
}
