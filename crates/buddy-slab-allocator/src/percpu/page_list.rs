//! Pages that a CPU keeps at hand: stacks of blocks of the orders that kernels ask for most,
//! refilled and drained in batches under one hold of the node's lock.
//!
//! A stack is an array of places beside the heap, so that taking a block touches no more of the
//! block's metadata than the head word that says who has it. A kept block counts as free; its head
//! says `Cached`, with its order and exact count. What a CPU may keep is bounded by
//! [`max_kept_pages`](super::max_kept_pages).

use super::Env;
use super::list_index::{LISTS, ListIndex, START, STOCK, capacity, order_of};
use crate::buddy::{KeptPage, Kind, PageRef};
use crate::sync::RawLock;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// How much the page lists of a heap keep. It lies outside what the heap's holder has to itself,
/// so that everybody may read it; only the holder writes, by plain loads and stores.
pub(crate) struct PageCounts {
    /// Blocks on each list.
    blocks: [AtomicUsize; LISTS],
    /// Pages of the remnant.
    remnant: AtomicUsize,
    /// Pages in the block cache.
    cached: AtomicUsize,
}

impl PageCounts {
    pub(crate) fn new() -> Self {
        Self {
            blocks: core::array::from_fn(|_| AtomicUsize::new(0)),
            remnant: AtomicUsize::new(0),
            cached: AtomicUsize::new(0),
        }
    }

    /// Pages kept; lags while the heap is in use.
    pub(crate) fn pages(&self, page_size: usize) -> usize {
        let listed = ListIndex::all().map(|list| self.get(list) * list.order(page_size).pages());
        listed.sum::<usize>() + self.remnant.load(Ordering::Relaxed) + self.cached()
    }

    /// Pages in the block cache.
    #[inline(always)]
    pub(super) fn cached(&self) -> usize {
        self.cached.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn set_cached(&self, pages: usize) {
        self.cached.store(pages, Ordering::Relaxed);
    }

    #[inline(always)]
    fn get(&self, list: ListIndex) -> usize {
        self.blocks[list.get()].load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn set(&self, list: ListIndex, count: usize) {
        self.blocks[list.get()].store(count, Ordering::Relaxed);
    }
}

/// A place of a list for one more block.
pub(crate) struct Vacancy<'a> {
    place: &'a mut KeptPage,
    list: ListIndex,
    count: usize,
    counts: &'a PageCounts,
}

impl Vacancy<'_> {
    /// Keeps a block there.
    ///
    /// # Safety
    /// - A naturally aligned, `Cached` block of the list's size which the caller owns.
    #[inline(always)]
    pub(crate) unsafe fn fill(self, block: KeptPage) {
        // INVARIANT: the condition.
        *self.place = block;
        self.counts.set(self.list, self.count + 1);
    }
}

/// The page lists of one heap. How much of each array is in use its [`PageCounts`] say.
///
/// # Invariants
/// - The first places of each list, as many as its count says, hold blocks that the heap owns, of
///   the list's order, naturally aligned.
pub(crate) struct PageLists<const PAGE_SIZE: usize> {
    places: [KeptPage; START[LISTS]],
    /// What is left of a block that was cut for a request of another size.
    remnant: KeptPage,
}

impl<const PAGE_SIZE: usize> PageLists<PAGE_SIZE> {
    pub(crate) const fn new() -> Self {
        Self { places: [KeptPage::NOTHING; START[LISTS]], remnant: KeptPage::NOTHING }
    }

    /// For the orders below it there is a list of that number.
    const DENSE: u32 = {
        let mut list = 0;
        while list < LISTS {
            match order_of(list, PAGE_SIZE) {
                Some(order) if order as usize == list => list += 1,
                _ => break,
            }
        }
        list as u32
    };

    /// The order of the last list, if that has one.
    const LARGEST: Option<u32> = order_of(LISTS - 1, PAGE_SIZE);

    /// The list that serves blocks of exactly `count` pages, if one does.
    #[inline(always)]
    pub(crate) fn list_for(count: usize) -> Option<ListIndex> {
        if !count.is_power_of_two() {
            return None;
        }
        // (No branch tells the orders apart where they have lists without a gap: which it is
        // nobody can predict.)
        let order = count.trailing_zeros();
        if order < Self::DENSE {
            Some(ListIndex(order as u8))
        } else {
            (Self::LARGEST == Some(order)).then_some(ListIndex(LISTS as u8 - 1))
        }
    }

