//! A recorded session with the real `kubectl`: scripts in `tests/session/`, replayed against a server of their own.
//!
//! A script opens with a sentence that says what it shows. `$ ` begins a command for bash, `> ` continues it; its output
//! follows, lines of stderr after `! `, and `(exit status N)` if it failed. `# ` is a remark. What differs from run to run is
//! shown as `<uid 1>`, `<version>`, `<time>`, `<address>` and `Ns`. `UPDATE_GOLDEN=1` records what is printed now.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use regex::{Captures, Regex};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// Shell functions for scripts. `during CHANGES LINES COMMAND…` starts a command that does not end by itself, makes the changes
/// once it has printed something, and ends it after so many lines.
const PRELUDE: &str = r#"
during() {
    local changes=$1 lines=$2 line pid; shift 2
    exec 3< <(exec "$@"); pid=$!
    IFS= read -r line <&3; echo "$line"
    eval "$changes" >&2
    while ((--lines)) && IFS= read -r line <&3; do echo "$line"; done
    kill $pid; wait $pid 2>/dev/null
    exec 3<&-
}
"#;

/// Seconds that one command may take.
const DEADLINE: &str = "60";

struct Cluster {
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Cluster {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let basic = format!("http://{}:secret@{address}", apiserver::USER);
        for (file, server) in [("config", basic), ("token-in-path", format!("http://{address}/token/secret"))] {
            let kubeconfig = serde_json::json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "lab",
                "clusters": [{ "name": "lab", "cluster": { "server": server } }],
                "contexts": [{ "name": "lab", "context": { "cluster": "lab" } }],
            });
            std::fs::write(folder.path().join(file), kubeconfig.to_string()).unwrap();
        }
        let crds: Vec<_> = api::v1::crds().iter().map(|crd| serde_norway::to_string(crd).unwrap()).collect();
        std::fs::write(folder.path().join("crds.yaml"), crds.join("---\n")).unwrap();
        let shutdown = CancellationToken::new();
        let config = apiserver::Config { data: None, token: "secret".into(), listeners: vec![listener], listen: vec![] };
        let serving = tokio::spawn(apiserver::run(config, shutdown.clone()));
        Self { folder, shutdown, serving }
    }

    /// What a command prints, as a script shows it.
    async fn run(&self, command: &str) -> String {
        // `timeout` ends what the command started, too.
        let mut shell = Command::new("timeout");
        shell.args(["--kill-after=1", DEADLINE, "bash", "-c", &format!("{PRELUDE}{command}")]);
        shell.env("KUBECONFIG", self.folder.path().join("config")).env("HOME", self.folder.path()).env("TMPDIR", self.folder.path());
        shell.current_dir(self.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
        let output = shell.output().await.expect("bash and timeout are installed");
        let mut shown = String::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let escape = if ["$ ", "> ", "# ", "! ", "("].iter().any(|mark| line.starts_with(mark)) { "\\" } else { "" };
            writeln!(shown, "{escape}{line}").unwrap();
        }
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            writeln!(shown, "! {line}").unwrap();
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => writeln!(shown, "(exit status {code})").unwrap(),
            None => writeln!(shown, "(killed)").unwrap(),
        }
        shown
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

/// Replaces what differs from run to run.
#[derive(Default)]
struct Placeholders {
    uids: Vec<String>,
}

impl Placeholders {
    fn fill(&mut self, text: &str) -> String {
        let replace = |pattern: &str, with: &str, text: &str| Regex::new(pattern).unwrap().replace_all(text, with).into_owned();
        let text =
            Regex::new(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap().replace_all(text, |found: &Captures| {
                let at = self.uids.iter().position(|uid| *uid == found[0]).unwrap_or_else(|| {
                    self.uids.push(found[0].to_owned());
                    self.uids.len() - 1
                });
                format!("<uid {}>", at + 1)
            });
        let text = replace(r#"((?:resourceVersion|Resource Version)"?: *"?)\d+"#, "$1<version>", &text);
        let text = replace(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", "<time>", &text);
        let text = replace(r"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} [+-]\d{4}", "<time>", &text);
        let text = replace(r"127\.0\.0\.1:\d+", "<address>", &text);
        // Blanks fill a column up: as many are taken as the age needed.
        let ages = Regex::new(r"\b\d{1,2}s( *)").unwrap();
        let age = |found: &Captures| if found[1].is_empty() { "Ns".to_owned() } else { format!("{:<1$}", "Ns", found[0].len()) };
        ages.replace_all(&text, age).into_owned()
    }
}

/// The script with what its commands print now.
async fn replay(cluster: &Cluster, script: &str) -> String {
    let (mut played, mut placeholders) = (String::new(), Placeholders::default());
    let mut lines = script.lines().peekable();
    let mut opening = true;
    while let Some(line) = lines.next() {
        if let Some(first) = line.strip_prefix("$ ") {
            opening = false;
            let mut command = first.to_owned();
            writeln!(played, "\n{line}").unwrap();
            while let Some(more) = lines.next_if(|line| line.starts_with("> ") || *line == ">") {
                command.push('\n');
                command.push_str(more.strip_prefix("> ").unwrap_or_default());
                writeln!(played, "{more}").unwrap();
            }
            played.push_str(&placeholders.fill(&cluster.run(&command).await));
        } else if line.starts_with("# ") {
            opening = false;
            writeln!(played, "\n{line}").unwrap();
            while let Some(more) = lines.next_if(|line| line.starts_with("# ")) {
                writeln!(played, "{more}").unwrap();
            }
        } else if opening && !line.is_empty() {
            writeln!(played, "{line}").unwrap();
        }
    }
    played
}

async fn session(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/session").join(format!("{name}.txt"));
    let script = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(!script.starts_with(['$', '#', '\n']), "{name}: a script opens with a sentence that says what it shows");
    let cluster = Cluster::start();
    let played = replay(&cluster, &script).await;
    cluster.stop().await;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, played).unwrap();
    } else if played != script {
        panic!("{} differs; UPDATE_GOLDEN=1 records it anew\n{}", path.display(), difference(&script, &played));
    }
}

/// The first lines that differ, with the command that printed them.
fn difference(wanted: &str, found: &str) -> String {
    let (wanted, found): (Vec<_>, Vec<_>) = (wanted.lines().collect(), found.lines().collect());
    let at = wanted.iter().zip(&found).position(|(a, b)| a != b).unwrap_or(wanted.len().min(found.len()));
    let command = found[..at].iter().rev().find(|line| line.starts_with("$ ")).copied().unwrap_or_default();
    let part = |lines: &[&str]| lines.iter().skip(at).take(12).map(|line| format!("    {line}\n")).collect::<String>();
    format!("after {command}\nrecorded:\n{}now:\n{}", part(&wanted), part(&found))
}

macro_rules! sessions {
    ($($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                session(&stringify!($name).replace('_', "-")).await;
            }
        )*

        #[test]
        fn every_script_is_replayed() {
            let names = [$(stringify!($name).replace('_', "-")),*];
            for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/session")).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                assert!(names.contains(&name), "{} is not replayed", path.display());
            }
        }
    };
}

sessions! {
    annotate_and_label
    apply
    create
    custom_kinds
    delete_and_garbage_collection
    describe
    discovery
    edit
    errors
    events
    explain
    get
    namespaces
    paging
    patch_and_replace
    redirected_verbs
    selectors
    server_side_apply
    validation
    wait_and_watch
}
