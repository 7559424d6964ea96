//! One registered rule and its runs.

use std::any::Any;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::claims::Ledger;
use crate::collection::{Age, Collection, Slot, key_fingerprint};
use crate::cx::{Cx, Out};
use crate::engine::{Facts, Wake};
use crate::readers::{Readers, Task};

/// The function of a rule.
pub(crate) type Body<W, I, D, F> =
    Box<dyn Fn(&mut Cx<'_, W>, &<I as Collection<W>>::Key, &I, &mut Out<F, <D as Collection<W>>::Key, D>) + Send>;

/// The run of a rule over `I` that derives `D`.
type RunOf<W, I, D, F> = Run<<I as Collection<W>>::Key, F, <D as Collection<W>>::Key>;

/// What a run left behind: what it said is in the ledgers. Lists do not grow later, so they have no room to spare.
struct Run<K, F, DK> {
    key: K,
    questions: Box<[u64]>,
    facts: Box<[Arc<F>]>,
    derived: Box<[Arc<DK>]>,
}

pub(crate) struct RuleNode<W, I: Collection<W>, D: Collection<W>, F: crate::Fact> {
    pub(crate) number: u16,
    pub(crate) name: &'static str,
    body: Body<W, I, D, F>,
    slots: FxHashMap<I::Key, u32>,
    runs: Vec<Option<RunOf<W, I, D, F>>>,
    free: Vec<u32>,
    ledger: Ledger<D::Key, D>,
}

/// A rule whose types are forgotten.
pub(crate) trait AnyRule<W, F: crate::Fact>: Send {
    fn name(&self) -> &'static str;
    fn input(&self) -> u16;
    /// An input object appeared, changed or went: makes sure that its run is (un)registered and says which slot to run.
    fn wake(&mut self, key: &dyn Any) -> Option<u32>;
    /// Runs one slot; returns the number of elements read.
    fn run(&mut self, slot: u32, world: &mut W, readers: &mut Readers, facts: &mut Facts<F>, wake: &mut Wake) -> u64;
    fn key_text(&self, slot: u32) -> String;
}

impl<W: 'static, I: Collection<W>, D: Collection<W>, F: crate::Fact> RuleNode<W, I, D, F> {
    pub(crate) fn new(number: u16, name: &'static str, body: Body<W, I, D, F>) -> Self {
        Self { number, name, body, slots: FxHashMap::default(), runs: Vec::new(), free: Vec::new(), ledger: Ledger::default() }
    }

    /// Takes in what a run derives now, in place of `old`.
    fn derive(
        &mut self,
        (task, age): (Task, Age),
        old: &[Arc<D::Key>],
        new: Vec<(D::Key, D)>,
        world: &mut W,
        wake: &mut Wake,
    ) -> Box<[Arc<D::Key>]> {
        let mut changed: Vec<Arc<D::Key>> = Vec::new();
        let keys = self.ledger.say((task, age), old, new, |key, _| changed.push(Arc::clone(key)));
        let order = |task: Task| (task.rule, key_text(&self.runs, task.slot));
        for key in changed {
            let slot = self.ledger.believe(&key, &order).map(|claim| Slot { value: claim.value.clone(), age: claim.age });
            put::<W, D>(world, &key, slot, wake);
        }
        keys
    }
}

/// The key of the run in `slot` as conflicts name it.
fn key_text<K: std::fmt::Debug, F, DK>(runs: &[Option<Run<K, F, DK>>], slot: u32) -> String {
    runs.get(slot as usize).and_then(Option::as_ref).map(|run| format!("{:?}", run.key)).unwrap_or_default()
}

/// Stores or removes an object of a collection and notes whom that wakes.
pub(crate) fn put<W: 'static, C: Collection<W>>(world: &mut W, key: &C::Key, slot: Option<Slot<C>>, wake: &mut Wake) {
    let table = C::table_mut(world);
    let (same_value, same_age) = match (table.rows.get(key), &slot) {
        (Some(old), Some(new)) => (old.value == new.value, old.age == new.age),
        (None, None) => (true, true),
        _ => (false, false),
    };
    if same_value && same_age {
        return;
    }
    let mut touched = Vec::new();
    table.put(key, slot, &mut touched);
    if !same_value {
        touched.push(key_fingerprint::<W, C>(key));
    }
    wake.questions.append(&mut touched);
    wake.inputs.push((C::ID, Box::new(key.clone())));
}

/// Sorts by key and keeps the last of equal keys.
fn normalise<K: Ord, V>(pairs: &mut Vec<(K, V)>) {
    pairs.reverse();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs.dedup_by(|later, first| later.0 == first.0);
}

impl<W: 'static, I: Collection<W>, D: Collection<W>, F: crate::Fact> AnyRule<W, F> for RuleNode<W, I, D, F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn input(&self) -> u16 {
        I::ID
    }

    fn wake(&mut self, key: &dyn Any) -> Option<u32> {
        let key = key.downcast_ref::<I::Key>()?;
        if let Some(slot) = self.slots.get(key) {
            return Some(*slot);
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.runs.push(None);
                u32::try_from(self.runs.len() - 1).ok()?
            }
        };
        let run = Run { key: key.clone(), questions: Box::default(), facts: Box::default(), derived: Box::default() };
        self.runs[slot as usize] = Some(run);
        self.slots.insert(key.clone(), slot);
        Some(slot)
    }

    fn run(&mut self, slot: u32, world: &mut W, readers: &mut Readers, facts: &mut Facts<F>, wake: &mut Wake) -> u64 {
        let Some(old) = self.runs.get_mut(slot as usize).and_then(Option::take) else { return 0 };
        let task = Task { rule: self.number, slot };
        let mut out = Out { facts: Vec::new(), derived: Vec::new() };
        let mut cx = Cx { world, questions: Vec::new(), reads: 0 };
        let input = I::table(world).rows.get(&old.key);
        let age = input.map_or_else(Age::default, |slot| slot.age);
        if let Some(slot) = input {
            (self.body)(&mut cx, &old.key, &slot.value, &mut out);
        }
        let gone = input.is_none();
        let (mut questions, reads) = (cx.questions, cx.reads);
        questions.sort_unstable();
        questions.dedup();
        for question in old.questions.iter().filter(|q| questions.binary_search(q).is_err()) {
            readers.remove(*question, task);
        }
        for question in questions.iter().filter(|q| old.questions.binary_search(q).is_err()) {
            readers.add(*question, task);
        }
        normalise(&mut out.facts);
        normalise(&mut out.derived);
        let facts = facts.say(task, age, &old.facts, out.facts);
        let key = old.key;
        self.runs[slot as usize] = Some(Run { key: key.clone(), questions: questions.into(), facts, derived: Box::default() });
        let derived = self.derive((task, age), &old.derived, out.derived, world, wake);
        if gone {
            // Only now, so that ties between claims could still be broken by this run's key.
            self.runs[slot as usize] = None;
            self.slots.remove(&key);
            self.free.push(slot);
        } else if let Some(run) = &mut self.runs[slot as usize] {
            run.derived = derived;
        }
        reads + 1
    }

    fn key_text(&self, slot: u32) -> String {
        key_text(&self.runs, slot)
    }
}
