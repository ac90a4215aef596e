//! The owning handle of a block of pages.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::{GlobalAllocator, PageOptions};
use crate::buddy::{Kind, PageRef};
use crate::error::AllocResult;
use crate::platform::{OsPlatform, Platform};
use crate::units::{Order, PhysLimit};

/// Pages that are owned: not `Copy`, freed by value when dropped, so they cannot be freed twice
/// or with a wrong count. The fast way to hold pages: no compare-and-swap is needed to free them.
///
/// # Invariants
/// - `page` heads an allocated block of `count` pages whose kind is `Handle`: nothing else frees
///   it.
pub struct PageBlock<'a, const PAGE_SIZE: usize = 0x1000, P: Platform = OsPlatform> {
    allocator: &'a GlobalAllocator<PAGE_SIZE, P>,
    page: PageRef<'a, PAGE_SIZE>,
    count: u32,
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Allocates `count` contiguous pages behind an owning handle.
    ///
    /// # Errors
    /// As [`alloc_pages`](Self::alloc_pages).
    pub fn alloc_block_of(
        &self,
        count: usize,
        options: &PageOptions,
    ) -> AllocResult<PageBlock<'_, PAGE_SIZE, P>> {
        self.alloc_with(count, options, Kind::Handle).map(|page| self.own(page, count))
    }

    /// Allocates one page behind an owning handle: the fast path of a kernel's page cache.
    ///
    /// # Errors
    /// As [`alloc_pages`](Self::alloc_pages).
    #[inline]
    pub fn alloc_page(&self) -> AllocResult<PageBlock<'_, PAGE_SIZE, P>> {
        match self.alloc_listed(1, Order::ZERO, Kind::Handle) {
            Some(page) => Ok(self.own(page, 1)),
            None => self.alloc_page_missed(),
        }
    }

    #[cold]
    #[inline(never)]
    fn alloc_page_missed(&self) -> AllocResult<PageBlock<'_, PAGE_SIZE, P>> {
        let page = self.alloc_missed(1, Order::ZERO, PhysLimit::NONE, None, Kind::Handle)?;
        Ok(self.own(page, 1))
    }

    #[inline(always)]
    fn own<'a>(
        &'a self,
        page: PageRef<'a, PAGE_SIZE>,
        count: usize,
    ) -> PageBlock<'a, PAGE_SIZE, P> {
        // INVARIANT: callers have just allocated the block as `Handle`; a count is at most 2^20.
        PageBlock { allocator: self, page, count: count as u32 }
    }
}

impl<'a, const PAGE_SIZE: usize, P: Platform> PageBlock<'a, PAGE_SIZE, P> {
    /// The first byte of the first page.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.page.ptr()
    }

    /// How many pages it has.
    #[inline]
    pub fn page_count(&self) -> usize {
        self.count as usize
    }

    /// How many bytes it has.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.page_count() * PAGE_SIZE
    }

    /// Gives the pages up by address; [`from_addr`](Self::from_addr) takes them back.
    pub fn into_addr(self) -> usize {
        let block = ManuallyDrop::new(self);
        block.page.ptr().as_ptr().expose_provenance()
    }

    /// Takes back what [`into_addr`](Self::into_addr) gave up; `None` if `addr` is no such block.
    ///
    /// # Safety
    /// - `addr` came from `into_addr`, and was taken back at most once since.
    pub unsafe fn from_addr(
        allocator: &'a GlobalAllocator<PAGE_SIZE, P>,
        addr: usize,
    ) -> Option<Self> {
        let page = allocator.core.lookup(addr).filter(|page| page.addr() == addr)?;
        let head = page.head();
        // INVARIANT: an allocated block of this kind, and the only handle to it (condition).
        head.is_handed_out_as(Kind::Handle).then(|| Self {
            allocator,
            page,
            count: page.count() as u32,
        })
    }
}

impl<const PAGE_SIZE: usize, P: Platform> Drop for PageBlock<'_, PAGE_SIZE, P> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the handle owns the block (invariant), and is gone afterwards: that claims it.
        unsafe {
            self.page.retire();
            match self.page_count() {
                1 => self.allocator.free_block(self.page, 1),
                count => self.allocator.free_block_of(self.page, count),
            }
        }
    }
}

impl<const PAGE_SIZE: usize, P: Platform> fmt::Debug for PageBlock<'_, PAGE_SIZE, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageBlock({:#x}, {} pages)", self.page.addr(), self.count)
    }
}

// SAFETY: the block belongs to the handle alone, and the allocator is `Sync`.
unsafe impl<const PAGE_SIZE: usize, P: Platform> Send for PageBlock<'_, PAGE_SIZE, P> {}
// SAFETY: a shared handle only tells its address and size.
unsafe impl<const PAGE_SIZE: usize, P: Platform> Sync for PageBlock<'_, PAGE_SIZE, P> {}
