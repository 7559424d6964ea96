//! The engine: inputs in, changed facts out.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::claims::{Claimant, Conflict, Ledger};
use crate::collection::{Age, Collection, Index, Slot};
use crate::cx::{Cx, Out};
use crate::readers::{Readers, Task};
use crate::rule::{AnyRule, RuleNode, put};

/// Whom changes wake: readers of questions, and the runs of changed objects.
#[derive(Default)]
pub(crate) struct Wake {
    pub(crate) questions: Vec<u64>,
    pub(crate) inputs: Vec<(u16, Box<dyn Any + Send>)>,
}

/// All facts, and what was believed of those touched since the last settle. That is boxed because at a start there is
/// none of it, and many are touched.
pub(crate) struct Facts<F: crate::Fact> {
    ledger: Ledger<F, F::Value>,
    touched: BTreeMap<Arc<F>, Option<Box<F::Value>>>,
}

impl<F: crate::Fact> Facts<F> {
    /// Takes in what a run says now, sorted by fact, in place of `old`.
    pub(crate) fn say(&mut self, task: Task, age: Age, old: &[Arc<F>], new: Vec<(F, F::Value)>) -> Box<[Arc<F>]> {
        self.ledger.say((task, age), old, new, |fact, before| {
            if !self.touched.contains_key(fact) {
                self.touched.insert(Arc::clone(fact), before.cloned().map(Box::new));
            }
        })
    }
}

/// A fact whose value changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<F: crate::Fact>
where
    F::Value: std::fmt::Debug,
{
    /// The fact.
    pub fact: F,
    /// Value before; `None` when it was not said.
    pub before: Option<F::Value>,
    /// Value after; `None` when it is not said any more.
    pub after: Option<F::Value>,
}

/// How often a rule ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule's name.
    pub rule: &'static str,
    /// Runs in this settle.
    pub runs: u64,
}

/// What a settle did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled<F: crate::Fact>
where
    F::Value: std::fmt::Debug,
{
    /// Facts that changed, in their order.
    pub changes: Vec<Changed<F>>,
    /// Runs by rule, in the order of registration.
    pub counts: Vec<RuleCount>,
    /// Elements read by all runs.
    pub reads: u64,
}

impl<F: crate::Fact> Settled<F>
where
    F::Value: std::fmt::Debug,
{
    /// Runs of all rules.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.counts.iter().map(|c| c.runs).sum()
    }
}

/// Rules over a world, run incrementally.
pub struct Engine<W, F: crate::Fact> {
    world: W,
    rules: Vec<Box<dyn AnyRule<W, F>>>,
    readers: Readers,
    facts: Facts<F>,
    dirty: Vec<FxHashSet<u32>>,
}

impl<W: Default + 'static, F: crate::Fact> Default for Engine<W, F>
where
    F::Value: std::fmt::Debug,
{
    fn default() -> Self {
        Self::new(W::default())
    }
}

