//! JSON-RPC messages (RFC 7047 §4.1), read without building a document.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use ovsdb_types::{Monitored, OpResult, TableUpdates, TableUpdatesSeed};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, SeqAccess, Visitor};
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
pub(crate) fn monitor_reply(raw: &str, monitored: &Monitored) -> Result<(bool, String, TableUpdates), WireError> {
    let mut json = serde_json::Deserializer::from_str(raw);
    Ok(Since(monitored, PhantomData).deserialize(&mut json)?)
}

/// The parameters of an `update3`.
pub(crate) fn update3(raw: &RawValue, monitored: &Monitored) -> Result<(String, TableUpdates), WireError> {
    let mut json = serde_json::Deserializer::from_str(raw.get());
    let (_, last, updates) = Since::<IgnoredAny>(monitored, PhantomData).deserialize(&mut json)?;
    Ok((last, updates))
}

/// The parameters of an `update` (RFC 7047 §4.1.6): which monitor's, and the tables.
pub(crate) fn update(raw: &RawValue) -> Result<(IgnoredAny, &str), WireError> {
    let (monitor, tables): (IgnoredAny, &RawValue) = serde_json::from_str(raw.get())?;
    Ok((monitor, tables.get()))
}

/// An array of something, the server's last transaction, and updates.
struct Since<'a, H>(&'a Monitored, PhantomData<H>);

impl<'de, H: Deserialize<'de>> DeserializeSeed<'de> for Since<'_, H> {
    type Value = (H, String, TableUpdates);
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_tuple(3, self)
    }
}

impl<'de, H: Deserialize<'de>> Visitor<'de> for Since<'_, H> {
    type Value = (H, String, TableUpdates);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of three, of which the last are updates")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let short = || de::Error::custom("an array of updates needs three elements");
        let head = seq.next_element()?.ok_or_else(short)?;
        let last = seq.next_element()?.ok_or_else(short)?;
        let updates = seq.next_element_seed(TableUpdatesSeed(self.0))?.ok_or_else(short)?;
        Ok((head, last, updates))
    }
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
