//! Free memory is given up to whoever backs it.

use core::ptr::NonNull;

use super::GlobalAllocator;
use crate::buddy::Wait;
use crate::platform::Platform;
use crate::units::Order;

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Shows free memory that may hold something to `give_up`, in blocks of at least
    /// `smallest_pages`, so that it can be given back to whoever backs it. Where `give_up` answers
    /// `true` the block is known to be zero from then on, and
    /// [`alloc_zeroed`](Self::alloc_zeroed) need not clear it; `false` ends the call. Returns how
    /// many bytes were given up.
    ///
    /// While a block is shown nobody else has it: a request that needs it may fail, so callers
    /// that fail while somebody purges try again. What CPUs keep is not shown
    /// ([`shrink`](Self::shrink) gives it back first).
    ///
    /// # Complexity
    /// O(free blocks of that size). Takes a node's lock for a few blocks at a time; `give_up` runs
    /// with nothing held.
    ///
    /// # Safety
    /// - Where `give_up` returns `true` the bytes from the pointer on are all zero when read next.
    pub unsafe fn purge(
        &self,
        smallest_pages: usize,
        mut give_up: impl FnMut(NonNull<u8>, usize) -> bool,
    ) -> usize {
        let Some(smallest) = Order::for_pages(smallest_pages.max(1)) else { return 0 };
        if !self.is_ready() {
            return 0;
        }
        let pages = self.announced(|wait| match wait {
            Wait::Try => 0,
            wait => self.core.purge(smallest, wait, &mut give_up),
        });
        pages * PAGE_SIZE
    }
}
