//! OVN's central services: the northbound and southbound databases, and `ovn-northd`.

use std::fs;

use anyhow::Context as _;
use central::Database;
use futures::future::try_join_all;

use crate::{Lab, Place};

impl Lab {
    /// Starts the databases and `ovn-northd`, under `ferrovia central` or by themselves.
    pub(crate) async fn start_central(&self) -> anyhow::Result<()> {
        for place in self.parameters.central_places() {
            let folder = self.layout.place(place);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        if !self.parameters.supervised {
            return self.blocking(Self::start_unsupervised).await;
        }
        let places = self.parameters.central_places();
        try_join_all(places.map(|place| async move {
            for component in self.kept(place) {
                component.record(&self.layout)?;
            }
            self.start(self.central(place)).await
        }))
        .await
        .map(|_| ())
    }

    fn start_unsupervised(&self) -> anyhow::Result<()> {
        let programs = self.parameters.programs();
        for (database, name) in [(Database::Northbound, "nb"), (Database::Southbound, "sb")] {
            let file = self.layout.place(Place::CENTRAL).join(format!("{}.db", database.stem())).display().to_string();
            programs.run(None, "ovsdb-tool", &["create", &file, &programs.schema(&format!("ovn/ovn-{name}.ovsschema"))])?;
            self.database(database)?.start(&self.layout)?;
            let remote = format!("--db={}", self.layout.remote(Place::CENTRAL, name));
            programs.run(None, &format!("ovn-{name}ctl"), &[remote, "init".to_owned()])?;
        }
        self.northd()?.start(&self.layout)
    }
}
