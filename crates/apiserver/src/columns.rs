//! The columns of built-in kinds, as the real server has them.

use serde_json::{Map, Value, json};

use crate::kinds::Kind;
use crate::table::{Column, age, printable};

/// The columns of a built-in kind; most show name and age alone.
pub fn built_in(kind: &Kind) -> Vec<Column> {
    let mut columns = vec![Column::name()];
    let (shown, wide) = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Event") => return event(),
        ("apiextensions.k8s.io", _) => {
            columns.push(Column::new("Created At", field("/metadata/creationTimestamp")));
            return columns;
        }
        ("", "Pod") => pod(),
        ("", "Node") => node(),
        ("", "Namespace") => (vec![Column::new("Status", field("/status/phase"))], vec![]),
        ("", "Service") => service(),
        ("", "Endpoints") => (vec![Column::new("Endpoints", endpoints)], vec![]),
        ("", "ConfigMap") => {
            (vec![Column::new("Data", |map| json!((count(&map["data"]) + count(&map["binaryData"])).to_string()))], vec![])
        }
        ("", "Secret") => (
            vec![Column::new("Type", or("/type", "Opaque")), Column::new("Data", |secret| json!(count(&secret["data"]).to_string()))],
            vec![],
        ),
        ("", "ServiceAccount") => (vec![Column::new("Secrets", |account| json!(list(&account["secrets"]).len().to_string()))], vec![]),
        ("apps", "Deployment") => deployment(),
        ("apps", "StatefulSet") => (vec![Column::new("Ready", ready_replicas)], containers()),
        ("coordination.k8s.io", _) => (vec![Column::new("Holder", or("/spec/holderIdentity", ""))], vec![]),
        ("discovery.k8s.io", _) => (
            vec![
                Column::new("AddressType", field("/addressType")),
                Column::new("Ports", slice_ports),
                Column::new("Endpoints", slice_endpoints),
            ],
            vec![],
        ),
        ("networking.k8s.io", _) => {
            (vec![Column::new("Pod-Selector", |policy| selector(&policy["spec"]["podSelector"]["matchLabels"]))], vec![])
        }
        _ => (vec![], vec![]),
    };
    columns.extend(shown);
    columns.push(Column::age());
    columns.extend(wide);
    columns
}

/// Columns before the age, and those of `-o wide` after it.
type Columns = (Vec<Column>, Vec<Column>);

const NONE: &str = "<none>";

fn or(pointer: &'static str, otherwise: &'static str) -> impl Fn(&Value) -> Value + Send + Sync {
    move |object| {
        let found = object.pointer(pointer).filter(|value| **value != json!(""));
        found.cloned().map_or_else(|| json!(otherwise), printable)
    }
}