impl<W: 'static, F: crate::Fact> Engine<W, F>
where
    F::Value: std::fmt::Debug,
{
    /// An engine over an empty world.
    pub fn new(world: W) -> Self {
        let facts = Facts { ledger: Ledger::default(), touched: BTreeMap::new() };
        Self { world, rules: Vec::new(), readers: Readers::default(), facts, dirty: Vec::new() }
    }

    /// The world, to look at.
    pub const fn world(&self) -> &W {
        &self.world
    }

    /// Keeps the index `I`. Declared before objects of its collection are set.
    pub fn index<I: Index<W>>(&mut self) {
        I::Of::table_mut(&mut self.world).add_index::<W, I>();
    }

    /// Adds a rule: it runs once for each object of `I`, and may derive objects of `D`. It must come after the rules whose
    /// derived objects it reads, and before objects are set.
    pub fn rule<I, D>(&mut self, name: &'static str, body: impl Fn(&mut Cx<'_, W>, &I::Key, &I, &mut Out<F, D::Key, D>) + Send + 'static)
    where
        I: Collection<W>,
        D: Collection<W>,
    {
        let number = u16::try_from(self.rules.len()).unwrap_or(u16::MAX);
        self.rules.push(Box::new(RuleNode::<W, I, D, F>::new(number, name, Box::new(body))));
        self.dirty.push(FxHashSet::default());
    }

    /// Adds a rule that only says facts.
    pub fn leaf<I>(&mut self, name: &'static str, body: impl Fn(&mut Cx<'_, W>, &I::Key, &I, &mut Out<F>) + Send + 'static)
    where
        I: Collection<W>,
    {
        self.rule::<I, I>(name, move |cx, key, value, out| {
            let mut said = Out { facts: std::mem::take(&mut out.facts), derived: Vec::new() };
            body(cx, key, value, &mut said);
            out.facts = said.facts;
        });
    }

    /// Names of the rules, in the order of registration.
    pub fn rules(&self) -> impl Iterator<Item = &'static str> {
        self.rules.iter().map(|rule| rule.name())
    }

    /// Sets an input object, or with `None` removes it. Takes effect at the next settle.
    pub fn set<C: Collection<W>>(&mut self, key: &C::Key, value: Option<C>, age: Age) {
        let mut wake = Wake::default();
        put::<W, C>(&mut self.world, key, value.map(|value| Slot { value, age }), &mut wake);
        self.mark(wake, None);
    }

    /// Marks what `wake` names as dirty.
    fn mark(&mut self, wake: Wake, running: Option<usize>) {
        let dirty = &mut self.dirty;
        let first = running.map_or(0, |r| r + 1);
        for question in wake.questions {
            self.readers.of(question, |task| {
                // A collision of fingerprints may name an earlier rule: then there is nothing to do.
                if usize::from(task.rule) >= first {
                    dirty[usize::from(task.rule)].insert(task.slot);
                }
            });
        }
        for (collection, key) in wake.inputs {
            for (number, rule) in self.rules.iter_mut().enumerate().filter(|(_, r)| r.input() == collection) {
                debug_assert!(number >= first, "rule {} reads what a later rule derives", rule.name());
                if let Some(slot) = rule.wake(key.as_ref()) {
                    dirty[number].insert(slot);
                }
            }
        }
    }

    /// Runs what changes since the last settle touch, and returns the facts that changed.
    pub fn settle(&mut self) -> Settled<F> {
        let mut counts = Vec::with_capacity(self.rules.len());
        let mut reads = 0;
        for number in 0..self.rules.len() {
            // Taken, not drained: a set that was large once would keep its room, and clearing it would cost as much each time.
            let mut slots: Vec<u32> = std::mem::take(&mut self.dirty[number]).into_iter().collect();
            slots.sort_unstable();
            let mut runs = 0;
            for slot in slots {
                let mut wake = Wake::default();
                reads += self.rules[number].run(slot, &mut self.world, &mut self.readers, &mut self.facts, &mut wake);
                runs += 1;
                self.mark(wake, Some(number));
            }
            counts.push(RuleCount { rule: self.rules[number].name(), runs });
        }
        let touched = std::mem::take(&mut self.facts.touched);
        let mut changes = Vec::with_capacity(touched.len());
        for (fact, before) in touched {
            let order = |task: Task| (task.rule, self.rules[usize::from(task.rule)].key_text(task.slot));
            let after = self.facts.ledger.believe(&fact, &order).map(|claim| &claim.value);
            if before.as_deref() != after {
                let (before, after) = (before.map(|value| *value), after.cloned());
                changes.push(Changed { fact: Arc::unwrap_or_clone(fact), before, after });
            }
        }
        Settled { changes, counts, reads }
    }

    /// What is said of `fact` as of the last settle.
    pub fn desired(&self, fact: &F) -> Option<&F::Value> {
        self.facts.ledger.believed(fact)
    }

    /// All facts as of the last settle, in no particular order.
    pub fn facts(&self) -> impl Iterator<Item = (&F, &F::Value)> {
        self.facts.ledger.iter()
    }

    /// Sets every object of an input collection in `other` too, which has the same rules.
    pub fn copy_into<C: Collection<W>>(&self, other: &mut Self) {
        for (key, slot) in &C::table(&self.world).rows {
            other.set::<C>(key, Some(slot.value.clone()), slot.age);
        }
    }

    /// The facts of which this engine and `other` do not believe the same: `before` is what this one believes, `after` the other.
    pub fn differences(&self, other: &Self) -> Vec<Changed<F>> {
        let mine = self.facts().filter(|(fact, value)| other.desired(fact) != Some(value));
        let mut differences: Vec<_> = mine
            .map(|(fact, value)| Changed { fact: fact.clone(), before: Some(value.clone()), after: other.desired(fact).cloned() })
            .collect();
        let theirs = other.facts().filter(|(fact, _)| self.desired(fact).is_none());
        differences.extend(theirs.map(|(fact, value)| Changed { fact: fact.clone(), before: None, after: Some(value.clone()) }));
        differences.sort_by(|a, b| a.fact.cmp(&b.fact));
        differences
    }

    /// The facts that several owners say differently.
    pub fn conflicts(&self) -> Vec<Conflict<F>> {
        let mut conflicts: Vec<_> = self.facts.ledger.keys().filter_map(|fact| self.conflict(fact)).collect();
        conflicts.sort_by(|a, b| a.fact.cmp(&b.fact));
        conflicts
    }

    /// The owners of `fact`, if they say it differently.
    pub fn conflict(&self, fact: &F) -> Option<Conflict<F>> {
        let disputed = self.facts.ledger.disputed(fact);
        if disputed.is_empty() {
            return None;
        }
        let claimant = |task: Task, age| {
            let rule = &self.rules[usize::from(task.rule)];
            (task.rule, Claimant { age, rule: rule.name(), key: rule.key_text(task.slot) })
        };
        let mut claimants: Vec<_> = disputed.iter().map(|c| claimant(c.task, c.age)).collect();
        claimants.sort_by(|(ra, a), (rb, b)| (a.age, ra, &a.key).cmp(&(b.age, rb, &b.key)));
        Some(Conflict { fact: fact.clone(), claimants: claimants.into_iter().map(|(_, c)| c).collect() })
    }

    /// Facts said, and questions remembered: what the engine's memory grows with.
    pub fn size(&self) -> (usize, usize) {
        (self.facts.ledger.len(), self.readers.len())
    }
}
