//! A list of slabs, linked through their descriptors. One word; owner only.

use core::ptr::NonNull;

use super::slab::Slab;

/// A doubly linked list of slabs.
///
/// # Invariants
/// A slab is on at most one list; the links of a listed slab belong to that list.
pub(crate) struct SlabList {
    front: Option<NonNull<Slab>>,
}

impl SlabList {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self { front: None }
    }

    /// Whether no slab is listed.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_none()
    }

    /// The first slab.
    #[inline(always)]
    pub(crate) fn front(&self) -> Option<NonNull<Slab>> {
        self.front
    }

    /// The slab behind `slab`.
    ///
    /// # Safety
    /// - `slab` is on a list of the caller's.
    #[inline]
    pub(crate) unsafe fn next(slab: NonNull<Slab>) -> Option<NonNull<Slab>> {
        // SAFETY: a listed slab is formatted, and its links are its owner's.
        NonNull::new(unsafe { Slab::links(slab) }.0)
    }

    /// Puts a slab in front.
    ///
    /// # Safety
    /// - The caller owns `slab`, and it is on no list.
    #[inline]
    pub(crate) unsafe fn push_front(&mut self, slab: NonNull<Slab>) {
        let next = self.front.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: the caller owns the slab and, by the invariant, whatever is listed.
        unsafe {
            Slab::set_links(slab, next, core::ptr::null_mut());
            if let Some(second) = self.front {
                Slab::set_prev(second, slab.as_ptr());
            }
        }
        self.front = Some(slab);
    }

    /// Takes the first slab.
    ///
    /// # Safety
    /// - The caller owns every slab on the list.
    #[inline]
    pub(crate) unsafe fn pop_front(&mut self) -> Option<NonNull<Slab>> {
        let slab = self.front?;
        // SAFETY: it is on this list.
        unsafe { self.remove(slab) };
        Some(slab)
    }

    /// Takes a slab off, wherever it is.
    ///
    /// # Safety
    /// - The caller owns `slab` and its neighbours, and it is on this list.
    #[inline]
    pub(crate) unsafe fn remove(&mut self, slab: NonNull<Slab>) {
        // SAFETY: the slab is on this list, so its links lead to listed slabs or nowhere, and
        // all of them are the caller's.
        unsafe {
            let (next, prev) = Slab::links(slab);
            match NonNull::new(prev) {
                Some(prev) => Slab::set_next(prev, next),
                None => {
                    debug_assert_eq!(self.front, Some(slab));
                    self.front = NonNull::new(next);
                }
            }
            if let Some(next) = NonNull::new(next) {
                Slab::set_prev(next, prev);
            }
            Slab::set_links(slab, core::ptr::null_mut(), core::ptr::null_mut());
        }
    }
}
