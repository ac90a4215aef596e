//! Spans: free pages directly behind blocks that grow. The CPU that grows a block keeps some of the
//! pages behind it, so that the next step takes no more than its own heap, and a store or two.
//!
//! A span counts as free, and among what the block cache keeps. It is the rest of a block that was
//! cut from runs: its pages head no block, so a step of growth changes the count of the block in
//! front, and nothing else. The span alone knows where it begins: behind the `count` pages that
//! this heap last gave the block in front. Whatever becomes of that block elsewhere, its pages are
//! never the span's. When the block is freed here the span takes it in, and the next large
//! allocation begins where it began: so one that comes and goes, and grows every time, finds its
//! room again. Spans begin where the node's lock is taken for a block that grows, and go back with
//! the other kept blocks.

use super::{BlockCache, Env, HeapTable, PageCounts};
use crate::buddy::{Kind, OwnedPage, PageError, PageRef, Placement};
use crate::sync::RawLock;

/// How many blocks a CPU lets grow at once.
const SPANS: usize = if usize::BITS >= 64 { 3 } else { 1 };

/// Free pages, and the block in front of them.
pub(super) struct Span<const PAGE_SIZE: usize> {
    /// Address of the block; 0 if there is no span (the page at address 0 is never handed out).
    base: usize,
    page: OwnedPage<PAGE_SIZE>,
    /// Pages of the block; 0 if there is none.
    count: u32,
    /// Pages of both.
    total: u32,
    /// Whether the span is known to be zero.
    clean: bool,
}

impl<const PAGE_SIZE: usize> Span<PAGE_SIZE> {
    const NONE: Self = Self { base: 0, page: OwnedPage::NOTHING, count: 0, total: 0, clean: false };

    #[inline(always)]
    fn pages(&self) -> usize {
        (self.total - self.count) as usize
    }

    /// Makes the `count` pages in front part of the span. (Says `true`: it is done.)
    #[inline(always)]
    fn take_in(&mut self, count: usize, counts: &PageCounts) -> bool {
        self.count = 0;
        self.clean = false;
        counts.set_cached(counts.cached() + count);
        true
    }
}

/// The spans of one heap. [`BlockCache`] counts their pages among its own.
///
/// # Invariants
/// - The heap owns the pages from `base + count` to `base + total` of each span that is not `NONE`,
///   a part of what was cut from runs of one section and zone. They head no block, but for that at
///   `base`.
/// - All pages of the section from `base` to there have metadata: `total` is at most
///   [`MOST`](Self::MOST).
pub(crate) struct Spans<const PAGE_SIZE: usize> {
    spans: [Span<PAGE_SIZE>; SPANS],
    /// The one that goes back when there is none left.
    next_out: u8,
}

impl<const PAGE_SIZE: usize> Spans<PAGE_SIZE> {
    /// What was cut from runs and is smaller than 4 MiB has metadata everywhere.
    const MOST: usize = ((4 << 20) / PAGE_SIZE).saturating_sub(1);

    pub(super) const fn new() -> Self {
        Self { spans: [const { Span::NONE }; SPANS], next_out: 0 }
    }

    /// The span behind the block of `count` pages at `base`, as far as this heap knows.
    #[inline(always)]
    fn behind(&mut self, base: usize, count: usize) -> Option<&mut Span<PAGE_SIZE>> {
        self.spans.iter_mut().find(|span| span.base == base && span.count as usize == count)
    }

    /// Pages in spans.
    pub(super) fn pages(&self) -> usize {
        self.spans.iter().map(Span::pages).sum()
    }

    /// Takes a span away.
    pub(super) fn take(&mut self) -> Option<Span<PAGE_SIZE>> {
        let span = self.spans.iter_mut().find(|span| span.base != 0)?;
        Some(core::mem::replace(span, Span::NONE))
    }

    /// I: the pages of spans head no block but for that which was in front; returns how many they
    /// are.
    pub(super) fn check(&self) -> usize {
        for span in self.spans.iter().filter(|span| span.base != 0) {
            assert!(span.count < span.total && span.total as usize <= Self::MOST, "span: pages");
            for at in span.count.max(1)..span.total {
                // SAFETY: the invariants.
                let page = unsafe { span.page.page().behind(at as usize) };
                assert!(page.head().is_tail(), "span: {:#x} heads no block", page.addr());
            }
        }
        self.pages()
    }
}

