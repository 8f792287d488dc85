//! Values by number that are created one after the other and never removed, for listeners and clusters: a reload adds some
//! while others are in use.

use std::sync::OnceLock;

/// The number of listeners, and of clusters, that a process can have had: those that a reload removed count too.
pub const SLOTS_MAX: usize = 1024;

/// Values by number. A number that nobody has used yet has the default value.
#[derive(Debug)]
pub struct Slots<T>(Box<[OnceLock<T>]>);

impl<T> Slots<T> {
    /// Without values.
    pub fn empty() -> Slots<T> {
        Slots((0..SLOTS_MAX).map(|_| OnceLock::new()).collect())
    }

    /// The values that have been created, from the first number on.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map_while(OnceLock::get)
    }

    /// The value of a number, created with `value` if there is none. `number` is smaller than [`SLOTS_MAX`].
    pub fn get_or_init(&self, number: usize, value: impl FnOnce() -> T) -> &T {
        self.0[number].get_or_init(value)
    }

    /// The value of a number, if there is one.
    pub fn get(&self, number: usize) -> Option<&T> {
        self.0.get(number)?.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_created_once_and_stays() {
        let slots = Slots::<String>::empty();
        assert_eq!(slots.get_or_init(0, || "a".to_owned()), "a");
        assert_eq!(slots.get_or_init(0, || "b".to_owned()), "a");
        assert_eq!(slots.iter().count(), 1);
        assert_eq!(slots.get(1), None);
    }
}
