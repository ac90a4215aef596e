//! `alloc` of objects: the fast path is in this file and in `percpu::local`. `free` has the way
//! back.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::GlobalAllocator;
use crate::buddy::PageError;
use crate::error::{AllocError, AllocResult};
use crate::platform::Platform;
use crate::slab::SizeClass;

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Allocates memory for `layout`: an object of a size class up to 30 KiB (or below 8 pages),
    /// whole pages above, and for alignments above `PAGE_SIZE`. A size of zero is served like one byte.
    ///
    /// # Errors
    /// [`AllocError::NoMemory`] when nothing is left after reclaim; [`AllocError::InvalidParam`]
    /// for a size or alignment beyond 2^20 pages; [`AllocError::NotInitialized`].
    ///
    /// # Complexity
    /// O(1). Takes no lock when *pinned* or *thread*, this CPU's when *locked*; a refill takes the
    /// node's lock.
    #[inline(always)]
    pub fn alloc(&self, layout: Layout) -> AllocResult<NonNull<u8>> {
        match SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE) {
            Some(class) => self.alloc_object(class).ok_or_else(|| self.no_heap()),
            None => self.alloc_large(layout).map(|(object, _)| object),
        }
    }

    /// [`alloc`](Self::alloc), and every byte is zero. Pages that are known to be zero (fresh from
    /// a region that was declared zeroed) are not cleared again.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    ///
    /// # Complexity
    /// As [`alloc`](Self::alloc), and O(size) where something has to be cleared.
    pub fn alloc_zeroed(&self, layout: Layout) -> AllocResult<NonNull<u8>> {
        let (object, known_zero) =
            match SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE) {
                Some(class) => (self.alloc_object(class).ok_or_else(|| self.no_heap())?, false),
                None => self.alloc_large(layout)?,
            };
        if !known_zero {
            // SAFETY: fresh memory of at least this size, not shared with anybody yet.
            unsafe { object.as_ptr().write_bytes(0, layout.size()) };
        }
        Ok(object)
    }

    /// What [`alloc`](Self::alloc) tries first: an object that this CPU has at hand. `None` if it takes
    /// more (a refill, whole pages, a heap that is in use), and for every layout that no size class
    /// serves. For callers whose own way on after `None` ends in [`alloc`](Self::alloc), so that
    /// nothing of the way back has to be kept over the call.
    ///
    /// # Complexity
    /// O(1). Takes no lock when *pinned* or *thread*; this CPU's when *locked*.
    #[inline(always)]
    pub fn alloc_at_hand(&self, layout: Layout) -> Option<NonNull<u8>> {
        let class = SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE)?;
        self.object_at_hand(class)
    }

    #[inline(always)]
    fn object_at_hand(&self, class: SizeClass) -> Option<NonNull<u8>> {
        self.enter_fast_or_leave()?.local().alloc_at_hand(class, P::MAGAZINES)
    }

    #[inline(always)]
    pub(super) fn alloc_object(&self, class: SizeClass) -> Option<NonNull<u8>> {
        match self.object_at_hand(class) {
            Some(object) => Some(object),
            None => self.alloc_object_slow(class),
        }
    }

    /// Why there is no heap to be had.
    #[cold]
    pub(super) fn no_heap(&self) -> AllocError {
        if self.is_ready() { AllocError::NoMemory } else { AllocError::NotInitialized }
    }

    /// This CPU's heap has nothing at hand, or cannot be had at once.
    #[cold]
    #[inline(never)]
    fn alloc_object_slow(&self, class: SizeClass) -> Option<NonNull<u8>> {
        let mut session = self.enter()?;
        let (local, env) = session.parts();
        let refilled = local.refill(class, &env);
        let faults = local.faults.take();
        match refilled {
            Ok(object) => {
                drop(session);
                self.report_all(&faults);
                self.restock();
                Some(object)
            }
            // The lock is held by what this handler interrupted, as far as anybody can tell.
            Err(PageError::Busy) => {
                drop(session);
                self.report_all(&faults);
                None
            }
            Err(_) => {
                let served = self.under_pressure(session, faults, Some(class), |session| {
                    let (local, env) = session.parts();
                    local.refill(class, &env).ok()
                });
                served.ok()
            }
        }
    }

    /// Allocates objects of one layout until `objects` is full or memory runs out; returns how
    /// many there are. One entry into this CPU's heap for all that it has at hand.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc), if there was not even one.
    ///
    /// # Complexity
    /// O(`objects.len()`).
    pub fn alloc_bulk(
        &self,
        layout: Layout,
        objects: &mut [MaybeUninit<NonNull<u8>>],
    ) -> AllocResult<usize> {
        let class = SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE);
        let mut count = 0;
        while count < objects.len() {
            if let (Some(class), Some(mut session)) = (class, self.enter()) {
                let local = session.local();
                while let Some(place) = objects.get_mut(count) {
                    let Some(object) = local.alloc_at_hand(class, P::MAGAZINES) else { break };
                    place.write(object);
                    count += 1;
                }
            }
            if let Some(place) = objects.get_mut(count) {
                match self.alloc(layout) {
                    Ok(object) => place.write(object),
                    Err(error) if count == 0 => return Err(error),
                    Err(_) => break,
                };
                count += 1;
            }
        }
        Ok(count)
    }
}
