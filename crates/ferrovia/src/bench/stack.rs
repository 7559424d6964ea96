//! What a bench runs on: an API server, OVN's databases, perhaps `ovn-northd`, and the controller; each a process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use lab::Programs;
use ovsdb::Remotes;
use serde_json::json;

use super::objects::Shape;
use super::process::{Process, Usage, own_usage};

/// A large heap that is read all over: the glibc manual, "Memory Allocation Tunables".
const HUGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
/// Seconds that OVN's tools may take.
const PATIENCE: u32 = 60;

/// All of it; gone when dropped.
pub struct Stack {
    logs: PathBuf,
    /// Of the API server.
    pub kubeconfig: PathBuf,
    /// The API server, unless it is somebody else's.
    api: Option<Process>,
    databases: Vec<Process>,
    northd: Option<Process>,
    controller: Option<Process>,
    pub northbound: Remotes,
    /// With `ovn-northd` only.
    pub southbound: Option<Remotes>,
}

impl Stack {
    /// Starts everything but the controller. Sockets and databases are in `folder`, logs in `logs`.
    pub async fn start(folder: &Path, logs: PathBuf, kubeconfig: Option<PathBuf>, central: u32, northd: bool) -> anyhow::Result<Self> {
        let (api, kubeconfig) = match kubeconfig {
            Some(kubeconfig) => (None, kubeconfig),
            None => start_api(folder, &logs).await.map(|(api, kubeconfig)| (Some(api), kubeconfig))?,
        };
        let mut databases = Vec::new();
        let northbound = start_database(folder, &logs, "nb", "OVN_Northbound", central, &mut databases).await?;
        let mut stack = Self { logs, kubeconfig, api, databases, northd: None, controller: None, northbound, southbound: None };
        if northd {
            let southbound = start_database(folder, &stack.logs, "sb", "OVN_Southbound", central, &mut stack.databases).await?;
            let mut argv = Programs::new(None).argv("ovn-northd")?;
            argv.extend([
                format!("--ovnnb-db={}", stack.northbound),
                format!("--ovnsb-db={southbound}"),
                format!("--unixctl={}", folder.join("northd.ctl").display()),
                "--no-chdir".to_owned(),
            ]);
            stack.northd = Some(Process::start("ovn-northd", &stack.logs, &argv, &[])?);
            stack.southbound = Some(southbound);
        }
        Ok(stack)
    }

    /// Registers the nodes as chassis, as their `ovn-controller` would.
    pub async fn register_chassis(&self, shape: &Shape) -> anyhow::Result<()> {
        let Some(southbound) = &self.southbound else { return Ok(()) };
        let numbers: Vec<u32> = (0..shape.nodes).collect();
        for some in numbers.chunks(500) {
            let mut arguments = vec![format!("--db={southbound}"), format!("--timeout={PATIENCE}")];
            for (at, number) in some.iter().enumerate() {
                arguments.extend((at > 0).then(|| "--".to_owned()));
                let (node, address) = (shape.node(*number), Shape::node_address(*number));
                arguments.extend(["chassis-add".to_owned(), node, "geneve".to_owned(), address.to_string()]);
            }
            tool("ovn-sbctl", &arguments).await?;
        }
        Ok(())
    }

    /// Starts the controller as the lab does, alone.
    pub async fn start_controller(&mut self) -> anyhow::Result<()> {
        let arguments = [
            own_program()?,
            "controller".to_owned(),
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--northbound={}", self.northbound),
            "--leader-elect=false".to_owned(),
            "--announce-ready".to_owned(),
        ];
        let controller = Process::start("controller", &self.logs, &arguments, &[HUGE_PAGES])?;
        self.controller = Some(controller.announced().await?);
        Ok(())
    }

    /// Stops the controller in order: what is under way is finished.
    pub async fn stop_controller(&mut self) -> anyhow::Result<()> {
        match self.controller.take() {
            Some(controller) => controller.stop().await,
            None => Ok(()),
        }
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.controller.iter_mut().chain(&mut self.api).chain(&mut self.databases).chain(&mut self.northd)
    }

