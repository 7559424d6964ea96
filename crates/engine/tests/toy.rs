//! The laws of the engine on a toy world: items live in rooms, rooms have owners, clubs select items by colour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use engine::{Age, Collection, Cx, Engine, Fact, Index, Out, Table};
use proptest::prelude::*;

#[derive(Default)]
struct World {
    items: Table<u8, Item>,
    rooms: Table<u8, Room>,
    clubs: Table<u8, Club>,
    places: Table<u8, Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    room: u8,
    colour: u8,
    nickname: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Room {
    owner: u8,
    noise: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Club {
    colour: u8,
}

/// What an item must know of its room: derived, and keyed by owner, so that two rooms of one owner conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    room: u8,
}

macro_rules! collection {
    ($ty:ty, $id:literal, $field:ident) => {
        impl Collection<World> for $ty {
            type Key = u8;
            const ID: u16 = $id;
            fn table(world: &World) -> &Table<u8, Self> {
                &world.$field
            }
            fn table_mut(world: &mut World) -> &mut Table<u8, Self> {
                &mut world.$field
            }
        }
    };
}
collection!(Item, 1, items);
collection!(Room, 2, rooms);
collection!(Club, 3, clubs);
collection!(Place, 4, places);

struct ClubsByColour;
impl Index<World> for ClubsByColour {
    type Of = Club;
    type Key = u8;
    fn keys(_: &u8, club: &Club, out: &mut Vec<u8>) {
        out.push(club.colour);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Said {
    Item(u8),
    Member(u8, u8),
    Nickname(u8),
}

impl Fact for Said {
    type Value = (u8, u8);
}

fn place(_: &mut Cx<'_, World>, key: &u8, room: &Room, out: &mut Out<Said, u8, Place>) {
    out.derive(room.owner, Place { room: *key });
}

fn item(cx: &mut Cx<'_, World>, key: &u8, item: &Item, out: &mut Out<Said>) {
    let Some(room) = cx.get::<Room>(&item.room) else { return };
    let home = cx.get::<Place>(&room.owner).map_or(0, |p| p.room);
    out.say(Said::Item(*key), (room.owner, home));
    out.say(Said::Nickname(item.nickname), (*key, 0));
    for club in cx.keys::<ClubsByColour>(&item.colour) {
        out.say(Said::Member(*club, *key), (0, 0));
    }
}

fn fresh() -> Engine<World, Said> {
    let mut engine = Engine::default();
    engine.index::<ClubsByColour>();
    engine.rule::<Room, Place>("place", place);
    engine.leaf::<Item>("item", item);
    engine
}

#[derive(Clone, Debug)]
enum Step {
    Item(u8, Option<Item>, i64),
    Room(u8, Option<Room>, i64),
    Club(u8, Option<Club>),
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let small = || 0u8..4;
    prop_oneof![
        (0u8..6, prop::option::of((small(), small(), small())), 0i64..3).prop_map(|(k, v, a)| Step::Item(
            k,
            v.map(|(room, colour, nickname)| Item { room, colour, nickname }),
            a
        )),
        (small(), prop::option::of((small(), small())), 0i64..3).prop_map(|(k, v, a)| Step::Room(
            k,
            v.map(|(owner, noise)| Room { owner, noise }),
            a
        )),
        (small(), prop::option::of(small())).prop_map(|(k, v)| Step::Club(k, v.map(|colour| Club { colour }))),
        Just(Step::Settle),
    ]
}

fn facts(engine: &Engine<World, Said>) -> BTreeMap<Said, (u8, u8)> {
    engine.facts().map(|(f, v)| (f.clone(), *v)).collect()
}

#[derive(Default)]
struct Model {
    items: BTreeMap<u8, (Item, i64)>,
    rooms: BTreeMap<u8, (Room, i64)>,
    clubs: BTreeMap<u8, Club>,
}

impl Model {
    fn built_from_scratch(&self, reversed: bool) -> Engine<World, Said> {
        let mut engine = fresh();
        let mut steps: Vec<Step> = Vec::new();
        steps.extend(self.items.iter().map(|(k, (v, a))| Step::Item(*k, Some(v.clone()), *a)));
        steps.extend(self.rooms.iter().map(|(k, (v, a))| Step::Room(*k, Some(v.clone()), *a)));
        steps.extend(self.clubs.iter().map(|(k, v)| Step::Club(*k, Some(v.clone()))));
        if reversed {
            steps.reverse();
        }
        for step in steps {
            apply(&mut engine, &step);
        }
        engine.settle();
        engine
    }
}

fn apply(engine: &mut Engine<World, Said>, step: &Step) {
    match step {
        Step::Item(k, v, a) => engine.set(k, v.clone(), Age(*a)),
        Step::Room(k, v, a) => engine.set(k, v.clone(), Age(*a)),
        Step::Club(k, v) => engine.set(k, v.clone(), Age(0)),
        Step::Settle => drop(engine.settle()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn incremental_equals_from_scratch(steps in prop::collection::vec(step(), 1..40)) {
        let mut engine = fresh();
        let mut model = Model::default();
        let mut told: BTreeMap<Said, (u8, u8)> = BTreeMap::new();
        for step in &steps {
            match step {
                Step::Item(k, Some(v), a) => drop(model.items.insert(*k, (v.clone(), *a))),
                Step::Item(k, None, _) => drop(model.items.remove(k)),
                Step::Room(k, Some(v), a) => drop(model.rooms.insert(*k, (v.clone(), *a))),
                Step::Room(k, None, _) => drop(model.rooms.remove(k)),
                Step::Club(k, Some(v)) => drop(model.clubs.insert(*k, v.clone())),
                Step::Club(k, None) => drop(model.clubs.remove(k)),
                Step::Settle => {}
            }
            if matches!(step, Step::Settle) {
                for change in engine.settle().changes {
                    prop_assert_eq!(told.get(&change.fact), change.before.as_ref());
                    match change.after {
                        Some(value) => drop(told.insert(change.fact, value)),
                        None => drop(told.remove(&change.fact)),
                    }
                }
            } else {
                apply(&mut engine, step);
            }
        }
        engine.settle();
        for reversed in [false, true] {
            let scratch = model.built_from_scratch(reversed);
            prop_assert_eq!(facts(&engine), facts(&scratch));
            prop_assert_eq!(engine.conflicts(), scratch.conflicts());
        }
        prop_assert!(engine.settle().changes.is_empty());
    }

    #[test]
    fn nothing_is_left_when_everything_goes(steps in prop::collection::vec(step(), 1..40)) {
        let mut engine = fresh();
        for step in &steps {
            apply(&mut engine, step);
        }
        engine.settle();
        for k in 0..8 {
            engine.set::<Item>(&k, None, Age(0));
            engine.set::<Room>(&k, None, Age(0));
            engine.set::<Club>(&k, None, Age(0));
        }
        engine.settle();
        prop_assert_eq!(engine.size(), (0, 0));
    }
}

#[test]
fn an_equal_object_wakes_nobody() {
    let mut engine = fresh();
    engine.set(&1, Some(Room { owner: 1, noise: 0 }), Age(0));
    for i in 0..100 {
        engine.set(&i, Some(Item { room: 1, colour: 1, nickname: i }), Age(0));
    }
    assert_eq!(engine.settle().runs(), 101);
    engine.set(&1, Some(Room { owner: 1, noise: 0 }), Age(0));
    assert_eq!(engine.settle().runs(), 0);
    // The item rule reads rooms: a change of the room reaches its items, and only them.
    engine.set(&2, Some(Room { owner: 2, noise: 0 }), Age(0));
    assert_eq!(engine.settle().runs(), 1);
}

#[test]
fn adding_one_costs_the_same_among_ten_and_two_hundred() {
    let cost = |n: u8| {
        let mut engine = fresh();
        engine.set(&1, Some(Room { owner: 1, noise: 0 }), Age(0));
        engine.set(&1, Some(Club { colour: 1 }), Age(0));
        for i in 0..n {
            engine.set(&i, Some(Item { room: 1, colour: 1, nickname: i }), Age(0));
        }
        engine.settle();
        engine.set(&n, Some(Item { room: 1, colour: 1, nickname: n }), Age(0));
        let settled = engine.settle();
        (settled.runs(), settled.reads, settled.changes.len())
    };
    assert_eq!(cost(10), cost(200));
}

#[test]
fn the_oldest_claim_wins_and_all_owners_are_named() {
    let mut engine = fresh();
    engine.set(&1, Some(Room { owner: 1, noise: 0 }), Age(0));
    engine.set(&5, Some(Item { room: 1, colour: 0, nickname: 9 }), Age(20));
    engine.set(&7, Some(Item { room: 1, colour: 0, nickname: 9 }), Age(10));
    engine.settle();
    assert_eq!(engine.desired(&Said::Nickname(9)), Some(&(7, 0)));
    let conflicts = engine.conflicts();
    let keys: Vec<_> = conflicts[0].claimants.iter().map(|c| c.key.as_str()).collect();
    assert_eq!((conflicts.len(), keys), (1, vec!["7", "5"]));
}

#[test]
fn a_rule_that_is_no_function_of_what_it_reads_shows_when_all_is_computed_anew() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};
    let elsewhere = Arc::new(AtomicU8::new(1));
    let engine = || {
        let (mut engine, elsewhere) = (Engine::<World, Said>::default(), Arc::clone(&elsewhere));
        engine.leaf::<Room>("impure", move |_, key, _, out| out.say(Said::Nickname(*key), (elsewhere.load(Ordering::Relaxed), 0)));
        engine
    };
    let (mut old, mut new) = (engine(), engine());
    old.set(&1, Some(Room { owner: 1, noise: 0 }), Age(0));
    old.settle();
    old.copy_into::<Room>(&mut new);
    new.settle();
    assert_eq!(old.differences(&new), []);
    // Nothing woke the rule.
    elsewhere.store(2, Ordering::Relaxed);
    assert_eq!(old.settle().runs(), 0);
    let mut new = engine();
    old.copy_into::<Room>(&mut new);
    new.settle();
    assert_eq!(old.differences(&new), [engine::Changed { fact: Said::Nickname(1), before: Some((1, 0)), after: Some((2, 0)) }]);
}
