//! The owning handle of a block of pages.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::{GlobalAllocator, PageOptions};
use crate::buddy::{KeptPage, Kind, PageRef};
use crate::error::AllocResult;
use crate::platform::{OsPlatform, Platform};
use crate::units::{Order, PhysLimit};

/// Pages that are owned: not `Copy`, freed by value when dropped, so they cannot be freed twice
/// or with a wrong count. The fast way to hold pages: no compare-and-swap is needed to free them.
///
/// Two words, so that it is passed in registers; how many pages there are their metadata says.
///
/// # Invariants
/// - At `start` begins an allocated block whose kind is `Handle`: nothing else frees it.
pub struct PageBlock<'a, const PAGE_SIZE: usize = 0x1000, P: Platform = OsPlatform> {
    allocator: &'a GlobalAllocator<PAGE_SIZE, P>,
    start: NonNull<u8>,
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Allocates `count` contiguous pages behind an owning handle.
    ///
    /// # Errors
    /// As [`alloc_pages`](Self::alloc_pages).
    #[inline]
    pub fn alloc_block_of(
        &self,
        count: usize,
        options: &PageOptions,
    ) -> AllocResult<PageBlock<'_, PAGE_SIZE, P>> {
        let align_order = Self::check_request(count, options.align_bytes)?;
        if options.physical_limit.is_none()
            && Self::is_plain(PhysLimit::NONE, Some(options))
            && let Some(block) = self.alloc_listed(count, align_order, Kind::Handle)
        {
            return Ok(self.own(block.ptr()));
        }
        self.alloc_block_missed(count, options)
    }

    #[cold]
    #[inline(never)]
    fn alloc_block_missed(
        &self,
        count: usize,
        options: &PageOptions,
    ) -> AllocResult<PageBlock<'_, PAGE_SIZE, P>> {
        self.alloc_with(count, options, Kind::Handle).map(|page| self.own(page.ptr()))
    }

    /// Allocates one page behind an owning handle: the fast path of a kernel's page cache.
    ///
    /// # Errors
    /// As [`alloc_pages`](Self::alloc_pages).
    #[inline(always)]
    pub fn alloc_page(&self) -> AllocResult<PageBlock<'_, PAGE_SIZE, P>> {
        match self.alloc_listed(1, Order::ZERO, Kind::Handle) {
            Some(block) => Ok(self.own(block.ptr())),
            None => self.alloc_page_missed(),
        }
    }

    #[cold]
    #[inline(never)]
    fn alloc_page_missed(&self) -> AllocResult<PageBlock<'_, PAGE_SIZE, P>> {
        let page = self.alloc_missed(1, Order::ZERO, PhysLimit::NONE, None, Kind::Handle)?;
        Ok(self.own(page.ptr()))
    }

    #[inline(always)]
    fn own(&self, start: NonNull<u8>) -> PageBlock<'_, PAGE_SIZE, P> {
        // INVARIANT: callers have just allocated the block as `Handle`.
        PageBlock { allocator: self, start }
    }
}

impl<'a, const PAGE_SIZE: usize, P: Platform> PageBlock<'a, PAGE_SIZE, P> {
    /// The first byte of the first page.
    #[inline]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// How many pages it has. A look at the metadata of the first.
    #[inline]
    pub fn page_count(&self) -> usize {
        self.page().map_or(0, PageRef::count)
    }

    /// How many bytes it has.
    pub fn len_bytes(&self) -> usize {
        self.page_count() * PAGE_SIZE
    }

    /// The block. (There always is one.)
    #[inline(always)]
    fn page(&self) -> Option<PageRef<'a, PAGE_SIZE>> {
        self.allocator.core.lookup(self.start.addr().get())
    }

    /// Gives the pages up by address; [`from_addr`](Self::from_addr) takes them back.
    pub fn into_addr(self) -> usize {
        ManuallyDrop::new(self).start.as_ptr().expose_provenance()
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
        head.is_handed_out_as(Kind::Handle).then(|| allocator.own(page.ptr()))
    }
}

impl<const PAGE_SIZE: usize, P: Platform> Drop for PageBlock<'_, PAGE_SIZE, P> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the handle owns the block (invariant), and is gone afterwards.
        unsafe { self.allocator.release(self.start) }
    }
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Frees a block that a handle owned: its owner gives it up, which claims it.
    ///
    /// A function of its own, so that dropping a handle is a call with two words, whatever memory
    /// the handle was moved through: left to itself, the compiler copies both words by one load
    /// that waits for two stores.
    ///
    /// # Safety
    /// - At `start` begins a block of this kind, which is the caller's, and not used any more.
    #[inline(never)]
    unsafe fn release(&self, start: NonNull<u8>) {
        // SAFETY: the block's owner is its only user (condition).
        unsafe {
            let Some(block) = self.core.own_at(start) else { return self.release_slow(start) };
            let claim = || {
                block.retire();
                Some(block)
            };
            // A single page is one by its order.
            let kept = match block.head().order_byte() {
                0 => self.keep_listed(block.addr(), 1, claim),
                _ => self.keep_listed(block.addr(), block.count(), claim),
            };
            if !kept {
                self.release_slow(start);
            }
        }
    }

    /// In another section, of no list's size, or there is no room in the list.
    ///
    /// # Safety
    /// - As for `release`.
    #[cold]
    #[inline(never)]
    unsafe fn release_slow(&self, start: NonNull<u8>) {
        let addr = start.addr().get();
        let Some(page) = self.core.lookup(addr) else {
            debug_assert!(false, "page block: its pages are managed");
            return;
        };
        let count = page.count();
        let claim = || {
            // SAFETY: the caller's (condition).
            unsafe { page.retire() };
            Some(KeptPage::keep(page))
        };
        // SAFETY: the caller's, who gives it up; claimed at the latest here.
        unsafe {
            if !self.keep_listed(addr, count, claim) {
                page.retire();
                self.free_block(page, count);
            }
        }
    }
}

impl<const PAGE_SIZE: usize, P: Platform> fmt::Debug for PageBlock<'_, PAGE_SIZE, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageBlock({:#x}, {} pages)", self.start.addr(), self.page_count())
    }
}

// SAFETY: the block belongs to the handle alone, and the allocator is `Sync`.
unsafe impl<const PAGE_SIZE: usize, P: Platform> Send for PageBlock<'_, PAGE_SIZE, P> {}
// SAFETY: a shared handle only tells its address and size.
unsafe impl<const PAGE_SIZE: usize, P: Platform> Sync for PageBlock<'_, PAGE_SIZE, P> {}
