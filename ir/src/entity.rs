//! Typed indices and the arenas they index.
//!
//! Nothing in the IR is a reference: a [`Value`](crate::Value) is a number, and so are segments and exits. An index of
//! one kind cannot be used with the arena of another, and each prints exactly as the text syntax spells it (`v7`,
//! `seg1`, `exit3`).

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// An index into a [`Map`].
pub trait Entity: Copy + Eq {
    /// The index numbered `index`.
    fn from_index(index: usize) -> Self;
    /// The number of this index.
    fn index(self) -> usize;
}

macro_rules! define_entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// Stands for "no operand" in fixed-size operand arrays; never a valid index.
            pub const NONE: $name = $name(u32::MAX);

            /// Whether this is a real index rather than [`Self::NONE`].
            pub fn is_some(self) -> bool {
                self != Self::NONE
            }
        }

        impl Entity for $name {
            fn from_index(index: usize) -> Self {
                debug_assert!(index < u32::MAX as usize);
                $name(index as u32)
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if self.is_some() {
                    write!(f, concat!($prefix, "{}"), self.0)
                } else {
                    f.write_str(concat!($prefix, "?"))
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

define_entity!(
    /// An SSA value, named by the instruction (or segment parameter) that defines it.
    ///
    /// Instructions without a result have an index too; using it as an operand is a verifier error.
    Value, "v"
);
define_entity!(
    /// A straight-line segment of a trace.
    Segment, "seg"
);
define_entity!(
    /// An exit description: where the guest continues, and with what state.
    Exit, "exit"
);
define_entity!(
    /// A verbatim machine instruction of a trace.
    Native, "native"
);

/// A dense map from an index type to values of type `T`.
#[derive(Clone, PartialEq, Eq)]
pub struct Map<K, T> {
    items: Vec<T>,
    key: PhantomData<K>,
}

impl<K: Entity, T> Map<K, T> {
    /// An empty map.
    pub fn new() -> Self {
        Map { items: Vec::new(), key: PhantomData }
    }

    /// A map with `len` copies of `item`.
    pub fn filled(len: usize, item: T) -> Self
    where
        T: Clone,
    {
        Map { items: vec![item; len], key: PhantomData }
    }

    /// Makes room for `more` items.
    pub fn reserve(&mut self, more: usize) {
        self.items.reserve(more);
    }

    /// Adds `item` and returns its index.
    pub fn push(&mut self, item: T) -> K {
        self.items.push(item);
        K::from_index(self.items.len() - 1)
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The item at `key`, if there is one.
    pub fn get(&self, key: K) -> Option<&T> {
        self.items.get(key.index())
    }

    /// All indices, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = K> + use<K, T> {
        (0..self.items.len()).map(K::from_index)
    }

    /// All items with their indices, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (K, &T)> {
        self.items.iter().enumerate().map(|(i, item)| (K::from_index(i), item))
    }

    /// All items, in order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.items.iter()
    }

    /// All items, in order, mutably.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.items.iter_mut()
    }
}

impl<K: Entity, T> Default for Map<K, T> {
    fn default() -> Self {
        Map::new()
    }
}

impl<K: Entity, T> Index<K> for Map<K, T> {
    type Output = T;
    fn index(&self, key: K) -> &T {
        &self.items[key.index()]
    }
}

impl<K: Entity, T> IndexMut<K> for Map<K, T> {
    fn index_mut(&mut self, key: K) -> &mut T {
        &mut self.items[key.index()]
    }
}

impl<K: Entity + fmt::Debug, T: fmt::Debug> fmt::Debug for Map<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
