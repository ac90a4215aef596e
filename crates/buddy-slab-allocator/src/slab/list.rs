//! Lists of slabs, linked through their descriptors. Owner only.

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

    /// Takes a slab off, wherever it is.
    ///
    /// # Safety
    /// - The caller owns `slab` and its neighbours, and it is on this list.
    #[inline]
    pub(crate) unsafe fn remove(&mut self, slab: NonNull<Slab>) {
        // SAFETY: the slab is on this list, so its links are as `unlink` wants them.
        unsafe {
            if self.front == Some(slab) {
                self.front = Slab::next(slab);
            }
            Slab::unlink(slab);
        }
    }
}

impl Slab {
    /// The slab behind this one.
    ///
    /// # Safety
    /// - The slab is on a list of the caller's.
    #[inline]
    pub(crate) unsafe fn next(slab: NonNull<Self>) -> Option<NonNull<Self>> {
        // SAFETY: a listed slab is formatted, and its links are its owner's.
        NonNull::new(unsafe { Self::links(slab) }.0)
    }

    /// Takes a slab out from between its neighbours. Whoever names the first one of the list sees
    /// to that.
    ///
    /// # Safety
    /// - The caller owns `slab` and all of the list that it is on.
    #[inline]
    pub(crate) unsafe fn unlink(slab: NonNull<Self>) {
        // SAFETY: the links lead to listed slabs or nowhere, and all of them are the caller's.
        unsafe {
            let (next, prev) = Self::links(slab);
            if let Some(prev) = NonNull::new(prev) {
                Self::set_next(prev, next);
            }
            if let Some(next) = NonNull::new(next) {
                Self::set_prev(next, prev);
            }
            Self::set_links(slab, core::ptr::null_mut(), core::ptr::null_mut());
        }
    }
}
