//! Pages by address, as published, and with options.

use super::GlobalAllocator;
use super::session::{Own, Session};
use crate::buddy::{KeptPage, Kind, PageError, PageRef};
use crate::error::{AllocError, AllocResult};
use crate::percpu::{ListIndex, PageLists};
use crate::platform::Platform;
use crate::units::{NodeId, Order, PhysLimit};

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
    /// O(1) from this CPU's page lists (1, 2, 4, 8 pages and 2 MiB); else O(`MAX_ORDER`) under
    /// the node's lock.
    #[inline]
    pub fn alloc_pages(&self, count: usize, align: usize) -> AllocResult<usize> {
        let align_order = Self::check_request(count, align)?;
        if let Some(page) = self.alloc_listed(count, align_order, Kind::Pages) {
            return Ok(page.ptr().as_ptr().expose_provenance());
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
    pub fn alloc_pages_lowmem(&self, count: usize, align: usize) -> AllocResult<usize> {
        let align_order = Self::check_request(count, align)?;
        let page = self.alloc_block(count, align_order, PhysLimit::FOUR_GIB, None, Kind::Pages)?;
        Ok(page.ptr().as_ptr().expose_provenance())
    }

    /// [`alloc_pages`](Self::alloc_pages) with options.
    ///
    /// # Errors
    /// As [`alloc_pages`](Self::alloc_pages).
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
    #[inline]
    pub fn dealloc_pages(&self, addr: usize, count: usize) {
        match self.core.claim_fast(addr, count, Kind::Pages) {
            // SAFETY: claimed: nobody else frees these pages.
            Some(page) => unsafe { self.free_block(page, count) },
            None => self.dealloc_pages_slow(addr, count),
        }
    }

    /// In another section, in a block that was never carved, or a mistake.
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
            let page = unsafe { hand_out(block, Kind::Pages) };
            *place = page.ptr().as_ptr().expose_provenance();
            count += 1;
        }
        count
    }

    /// Frees single pages; as [`dealloc_pages`](Self::dealloc_pages) for each, with one entry into
    /// this CPU's heap for as many as its list has room for.
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
        for &addr in addrs.iter().take(lists.room(list, counts)) {
            let Some(page) = self.core.claim_fast(addr, 1, Kind::Pages) else { break };
            // SAFETY: claimed; a single page.
            let kept = unsafe { lists.push(list, page, counts) };
            debug_assert!(kept, "page list: as many as there was room for");
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
                core::cmp::Ordering::Greater => self.core.grow(page, count, new_count, wait),
                core::cmp::Ordering::Less => self.core.shrink(page, count, new_count, wait),
                core::cmp::Ordering::Equal => Ok(()),
            }
        });
        resized.map_err(refusal)
    }

    #[inline]
    fn check_request(count: usize, align: usize) -> AllocResult<Order> {
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

    /// Every request for pages ends here: this CPU's lists, then the sections, then pressure.
    pub(super) fn alloc_block(
        &self,
        count: usize,
        align_order: Order,
        limit: PhysLimit,
        options: Option<&PageOptions>,
        kind: Kind,
    ) -> AllocResult<PageRef<'_, PAGE_SIZE>> {
        if Self::is_plain(limit, options)
            && let Some(page) = self.alloc_listed(count, align_order, kind)
        {
            return Ok(page);
        }
        self.alloc_missed(count, align_order, limit, options, kind)
    }

    /// Whether any pages of any node will do, so that those at hand may serve.
    #[inline]
    fn is_plain(limit: PhysLimit, options: Option<&PageOptions>) -> bool {
        let plain = |options: &PageOptions| options.node.is_none() && !options.use_reserve;
        limit.is_none() && options.is_none_or(plain)
    }

    /// The list that serves a request for this count and alignment.
    #[inline(always)]
    fn list_serving(count: usize, align_order: Order) -> Option<ListIndex> {
        PageLists::<PAGE_SIZE>::list_for(count).filter(|_| align_order.pages() <= count)
    }

    /// Takes a block from this CPU's lists: the fast path. `None` if there is no such list, it is
    /// empty, or the heap cannot be had at once.
    #[inline(always)]
    pub(super) fn alloc_listed(
        &self,
        count: usize,
        align_order: Order,
        kind: Kind,
    ) -> Option<PageRef<'_, PAGE_SIZE>> {
        let list = Self::list_serving(count, align_order)?;
        let mut own = self.enter_fast_or_leave()?;
        let counts = own.heap().page_counts();
        let block = own.local().pages.pop(list, counts)?;
        // SAFETY: popped: this caller's alone.
        Some(unsafe { hand_out(block, kind) })
    }

    /// This CPU's list is empty, or there is none for the request.
    #[cold]
    #[inline(never)]
    pub(super) fn alloc_missed(
        &self,
        count: usize,
        align_order: Order,
        limit: PhysLimit,
        options: Option<&PageOptions>,
        kind: Kind,
    ) -> AllocResult<PageRef<'_, PAGE_SIZE>> {
        let listed =
            Self::list_serving(count, align_order).filter(|_| Self::is_plain(limit, options));
        let Some(mut session) = self.enter() else {
            return Err(self.no_heap());
        };
        if let Some(list) = listed {
            let (local, env) = session.parts();
            // Another heap than before, perhaps: a shared one has a list of its own.
            let kept = local.pages.pop(list, env.page_counts).or_else(|| {
                local.pages.refill(list, &env);
                local.pages.pop(list, env.page_counts)
            });
            if let Some(block) = kept {
                // SAFETY: popped: this caller's alone.
                let page = unsafe { hand_out(block, kind) };
                drop(session);
                self.restock();
                return Ok(page);
            }
        }
        self.alloc_block_slow(session, count, align_order, limit, options, kind)
    }

    #[cold]
    #[inline(never)]
    fn alloc_block_slow<'a>(
        &'a self,
        mut session: Session<'a, PAGE_SIZE, P>,
        count: usize,
        align_order: Order,
        limit: PhysLimit,
        options: Option<&PageOptions>,
        kind: Kind,
    ) -> AllocResult<PageRef<'a, PAGE_SIZE>> {
        let phys = |vaddr: usize| {
            let phys = self.platform.virt_to_phys(vaddr).unwrap_or(u64::MAX);
            usize::try_from(phys).unwrap_or(usize::MAX)
        };
        let attempt = |session: &mut Session<'a, PAGE_SIZE, P>| {
            let mut request = session.env().request(count, kind);
            request.align_order = align_order;
            request.limit = limit;
            request.phys = Some(&phys);
            if let Some(options) = options {
                request.use_reserve |= options.use_reserve;
                if let Some(node) = options.node.map(NodeId::new) {
                    request.node = node;
                }
            }
            self.core.alloc(&request)
        };
        match attempt(&mut session) {
            Ok(page) => {
                drop(session);
                self.restock();
                Ok(page)
            }
            Err(PageError::Busy) if limit.is_none() && align_order == Order::ZERO => {
                // The lock is held by what this handler interrupted.
                let (local, env) = session.parts();
                let page = local.pages.take_part(count, &env).ok_or(AllocError::NoMemory)?;
                // SAFETY: just taken off the lists.
                unsafe { page.set_kind(kind) };
                Ok(page)
            }
            Err(error @ (PageError::Invalid | PageError::NotFound | PageError::Busy)) => {
                Err(refusal(error))
            }
            Err(error) if options.is_some_and(|options| !options.reclaim) => Err(refusal(error)),
            Err(_) => {
                let faults = crate::percpu::FaultLog::new();
                self.under_pressure(session, faults, None, |session| attempt(session).ok())
            }
        }
    }

    /// Every page that comes back ends here: this CPU's lists, the sections, or, where the lock
    /// cannot be had, the deferred list. Never fails.
    ///
    /// # Safety
    /// - `page` heads a block of `count` pages that the caller has claimed: it is `Cached`.
    #[inline(always)]
    pub(super) unsafe fn free_block(&self, page: PageRef<'_, PAGE_SIZE>, count: usize) {
        if let Some(list) = Self::list_of(page, count)
            && let Some(mut own) = self.enter_fast_or_leave()
        {
            let counts = own.heap().page_counts();
            // SAFETY: the caller's (condition), naturally aligned, of the list's size.
            if unsafe { !own.local().pages.push(list, page, counts) } {
                // SAFETY: the same.
                unsafe { self.free_block_full(own, list, page) }
            }
            return;
        }
        // SAFETY: the same condition.
        unsafe { self.free_block_slow(page, count) }
    }

    /// [`free_block`](Self::free_block) for callers that seldom get there.
    ///
    /// # Safety
    /// - As for `free_block`.
    #[inline(never)]
    pub(super) unsafe fn free_block_of(&self, page: PageRef<'_, PAGE_SIZE>, count: usize) {
        // SAFETY: the same condition.
        unsafe { self.free_block(page, count) }
    }

    /// The list on which a block goes when it is freed.
    #[inline(always)]
    fn list_of(page: PageRef<'_, PAGE_SIZE>, count: usize) -> Option<ListIndex> {
        let list = PageLists::<PAGE_SIZE>::list_for(count)?;
        (page.addr() & (count * PAGE_SIZE - 1) == 0).then_some(list)
    }

    /// The list has no room.
    ///
    /// # Safety
    /// - `page` heads a claimed block for this list.
    #[cold]
    #[inline(never)]
    unsafe fn free_block_full(
        &self,
        mut own: Own<'_, PAGE_SIZE, P>,
        list: ListIndex,
        page: PageRef<'_, PAGE_SIZE>,
    ) {
        let env = own.env();
        // SAFETY: the condition.
        unsafe { own.local().pages.push_full(list, page, &env) }
    }

    /// # Safety
    /// - As for `free_block`.
    #[inline(never)]
    unsafe fn free_block_slow(&self, page: PageRef<'_, PAGE_SIZE>, count: usize) {
        // SAFETY: the same condition.
        unsafe {
            let Some(mut session) = self.enter_own() else {
                return self.core.push_deferred(page, count);
            };
            if let Some(list) = Self::list_of(page, count) {
                let (local, env) = session.parts();
                return local.pages.push_full(list, page, &env);
            }
            if self.core.free(page, count, session.wait()).is_err() {
                self.core.push_deferred(page, count);
            }
        }
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

/// Marks a block from a page list, which has its count in its metadata, as handed out.
///
/// # Safety
/// - The caller just took `block` off a list.
#[inline(always)]
unsafe fn hand_out<'a, const PAGE_SIZE: usize>(
    block: KeptPage<PAGE_SIZE>,
    kind: Kind,
) -> PageRef<'a, PAGE_SIZE> {
    // SAFETY: the caller's alone (condition).
    unsafe {
        let page = block.page();
        page.set_kind(kind);
        page
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
