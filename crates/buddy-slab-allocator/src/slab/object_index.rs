//! The position of an object within its slab, found from its address without a division.

#![forbid(unsafe_code)]

use super::divisor::Divisor;
use super::layout::GROUP_OBJECTS;
use super::size_class::SizeClass;

/// The position of an object within its slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectIndex(u32);

impl ObjectIndex {
    /// The object at `bit` of group `group`.
    #[inline]
    pub(crate) const fn new(group: usize, bit: u32) -> Self {
        Self((group * GROUP_OBJECTS) as u32 + bit)
    }

    /// The object of `class` that begins `offset` bytes behind the first one; `None` if none
    /// begins there. A slab may have fewer objects than that.
    ///
    /// O(1).
    #[inline(always)]
    pub(crate) const fn at(class: SizeClass, offset: usize) -> Option<Self> {
        match Divisor::of(class).index_of(offset) {
            Some(index) => Some(Self(index)),
            None => None,
        }
    }

    /// The plain number.
    #[inline(always)]
    pub(crate) const fn get(self) -> usize {
        self.0 as usize
    }

    /// The group it belongs to.
    #[inline(always)]
    pub(crate) const fn group(self) -> usize {
        self.0 as usize / GROUP_OBJECTS
    }

    /// Its position within the group.
    #[inline(always)]
    pub(crate) const fn bit(self) -> u32 {
        self.0 % GROUP_OBJECTS as u32
    }

    /// Its bit within the group.
    #[inline(always)]
    pub(crate) const fn mask(self) -> usize {
        1 << (self.0 as usize % GROUP_OBJECTS)
    }
}
