//! `ferrovia central`: the command line of OVN's central services.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::central::{Backups, Cluster, Config};
use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use crate::Announce;
use crate::lab::duration;
use crate::tls::TlsFiles;

/// When `ovn-northd` works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Northd {
    /// While the northbound database carries the controller's mark of completeness.
    Held,
    /// Always.
    Always,
}

/// Keeps OVN's central services running on this host. They go on when it stops, and are adopted when it starts again.
#[derive(Debug, Args)]
pub struct Central {
    /// Folder of the databases.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ovn")]
    data: PathBuf,
    /// Folder of sockets, process ids and logs; `central.sock` there answers `GET /status`, `GET /healthz`, `POST /restart/…`.
    #[arg(long, value_name = "DIR", default_value = "/run/ovn")]
    run: PathBuf,
    /// Folder of OVN's schemas.
    #[arg(long, value_name = "DIR", default_value = "/usr/share/ovn")]
    schemas: PathBuf,
    /// Address of this host on which the databases are served; without one, only programs of this host reach them.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Addresses of the other members of the RAFT clusters.
    #[arg(long, value_name = "IP,…", value_delimiter = ',', requires = "address")]
    peers: Vec<IpAddr>,
    /// Make the clusters anew, if neither this host nor a peer has them. Give it to one member, for the first start.
    #[arg(long, requires = "peers")]
    bootstrap: bool,
    /// Silence of a leader after which another is elected; set when a cluster is made.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    election_timer: Duration,
    /// When `ovn-northd` works.
    #[arg(long, value_enum, default_value = "held")]
    northd: Northd,
    /// Folder for copies of the databases.
    #[arg(long, value_name = "DIR")]
    backups: Option<PathBuf>,
    /// Time from one copy to the next.
    #[arg(long, value_name = "TIME", default_value = "60m", value_parser = duration)]
    backup_interval: Duration,
    /// How many copies of each database are kept.
    #[arg(long, value_name = "N", default_value_t = 24)]
    backup_count: usize,
    #[command(flatten)]
    tls: TlsFiles,
    #[command(flatten)]
    announce: Announce,
}

impl Central {
    /// Runs until told to stop.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let cluster = Cluster { peers: self.peers, bootstrap: self.bootstrap, election: self.election_timer };
        let backups = self.backups.map(|folder| Backups { folder, interval: self.backup_interval, keep: self.backup_count.max(1) });
        let config = Config {
            schemas: self.schemas,
            address: self.address,
            cluster: (!cluster.peers.is_empty()).then_some(cluster),
            tls: self.tls.given(),
            hold: self.northd == Northd::Held,
            backups,
            ..Config::new(self.data, self.run)
        };
        std::fs::create_dir_all(&config.run)?;
        let listener = ::central::listen(&config.run.join("central.sock"))?;
        ::central::run(config, listener, || self.announce.ready(), shutdown).await
    }
}