fn field(pointer: &'static str) -> impl Fn(&Value) -> Value + Send + Sync {
    or(pointer, NONE)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn count(value: &Value) -> usize {
    value.as_object().map_or(0, Map::len)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> Value {
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    json!(if parts.is_empty() { NONE.to_owned() } else { parts.join(",") })
}

/// `a=b,c=d`.
fn selector(labels: &Value) -> Value {
    let pairs: Vec<_> = labels.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={}", text(value))).collect();
    joined(pairs.iter().map(String::as_str))
}

fn pod() -> Columns {
    let ready = |pod: &Value| {
        let ready = list(&pod["status"]["containerStatuses"]).iter().filter(|status| status["ready"] == json!(true)).count();
        json!(format!("{ready}/{}", list(&pod["spec"]["containers"]).len()))
    };
    let gates = |pod: &Value| {
        let gates = list(&pod["spec"]["readinessGates"]);
        let met = gates.iter().filter(|gate| has_condition(pod, text(&gate["conditionType"]))).count();
        json!(if gates.is_empty() { NONE.to_owned() } else { format!("{met}/{}", gates.len()) })
    };
    let shown = vec![Column::new("Ready", ready), Column::new("Status", |pod| json!(pod_status(pod))), Column::new("Restarts", restarts)];
    let wide = vec![
        Column::wide("IP", field("/status/podIP")),
        Column::wide("Node", field("/spec/nodeName")),
        Column::wide("Nominated Node", field("/status/nominatedNodeName")),
        Column::wide("Readiness Gates", gates),
    ];
    (shown, wide)
}

fn has_condition(object: &Value, name: &str) -> bool {
    list(&object["status"]["conditions"]).iter().any(|c| c["type"] == json!(name) && c["status"] == json!("True"))
}

/// Why a container ended, in a word.
fn ending(terminated: &Value) -> String {
    match (text(&terminated["reason"]), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"]),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn pod_status(pod: &Value) -> String {
    let status = &pod["status"];
    let phase = text(&status["phase"]);
    let mut reason = text(&status["reason"]);
    if reason.is_empty() {
        reason = phase;
    }
    let reason = initializing(pod).unwrap_or_else(|| running(pod, reason));
    let deleted = pod["metadata"].get("deletionTimestamp").is_some();
    if deleted && reason == "NodeLost" {
        "Unknown".to_owned()
    } else if deleted && !matches!(phase, "Succeeded" | "Failed") {
        "Terminating".to_owned()
    } else {
        reason
    }
}

/// How far the init containers are, unless all are done.
fn initializing(pod: &Value) -> Option<String> {
    let total = list(&pod["spec"]["initContainers"]).len();
    for (at, status) in list(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        let state = &status["state"];
        if state["terminated"]["exitCode"].as_i64() == Some(0) {
            continue;
        }
        let waiting = text(&state["waiting"]["reason"]);
        return Some(if state["terminated"].is_object() {
            format!("Init:{}", ending(&state["terminated"]))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{at}/{total}")
        });
    }
    None
}

/// What the containers say, the first of them last.
fn running(pod: &Value, reason: &str) -> String {
    let (mut reason, mut any) = (reason.to_owned(), false);
    for status in list(&pod["status"]["containerStatuses"]).iter().rev() {
        let state = &status["state"];
        let waiting = text(&state["waiting"]["reason"]);
        if !waiting.is_empty() {
            waiting.clone_into(&mut reason);
        } else if state["terminated"].is_object() {
            reason = ending(&state["terminated"]);
        } else if status["ready"] == json!(true) && state["running"].is_object() {
            any = true;
        }
    }
    if reason == "Completed" && any {
        let ready = has_condition(pod, "Ready");
        return if ready { "Running" } else { "NotReady" }.to_owned();
    }
    reason
}

fn restarts(pod: &Value) -> Value {
    let statuses = list(&pod["status"]["containerStatuses"]);
    let total: i64 = statuses.iter().filter_map(|status| status["restartCount"].as_i64()).sum();
    let last = statuses.iter().map(|status| &status["lastState"]["terminated"]["finishedAt"]).max_by_key(|at| text(at));
    match last.filter(|at| at.is_string() && total > 0) {
        Some(at) => json!(format!("{total} ({} ago)", text(&age(at)))),
        None => json!(total.to_string()),
    }
}

fn node() -> Columns {
    let status = |node: &Value| {
        let ready = list(&node["status"]["conditions"]).iter().find(|c| c["type"] == json!("Ready"));
        let word = ready.map_or("Unknown", |c| if c["status"] == json!("True") { "Ready" } else { "NotReady" });
        let cordoned = if node["spec"]["unschedulable"] == json!(true) { ",SchedulingDisabled" } else { "" };
        json!(format!("{word}{cordoned}"))
    };
    let roles = |node: &Value| {
        let labels = node["metadata"]["labels"].as_object();
        joined(labels.into_iter().flatten().filter_map(|(name, _)| name.strip_prefix("node-role.kubernetes.io/")))
    };
    let address = |kind: &'static str| {
        move |node: &Value| {
            let found = list(&node["status"]["addresses"]).iter().find(|address| address["type"] == json!(kind));
            found.map_or_else(|| json!(NONE), |address| address["address"].clone())
        }
    };
    let shown = vec![Column::new("Status", status), Column::new("Roles", roles)];
    let wide = vec![
        Column::new("Version", or("/status/nodeInfo/kubeletVersion", "")),
        Column::wide("Internal-IP", address("InternalIP")),
        Column::wide("External-IP", address("ExternalIP")),
        Column::wide("OS-Image", or("/status/nodeInfo/osImage", "<unknown>")),
        Column::wide("Kernel-Version", or("/status/nodeInfo/kernelVersion", "<unknown>")),
        Column::wide("Container-Runtime", or("/status/nodeInfo/containerRuntimeVersion", "<unknown>")),
    ];
    (shown, wide)
}

fn service() -> Columns {
    let external = |service: &Value| {
        let ingress = list(&service["status"]["loadBalancer"]["ingress"]).iter().map(|i| i["ip"].as_str().unwrap_or(text(&i["hostname"])));
        let found = joined(ingress.chain(list(&service["spec"]["externalIPs"]).iter().map(text)));
        if service["spec"]["type"] == json!("LoadBalancer") && found == json!(NONE) { json!("<pending>") } else { found }
    };
    let ports = |service: &Value| {
        let port = |port: &Value| {
            let node = port["nodePort"].as_i64().filter(|node| *node > 0).map(|node| format!(":{node}")).unwrap_or_default();
            format!("{}{node}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP"))
        };
        let ports: Vec<_> = list(&service["spec"]["ports"]).iter().map(port).collect();
        joined(ports.iter().map(String::as_str))
    };
    let shown = vec![
        Column::new("Type", or("/spec/type", "ClusterIP")),
        Column::new("Cluster-IP", field("/spec/clusterIP")),
        Column::new("External-IP", external),
        Column::new("Port(s)", ports),
    ];
    (shown, vec![Column::wide("Selector", |service| selector(&service["spec"]["selector"]))])
}

fn endpoints(endpoints: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list(&endpoints["subsets"]) {
        for address in list(&subset["addresses"]) {
            let ports = list(&subset["ports"]);
            all.extend(ports.iter().map(|port| format!("{}:{}", text(&address["ip"]), port["port"])));
            if ports.is_empty() {
                all.push(text(&address["ip"]).to_owned());
            }
        }
    }
    shortened(&all)
}

/// Three of them, and how many more there are.
fn shortened(all: &[String]) -> Value {
    match all.len() {
        0..=3 => joined(all.iter().map(String::as_str)),
        more => json!(format!("{} + {} more...", all[..3].join(","), more - 3)),
    }
}

fn slice_ports(slice: &Value) -> Value {
    let ports: Vec<_> = list(&slice["ports"]).iter().map(|port| port["port"].to_string()).collect();
    if ports.is_empty() { json!("<unset>") } else { shortened(&ports) }
}

fn slice_endpoints(slice: &Value) -> Value {
    let addresses = list(&slice["endpoints"]).iter().flat_map(|endpoint| list(&endpoint["addresses"])).map(text).map(str::to_owned);
    let all: Vec<_> = addresses.collect();
    if all.is_empty() { json!("<unset>") } else { shortened(&all) }
}

fn ready_replicas(object: &Value) -> Value {
    json!(format!("{}/{}", object["status"]["readyReplicas"].as_i64().unwrap_or(0), object["spec"]["replicas"].as_i64().unwrap_or(1)))
}

fn containers() -> Vec<Column> {
    let of = |field: &'static str| {
        move |object: &Value| {
            joined(list(&object["spec"]["template"]["spec"]["containers"]).iter().map(|container| text(&container[field])))
        }
    };
    vec![Column::wide("Containers", of("name")), Column::wide("Images", of("image"))]
}

