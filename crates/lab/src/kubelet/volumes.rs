//! Volumes of pods: empty folders (`emptyDir`), where a real kubelet has them, and with its mode.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;

use crate::{Layout, Place};

fn folder(layout: &Layout, node: Place, uid: &str) -> PathBuf {
    layout.kubelet(node).join("pods").join(uid)
}

/// Makes the volumes of a pod. Those that are there stay.
pub(super) fn make(layout: &Layout, node: Place, uid: &str, pod: &Pod) -> anyhow::Result<()> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes.filter(|volume| volume.empty_dir.is_some()) {
        let folder = folder(layout, node, uid).join("volumes/kubernetes.io~empty-dir").join(&volume.name);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o777)))
            .with_context(|| format!("cannot make volume {}", volume.name))?;
    }
    Ok(())
}

/// Takes the volumes of a pod away, with what is in them.
pub(super) fn remove(layout: &Layout, node: Place, uid: &str) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder(layout, node, uid)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("cannot remove the pod's volumes"),
        _ => Ok(()),
    }
}
