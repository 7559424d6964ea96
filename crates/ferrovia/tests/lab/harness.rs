//! A lab for one test. Labs run one at a time, so that two cores suffice, and are gone when the test ends.

use std::io::{BufRead as _, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::JoinHandle;

use ovsdb::{Event, Options, Remote, connect};
use ovsdb_types::{Monitored, Replica, nb, vswitch};
use serde_json::{Value, json};
use tokio::sync::oneshot;

const FERROVIA: &str = env!("CARGO_BIN_EXE_ferrovia");

/// The provider network of the second NIC of all nodes, where [`lab::Vlans`] are.
pub const NET1: &str = "
---
apiVersion: kubeovn.io/v1
kind: ProviderNetwork
metadata: {name: net1}
spec: {defaultInterface: eth1}
";

/// The Vlan of gateways and host there.
pub const VLAN100: &str = "
---
apiVersion: kubeovn.io/v1
kind: Vlan
metadata: {name: vlan100}
spec: {id: 100, provider: net1}
";

/// A subnet on it, with the first gateway.
pub const LAN: &str = "
---
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: {name: lan}
spec: {cidrBlock: 172.31.0.0/24, gateway: 172.31.0.1, excludeIps: [172.31.0.1..172.31.0.9], vlan: vlan100}
";

/// Of each component of a lab whose test fails.
const WARNINGS_TOLD: usize = 12;

static ONE_TEST_AT_A_TIME: Mutex<()> = Mutex::new(());
static TELLS: Once = Once::new();
static LABS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Held by the thread of the test that has labs: the first lab takes it, and the thread's end gives it back.
    static TURN: std::cell::OnceCell<MutexGuard<'static, ()>> = const { std::cell::OnceCell::new() };
}

/// A lab that is up.
pub struct Lab {
    name: String,
}

/// The folder of examples.
pub fn example() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").display().to_string()
}

/// One of the examples.
pub fn example_file(name: &str) -> String {
    format!("{}/{name}", example())
}

/// A pod in the namespace `default`, of one container without a command.
pub fn pod(name: &str, node: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default", "annotations": annotations },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "none" }] },
    })
}

/// Runs `ferrovia`: its output, its errors and its exit status.
pub fn ferrovia(arguments: &[&str]) -> (String, String, Option<i32>) {
    let Output { status, stdout, stderr } = Command::new(FERROVIA).args(arguments).output().unwrap();
    (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned(), status.code())
}

/// Whether anything of a lab is still there.
pub fn left_over(name: &str) -> bool {
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let namespace = namespaces.into_iter().any(|e| e.file_name().to_string_lossy().starts_with(&format!("fv-{name}-")));
    let entry = format!("FERROVIA_LAB={name}");
    namespace || Path::new("/run/ferrovia").join(name).exists() || !linux::process::with_environment(&entry).is_empty()
}

/// The last warnings and errors of each component of a lab, as they stand in its log.
fn warned(lab: &Path) -> String {
    let files = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let mut logs: Vec<PathBuf> =
        files(lab).iter().flat_map(|place| files(place)).filter(|path| path.extension() == Some("log".as_ref())).collect();
    logs.sort();
    let of = |log: PathBuf| {
        let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
        let is_one = |line: &&str| [" WARN ", " ERROR ", "|WARN|", "|ERR|", "|EMER|", "panicked"].iter().any(|level| line.contains(level));
        let mut last: Vec<&str> = text.lines().rev().filter(is_one).take(WARNINGS_TOLD).collect();
        last.reverse();
        last.iter().map(|line| format!("{}: {line}\n", log.strip_prefix(lab).unwrap_or(&log).display())).collect::<String>()
    };
    logs.into_iter().map(of).collect()
}

