//! What the metadata of each page of a slab says about it, so that an object is freed without a
//! look at the slab's header: its owner, its class, and which page of the slab it is.

use super::object_index::ObjectIndex;
use super::size_class::SizeClass;

const OWNER: u32 = 16;
const CLASS: u32 = 8;

/// The owner (16 bits), the class (8) and the number of the page (8) in one word.
///
/// # Invariants
/// - The class byte is the index of a class: labels are made by [`SlabLabel::new`] alone, or read
///   back from where one was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlabLabel(u32);

impl SlabLabel {
    /// The label of a slab's first page.
    pub(crate) const fn new(owner: u16, class: SizeClass) -> Self {
        Self::of_owner(owner).with_class(class)
    }

    /// What the labels of all slabs of an owner have in common.
    #[inline(always)]
    pub(crate) const fn of_owner(owner: u16) -> Self {
        // INVARIANT: no class is the first one.
        Self((owner as u32) << OWNER)
    }

    /// The label of the first page of a slab of this owner and `class`.
    ///
    /// Of what [`of_owner`](Self::of_owner) returned.
    #[inline(always)]
    pub(crate) const fn with_class(self, class: SizeClass) -> Self {
        debug_assert!(self.0 << OWNER == 0);
        // INVARIANT: the index of a class.
        Self(self.0 | (class.index() as u32) << CLASS)
    }

    /// The word, to be stored. The low eight bits are those of the page's number.
    pub(crate) const fn raw(self) -> u32 {
        self.0
    }

    /// A label that was stored.
    ///
    /// # Safety
    /// - `word` is the word of a label, with a page's number added.
    #[inline(always)]
    pub(crate) const unsafe fn from_raw(word: u32) -> Self {
        // INVARIANT: made by `new` (condition).
        Self(word)
    }

    /// Which heap owns the slab.
    #[inline(always)]
    pub(crate) const fn owner(self) -> u16 {
        (self.0 >> OWNER) as u16
    }

    /// The class of the objects.
    #[inline(always)]
    pub(crate) const fn class(self) -> SizeClass {
        // SAFETY: the invariant.
        unsafe { SizeClass::from_index_unchecked(((self.0 >> CLASS) & 0xFF) as usize) }
    }

    /// The number of the page, if the slab's first page has the label `first`: if owner and class are
    /// the same.
    #[inline(always)]
    pub(crate) const fn page_behind(self, first: Self) -> Option<usize> {
        let page = self.0 ^ first.0;
        if page >> CLASS == 0 { Some(page as usize) } else { None }
    }

    /// The object that begins at `addr`, which lies in the page of this label; `None` if none
    /// does. The slab's objects begin where its pages begin.
    #[inline(always)]
    pub(crate) const fn object_at(self, addr: usize, page_size: usize) -> Option<ObjectIndex> {
        object_in(self.class(), (self.0 & 0xFF) as usize, addr, page_size)
    }
}

/// The object of `class` that begins at `addr`, which lies in page number `page` of a slab.
#[inline(always)]
pub(crate) const fn object_in(
    class: SizeClass,
    page: usize,
    addr: usize,
    page_size: usize,
) -> Option<ObjectIndex> {
    ObjectIndex::at(class, page * page_size + (addr & (page_size - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_gives_back_what_it_was_made_of() {
        for class in SizeClass::ALL {
            for owner in [0, 1, 0x7FFE, 0x8000, 0xFFFF] {
                let label = SlabLabel::new(owner, class);
                assert_eq!((label.owner(), label.class()), (owner, class));
                // SAFETY: a label's word, and a page's number.
                let third = unsafe { SlabLabel::from_raw(label.raw() + 3) };
                assert_eq!((third.owner(), third.class()), (owner, class));
                let offset = (3 * 4096usize).next_multiple_of(class.size());
                let index = third.object_at(0x7000 + offset - 3 * 4096, 4096);
                if offset < 4 * 4096 {
                    assert_eq!(index.map(ObjectIndex::get), Some(offset / class.size()));
                }
            }
        }
    }
}
