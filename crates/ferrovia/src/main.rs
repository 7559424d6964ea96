//! `ferrovia`: every part of the network in one program.

mod api_listener;
mod bench;
mod central;
mod config;
mod lab;
mod tls;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use api_listener::{ListenIn, bind};
use config::Settings;

/// A Kubernetes network for virtual machines and containers, on OVN and Open vSwitch.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the Kubernetes API on one machine, without a cluster.
    Apiserver(Apiserver),
    /// Turn Kubernetes objects into the northbound database.
    Controller(Controller),
    /// Connect the pods of a node.
    Agent(Agent),
    /// Keep OVN's central services running on this host: both databases, and `ovn-northd`.
    Central(central::Central),
    /// A cluster in a box: nodes as network namespaces, with real OVS and OVN.
    Lab(lab::Lab),
    /// Measure what the control plane carries.
    Bench(bench::Bench),
    /// Show what the network of a cluster is made of, and how it is.
    #[command(disable_help_flag = true)]
    Status(NotBuilt),
    /// Show the way of a packet through the network, naming the Kubernetes objects.
    #[command(disable_help_flag = true)]
    Trace(NotBuilt),
}

#[derive(Debug, Args)]
struct Apiserver {
    /// Folder of the database; in memory when missing.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Loopback address to listen on.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<std::net::SocketAddr>,
    /// File with the bearer token that requests must carry.
    #[arg(long)]
    token_file: PathBuf,
    /// Address to listen on inside a named network namespace.
    #[arg(long, value_name = "NAME=ADDR:PORT")]
    listen_netns: Vec<ListenIn>,
    #[command(flatten)]
    announce: Announce,
}

/// How the default VPC reaches the outside.
#[derive(Clone, Debug, Args)]
struct Egress {
    /// How pods of the default VPC leave through the host stack of the node that they are on: by a switch that each node has its
    /// own end of (`localnet`), or by the node's port in the VPC (`join`); or not at all (`none`). The same for the controller
    /// and all agents.
    #[arg(long = "egress", default_value = "localnet", value_parser = ["localnet", "join", "none"], value_name = "SCHEME")]
    scheme: String,
    /// Addresses of the link between the VPC's router and the host stack, the same on every node: one prefix of each family, of
    /// which the first host is the router and the second the node. The same for the controller and all agents.
    #[arg(long, default_value = api::Transit::DEFAULT, value_name = "CIDR,…")]
    transit_cidr: api::Transit,
}

impl Egress {
    fn chosen(self) -> Option<api::Egress> {
        match self.scheme.as_str() {
            "localnet" => Some(api::Egress::Localnet(self.transit_cidr)),
            "join" => Some(api::Egress::Join),
            _ => None,
        }
    }
}

#[derive(Debug, Args)]
struct Controller {
    /// Kubeconfig; without one, that of the environment or the pod.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// OVSDB remotes of the northbound database's servers: `tcp:HOST:PORT`, `ssl:HOST:PORT` or `unix:PATH`, with commas.
    #[arg(long, value_name = "REMOTE,…")]
    northbound: ovsdb::Remotes,
    /// OVSDB remotes of the southbound database's servers, likewise, or of relays: by them a centralized subnet shows which gateway
    /// its pods leave by (`status.activateGateway`). Without it that is left out.
    #[arg(long, value_name = "REMOTE,…")]
    southbound: Option<ovsdb::Remotes>,
    #[command(flatten)]
    tls: tls::TlsFiles,
    /// Encapsulation between nodes.
    #[arg(long, default_value = "geneve", value_parser = ["geneve", "vxlan"])]
    tunnel: String,
    #[command(flatten)]
    egress: Egress,
    /// Ranges of the default subnet, `ovn-default`, which is created if it is missing: one of each family that pods use.
    #[arg(long, default_value = "10.16.0.0/16", value_name = "CIDR,…")]
    default_cidr: String,
    /// Ranges of the subnet `join`, in which each node has an address by which it and pods of the default VPC reach each other:
    /// one of each family that nodes and pods use. It is created if it is missing, unless this is empty.
    #[arg(long, default_value = "100.64.0.0/16", value_name = "CIDR,…")]
    join_cidr: String,
    /// Take as deleted whatever is held because it vanished without having been deleted: objects that a list leaves out or
    /// whose definition was deleted, and rows that a first comparison would remove in great number. Not for regular operation:
    /// `kubectl annotate namespace kube-system ferrovia.io/confirm-removal=TOKEN`, with the token that event and condition
    /// `RemovalHeld` give, confirms what is held and nothing else.
    #[arg(long)]
    confirm_removal: bool,
    /// Compute everything from scratch in the background this often, in seconds, and report any difference as a defect. Takes the
    /// memory of the rules once more while it runs.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    audit: Option<u64>,
    /// Serve metrics for Prometheus at `http://ADDRESS:PORT/metrics`.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<std::net::SocketAddr>,
    /// Print what the first commit would change in the northbound database, what would be taken over from an earlier
    /// controller and what would be left alone, and write nothing. For this it may run beside a controller that leads.
    #[arg(long)]
    dry_run: bool,
    /// Whether virtual machines of KubeVirt keep their addresses while they are stopped, and from pod to pod.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    keep_vm_ip: bool,
    /// Whether several controllers may run, of which one leads by a lease. Without it another one must not run.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    leader_elect: bool,
    /// Namespace of the lease, which is called `ferrovia-controller`.
    #[arg(long, default_value = "kube-system", value_name = "NAMESPACE")]
    lease_namespace: String,
    /// Name of this controller in the lease, which no other may have; the host's name, which is the pod's, without it.
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    announce: Announce,
}

