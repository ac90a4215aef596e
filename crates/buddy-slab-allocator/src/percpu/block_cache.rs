//! Blocks of several pages that a CPU keeps at hand, by their exact page count: what large
//! allocations and slabs leave, and the next of the same size take, without the node's lock.
//!
//! A kept block counts as free; its head says `Cached`, with its exact count. The blocks of one
//! size are a stack, linked through the metadata of their second pages, which means nothing while
//! they are allocated. When the cache is full, the stacks of one size after the other go back.

use super::Env;
use super::spans::Spans;
use crate::buddy::PageRef;
use crate::sync::RawLock;

/// Page counts that are kept: from `LEAST` to `MOST`, which is less on 32 bits.
const LEAST: usize = 2;
const MOST: usize = if usize::BITS >= 64 { 32 } else { 8 };
const SIZES: usize = MOST - LEAST + 1;

/// How many bytes are kept at most.
const MAX_BYTES: usize = if usize::BITS >= 64 { 8 << 20 } else { 256 << 10 };
/// And which part of all memory: one in so many pages.
const SHARE: usize = 32;

/// How many blocks go back under one hold of the node's lock.
const BATCH: usize = 32;

/// The most pages that the cache of one CPU keeps.
pub(crate) const fn max_cached_pages(page_size: usize) -> usize {
    MAX_BYTES / page_size
}

/// A stack of [`BlockCache`], which keeps blocks of one size.
#[derive(Clone, Copy)]
pub(crate) struct BlockSize(u8);

impl BlockSize {
    /// The stack for blocks of exactly `count` pages, if there is one.
    #[inline(always)]
    pub(crate) const fn of(count: usize) -> Option<Self> {
        let index = count.wrapping_sub(LEAST);
        if index < SIZES { Some(Self(index as u8)) } else { None }
    }

    #[inline(always)]
    fn index(self) -> usize {
        usize::from(self.0)
    }

    #[inline(always)]
    fn pages(self) -> usize {
        self.index() + LEAST
    }
}

/// The kept blocks of one heap. How many pages they have its `PageCounts` say.
///
/// # Invariants
/// - A chain consists of blocks that the heap owns, `Cached`, of the stack's count.
pub(crate) struct BlockCache<const PAGE_SIZE: usize> {
    /// Address of the block on top; 0 if there is none (the page at address 0 is never handed
    /// out).
    tops: [usize; SIZES],
    /// The size whose stack goes back next.
    next_out: u8,
    pub(super) spans: Spans<PAGE_SIZE>,
}

impl<const PAGE_SIZE: usize> BlockCache<PAGE_SIZE> {
    pub(crate) const fn new() -> Self {
        Self { tops: [0; SIZES], next_out: 0, spans: Spans::new() }
    }

    /// Takes a block, which is the caller's then. It stays `Cached` until the caller says what it
    /// becomes. O(1).
    #[inline(always)]
    pub(crate) fn pop<'a, L: RawLock>(
        &mut self,
        size: BlockSize,
        env: &Env<'a, PAGE_SIZE, L>,
    ) -> Option<PageRef<'a, PAGE_SIZE>> {
        let top = self.tops.get_mut(size.index())?;
        if *top == 0 {
            return None;
        }
        let page = env.core.lookup(*top)?;
        // SAFETY: a kept block of several pages: its link was written when it was kept.
        *top = unsafe { page.link() };
        env.page_counts.set_cached(env.page_counts.cached() - size.pages());
        Some(page)
    }

    /// How many pages may be kept.
    #[inline(always)]
    pub(super) fn limit<L: RawLock>(env: &Env<'_, PAGE_SIZE, L>) -> usize {
        max_cached_pages(PAGE_SIZE).min(env.core.total_pages() / SHARE)
    }

    /// Keeps a block; `false` (and it is still the caller's) if there is no room. O(1).
    ///
    /// # Safety
    /// - `page` heads a `Cached` block of this size which the caller owns.
    #[inline(always)]
    pub(crate) unsafe fn push<L: RawLock>(
        &mut self,
        size: BlockSize,
        page: PageRef<'_, PAGE_SIZE>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> bool {
        let kept = env.page_counts.cached() + size.pages();
        if kept > Self::limit(env) {
            return false;
        }
        let Some(top) = self.tops.get_mut(size.index()) else { return false };
        // SAFETY: a block of several pages, the caller's (condition).
        unsafe { page.set_link(*top) };
        *top = page.addr();
        env.page_counts.set_cached(kept);
        true
    }

    /// Keeps a block for which a full cache gives a quarter back; `false` (and it is still the
    /// caller's) if there is no room even so. Holds the node's lock for up to `BATCH` blocks.
    ///
    /// # Safety
    /// - As for `push`.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn push_full<L: RawLock>(
        &mut self,
        size: BlockSize,
        page: PageRef<'_, PAGE_SIZE>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> bool {
        self.make_room(env);
        // SAFETY: the same condition.
        unsafe { self.push(size, page, env) }
    }

    /// A quarter of a full cache goes back.
    #[cold]
    pub(super) fn make_room<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        self.keep_at_most(Self::limit(env) / 4 * 3, env);
    }

    /// Gives everything back. O(blocks kept).
    pub(crate) fn drain<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        self.keep_at_most(0, env);
    }

    /// Gives half back: the surplus of an earlier load.
    pub(crate) fn trim<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        self.keep_at_most(env.page_counts.cached() / 2, env);
    }

    /// Gives blocks back until there are at most `limit` pages: a batch of one size after the other,
    /// spans last.
    pub(super) fn keep_at_most<L: RawLock>(&mut self, limit: usize, env: &Env<'_, PAGE_SIZE, L>) {
        let in_spans = self.spans.pages();
        while env.page_counts.cached() > limit.max(in_spans) {
            let size = BlockSize(self.next_out);
            self.next_out = if size.index() + 1 == SIZES { 0 } else { size.0 + 1 };
            let mut left = BATCH;
            // SAFETY: what is taken off the stack is owned, and of its size.
            unsafe {
                env.core.free_counted(size.pages(), env.wait, || {
                    left = left.checked_sub(1)?;
                    if env.page_counts.cached() > limit { self.pop(size, env) } else { None }
                });
            }
        }
        while env.page_counts.cached() > limit
            && let Some(span) = self.spans.take()
        {
            Self::give_span_back(span, env);
        }
    }

    /// I: every block on a stack is `Cached`, of the stack's count, and so is every span; their pages
    /// add up.
    pub(crate) fn check<L: RawLock>(&self, env: &Env<'_, PAGE_SIZE, L>) {
        let mut pages = self.spans.check();
        for (index, top) in self.tops.iter().enumerate() {
            let mut addr = *top;
            while addr != 0 {
                let page = env.core.lookup(addr).expect("block cache: a kept block is managed");
                assert!(
                    page.head().is_handed_out_as(crate::buddy::Kind::Cached),
                    "block cache: {addr:#x} is not cached"
                );
                assert_eq!(page.count(), index + LEAST, "block cache: count of {addr:#x}");
                pages += page.count();
                assert!(pages <= env.page_counts.cached(), "block cache: a chain has an end");
                // SAFETY: a kept block.
                addr = unsafe { page.link() };
            }
        }
        assert_eq!(pages, env.page_counts.cached(), "block cache: pages kept");
    }
}
