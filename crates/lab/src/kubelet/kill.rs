//! Ending every process of a pod, those included that its commands started.

use std::time::Duration;

use futures::future::join_all;
use linux::process::{self, Process, Signal};

use crate::machine::MACHINE_MARK;

/// Environment variable that every process of a pod carries.
pub(crate) const POD_MARK: &str = "FERROVIA_POD";

pub(crate) fn pod_mark(uid: &str) -> (String, String) {
    (POD_MARK.to_owned(), uid.to_owned())
}

fn processes(mark: &str, uid: &str) -> Vec<Process> {
    process::with_environment(&format!("{mark}={uid}")).into_iter().filter_map(|pid| Process::open(pid).ok()).collect()
}

/// Ends QEMU, if the pod is a virtual machine whose own process has left it behind.
pub(crate) async fn machine(uid: &str) -> anyhow::Result<()> {
    for qemu in processes(MACHINE_MARK, uid) {
        qemu.signal(Signal::KILL)?;
        qemu.exited().await?;
    }
    Ok(())
}

/// Asks the pod's processes to end, and after `grace` makes them.
pub(crate) async fn all(uid: &str, grace: Duration) -> anyhow::Result<()> {
    let asked = processes(POD_MARK, uid);
    for process in &asked {
        process.signal(Signal::TERM)?;
    }
    let _ = tokio::time::timeout(grace, join_all(asked.iter().map(Process::exited))).await;
    loop {
        let left = processes(POD_MARK, uid);
        // Those that were our children, and nobody waits for any more.
        asked.iter().for_each(|process| {
            let _ = process.reap();
        });
        if left.is_empty() {
            return machine(uid).await;
        }
        for process in &left {
            process.signal(Signal::KILL)?;
        }
        join_all(left.iter().map(Process::exited)).await;
        left.iter().for_each(|process| {
            let _ = process.reap();
        });
    }
}
