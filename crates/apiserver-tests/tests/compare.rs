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
const KNOWN: &[(&str, &str, &str)] = &[
    ("apply", "another manager shares", STAMP),
    ("apply", "an undeclared field", MISTAKE),
    ("apply", "several undeclared fields", MISTAKE),
    ("apply", "an undeclared field in what does not exist", MISTAKE),
    ("apply", "a wrong type", MISTAKE),
    ("apply", "another kind", WORDS),
    ("apply", "no kind", WORDS),
    ("apply", "another uid", TWICE),
    ("apply", "an undeclared field of a custom kind", MISTAKE),
    ("apply", "a wrong type of a custom kind", MISTAKE),
    ("apply", "a rule of a custom kind", VALUES),
    (
        "custom-kinds",
        "another version in the body",
        "the real server also warns of fields, which it looks up in a kind that it does not know",
    ),
    ("custom-kinds", "unknown fields, strict", "metadata of custom kinds is not looked through for unknown fields"),
    ("custom-kinds", "a malformed CIDR", VALUES),
    ("custom-kinds", "a gateway outside", VALUES),
    ("custom-kinds", "a wrong type", VALUES),
    ("custom-kinds", "several wrong types", VALUES),
    ("custom-kinds", "a spec that is a list", VALUES),
    ("custom-kinds", "a subnet may not change its VPC", VALUES),
    ("custom-kinds", "a status", CLAIMS),
    ("custom-kinds", "a status of a wrong type", VALUES),
    ("custom-kinds", "a status is read", CLAIMS),
    ("custom-kinds", "a label does not count as a generation", CLAIMS),
    ("custom-kinds", "a status subresource that is not there", WORDS),
    ("custom-kinds", "a strategic patch", WORDS),
    ("custom-kinds", "a JSON patch", CLAIMS),
    ("custom-kinds", "a finalizer", CLAIMS),
    ("custom-kinds", "a deletion that waits", CLAIMS),
    ("custom-kinds", "a change while it waits", CLAIMS),
    ("custom-kinds", "the finalizer goes", CLAIMS),
    ("custom-kinds", "a definition under another name", WORDS),
    ("custom-kinds", "a definition with a rule that does not compile", "rules are compiled without the types of the schema"),
    ("custom-kinds", "a definition without a storage version", WORDS),
    ("objects", "a group that is not there", "the real server answers in plain text, from outside its API"),
    ("objects", "a version on creation", MISTAKE),
    ("objects", "another kind in the body", WORDS),
    ("objects", "a wrong type", WORDS),
    ("objects", "an unknown way of validation", QUERY),
    ("objects", "dry run", "a dry run answers the version 0, and the real server none"),
    ("objects", "an unknown dry run", QUERY),
    ("objects", "a replacement of another uid", WORDS),
    ("objects", "a merge patch of another uid", TWICE),
    ("objects", "a merge patch with an unknown field, strict", "the real server says 422 and shows the whole object"),
    ("objects", "a merge patch with a wrong type", "the real server says 422 and shows the whole object"),
    ("objects", "a JSON patch whose test fails", WORDS),
    ("objects", "a JSON patch of a path that is not there", WORDS),
    ("objects", "a JSON patch with an unknown operation", "a patch that cannot be read is a bad request, whatever is wrong with it"),
    ("objects", "a JSON patch that is none", WORDS),
    ("objects", "a patch in an unknown format", WORDS),
    ("objects", "a body in an unknown format", WORDS),
    ("objects", "a finalizer added meanwhile", TWICE),
    ("objects", "a pod without an image", "containers of the lab are programs of this machine, and need no image"),
    ("objects", "a pod's node may not be changed by an update", WORDS),
    ("objects", "a pod is bound twice", WORDS),
    ("objects", "a pod's status", STATUS),
    ("objects", "a pod's status, by the pod, is kept", STATUS),
    ("objects", "a bound pod is deleted and waits for its kubelet", STATUS),
    ("objects", "it is deleted at once", STATUS),
    ("objects", "a namespace with a dotted name", WORDS),
    ("objects", "a namespace is deleted", "the embedded server empties a namespace itself, before it answers"),
    ("objects", "a lease with a negative duration", "fields of leases are not looked at beyond their type"),
    ("objects", "a node", "the real server makes the empty fields of a Go struct, and taints nodes for a controller that is not here"),
    ("objects", "an event", "the real server makes the empty fields of a Go struct"),
    ("objects", "a method that is not there", WORDS),
    ("selectors-and-pages", "a malformed label selector", WORDS),
    ("selectors-and-pages", "the second page of what is selected", "the real server has not looked yet whether more is selected"),
    ("selectors-and-pages", "a malformed token", WORDS),
    ("selectors-and-pages", "a version with a token", WORDS),
    ("selectors-and-pages", "a malformed limit", WORDS),
    ("selectors-and-pages", "a malformed version", WORDS),
    ("selectors-and-pages", "a malformed exact version", WORDS),
    ("watches", "all that happened", LAST),
    ("watches", "what is selected of it", LAST),
    ("watches", "from the middle", LAST),
    ("watches", "of one", LAST),
    ("watches", "a malformed version", MISTAKE),
    ("watches", "in the older way", "nobody has watched by this path since Kubernetes 1.11"),
];
const WORDS: &str = "the same refusal in other words, or with fewer details";
const VALUES: &str = "the value itself is shown, where the real server shows its type only, and says that it has checked no rules";
const MISTAKE: &str = "a client's mistake is a bad request; the real server says that it has failed itself, which invites a retry";
const QUERY: &str = "a parameter that cannot be read is a bad request, whichever it is";
const TWICE: &str = "the real server lists the same cause twice";
const STAMP: &str = "the real server forgets the time of an entry that shares all its fields";
const CLAIMS: &str = "the real server notes metadata as owned that a status write named, and that it has not written";
const STATUS: &str = "`podIPs` and times are the kubelet's to write; the real server makes them of what it gets";
const LAST: &str = "who removes the last finalizer is the last to change the object; the real server shows it as it was before";

