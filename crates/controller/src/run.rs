//! The loop around the core.

use std::time::Duration;

use api::{DEFAULT_SUBNET, DEFAULT_VPC, JOIN_SUBNET, v1};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use ovsdb::TransactError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::core::{Audit, Batch, Core};
use crate::election::{self, Term};
use crate::inputs::{self, Input, Key};
use crate::metrics::Metrics;
use crate::outputs::Output;
use crate::{southbound, writer};

/// Runs until `shutdown` is cancelled. A transaction and the writes under way are finished first, and then the leadership is
/// given up, so that another controller takes it at once.
///
/// # Errors
/// When metrics cannot be served where they should be. Everything else that can fail is tried again and reported.
pub async fn run(client: kube::Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (shown_epoch, shown) = watch::channel(None);
    let (terms, term) = watch::channel(config.election.is_none().then_some(Term::ALONE));
    let resign = CancellationToken::new();
    // Ends with this future, like all that it starts.
    let mut candidate = JoinSet::new();
    let (metrics, mut server) = (Metrics::default(), JoinSet::new());
    if let Some(address) = config.metrics {
        metrics.serve(address, &mut server).await?;
    }
    if let Some(election) = config.election.clone() {
        candidate.spawn(election::run(client.clone(), election, shown, terms, resign.clone()));
    }
    while serve(&client, &config, &shutdown, term.clone(), &shown_epoch, &metrics).await == Ended::Deposed {
        tracing::warn!("another controller may lead: beginning anew as its standby");
    }
    resign.cancel();
    while candidate.join_next().await.is_some() {}
    Ok(())
}

/// Why [`serve`] ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// It was asked to.
    Stopped,
    /// Its term is over: what it has decided and not written counts for nothing.
    Deposed,
}

/// Follows the cluster, and leads it while there is a term.
async fn serve(
    client: &kube::Client,
    config: &Config,
    shutdown: &CancellationToken,
    mut term: watch::Receiver<Option<Term>>,
    shown_epoch: &watch::Sender<Option<u64>>,
    metrics: &Metrics,
) -> Ended {
    let (input_tx, mut inputs) = mpsc::channel(4096);
    let options = ovsdb::Options::new(config.northbound.clone(), topology::northbound::monitored());
    let options = ovsdb::Options { leader: true, tls: config.tls.clone(), ..options };
    let (database, mut events, driver) = ovsdb::connect(options);
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    // Nothing is asked of it: the handle only keeps the connection.
    let (_southbound, mut observed) = match southbound::options(config).map(ovsdb::connect) {
        Some((handle, events, driver)) => {
            tasks.spawn(driver.run());
            (Some(handle), Some(events))
        }
        None => (None, None),
    };
    let watches = client.clone();
    let keep_vm_ip = config.keep_vm_ip;
    tasks.spawn(async move { inputs::watch(watches, keep_vm_ip, input_tx).await });

    let mut core = Core::new(config.clone(), metrics.clone());
    let mut audits: JoinSet<Audit> = JoinSet::new();
    let mut audit_at = config.audit.map(|every| Instant::now() + every);
    let mut commits: JoinSet<(Batch, Result<(), TransactError>)> = JoinSet::new();
    let mut writes: JoinSet<(Output, Result<(), kube::Error>)> = JoinSet::new();
    let mut retries: JoinSet<Output> = JoinSet::new();
    let mut failures = 0u32;
    let mut not_before = Instant::now();
    let mut defaults_checked = false;
    let mut epoch = None;

    loop {
        let shown = core.shown_epoch();
        shown_epoch.send_if_modified(|before| std::mem::replace(before, shown) != shown);
        let now = (*term.borrow_and_update()).filter(Term::is_valid).and_then(|term| term.number(epoch, shown));
        if epoch.is_some() && now.is_none() {
            return Ended::Deposed;
        }
        if let (Some(new), true) = (now, now != epoch) {
            epoch = now;
            core.lead(new);
        }
        if epoch.is_none() && core.is_ready() && core.has_news() {
            core.follow();
        }
        core.wake(Instant::now().into_std());
        metrics.with(|figures| {
            (figures.leads, figures.ready, figures.removal_held) = (epoch.is_some(), core.is_ready(), core.holds());
        });
        let idle = commits.is_empty() && epoch.is_some();
        let due = Instant::now() >= not_before;
        if idle && due && core.is_ready() && core.has_work() {
            if !defaults_checked {
                defaults_checked = true;
                let names = [DEFAULT_SUBNET, JOIN_SUBNET].map(|name| Key::Subnet(name.into()));
                let lacking: Vec<Key> = names.into_iter().chain([Key::Vpc(DEFAULT_VPC.into())]).filter(|key| core.lacks(key)).collect();
                for input in create_defaults(client, config, &lacking).await {
                    core.input(input);
                }
            }
            let batch = core.plan(Instant::now().into_std());
            if batch.operations.is_empty() {
                core.committed();
            } else {
                let database = database.clone();
                commits.spawn(async move {
                    let result = database.transact(&batch.operations).await.map(drop);
                    (batch, result)
                });
            }
        }
        while epoch.is_some() && writes.len() < config.writes {
            let Some(output) = core.outputs.start() else { break };
            match writer::prepare(&core, &output, Timestamp::now()) {
                None => core.outputs.finish(&output),
                Some(write) => {
                    core.writes(&output);
                    let (client, term) = (client.clone(), term.clone());
                    writes.spawn(async move {
                        // This process may have stood still since: whoever leads by now decides what is written.
                        if !term.borrow().is_some_and(|term| term.is_valid()) {
                            return (output, Ok(()));
                        }
                        let result = writer::execute(client, write).await;
                        (output, result)
                    });
                }
            }
        }
        let wakes_at = core.wakes_at().map(Instant::from_std);
        let waiting = commits.is_empty() && epoch.is_some() && core.is_ready() && core.has_work();
        tokio::select! {
            () = shutdown.cancelled() => break,
            Ok(()) = term.changed() => {}
            Some(input) = inputs.recv() => {
                core.input(input);
                // What has already arrived belongs to the same batch.
                while let Ok(input) = inputs.try_recv() {
                    core.input(input);
                }
            }
            Some(event) = events.recv() => core.northbound(event),
            Some(event) = next(observed.as_mut()) => core.southbound(event),
            Some(Ok((batch, result))) = commits.join_next() => {
                // Updates that the transaction caused came before its result.
                while let Ok(event) = events.try_recv() {
                    core.northbound(event);
                }
                match result {
                    Ok(()) => {
                        tracing::info!(inserted = batch.inserted, modified = batch.modified, deleted = batch.removed.len(), "committed");
                        failures = 0;
                        metrics.with(|figures| {
                            *figures.transactions.entry("committed").or_default() += 1;
                            for (change, rows) in [("inserted", batch.inserted), ("modified", batch.modified), ("deleted", batch.removed.len())] {
                                *figures.rows.entry(change).or_default() += rows as u64;
                            }
                        });
                        core.committed();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "commit failed");
                        failures += 1;
                        metrics.with(|figures| *figures.transactions.entry("failed").or_default() += 1);
                        not_before = Instant::now() + pause(config, failures);
                        core.failed(&batch, &error);
                    }
                }
            }
            Some(Ok((output, result))) = writes.join_next() => match result {
                Ok(()) => {
                    metrics.with(|figures| *figures.api_writes.entry("done").or_default() += 1);
                    core.outputs.finish(&output);
                }
                Err(error) => {
                    tracing::warn!(?output, %error, "write failed");
                    metrics.with(|figures| *figures.api_writes.entry("failed").or_default() += 1);
                    let until = Instant::now() + pause(config, core.outputs.fail(&output));
                    retries.spawn(async move {
                        sleep_until(until).await;
                        output
                    });
                }
            },
            Some(Ok(output)) = retries.join_next() => core.outputs.add(output),
            Some(Ok(audit)) = audits.join_next() => {
                core.audited(&audit);
                audit_at = config.audit.map(|every| Instant::now() + every);
            }
            () = sleep_until(audit_at.unwrap_or(not_before)), if audit_at.is_some() && core.is_ready() => {
                audit_at = None;
                let mut audit = core.audit();
                audits.spawn_blocking(move || {
                    audit.settle();
                    audit
                });
            }
            () = sleep_until(not_before), if waiting && Instant::now() < not_before => {}
            () = sleep_until(wakes_at.unwrap_or(not_before)), if wakes_at.is_some() => {}
        }
    }
    // Drain in order: the commit, then the writes; watches and database end with their tasks.
    while commits.join_next().await.is_some() {}
    while writes.join_next().await.is_some() {}
    retries.shutdown().await;
    tasks.shutdown().await;
    Ended::Stopped
}

