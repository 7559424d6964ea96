//! Real `ovsdb-server`s and `ovn-northd`, in a network namespace of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use central::{Backups, Cluster, Config, State, ask, listen};
use linux::process::{self, Process, Signal};
use linux::{Netns, netns};
use tokio_util::sync::CancellationToken;

static HOSTS: AtomicU32 = AtomicU32::new(0);

/// A host of central services, with all that it leaves behind.
struct Host {
    folder: tempfile::TempDir,
    config: Config,
    netns: Netns,
    running: Option<(CancellationToken, std::thread::JoinHandle<anyhow::Result<()>>)>,
}

/// A namespace with its loopback up, gone when dropped.
struct Network(String);

impl Network {
    async fn new() -> (Self, Netns) {
        let name = format!("fvt-central-{}-{}", std::process::id(), HOSTS.fetch_add(1, Ordering::Relaxed));
        let made = Netns::create(&name).unwrap();
        let handle = linux::Handle::open(&made).unwrap();
        handle.set_up(handle.index("lo").await.unwrap()).await.unwrap();
        (Self(name), made)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = netns::delete(&self.0);
    }
}

impl Host {
    fn new(netns: &Netns, change: impl FnOnce(&mut Config, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path(), folder.path());
        change(&mut config, folder.path());
        Self { folder, config, netns: netns.clone(), running: None }
    }

    /// A member of a cluster, at 127.0.0.`last`.
    fn member(netns: &Netns, last: u8, peers: &[u8]) -> Self {
        let address = |last: u8| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let peers = peers.iter().map(|last| address(*last)).collect();
        Self::new(netns, |config, _| {
            config.address = Some(address(last));
            config.cluster = Some(Cluster { peers, bootstrap: last == 1, election: Duration::from_secs(1) });
        })
    }

    fn start(&mut self) {
        let (shutdown, config, netns) = (CancellationToken::new(), self.config.clone(), self.netns.clone());
        let stop = shutdown.clone();
        let socket = self.path("central.sock");
        let thread = std::thread::spawn(move || {
            netns.enter().unwrap();
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(async { central::run(config, listen(&socket)?, || Ok(()), stop).await })
        });
        self.running = Some((shutdown, thread));
    }

    fn stop(&mut self) {
        let (shutdown, thread) = self.running.take().unwrap();
        shutdown.cancel();
        thread.join().unwrap().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asks until the answer is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) -> State {
        eventually(what, || {
            let asked = ask(&self.path("central.sock"), "GET", "/status").map_err(|error| format!("{error:#}"))?;
            let state: State = serde_json::from_str(&asked).unwrap();
            if wanted(&state) { Ok(state) } else { Err(asked) }
        })
    }

    fn nbctl(&self, arguments: &[&str]) -> String {
        let db = format!("--db=unix:{}", self.path("ovnnb_db.sock").display());
        let out = Command::new("ovn-nbctl").args([&db, "--timeout=10"]).args(arguments).output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn complete(&self) {
        self.nbctl(&["set", "nb_global", ".", "external_ids:ferrovia-complete=true"]);
    }

    /// The datapaths that `ovn-northd` has made of logical switches.
    fn datapaths(&self) -> usize {
        let db = format!("--db=unix:{}", self.path("ovnsb_db.sock").display());
        let list = ["--timeout=10", "--no-leader-only", "--bare", "--columns=_uuid", "list", "datapath_binding"];
        let out = Command::new("ovn-sbctl").arg(db).args(list).output().unwrap();
        String::from_utf8(out.stdout).unwrap().split_whitespace().count()
    }

    fn northd_says(&self) -> String {
        let pid = std::fs::read_to_string(self.path("ovn-northd.pid")).unwrap();
        let socket = self.path(&format!("ovn-northd.{}.ctl", pid.trim()));
        let out = Command::new("ovn-appctl").arg("-t").arg(socket).arg("status").output().unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.stop();
        }
        for name in ["ovn-northd", "ovnnb_db", "ovnsb_db"] {
            let pid = std::fs::read_to_string(self.path(&format!("{name}.pid"))).ok().and_then(|text| text.trim().parse().ok());
            if let Some(process) = pid.and_then(|pid| Process::open(pid).ok()) {
                let _ = process.stop(Duration::from_secs(2));
            }
        }
    }
}

