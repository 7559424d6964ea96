//! The form in which objects leave the server: as stored, as metadata only, or as a Table.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::error::Error;
use crate::events;
use crate::kinds::Kind;
use crate::object;
use crate::request::Shape;
use crate::table;

/// One object in the wanted form.
pub fn one(kind: &Kind, shape: Shape, bytes: &Bytes) -> Result<Bytes, Error> {
    match shape {
        Shape::Full => Ok(bytes.clone()),
        Shape::MetadataOnly => Ok(metadata_only(&object::parse(bytes)?).to_string().into()),
        Shape::NewEvents => Ok(events::to_shown(object::parse(bytes)?).to_string().into()),
        Shape::Table(include) => {
            let object = object::parse(bytes)?;
            let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
            Ok(table::render(kind, &[object], metadata, include).to_string().into())
        }
    }
}

pub fn metadata_only(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}
