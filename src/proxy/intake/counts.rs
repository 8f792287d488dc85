//! Counts by key, which keep nothing of a key that counts zero: what strangers cause must not fill the memory.

use std::collections::HashMap;
use std::hash::Hash;

/// How many of each key there are.
#[derive(Debug)]
pub struct Counts<K>(HashMap<K, usize>);

impl<K> Default for Counts<K> {
    /// None of any.
    fn default() -> Counts<K> {
        Counts(HashMap::new())
    }
}

impl<K: Eq + Hash> Counts<K> {
    /// The number of this key.
    pub fn of(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// Counts one more.
    pub fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    /// Counts one less of a key that was added.
    pub fn remove(&mut self, key: &K) {
        match self.0.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = self.0.remove(key),
        }
    }

    /// The key with the highest number, and that number.
    pub fn largest(&self) -> Option<(&K, usize)> {
        self.0.iter().map(|(key, count)| (key, *count)).max_by_key(|(_, count)| *count)
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
