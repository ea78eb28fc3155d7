//! The readiness of the gateway: it is ready while no component holds a [`Block`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The readiness of a gateway. Cloning is cheap, and clones share the same blocks.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Readiness {
    /// A readiness without any block.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the gateway not ready until the block is dropped. `/readyz` shows the name.
    pub fn block(&self, name: &'static str) -> Block {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Block { readiness: self.clone(), name }
    }

    /// The names of the current blocks; empty if the gateway is ready.
    pub fn waiting(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

/// Keeps the gateway from being ready until dropped.
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