/// Looks until there is something to see. What is looked at are other programs, which send no events.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(last) => assert!(Instant::now() < deadline, "{what}: {last}"),
        }
        #[allow(clippy::disallowed_methods, reason = "see above")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn kill(pid: Option<u32>) {
    Process::open(pid.unwrap()).unwrap().signal(Signal::KILL).unwrap();
}

#[tokio::test]
async fn northd_is_held_until_the_database_is_complete_and_again_when_it_was_lost() {
    let (_network, netns) = Network::new().await;
    let mut host = Host::new(&netns, |_, _| {});
    host.start();
    let first = host.until("ready", State::is_ready);
    assert!(!first.northd.released);
    host.nbctl(&["ls-add", "a"]);
    assert_eq!((host.northd_says().as_str(), host.datapaths()), ("Status: paused", 0));
    host.complete();
    host.until("release", |state| state.northd.released);
    host.nbctl(&["--wait=sb", "ls-add", "b"]);
    assert_eq!((host.northd_says().as_str(), host.datapaths()), ("Status: active", 2));

    // The disk is lost with the server: northd must not take the empty database for what is wanted.
    std::fs::remove_file(host.path("ovnnb_db.db")).unwrap();
    kill(first.nb.pid);
    let second = host.until("another server", |state| state.nb.connected && state.nb.pid != first.nb.pid);
    assert_eq!((second.nb.restarts, second.northd.released, second.northd.pid), (1, false, first.northd.pid));
    assert_eq!((host.nbctl(&["ls-list"]).as_str(), host.northd_says().as_str(), host.datapaths()), ("", "Status: paused", 2));
    host.complete();
    host.until("release", |state| state.northd.released);

    // Only its process: an old copy may have been put in place, so the mark is asked for once more.
    kill(second.nb.pid);
    host.until("another server", |state| state.nb.connected && state.nb.restarts == 2);
    eventually("the mark is removed", || {
        let notes = host.nbctl(&["get", "nb_global", ".", "external_ids"]);
        if notes.contains("ferrovia-complete") { Err(notes) } else { Ok(()) }
    });
    assert!(!host.until("anything", |_| true).northd.released);
    host.complete();
    host.until("release", |state| state.northd.released);

    // A new northd starts paused, and works when it may.
    kill(second.northd.pid);
    host.until("another northd", |state| state.northd.pid.is_some() && state.northd.pid != second.northd.pid);
    host.nbctl(&["--wait=sb", "ls-add", "c"]);
    assert_eq!(host.northd_says(), "Status: active");
    // Somebody takes the mark away: it is held at once.
    host.nbctl(&["clear", "nb_global", ".", "external_ids"]);
    host.until("hold", |state| !state.northd.released);
}

#[tokio::test]
async fn what_runs_is_adopted_and_restarts_are_answered_when_done() {
    let (_network, netns) = Network::new().await;
    let mut host = Host::new(&netns, |_, _| {});
    host.start();
    let before = host.until("ready", State::is_ready);
    host.complete();
    host.until("release", |state| state.northd.released);
    host.stop();
    assert!(!process::command_line(before.nb.pid.unwrap()).is_empty(), "they go on by themselves");
    host.start();
    let after = host.until("release", |state| state.is_ready() && state.northd.released);
    assert_eq!((after.nb.pid, after.sb.pid, after.northd.pid), (before.nb.pid, before.sb.pid, before.northd.pid));
    assert_eq!(host.northd_says(), "Status: active");
    for (name, pid) in [("nb", before.nb.pid), ("sb", before.sb.pid), ("northd", before.northd.pid)] {
        ask(&host.path("central.sock"), "POST", &format!("/restart/{name}")).unwrap();
        assert!(process::command_line(pid.unwrap()).is_empty(), "{name}");
    }
    host.until("ready", State::is_ready);
    let error = ask(&host.path("central.sock"), "POST", "/restart/everything").unwrap_err().to_string();
    assert!(error.contains("expected"), "{error}");
}