#[derive(Debug, Args)]
struct Agent {
    /// Kubeconfig; without one, that of the environment or the pod.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Name of the Kubernetes node.
    #[arg(long)]
    node: String,
    /// OVSDB remote of the node's Open vSwitch.
    #[arg(long, default_value = "unix:/run/openvswitch/db.sock")]
    ovs: String,
    /// Socket on which the CNI plugin is served.
    #[arg(long, default_value = "/run/ferrovia/agent.sock")]
    socket: PathBuf,
    /// MTU of pods in bytes, where their subnet names none.
    #[arg(long, default_value_t = 1400, value_parser = clap::value_parser!(u32).range(576..=65535))]
    mtu: u32,
    #[command(flatten)]
    egress: Egress,
    /// Folder in which is kept what was made of pods; that of the socket without it.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Folder of the kubelet, which has volumes of pods, for NICs that are sockets in one.
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/kubelet")]
    kubelet: PathBuf,
    /// Where the kernel shows the node's devices, for NICs that are one.
    #[arg(long, value_name = "FOLDER", default_value = "/sys")]
    sysfs: PathBuf,
    /// Folder with the control sockets of `ovs-vswitchd` and `ovn-controller`; looked for beside the database's socket, in
    /// `/run/openvswitch` and in `/run/ovn` without it. May be given several times.
    #[arg(long, value_name = "FOLDER")]
    run: Vec<PathBuf>,
    /// CNI configuration to install, and to install again when it is gone or changed, such as
    /// `/etc/cni/net.d/01-ferrovia.conflist`; none without it.
    #[arg(long, value_name = "FILE")]
    cni_conflist: Option<PathBuf>,
    /// Whether the CNI configuration calls the `portmap` plugin, for host ports.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    portmap: bool,
    /// The host's `/run`: in it systemd-networkd and NetworkManager are told to leave links of pods and of Open vSwitch alone,
    /// which they heed when they start or are reloaded. They are not told without it.
    #[arg(long, value_name = "FOLDER")]
    host_run: Option<PathBuf>,
    /// Port of `br-int` to which is copied what pods with the annotation `ovn.kubernetes.io/mirror: "true"` send and receive, for
    /// tools such as tcpdump. It is made while there are such pods.
    #[arg(long, default_value = "mirror0", value_name = "LINK")]
    mirror_iface: String,
    /// Ask, before a pod gets an IPv4 address, whether another has it on the same link (RFC 5227): of pods on a VLAN (`underlay`), of
    /// `all`, or of `none`. Adds 0.3 s to the start of such a pod.
    #[arg(long, value_name = "PODS", default_value = "underlay", num_args = 0..=1, default_missing_value = "all")]
    detect_duplicates: ::agent::Detect,
    #[command(flatten)]
    announce: Announce,
}

