//! What a server says of a database that it serves: the `_Server` database (ovsdb-server(5)).

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// The state of a database at one of its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether several servers share it through RAFT.
    pub clustered: bool,
    /// Whether this server reaches the storage: in a cluster, a majority of it.
    pub connected: bool,
    /// Whether this server leads; always true outside of clusters.
    pub leader: bool,
    /// The cluster.
    pub cluster: Option<Uuid>,
    /// The latest log entry that this server knows, in a cluster.
    pub index: Option<i64>,
}

/// The request to watch `_Server`. Kept small: the schemas that stand there are asked for separately.
pub(crate) const WATCH: &str = r#"["_Server","server",{"Database":[{"columns":["name","model","connected","leader","cid","index"]}]}]"#;

#[derive(Deserialize)]
struct Tables {
    #[serde(rename = "Database", default)]
    databases: HashMap<String, Row>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(default)]
    old: Option<Value>,
    #[serde(default)]
    new: Option<Database>,
}

#[derive(Deserialize)]
struct Database {
    name: String,
    model: String,
    connected: bool,
    leader: bool,
    cid: Value,
    index: Value,
}

/// What an update (RFC 7047 §4.1.6) says of database `name`: `None` when nothing, `Some(None)` when it is gone.
pub(crate) fn update(raw: &str, name: &str, row: &mut Option<String>) -> Result<Option<Option<Status>>, serde_json::Error> {
    let tables: Tables = serde_json::from_str(raw)?;
    let mut said = None;
    for (uuid, update) in tables.databases {
        match update.new {
            Some(database) if database.name == name => {
                said = Some(Some(database.status()));
                *row = Some(uuid);
            }
            None if update.old.is_some() && row.as_ref() == Some(&uuid) => {
                said = Some(None);
                *row = None;
            }
            _ => {}
        }
    }
    Ok(said)
}

impl Database {
    fn status(&self) -> Status {
        let clustered = self.model == "clustered";
        // An optional value is a scalar, or an empty set.
        let cluster = self.cid.get(1).and_then(Value::as_str).and_then(|text| text.parse().ok());
        Status { clustered, connected: self.connected, leader: self.leader || !clustered, cluster, index: self.index.as_i64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_of_the_database_are_read_and_others_ignored() {
        let mut row = None;
        let line = |name: &str, rest: &str| {
            format!(r#"{{"Database":{{"5b1bb1e1-0000-0000-0000-000000000000":{{"new":{{"name":"{name}","connected":true,{rest}}}}}}}}}"#)
        };
        let follower = r#""model":"clustered","leader":false,"cid":["uuid","5b1bb1e1-0000-0000-0000-000000000001"],"index":7"#;
        let status = update(&line("OVN_Northbound", follower), "OVN_Northbound", &mut row).unwrap().unwrap().unwrap();
        assert_eq!((status.clustered, status.leader, status.index), (true, false, Some(7)));
        assert!(status.cluster.is_some());
        let alone = r#""model":"standalone","leader":true,"cid":["set",[]],"index":["set",[]]"#;
        assert_eq!(update(&line("_Server", alone), "OVN_Northbound", &mut row).unwrap(), None);
        let gone = r#"{"Database":{"5b1bb1e1-0000-0000-0000-000000000000":{"old":{"connected":true}}}}"#;
        assert_eq!(update(gone, "OVN_Northbound", &mut row).unwrap(), Some(None));
        assert!(update("17", "OVN_Northbound", &mut row).is_err());
    }
}
