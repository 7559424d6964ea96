//! `ferrovia bench`: what the control plane carries, measured from outside, with every part a process of its own.

mod guest;
mod load;
mod objects;
mod observe;
mod outcome;
mod process;
mod stack;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use load::Load;
use objects::Shape;
use observe::{Ledger, Observers};
use outcome::Outcome;
use stack::Stack;

/// Measure what the control plane carries.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill a cluster with pods, let pods come and go, and start the controller anew on it.
    ///
    /// API server, OVN's databases, `ovn-northd` and the controller are processes of their own, in a folder that is gone
    /// afterwards. Prints pods per second, how long pods take from stage to stage, transactions and rows per pod, and
    /// processor time and peak memory of each process.
    ControlPlane(ControlPlane),
}

#[derive(Debug, Args)]
struct ControlPlane {
    /// Nodes; with `--northd` each is a chassis too.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    nodes: u32,
    /// Pods that the cluster is filled with.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pods: u32,
    /// Subnets, each with a namespace, over which the pods are spread.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    subnets: u32,
    /// Create the pods, and their `IP` objects, as a controller has left them, before one is started: the quick way to a large
    /// cluster. Otherwise the controller serves them as they come.
    #[arg(long)]
    recorded: bool,
    /// Size of a pod as JSON, with its status and what the API server adds.
    #[arg(long, value_name = "BYTES", default_value_t = 6144, value_parser = clap::value_parser!(u32).range(..=262_144))]
    pod_bytes: u32,
    /// Pods created, and as many deleted, each second; 0 for none.
    #[arg(long, value_name = "PODS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    rate: u32,
    /// How long pods come and go.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// At the end, stop the controller, start it again on all pods, and see what it writes.
    #[arg(long)]
    cold_start: bool,
    /// Servers of each database: 1, or a RAFT cluster of 3.
    #[arg(long, value_name = "1|3", default_value_t = 1, value_parser = servers)]
    central: u32,
    /// Run `ovn-northd` too, and wait until the ports are in the southbound database.
    #[arg(long)]
    northd: bool,
    /// Kubeconfig of an API server to use in place of the embedded one. It must be there for this alone: without pods of
    /// its own, and without kinds of `kubeovn.io`, which are installed and removed.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Folder in which the logs of all processes are kept.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn servers(text: &str) -> Result<u32, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("expected 1, or 3 for a RAFT cluster".to_owned()),
    }
}

impl Bench {
    /// Measures, until told to stop.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Command::ControlPlane(arguments) = self.command;
        let json = arguments.json;
        let outcome = arguments.run(&shutdown).await?;
        if json {
            println!("{}", serde_json::to_string_pretty(&outcome)?);
        } else {
            print!("{}", outcome.text());
        }
        Ok(())
    }
}

impl ControlPlane {
    async fn run(self, shutdown: &CancellationToken) -> anyhow::Result<Outcome> {
        let shape = Shape::new(self.nodes, self.subnets, self.pods)?;
        // Short: paths of sockets are.
        let folder = tempfile::Builder::new().prefix("fv-bench-").tempdir().context("cannot create a folder")?;
        let logs = self.logs.clone().unwrap_or_else(|| folder.path().to_owned());
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let logs = logs.canonicalize()?;
        let stack = Stack::start(folder.path(), logs, self.kubeconfig.clone(), self.central, self.northd);
        let mut stack = unless_stopped(shutdown, stack).await?;
        let client = crate::client(Some(&stack.kubeconfig)).await?;
        let guest = self.kubeconfig.is_some();
        if guest {
            unless_stopped(shutdown, guest::check(&client)).await?;
        }
        let outcome = unless_stopped(shutdown, self.measure(&mut stack, &client, shape)).await;
        let ended = stack.ended();
        if guest {
            tracing::info!("taking away what was made");
            stack.stop_controller().await?;
            guest::clean(&client).await.context("cannot take away what was made")?;
        }
        if outcome.is_err() && !ended.is_empty() {
            return outcome.context(ended.join("; "));
        }
        outcome
    }

    async fn measure(&self, stack: &mut Stack, client: &kube::Client, shape: Shape) -> anyhow::Result<Outcome> {
        load::install(client).await?;
        stack.register_chassis(&shape).await?;
        let ledger = Arc::new(Ledger::default());
        let _observers = Observers::start(&ledger, client, &stack.northbound, stack.southbound.as_ref());
        let mut load = Load::new(client.clone(), ledger, shape, self.northd);
        load.prepare(self.pod_bytes as usize).await?;
        tracing::info!(pods = self.pods, "filling the cluster");
        let fill = if self.recorded {
            load.restore(self.pods, stack).await?
        } else {
            stack.start_controller().await?;
            load.subnets_are_there().await?;
            load.fill(self.pods, stack).await?
        };
        let churn = match self.rate {
            0 => None,
            rate => {
                tracing::info!(rate, seconds = self.seconds, "pods come and go");
                Some(load.churn(rate, self.seconds, stack).await?)
            }
        };
        let cold_start = if self.cold_start {
            tracing::info!("starting the controller anew");
            Some(load.cold_start(stack).await?)
        } else {
            None
        };
        let (nodes, subnets, central, northd) = (self.nodes, self.subnets, self.central, self.northd);
        Ok(Outcome { nodes, subnets, central, northd, fill, churn, cold_start })
    }
}

/// Does it, unless it is interrupted: then what was started ends with it.
async fn unless_stopped<T>(shutdown: &CancellationToken, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        () = shutdown.cancelled() => Err(anyhow!("interrupted")),
    }
}
