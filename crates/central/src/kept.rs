//! A daemon that is kept running.

use std::time::Duration;

use linux::process::Process;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::daemon::Daemon;

/// Someone wants the program started afresh; the answer comes when it runs again.
pub(crate) type Restart = oneshot::Sender<()>;

/// How long a program must have run for the next start to come at once.
const STEADY: Duration = Duration::from_secs(10);

/// When to start, and for whom.
pub(crate) struct Kept {
    pub(crate) restarts: mpsc::Receiver<Restart>,
    backoff: (Duration, Duration),
    pause: Duration,
    began: Option<Instant>,
    waiting: Vec<Restart>,
}

/// How a life of the program began.
pub(crate) enum Begun {
    /// It was running already.
    Adopted(Process),
    /// It was started.
    Started(Process),
}

impl Kept {
    pub(crate) fn new(restarts: mpsc::Receiver<Restart>, backoff: (Duration, Duration)) -> Self {
        Self { restarts, backoff, pause: Duration::ZERO, began: None, waiting: Vec::new() }
    }

    /// Waits until the program may be started, longer each time that it ends soon.
    pub(crate) async fn turn(&mut self) {
        let soon = self.began.take().is_some_and(|began| began.elapsed() < STEADY);
        self.pause = if soon { (self.pause * 2).clamp(self.backoff.0, self.backoff.1) } else { Duration::ZERO };
        sleep(self.pause).await;
    }

    /// It runs: whoever waits for that is told.
    pub(crate) fn runs(&mut self) {
        self.began = Some(Instant::now());
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(());
        }
    }

    /// It did not start.
    pub(crate) fn failed(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Waits until the process ends, or ends it because someone asks for a restart.
    pub(crate) async fn ended(&mut self, process: Process) -> anyhow::Result<()> {
        tokio::select! {
            exited = process.exited() => exited?,
            Some(asked) = self.restarts.recv() => {
                self.waiting.push(asked);
                Daemon::stop(process).await?;
                // It was wanted: no reason to wait.
                self.began = None;
            }
        }
        Ok(())
    }
}
