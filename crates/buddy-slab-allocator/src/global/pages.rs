//! Pages by address, as published, and with options.

use super::GlobalAllocator;
use crate::buddy::{Kind, PageError, PageRef};
use crate::error::{AllocError, AllocResult};
use crate::percpu::PageLists;
use crate::platform::Platform;
use crate::units::{Order, PhysLimit};

/// What a page request asks for, beyond its count.
///
/// ```
/// # use buddy_slab_allocator::global::PageOptions;
/// let for_a_device = PageOptions { physical_limit: Some(1 << 32), ..PageOptions::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageOptions {
    /// Alignment of the address in bytes; 0 means one page.
    pub align_bytes: usize,
    /// Exclusive upper bound of the physical addresses; `None` if any will do.
    pub physical_limit: Option<u64>,
    /// The NUMA node to prefer; `None` for that of this CPU.
    pub node: Option<u8>,
    /// Whether to reclaim (other CPUs' caches, the user's callback) before failing.
    pub reclaim: bool,
    /// Whether the zones' reserve may be used: for handlers, and for reclaim itself.
    pub use_reserve: bool,
}

impl Default for PageOptions {
    /// One page's alignment, anywhere, with reclaim, sparing the reserve.
    fn default() -> Self {
        Self { align_bytes: 0, physical_limit: None, node: None, reclaim: true, use_reserve: false }
    }
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Allocates `count` contiguous pages and returns their address: exactly `count`, at a
    /// multiple of `align` bytes (0 means `PAGE_SIZE`).
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] for a count of 0 or above 2^20, or an alignment that is no
    /// power of two, below `PAGE_SIZE` or above 2^20 pages; [`AllocError::NoMemory`];
    /// [`AllocError::NotInitialized`].
    ///
    /// # Complexity
    /// O(1) from this CPU's page lists (powers of two up to 2 MiB); else O(`MAX_ORDER`) under
    /// the node's lock.
    #[inline(always)]
    pub fn alloc_pages(&self, count: usize, align: usize) -> AllocResult<usize> {
        let align_order = Self::check_request(count, align)?;
        if let Some(block) = self.alloc_listed(count, align_order, Kind::Pages) {
            return Ok(block.ptr().as_ptr().expose_provenance());
        }
        self.alloc_pages_missed(count, align_order)
    }

    #[cold]
    #[inline(never)]
    fn alloc_pages_missed(&self, count: usize, align_order: Order) -> AllocResult<usize> {
        let page = self.alloc_missed(count, align_order, PhysLimit::NONE, None, Kind::Pages)?;
        Ok(page.ptr().as_ptr().expose_provenance())
    }

    /// [`alloc_pages`](Self::alloc_pages), wholly below 4 GiB of physical address.
    ///
    /// # Errors
    /// As [`alloc_pages`](Self::alloc_pages).
    ///
    /// # Complexity
    /// O(`MAX_ORDER`) under the node's lock.
    pub fn alloc_pages_lowmem(&self, count: usize, align: usize) -> AllocResult<usize> {
        let align_order = Self::check_request(count, align)?;
        let page = self.alloc_block(count, align_order, PhysLimit::FOUR_GIB, None, Kind::Pages)?;
        Ok(page.ptr().as_ptr().expose_provenance())
    }

    /// [`alloc_pages`](Self::alloc_pages) with options.
    ///
    /// # Errors
    /// As [`alloc_pages`](Self::alloc_pages).
    ///
    /// # Complexity
    /// As [`alloc_pages`](Self::alloc_pages), from the lists only without a limit, a node and the
    /// reserve. A limit other than 16 MiB and 4 GiB walks free lists.
    pub fn alloc_pages_with(&self, count: usize, options: &PageOptions) -> AllocResult<usize> {
        let page = self.alloc_with(count, options, Kind::Pages)?;
        Ok(page.ptr().as_ptr().expose_provenance())
    }

    /// Allocates exactly the `count` pages at `addr`.
    ///
    /// # Errors
    /// [`AllocError::NotFound`] if they are not all managed, [`AllocError::NoMemory`] if one of
    /// them is in use, [`AllocError::InvalidParam`] for a count of 0 or an unaligned address.
    ///
    /// # Complexity
    /// O(`MAX_ORDER` + pieces) under the node's lock; kept pages are drained first.
    pub fn alloc_pages_at(&self, addr: usize, count: usize) -> AllocResult<usize> {
        self.ready()?;
        self.settle_pages();
        let page = self
            .announced(|wait| self.core.alloc_at(addr, count, Kind::Pages, wait))
            .map_err(refusal)?;
        Ok(page.ptr().as_ptr().expose_provenance())
    }

    /// Takes the free pages of `len_bytes` at `addr` out of management for good: what lies there
    /// belongs to somebody else. Rounded outwards to whole pages.
    ///
    /// # Errors
    /// As [`alloc_pages_at`](Self::alloc_pages_at); nothing is taken then.
    pub fn reserve_range(&self, addr: usize, len_bytes: usize) -> AllocResult {
        self.ready()?;
        self.settle_pages();
        self.announced(|wait| self.core.reserve(addr, len_bytes, wait)).map_err(refusal)
    }

    /// Frees pages that [`alloc_pages`](Self::alloc_pages) or its kin returned, with the count
    /// that was asked for. Anything else (a wrong count, a slab, an object, a block held by a
    /// handle, an address that is not allocated) is reported and has no effect.
    ///
    /// # Complexity
    /// O(1) to this CPU's page lists, one compare-and-swap; else O(`MAX_ORDER`) under the lock.
    #[inline(always)]
    pub fn dealloc_pages(&self, addr: usize, count: usize) {
        let claim = || self.core.claim_kept(addr, count, Kind::Pages);
        // SAFETY: claimed: nobody else frees these pages.
        if unsafe { !self.keep_listed(addr, count, claim) } {
            self.dealloc_pages_slow(addr, count);
        }
    }

    /// No list has room, the heap is not to be had at once, another section, a block that was never
    /// carved, or a mistake.
    #[cold]
    #[inline(never)]
    fn dealloc_pages_slow(&self, addr: usize, count: usize) {
        match self.core.claim(addr, count, Kind::Pages) {
            // SAFETY: claimed: nobody else frees these pages.
            Ok(page) => unsafe { self.free_block(page, count) },
            Err(kind) => self.report(addr, kind),
        }
    }

    /// Allocates up to `addrs.len()` single pages and returns how many: all, unless memory ran
    /// out. One entry into this CPU's heap for all that its list has, and one hold of the node's
    /// lock, for every 64 pages.
    ///
    /// # Errors
    /// [`AllocError::NoMemory`] if there was not even one, [`AllocError::NotInitialized`].
    ///
    /// # Complexity
    /// O(`addrs.len()`).
    pub fn alloc_pages_bulk(&self, addrs: &mut [usize]) -> AllocResult<usize> {
        let mut count = 0;
        while count < addrs.len() {
            count += self.pop_pages(&mut addrs[count..]);
            if let Some(place) = addrs.get_mut(count) {
                match self.alloc_pages(1, PAGE_SIZE) {
                    Ok(page) => *place = page,
                    Err(error) if count == 0 => return Err(error),
                    Err(_) => break,
                }
                count += 1;
            }
        }
        Ok(count)
    }

    /// Fills `addrs` with single pages from this CPU's list; returns how many there were.
    fn pop_pages(&self, addrs: &mut [usize]) -> usize {
        let Some(list) = PageLists::<PAGE_SIZE>::list_for(1) else { return 0 };
        let Some(mut own) = self.enter_fast_or_leave() else { return 0 };
        let counts = own.heap().page_counts();
        let lists = &mut own.local().pages;
        let mut count = 0;
        for place in addrs {
            let Some(block) = lists.pop(list, counts) else { break };
            // SAFETY: popped: this caller's alone.
            unsafe { block.set_kind(Kind::Pages) };
            *place = block.ptr().as_ptr().expose_provenance();
            count += 1;
        }
        count
    }

    /// Frees single pages; as [`dealloc_pages`](Self::dealloc_pages) for each, with one entry into
    /// this CPU's heap for as many as its list has room for. O(`addrs.len()`).
    pub fn dealloc_pages_bulk(&self, addrs: &[usize]) {
        let mut left = addrs;
        while let [first, rest @ ..] = left {
            // One by itself: it makes room, or is reported.
            self.dealloc_pages(*first, 1);
            left = &rest[self.push_pages(rest)..];
        }
    }

    /// Frees single pages as long as they are what they should be, and this CPU's list has room.
    /// Returns how many.
    fn push_pages(&self, addrs: &[usize]) -> usize {
        let Some(list) = PageLists::<PAGE_SIZE>::list_for(1) else { return 0 };
        let Some(mut own) = self.enter_fast_or_leave() else { return 0 };
        let counts = own.heap().page_counts();
        let lists = &mut own.local().pages;
        let mut count = 0;
        for &addr in addrs {
            let Some(vacancy) = lists.vacancy(list, counts) else { break };
            let Some(page) = self.core.claim_kept(addr, 1, Kind::Pages) else { break };
            // SAFETY: claimed; a single page.
            unsafe { vacancy.fill(page) };
            count += 1;
        }
        count
    }

    /// Grows or shrinks, in place, pages that [`alloc_pages`](Self::alloc_pages) returned.
    ///
    /// # Errors
    /// [`AllocError::NoMemory`] if the pages behind are not free, [`AllocError::NotAllocated`] if
    /// this is no such block, [`AllocError::InvalidParam`] for a new count of 0.
    ///
    /// # Safety
    /// - The caller owns the block, and nobody frees it meanwhile.
    /// - When it shrinks, nothing uses the pages that are given up.
    pub unsafe fn resize_pages(&self, addr: usize, count: usize, new_count: usize) -> AllocResult {
        self.ready()?;
        if new_count == 0 {
            return Err(AllocError::InvalidParam);
        }
        let page = self.core.lookup(addr).ok_or(AllocError::NotFound)?;
        let head = page.head();
        let ours = page.addr() == addr
            && head.is_allocated()
            && !head.is_tail()
            && head.kind() == Kind::Pages
            && page.count() == count;
        if !ours {
            return Err(AllocError::NotAllocated);
        }
        // SAFETY: a block of `count` pages that the caller owns (condition).
        let resized = self.announced(|wait| unsafe {
            match new_count.cmp(&count) {
                core::cmp::Ordering::Greater => self.core.grow(page, count, new_count, 0, wait),
                core::cmp::Ordering::Less => self.core.shrink(page, count, new_count, wait),
                core::cmp::Ordering::Equal => Ok(()),
            }
        });
        resized.map_err(refusal)
    }

    #[inline(always)]
    pub(super) fn check_request(count: usize, align: usize) -> AllocResult<Order> {
        let align = if align == 0 { PAGE_SIZE } else { align };
        if count == 0 || !align.is_power_of_two() || align < PAGE_SIZE {
            return Err(AllocError::InvalidParam);
        }
        Order::for_pages(align / PAGE_SIZE).ok_or(AllocError::InvalidParam)
    }

    pub(super) fn alloc_with(
        &self,
        count: usize,
        options: &PageOptions,
        kind: Kind,
    ) -> AllocResult<PageRef<'_, PAGE_SIZE>> {
        let align_order = Self::check_request(count, options.align_bytes)?;
        let limit = options.physical_limit.map_or(PhysLimit::NONE, PhysLimit::below);
        self.alloc_block(count, align_order, limit, Some(options), kind)
    }

    pub(super) fn ready(&self) -> AllocResult {
        if self.is_ready() { Ok(()) } else { Err(AllocError::NotInitialized) }
    }

    /// Pages for the allocator's own structures, which stay for ever.
    pub(super) fn internal_pages(&self, count: usize) -> AllocResult<core::ptr::NonNull<u8>> {
        let zero = Order::ZERO;
        let page = self.alloc_block(count, zero, PhysLimit::NONE, None, Kind::Internal)?;
        // SAFETY: just allocated as internal, and kept for ever.
        unsafe { self.core.keep_internal(page, count) };
        Ok(page.ptr())
    }
}

/// What a refused page request means to the caller.
pub(super) fn refusal(error: PageError) -> AllocError {
    match error {
        PageError::Exhausted | PageError::InFlight | PageError::Busy => AllocError::NoMemory,
        PageError::Invalid => AllocError::InvalidParam,
        PageError::NotFound => AllocError::NotFound,
        PageError::NotAllocated(_) => AllocError::NotAllocated,
    }
}
