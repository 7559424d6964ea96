//! Throw-away namespaces for tests, removed on drop, even when the test panics.

use crate::{Netns, netns};

pub struct Scratch {
    pub name: String,
    pub netns: Netns,
}

impl Scratch {
    pub fn new(subject: &str) -> Self {
        let name = format!("fvt-{}-{subject}", std::process::id());
        let netns = Netns::create(&name).unwrap();
        Self { name, netns }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = netns::delete(&self.name);
    }
}
