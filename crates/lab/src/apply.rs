//! Applying manifests: kinds and namespaces first, the others in the order of the files.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind};
use serde::Deserialize as _;
use serde_json::Value;

/// One document of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// File and position, for messages.
    pub origin: String,
    /// The object.
    pub object: DynamicObject,
}

/// Reads manifests from files, and from the `.yaml`, `.yml` and `.json` files of folders.
///
/// # Errors
/// With the file, the document and what is wrong with it.
pub fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        for file in files(path)? {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            documents.extend(parse(&file.display().to_string(), &text)?);
        }
    }
    documents.sort_by_key(|document| rank(&document.object));
    Ok(documents)
}

fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let manifest = |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(manifest).collect();
    files.sort();
    Ok(files)
}

// The sort is stable: within a rank the order is that of the files.
fn rank(object: &DynamicObject) -> u8 {
    match object.types.as_ref().map(|types| types.kind.as_str()) {
        Some("CustomResourceDefinition") => 0,
        Some("Namespace") => 1,
        _ => 2,
    }
}

fn parse(file: &str, text: &str) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for (position, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let origin = format!("{file}, document {}", position + 1);
        let value = Value::deserialize(document).with_context(|| origin.clone())?;
        let items = match value {
            Value::Null => continue,
            Value::Object(mut list) if list.get("kind") == Some(&Value::from("List")) => match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => bail!("{origin}: a List without items"),
            },
            value => vec![value],
        };
        for item in items {
            let object: DynamicObject = serde_json::from_value(item).with_context(|| origin.clone())?;
            if object.types.is_none() {
                bail!("{origin}: apiVersion or kind is missing");
            }
            if object.metadata.name.is_none() && object.metadata.generate_name.is_none() {
                bail!("{origin}: metadata.name is missing");
            }
            documents.push(Document { origin: origin.clone(), object });
        }
    }
    Ok(documents)
}

/// Creates each object, or merges it into the one that is there.
///
/// # Errors
/// With the file, the document, the object and the server's reason.
pub async fn apply(client: &Client, documents: &[Document]) -> anyhow::Result<()> {
    let mut kinds = HashMap::new();
    for Document { origin, object } in documents {
        put(client, &mut kinds, object).await.with_context(|| {
            let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
            format!("{origin}: {kind} {}", object.metadata.name.as_deref().unwrap_or("without a name"))
        })?;
    }
    Ok(())
}

type Kinds = HashMap<(String, String), (ApiResource, ApiCapabilities)>;

async fn put(client: &Client, kinds: &mut Kinds, object: &DynamicObject) -> anyhow::Result<()> {
    let types = object.types.as_ref().ok_or_else(|| anyhow!("apiVersion or kind is missing"))?;
    let key = (types.api_version.clone(), types.kind.clone());
    if !kinds.contains_key(&key) {
        let found = pinned_kind(client, &types.try_into()?).await;
        kinds.insert(key.clone(), found.with_context(|| format!("no kind {} in {}", key.1, key.0))?);
    }
    let (resource, capabilities) = &kinds[&key];
    let api: Api<DynamicObject> = match (&capabilities.scope, object.metadata.namespace.as_deref()) {
        (Scope::Cluster, _) => Api::all_with(client.clone(), resource),
        (Scope::Namespaced, namespace) => Api::namespaced_with(client.clone(), namespace.unwrap_or("default"), resource),
    };
    match (api.create(&PostParams::default(), object).await, &object.metadata.name) {
        (Err(kube::Error::Api(status)), Some(name)) if status.code == 409 => {
            api.patch(name, &PatchParams::default(), &Patch::Merge(object)).await?;
        }
        (created, _) => {
            created?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_in_order_with_kinds_and_namespaces_first() {
        let text = "---\n# only a comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\napiVersion: v1\nkind: List\nitems:\n\
                    - {apiVersion: v1, kind: Pod, metadata: {name: q}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: n}}\n";
        let folder = std::env::temp_dir().join(format!("fvt-apply-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.yaml"), text).unwrap();
        fs::write(folder.join("notes.txt"), "not: [a manifest").unwrap();
        let read = read(std::slice::from_ref(&folder));
        fs::remove_dir_all(&folder).unwrap();
        let names: Vec<_> = read.unwrap().into_iter().map(|document| document.object.metadata.name.unwrap()).collect();
        assert_eq!(names, ["n", "p", "q"]);
    }

    #[test]
    fn an_error_names_file_and_document() {
        for (text, expected) in [
            ("apiVersion: v1\nkind: Pod\n", "f.yaml, document 1: metadata.name is missing"),
            ("metadata: {name: p}\n", "f.yaml, document 1: apiVersion or kind is missing"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\n{a: [\n", "f.yaml, document 2: "),
        ] {
            let error = format!("{:#}", parse("f.yaml", text).unwrap_err());
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
