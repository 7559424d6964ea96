//! The real `kubectl` over HTTP on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

struct Cluster {
    folder: tempfile::TempDir,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Cluster {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{ "name": "lab", "cluster": { "server": format!("http://{}:secret@{address}", apiserver::USER) } }],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab" } }],
        });
        std::fs::write(folder.path().join("config"), kubeconfig.to_string()).unwrap();
        let shutdown = CancellationToken::new();
        let config = apiserver::Config { data: None, token: "secret".into(), listeners: vec![listener], listen: vec![] };
        let serving = tokio::spawn(apiserver::run(config, shutdown.clone()));
        Self { folder, address, shutdown, serving }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let path = |name: &str| Path::join(self.folder.path(), name).into_os_string();
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(path("config")).arg("--cache-dir").arg(path("cache")).args(arguments);
        command.env_remove("KUBECONFIG").env("HOME", self.folder.path()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Output and whether it succeeded.
    async fn kubectl(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = self.command(arguments).spawn().expect("kubectl is installed");
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = tokio::time::timeout(std::time::Duration::from_secs(20), child.wait_with_output());
        let output = output.await.unwrap_or_else(|_| panic!("kubectl {arguments:?} did not end")).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    async fn ok(&self, arguments: &[&str], input: &str) -> String {
        let (success, text) = self.kubectl(arguments, input).await;
        assert!(success, "kubectl {arguments:?}: {text}");
        text
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
    }
}

fn crds() -> String {
    let documents: Vec<_> = api::v1::crds().iter().map(|crd| serde_norway::to_string(crd).unwrap()).collect();
    documents.join("---\n")
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: web, labels: { app: web } }
spec:
  containers:
  - { name: main, image: busybox, ports: [{ containerPort: 80 }] }
";

const SUBNET: &str = "
apiVersion: kubeovn.io/v1
kind: Subnet
metadata: { name: blue }
spec: { cidrBlock: 10.66.0.0/16, gateway: 10.66.0.1 }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_with_pods_and_subnets() {
    let cluster = Cluster::start();
    let printed = cluster.ok(&["apply", "-f", "-"], &crds()).await;
    assert!(printed.contains("customresourcedefinition.apiextensions.k8s.io/subnets.kubeovn.io created"), "{printed}");
    cluster.ok(&["wait", "--for=condition=Established", "crd/subnets.kubeovn.io", "--timeout=5s"], "").await;

    let both = format!("{POD}---{SUBNET}");
    let printed = cluster.ok(&["apply", "-f", "-"], &both).await;
    assert!(printed.contains("pod/web created") && printed.contains("subnet.kubeovn.io/blue created"), "{printed}");
    let printed = cluster.ok(&["apply", "-f", "-"], &both).await;
    assert!(printed.contains("pod/web unchanged") && printed.contains("subnet.kubeovn.io/blue unchanged"), "{printed}");
    let printed = cluster.ok(&["apply", "-f", "-"], &POD.replace("busybox", "other")).await;
    assert!(printed.contains("pod/web configured"), "{printed}");
    let printed = cluster.ok(&["get", "pod", "web", "-o", "jsonpath={.spec.containers[0].image}"], "").await;
    assert_eq!(printed, "other");

    let printed = cluster.ok(&["get", "pods,subnets"], "").await;
    assert!(printed.contains("NAME      READY   STATUS    RESTARTS   AGE"), "{printed}");
    assert!(printed.contains("10.66.0.0/16"), "{printed}");
    let (success, printed) = cluster.kubectl(&["apply", "-f", "-"], &SUBNET.replace("10.66.0.0/16", "banana")).await;
    assert!(!success && printed.contains("spec.cidrBlock: Invalid value: \"banana\": must be a CIDR"), "{printed}");

    cluster.ok(&["label", "pod", "web", "tier=front"], "").await;
    cluster.ok(&["patch", "pod", "web", "-p", "{\"metadata\":{\"annotations\":{\"a\":\"b\"}}}"], "").await;
    cluster.ok(&["patch", "pod", "web", "--subresource=status", "--type=merge", "-p", "{\"status\":{\"phase\":\"Running\"}}"], "").await;
    cluster.ok(&["wait", "pod/web", "--for=jsonpath={.status.phase}=Running", "--timeout=5s"], "").await;
    let pod: Value = serde_json::from_str(&cluster.ok(&["get", "pod", "web", "-o", "json"], "").await).unwrap();
    assert_eq!((pod["metadata"]["labels"]["tier"].as_str(), pod["metadata"]["annotations"]["a"].as_str()), (Some("front"), Some("b")));
    assert!(cluster.ok(&["get", "pods", "-A", "-l", "tier=front", "-o", "name"], "").await.contains("pod/web"));
    assert!(cluster.ok(&["describe", "pod", "web"], "").await.contains("busybox") || pod["spec"]["containers"][0]["image"] == "other");
    cluster.ok(&["explain", "subnet.spec.cidrBlock"], "").await;
    assert!(cluster.ok(&["api-resources"], "").await.contains("subnets"));
    // kubectl sends this one as protobuf.
    cluster.ok(&["create", "namespace", "blue"], "").await;
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: m, namespace: blue }\ndata: { a: b }\n";
    cluster.ok(&["create", "-f", "-"], map).await;
    cluster.ok(&["delete", "namespace", "blue", "--timeout=10s"], "").await;
    cluster.ok(&["delete", "pod/web", "subnet/blue", "--timeout=10s"], "").await;
    assert!(cluster.ok(&["get", "pods"], "").await.contains("No resources found"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_on_the_server() {
    let cluster = Cluster::start();
    let map = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: m }}\ndata: {{ {data} }}\n");
    let apply = ["apply", "--server-side", "-f", "-"];
    assert_eq!(cluster.ok(&apply, &map("a: b")).await, "configmap/m serverside-applied\n");
    assert_eq!(cluster.ok(&apply, &map("a: b, c: d")).await, "configmap/m serverside-applied\n");
    let other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
    let (success, printed) = cluster.kubectl(&other, &map("a: x")).await;
    assert!(!success && printed.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .data.a"), "{printed}");
    cluster.ok(&["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-"], &map("a: x")).await;
    let shown = cluster.ok(&["get", "configmap", "m", "-o", "yaml", "--show-managed-fields"], "").await;
    assert!(shown.contains("manager: other") && shown.contains("f:a: {}") && shown.contains("manager: kubectl"), "{shown}");
    assert!(!cluster.ok(&["get", "configmap", "m", "-o", "yaml"], "").await.contains("managedFields"));
    // What it applied itself before, it takes over with all that it wanted then.
    let old = |data: &str| map(data).replace("name: m ", "name: old ");
    cluster.ok(&["apply", "-f", "-"], &old("a: b, gone: x")).await;
    cluster.ok(&apply, &old("a: c")).await;
    let taken = cluster.ok(&["get", "configmap", "old", "-o", "json", "--show-managed-fields"], "").await;
    let taken: Value = serde_json::from_str(&taken).unwrap();
    assert_eq!(taken["data"], serde_json::json!({ "a": "c" }), "{taken}");
    let managers: Vec<_> = taken["metadata"]["managedFields"].as_array().unwrap().iter().map(|entry| &entry["manager"]).collect();
    assert!(!managers.contains(&&serde_json::json!("kubectl-client-side-apply")), "{managers:?}");
    // A definition, an object of it, and a pod.
    cluster.ok(&apply, &crds()).await;
    cluster.ok(&["wait", "--for=condition=Established", "crd/subnets.kubeovn.io", "--timeout=5s"], "").await;
    cluster.ok(&apply, &format!("{POD}---{SUBNET}")).await;
    assert_eq!(
        cluster.ok(&apply, &format!("{POD}---{SUBNET}")).await,
        "pod/web serverside-applied\nsubnet.kubeovn.io/blue serverside-applied\n"
    );
    let tried = cluster.ok(&["apply", "--server-side", "--dry-run=server", "-f", "-"], SUBNET).await;
    assert_eq!(tried, "subnet.kubeovn.io/blue serverside-applied (server dry run)\n");
    let (success, printed) = cluster.kubectl(&apply, &SUBNET.replace("gateway", "gatewey")).await;
    assert!(!success && printed.contains(".spec.gatewey: field not declared in schema"), "{printed}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_and_a_public_address_are_refused() {
    let cluster = Cluster::start();
    let (success, printed) =
        cluster.kubectl(&["--server", &format!("http://{}:wrong@{}", apiserver::USER, cluster.address), "get", "pods"], "").await;
    assert!(!success && printed.contains("Unauthorized") || printed.contains("must be logged in"), "{printed}");
    let config = apiserver::Config { data: None, token: "t".into(), listeners: vec![], listen: vec!["0.0.0.0:0".parse().unwrap()] };
    let error = apiserver::run(config, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
    assert!(cluster.address.ip().is_loopback());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_open_watches() {
    let cluster = Cluster::start();
    let mut watching = cluster.command(&["get", "namespaces", "-w", "-o", "name"]);
    let mut child = watching.spawn().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("namespace/default"));
    cluster.stop().await;
    child.kill().await.unwrap();
}