impl<const PAGE_SIZE: usize> BlockCache<PAGE_SIZE> {
    /// Lets the large object at `base` grow into the span behind it; `false`, and nothing happens,
    /// if it is none of `old` pages, or there is no span with so many. O(1).
    ///
    /// # Safety
    /// - If there is a large object of `old` pages at `base`, it is the caller's. `new` is not
    ///   less.
    #[inline(always)]
    pub(crate) unsafe fn grow_at_hand(
        &mut self,
        base: usize,
        old: usize,
        new: usize,
        counts: &PageCounts,
    ) -> bool {
        let Some(span) = self.spans.behind(base, old) else { return false };
        // (One that is used up is none.)
        if new >= span.total as usize {
            return false;
        }
        // SAFETY: a page of a section with a block or a span; what follows is the span.
        if unsafe { !span.page.page().recount(Kind::Object, old, new) } {
            return false;
        }
        span.count = new as u32;
        counts.set_cached(counts.cached() - (new - old));
        true
    }

    /// Resizes a block in place, with a span or without.
    ///
    /// Complexity: O(1), but for a block above 4 MiB. Locks: the node's, without a span.
    ///
    /// # Errors
    /// As [`PageCore::grow`](crate::buddy::PageCore::grow) and `shrink`.
    ///
    /// # Safety
    /// - The caller owns the large object of `old` pages that `page` heads, and nobody uses what
    ///   it loses; `new` is another number, and not 0.
    #[inline(never)]
    pub(crate) unsafe fn resize<L: RawLock>(
        &mut self,
        page: PageRef<'_, PAGE_SIZE>,
        old: usize,
        new: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<(), PageError> {
        let counts = env.page_counts;
        // SAFETY: the conditions.
        unsafe {
            if new > old {
                if self.grow_at_hand(page.addr(), old, new, counts) {
                    return Ok(());
                }
                return self.grow(page, old, new, env);
            }
            if let Some(span) = self.spans.behind(page.addr(), old)
                && counts.cached() + old - new <= Self::limit(env)
                && page.recount(Kind::Object, old, new)
            {
                span.count = new as u32;
                span.clean = false;
                counts.set_cached(counts.cached() + old - new);
                return Ok(());
            }
            env.core.shrink(page, old, new, env.wait)
        }
    }

    /// Lets a block grow by pages that are free behind it, and keeps more of them for the next
    /// time.
    ///
    /// # Safety
    /// - As for `resize`; `new` is more.
    unsafe fn grow<L: RawLock>(
        &mut self,
        page: PageRef<'_, PAGE_SIZE>,
        old: usize,
        new: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<(), PageError> {
        if let Some(span) = self.spans.behind(page.addr(), old) {
            // Too short: it may become longer where it comes from.
            Self::give_span_back(core::mem::replace(span, Span::NONE), env);
        }
        let spare = if page.is_of_runs() { self.spare(new, env) } else { 0 };
        // SAFETY: the condition.
        unsafe {
            env.core.grow(page, old, new, spare, env.wait)?;
            self.keep_behind(page, new, env);
        }
        Ok(())
    }

    /// A large object that is growing, with as much room behind it as there is.
    ///
    /// Complexity: O(1). Locks: the node's, if no span has room.
    #[inline(never)]
    pub(crate) fn alloc_roomy<'a, L: RawLock>(
        &mut self,
        count: usize,
        env: &Env<'a, PAGE_SIZE, L>,
    ) -> Option<PageRef<'a, PAGE_SIZE>> {
        if let Some(page) = self.cut(count, env) {
            return Some(page);
        }
        let mut request = env.request(count, Kind::Object);
        request.placement = Placement::Roomy { spare: self.spare(count, env) };
        let page = env.core.alloc(&request).ok()?;
        // SAFETY: just allocated.
        unsafe { self.keep_behind(page, count, env) };
        Some(page)
    }

