//! A future that runs on a thread of its own inside a network namespace.

use std::io;

use tokio::sync::oneshot;

use crate::{Error, Netns, Result};

/// A running future; dropping this cancels it.
#[derive(Debug)]
pub struct Task<T> {
    label: String,
    result: oneshot::Receiver<T>,
    // Dropped with the task: the thread sees it and drops the future.
    _cancel: oneshot::Sender<()>,
}

impl<T: Send + 'static> Task<T> {
    pub(crate) fn start<F, Fut>(netns: Netns, work: F) -> Result<Self>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
    {
        let label = netns.label().to_owned();
        let fail = |cause: io::Error| Error::new(&label, "start a thread inside", cause);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let (done, result) = oneshot::channel();
        let (cancel, cancelled) = oneshot::channel::<()>();
        netns.run(|| ())?; // whether it can be entered is known before the thread is let go
        std::thread::Builder::new()
            .name("netns-task".to_owned())
            .spawn(move || {
                if netns.enter().is_err() {
                    return;
                }
                runtime.block_on(async move {
                    tokio::select! {
                        value = work() => { let _ = done.send(value); }
                        _ = cancelled => {}
                    }
                });
            })
            .map_err(fail)?;
        Ok(Self { label, result, _cancel: cancel })
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// When the future panicked.
    pub async fn join(self) -> Result<T> {
        self.result.await.map_err(|_| Error::new(self.label, "finish a task inside", io::Error::other("it panicked")))
    }
}

#[cfg(test)]
mod tests {
    use crate::Netns;
    use crate::scratch::Scratch;

    #[tokio::test]
    async fn a_future_runs_inside_the_namespace() {
        let scratch = Scratch::new("task");
        let task = scratch.netns.spawn(|| async { Netns::current().unwrap() }).unwrap();
        assert_eq!(task.join().await.unwrap(), scratch.netns);
        let panics = scratch.netns.spawn(|| async { assert!(std::hint::black_box(false)) }).unwrap();
        assert!(panics.join().await.is_err());
    }
}
