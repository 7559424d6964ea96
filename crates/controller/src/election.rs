//! Leader election on a `Lease`: of several controllers one writes, and the others keep themselves ready.
//!
//! A term begins when a controller has put its name into the lease, which the API server lets only one do at a time. Its
//! number, kept in `leaseTransitions`, rises with every term, and guards the database against whoever has been deposed
//! without having noticed. A term lasts as long as the lease that was last renewed, counted from before the request was
//! sent; others count from when they saw the renewal, which is later. No clock of another machine is read.
//! <https://kubernetes.io/docs/concepts/architecture/leases/>

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Election;

/// The time in which this controller leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// Its number.
    epoch: u64,
    /// When it ends unless it is renewed; `None` for one that needs no lease.
    until: Option<Instant>,
}

impl Term {
    /// The term of a controller that is alone.
    pub(crate) const ALONE: Self = Self { epoch: 1, until: None };

    /// The number under which the database knows it. Whoever is alone goes on under the one that the database shows when it
    /// begins, which may be of controllers that were several; `None` while that is not known.
    pub(crate) fn number(&self, begun: Option<u64>, shown: Option<u64>) -> Option<u64> {
        match self.until {
            Some(_) => Some(self.epoch),
            None => begun.or_else(|| shown.map(|shown| shown.max(self.epoch))),
        }
    }

    /// Whether nobody else can lead yet.
    pub(crate) fn is_valid(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

/// Takes part until `stop` is cancelled, and then gives the lease up. `shown` is the number of the last term in which somebody
/// wrote to the database: nobody stands for election who does not know it.
pub(crate) async fn run(
    client: kube::Client,
    config: Election,
    shown: watch::Receiver<Option<u64>>,
    term: watch::Sender<Option<Term>>,
    stop: CancellationToken,
) {
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={}", config.name));
    let mut events = std::pin::pin!(watcher::watcher(api.clone(), only).default_backoff());
    let mut candidate = Candidate { api, config, shown, lease: None, seen: Instant::now(), listed: false };
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            next = candidate.act(&term).await;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = sleep_until(next) => {}
            Ok(()) = candidate.shown.changed() => {
                if term.borrow().is_none() {
                    next = Instant::now();
                }
            }
            Some(event) = events.next() => {
                // Whoever leads learns of others when it renews: the lease that it has seen last is its condition.
                if term.borrow().is_none() && candidate.take(event) {
                    next = Instant::now();
                }
            }
        }
    }
    if term.send_replace(None).is_some() {
        candidate.resign().await;
    }
}

struct Candidate {
    api: Api<Lease>,
    config: Election,
    shown: watch::Receiver<Option<u64>>,
    /// As the API server showed it last, and since when.
    lease: Option<Lease>,
    seen: Instant,
    /// Whether it is known if there is one.
    listed: bool,
}

impl Candidate {
    /// Takes in what the watch says; whether that changes who leads.
    fn take(&mut self, event: Result<Event<Lease>, watcher::Error>) -> bool {
        match event {
            Ok(Event::Init) | Err(_) => return false,
            Ok(Event::InitDone) => self.listed = true,
            Ok(Event::Apply(lease) | Event::InitApply(lease)) => self.keep(lease),
            Ok(Event::Delete(_)) => self.lease = None,
        }
        true
    }

    fn keep(&mut self, lease: Lease) {
        if self.lease.as_ref().is_none_or(|old| old.resource_version() != lease.resource_version()) {
            self.seen = Instant::now();
            self.lease = Some(lease);
        }
    }

    fn spec(&self) -> LeaseSpec {
        self.lease.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default()
    }

