//! Who holds a NIC, and what keeps its addresses when no pod does.

use std::sync::Arc;

use api::annotations::NicRecord;
use engine::{Collection, Cx, Index};

use crate::world::{Attached, Name, Networks, Pod, PodKey, World};

/// What keeps the addresses of its pods while they are gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workload {
    /// A StatefulSet, by name: each ordinal keeps its own, while it is within the replicas.
    StatefulSet(Name),
    /// A virtual machine: its pods come under ever new names, and the NIC is on the machine's.
    VirtualMachine(Name),
}

/// Who a NIC belongs to. A NIC passes from one pod to the next when theirs is the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// This very pod, by uid: a new one of the same name asks anew.
    Pod(Name),
    /// A workload of the pod's namespace.
    Workload(Workload),
    /// Whoever has the name that a user reserved.
    Reserved,
}

impl Pod {
    /// The name that the pod's NIC is on: its own, or its virtual machine's.
    #[must_use]
    pub fn holder(&self, key: &PodKey) -> PodKey {
        match &self.workload {
            Some(Workload::VirtualMachine(machine)) => PodKey { namespace: Arc::clone(&key.namespace), name: Arc::clone(machine) },
            _ => key.clone(),
        }
    }

    /// Who the pod's NIC belongs to, unless its name was reserved.
    #[must_use]
    pub fn identity(&self) -> Identity {
        match &self.workload {
            Some(workload) => Identity::Workload(workload.clone()),
            None => Identity::Pod(Arc::clone(&self.uid)),
        }
    }
}

/// Pods whose NIC is on another name than theirs, by that name.
pub(crate) struct PodsByHolder;
impl Index<World> for PodsByHolder {
    type Of = Pod;
    type Key = PodKey;
    fn keys(key: &PodKey, pod: &Pod, out: &mut Vec<PodKey>) {
        let holder = pod.holder(key);
        if holder != *key {
            out.push(holder);
        }
    }
}

/// The pods that share the NIC on the name `holder`. One, but for a virtual machine that moves.
pub(crate) fn pods<'w>(cx: &mut Cx<'w, World>, holder: &PodKey, identity: Option<&Identity>) -> Vec<(PodKey, &'w Pod)> {
    let own = cx.get::<Pod>(holder).filter(|pod| pod.holder(holder) == *holder);
    let mut found: Vec<_> = own.into_iter().map(|pod| (holder.clone(), pod)).collect();
    // Whoever is on a name of its own need not be looked for under others.
    if !matches!(identity, Some(Identity::Pod(_) | Identity::Workload(Workload::StatefulSet(_)))) {
        found.extend(cx.rows::<PodsByHolder>(holder).into_iter().map(|(key, pod)| (key.clone(), pod)));
    }
    found.retain(|(_, pod)| identity.is_none_or(|identity| *identity == Identity::Reserved || pod.identity() == *identity));
    found
}

/// The providers of all NICs that a pod has, now; of its primary one there is none.
pub fn providers(world: &World, pod: &PodKey) -> impl Iterator<Item = Option<Name>> {
    let attached = <Attached as Collection<World>>::table(world).get(pod);
    std::iter::once(None).chain(attached.into_iter().flat_map(|attached| &attached.0).map(|nic| Some(Arc::clone(&nic.provider))))
}

/// What a pod's annotations record of its NIC of this provider.
#[must_use]
pub fn recorded<'w>(world: &'w World, pod: &PodKey, provider: Option<&Name>) -> Option<&'w NicRecord> {
    match provider {
        None => <Pod as Collection<World>>::table(world).get(pod)?.recorded.as_ref(),
        Some(provider) => <Networks as Collection<World>>::table(world).get(pod)?.notes.get(&**provider)?.recorded.as_ref(),
    }
}

/// The pods of which `holder` is the NIC's name, now.
#[must_use]
pub fn pods_on(world: &World, holder: &PodKey) -> Vec<PodKey> {
    let table = <Pod as Collection<World>>::table(world);
    let own = table.get(holder).is_some_and(|pod| pod.holder(holder) == *holder).then(|| holder.clone());
    own.into_iter().chain(table.find::<World, PodsByHolder>(holder).into_iter().flatten().cloned()).collect()
}
