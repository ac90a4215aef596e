//! A group: a machine word's worth of the objects of a slab, as the slab's owner sees them.
//!
//! Two words of bits say what every object is:
//!
//! | `taken` | `ready` | the object is |
//! | --- | --- | --- |
//! | 1 | 0 | in use |
//! | 1 | 1 | free, set aside to be allocated next |
//! | 0 | 0 | free |
//!
//! An allocation clears a bit of `ready`, a free clears a bit of `taken`: neither writes the word
//! that the other is waiting for, so an alloc and a free that follow each other closely do not
//! queue up behind one word in memory. When `ready` is used up, what is free by then is set
//! aside at once (`Slab::refill`). (Two words, one to allocate from and one to free into: the
//! idea of mimalloc's split free lists, on bits.)
//!
//! A slab of which nothing is free is *sealed*: all bits of `ready` are set, which no other slab
//! has, since refilling hands out an object at once. The compare that finds a double free then
//! also finds the first free of a full slab, which has to be put back on its list.
//!
//! # Invariants
//! - G1: `ready` is a subset of `taken`, or sealed; bits beyond the slab's objects are clear in
//!   `taken`.
//! - G2: only the slab's owner writes the words; others read them for a hint.

use core::hint::cold_path;
use core::ptr::NonNull;

use super::layout::GROUP_BYTES;
use super::object_index::ObjectIndex;
use super::size_class::SizeClass;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// `ready` of every group of a slab of which nothing is free.
const SEALED: usize = usize::MAX;

/// What became of a free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupFree {
    /// The object is free; nothing else is to be done.
    Done,
    /// The object is free, and with it the whole group.
    Emptied,
    /// Nothing happened: the object is not in use, or the group is sealed.
    Refused,
}

/// The owner's words of a group. Reached through pointers with the descriptor's provenance.
#[repr(C)]
pub(crate) struct Group {
    pub(super) ready: AtomicUsize,
    pub(super) taken: AtomicUsize,
    /// The group's first object.
    base: *mut u8,
    /// Bytes of an object.
    size: u16,
    /// Where the group lies in its descriptor, in bytes.
    pub(super) at: u16,
}

const _: () = assert!(size_of::<Group>() == GROUP_BYTES);

// SAFETY: shared is only `EMPTY`, which nobody writes.
unsafe impl Sync for Group {}

/// A group without objects, for whoever has none.
static EMPTY: Group = Group {
    ready: AtomicUsize::new(0),
    taken: AtomicUsize::new(0),
    base: core::ptr::null_mut(),
    size: 0,
    at: 0,
};

impl Group {
    /// A group of objects all of which are free.
    pub(super) fn new(base: *mut u8, class: SizeClass, at: usize) -> Self {
        Self {
            ready: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            base,
            size: class.size() as u16,
            at: at as u16,
        }
    }

    /// The group that has no objects and belongs to no slab.
    #[inline(always)]
    pub(crate) const fn empty() -> NonNull<Self> {
        NonNull::from_ref(&EMPTY)
    }

    /// Takes an object that was set aside, the lowest; `None` if there is none.
    ///
    /// # Safety
    /// - The caller owns the group's slab, which is not sealed; or the group is the empty one.
    #[inline(always)]
    pub(crate) unsafe fn alloc(group: NonNull<Self>) -> Option<NonNull<u8>> {
        // SAFETY: alive (condition).
        unsafe {
            let ready = (*group.as_ptr()).ready.load(Relaxed);
            if ready == 0 {
                return None;
            }
            Some(Self::hand_out(group, ready))
        }
    }

    /// Hands out the lowest object of `ready`, and leaves the others set aside.
    ///
    /// # Safety
    /// - The caller owns the group's slab; `ready` is not zero, and all of it is free and taken.
    #[inline(always)]
    pub(super) unsafe fn hand_out(group: NonNull<Self>, ready: usize) -> NonNull<u8> {
        // SAFETY: ours (condition); a bit of `taken` names an object of the slab, so the address
        // lies within the objects, whose base is not null.
        unsafe {
            let this = group.as_ptr();
            (*this).ready.store(ready & (ready - 1), Relaxed);
            let offset = ready.trailing_zeros().wrapping_mul(u32::from((*this).size));
            NonNull::new_unchecked((*this).base.byte_add(offset as usize))
        }
    }

    /// Gives an object back.
    ///
    /// # Safety
    /// - The caller owns the group's slab. (`mask` may name anything.)
    #[inline(always)]
    pub(crate) unsafe fn free(group: NonNull<Self>, index: ObjectIndex) -> GroupFree {
        // SAFETY: alive and ours (condition).
        unsafe {
            let this = group.as_ptr();
            let taken = (*this).taken.load(Relaxed);
            let in_use = taken & !(*this).ready.load(Relaxed);
            if in_use & index.mask() == 0 {
                cold_path();
                return GroupFree::Refused;
            }
            let taken = taken ^ index.mask();
            (*this).taken.store(taken, Relaxed);
            if taken == 0 {
                cold_path();
                return GroupFree::Emptied;
            }
        }
        GroupFree::Done
    }

    /// [`free`](Self::free) of the object of `class` at `addr`, if it is one of this group.
    ///
    /// # Safety
    /// - The caller owns the group's slab, whose objects are of `class`; or the group is the
    ///   empty one.
    #[inline(always)]
    pub(crate) unsafe fn free_at(group: NonNull<Self>, class: SizeClass, addr: usize) -> GroupFree {
        // SAFETY: alive (condition).
        let offset = addr.wrapping_sub(unsafe { (*group.as_ptr()).base.addr() });
        if offset >= class.size() * usize::BITS as usize {
            return GroupFree::Refused;
        }
        match ObjectIndex::at(class, offset) {
            // SAFETY: passed on; the empty group refuses.
            Some(index) => unsafe { Self::free(group, index) },
            None => GroupFree::Refused,
        }
    }

    /// The bits of the objects in use.
    ///
    /// # Safety
    /// - The slab is kept alive. Exact for the owner.
    #[inline]
    pub(super) unsafe fn in_use(group: NonNull<Self>) -> usize {
        // SAFETY: alive, and the words are atomic.
        unsafe {
            let taken = (*group.as_ptr()).taken.load(Relaxed);
            match (*group.as_ptr()).ready.load(Relaxed) {
                SEALED => taken,
                ready => taken & !ready,
            }
        }
    }

    /// Whether the group is sealed.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline]
    pub(super) unsafe fn is_sealed(group: NonNull<Self>) -> bool {
        // SAFETY: alive, and the word is atomic.
        unsafe { (*group.as_ptr()).ready.load(Relaxed) == SEALED }
    }

    /// Seals the group, all of whose objects are in use, or opens it again.
    ///
    /// # Safety
    /// - The caller owns the group's slab.
    pub(super) unsafe fn set_sealed(group: NonNull<Self>, sealed: bool) {
        // SAFETY: ours (condition).
        unsafe { (*group.as_ptr()).ready.store(if sealed { SEALED } else { 0 }, Relaxed) };
    }
}