/// The next event, of a database that is followed.
async fn next(events: Option<&mut mpsc::Receiver<ovsdb::Event>>) -> Option<ovsdb::Event> {
    match events {
        Some(events) => events.recv().await,
        None => None,
    }
}

/// `first * 2^(failures - 1)`, up to the longest.
fn pause(config: &Config, failures: u32) -> Duration {
    let (first, longest) = config.backoff;
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}

/// The VPC that a cluster starts with, and its subnets: of pods, and of nodes.
pub(crate) fn defaults(config: &Config) -> (v1::Vpc, Vec<v1::Subnet>) {
    let subnet = |name: &str, cidr: &str, of_pods: bool| {
        let spec = v1::SubnetSpec {
            vpc: Some(DEFAULT_VPC.to_owned()),
            cidr_block: Some(cidr.to_owned()),
            default: of_pods.then_some(true),
            nat_outgoing: of_pods.then_some(true),
            ..v1::SubnetSpec::default()
        };
        v1::Subnet::new(name, spec)
    };
    let mut subnets = vec![subnet(DEFAULT_SUBNET, &config.default_cidr, true)];
    subnets.extend(config.join_cidr.as_deref().map(|cidr| subnet(JOIN_SUBNET, cidr, false)));
    (v1::Vpc::new(DEFAULT_VPC, v1::VpcSpec::default()), subnets)
}

/// Created once, if they are missing; afterwards they are the users'. Returns what was created, so that the first batch knows
/// it before the watches tell.
async fn create_defaults(client: &kube::Client, config: &Config, lacking: &[Key]) -> Vec<Input> {
    let params = PostParams::default();
    let (vpc, subnets) = defaults(config);
    let mut created = Vec::new();
    if lacking.contains(&Key::Vpc(DEFAULT_VPC.into())) {
        let result = Api::all(client.clone()).create(&params, &vpc).await;
        created.extend(report("Vpc", DEFAULT_VPC, result).map(|vpc| Input::Set(Box::new(inputs::vpc(&vpc)))));
    }
    for subnet in subnets {
        let name = subnet.metadata.name.as_deref().unwrap_or_default();
        if lacking.contains(&Key::Subnet(name.into())) {
            let result = Api::all(client.clone()).create(&params, &subnet).await;
            created.extend(report("Subnet", name, result).map(|subnet| Input::Set(Box::new(inputs::subnet(&subnet)))));
        }
    }
    created
}

fn report<K>(kind: &str, name: &str, result: Result<K, kube::Error>) -> Option<K> {
    match result {
        Ok(object) => {
            tracing::info!(kind, name, "created");
            return Some(object);
        }
        // Somebody was faster: the watch will tell.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => tracing::error!(kind, name, %error, "cannot be created"),
    }
    None
}