    /// Stands for election, or renews; returns when to act again, whatever is heard until then.
    async fn act(&mut self, term: &watch::Sender<Option<Term>>) -> Instant {
        let now = Instant::now();
        let held = *term.borrow();
        if let Some(held) = held {
            if !held.is_valid() {
                tracing::warn!(epoch = held.epoch, "the lease could not be renewed in time");
                term.send_replace(None);
                return now;
            }
        } else if !self.listed || self.shown.borrow().is_none() {
            // To be woken when both are known.
            return now + Duration::from_secs(3600);
        } else if let Some(free) = self.taken_until().filter(|free| now < *free) {
            return free;
        }
        match timeout(self.config.timeout, self.write(held)).await {
            Ok(Ok(lease)) => {
                let epoch = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).and_then(|n| u64::try_from(n).ok());
                let epoch = epoch.unwrap_or_default();
                self.keep(lease);
                if held.is_none_or(|held| held.epoch != epoch) {
                    tracing::info!(epoch, identity = %self.config.identity, "leading");
                }
                term.send_replace(Some(Term { epoch, until: Some(now + self.config.duration) }));
                now + self.config.renew
            }
            failed => {
                match &failed {
                    // Somebody was faster.
                    Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                    Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be written"),
                    _ => tracing::warn!("no answer while the lease was to be written"),
                }
                self.look_again(term, held).await;
                let pause = if term.borrow().is_some() { self.config.retry } else { self.config.renew };
                Instant::now() + pause
            }
        }
    }

    /// Until when this controller may not take the lease; `None` if it is free, or this controller's from before it was started anew.
    fn taken_until(&self) -> Option<Instant> {
        let spec = self.spec();
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty() && *holder != self.config.identity)?;
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        tracing::debug!(%holder, seconds, "another controller leads");
        Some(self.seen + Duration::from_secs(seconds))
    }

    /// Puts this controller's name, and a new time, into the lease, unless somebody else has changed it since it was seen.
    async fn write(&self, held: Option<Term>) -> Result<Lease, kube::Error> {
        let (now, old) = (MicroTime(Timestamp::now()), self.spec());
        let last = u64::try_from(old.lease_transitions.unwrap_or_default()).unwrap_or_default();
        let shown = self.shown.borrow().unwrap_or_default();
        // A database may have seen later terms than the lease, which was lost with the API server's data.
        let number = match held {
            Some(held) if shown <= held.epoch => held.epoch,
            _ => last.max(shown) + 1,
        };
        let spec = LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.config.duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: old.acquire_time.filter(|_| held.is_some()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(i32::try_from(number).unwrap_or(i32::MAX)),
            ..old
        };
        let mut lease = self.lease.clone().unwrap_or_default();
        lease.spec = Some(spec);
        if self.lease.is_some() {
            // The resource version that was seen is the condition.
            self.api.replace(&self.config.name, &PostParams::default(), &lease).await
        } else {
            lease.metadata.name = Some(self.config.name.clone());
            self.api.create(&PostParams::default(), &lease).await
        }
    }

    /// After a write that failed: what is there now? Whoever finds another's name leads no more.
    async fn look_again(&mut self, term: &watch::Sender<Option<Term>>, held: Option<Term>) {
        let Ok(Ok(found)) = timeout(self.config.timeout, self.api.get_opt(&self.config.name)).await else { return };
        match found {
            Some(lease) => self.keep(lease),
            None => self.lease = None,
        }
        let holder = self.spec().holder_identity;
        if held.is_some() && self.lease.is_some() && holder.as_deref() != Some(self.config.identity.as_str()) {
            tracing::warn!(?holder, "deposed");
            term.send_replace(None);
        }
    }

    /// Gives the lease up, so that another takes it at once.
    async fn resign(&self) {
        let Some(mut lease) = self.lease.clone() else { return };
        let spec = LeaseSpec { holder_identity: Some(String::new()), renew_time: Some(MicroTime(Timestamp::now())), ..self.spec() };
        lease.spec = Some(spec);
        match timeout(self.config.timeout, self.api.replace(&self.config.name, &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => tracing::info!("gave the lease up"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be given up; it ends by itself"),
            Err(_) => tracing::warn!("no answer while giving the lease up; it ends by itself"),
        }
    }
}
