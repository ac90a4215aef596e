//! Where every request for pages ends, and every page that comes back: this CPU's lists, then the
//! sections, then pressure. `pages`, `block` and `large` are the ways in.

use super::GlobalAllocator;
use super::pages::{PageOptions, refusal};
use super::session::Session;
use crate::buddy::{KeptPage, Kind, PageError, PageRef};
use crate::error::{AllocError, AllocResult};
use crate::percpu::{ListIndex, PageLists};
use crate::platform::Platform;
use crate::units::{NodeId, Order, PhysLimit};

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
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
            && let Some(block) = self.alloc_listed(count, align_order, kind)
            && let Some(page) = self.core.page_of(block)
        {
            return Ok(page);
        }
        self.alloc_missed(count, align_order, limit, options, kind)
    }

    /// Whether any pages of any node will do, so that those at hand may serve.
    #[inline(always)]
    pub(super) fn is_plain(limit: PhysLimit, options: Option<&PageOptions>) -> bool {
        let plain = |options: &PageOptions| options.node.is_none() && !options.use_reserve;
        limit.is_none() && options.is_none_or(plain)
    }

    /// The list that serves a request for this count and alignment. None serves large objects of
    /// several pages: they come from runs, in which they can grow.
    #[inline(always)]
    fn list_serving(count: usize, align_order: Order, kind: Kind) -> Option<ListIndex> {
        let listed = align_order.pages() <= count && (kind != Kind::Object || count == 1);
        PageLists::<PAGE_SIZE>::list_for(count).filter(|_| listed)
    }

    /// Takes a block from this CPU's lists: the fast path. `None` if there is no such list, it is
    /// empty, or the heap cannot be had at once.
    #[inline(always)]
    pub(super) fn alloc_listed(
        &self,
        count: usize,
        align_order: Order,
        kind: Kind,
    ) -> Option<KeptPage> {
        let list = Self::list_serving(count, align_order, kind)?;
        let mut own = self.enter_fast_or_leave()?;
        let counts = own.heap().page_counts();
        let block = own.local().pages.pop(list, counts)?;
        // SAFETY: popped: this caller's alone.
        unsafe { block.set_kind(kind) };
        Some(block)
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
            Self::list_serving(count, align_order, kind).filter(|_| Self::is_plain(limit, options));
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
            if let Some(block) = kept
                && let Some(page) = self.core.page_of(block)
            {
                // SAFETY: popped: this caller's alone.
                unsafe { page.set_kind(kind) };
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
    #[inline(never)]
    pub(super) unsafe fn free_block(&self, page: PageRef<'_, PAGE_SIZE>, count: usize) {
        // SAFETY: the same condition.
        unsafe {
            let Some(mut session) = self.enter_own() else {
                return self.core.push_deferred(page, count);
            };
            if let Some(list) = Self::list_of(page.addr(), count) {
                let (local, env) = session.parts();
                return local.pages.push_full(list, KeptPage::keep(page), &env);
            }
            if self.core.free(page, count, session.wait()).is_err() {
                self.core.push_deferred(page, count);
            }
        }
    }

    /// The list on which a block goes when it is freed.
    #[inline(always)]
    fn list_of(addr: usize, count: usize) -> Option<ListIndex> {
        let list = PageLists::<PAGE_SIZE>::list_for(count)?;
        (addr & (count * PAGE_SIZE - 1) == 0).then_some(list)
    }

    /// Puts a block that `claim` makes the caller's on this CPU's list: the fast path of a free.
    /// `false` if it would take more than that, or `claim` gets nothing; then nothing happened.
    ///
    /// # Safety
    /// - What `claim` returns is the block of `count` pages at `addr`, `Cached`, and the caller's.
    #[inline(always)]
    pub(super) unsafe fn keep_listed(
        &self,
        addr: usize,
        count: usize,
        claim: impl FnOnce() -> Option<KeptPage>,
    ) -> bool {
        let Some(list) = Self::list_of(addr, count) else { return false };
        // Room is made sure of before the claim: nothing waits for a claim that way but stores.
        let Some(mut own) = self.enter_fast_or_leave() else { return false };
        let counts = own.heap().page_counts();
        let Some(vacancy) = own.local().pages.vacancy(list, counts) else { return false };
        let Some(block) = claim() else { return false };
        // SAFETY: claimed, naturally aligned, of the list's size.
        unsafe { vacancy.fill(block) };
        true
    }
}