#[derive(Debug, Args)]
struct NotBuilt {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

/// Says on standard output when the program is ready to work, for whoever started it.
#[derive(Clone, Copy, Debug, Args)]
pub struct Announce {
    #[arg(long, hide = true)]
    announce_ready: bool,
}

impl Announce {
    /// Says so, if asked to.
    pub fn ready(self) -> anyhow::Result<()> {
        if self.announce_ready {
            let mut stdout = std::io::stdout();
            writeln!(stdout, "ready").and_then(|()| stdout.flush()).context("cannot announce readiness")?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let settings = Settings::from_environment();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(settings.log.as_deref().unwrap_or("info")).unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    match run(Cli::parse().command, &settings) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<::lab::NotYet>() {
            Some(not_yet) => {
                eprintln!("{not_yet}");
                ExitCode::from(2)
            }
            None => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(command: Command, settings: &Settings) -> anyhow::Result<ExitCode> {
    match command {
        Command::Apiserver(arguments) => until_stopped(|shutdown| apiserver(arguments, shutdown)),
        Command::Controller(arguments) => until_stopped(|shutdown| controller(arguments, shutdown)),
        Command::Agent(arguments) => until_stopped(|shutdown| agent(arguments, shutdown)),
        Command::Central(arguments) => until_stopped(|shutdown| arguments.run(shutdown)),
        Command::Lab(arguments) => arguments.run(settings),
        Command::Bench(arguments) => until_stopped(|shutdown| arguments.run(shutdown)),
        Command::Status(_) => Err(::lab::NotYet("status".to_owned()).into()),
        Command::Trace(_) => Err(::lab::NotYet("trace".to_owned()).into()),
    }
}

/// Runs a service until it ends, or until `SIGTERM` or `SIGINT` cancels its token.
fn until_stopped<F, Fut>(service: F) -> anyhow::Result<ExitCode>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("asked to stop");
            shutdown.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            done = service(shutdown.clone()) => done.map(|()| ExitCode::SUCCESS),
            () = stop => Ok(ExitCode::SUCCESS),
        }
    })
}

async fn apiserver(arguments: Apiserver, shutdown: CancellationToken) -> anyhow::Result<()> {
    let token = std::fs::read_to_string(&arguments.token_file)
        .with_context(|| format!("cannot read {}", arguments.token_file.display()))?
        .trim()
        .to_owned();
    anyhow::ensure!(!token.is_empty(), "{} holds no token", arguments.token_file.display());
    // Bound here, so that clients may connect from the moment that readiness is announced.
    let listeners = bind(&arguments.listen, &arguments.listen_netns)?;
    arguments.announce.ready()?;
    let config = ::apiserver::Config { data: arguments.data, token, listeners, listen: Vec::new() };
    ::apiserver::run(config, shutdown).await
}

async fn controller(arguments: Controller, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = client(arguments.kubeconfig.as_deref()).await?;
    let (northbound, southbound) = (arguments.northbound, arguments.southbound);
    let tls = arguments.tls.of(std::iter::once(&northbound).chain(&southbound))?;
    arguments.announce.ready()?;
    tracing::info!(tunnel = arguments.tunnel, %northbound, "controller");
    let ports_per_subnet = (arguments.tunnel == "vxlan").then_some(::controller::Config::VXLAN_PORTS);
    let (confirm_removal, keep_vm_ip) = (arguments.confirm_removal, arguments.keep_vm_ip);
    let election = match (arguments.leader_elect, arguments.identity) {
        (true, identity) => {
            let identity = identity.map_or_else(host_name, Ok)?;
            Some(::controller::Election { namespace: arguments.lease_namespace, ..::controller::Election::new(identity) })
        }
        (false, _) => None,
    };
    let defaults = ::controller::Config::new(northbound);
    let config = ::controller::Config {
        audit: arguments.audit.map(std::time::Duration::from_secs),
        egress: arguments.egress.chosen(),
        default_cidr: arguments.default_cidr,
        join_cidr: Some(arguments.join_cidr).filter(|cidr| !cidr.is_empty()),
        metrics: arguments.metrics,
        confirm_removal,
        election,
        keep_vm_ip,
        ports_per_subnet,
        southbound,
        tls,
        ..defaults
    };
    if arguments.dry_run {
        let preview = ::controller::preview(client, config, shutdown).await;
        println!("{}", preview.context("stopped before cluster and database were known")?);
        return Ok(());
    }
    ::controller::run(client, config, shutdown).await
}

fn host_name() -> anyhow::Result<String> {
    let path = "/proc/sys/kernel/hostname";
    let name = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}; name the controller by --identity"))?;
    anyhow::ensure!(!name.trim().is_empty(), "this host has no name; name the controller by --identity");
    Ok(name.trim().to_owned())
}

async fn agent(arguments: Agent, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = client(arguments.kubeconfig.as_deref()).await?;
    // Bound here, so that plugins may connect from the moment that readiness is announced.
    let listener = ::agent::listen(&arguments.socket)?;
    arguments.announce.ready()?;
    let defaults = ::agent::Config::new(arguments.node, arguments.ovs.parse().context("--ovs")?, arguments.socket);
    let config = ::agent::Config {
        state: arguments.state.unwrap_or(defaults.state),
        run: if arguments.run.is_empty() { defaults.run } else { arguments.run },
        kubelet: arguments.kubelet,
        sysfs: arguments.sysfs,
        conflist: arguments.cni_conflist,
        portmap: arguments.portmap,
        host_run: arguments.host_run,
        mtu: arguments.mtu,
        mirror: arguments.mirror_iface,
        egress: arguments.egress.chosen(),
        detect_duplicates: arguments.detect_duplicates,
        ..defaults
    };
    ::agent::run(client, config, listener, shutdown).await
}

async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<kube::Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::infer().await?,
    };
    if config.cluster_url.scheme_str() == Some("http") {
        // TLS is not used, and must not fail on a machine without certificates of authorities.
        config.root_cert = Some(Vec::new());
    }
    Ok(kube::Client::try_from(config)?)
}