fn deployment() -> Columns {
    let number =
        |pointer: &'static str| move |object: &Value| json!(object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0).to_string());
    let shown = vec![
        Column::new("Ready", ready_replicas),
        Column::new("Up-to-date", number("/status/updatedReplicas")),
        Column::new("Available", number("/status/availableReplicas")),
    ];
    let mut wide = containers();
    wide.push(Column::wide("Selector", |object| selector(&object["spec"]["selector"]["matchLabels"])));
    (shown, wide)
}

fn event() -> Vec<Column> {
    let first = |event: &Value| {
        let first = &event["firstTimestamp"];
        if first.is_string() { first.clone() } else { event["eventTime"].clone() }
    };
    let last = move |event: &Value| {
        let seen = [&event["series"]["lastObservedTime"], &event["lastTimestamp"]].into_iter().find(|at| at.is_string());
        age(&seen.cloned().unwrap_or_else(|| first(event)))
    };
    let object = |event: &Value| {
        let (kind, name) = (text(&event["involvedObject"]["kind"]).to_lowercase(), text(&event["involvedObject"]["name"]));
        json!(if name.is_empty() { kind } else { format!("{kind}/{name}") })
    };
    let source = |event: &Value| {
        let pick = |old: &Value, new: &Value| if text(old).is_empty() { text(new).to_owned() } else { text(old).to_owned() };
        let component = pick(&event["source"]["component"], &event["reportingComponent"]);
        let host = pick(&event["source"]["host"], &event["reportingInstance"]);
        json!(if host.is_empty() { component } else { format!("{component}, {host}") })
    };
    let count = |event: &Value| {
        let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).filter(|count| *count > 0);
        json!(count.unwrap_or(1).to_string())
    };
    vec![
        Column::new("Last Seen", last),
        Column::new("Type", or("/type", "")),
        Column::new("Reason", or("/reason", "")),
        Column::new("Object", object),
        Column::wide("Subobject", or("/involvedObject/fieldPath", "")),
        Column::wide("Source", source),
        Column::new("Message", |event| json!(text(&event["message"]).trim())),
        Column::wide("First Seen", move |event| age(&first(event))),
        Column::wide("Count", count),
        Column::wide("Name", |event| event["metadata"]["name"].clone()),
    ]
}