    /// Takes the block on top, which is the caller's then. It stays `Cached` until the caller says
    /// what it becomes. O(1).
    #[inline(always)]
    pub(crate) fn pop(&mut self, list: ListIndex, counts: &PageCounts) -> Option<KeptPage> {
        let top = counts.get(list).checked_sub(1)?;
        let block = *self.places.get(START[list.get()] + top)?;
        counts.set(list, top);
        Some(block)
    }

    /// Where a list can keep one more block; `None` if it is full. O(1).
    #[inline(always)]
    pub(crate) fn vacancy<'a>(
        &'a mut self,
        list: ListIndex,
        counts: &'a PageCounts,
    ) -> Option<Vacancy<'a>> {
        let count = counts.get(list);
        if count >= capacity(list.get()) {
            return None;
        }
        let place = self.places.get_mut(START[list.get()] + count)?;
        Some(Vacancy { place, list, count, counts })
    }

    /// Keeps a block; `false` (and it is still the caller's) if the list is full. O(1).
    ///
    /// # Safety
    /// - A naturally aligned, `Cached` block of this list's size which the caller owns.
    #[inline(always)]
    unsafe fn push(&mut self, list: ListIndex, block: KeptPage, counts: &PageCounts) -> bool {
        let Some(vacancy) = self.vacancy(list, counts) else { return false };
        // SAFETY: the same condition.
        unsafe { vacancy.fill(block) };
        true
    }

    /// Keeps a block for which a full list gives a batch back. One hold of the node's lock.
    ///
    /// # Safety
    /// - As for `push`.
    #[cold]
    pub(crate) unsafe fn push_full<L: RawLock>(
        &mut self,
        list: ListIndex,
        block: KeptPage,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: the condition is the same.
        unsafe {
            if !self.push(list, block, env.page_counts) {
                self.give_back(list, list.batch(), env);
                let kept = self.push(list, block, env.page_counts);
                debug_assert!(kept, "page list: a list that gave a batch back has room");
            }
        }
    }

    /// Fetches a batch for an empty list; its blocks come off in ascending order of address.
    /// One hold of the node's lock.
    #[cold]
    pub(crate) fn refill<L: RawLock>(&mut self, list: ListIndex, env: &Env<'_, PAGE_SIZE, L>) {
        // A small heap is not emptied into one CPU's list.
        let share = 4 + list.order(PAGE_SIZE).get();
        let fair = env.core.free_pages_up_to(list.batch() << share) >> share;
        self.fetch(list, fair.max(1), env);
    }

    /// Fetches up to `max` blocks, as far as there is room.
    fn fetch<L: RawLock>(&mut self, list: ListIndex, max: usize, env: &Env<'_, PAGE_SIZE, L>) {
        let count = env.page_counts.get(list);
        let first = START[list.get()] + count;
        let end = START[list.get() + 1].min(first + max);
        let Some(places) = self.places.get_mut(first..end) else { return };
        let order = list.order(PAGE_SIZE);
        let got = env.core.alloc_batch(order, env.node, env.wait, env.use_reserve, places);
        // INVARIANT: just allocated for this list.
        let missing = places.len() - got;
        if missing != 0 {
            places.copy_within(missing.., 0);
        }
        env.page_counts.set(list, count + got);
    }

    /// Gives the `count` blocks that were kept longest back to their sections.
    #[cold]
    fn give_back<L: RawLock>(
        &mut self,
        list: ListIndex,
        count: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        let kept = env.page_counts.get(list);
        let start = START[list.get()];
        let Some(places) = self.places.get_mut(start..start + kept) else { return };
        let Some((oldest, _)) = places.split_at_checked(count) else { return };
        env.page_counts.set(list, kept - count);
        // SAFETY: the list owns what is below its count, blocks of its order; those given back are
        // overwritten or left beyond the count.
        unsafe { env.core.free_batch(oldest, list.order(PAGE_SIZE), env.wait) };
        places.copy_within(count.., 0);
    }

    /// Fills up the stock from which handlers are served that interrupted the holder of the
    /// node's lock. At most a sixteenth of what is free.
    pub(crate) fn stock<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        let mut budget = env.core.free_pages() / 16;
        for list in ListIndex::all() {
            if order_of(list.get(), PAGE_SIZE).is_none() {
                continue;
            }
            let pages = list.order(PAGE_SIZE).pages();
            let missing = STOCK[list.get()].saturating_sub(env.page_counts.get(list));
            let missing = missing.min(budget / pages);
            if missing != 0 {
                self.fetch(list, missing, env);
                budget -= missing * pages;
            }
        }
    }

    /// Takes exactly `count` pages out of what is at hand, whatever the size of the blocks: from
    /// the remnant of the last block that was cut, from what handlers freed, or from the smallest
    /// kept block that has as many. Takes no lock.
    #[cold]
    pub(crate) fn take_part<'a, L: RawLock>(
        &mut self,
        count: usize,
        env: &Env<'a, PAGE_SIZE, L>,
    ) -> Option<PageRef<'a, PAGE_SIZE>> {
        if env.page_counts.remnant.load(Ordering::Relaxed) < count {
            if let Some(block) = env.core.take_deferred(count) {
                return Some(block);
            }
            let fits = |list: &ListIndex| {
                let pages = list.order(PAGE_SIZE).pages();
                // Smaller than 4 MiB, so that the metadata of all its pages is valid.
                env.page_counts.get(*list) != 0 && pages >= count && pages * PAGE_SIZE < 4 << 20
            };
            let list = ListIndex::all().find(fits)?;
            let block = self.pop(list, env.page_counts)?;
            self.defer_remnant(env);
            // Just taken off the list: it is ours.
            self.keep_remnant(env.core.page_of(block)?, list.order(PAGE_SIZE).pages(), env);
        }
        let (block, held) = self.take_remnant(env)?;
        let rest = held - count;
        if rest != 0 {
            // SAFETY: the remnant is owned, and smaller than 4 MiB.
            let rest_block = unsafe { block.split_owned(count, rest)? };
            self.keep_remnant(rest_block, rest, env);
        }
        // SAFETY: owned, and now of this size.
        unsafe { block.shorten_owned(count) };
        Some(block)
    }

    fn keep_remnant<L: RawLock>(
        &mut self,
        block: PageRef<'_, PAGE_SIZE>,
        count: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: owned; of this kind a block has its exact count in its metadata.
        unsafe {
            block.set_kind(Kind::Handle);
            block.shorten_owned(count);
        }
        self.remnant = KeptPage::keep(block);
        env.page_counts.remnant.store(count, Ordering::Relaxed);
    }

    /// The remnant and its pages.
    fn take_remnant<'a, L: RawLock>(
        &mut self,
        env: &Env<'a, PAGE_SIZE, L>,
    ) -> Option<(PageRef<'a, PAGE_SIZE>, usize)> {
        let count = env.page_counts.remnant.load(Ordering::Relaxed);
        env.page_counts.remnant.store(0, Ordering::Relaxed);
        // With pages in it, it is a block.
        if count == 0 { None } else { Some((env.core.page_of(self.remnant)?, count)) }
    }

    fn defer_remnant<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        if let Some((block, count)) = self.take_remnant(env) {
            // SAFETY: the remnant was owned, of this count.
            unsafe { env.core.push_deferred(block, count) };
        }
    }

    /// Gives everything back. O(pages kept).
    pub(crate) fn drain<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        self.defer_remnant(env);
        self.keep_at_most(|_| 0, env);
    }

    /// Gives back what exceeds one batch in a list: the surplus of an earlier load.
    pub(crate) fn trim<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        self.keep_at_most(ListIndex::batch, env);
    }

    fn keep_at_most<L: RawLock>(
        &mut self,
        limit: impl Fn(ListIndex) -> usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        for list in ListIndex::all() {
            let surplus = env.page_counts.get(list).saturating_sub(limit(list));
            if surplus != 0 {
                self.give_back(list, surplus, env);
            }
        }
    }

    /// I: every block on a list is `Cached`, of the list's order and count, aligned, and there once.
    pub(crate) fn check<L: RawLock>(&self, env: &Env<'_, PAGE_SIZE, L>) {
        for list in ListIndex::all() {
            let count = env.page_counts.get(list);
            assert!(count <= capacity(list.get()), "page list: {count} blocks kept");
            let start = START[list.get()];
            let order = list.order(PAGE_SIZE);
            for (index, place) in self.places[start..start + count].iter().enumerate() {
                let addr = place.addr();
                let page = env.core.lookup(addr).expect("page list: a kept page is managed");
                let head = page.head();
                // SAFETY: below the count, so a kept block.
                assert_eq!(head, unsafe { place.head() }, "page list: metadata of {addr:#x}");
                assert!(head.is_allocated(), "page list: {addr:#x} is not the list's");
                assert_eq!(head.kind(), Kind::Cached, "page list: {addr:#x} is not cached");
                assert_eq!(head.order(), Some(order), "page list: order of {addr:#x}");
                assert_eq!(page.count(), order.pages(), "page list: count of {addr:#x}");
                assert_eq!(addr & (order.pages() * PAGE_SIZE - 1), 0, "page list: alignment");
                let below = &self.places[start..start + index];
                let again = below.iter().any(|place| place.addr() == addr);
                assert!(!again, "page list: {addr:#x} is kept twice");
            }
        }
    }
}
