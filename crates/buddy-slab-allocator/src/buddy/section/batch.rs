//! Blocks of one order in batches: what fills a CPU's page list, and what it gives back.
//!
//! A batch is taken as few large blocks, each cut in one sweep over its metadata, instead of being
//! split and linked block by block. Blocks that come back are joined first where they are
//! neighbours, so that a batch freed in order of address (either way) merges as a whole.

use super::Section;
use super::head::{HeadWord, Kind, Page};
use super::lists::{add, sub};
use super::prefetch::prefetch_for_write;
use crate::buddy::page_meta::words;
use crate::units::{Order, Pfn, Zone};

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Takes up to `max` blocks of `order` from a zone, the smallest free blocks first, and tells
    /// `sink` of each stretch of blocks side by side: which is the first, and how many they are.
    /// Returns how many there are in all.
    ///
    /// Complexity: O(max + `MAX_ORDER`), and O(pages of a carve block) for each that is carved.
    /// Locks: the node's is held; `sink` must do no more than store what it gets.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    pub(crate) unsafe fn alloc_evenly(
        &self,
        zone: Zone,
        order: Order,
        kind: Kind,
        max: usize,
        mut sink: impl FnMut(Pfn, usize),
    ) -> usize {
        let mut got = 0;
        while got < max {
            let Some(from) = self.lists(zone).smallest_from(order) else {
                // SAFETY: passed on.
                let Some(taken) = (unsafe { self.alloc_order_from_runs(zone, order, kind) }) else {
                    break;
                };
                sink(taken.pfn, 1);
                got += 1;
                continue;
            };
            let Some(wanted) = Order::within_pages((max - got) << order.get()) else { break };
            let whole = from.min(wanted);
            // SAFETY: lock held; a block on a list has metadata.
            unsafe {
                let Some(pfn) = self.pop_block(zone, from) else { break };
                let clean = self.page_unchecked(pfn).head().is_clean();
                self.split(pfn, from, whole, zone, clean);
                let word = HeadWord::allocated(order, kind, zone, clean);
                self.cut_evenly(pfn, whole, order, word);
                let blocks = 1 << (whole.get() - order.get());
                sink(pfn, blocks);
                got += blocks;
            }
            sub(&self.lists(zone).free_pages, whole.pages());
        }
        got
    }

    /// Makes a block of order `whole` into blocks of `order` whose head is `word`.
    ///
    /// # Safety
    /// - Lock held; the block is on no list and in nobody's hands, its first page has metadata.
    #[inline]
    unsafe fn cut_evenly(&self, pfn: Pfn, whole: Order, order: Order, word: HeadWord) {
        let (count, first) = (order.pages() as u32, pfn.index());
        if whole >= Self::CARVE_ORDER {
            for index in (first..first + whole.pages()).step_by(order.pages()) {
                // SAFETY: a part of the block, whose head gets metadata by it.
                unsafe { self.write_head(Self::nth(index), order.pages(), word, count) };
            }
            return;
        }
        // (Read once: nobody writes it, but a compiler cannot know.)
        let metas = self.metas;
        for at in (pfn.get()..pfn.get() + whole.pages() as u32).step_by(order.pages()) {
            // SAFETY: a part of the block, which lies in one carve block: all of that has metadata.
            let page = Page::new(unsafe { words(metas, at) });
            page.set_prev(count);
            page.set_head(word);
        }
    }

    /// Gives back blocks of one order; `blocks` names their first pages, and is used up.
    ///
    /// Complexity: O(blocks × `MAX_ORDER`), O(blocks + `MAX_ORDER`) if they are neighbours in order
    /// of address, ascending or descending. Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held.
    /// - The blocks were handed out by this section, are naturally aligned, of this order, and the
    ///   caller's, who does not use them any more.
    pub(crate) unsafe fn free_evenly(&self, order: Order, blocks: &mut [Pfn]) {
        let step = order.pages();
        // Those that are alone, for later.
        let (mut alone, mut zone) = (0, None);
        let mut at = 0;
        while let Some(&first) = blocks.get(at) {
            // SAFETY: the first page of a block of the caller's has metadata.
            let word = unsafe { self.page_unchecked(first) }.head();
            let (mut run, mut from) = (1, first.index());
            if let Some(next) = blocks.get(at + 1)
                && !word.spans_zones()
            {
                // SAFETY: the caller's blocks, of this order; the lock is held.
                unsafe {
                    if next.index() == from + step {
                        run = self.join_owned(&blocks[at..], 1, order, word);
                    } else if next.index() + step == from {
                        run = self.join_owned(&blocks[at..], -1, order, word);
                        from -= (run - 1) * step;
                    }
                }
            }
            // SAFETY: lock held; blocks of the caller's, in one zone where they are joined.
            unsafe {
                if run > 1 {
                    self.free_pieces(from, from + run * step, word);
                } else if word.is_from_run()
                    || word.spans_zones()
                    || *zone.get_or_insert(word.zone()) != word.zone()
                {
                    self.free(first, step);
                } else {
                    blocks[alone] = first;
                    alone += 1;
                }
            }
            at += run;
        }
        if let Some(Some(zone)) = zone {
            // SAFETY: lock held; aligned blocks of the caller's, in one zone, none from a run.
            unsafe { self.free_apart(order, zone, &mut blocks[..alone]) };
        }
    }

    /// Makes the first of `blocks`, whose head is `word`, one run of pages without a head in it
    /// together with those after it, as long as each lies beside the one before, behind it (`side`
    /// is 1) or in front (-1), and has the same head. Returns how many they are; a block that is
    /// alone stays as it is.
    ///
    /// # Safety
    /// - Lock held; the blocks are the caller's, of this order.
    #[inline(never)]
    unsafe fn join_owned(&self, blocks: &[Pfn], side: i32, order: Order, word: HeadWord) -> usize {
        let Some((first, others)) = blocks.split_first() else { return 0 };
        let step = side.wrapping_mul(order.pages() as i32) as u32;
        let (mut next, mut run) = (first.get(), 1);
        // (Read once: nobody writes it, but a compiler cannot know.)
        let metas = self.metas;
        for block in others {
            // (What wraps is no page's number: there are fewer than 2^32 - 1.)
            next = next.wrapping_add(step);
            if block.get() != next {
                break;
            }
            // SAFETY: the first page of a block of the caller's has metadata.
            let page = Page::new(unsafe { words(metas, next) });
            if page.head() != word {
                break;
            }
            // SAFETY: that page.
            unsafe { self.make_tail(page, *block, order, word) };
            run += 1;
        }
        if run > 1 {
            // SAFETY: the caller's block.
            unsafe { self.make_tail(self.page_unchecked(*first), *first, order, word) };
        }
        run
    }

    /// Makes the first page of a block with that head one within a larger block.
    ///
    /// # Safety
    /// - Lock held; the block at `pfn`, which `page` heads, is the caller's, of this order.
    #[inline(always)]
    unsafe fn make_tail(&self, page: Page<'_>, pfn: Pfn, order: Order, word: HeadWord) {
        if order < Self::CARVE_ORDER {
            page.set_head(HeadWord::tail(word.zone_field()));
        } else {
            // SAFETY: passed on.
            unsafe { self.demote(pfn, word.zone_field()) };
        }
    }

    /// Gives back blocks that have nothing to do with one another. All are merged with their
    /// buddies of one order before any is with one of the next: so what each will touch is fetched
    /// while others are at work, and that some have a free buddy and some have not, which nobody can
    /// predict, costs no branch.
    ///
    /// # Safety
    /// - Lock held; the blocks are the caller's, aligned, of this order, in this zone.
    unsafe fn free_apart(&self, order: Order, zone: Zone, blocks: &mut [Pfn]) {
        add(&self.lists(zone).free_pages, blocks.len() << order.get());
        let (mut left, mut size) = (blocks, order);
        while size < Self::CARVE_ORDER && !left.is_empty() {
            let Some(parent) = size.parent() else { return };
            let with_buddy = self.sort_by_buddy(left, size, zone);
            let mut merged = 0;
            for at in 0..left.len() {
                let block = left[at];
                // A block whose buddy was not free may follow that very buddy.
                // SAFETY: lock held; buddies below a carve block's size share its metadata.
                match unsafe { self.merge(block, size, zone) } {
                    Some((start, _)) => {
                        self.fetch(self.buddy_of(start, parent).unwrap_or(start));
                        left[merged] = start;
                        merged += 1;
                    }
                    None => {
                        debug_assert!(at >= with_buddy);
                        // SAFETY: as above.
                        unsafe { self.link_block(block, size, zone, false) };
                    }
                }
            }
            left = &mut left[..merged];
            size = parent;
        }
        for block in left {
            // SAFETY: as above; blocks of whole carve blocks.
            unsafe { self.free_block(*block, size, zone, false) };
        }
    }

    /// Puts the blocks first whose buddy is free now, tells how many these are, and fetches what
    /// unlinking the buddies will touch. Without a branch that depends on it. (The blocks are below
    /// the size of a carve block, which has all its metadata.)
    #[inline(always)]
    fn sort_by_buddy(&self, blocks: &mut [Pfn], order: Order, zone: Zone) -> usize {
        let last = self.pages as u32 - 1;
        let mut with_buddy = 0;
        for at in 0..blocks.len() {
            let block = blocks[at];
            let buddy = self.buddy_of(block, order).unwrap_or(block);
            // SAFETY: below the size of a carve block buddies share its metadata.
            let page = unsafe { self.page_unchecked(buddy) };
            // (Without a neighbour, or in a page that is not free, this is another page or none.)
            for link in [page.prev(), page.next()] {
                self.fetch(Pfn::new(link.min(last)).unwrap_or(Pfn::ZERO));
            }
            blocks[at] = blocks[with_buddy];
            blocks[with_buddy] = block;
            with_buddy += usize::from(page.head().is_free_as(order, zone));
        }
        with_buddy
    }

    /// Fetches the metadata of a page, which the caller is about to change.
    #[inline(always)]
    fn fetch(&self, pfn: Pfn) {
        prefetch_for_write(self.metas.wrapping_add(pfn.index()));
    }
}
