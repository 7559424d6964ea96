//! A real `kube-apiserver` with an `etcd` of its own, on loopback, for tests of what must hold with it as with the embedded
//! server. `make test-kube` builds the two programs and names their folder in the variable [`PROGRAMS`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use tokio::net::TcpSocket;

/// The variable that names the folder of `etcd` and `kube-apiserver`.
pub const PROGRAMS: &str = "FERROVIA_KUBE";

/// How long it may take until the server is ready: it usually takes 5 s, and other tests start theirs meanwhile.
const PATIENCE: Duration = Duration::from_secs(90);

const TOKEN: &str = "secret";

/// Waits until a kind is served: some instants after it is called established, as a real server itself learns of that from a watch.
pub async fn served(client: &Client, definition: &str) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let found = await_condition(definitions, definition, is_crd_established()).await.unwrap().unwrap();
    let spec = found.spec;
    let path = format!("/apis/{}/{}/{}?limit=1", spec.group, spec.versions[0].name, spec.names.plural);
    while client.request_text(http::Request::get(&path).body(Vec::new()).unwrap()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The folder of the programs, if tests are to use them.
pub fn programs() -> Option<PathBuf> {
    std::env::var_os(PROGRAMS).map(PathBuf::from)
}

/// Dropped, both programs are killed and their data is gone.
pub struct RealServer {
    pub client: Client,
    _server: Process,
    _etcd: Process,
    // Keeps the port ours: bound, and never listening, so that every connection goes to the server.
    _port: TcpSocket,
    folder: tempfile::TempDir,
}

impl RealServer {
    /// Started from the test's own thread: the programs end with the thread that started them, however that ends.
    pub async fn start(programs: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();

        // Nobody connects to what it advertises: it is alone. The socket for peers has a name that the system chooses.
        let mut etcd = Process::command(&programs.join("etcd"));
        etcd.arg(format!("--data-dir={}", path("etcd"))).args(["--unsafe-no-fsync", "--log-level=warn"]);
        etcd.arg(format!("--listen-client-urls=unix://{}", path("etcd.sock"))).arg("--listen-peer-urls=unix://");
        etcd.arg("--advertise-client-urls=http://localhost:2379");
        let etcd = Process::start(etcd, folder.path().join("etcd.log"));

        let mut key = Command::new("openssl");
        key.args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]).arg(path("accounts.key"));
        assert!(key.stderr(Stdio::null()).status().expect("openssl is installed").success());
        std::fs::write(folder.path().join("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();

        let port = TcpSocket::new_v4().unwrap();
        port.set_reuseport(true).unwrap();
        port.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.local_addr().unwrap();

        let mut server = Process::command(&programs.join("kube-apiserver"));
        server.arg(format!("--etcd-servers=unix://{}", path("etcd.sock")));
        server.args(["--bind-address=127.0.0.1", "--permit-port-sharing"]).arg(format!("--secure-port={}", address.port()));
        server.arg(format!("--cert-dir={}", path("certificates")));
        server.arg(format!("--token-auth-file={}", path("tokens.csv")));
        server.arg("--service-account-issuer=https://kubernetes.default.svc");
        server.arg(format!("--service-account-key-file={}", path("accounts.key")));
        server.arg(format!("--service-account-signing-key-file={}", path("accounts.key")));
        server.arg("--service-cluster-ip-range=10.96.0.0/16");
        // The service `kubernetes` may not have an endpoint on loopback; nobody uses it.
        server.args(["--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"]);
        // Nothing here makes service accounts, without which every pod would be refused.
        server.args(["--disable-admission-plugins=ServiceAccount", "--enable-priority-and-fairness=false"]);
        let server = Process::start(server, folder.path().join("kube-apiserver.log"));

        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "real",
            "clusters": [{ "name": "real", "cluster": {
                "server": format!("https://{address}"), "certificate-authority": path("certificates/apiserver.crt"),
            }}],
            "users": [{ "name": "admin", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "real", "context": { "cluster": "real", "user": "admin" } }],
        });
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let client = ready(&folder.path().join("kubeconfig"), [&etcd, &server]).await;
        Self { client, _server: server, _etcd: etcd, _port: port, folder }
    }

    #[allow(dead_code, reason = "only some of the programs that include this file use it")]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }
}

/// A client, once the server has started and made the namespaces that it starts with.
async fn ready(kubeconfig: &Path, processes: [&Process; 2]) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = match connect(kubeconfig).await {
            Ok(client) => return client,
            Err(error) => error,
        };
        for process in processes {
            assert!(process.runs(), "it has ended:\n{}", process.told());
        }
        let [etcd, server] = processes.map(Process::told);
        assert!(Instant::now() < deadline, "the API server is not ready after {PATIENCE:?}: {last}\n{etcd}\n{server}");
        // What is waited for is another program, which sends no events.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let client = Client::try_from(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)?;
    for path in ["/readyz", "/api/v1/namespaces/default", "/api/v1/namespaces/kube-system"] {
        client.request_text(http::Request::get(path).body(vec![])?).await?;
    }
    Ok(client)
}

/// Killed when dropped, and when the thread that started it ends.
struct Process {
    child: std::sync::Mutex<Child>,
    log: PathBuf,
}

impl Process {
    fn command(program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    fn start(mut command: Command, log: PathBuf) -> Self {
        let file = File::create(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn();
        Self { child: std::sync::Mutex::new(child.expect("setpriv, of util-linux, is installed")), log }
    }

    fn runs(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_none()
    }

    /// The end of its log.
    fn told(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap();
        let lines: Vec<_> = text.lines().collect();
        format!("{}:\n{}", self.log.display(), lines[lines.len().saturating_sub(20)..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}
