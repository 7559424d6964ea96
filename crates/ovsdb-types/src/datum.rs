//! The value of a column: one atom, a set or a map (RFC 7047 §5.1), in canonical form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeTuple, Serializer};
use uuid::Uuid;

use crate::text::TextSeed;
use crate::{Atom, AtomType, ColumnSchema};

/// A column's value. Canonical: a set of one is [`Datum::One`]; sets and maps are sorted and free of duplicates,
/// so that equal values are equal data.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Datum {
    /// A scalar, or a set of exactly one.
    One(Atom),
    /// A set of none, or of two and more.
    Set(Vec<Atom>),
    /// A map.
    Map(Vec<(Atom, Atom)>),
}

/// Why a value from the wire does not fit its column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatumError {
    /// A set delta was applied to a map or the reverse.
    #[error("a {0} cannot be applied to a {1}")]
    Shape(&'static str, &'static str),
}

impl Datum {
    /// The canonical set of `atoms`.
    #[must_use]
    pub fn set(mut atoms: Vec<Atom>) -> Self {
        atoms.sort_unstable();
        atoms.dedup();
        match atoms.pop() {
            Some(only) if atoms.is_empty() => Self::One(only),
            Some(last) => {
                atoms.push(last);
                Self::Set(atoms)
            }
            None => Self::Set(atoms),
        }
    }

    /// The canonical map of `pairs`; of equal keys the last wins.
    #[must_use]
    pub fn map(mut pairs: Vec<(Atom, Atom)>) -> Self {
        if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
            // The sort keeps the order of equal keys, and the first of them stays.
            pairs.reverse();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            pairs.dedup_by(|later, first| later.0 == first.0);
        }
        Self::Map(pairs)
    }

    /// The empty set.
    #[must_use]
    pub const fn empty() -> Self {
        Self::Set(Vec::new())
    }

    /// What a column holds when an insert does not name it (RFC 7047 §5.2.1).
    #[must_use]
    pub fn default_of(column: &ColumnSchema) -> Self {
        if column.value.is_some() {
            return Self::Map(Vec::new());
        }
        if column.min == 0 {
            return Self::empty();
        }
        Self::One(match column.key {
            AtomType::Integer => Atom::Integer(0),
            AtomType::Real => Atom::from(0.0),
            AtomType::Boolean => Atom::Boolean(false),
            // Does not allocate.
            AtomType::String => Atom::String(Arc::default()),
            AtomType::Uuid => Atom::Uuid(Uuid::nil()),
        })
    }

    /// The atoms of a scalar or set; nothing for a map.
    #[must_use]
    pub fn atoms(&self) -> &[Atom] {
        match self {
            Self::One(atom) => std::slice::from_ref(atom),
            Self::Set(atoms) => atoms,
            Self::Map(_) => &[],
        }
    }

    /// The pairs of a map; nothing for a scalar or set.
    #[must_use]
    pub fn pairs(&self) -> &[(Atom, Atom)] {
        match self {
            Self::Map(pairs) => pairs,
            _ => &[],
        }
    }

    /// Whether a scalar or set holds `atom`.
    #[must_use]
    pub fn contains(&self, atom: &Atom) -> bool {
        self.atoms().binary_search(atom).is_ok()
    }

    /// The value of `key` in a map from string to string.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let pairs = self.pairs();
        let at = pairs.binary_search_by(|(k, _)| k.as_str().unwrap_or_default().cmp(key)).ok()?;
        pairs[at].1.as_str()
    }

    /// The only atom as text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::One(atom) => atom.as_str(),
            _ => None,
        }
    }

    /// Applies the difference that `update2`/`update3` carry for sets and maps: elements present on one side only
    /// (ovsdb-server(7), "monitor_cond"). Scalars are replaced.
    ///
    /// # Errors
    /// When the delta's shape is not the column's.
    pub fn apply_delta(&mut self, delta: Self, column: &ColumnSchema) -> Result<(), DatumError> {
        if column.value.is_some() {
            let Self::Map(changes) = delta else { return Err(DatumError::Shape("set", "map")) };
            let Self::Map(pairs) = self else { return Err(DatumError::Shape("map", "set")) };
            for (key, value) in changes {
                match pairs.binary_search_by(|(k, _)| k.cmp(&key)) {
                    Ok(at) if pairs[at].1 == value => {
                        pairs.remove(at);
                    }
                    Ok(at) => pairs[at].1 = value,
                    Err(at) => pairs.insert(at, (key, value)),
                }
            }
            return Ok(());
        }
        if column.max == 1 {
            *self = delta;
            return Ok(());
        }
        if matches!(self, Self::Map(_)) || matches!(delta, Self::Map(_)) {
            return Err(DatumError::Shape("map", "set"));
        }
        let mut merged = Vec::with_capacity(self.atoms().len() + delta.atoms().len());
        let (mut left, mut right) = (self.atoms().iter().peekable(), delta.atoms().iter().peekable());
        loop {
            match (left.peek(), right.peek()) {
                (Some(l), Some(r)) if l == r => {
                    left.next();
                    right.next();
                }
                (Some(l), Some(r)) if l < r => merged.extend(left.next().cloned()),
                (_, Some(_)) => merged.extend(right.next().cloned()),
                (Some(_), None) => merged.extend(left.next().cloned()),
                (None, None) => break,
            }
        }
        *self = match merged.pop() {
            Some(only) if merged.is_empty() => Self::One(only),
            Some(last) => {
                merged.push(last);
                Self::Set(merged)
            }
            None => Self::Set(merged),
        };
        Ok(())
    }
}

