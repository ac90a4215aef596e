//! What can be asked of a slab besides allocating and freeing: its fields, its list links, its
//! live objects, its check.

use core::ptr::NonNull;

use super::layout::GROUP_OBJECTS;
use super::size_class::SizeClass;
use super::slab::{ObjectIndex, Slab, SlabPlace};
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Every function wants a slab that is formatted and not released; those that say *owner* are
/// for its owner only.
impl Slab {
    /// Which heap owns the slab.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn owner(slab: NonNull<Self>) -> u16 {
        // SAFETY: alive, and the field is atomic.
        unsafe { (*slab.as_ptr()).owner.load(Acquire) }
    }

    /// The size class of the objects.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn class(slab: NonNull<Self>) -> SizeClass {
        // SAFETY: alive; the field never changes.
        unsafe { (*slab.as_ptr()).class }
    }

    /// The size of the objects, in bytes.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn object_size(slab: NonNull<Self>) -> usize {
        // SAFETY: alive; the field never changes.
        unsafe { (*slab.as_ptr()).size as usize }
    }

    /// How many objects the slab holds, used or free.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn object_count(slab: NonNull<Self>) -> usize {
        // SAFETY: alive; the field never changes.
        unsafe { usize::from((*slab.as_ptr()).object_count) }
    }

    /// How many groups of objects the slab has.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline]
    pub(crate) unsafe fn group_count(slab: NonNull<Self>) -> usize {
        // SAFETY: passed on.
        unsafe { Self::object_count(slab) }.div_ceil(GROUP_OBJECTS)
    }

    /// Objects in use, counting those whose remote free waits to be collected. A snapshot unless
    /// the caller is the owner.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline]
    pub(crate) unsafe fn used(slab: NonNull<Self>) -> usize {
        // SAFETY: alive, and the field is atomic.
        unsafe { usize::from((*slab.as_ptr()).used.load(Relaxed)) }
    }

    /// Whether no object is free locally.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn is_full(slab: NonNull<Self>) -> bool {
        // SAFETY: passed on.
        unsafe { Self::used(slab) == Self::object_count(slab) }
    }

    /// Whether every object is free.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn is_empty(slab: NonNull<Self>) -> bool {
        // SAFETY: passed on.
        unsafe { Self::used(slab) == 0 }
    }

    /// Whether the slab may be released: every object is free and no remote bit is pending. The
    /// second can fail alone only after a double free; the collect that reports it says
    /// `now_empty` again.
    ///
    /// # Safety
    /// - The caller is the owner.
    pub(crate) unsafe fn quiescent(slab: NonNull<Self>) -> bool {
        // SAFETY: passed on; the groups are those that exist.
        unsafe {
            Self::is_empty(slab)
                && (0..Self::group_count(slab))
                    .all(|group| Self::remote_group(slab, group).as_ref().pending() == 0)
        }
    }

    /// Where the pages lie.
    ///
    /// # Safety
    /// - The slab is kept alive.
    pub(crate) unsafe fn place(slab: NonNull<Self>) -> SlabPlace {
        let this = slab.as_ptr();
        // SAFETY: alive; the fields never change.
        unsafe {
            SlabPlace {
                section: (*this).section,
                pfn: (*this).pfn,
                page_count: (*this).page_count,
                in_band: (*this).in_band,
            }
        }
    }

    /// The first object.
    ///
    /// # Safety
    /// - The slab is kept alive.
    pub(crate) unsafe fn objects(slab: NonNull<Self>) -> *mut u8 {
        // SAFETY: alive; the field never changes.
        unsafe { (*slab.as_ptr()).objects }
    }

    /// The object at an index.
    ///
    /// # Safety
    /// - The slab is kept alive; `index` is below the object count.
    #[inline]
    pub(crate) unsafe fn object_ptr(slab: NonNull<Self>, index: ObjectIndex) -> NonNull<u8> {
        // SAFETY: the object lies within the slab's objects, whose base is not null.
        unsafe {
            let offset = index.get() * Self::object_size(slab);
            NonNull::new_unchecked(Self::objects(slab).byte_add(offset))
        }
    }

    /// The owner's tag: which list the slab is on. 0 after `format`; its meaning is the owner's.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn state(slab: NonNull<Self>) -> u8 {
        // SAFETY: alive, and the field is atomic.
        unsafe { (*slab.as_ptr()).state.load(Relaxed) as u8 }
    }

    /// Sets the owner's tag. Whoever sees it by [`all_freed`](Self::all_freed) also sees what the
    /// owner did before.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline(always)]
    pub(crate) unsafe fn set_state(slab: NonNull<Self>, state: u8) {
        // SAFETY: alive, and the field is atomic.
        unsafe { (*slab.as_ptr()).state.store(u16::from(state), Release) }
    }

    /// Whether every object waits in the remote words, and the owner's tag is `state`: the owner
    /// then has nothing to do with the slab but to collect it.
    ///
    /// # Safety
    /// - The slab is kept alive.
    pub(crate) unsafe fn all_freed(slab: NonNull<Self>, state: u8) -> bool {
        // SAFETY: alive, and the field is atomic; the groups are those that exist.
        unsafe {
            let mut pending = 0;
            for group in 0..Self::group_count(slab) {
                let free = (*Self::free_word(slab, group)).load(Relaxed);
                if free != 0 {
                    return false; // a double free is pending, or not all objects are out
                }
                pending += Self::remote_group(slab, group).as_ref().pending().count_ones();
            }
            pending as usize == Self::object_count(slab)
                && (*slab.as_ptr()).state.load(Acquire) == u16::from(state)
        }
    }

    /// Takes every object out of the remote words, for good.
    ///
    /// # Safety
    /// - [`all_freed`](Self::all_freed) said so, and the caller has taken all groups off an inbox.
    pub(crate) unsafe fn take_all_freed(slab: NonNull<Self>) {
        // SAFETY: alive while its groups are not collected; the groups are those that exist.
        unsafe {
            for group in 0..Self::group_count(slab) {
                Self::remote_group(slab, group).as_ref().take();
            }
        }
    }

    /// Whether the object looks free at this moment: a bit of it is set, locally or remotely.
    /// For early detection of double frees; certain only at rest.
    ///
    /// # Safety
    /// - The slab is kept alive; `index` is below the object count.
    #[inline]
    pub(crate) unsafe fn is_free_hint(slab: NonNull<Self>, index: ObjectIndex) -> bool {
        // SAFETY: the index is within the slab, so its group exists; both words are atomic.
        unsafe {
            let free = (*Self::free_word(slab, index.group())).load(Relaxed);
            let remote = Self::remote_group(slab, index.group()).as_ref().pending();
            (free | remote) & index.mask() != 0
        }
    }

    /// Whether the object is handed out. Exact for the owner while no remote free is under way.
    ///
    /// # Safety
    /// - The slab is kept alive; `index` is below the object count.
    #[cfg(test)]
    pub(crate) unsafe fn is_live(slab: NonNull<Self>, index: ObjectIndex) -> bool {
        // SAFETY: passed on.
        unsafe { !Self::is_free_hint(slab, index) }
    }

    /// Calls `visit` with every live object, in ascending order.
    ///
    /// # Safety
    /// - The caller is the owner, and `visit` neither allocates from nor frees into the slab.
    #[cfg(test)]
    pub(crate) unsafe fn live_objects(slab: NonNull<Self>, mut visit: impl FnMut(ObjectIndex)) {
        // SAFETY: passed on; the indices are below the object count.
        unsafe {
            for index in 0..Self::object_count(slab) {
                let index = ObjectIndex::new(0, index as u32);
                if Self::is_live(slab, index) {
                    visit(index);
                }
            }
        }
    }

    /// Checks S1 and S2. O(words); empty in a release build.
    ///
    /// # Safety
    /// - The caller is the owner.
    pub(crate) unsafe fn check(slab: NonNull<Self>) {
        if !cfg!(any(test, debug_assertions)) {
            return;
        }
        // SAFETY: the owner reads its words; the groups are those that exist.
        unsafe {
            let this = slab.as_ptr();
            let (count, groups) = (Self::object_count(slab), Self::group_count(slab));
            let mut free_bits = 0;
            for group in 0..groups {
                let free = (*Self::free_word(slab, group)).load(Relaxed);
                let rest = count - group * GROUP_OBJECTS;
                assert!(rest >= GROUP_OBJECTS || free >> rest == 0, "S1: a bit beyond the objects");
                free_bits += free.count_ones() as usize;
            }
            assert_eq!(Self::used(slab) + free_bits, count, "S1: used + free == object_count");
            let first = usize::from((*this).cursor_first.load(Relaxed));
            let cursor = Self::free_word(slab, first / GROUP_OBJECTS).addr() - slab.addr().get();
            assert!(first < count && first.is_multiple_of(GROUP_OBJECTS), "S2: cursor's index");
            assert_eq!(cursor, usize::from((*this).cursor_at.load(Relaxed)), "S2: cursor's word");
        }
    }

    /// The list links: next, previous.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(super) unsafe fn links(slab: NonNull<Self>) -> (*mut Self, *mut Self) {
        // SAFETY: the links are the owner's.
        unsafe { ((*slab.as_ptr()).next, (*slab.as_ptr()).prev) }
    }

    /// Sets both list links.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(super) unsafe fn set_links(slab: NonNull<Self>, next: *mut Self, prev: *mut Self) {
        // SAFETY: the links are the owner's.
        unsafe {
            (*slab.as_ptr()).next = next;
            (*slab.as_ptr()).prev = prev;
        }
    }

    /// Sets the link to the next slab.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(super) unsafe fn set_next(slab: NonNull<Self>, next: *mut Self) {
        // SAFETY: the links are the owner's.
        unsafe { (*slab.as_ptr()).next = next }
    }

    /// Sets the link to the previous slab.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(super) unsafe fn set_prev(slab: NonNull<Self>, prev: *mut Self) {
        // SAFETY: the links are the owner's.
        unsafe { (*slab.as_ptr()).prev = prev }
    }
}
