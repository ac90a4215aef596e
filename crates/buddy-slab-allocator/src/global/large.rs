//! Allocations above the size classes: whole pages, exactly as many as the size needs.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::GlobalAllocator;
use crate::buddy::Kind;
use crate::error::{AllocError, AllocResult};
use crate::platform::Platform;
use crate::units::{Misuse, Order, PhysLimit};

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// The pages for `layout`, and whether they are known to be zero.
    #[inline(never)]
    pub(super) fn alloc_large(&self, layout: Layout) -> AllocResult<(NonNull<u8>, bool)> {
        let count = Self::page_count(layout.size());
        let align_order =
            Order::for_pages(layout.align().div_ceil(PAGE_SIZE)).ok_or(AllocError::InvalidParam)?;
        let page = self.alloc_block(count, align_order, PhysLimit::NONE, None, Kind::Object)?;
        Ok((page.ptr(), page.known_zero()))
    }

    /// Frees a large allocation; without a layout, whatever its size.
    #[inline(never)]
    pub(super) fn dealloc_large(&self, ptr: NonNull<u8>, layout: Option<Layout>) {
        let addr = ptr.addr().get();
        let claimed = match layout {
            Some(layout) => {
                let count = Self::page_count(layout.size());
                self.core.claim(addr, count, Kind::Object).map(|page| (page, count))
            }
            None => self.core.claim_uncounted(addr, Kind::Object),
        };
        match claimed {
            Ok((page, count)) => {
                self.platform.retire(page.ptr(), count * PAGE_SIZE);
                // SAFETY: claimed: nobody else frees these pages.
                unsafe { self.free_block(page, count) };
                self.platform.chores();
            }
            Err(kind) => self.report(addr, kind),
        }
    }

    /// How many pages `size` bytes take; at least one.
    pub(super) fn page_count(size: usize) -> usize {
        size.div_ceil(PAGE_SIZE).max(1)
    }

    /// The page count of the large allocation at `addr`, if there is one.
    pub(super) fn large_pages(&self, addr: usize) -> Option<usize> {
        let page = self.core.lookup(addr).filter(|page| page.addr() == addr)?;
        let head = page.head();
        (head.is_allocated() && !head.is_tail() && head.kind() == Kind::Object)
            .then(|| page.count())
    }

    /// Checks that `addr` is a large allocation of `count` pages.
    pub(super) fn check_large(&self, addr: usize, count: usize) -> Result<(), Misuse> {
        match self.large_pages(addr) {
            Some(pages) if pages == count => Ok(()),
            Some(_) => Err(Misuse::WrongSize),
            None => Err(Misuse::NotAllocated),
        }
    }
}
