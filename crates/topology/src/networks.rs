//! `k8s.v1.cni.cncf.io/networks` on a pod, and the definitions that it names → the pod's further NICs, and what each asks for.

use api::annotations::NicAnnotations;
use api::networks::{self, Definition};
use engine::{Cx, Engine};

use crate::fact::{Fact, FactValue, Problem};
use crate::ip;
use crate::nic::{self, Asker, Further};
use crate::world::{Allocation, Attached, Attachment, DefinitionKey, Ip, Link, NetworkDefinition, Networks, NicKey, Pod, PodKey, World};

pub(crate) fn register(engine: &mut Engine<World, Fact>) {
    engine.rule::<Networks, Attached>("networks", |cx, key, listed, out| {
        let Some(pod) = cx.get::<Pod>(key) else { return };
        let holder = pod.holder(key);
        // The pod is told by its primary NIC.
        if nic::is_taken(cx, key, &holder) {
            return;
        }
        let mut problems = Vec::new();
        let nics = nics(cx, (key, pod), listed, &mut problems);
        for (link, attachment, base) in &nics {
            let nic = NicKey { holder: holder.clone(), provider: Some(attachment.provider.clone()) };
            let notes = listed.notes.get(&*attachment.provider);
            let (asked, recorded) = (asked(listed, link, &attachment.provider), notes.and_then(|notes| notes.recorded.as_ref()));
            let further = Some(Further { provider: base, addresses_only: attachment.addresses_only });
            match nic::request(cx, &Asker { key, pod, nic: &nic, asked: asked.as_ref(), recorded, further }) {
                Ok(Some(request)) => out.say(Fact::Request(nic), FactValue::Request(request)),
                Ok(None) => {}
                Err(Problem { reason, message }) => {
                    problems.push(Problem { reason, message: format!("link {:?}: {message}", link.selection.interface) });
                }
            }
        }
        if let Some(Problem { reason, .. }) = problems.first() {
            let message = problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; ");
            out.say(Fact::NetworksProblem(key.clone()), FactValue::Problem(Problem { reason, message }));
        }
        out.derive(key.clone(), Attached(nics.into_iter().map(|(_, attachment, _)| attachment).collect()));
    });
}

/// The NIC of this provider that a pod has besides its primary one, if it has it.
pub(crate) fn attachment<'w>(cx: &mut Cx<'w, World>, key: &PodKey, provider: &str) -> Option<&'w Attachment> {
    cx.get::<Attached>(key)?.0.iter().find(|attachment| *attachment.provider == *provider)
}

/// The pod's further NICs, each with its link and the provider that a subnet names. What is wrong with the others is told.
fn nics<'a>(
    cx: &mut Cx<'_, World>,
    (key, pod): (&PodKey, &Pod),
    listed: &'a Networks,
    problems: &mut Vec<Problem>,
) -> Vec<(&'a Link, Attachment, Box<str>)> {
    let links = match &listed.links {
        Ok(links) => links,
        Err(why) => {
            problems.push(Problem { reason: "BadAnnotation", message: why.clone() });
            return Vec::new();
        }
    };
    let selections = links.iter().map(|link| link.selection.clone()).collect();
    let found = networks::attachments(selections, |namespace, name| {
        let definition = definition(cx, (key, pod), listed, (namespace, name));
        // One that cannot be served stands in the way of no other.
        Ok(definition.unwrap_or_else(|problem| {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
            Definition::Foreign
        }))
    });
    let attachments = found.unwrap_or_else(|message| {
        problems.push(Problem { reason: "BadAnnotation", message });
        Vec::new()
    });
    let nics = attachments.into_iter().filter_map(|networks::Attachment { selection, provider, addresses_only, .. }| {
        let link = links.iter().find(|link| link.selection == selection)?;
        let (namespace, name) = (&selection.namespace, &selection.name);
        let base = if addresses_only { Definition::addresses(namespace, name) } else { Definition::ours(namespace, name) };
        Some((link, Attachment { provider: provider.as_ref().into(), addresses_only }, base.provider()?.into()))
    });
    nics.collect()
}

/// What a definition says of the pod's NICs. What the pod has it keeps, whatever became of the definition.
fn definition(
    cx: &mut Cx<'_, World>,
    (key, pod): (&PodKey, &Pod),
    listed: &Networks,
    (namespace, name): (&str, &str),
) -> Result<Definition, Problem> {
    let kinds = [Definition::ours(namespace, name), Definition::addresses(namespace, name)];
    // The providers of its NICs, if it is of this kind.
    let providers = |kind: &Definition| -> Vec<Box<str>> {
        let base = kind.provider().unwrap_or_default();
        let links = listed.links.iter().flatten().map(|link| &link.selection);
        let links = links.filter(|link| *link.namespace == *namespace && *link.name == *name);
        std::iter::once(base.into()).chain(links.map(|link| format!("{base}.{}", link.interface).into())).collect()
    };
    let recorded = |provider: &str| listed.notes.get(provider).is_some_and(|notes| notes.recorded.is_some());
    if let Some(kind) = kinds.iter().find(|kind| providers(kind).iter().any(|provider| recorded(provider))) {
        return Ok(kind.clone());
    }
    let definition = DefinitionKey { namespace: namespace.into(), name: name.into() };
    let problem = match cx.get::<NetworkDefinition>(&definition) {
        Some(NetworkDefinition(Ok(definition))) => return Ok(definition.clone()),
        Some(NetworkDefinition(Err(why))) => Problem { reason: "BadDefinition", message: why.clone() },
        None => Problem { reason: "NoDefinition", message: "does not exist".to_owned() },
    };
    for kind in kinds {
        for provider in providers(&kind) {
            let nic = NicKey { holder: pod.holder(key), provider: Some(provider.as_ref().into()) };
            let kept = cx.get::<Ip>(&nic.port()).is_some_and(|ip| !ip.deleting && ip.nic == nic && ip::identity(ip) == pod.identity());
            if kept || cx.get::<Allocation>(&nic).is_some_and(|held| held.identity == pod.identity()) {
                return Ok(kind);
            }
        }
    }
    let message = format!("NetworkAttachmentDefinition {namespace}/{name}: {}", problem.message);
    Err(Problem { message, ..problem })
}

/// What is asked of a NIC: by the annotations of its link, else by those of its provider, else by the element of the list.
fn asked(listed: &Networks, link: &Link, provider: &str) -> Result<NicAnnotations, String> {
    let mut asked = listed.notes.get(provider).map_or_else(|| Ok(NicAnnotations::default()), |notes| notes.asked.clone())?;
    let (addresses, mac) = link.asked.clone()?;
    if !addresses.is_empty() {
        asked.addresses = addresses;
    } else if asked.addresses.is_empty() && asked.pool.is_none() {
        asked.addresses.clone_from(&link.selection.addresses);
    }
    asked.mac = mac.or(asked.mac).or(link.selection.mac);
    Ok(asked)
}
