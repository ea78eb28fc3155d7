//! Whether the gateway may be sent work. Whoever must be ready first takes a [`Block`] and drops it when it is; the gateway
//! is ready when nobody holds one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// All that must be ready. Cloning is cheap, and clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Readiness {
    /// Nobody waits yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the block is dropped. The name tells operators what is waited for.
    pub fn block(&self, name: &'static str) -> Block {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Block { readiness: self.clone(), name }
    }

    /// What is waited for, by name; empty when the gateway is ready.
    pub fn waiting(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

/// Keeps the gateway from being ready for as long as it lives.
#[derive(Debug)]
#[must_use = "a block that is dropped blocks nothing"]
pub struct Block {
    readiness: Readiness,
    name: &'static str,
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut blocks = self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = blocks.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                blocks.remove(self.name);
            }
        }
    }
}
