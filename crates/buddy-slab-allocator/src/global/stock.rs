//! The shared heaps' stock of pages: what handlers are served from that interrupted the holder of
//! the node's lock.
//!
//! It is filled at initialisation, and again where ordinary code ends a slow path after a handler
//! was diverted or a drain has emptied it. Its pages count as free, and are drained like those of
//! any heap before a request fails.

use super::GlobalAllocator;
use crate::buddy::Wait;
use crate::platform::{Access, Platform};
use crate::sync::atomic::Ordering;
use crate::sync::{self, Rank};

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// The end of a slow path: fills the stock up if that may be needed, and lets the platform do
    /// its chores. Called with nothing held.
    #[inline]
    pub(super) fn restock(&self) {
        if self.stock_low.load(Ordering::Relaxed) {
            self.restock_slow();
        }
        self.platform.chores();
    }

    #[cold]
    fn restock_slow(&self) {
        let Some(mut session) = self.enter_own() else { return };
        session.suspend();
        self.fill_stock(session.wait());
    }

    /// Fills the stock up, as far as the shared heaps' locks are to be had.
    pub(super) fn fill_stock(&self, wait: Wait) {
        // Without a token a handler is not recognised, and so not served from here.
        let tells = P::ACCESS == Access::Exclusive || self.platform.context().is_some();
        if !self.stock_low.swap(false, Ordering::Relaxed) || !tells {
            return;
        }
        for heap in (0..self.heaps.shared_count()).filter_map(|index| self.heaps.shared(index)) {
            if sync::try_lock(&heap.lock, Rank::Heap) {
                // SAFETY: its lock was just taken, and is given back here.
                unsafe {
                    heap.local().pages.stock(&self.env_of(heap, wait));
                    sync::unlock(&heap.lock, Rank::Heap);
                }
            }
        }
    }

    /// Says that the stock may be low: a handler was diverted, or a drain has emptied it.
    pub(super) fn stock_is_low(&self) {
        self.stock_low.store(true, Ordering::Relaxed);
    }
}
