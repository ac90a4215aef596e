//! Pages that a CPU keeps at hand: stacks of blocks of the orders that kernels ask for most,
//! refilled and drained in batches under one hold of the node's lock.
//!
//! A kept block counts as free. Its head says `Cached`, and the two link words of its metadata
//! hold the address of the block below it on the stack, so a list is a head and a count, whatever
//! its length. What a CPU may keep is bounded by [`MAX_KEPT_PAGES`].

use super::Env;
use crate::buddy::{Kind, PageRef};
use crate::sync::RawLock;
use crate::sync::atomic::Ordering;
use crate::units::Order;

/// How many lists there are: orders 0 to 3, and the order of 2 MiB.
const LISTS: usize = 5;

/// How many blocks a refill of each list asks for, and at once a drain gives back.
const BATCH: [usize; LISTS] = [64, 32, 16, 8, 2];

/// The most pages that the lists of one CPU keep: two batches a list.
pub(crate) const fn max_kept_pages(page_size: usize) -> usize {
    let mut pages = 0;
    let mut list = 0;
    while list < LISTS {
        if let Some(order) = order_of(list, page_size) {
            pages += (2 * BATCH[list]) << order;
        }
        list += 1;
    }
    pages
}

/// The order that list `list` keeps; `None` if a page of this size has no such list.
const fn order_of(list: usize, page_size: usize) -> Option<u32> {
    if list < LISTS - 1 {
        return Some(list as u32);
    }
    let huge = (2 << 20) / page_size;
    if huge > 8 && huge <= 1 << crate::buddy::MAX_ORDER {
        Some(huge.trailing_zeros())
    } else {
        None
    }
}

/// How many blocks of each list a shared heap has in stock for handlers.
const STOCK: [usize; LISTS] = [16, 8, 8, 8, 1];

#[derive(Clone, Copy)]
struct PageList {
    /// Address of the block on top; 0 when empty (the page at address 0 is never handed out).
    top: usize,
    count: usize,
}

/// The page lists of one heap.
pub(crate) struct PageLists<const PAGE_SIZE: usize> {
    lists: [PageList; LISTS],
    /// What is left of a block that was cut for a request of another size: address and pages.
    remnant: PageList,
}

/// A list of [`PageLists`], which keeps blocks of one order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListIndex(u8);

impl<const PAGE_SIZE: usize> PageLists<PAGE_SIZE> {
    pub(crate) const fn new() -> Self {
        let none = PageList { top: 0, count: 0 };
        Self { lists: [none; LISTS], remnant: none }
    }

    /// The list that serves blocks of exactly `count` pages, if one does.
    #[inline(always)]
    pub(crate) fn list_for(count: usize) -> Option<ListIndex> {
        if count <= 8 {
            return count.is_power_of_two().then(|| ListIndex(count.trailing_zeros() as u8));
        }
        let huge = order_of(LISTS - 1, PAGE_SIZE)?;
        (count == 1 << huge).then_some(ListIndex(LISTS as u8 - 1))
    }

    #[inline(always)]
    fn order(list: ListIndex) -> Order {
        let order = order_of(usize::from(list.0), PAGE_SIZE).unwrap_or(0);
        Order::new(order as u8).unwrap_or(Order::ZERO)
    }

