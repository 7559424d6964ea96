//! The indivisible values of OVSDB (RFC 7047 §3.2).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::ser::{Serialize, SerializeTuple, Serializer};
use uuid::Uuid;

/// A real number with a total order (IEEE 754 `totalOrder`), so that it can be compared and hashed.
#[derive(Clone, Copy, Debug)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Real {}
impl PartialOrd for Real {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Real {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}
impl Hash for Real {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// One value of one of the five atomic types.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// 64-bit signed integer.
    Integer(i64),
    /// Double-precision number.
    Real(Real),
    /// Truth value.
    Boolean(bool),
    /// UTF-8 text.
    String(Arc<str>),
    /// Identifier of a row.
    Uuid(Uuid),
}

impl Atom {
    /// The text, if this is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The identifier, if this is one.
    #[must_use]
    pub const fn as_uuid(&self) -> Option<Uuid> {
        match self {
            Self::Uuid(uuid) => Some(*uuid),
            _ => None,
        }
    }
}

impl fmt::Debug for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Real(value) => write!(f, "{}", value.0),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::String(value) => write!(f, "{value:?}"),
            Self::Uuid(value) => write!(f, "{value}"),
        }
    }
}

impl Serialize for Atom {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Integer(value) => s.serialize_i64(*value),
            Self::Real(value) => s.serialize_f64(value.0),
            Self::Boolean(value) => s.serialize_bool(*value),
            Self::String(value) => s.serialize_str(value),
            Self::Uuid(value) => {
                let mut pair = s.serialize_tuple(2)?;
                pair.serialize_element("uuid")?;
                pair.serialize_element(&*value.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()))?;
                pair.end()
            }
        }
    }
}

impl From<&str> for Atom {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}
impl From<String> for Atom {
    fn from(text: String) -> Self {
        Self::String(text.into())
    }
}
impl From<Arc<str>> for Atom {
    fn from(text: Arc<str>) -> Self {
        Self::String(text)
    }
}
impl From<i64> for Atom {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}
impl From<bool> for Atom {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}
impl From<Uuid> for Atom {
    fn from(value: Uuid) -> Self {
        Self::Uuid(value)
    }
}
impl From<f64> for Atom {
    fn from(value: f64) -> Self {
        Self::Real(Real(value))
    }
}
