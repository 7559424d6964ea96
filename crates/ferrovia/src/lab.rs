//! `ferrovia lab`: the command line of the lab.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use lab::machine::Machine;
use lab::{Component, Cut, DatapathChoice, Gateway, LabName, Layout, Place, Progress, Tunnel};

use crate::config::Settings;
use crate::{Announce, until_stopped};

/// A cluster in a box.
#[derive(Debug, Args)]
pub struct Lab {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Name {
    /// Which lab; several may run side by side.
    #[arg(long, default_value = "lab")]
    name: LabName,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TunnelArgument {
    Geneve,
    Vxlan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GatewayArgument {
    /// By a switch that each node has its own end of.
    Localnet,
    /// By each node's own port.
    Join,
    /// Not at all.
    None,
}

impl From<GatewayArgument> for Gateway {
    fn from(argument: GatewayArgument) -> Self {
        match argument {
            GatewayArgument::Localnet => Self::Localnet,
            GatewayArgument::Join => Self::Join,
            GatewayArgument::None => Self::None,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DatapathArgument {
    Auto,
    Netdev,
    System,
    Dpdk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FromArgument {
    /// Only from the hosts of OVN's central services and the API server.
    Central,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table.
    Table,
    /// JSON, documented in docs/lab.md.
    Json,
}

#[derive(Debug, Args)]
struct Format {
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a lab, apply manifests, wait for the pods.
    Up(Up),
    /// Apply manifests.
    Apply {
        #[command(flatten)]
        name: Name,
        /// A manifest, or a folder of them.
        #[arg(short, value_name = "FILE|DIR", required = true)]
        file: Vec<PathBuf>,
    },
    /// Show components, nodes, pods and subnets.
    Status {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        format: Format,
    },
    /// Print the path of the lab's kubeconfig.
    Kubeconfig(Name),
    /// Run a command in a pod.
    Exec {
        #[command(flatten)]
        name: Name,
        /// Namespace of the pod.
        #[arg(short, default_value = "default")]
        namespace: String,
        /// Name of the pod.
        pod: String,
        /// Container whose environment the command gets; the first by default.
        #[arg(short)]
        container: Option<String>,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Show what a packet passes from a pod to another one, or to an address, without sending it.
    Path {
        #[command(flatten)]
        name: Name,
        /// Namespace of both pods.
        #[arg(short, default_value = "default")]
        namespace: String,
        /// Name of the pod that it is from.
        pod: String,
        /// An address, or the name of a pod.
        to: String,
        #[command(flatten)]
        format: Format,
    },
    /// Run a command in a node's network, or in central's.
    Node {
        #[command(flatten)]
        name: Name,
        /// `node1`… or `central`.
        node: Place,
        /// Program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command on a host of the physical network.
    Outside {
        #[command(flatten)]
        name: Name,
        /// `outside1` by default, then program and arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "[HOST] CMD")]
        command: Vec<String>,
    },
    /// Add a second physical network, with a VLAN, to a lab that is up.
    Vlans {
        #[command(flatten)]
        name: Name,
        /// Identifier of the VLAN of its gateways, `outside8` and `outside6`, and of a host, `outside9`.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..4095))]
        vlan: u16,
    },
    /// Kill a component; what `central` keeps comes back by itself.
    Kill {
        #[command(flatten)]
        name: Name,
        /// controller agent central northd nb sb ovn-controller ovs-vswitchd ovsdb apiserver kubelet; nb and sb also @leader, @follower
        #[arg(value_name = "COMPONENT[@NODE]")]
        component: String,
    },
    /// Stop a component if it runs, and start it again.
    Restart {
        #[command(flatten)]
        name: Name,
        /// As for kill.
        #[arg(value_name = "COMPONENT[@NODE]")]
        component: String,
    },
    /// Change how pods of a running lab leave the cluster.
    Gateway {
        #[command(flatten)]
        name: Name,
        /// The new way.
        #[arg(value_enum)]
        scheme: GatewayArgument,
    },
    /// Make a component stand still (SIGSTOP).
    Pause {
        #[command(flatten)]
        name: Name,
        /// As for kill.
        #[arg(value_name = "COMPONENT[@NODE]")]
        component: String,
    },
    /// Let a paused component go on (SIGCONT).
    Resume {
        #[command(flatten)]
        name: Name,
        /// As for kill.
        #[arg(value_name = "COMPONENT[@NODE]")]
        component: String,
    },
    /// Cut a place off from the physical network.
    Partition {
        #[command(flatten)]
        name: Name,
        /// `node1`…, `central` or `outside1`…
        node: Place,
        /// From whom; from everybody by default.
        #[arg(long, value_enum, value_name = "WHOM")]
        from: Option<FromArgument>,
    },
    /// Undo a partition.
    Heal {
        #[command(flatten)]
        name: Name,
        /// What was cut off; everything by default.
        node: Option<Place>,
    },
    /// Move a virtual machine to another node while it runs.
    Migrate {
        #[command(flatten)]
        name: Name,
        /// Namespace of the machine.
        #[arg(short, default_value = "default")]
        namespace: String,
        /// Name of its VirtualMachineInstance.
        machine: String,
        /// `node1`…
        #[arg(required_unless_present = "abort")]
        node: Option<Place>,
        /// MB of its memory that go each second; as many as can by default.
        #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
        bandwidth: Option<u64>,
        /// Call off a migration that is under way.
        #[arg(long, conflicts_with_all = ["node", "bandwidth"])]
        abort: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Compare what pods should reach with what they reach.
    Check {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        format: Format,
    },
    /// Remove a lab with every process, namespace and file.
    Down {
        #[command(flatten)]
        name: Name,
        /// Every lab on this machine.
        #[arg(long)]
        all: bool,
    },
    /// Try versions of OVN: a lab with each of them and each tunnel comes up, is checked, loses components and goes down.
    Trial(Trial),
    /// A virtual machine: runs QEMU in the network where it is started; clients come through its standard input.
    #[command(hide = true)]
    Machine {
        /// What it is, as JSON.
        machine: String,
    },
    /// The first program of a guest.
    #[command(hide = true)]
    Guest {
        /// Its port to whoever runs it.
        port: PathBuf,
    },
    /// Checks from where it is started, as its standard input asks.
    #[command(hide = true)]
    Probe {
        /// Who it says it is.
        id: String,
    },
    /// The scheduler and the kubelets of a lab.
    #[command(hide = true)]
    Run {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        announce: Announce,
    },
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    name: Name,
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Encapsulation between nodes.
    #[arg(long, value_enum, default_value = "geneve")]
    tunnel: TunnelArgument,
    /// How traffic leaves the cluster.
    #[arg(long, value_enum, default_value = "localnet")]
    gateway: GatewayArgument,
    /// Give the subnets that the cluster starts with addresses of both families.
    #[arg(long)]
    dual_stack: bool,
    /// Datapath of the nodes.
    #[arg(long, value_enum, default_value = "auto")]
    datapath: DatapathArgument,
    /// Nodes that have DPDK, whatever the others have, such as `node2,node3`.
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    dpdk_nodes: Vec<Place>,
    /// How many servers of OVN's central databases: 1 or 3.
    #[arg(long, default_value_t = 1)]
    central: u32,
    /// How many controllers, of which one leads by a lease: 1 to 3. The others are called `controller2` and `controller3`.
    #[arg(long, default_value_t = 1)]
    controllers: u32,
    /// Run OVN's central services by themselves, without `ferrovia central`, to compare.
    #[arg(long)]
    unsupervised: bool,
    /// Another root directory to take OVS and OVN from.
    #[arg(long, value_name = "ROOT")]
    ovn: Option<PathBuf>,
    /// A real API server instead of the embedded one.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A manifest to apply, or a folder of them.
    #[arg(short, value_name = "FILE|DIR")]
    file: Vec<PathBuf>,
    /// How long pods may take to become ready.
    #[arg(long, default_value = "120s", value_parser = duration)]
    wait: Duration,
}

#[derive(Debug, Args)]
struct Trial {
    /// Name of the labs, which come one after another.
    #[arg(long, default_value = "trial")]
    name: LabName,
    /// How many nodes: the components that are killed need two.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    nodes: u32,
    /// Encapsulation between nodes; each by default.
    #[arg(long, value_enum, default_values = ["geneve", "vxlan"])]
    tunnel: Vec<TunnelArgument>,
    /// Datapath of the nodes.
    #[arg(long, value_enum, default_value = "auto")]
    datapath: DatapathArgument,
    /// Another root directory to take OVS and OVN from, beside the system's own.
    #[arg(long, value_name = "ROOT")]
    ovn: Vec<PathBuf>,
    /// A manifest to apply, or a folder of them.
    #[arg(short, value_name = "FILE|DIR", required = true)]
    file: Vec<PathBuf>,
    /// How long pods may take to become ready.
    #[arg(long, default_value = "120s", value_parser = duration)]
    wait: Duration,
}

fn show_path(hops: &[lab::Hop], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(hops)?),
        Output::Table => hops.iter().enumerate().for_each(|(at, hop)| println!("{:>2}  {hop}", at + 1)),
    }
    Ok(())
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a duration such as 120s"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        unit => Err(format!("{unit:?} is not a unit of time: expected ms, s or m")),
    }
}

impl Lab {
    /// Does what is asked.
    pub fn run(self, settings: &Settings) -> anyhow::Result<ExitCode> {
        let layout = |name: Name| Layout::new(&settings.labs, name.name);
        let open = |name: Name| lab::Lab::open(layout(name));
        match self.command {
            Command::Up(arguments) => up(arguments, settings),
            Command::Trial(arguments) => trial(arguments, settings),
            Command::Apply { name, file } => {
                let lab = open(name)?;
                let documents = lab::apply::read(&file)?;
                block_on(async { lab::apply::apply(&lab::cluster::client(&lab.layout).await?, &documents).await })
            }
            Command::Kubeconfig(name) => {
                println!("{}", open(name)?.layout.kubeconfig().display());
                Ok(ExitCode::SUCCESS)
            }
            Command::Path { name, namespace, pod, to, format } => {
                let lab = open(name)?;
                block_on(async { show_path(&lab.path(&namespace, &pod, &to).await?, format.output) })
            }
            Command::Node { name, node, command } => open(name)?.run_in(node, &command).map(ExitCode::from),
            Command::Outside { name, command } => {
                let lab = open(name)?;
                let named = command[0].parse::<Place>().ok().filter(|place| matches!(place, Place::Outside(_)));
                let (host, command) = named.map_or((Place::Outside(1), command.as_slice()), |host| (host, &command[1..]));
                let command = command.strip_prefix(&["--".to_owned()]).unwrap_or(command);
                anyhow::ensure!(!command.is_empty(), "no command given");
                lab.run_in(host, command).map(ExitCode::from)
            }
            Command::Kill { name, component } => {
                let lab = open(name)?;
                let component = Component::find(&lab.layout, &component)?;
                let pid = component.kill(&lab.layout)?;
                println!("killed {}@{}, process {pid}", component.name, component.place);
                Ok(ExitCode::SUCCESS)
            }
            Command::Pause { name, component } => pause(&open(name)?, &component, true),
            Command::Resume { name, component } => pause(&open(name)?, &component, false),
            Command::Vlans { name, vlan } => {
                let lab = open(name)?;
                block_on(lab.add_vlans(lab::Vlans { vlan }))
            }
            Command::Partition { name, node, from } => {
                let (lab, cut) = (open(name)?, from.map_or(Cut::Everybody, |FromArgument::Central| Cut::Central));
                block_on(lab.partition(node, cut))
            }
            Command::Heal { name, node } => {
                let lab = open(name)?;
                block_on(lab.heal(node))
            }
            Command::Gateway { name, scheme } => {
                let lab = open(name)?;
                block_on(lab.leave_by(scheme.into()))
            }
            Command::Restart { name, component } => {
                let lab = open(name)?;
                block_on(lab.restart(&component))
            }
            Command::Down { name, all } => {
                let names = if all { lab::labs(&settings.labs)? } else { vec![name.name] };
                for name in names {
                    if lab::down(&Layout::new(&settings.labs, name.clone()))? {
                        println!("lab {name} is gone");
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Run { name, announce } => {
                let lab = open(name)?;
                until_stopped(|shutdown| async move {
                    announce.ready()?;
                    lab.run(shutdown).await
                })
            }
            Command::Machine { machine } => {
                let machine: Machine = serde_json::from_str(&machine).context("what the machine is")?;
                let clients = std::io::stdin().as_fd().try_clone_to_owned()?;
                let status = runtime()?.block_on(lab::machine::monitor(machine, clients.into()))?;
                Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
            }
            Command::Guest { port } => {
                let runtime = runtime()?;
                let served = runtime.block_on(lab::machine::guest(&port));
                // Its port is being read, and will be for ever.
                runtime.shutdown_background();
                served.map(|()| ExitCode::SUCCESS)
            }
            Command::Probe { id } => {
                let runtime = runtime()?;
                let served = runtime.block_on(lab::probe::serve(&id));
                runtime.shutdown_background();
                served.map(|()| ExitCode::SUCCESS)
            }
            Command::Status { name, format } => {
                let lab = open(name)?;
                let status = runtime()?.block_on(lab.status())?;
                show(format, &status, || status.table())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Exec { name, namespace, pod, container, command } => {
                open(name)?.run_in_pod(&namespace, &pod, container.as_deref(), &command).map(ExitCode::from)
            }
            Command::Migrate { name, namespace, machine, node, bandwidth, abort, format } => {
                let lab = open(name)?;
                let runtime = runtime()?;
                let client = runtime.block_on(lab::cluster::client(&lab.layout))?;
                let Some(node) = node.filter(|_| !abort) else {
                    runtime.block_on(lab::migrate::abort(&client, &namespace, &machine))?;
                    return Ok(ExitCode::SUCCESS);
                };
                let asked = lab::migrate::Migrate { namespace, name: machine, node, bandwidth: bandwidth.map(|mb| mb * 1_000_000) };
                until_stopped(|stop| async move {
                    let migrated = lab.migrate(&client, &asked, stop).await?;
                    show(format, &migrated, || format!("{migrated}\n")).map(drop)
                })
            }
            Command::Check { name, format } => {
                let lab = open(name)?;
                let checked = runtime()?.block_on(async { lab.check(&lab::cluster::client(&lab.layout).await?).await })?;
                show(format, &checked, || lab::check::table(&checked))?;
                Ok(if checked.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
        }
    }
}

fn request(arguments: &Up, settings: &Settings) -> anyhow::Result<lab::Request> {
    Ok(lab::Request {
        nodes: arguments.nodes,
        tunnel: match arguments.tunnel {
            TunnelArgument::Geneve => Tunnel::Geneve,
            TunnelArgument::Vxlan => Tunnel::Vxlan,
        },
        datapath: match arguments.datapath {
            DatapathArgument::Auto => DatapathChoice::Auto,
            DatapathArgument::Netdev => DatapathChoice::Netdev,
            DatapathArgument::System => DatapathChoice::System,
            DatapathArgument::Dpdk => DatapathChoice::Dpdk,
        },
        dpdk_nodes: arguments.dpdk_nodes.clone(),
        gateway: arguments.gateway.into(),
        central: arguments.central,
        supervised: !arguments.unsupervised,
        controllers: arguments.controllers,
        dual_stack: arguments.dual_stack,
        ovn: arguments.ovn.clone(),
        kubeconfig: arguments.kubeconfig.clone(),
        manifests: arguments.file.clone(),
        wait: arguments.wait,
        program: std::env::current_exe()?,
        cni: settings.cni.clone(),
        guest: settings.guest.clone(),
    })
}

fn trial(arguments: Trial, settings: &Settings) -> anyhow::Result<ExitCode> {
    let Trial { name, nodes, tunnel, datapath, ovn, file, wait } = arguments;
    let layout = Layout::new(&settings.labs, name.clone());
    let roots = || std::iter::once(None).chain(ovn.iter().cloned().map(Some));
    let mut trials = Vec::new();
    for (tunnel, ovn) in tunnel.iter().flat_map(|tunnel| roots().map(move |ovn| (*tunnel, ovn))) {
        let (name, gateway, file) = (Name { name: name.clone() }, GatewayArgument::Localnet, file.clone());
        let up = Up {
            name,
            nodes,
            tunnel,
            gateway,
            datapath,
            dpdk_nodes: Vec::new(),
            central: 1,
            controllers: 1,
            dual_stack: false,
            unsupervised: false,
            ovn,
            kubeconfig: None,
            file,
            wait,
        };
        let trial = runtime()?.block_on(lab::Trial::run(&layout, &request(&up, settings)?))?;
        if let Some(failure) = &trial.failure {
            eprintln!("OVN {}, {} tunnels: {failure}", trial.ovn, trial.tunnel.as_str());
        }
        trials.push(trial);
    }
    print!("{}", lab::trial::table(&trials));
    Ok(if trials.iter().all(|trial| trial.failure.is_none()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn up(arguments: Up, settings: &Settings) -> anyhow::Result<ExitCode> {
    let request = request(&arguments, settings)?;
    let layout = Layout::new(&settings.labs, arguments.name.name);
    let progress = Progress::new();
    let lab = runtime()?.block_on(lab::up(layout, &request, &progress));
    progress.finish();
    let lab = lab?;
    let parameters = &lab.parameters;
    println!(
        "lab {} is up after {:.1} s: {} nodes, {} tunnels, {}",
        lab.layout.name(),
        progress.elapsed().as_secs_f64(),
        parameters.nodes,
        parameters.tunnel.as_str(),
        parameters.datapaths()
    );
    println!("export KUBECONFIG={}", lab.layout.kubeconfig().display());
    Ok(ExitCode::SUCCESS)
}

fn pause(lab: &lab::Lab, component: &str, paused: bool) -> anyhow::Result<ExitCode> {
    let component = Component::find(&lab.layout, component)?;
    let pid = component.pause(&lab.layout, paused)?;
    println!("{} {}@{}, process {pid}", if paused { "paused" } else { "resumed" }, component.name, component.place);
    Ok(ExitCode::SUCCESS)
}

fn show<T: serde::Serialize>(format: Format, value: &T, table: impl FnOnce() -> String) -> anyhow::Result<()> {
    match format.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Output::Table => print!("{}", table()),
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(work).map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("120s"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("soon").is_err() && duration("1h").is_err());
    }
}