    /// Takes the block on top. It stays `Cached` until the caller says what it becomes. O(1).
    #[inline(always)]
    pub(crate) fn pop<'a, L: RawLock>(
        &mut self,
        list: ListIndex,
        env: &Env<'a, PAGE_SIZE, L>,
    ) -> Option<PageRef<'a, PAGE_SIZE>> {
        let stack = &mut self.lists[usize::from(list.0)];
        if stack.top == 0 {
            return None;
        }
        let page = env.core.lookup(stack.top)?;
        // SAFETY: a kept block: its metadata is valid, and its words hold the link.
        stack.top = unsafe { link(page) };
        stack.count -= 1;
        let kept = env.cached_pages.load(Ordering::Relaxed);
        env.cached_pages.store(kept - Self::order(list).pages(), Ordering::Relaxed);
        Some(page)
    }

    /// Keeps a block that the caller has claimed. O(1), and a batch goes back when the list is
    /// full.
    ///
    /// # Safety
    /// - `page` heads a block of this list's size which the caller owns.
    #[inline(always)]
    pub(crate) unsafe fn push<L: RawLock>(
        &mut self,
        list: ListIndex,
        page: PageRef<'_, PAGE_SIZE>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: owned by the caller (condition).
        unsafe { self.link_in(list, page, env) };
        if self.lists[usize::from(list.0)].count >= 2 * BATCH[usize::from(list.0)] {
            self.give_back(list, BATCH[usize::from(list.0)], env);
        }
    }

    /// # Safety
    /// - As for `push`.
    #[inline(always)]
    unsafe fn link_in<L: RawLock>(
        &mut self,
        list: ListIndex,
        page: PageRef<'_, PAGE_SIZE>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        let stack = &mut self.lists[usize::from(list.0)];
        let pages = Self::order(list).pages();
        // SAFETY: the caller owns the block (condition).
        unsafe {
            page.set_kind(Kind::Cached);
            set_link(page, stack.top);
        }
        stack.top = page.addr();
        stack.count += 1;
        let kept = env.cached_pages.load(Ordering::Relaxed);
        env.cached_pages.store(kept + pages, Ordering::Relaxed);
    }

    /// Fetches a batch for an empty list; its blocks come off in ascending order of address.
    /// One hold of the node's lock.
    #[cold]
    pub(crate) fn refill<L: RawLock>(&mut self, list: ListIndex, env: &Env<'_, PAGE_SIZE, L>) {
        // A small heap is not emptied into one CPU's list.
        let fair = env.core.free_pages() / (16 * Self::order(list).pages());
        self.fetch(list, BATCH[usize::from(list.0)].min(fair).max(1), env);
    }

    /// Fetches up to `batch` blocks (at most one batch).
    fn fetch<L: RawLock>(&mut self, list: ListIndex, batch: usize, env: &Env<'_, PAGE_SIZE, L>) {
        let order = Self::order(list);
        let mut taken: [Option<PageRef<'_, PAGE_SIZE>>; BATCH[0]] = [None; BATCH[0]];
        let mut count = 0;
        env.core.alloc_batch(order, env.node, batch, env.wait, env.use_reserve, &mut |page| {
            if let Some(place) = taken.get_mut(count) {
                *place = Some(page);
                count += 1;
            }
        });
        for page in taken[..count].iter().rev().flatten() {
            // SAFETY: just allocated for this list: a block of its size that nobody else has.
            unsafe { self.link_in(list, *page, env) };
        }
    }

    /// Gives `count` blocks of a list back to their sections.
    #[cold]
    fn give_back<L: RawLock>(
        &mut self,
        list: ListIndex,
        count: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        let pages = Self::order(list).pages();
        let mut left = count;
        // SAFETY: blocks on the list are owned by it, and of its size.
        unsafe {
            env.core.free_batch(
                &mut || {
                    left = left.checked_sub(1)?;
                    self.pop(list, env).map(|page| (page, pages))
                },
                env.wait,
            );
        }
    }

    /// Fills up the stock from which handlers are served that interrupted the holder of the
    /// node's lock. At most a sixteenth of what is free.
    pub(crate) fn stock<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        let mut budget = env.core.free_pages() / 16;
        for (index, target) in STOCK.into_iter().enumerate() {
            let list = ListIndex(index as u8);
            if order_of(index, PAGE_SIZE).is_none() {
                continue;
            }
            let pages = Self::order(list).pages();
            let missing = target.saturating_sub(self.lists[index].count).min(budget / pages);
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
        if self.remnant.count < count {
            if let Some(block) = env.core.take_deferred(count) {
                return Some(block);
            }
            let fits = |list: &ListIndex| {
                let kept = &self.lists[usize::from(list.0)];
                let pages = Self::order(*list).pages();
                // Smaller than 4 MiB, so that the metadata of all its pages is valid.
                kept.count != 0 && pages >= count && pages * PAGE_SIZE < 4 << 20
            };
            let list = (0..LISTS as u8).map(ListIndex).find(fits)?;
            let block = self.pop(list, env)?;
            self.defer_remnant(env);
            self.keep_remnant(block, Self::order(list).pages(), env);
        }
        let block = env.core.lookup(self.remnant.top)?;
        let rest = self.remnant.count - count;
        self.forget_remnant(env);
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
        self.remnant = PageList { top: block.addr(), count };
        let kept = env.cached_pages.load(Ordering::Relaxed);
        env.cached_pages.store(kept + count, Ordering::Relaxed);
    }

    fn forget_remnant<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        let kept = env.cached_pages.load(Ordering::Relaxed);
        env.cached_pages.store(kept - self.remnant.count, Ordering::Relaxed);
        self.remnant = PageList { top: 0, count: 0 };
    }

    fn defer_remnant<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        let PageList { top, count } = self.remnant;
        self.forget_remnant(env);
        if count != 0
            && let Some(block) = env.core.lookup(top)
        {
            // SAFETY: the remnant was owned, of this count.
            unsafe { env.core.push_deferred(block, count) };
        }
    }

    /// Gives everything back. O(pages kept).
    pub(crate) fn drain<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        self.defer_remnant(env);
        for list in 0..LISTS as u8 {
            let count = self.lists[usize::from(list)].count;
            if count != 0 {
                self.give_back(ListIndex(list), count, env);
            }
        }
    }

    /// Gives back what exceeds one batch in a list: the surplus of an earlier load.
    pub(crate) fn trim<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        for list in 0..LISTS as u8 {
            let surplus =
                self.lists[usize::from(list)].count.saturating_sub(BATCH[usize::from(list)]);
            if surplus != 0 {
                self.give_back(ListIndex(list), surplus, env);
            }
        }
    }

    /// I: a list's count is the length of its chain, every block on it is `Cached`.
    pub(crate) fn check<L: RawLock>(&self, env: &Env<'_, PAGE_SIZE, L>) {
        let mut pages = self.remnant.count;
        for list in 0..LISTS as u8 {
            let mut at = self.lists[usize::from(list)].top;
            let mut length = 0;
            while at != 0 {
                let page = env.core.lookup(at).expect("page list: a kept page is managed");
                assert_eq!(page.head().kind(), Kind::Cached, "page list: {at:#x} is not cached");
                length += 1;
                // SAFETY: a kept block, as just checked.
                at = unsafe { link(page) };
            }
            assert_eq!(length, self.lists[usize::from(list)].count, "page list: length");
            pages += length * Self::order(ListIndex(list)).pages();
        }
        assert_eq!(pages, env.cached_pages.load(Ordering::Relaxed), "page list: pages kept");
    }
}

/// # Safety
/// - `page` is on a page list of a heap that the caller holds.
unsafe fn link<const PAGE_SIZE: usize>(page: PageRef<'_, PAGE_SIZE>) -> usize {
    // SAFETY: a kept block's metadata is valid (condition).
    let words = unsafe { page.section().page_unchecked(page.pfn()) };
    (u64::from(words.prev()) | u64::from(words.next()) << 32) as usize
}

/// # Safety
/// - The caller owns the block that `page` heads.
unsafe fn set_link<const PAGE_SIZE: usize>(page: PageRef<'_, PAGE_SIZE>, addr: usize) {
    // SAFETY: an owned block's metadata is valid (condition).
    let words = unsafe { page.section().page_unchecked(page.pfn()) };
    words.set_prev(addr as u32);
    words.set_next((addr as u64 >> 32) as u32);
}