    /// Takes a large object of `count` pages from a span without a block in front: there it can
    /// grow. O(1).
    #[inline(always)]
    pub(crate) fn cut<'a, L: RawLock>(
        &mut self,
        count: usize,
        env: &Env<'a, PAGE_SIZE, L>,
    ) -> Option<PageRef<'a, PAGE_SIZE>> {
        let fits = |span: &&mut Span<PAGE_SIZE>| span.count == 0 && span.total as usize > count;
        let span = self.spans.spans.iter_mut().find(fits)?;
        span.count = count as u32;
        env.page_counts.set_cached(env.page_counts.cached() - count);
        // SAFETY: the heap's own pages (invariants).
        unsafe {
            let page = span.page.page();
            page.make_of_runs(Kind::Object, count, span.clean);
            Some(page)
        }
    }

    /// Joins a block to the span behind it; `false` (and it is still the caller's) if there is
    /// none, or no room. O(1), without a lock, unless the cache is full.
    ///
    /// # Safety
    /// - `page` heads a `Cached` block of `count` pages which the caller owns.
    #[inline(always)]
    pub(crate) unsafe fn join<L: RawLock>(
        &mut self,
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> bool {
        let Some(span) = self.spans.behind(page.addr(), count) else { return false };
        if !page.is_of_runs() {
            return false;
        }
        let kept = env.page_counts.cached() + count;
        if kept > Self::limit(env) {
            return self.make_room_for(count, env) && {
                let span = self.spans.behind(page.addr(), count);
                span.is_some_and(|span| span.take_in(count, env.page_counts))
            };
        }
        span.take_in(count, env.page_counts)
    }

    /// Lets blocks on the stacks make room for `count` pages behind which there is a span: otherwise
    /// the next block that grows would be copied, again and again. `false`, and nothing happens, if
    /// that takes spans.
    ///
    /// Complexity: O(blocks kept). Locks: the node's, for up to `BATCH` blocks at a time.
    #[cold]
    #[inline(never)]
    fn make_room_for<L: RawLock>(&mut self, count: usize, env: &Env<'_, PAGE_SIZE, L>) -> bool {
        let (limit, in_spans) = (Self::limit(env), self.spans.pages());
        match limit.checked_sub(count) {
            Some(others) if others >= in_spans => {
                // A quarter at least, so that not every block finds it full.
                self.keep_at_most(others.min((limit / 4 * 3).max(in_spans)), env);
                true
            }
            _ => false,
        }
    }

    /// How many pages beyond its own a block of `count` pages that grows is given at hand: twice as
    /// many, as far as the cache has room for them.
    fn spare<L: RawLock>(&mut self, count: usize, env: &Env<'_, PAGE_SIZE, L>) -> usize {
        // What a shared heap keeps is its stock for handlers.
        if HeapTable::<PAGE_SIZE, L>::is_shared_id(env.id) {
            return 0;
        }
        let wanted = (2 * count).min(Spans::<PAGE_SIZE>::MOST.saturating_sub(count));
        let room = || Self::limit(env).saturating_sub(env.page_counts.cached());
        if room() < wanted {
            self.make_room(env);
        }
        wanted.min(room())
    }

    /// Makes what a block has beyond `count` pages a span.
    ///
    /// # Safety
    /// - The caller owns the block that `page` heads, of `count` pages or more; if more, they were
    ///   cut from runs just now, and are at most what `spare` said.
    unsafe fn keep_behind<L: RawLock>(
        &mut self,
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        let total = page.count();
        if total == count {
            return;
        }
        // SAFETY: the caller's block; the rest is part of no block then.
        unsafe { page.shorten_owned(count) };
        let slots = &mut self.spans;
        let free = slots.spans.iter().position(|span| span.base == 0);
        let slot = free.unwrap_or_else(|| {
            let out = usize::from(slots.next_out);
            slots.next_out = ((out + 1) % SPANS) as u8;
            out
        });
        let (base, clean) = (page.addr(), page.head().is_clean());
        // INVARIANT: cut from runs with the block; `spare` keeps both within `MOST`.
        let (count32, total32) = (count as u32, total as u32);
        let page = OwnedPage::keep(page);
        let span = Span { base, page, count: count32, total: total32, clean };
        let old = core::mem::replace(&mut slots.spans[slot], span);
        env.page_counts.set_cached(env.page_counts.cached() + (total - count));
        if old.base != 0 {
            Self::give_span_back(old, env);
        }
    }

    /// Gives a span back that is no longer among the heap's.
    #[cold]
    pub(super) fn give_span_back<L: RawLock>(span: Span<PAGE_SIZE>, env: &Env<'_, PAGE_SIZE, L>) {
        let pages = span.pages();
        env.page_counts.set_cached(env.page_counts.cached() - pages);
        // SAFETY: the heap owned these pages (invariants), of which nobody has heard.
        unsafe {
            let page = span.page.page().behind(span.count as usize);
            page.make_of_runs(Kind::Cached, pages, false);
            let mut page = Some(page);
            env.core.free_counted(pages, env.wait, || page.take());
        }
    }
}
