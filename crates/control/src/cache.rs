//! Records in memory, so that invocations need no database.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Values by key, shared. Whoever changes what a value was made from removes it *after* the change is durable; a value
/// that was read before that is not added afterwards.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    inner: RwLock<Inner<K, V>>,
    entries_max: usize,
}

#[derive(Debug)]
struct Inner<K, V> {
    entries: HashMap<K, Arc<V>>,
    /// Counts removals.
    generation: u64,
}

/// When a value began to be read. [`Cache::insert`] refuses values that may be older than a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

impl<K: Eq + Hash, V> Cache<K, V> {
    /// An empty cache. When it is full it starts anew: values are cheap to read again.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { inner: RwLock::new(Inner { entries: HashMap::new(), generation: 0 }), entries_max }
    }

    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.read().entries.get(key).cloned()
    }

    /// To be asked before reading what [`Cache::insert`] will be given.
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.read().generation)
    }

    /// Adds a value, unless something was removed since its reading began: it may be out of date then.
    pub(crate) fn insert(&self, began: Generation, key: K, value: Arc<V>) {
        let mut inner = self.write();
        if inner.generation != began.0 {
            return;
        }
        if inner.entries.len() >= self.entries_max {
            inner.entries.clear();
        }
        inner.entries.insert(key, value);
    }

    pub(crate) fn remove(&self, key: &K) -> Option<Arc<V>> {
        let mut inner = self.write();
        inner.generation += 1;
        inner.entries.remove(key)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner<K, V>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<K, V>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_read_before_a_change_is_not_added_after_it() {
        let cache = Cache::new(10);
        let began = cache.generation();
        cache.remove(&"function");
        cache.insert(began, "function", Arc::new("old"));
        assert_eq!(cache.get(&"function"), None);
        cache.insert(cache.generation(), "function", Arc::new("new"));
        assert_eq!(cache.get(&"function").as_deref(), Some(&"new"));
        cache.remove(&"function");
        assert_eq!(cache.get(&"function"), None);
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let cache = Cache::new(3);
        for key in 0..100 {
            cache.insert(cache.generation(), key, Arc::new(key));
        }
        assert!(cache.read().entries.len() <= 3);
        assert_eq!(cache.get(&99).as_deref(), Some(&99));
    }
}