/// What the real server fills in and the embedded one leaves out, and why that may be.
const UNFILLED: &[(&str, &str)] = &[
    (".containers.imagePullPolicy", CONTAINERS),
    (".containers.resources", CONTAINERS),
    (".containers.terminationMessagePath", CONTAINERS),
    (".containers.terminationMessagePolicy", CONTAINERS),
    (".spec.enableServiceLinks", CONTAINERS),
    (".spec.securityContext", CONTAINERS),
    (".spec.preemptionPolicy", SCHEDULING),
    (".spec.priority", SCHEDULING),
    (".spec.tolerations", SCHEDULING),
    (".status.qosClass", SCHEDULING),
    (".metadata.remainingItemCount", "an estimate that clients may not rely on, and that costs a walk over all that is left"),
];
const CONTAINERS: &str = "for a container runtime, which the lab does not have";
const SCHEDULING: &str = "for a scheduler and a cluster's own admission, which the lab does not have";

/// What only the embedded server says, and why that may be.
const OVERFILLED: &[(&str, &str)] = &[
    (".items.apiVersion", "objects are sent as they are stored, also in lists of built-in kinds"),
    (".items.kind", "objects are sent as they are stored, also in lists of built-in kinds"),
];

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
            // Two writers in a real server, the client and what accepts its names; one in the embedded server.
            if fields.get("kind").is_some_and(|kind| kind == "CustomResourceDefinition")
                && let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
            {
                metadata.remove("managedFields");
            }
            for (field, value) in fields.iter_mut() {
                match (field.as_str(), &mut *value) {
                    ("resourceVersion" | "continue", Value::String(text)) if !text.is_empty() => *text = format!("<{field}>"),
                    ("managedFields", Value::Array(entries)) => {
                        entries.iter_mut().for_each(settle);
                        entries.sort_by_key(|entry| ["manager", "operation", "subresource"].map(|field| entry[field].to_string()));
                    }
                    // In no order of its own.
                    ("causes", Value::Array(causes)) => {
                        causes.iter_mut().for_each(settle);
                        causes.sort_by_key(ToString::to_string);
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
                (r"(ResourceVersion in) (\w+|the precondition) \(\d+\)", "$1 $2 (<version>)"),
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
                let unlike = a.contains_key(field) != b.contains_key(field);
                if !unlike || !may_differ(&path, if a.contains_key(field) { OVERFILLED } else { UNFILLED }) {
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
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        _ => found.push(format!("{path}\n        embedded: {embedded}\n        real:     {real}")),
    }
}

/// Whether the field is one that only one of the servers fills in, or one by which it says who owns such a field.
fn may_differ(path: &str, fields: &[(&str, &str)]) -> bool {
    let path = Regex::new(r#"\[\d+\]|f:|\.k:\{[^}]*\}"#).unwrap().replace_all(path, "");
    fields.iter().any(|(field, _)| path.ends_with(field))
}

/// What to say of two answers: of an object and a refusal, only that.
fn told(embedded: &Value, real: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if embedded["code"] == real["code"] {
        differences("", embedded, real, &mut found);
    } else {
        let short = |answer: &Value| json!([answer["code"], answer["objects"][0]["message"]]);
        differences("", &short(embedded), &short(real), &mut found);
    }
    found
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
        let found = told(&ours, &theirs);
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
    tokio::time::timeout(std::time::Duration::from_secs(20), real::served(client, name)).await.expect("the kind is served");
}

/// What is to be created: a remark, the path, and the object.
fn creation(remark: &str, path: &str, object: &Value) -> String {
    format!("# {remark}\nPOST {path}?fieldValidation=Strict\n{}\n", serde_norway::to_string(object).unwrap())
}

fn documents(folder: &str) -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Those in folders need what not every cluster has, such as a runtime of virtual machines.
    files.retain(|file| file.is_file());
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
    // A real server accepts names and serves kinds some time after it has answered: what it says then is compared.
    for step in steps(&definitions.iter().map(|(file, definition)| creation(file, CRDS, definition)).collect::<String>()) {
        let (ours, theirs) = (embedded.answer(&step).await, real.answer(&step).await);
        assert_eq!((&ours["code"], &theirs["code"]), (&json!(201), &json!(201)), "{}: {ours}\n{theirs}", step.remark);
    }
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
            for (name, remark, _) in KNOWN.iter().filter(|(name, ..)| *name != "manifests") {
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
