//! Allocations above the size classes: whole pages, exactly as many as the size needs.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::GlobalAllocator;
use crate::buddy::{Kind, PageRef};
use crate::error::{AllocError, AllocResult};
use crate::percpu::BlockSize;
use crate::platform::Platform;
use crate::units::{Misuse, Order, PhysLimit};

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// The pages for `layout`, and whether they are known to be zero.
    #[inline(never)]
    pub(super) fn alloc_large(&self, layout: Layout) -> AllocResult<(NonNull<u8>, bool)> {
        let page = match self.alloc_cached(layout) {
            Some(page) => page,
            None => self.alloc_uncached(layout)?,
        };
        Ok((page.ptr(), page.known_zero()))
    }

    #[inline(never)]
    fn alloc_uncached(&self, layout: Layout) -> AllocResult<PageRef<'_, PAGE_SIZE>> {
        let count = Self::page_count(layout.size());
        let align_order =
            Order::for_pages(layout.align().div_ceil(PAGE_SIZE)).ok_or(AllocError::InvalidParam)?;
        self.alloc_block(count, align_order, PhysLimit::NONE, None, Kind::Object)
    }

    /// Takes a block from this CPU's cache; `None` if it has none of that size, and no span.
    #[inline(always)]
    fn alloc_cached(&self, layout: Layout) -> Option<PageRef<'_, PAGE_SIZE>> {
        if layout.align() > PAGE_SIZE {
            return None;
        }
        let count = Self::page_count(layout.size());
        let mut own = self.enter_fast_or_leave()?;
        let env = own.env();
        let blocks = &mut own.local().blocks;
        if let Some(page) = blocks.cut(count, &env) {
            return Some(page);
        }
        let page = blocks.pop(BlockSize::of(count)?, &env)?;
        // SAFETY: popped: this caller's alone.
        unsafe { page.set_kind(Kind::Object) };
        Some(page)
    }

    /// Gives a large block to this CPU's cache, or to where all blocks go.
    ///
    /// # Safety
    /// - `page` heads a block of `count` pages that the caller has claimed: it is `Cached`.
    #[inline(always)]
    unsafe fn free_large(&self, page: PageRef<'_, PAGE_SIZE>, count: usize) {
        if let Some(mut own) = self.enter_fast_or_leave() {
            let env = own.env();
            let blocks = &mut own.local().blocks;
            // SAFETY: the caller's (condition), of this size.
            unsafe {
                if blocks.join(page, count, &env) {
                    return;
                }
                if let Some(size) = BlockSize::of(count)
                    && (blocks.push(size, page, &env) || blocks.push_full(size, page, &env))
                {
                    return;
                }
            }
        }
        // SAFETY: the same condition.
        unsafe { self.free_block(page, count) }
    }

    /// The pages for `layout`, for a caller that does not ask why there are none.
    #[inline(never)]
    pub(super) fn alloc_large_object(&self, layout: Layout) -> Option<NonNull<u8>> {
        let page = self.alloc_cached(layout).or_else(|| self.alloc_uncached(layout).ok())?;
        Some(page.ptr())
    }

    /// Frees a large allocation; without a size, whatever it is.
    #[inline(never)]
    pub(super) fn dealloc_large(&self, ptr: NonNull<u8>, size: Option<usize>) {
        let addr = ptr.addr().get();
        let claimed = match size {
            Some(size) => {
                let count = Self::page_count(size);
                if let Some(page) = self.core.claim_fast(addr, count, Kind::Object) {
                    self.platform.retire(page.ptr(), count * PAGE_SIZE);
                    // SAFETY: claimed: nobody else frees these pages.
                    return unsafe { self.free_large(page, count) };
                }
                self.core.claim(addr, count, Kind::Object).map(|page| (page, count))
            }
            None => self.core.claim_uncounted(addr, Kind::Object),
        };
        match claimed {
            Ok((page, count)) => {
                self.platform.retire(page.ptr(), count * PAGE_SIZE);
                // SAFETY: claimed: nobody else frees these pages.
                unsafe { self.free_large(page, count) };
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
