//! OVN's central services: the northbound and southbound databases, and `ovn-northd`.

use std::fs;

use anyhow::Context as _;

use crate::{Lab, Place};

/// Name and TCP port of each database, and the program that initializes it.
const DATABASES: [(&str, u16, &str); 2] = [("nb", 6641, "ovn-nbctl"), ("sb", 6642, "ovn-sbctl")];

impl Lab {
    /// Starts the databases, then `ovn-northd`; blocks.
    pub(crate) fn start_central(&self) -> anyhow::Result<()> {
        let folder = self.layout.place(Place::Central);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let programs = self.parameters.programs();
        for (database, port, control) in DATABASES {
            let file = folder.join(format!("{database}.db")).display().to_string();
            programs.run(None, "ovsdb-tool", &["create", &file, &programs.schema(&format!("ovn/ovn-{database}.ovsschema"))])?;
            self.database(database, port)?.start(&self.layout)?;
            programs.run(None, control, &[format!("--db={}", self.layout.remote(Place::Central, database)), "init".to_owned()])?;
        }
        self.northd()?.start(&self.layout)
    }
}
