//! The embedded server beside a real `kube-apiserver`: the same requests to both, and answers that are alike.
//!
//! A script in `tests/compare/` opens with a sentence that says what it shows. A step is a remark (`# `), by which it is
//! known, a request (`METHOD path`, and for patches `json`, `merge`, `strategic` or `apply`), a body in YAML, and perhaps
//! `KEEP name`, by which later steps say `$name` and mean the version that this one answered. `$rv`, `$uid` and `$continue`
//! are the last that were answered. Whatever differs from run to run is left out of the comparison.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod real;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt as _;
use kube::Client;
use real::RealServer;
use regex::Regex;
use serde_json::{Value, json};

/// Steps whose answers differ, and why that may be: script, remark, reason.
const KNOWN: &[(&str, &str, &str)] = &[];

/// What the real server fills in and the embedded one leaves out, and why that may be.
const UNFILLED: &[(&str, &str)] = &[];

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

#[derive(Debug, Default)]
struct Step {
    remark: String,
    method: String,
    path: String,
    media: String,
    body: String,
    keep: Option<String>,
}

fn steps(script: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in script.lines() {
        if let Some(remark) = line.strip_prefix("# ") {
            assert!(steps.iter().all(|step| step.remark != remark), "two steps are remarked {remark:?}");
            steps.push(Step { remark: remark.to_owned(), ..Step::default() });
            continue;
        }
        let Some(step) = steps.last_mut() else { continue };
        if step.method.is_empty() {
            let mut words = line.split(' ').map(str::to_owned);
            step.method = words.next().unwrap();
            step.path = words.next().unwrap_or_else(|| panic!("{line:?} is no request"));
            step.media = words.next().unwrap_or_default();
        } else if let Some(name) = line.strip_prefix("KEEP ") {
            step.keep = Some(name.to_owned());
        } else {
            writeln!(step.body, "{line}").unwrap();
        }
    }
    steps
}

/// One of the two servers, and what it answered so far.
struct Side {
    client: Client,
    kept: BTreeMap<String, String>,
}

impl Side {
    fn new(client: Client) -> Self {
        Self { client, kept: BTreeMap::new() }
    }

    fn fill(&self, text: &str) -> String {
        // A longer name first, which may begin as a shorter one does.
        self.kept.iter().rev().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
    }

