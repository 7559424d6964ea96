//! JSON-RPC messages (RFC 7047 §4.1), read without building a document.

use std::borrow::Cow;

use ovsdb_types::{Monitored, OpResult, TableUpdates, TableUpdatesSeed};
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny};
use serde_json::value::RawValue;

/// Why a message cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not JSON, or not a JSON-RPC message.
    #[error("malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Not what the protocol allows here.
    #[error("unexpected message: {0}")]
    Unexpected(String),
}

/// A request, a reply or a notification.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(borrow, default)]
    pub(crate) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) error: Option<&'a RawValue>,
}

impl Message<'_> {
    /// The number of one of our requests that this replies to.
    pub(crate) fn reply_id(&self) -> Option<u64> {
        self.id.and_then(|id| id.get().parse().ok())
    }

    /// The text of a failure, if the request failed as a whole.
    pub(crate) fn failure(&self) -> Option<String> {
        self.error.map(RawValue::get).filter(|e| *e != "null").map(str::to_owned)
    }
}

/// The results of a transaction; operations after a failed one have none.
pub(crate) fn results(raw: &RawValue) -> Result<Vec<Option<OpResult>>, WireError> {
    Ok(serde_json::from_str(raw.get())?)
}

/// The reply to `monitor_cond_since`: whether the server knew our last transaction, its last one, and the updates.
pub(crate) fn monitor_reply(raw: &RawValue, monitored: &Monitored) -> Result<(bool, String, TableUpdates), WireError> {
    let (found, last, updates): (bool, String, &RawValue) = serde_json::from_str(raw.get())?;
    Ok((found, last, self::updates(updates, monitored)?))
}

/// The parameters of an `update3`.
pub(crate) fn update3(raw: &RawValue, monitored: &Monitored) -> Result<(String, TableUpdates), WireError> {
    let (_, last, updates): (IgnoredAny, String, &RawValue) = serde_json::from_str(raw.get())?;
    Ok((last, self::updates(updates, monitored)?))
}

fn updates(raw: &RawValue, monitored: &Monitored) -> Result<TableUpdates, WireError> {
    let mut json = serde_json::Deserializer::from_str(raw.get());
    Ok(TableUpdatesSeed(monitored).deserialize(&mut json)?)
}

/// The part of a schema that tells which tables and columns a server has.
#[derive(Debug, Deserialize)]
pub(crate) struct ServerSchema {
    tables: std::collections::HashMap<String, ServerTable>,
}

#[derive(Debug, Deserialize)]
struct ServerTable {
    columns: std::collections::HashMap<String, IgnoredAny>,
}

impl ServerSchema {
    /// `wanted`, without what the server lacks.
    pub(crate) fn restrict(&self, wanted: &Monitored) -> Monitored {
        let tables = wanted.tables.iter().filter_map(|(id, columns)| {
            let schema = wanted.schema.table(*id);
            let server = self.tables.get(schema.name)?;
            Some((*id, columns.iter().copied().filter(|c| server.columns.contains_key(schema.column(*c).name)).collect()))
        });
        Monitored { schema: wanted.schema, tables: tables.collect() }
    }
}
