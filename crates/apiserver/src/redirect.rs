//! Subresources of pods that stream to and from a container. The kubelet of the lab has no such streams; the answer names
//! the command or the file that serves instead (docs/lab.md).

use serde_json::Value;

use crate::error::Error;
use crate::kinds::Kind;
use crate::object;
use crate::request::{Query, Target};
use crate::server::Server;

/// The refusal of a streaming subresource, or `None` if it is another one.
pub fn refusal(server: &Server, kind: &Kind, target: &Target, query: &Query) -> Option<Error> {
    let verb = target.subresource.as_deref()?;
    if !kind.is_pod() || !matches!(verb, "log" | "exec" | "attach" | "portforward") {
        return None;
    }
    let (namespace, name) = (target.namespace.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default());
    let Some(entry) = server.store().get(&kind.key(Some(namespace), name)) else {
        return Some(Error::NotFound { resource: kind.resource(), name: name.to_owned() });
    };
    let pod = object::parse(&entry.bytes).unwrap_or_default();
    let container = match query.get("container") {
        "" => pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default(),
        chosen => chosen,
    };
    let inside = format!("ferrovia lab exec -n {namespace} {name} -c {container} --");
    let file = output_file(&pod, container);
    Some(Error::MethodNotAllowed(match verb {
        "exec" => {
            let command: Vec<_> = query.all("command").collect();
            format!(
                "exec is not served by the embedded API, use: {inside} {}",
                if command.is_empty() { "CMD".to_owned() } else { command.join(" ") }
            )
        }
        "attach" => format!("attach is not served by the embedded API, use: {inside} CMD; the output of the container is in {file}"),
        "log" => format!("logs are not served by the embedded API, the output of the container is in {file}"),
        _ => format!("port-forward is not served by the embedded API, talk to the port from inside the pod: {inside} CMD"),
    }))
}

/// Where the lab's kubelet writes what a container prints.
fn output_file(pod: &Value, container: &str) -> String {
    let part = |value: &Value, otherwise: &str| value.as_str().filter(|text| !text.is_empty()).unwrap_or(otherwise).to_owned();
    format!("/run/ferrovia/LAB/{}/pods/{}-{container}.log", part(&pod["spec"]["nodeName"], "NODE"), part(&pod["metadata"]["uid"], "UID"))
}