impl Lab {
    /// Brings a lab up.
    pub fn up(arguments: &[&str]) -> Self {
        // A failure is told in the moment that it happens, beside what the lab's components say, and not at the end only.
        TELLS.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let _ = writeln!(std::io::stderr(), "{panic}");
                usual(panic);
            }));
        });
        TURN.with(|turn| {
            turn.get_or_init(|| ONE_TEST_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
        });
        let name = format!("t{}x{}", std::process::id() % 100_000, LABS.fetch_add(1, Ordering::Relaxed));
        let lab = Self { name };
        lab.ok(&[&["up"][..], arguments].concat());
        lab
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn layout(&self) -> lab::Layout {
        lab::Layout::new("/run/ferrovia", self.name.parse().unwrap())
    }

    pub fn folder(&self) -> PathBuf {
        Path::new("/run/ferrovia").join(&self.name)
    }

    fn arguments<'a>(&'a self, verb: &[&'a str]) -> Vec<&'a str> {
        [&["lab", verb[0], "--name", self.name.as_str()][..], &verb[1..]].concat()
    }

    /// Runs `ferrovia lab VERB --name … ARGUMENTS`, which must succeed; returns its output.
    pub fn ok(&self, verb: &[&str]) -> String {
        let (stdout, stderr, code) = ferrovia(&self.arguments(verb));
        assert_eq!(code, Some(0), "{verb:?}\n{stdout}\n{stderr}");
        stdout
    }

    /// Runs `ovn-nbctl` where the northbound database is; returns its output.
    pub fn nb(&self, words: &[&str]) -> String {
        self.ok(&[&["node", "central", "--", "ovn-nbctl"], words].concat())
    }

    /// Starts a verb beside the test.
    pub fn start(&self, verb: &[&str]) -> Running {
        Running(Command::new(FERROVIA).args(self.arguments(verb)).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn kubectl_with(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut command = Command::new("kubectl");
        command.arg(format!("--kubeconfig={}", self.folder().join("kubeconfig").display()));
        command.arg(format!("--cache-dir={}", self.folder().join("kubectl-cache").display()));
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs kubectl, which must succeed; returns its output.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let out = self.kubectl_with(arguments, "");
        assert!(out.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Applies a manifest with kubectl.
    pub fn apply(&self, manifest: &str) {
        let out = self.kubectl_with(&["apply", "-f", "-"], manifest);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// Applies a manifest that must be refused; returns what kubectl says.
    pub fn apply_refused(&self, manifest: &str) -> String {
        let out = self.kubectl_with(&["apply", "-f", "-"], manifest);
        assert!(!out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8(out.stderr).unwrap()
    }

    /// What the events of an object say.
    pub fn events(&self, kind: &str, name: &str) -> String {
        let of = format!("--field-selector=involvedObject.kind={kind},involvedObject.name={name}");
        self.kubectl(&["get", "events", "-A", &of, "-o", "jsonpath={.items[*].message}"])
    }

    /// Runs `lab check`, in which everything must come out as expected, and no pod be left out; returns the checks.
    pub fn checked(&self) -> Vec<Value> {
        let checked: Value = serde_json::from_str(&self.ok(&["check", "-o", "json"])).unwrap();
        let checks = checked["pairs"].as_array().unwrap();
        let differing: Vec<&Value> = checks.iter().filter(|check| check["expected"] != check["observed"]).collect();
        assert!(differing.is_empty() && checked["skipped"] == json!([]), "{differing:#?} {}", checked["skipped"]);
        checks.clone()
    }

    /// Counts, from now until [`counted`], the changes in a database of the lab of what we write there.
    pub fn writes(&self, place: &str, socket: &str) -> Counting {
        let monitored = match socket {
            // `ovn-northd` writes to columns of its own, such as `up`.
            "nb" => {
                let ours = topology::northbound::ownership().into_iter().map(|own| {
                    let mut columns = [own.columns, own.members].concat();
                    columns.sort_unstable();
                    (own.table, columns)
                });
                Monitored { schema: &nb::SCHEMA, tables: ours.collect() }
            }
            // `ovs-vswitchd` keeps statistics in its tables by itself: what others write to are these.
            _ => Monitored {
                schema: &vswitch::SCHEMA,
                tables: vec![
                    (vswitch::bridge::TABLE, vec![vswitch::bridge::PORTS.index]),
                    (vswitch::interface::TABLE, vec![vswitch::interface::EXTERNAL_IDS.index, vswitch::interface::NAME.index]),
                    (vswitch::port::TABLE, vec![vswitch::port::INTERFACES.index, vswitch::port::NAME.index]),
                ],
            },
        };
        let file = if socket == "nb" { "ovnnb_db.sock".to_owned() } else { format!("{socket}.sock") };
        let remote = Remote::Unix(self.folder().join(place).join(file));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let (_client, mut events, driver) = connect(Options::new(remote, monitored.clone()));
                let task = tokio::spawn(driver.run());
                let mut replica = Replica::new(monitored, vec![]);
                let mut changes = 0;
                loop {
                    let event = tokio::select! {
                        event = events.recv() => event,
                        _ = &mut stopped => break,
                    };
                    match event {
                        Some(Event::Snapshot(monitored, snapshot)) => {
                            replica.replace(monitored, snapshot).unwrap();
                            ready.send(()).unwrap();
                        }
                        Some(Event::Updates(updates)) => changes += replica.apply(updates).unwrap().len(),
                        Some(Event::Status(_)) => {}
                        Some(Event::Disconnected(why)) => panic!("{why}"),
                        None => break,
                    }
                }
                task.abort();
                changes
            })
        });
        is_ready.recv_timeout(std::time::Duration::from_secs(10)).expect("the database answers");
        Counting { stop, thread }
    }

    /// Takes the lab down.
    pub fn down(self) {
        self.ok(&["down"]);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = ferrovia(&["lab", "status", "--name", &self.name]).0;
            eprintln!("lab {} as the test left it:\n{status}\n{}", self.name, warned(&self.folder()));
        }
        let (_, stderr, code) = ferrovia(&["lab", "down", "--name", &self.name]);
        if code != Some(0) {
            eprintln!("lab {} cannot be taken down: {stderr}", self.name);
        }
    }
}

/// A command that runs beside the test.
pub struct Running(Child);

impl Running {
    /// Its output, line by line, as it comes.
    pub fn lines(&mut self) -> impl Iterator<Item = String> {
        BufReader::new(self.0.stdout.take().expect("piped, and taken once")).lines().map(Result::unwrap)
    }

    /// Waits for its end, whatever that is.
    pub fn ended(mut self) {
        self.0.wait().unwrap();
    }

    /// Its output, once it has ended well.
    pub fn wait(self) -> String {
        let out = self.0.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8(out.stdout).unwrap()
    }
}

/// A count under way.
pub struct Counting {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<usize>,
}

/// Row changes since the count began.
pub fn counted(counting: Counting) -> usize {
    let _ = counting.stop.send(());
    counting.thread.join().unwrap()
}
