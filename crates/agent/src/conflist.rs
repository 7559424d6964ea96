//! The CNI configuration that tells the container runtime of us. Installed in one step when the node can serve, and again when it
//! is gone or somebody changed it.

use std::io;
use std::path::Path;
use std::time::Duration;

use linux::Folder;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// The list of plugins. Runtimes that know no other version than the first use that.
fn content(portmap: bool) -> Value {
    let mut plugins = vec![json!({ "type": "ferrovia", "capabilities": { "bandwidth": true, "dns": true, "ips": true, "mac": true } })];
    if portmap {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    }
    json!({ "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"], "name": "ferrovia", "plugins": plugins })
}

/// Writes the file unless it is as wanted. Returns whether it did.
pub(crate) fn install(path: &Path, portmap: bool) -> io::Result<bool> {
    let wanted = format!("{:#}\n", content(portmap));
    match std::fs::read(path) {
        Ok(shown) if shown == wanted.as_bytes() => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A name that no runtime reads.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, wanted)?;
    std::fs::rename(&fresh, path)?;
    Ok(true)
}

/// Watches the folder of a file, which is made if it is not there.
fn watch(path: &Path) -> io::Result<Folder> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    Folder::watch(folder).map_err(io::Error::other)
}

/// Keeps the file until `shutdown`.
pub(crate) async fn keep(path: &Path, portmap: bool, shutdown: &CancellationToken) {
    loop {
        let changed = async {
            let installed = watch(path).and_then(|mut folder| {
                if install(path, portmap)? {
                    tracing::info!(path = %path.display(), "CNI configuration installed");
                }
                // Watched before: what happened while it was installed wakes.
                Ok(async move { folder.changed().await })
            });
            match installed {
                Ok(changed) => drop(changed.await),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "CNI configuration cannot be installed; tried again");
                    sleep(PAUSE).await;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_removed_or_changed_is_installed_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.d/01-ferrovia.conflist");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        assert!(install(&path, true).unwrap());
        assert!(!install(&path, true).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let shutdown = CancellationToken::new();
        let mut watch = Folder::watch(path.parent().unwrap()).unwrap();
        let keeper = {
            let (path, shutdown) = (path.clone(), shutdown.clone());
            tokio::spawn(async move { keep(&path, true, &shutdown).await })
        };
        for spoil in [true, false] {
            if spoil {
                std::fs::write(&path, "{}").unwrap()
            } else {
                std::fs::remove_file(&path).unwrap()
            }
            let back = async {
                while std::fs::read(&path).ok().as_ref() != Some(&whole) {
                    watch.changed().await.unwrap();
                }
            };
            tokio::time::timeout(Duration::from_secs(5), back).await.unwrap();
        }
        shutdown.cancel();
        keeper.await.unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
