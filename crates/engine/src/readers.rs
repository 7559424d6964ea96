//! Who read what: from a question's fingerprint to the runs that asked it.

use rustc_hash::{FxHashMap, FxHashSet};

/// One run of one rule: the rule's number and the run's slot in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Task {
    pub(crate) rule: u16,
    pub(crate) slot: u32,
}

/// Most questions have one reader, which takes no list, or two; a few have a hundred thousand. Removal is O(1) for all.
enum Set {
    One(Task),
    Few(Vec<Task>),
    Many(FxHashSet<Task>),
}

const FEW: usize = 8;

#[derive(Default)]
pub(crate) struct Readers(FxHashMap<u64, Set>);

impl Readers {
    pub(crate) fn add(&mut self, question: u64, task: Task) {
        let Some(set) = self.0.get_mut(&question) else {
            self.0.insert(question, Set::One(task));
            return;
        };
        match set {
            Set::One(only) if *only == task => {}
            Set::One(only) => *set = Set::Few(vec![*only, task]),
            Set::Few(list) if list.contains(&task) => {}
            Set::Few(list) if list.len() < FEW => list.push(task),
            Set::Few(list) => *set = Set::Many(list.drain(..).chain([task]).collect()),
            Set::Many(many) => drop(many.insert(task)),
        }
    }

    pub(crate) fn remove(&mut self, question: u64, task: Task) {
        let Some(set) = self.0.get_mut(&question) else { return };
        let empty = match set {
            Set::One(only) => *only == task,
            Set::Few(list) => {
                list.retain(|t| *t != task);
                list.is_empty()
            }
            Set::Many(many) => {
                many.remove(&task);
                many.is_empty()
            }
        };
        if empty {
            self.0.remove(&question);
        }
    }

    pub(crate) fn of(&self, question: u64, mut each: impl FnMut(Task)) {
        match self.0.get(&question) {
            Some(Set::One(only)) => each(*only),
            Some(Set::Few(list)) => list.iter().copied().for_each(&mut each),
            Some(Set::Many(many)) => many.iter().copied().for_each(&mut each),
            None => {}
        }
    }

    /// Number of questions with readers.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
