//! Figures for monitoring, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use engine::RuleCount;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What is counted since the start, and what is so now.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rule_runs: BTreeMap<&'static str, u64>,
    pub(crate) elements_read: u64,
    pub(crate) transactions: BTreeMap<&'static str, u64>,
    pub(crate) rows: BTreeMap<&'static str, u64>,
    pub(crate) api_writes: BTreeMap<&'static str, u64>,
    pub(crate) audits: u64,
    pub(crate) audit_differences: u64,
    pub(crate) leads: bool,
    pub(crate) ready: bool,
    pub(crate) removal_held: bool,
}

/// Figures that are counted in one place and shown in another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Arc<Mutex<Figures>>);

impl Metrics {
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Figures) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes note of what a settle did.
    pub(crate) fn settled(&self, counts: &[RuleCount], reads: u64) {
        self.with(|figures| {
            for count in counts {
                *figures.rule_runs.entry(count.rule).or_default() += count.runs;
            }
            figures.elements_read += reads;
        });
    }

    /// Serves them at `/metrics` until the task is dropped.
    ///
    /// # Errors
    /// When nobody can listen there.
    pub(crate) async fn serve(&self, address: SocketAddr, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for metrics"))?;
        let metrics = self.clone();
        let text =
            move || std::future::ready(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.with(|figures| figures.text())));
        let router = Router::new().route("/metrics", get(text));
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "metrics are not served any more");
            }
        });
        Ok(())
    }
}

impl Figures {
    fn text(&self) -> String {
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, label: &str, values: &mut dyn Iterator<Item = (&str, u64)>| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (value, count) in values {
                let _ =
                    if label.is_empty() { writeln!(out, "{name} {count}") } else { writeln!(out, "{name}{{{label}=\"{value}\"}} {count}") };
            }
        };
        let by = |map: &BTreeMap<&'static str, u64>| map.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>().into_iter();
        let one = |value: u64| std::iter::once(("", value));
        family("ferrovia_rule_runs_total", "counter", "Runs of rules.", "rule", &mut by(&self.rule_runs));
        family("ferrovia_elements_read_total", "counter", "Elements that rules read.", "", &mut one(self.elements_read));
        family("ferrovia_northbound_transactions_total", "counter", "Transactions, by outcome.", "outcome", &mut by(&self.transactions));
        family("ferrovia_northbound_rows_total", "counter", "Rows written, by change.", "change", &mut by(&self.rows));
        family("ferrovia_api_writes_total", "counter", "Writes to the API server, by outcome.", "outcome", &mut by(&self.api_writes));
        family("ferrovia_audits_total", "counter", "Times that all was computed from scratch.", "", &mut one(self.audits));
        family("ferrovia_audit_differences_total", "counter", "Facts that an audit found to differ.", "", &mut one(self.audit_differences));
        family("ferrovia_leader", "gauge", "Whether this controller leads.", "", &mut one(self.leads.into()));
        family("ferrovia_ready", "gauge", "Whether cluster and database are known.", "", &mut one(self.ready.into()));
        family("ferrovia_removal_held", "gauge", "Whether a removal waits for confirmation.", "", &mut one(self.removal_held.into()));
        out
    }
}