    /// Status, warnings, and the objects of the answer: several of a watch.
    async fn answer(&mut self, step: &Step) -> Value {
        let media = match step.media.as_str() {
            "" => "application/json",
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            "apply" => "application/apply-patch+yaml",
            other => other,
        };
        let body = self.fill(step.body.trim());
        let body = if body.is_empty() { Vec::new() } else { serde_json::to_vec(&serde_norway::from_str::<Value>(&body).unwrap()).unwrap() };
        let request = http::Request::builder().method(step.method.as_str()).uri(self.fill(&step.path));
        let request = request.header("content-type", media).header("user-agent", "comparison/1").body(kube::client::Body::from(body));
        let response = self.client.send(request.unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let warnings: Vec<_> = head.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
        let bytes = body.collect().await.unwrap().to_bytes();
        let mut objects: Vec<Value> = serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap_or_else(|_| vec![json!(&*String::from_utf8_lossy(&bytes))]);
        if let Some(metadata) = objects.last().map(|object| object["metadata"].clone()) {
            for (name, field) in [("rv", "resourceVersion"), ("uid", "uid"), ("continue", "continue")] {
                if let Some(value) = metadata[field].as_str() {
                    self.kept.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        if let Some(name) = &step.keep {
            self.kept.insert(name.clone(), self.kept["rv"].clone());
        }
        objects.iter_mut().for_each(settle);
        json!({ "code": head.status.as_u16(), "warnings": warnings, "objects": objects })
    }
}

/// Leaves out what differs from run to run.
fn settle(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields.iter_mut() {
                match (field.as_str(), &mut *value) {
                    ("resourceVersion" | "continue", Value::String(text)) if !text.is_empty() => *text = format!("<{field}>"),
                    ("managedFields", Value::Array(entries)) => {
                        entries.iter_mut().for_each(settle);
                        entries.sort_by_key(ToString::to_string);
                    }
                    _ => settle(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::String(text) => {
            for (pattern, with) in [
                (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uid>"),
                (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", "<time>"),
                (r"too old resource version: \d+ \(\d+\)", "too old resource version: <version>"),
                (r"^(generated-)[a-z0-9]{5}$", "$1<suffix>"),
            ] {
                *text = Regex::new(pattern).unwrap().replace_all(text, with).into_owned();
            }
        }
        _ => {}
    }
}

/// Where two answers differ, a line each.
fn differences(path: &str, embedded: &Value, real: &Value, found: &mut Vec<String>) {
    match (embedded, real) {
        (Value::Object(a), Value::Object(b)) => {
            for field in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let of = |object: &serde_json::Map<String, Value>| object.get(field).cloned().unwrap_or_default();
                let path = format!("{path}.{field}");
                if a.contains_key(field) || !is_unfilled(&path) {
                    differences(&path, &of(a), &of(b), found);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{at}]"), a, b, found);
            }
        }
        _ if embedded == real => {}
        _ => found.push(format!("{path}\n        embedded: {embedded}\n        real:     {real}")),
    }
}

/// Whether the field is one that only the real server fills in, or one by which it says who owns such a field.
fn is_unfilled(path: &str) -> bool {
    let path = Regex::new(r#"\[\d+\]|f:|\.k:\{[^}]*\}"#).unwrap().replace_all(path, "");
    UNFILLED.iter().any(|(field, _)| path.ends_with(field))
}

/// Both servers; `None`, and said so, where there is no real one to compare with.
async fn both() -> Option<(Side, Side, RealServer)> {
    let Some(programs) = real::programs() else {
        // Past the capture of what passing tests print.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {} names no real API server; `make test-kube` does", real::PROGRAMS);
        return None;
    };
    let real = RealServer::start(&programs).await;
    let embedded = apiserver::Server::open(None).unwrap().client();
    Some((Side::new(embedded), Side::new(real.client.clone()), real))
}

/// Sends a script to both, and says all that differs and is not known to.
async fn compare(name: &str, script: &str, (embedded, real): (&mut Side, &mut Side)) {
    let mut report = String::new();
    let steps = steps(script);
    for step in &steps {
        let (ours, theirs) = (embedded.answer(step).await, real.answer(step).await);
        let mut found = Vec::new();
        differences("", &ours, &theirs, &mut found);
        let known = KNOWN.iter().any(|(script, remark, _)| (*script, *remark) == (name, step.remark.as_str()));
        match (known, found.as_slice()) {
            (true, []) => writeln!(report, "\n# {}\n    is known to differ, and does not", step.remark).unwrap(),
            (false, [_, ..]) => {
                writeln!(report, "\n# {}\n{} {}", step.remark, step.method, step.path).unwrap();
                found.iter().for_each(|line| writeln!(report, "    {line}").unwrap());
            }
            _ => {}
        }
    }
    assert!(report.is_empty(), "{name}: the two servers differ:\n{report}");
}

async fn script(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/compare").join(format!("{name}.txt"));
    let script = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let Some((mut embedded, mut real, _server)) = both().await else { return };
    serve(&mut embedded, &mut real).await;
    compare(name, &script, (&mut embedded, &mut real)).await;
}

/// Makes both serve the kinds `Vpc` and `Subnet`.
async fn serve(embedded: &mut Side, real: &mut Side) {
    for side in [embedded, real] {
        for crd in api::v1::crds() {
            let name = crd.metadata.name.clone().unwrap();
            if matches!(name.as_str(), "vpcs.kubeovn.io" | "subnets.kubeovn.io" | "vips.kubeovn.io") {
                create_definition(&side.client, &serde_json::to_value(&crd).unwrap()).await;
            }
        }
    }
}

async fn create_definition(client: &Client, definition: &Value) {
    let crds =
        kube::Api::<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>::all(client.clone());
    crds.create(&kube::api::PostParams::default(), &serde_json::from_value(definition.clone()).unwrap()).await.unwrap();
    established(client, definition["metadata"]["name"].as_str().unwrap()).await;
}

async fn established(client: &Client, name: &str) {
    let crds =
        kube::Api::<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>::all(client.clone());
    let served = kube::runtime::wait::await_condition(crds, name, kube::runtime::conditions::is_crd_established());
    tokio::time::timeout(std::time::Duration::from_secs(20), served).await.expect("the kind is served").unwrap();
}

/// What is to be created: a remark, the path, and the object.
fn creation(remark: &str, path: &str, object: &Value) -> String {
    format!("# {remark}\nPOST {path}?fieldValidation=Strict\n{}\n", serde_norway::to_string(object).unwrap())
}

fn documents(folder: &str) -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for document in serde_norway::Deserializer::from_str(&std::fs::read_to_string(&file).unwrap()) {
            let object: Value = serde::Deserialize::deserialize(document).unwrap();
            found.push((name.clone(), object));
        }
    }
    found
}

#[tokio::test]
async fn definitions_and_manifests() {
    let Some((mut embedded, mut real, _server)) = both().await else { return };
    let definitions = documents("deploy/crds");
    let mut script = String::new();
    for (file, definition) in &definitions {
        script += &creation(file, CRDS, definition);
    }
    compare("definitions", &script, (&mut embedded, &mut real)).await;
    let mut script = String::new();
    for (_, definition) in &definitions {
        let name = definition["metadata"]["name"].as_str().unwrap();
        established(&real.client, name).await;
    }
    for (_, definition) in &definitions {
        let name = definition["metadata"]["name"].as_str().unwrap();
        writeln!(script, "# {name}, established\nGET {CRDS}/{name}").unwrap();
    }
    for (file, object) in documents("examples") {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, name, namespace) = (text("/kind"), text("/metadata/name"), text("/metadata/namespace"));
        let plural = format!("{}s", kind.to_lowercase());
        let path = match kind {
            "Namespace" => "/api/v1/namespaces".to_owned(),
            "Pod" => format!("/api/v1/namespaces/{}/pods", if namespace.is_empty() { "default" } else { namespace }),
            _ => format!("/apis/{}/{plural}", text("/apiVersion")),
        };
        script += &creation(&format!("{file}: {kind} {namespace}/{name}"), &path, &object);
    }
    compare("manifests", &script, (&mut embedded, &mut real)).await;
}

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                script(&stringify!($name).replace('_', "-")).await;
            }
        )*

        #[test]
        fn every_script_is_compared_and_every_known_difference_is_in_one() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compare");
            let names = [$(stringify!($name).replace('_', "-")),*];
            for entry in std::fs::read_dir(&folder).unwrap() {
                let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
                assert!(names.contains(&name), "{name} is not compared");
            }
            for (name, remark, _) in KNOWN.iter().filter(|(name, ..)| !matches!(*name, "definitions" | "manifests")) {
                let script = std::fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap();
                assert!(steps(&script).iter().any(|step| step.remark == *remark), "{name} has no step {remark:?}");
            }
        }
    };
}

scripts! {
    apply
    custom_kinds
    objects
    selectors_and_pages
    watches
}
