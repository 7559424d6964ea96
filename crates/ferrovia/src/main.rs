//! `ferrovia`: every part of the network in one program.

fn main() {}
