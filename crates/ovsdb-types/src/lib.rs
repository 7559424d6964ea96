//! ovsdb-types