impl fmt::Debug for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(atom) => atom.fmt(f),
            Self::Set(atoms) => f.debug_list().entries(atoms).finish(),
            Self::Map(pairs) => f.debug_map().entries(pairs.iter().map(|(k, v)| (k, v))).finish(),
        }
    }
}

impl Serialize for Datum {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(atom) => atom.serialize(s),
            Self::Set(atoms) => {
                let mut pair = s.serialize_tuple(2)?;
                pair.serialize_element("set")?;
                pair.serialize_element(atoms)?;
                pair.end()
            }
            Self::Map(pairs) => {
                let mut pair = s.serialize_tuple(2)?;
                pair.serialize_element("map")?;
                pair.serialize_element(pairs)?;
                pair.end()
            }
        }
    }
}

/// Reads a value of `column` from JSON.
pub(crate) struct DatumSeed<'a>(pub(crate) &'a ColumnSchema);

impl<'de> DeserializeSeed<'de> for DatumSeed<'_> {
    type Value = Datum;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Datum, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DatumSeed<'_> {
    type Value = Datum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of column {}", self.0.name)
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Datum, E> {
        AtomSeed(self.0.key).visit_bool(v).map(Datum::One)
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Datum, E> {
        AtomSeed(self.0.key).visit_i64(v).map(Datum::One)
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Datum, E> {
        AtomSeed(self.0.key).visit_u64(v).map(Datum::One)
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Datum, E> {
        AtomSeed(self.0.key).visit_f64(v).map(Datum::One)
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Datum, E> {
        AtomSeed(self.0.key).visit_str(v).map(Datum::One)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Datum, A::Error> {
        let tag = seq.next_element_seed(TextSeed(tag))?.ok_or_else(|| de::Error::custom("an empty array is no value"))?;
        let missing = || de::Error::custom("the array ends after its tag");
        let datum = match (tag, self.0.value) {
            (Tag::Set, None) => Datum::set(seq.next_element_seed(ListSeed(self.0.key))?.ok_or_else(missing)?),
            (Tag::Map, Some(value)) => Datum::map(seq.next_element_seed(PairsSeed(self.0.key, value))?.ok_or_else(missing)?),
            // monitor_cond deltas of an emptied map arrive as a map; `["set",[]]` for a map column is accepted as empty.
            (Tag::Set, Some(_)) => {
                let none: Vec<de::IgnoredAny> = seq.next_element()?.ok_or_else(missing)?;
                if !none.is_empty() {
                    return Err(de::Error::custom("a set stands where a map is expected"));
                }
                Datum::Map(Vec::new())
            }
            (Tag::Uuid, None) if self.0.key == AtomType::Uuid => Datum::One(Atom::Uuid(seq.next_element()?.ok_or_else(missing)?)),
            (other, _) => return Err(de::Error::custom(format!("a {other:?} does not start a value of column {}", self.0.name))),
        };
        if seq.next_element::<de::IgnoredAny>()?.is_some() {
            return Err(de::Error::custom("the array goes on after its value"));
        }
        Ok(datum)
    }
}

/// What an array starts with, to say what it is (RFC 7047 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Set,
    Map,
    Uuid,
}

fn tag(text: &str) -> Result<Tag, String> {
    match text {
        "set" => Ok(Tag::Set),
        "map" => Ok(Tag::Map),
        "uuid" => Ok(Tag::Uuid),
        other => Err(format!("{other:?} does not start a value")),
    }
}

/// Reads one atom of a type.
struct AtomSeed(AtomType);

impl AtomSeed {
    fn mismatch<E: de::Error>(&self, got: &str) -> E {
        E::custom(format!("{got} stands where {:?} is expected", self.0))
    }
}

impl<'de> DeserializeSeed<'de> for AtomSeed {
    type Value = Atom;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Atom, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AtomSeed {
    type Value = Atom;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an atom of type {:?}", self.0)
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Atom, E> {
        if self.0 == AtomType::Boolean { Ok(Atom::Boolean(v)) } else { Err(self.mismatch("a boolean")) }
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Atom, E> {
        match self.0 {
            AtomType::Integer => Ok(Atom::Integer(v)),
            #[allow(clippy::cast_precision_loss)] // the peer printed a real without a fraction
            AtomType::Real => Ok(Atom::from(v as f64)),
            _ => Err(self.mismatch("a number")),
        }
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Atom, E> {
        match i64::try_from(v) {
            Ok(v) => self.visit_i64(v),
            Err(_) => Err(self.mismatch("a number above 2^63-1")),
        }
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Atom, E> {
        if self.0 == AtomType::Real { Ok(Atom::from(v)) } else { Err(self.mismatch("a real number")) }
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Atom, E> {
        if self.0 == AtomType::String { Ok(Atom::from(v)) } else { Err(self.mismatch("a string")) }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Atom, A::Error> {
        let tag = seq.next_element_seed(TextSeed(tag))?;
        if tag != Some(Tag::Uuid) || self.0 != AtomType::Uuid {
            return Err(self.mismatch("an array"));
        }
        let uuid = seq.next_element()?.ok_or_else(|| de::Error::custom("the array ends after its tag"))?;
        if seq.next_element::<de::IgnoredAny>()?.is_some() {
            return Err(de::Error::custom("the array goes on after its value"));
        }
        Ok(Atom::Uuid(uuid))
    }
}

struct ListSeed(AtomType);

impl<'de> DeserializeSeed<'de> for ListSeed {
    type Value = Vec<Atom>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Vec<Atom>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ListSeed {
    type Value = Vec<Atom>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {:?}", self.0)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Atom>, A::Error> {
        let mut atoms = Vec::new();
        while let Some(atom) = seq.next_element_seed(AtomSeed(self.0))? {
            atoms.push(atom);
        }
        Ok(atoms)
    }
}

struct PairsSeed(AtomType, AtomType);

impl<'de> DeserializeSeed<'de> for PairsSeed {
    type Value = Vec<(Atom, Atom)>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for PairsSeed {
    type Value = Vec<(Atom, Atom)>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of pairs of {:?} and {:?}", self.0, self.1)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = seq.next_element_seed(PairSeed(self.0, self.1))? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

struct PairSeed(AtomType, AtomType);

impl<'de> DeserializeSeed<'de> for PairSeed {
    type Value = (Atom, Atom);
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_tuple(2, self)
    }
}

impl<'de> Visitor<'de> for PairSeed {
    type Value = (Atom, Atom);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pair")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let short = || de::Error::custom("a pair needs two elements");
        let key = seq.next_element_seed(AtomSeed(self.0))?.ok_or_else(short)?;
        let value = seq.next_element_seed(AtomSeed(self.1))?.ok_or_else(short)?;
        Ok((key, value))
    }
}

/// Rust values that a column of the same type can hold.
pub trait IntoDatum {
    /// The canonical datum.
    fn into_datum(self) -> Datum;
}

macro_rules! scalar {
    ($($ty:ty),*) => {$(
        impl IntoDatum for $ty { fn into_datum(self) -> Datum { Datum::One(self.into()) } }
    )*};
}
scalar!(String, i64, f64, bool, Uuid);

impl<T: Into<Atom>> IntoDatum for Option<T> {
    fn into_datum(self) -> Datum {
        Datum::set(self.into_iter().map(Into::into).collect())
    }
}
impl<T: Into<Atom>> IntoDatum for BTreeSet<T> {
    fn into_datum(self) -> Datum {
        Datum::set(self.into_iter().map(Into::into).collect())
    }
}
impl<K: Into<Atom>, V: Into<Atom>> IntoDatum for BTreeMap<K, V> {
    fn into_datum(self) -> Datum {
        Datum::map(self.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}