    /// What each process has used until now.
    pub fn usage(&mut self) -> anyhow::Result<Vec<Usage>> {
        let mut usage = self.processes().map(|process| process.usage()).collect::<anyhow::Result<Vec<_>>>()?;
        usage.push(own_usage()?);
        Ok(usage)
    }

    /// Which of the processes have ended, and what they said.
    pub fn ended(&mut self) -> Vec<String> {
        self.processes().filter_map(Process::ended).collect()
    }
}

fn own_program() -> anyhow::Result<String> {
    Ok(std::env::current_exe().context("cannot find this program")?.display().to_string())
}

async fn start_api(folder: &Path, logs: &Path) -> anyhow::Result<(Process, PathBuf)> {
    // The kernel's choice is free now; nothing else asks for it in between.
    let address = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).context("no free loopback port")?;
    let (token_file, kubeconfig) = (folder.join("token"), folder.join("kubeconfig"));
    // It is served on this machine only, and gone in minutes.
    let token = format!("bench-{}", std::process::id());
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{ "name": "bench", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "bench", "user": { "token": token } }],
        "contexts": [{ "name": "bench", "context": { "cluster": "bench", "user": "bench" } }],
    });
    std::fs::write(&token_file, &token).and_then(|()| std::fs::write(&kubeconfig, config.to_string()))?;
    let arguments = [
        own_program()?,
        "apiserver".to_owned(),
        format!("--listen={address}"),
        format!("--token-file={}", token_file.display()),
        "--announce-ready".to_owned(),
    ];
    let api = Process::start("apiserver", logs, &arguments, &[])?.announced().await?;
    Ok((api, kubeconfig))
}

/// A database on sockets in `folder`, alone or as a RAFT cluster of `count`.
async fn start_database(
    folder: &Path,
    logs: &Path,
    name: &str,
    database: &str,
    count: u32,
    started: &mut Vec<Process>,
) -> anyhow::Result<Remotes> {
    let programs = Programs::new(None);
    let schema = programs.schema(&format!("ovn/ovn-{name}.ovsschema"));
    let path = |number: u32, extension: &str| folder.join(format!("{name}{number}.{extension}")).display().to_string();
    let member = |number: u32| format!("unix:{}", path(number, "raft"));
    let remote = |number: u32| format!("unix:{}", path(number, "sock"));
    for number in 1..=count {
        let file = path(number, "db");
        let arguments: Vec<String> = match (count, number) {
            (1, _) => vec!["create".to_owned(), file.clone(), schema.clone()],
            // As `ferrovia central` sets it.
            (_, 1) => ["--election-timer=1000", "create-cluster", &file, &schema, &member(1)].map(str::to_owned).into(),
            _ => ["join-cluster", &file, database, &member(number), &member(1)].map(str::to_owned).into(),
        };
        tool("ovsdb-tool", &arguments).await?;
        let mut argv = programs.argv("ovsdb-server")?;
        argv.extend([format!("--remote=p{}", remote(number)), format!("--unixctl={}", path(number, "ctl")), "--no-chdir".to_owned(), file]);
        let shown = if count == 1 { format!("ovsdb-server-{name}") } else { format!("ovsdb-server-{name}-{number}") };
        started.push(Process::start(&shown, logs, &argv, &[])?);
        let wait = [format!("--timeout={PATIENCE}"), "wait".to_owned(), remote(number), database.to_owned(), "connected".to_owned()];
        tool("ovsdb-client", &wait).await?;
    }
    let remotes = (1..=count).map(remote).collect::<Vec<_>>().join(",");
    // The row that belongs to everybody.
    let init = [format!("--db={remotes}"), format!("--timeout={PATIENCE}"), "init".to_owned()];
    tool(&format!("ovn-{name}ctl"), &init).await?;
    remotes.parse().with_context(|| format!("remotes {remotes}"))
}

/// Runs one of OVN's tools to its end.
async fn tool(program: &str, arguments: &[String]) -> anyhow::Result<()> {
    let argv = Programs::new(None).argv(program)?;
    let mut command = tokio::process::Command::new(&argv[0]);
    command.args(&argv[1..]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