#[tokio::test]
async fn a_member_that_lost_its_disk_joins_its_cluster_instead_of_making_another() {
    let (_network, netns) = Network::new().await;
    let mut hosts = [Host::member(&netns, 1, &[2, 3]), Host::member(&netns, 2, &[1, 3]), Host::member(&netns, 3, &[1, 2])];
    hosts.iter_mut().for_each(Host::start);
    for host in &hosts {
        host.until("ready", |state| state.is_ready() && state.nb.clustered);
    }
    let [first, second, _] = &mut hosts;
    first.complete();
    second.until("release", |state| state.northd.released);
    first.nbctl(&["--no-leader-only", "ls-add", "a"]);

    let cluster = |host: &Host| {
        let out = Command::new("ovs-appctl").arg("-t").arg(host.path("ovnnb_db.ctl")).args(["cluster/cid", "OVN_Northbound"]).output();
        String::from_utf8(out.unwrap().stdout).unwrap()
    };
    let before = cluster(second);
    // Gracefully, so that the others do not wait for it; then it is as good as new, and still the one told to bootstrap.
    first.stop();
    let left = Command::new("ovs-appctl").arg("-t").arg(first.path("ovnnb_db.ctl")).args(["cluster/leave", "OVN_Northbound"]).status();
    assert!(left.unwrap().success());
    let nb = first.path("ovnnb_db.pid");
    let pid: u32 = std::fs::read_to_string(nb).unwrap().trim().parse().unwrap();
    let server = Process::open(pid).unwrap();
    second.until("a leader among those left", |state| state.nb.connected);
    server.stop(Duration::from_secs(5)).unwrap();
    std::fs::remove_file(first.path("ovnnb_db.db")).unwrap();
    first.start();
    first.until("its return", |state| state.nb.connected && state.northd.released);
    assert_eq!(cluster(first), before, "the same cluster");
    assert!(first.nbctl(&["--no-leader-only", "ls-list"]).contains("(a)"));
}

#[tokio::test]
async fn a_database_of_the_wrong_kind_is_named_and_left_alone() {
    let (_network, netns) = Network::new().await;
    let mut host = Host::member(&netns, 1, &[2]);
    let file = host.path("ovnnb_db.db");
    let made = Command::new("ovsdb-tool").arg("create").arg(&file).arg("/usr/share/ovn/ovn-nb.ovsschema").status();
    assert!(made.unwrap().success());
    let before = std::fs::read(&file).unwrap();
    host.start();
    // The other database is served all the same; and what is left when the test ends is known.
    let state = host.until("a problem of one", |state| state.nb.problem.is_some() && state.sb.pid.is_some());
    let problem = state.nb.problem.unwrap();
    assert!(problem.contains("ovnnb_db.db belongs to no cluster") && problem.contains("create-cluster"), "{problem}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let unhealthy = ask(&host.path("central.sock"), "GET", "/healthz").unwrap_err().to_string();
    assert!(unhealthy.contains("belongs to no cluster"), "{unhealthy}");
}

#[tokio::test]
async fn copies_are_made_kept_in_number_and_can_be_served() {
    let (_network, netns) = Network::new().await;
    let mut host = Host::new(&netns, |config, folder| {
        config.backups = Some(Backups { folder: folder.join("copies"), interval: Duration::from_millis(600), keep: 2 });
    });
    host.start();
    host.until("ready", State::is_ready);
    host.nbctl(&["ls-add", "a"]);
    let folder = host.path("copies");
    let copies = |prefix: &str| {
        let names = std::fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix) && name.ends_with(".db")).collect();
        names.sort_unstable();
        names
    };
    // Some copies later, those with the switch are all that is left.
    eventually("two copies, the newer with the switch", || {
        let all = copies("ovnnb_db-");
        assert!(all.len() <= 3, "{all:?}");
        let newest = all.last().map(|name| std::fs::read_to_string(folder.join(name)).unwrap_or_default());
        if all.len() == 2 && newest.is_some_and(|text| text.contains("\"a\"")) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    assert!(!copies("ovnsb_db-").is_empty());
    host.stop();
    let newest = folder.join(copies("ovnnb_db-").pop().unwrap());
    let query = r#"["OVN_Northbound",{"op":"select","table":"Logical_Switch","where":[],"columns":["name"]}]"#;
    let out = Command::new("ovsdb-tool").arg("query").arg(newest).arg(query).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), r#"[{"rows":[{"name":"a"}]}]"#);
}
