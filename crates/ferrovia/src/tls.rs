//! The files by which TLS is spoken with OVSDB servers, named as OVS's own programs name them.

use std::path::PathBuf;

use clap::Args;
use ovsdb::{Remotes, Tls};

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS, for ssl remotes")]
pub struct TlsFiles {
    /// Private key, in PEM.
    #[arg(short = 'p', long, value_name = "FILE", requires = "certificate", requires = "ca_cert")]
    private_key: Option<PathBuf>,
    /// Certificate for the private key, in PEM.
    #[arg(short = 'c', long, value_name = "FILE", requires = "private_key")]
    certificate: Option<PathBuf>,
    /// Certificates of the authorities that sign the servers' certificates, in PEM.
    #[arg(short = 'C', long, value_name = "FILE", requires = "private_key")]
    ca_cert: Option<PathBuf>,
}

impl TlsFiles {
    /// The files, if they are given.
    pub fn given(self) -> Option<Tls> {
        match (self.private_key, self.certificate, self.ca_cert) {
            (Some(private_key), Some(certificate), Some(authority)) => Some(Tls { private_key, certificate, authority }),
            _ => None,
        }
    }

    /// The files that any of these remotes need.
    pub fn of<'a>(self, all: impl IntoIterator<Item = &'a Remotes>) -> anyhow::Result<Option<Tls>> {
        let given = self.given();
        for remotes in all {
            anyhow::ensure!(
                given.is_some() || !remotes.need_tls(),
                "{remotes}: ssl remotes need --private-key, --certificate and --ca-cert"
            );
        }
        Ok(given)
    }
}
