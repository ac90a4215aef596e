//! Blocks of one order in batches: what fills a CPU's page list, and what it gives back.
//!
//! A batch is taken as few large blocks, each cut in one sweep over its metadata, instead of being
//! split and linked block by block. Blocks that come back are joined first where they are
//! neighbours, so that a batch freed in order of address (either way) merges as a whole.

use super::Section;
use super::head::{HeadWord, Kind};
use super::lists::{add, sub};
use super::prefetch::prefetch_for_write;
use crate::units::{Order, Pfn, Zone};

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Takes up to `max` blocks of `order` from a zone, the smallest free blocks first, and tells
    /// `sink` of each. Those of one larger block come in ascending order.
    /// Returns how many.
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
        mut sink: impl FnMut(Pfn),
    ) -> usize {
        let mut got = 0;
        while got < max {
            let Some(from) = self.lists(zone).smallest_from(order) else {
                // SAFETY: passed on.
                let Some(taken) = (unsafe { self.alloc_order_from_runs(zone, order, kind) }) else {
                    break;
                };
                sink(taken.pfn);
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
                self.cut_evenly(pfn, whole, order, word, &mut sink);
            }
            sub(&self.lists(zone).free_pages, whole.pages());
            got += 1 << (whole.get() - order.get());
        }
        got
    }

    /// Makes a block of order `whole` into blocks of `order` whose head is `word`.
    ///
    /// # Safety
    /// - Lock held; the block is on no list and in nobody's hands, its first page has metadata.
    #[inline]
    unsafe fn cut_evenly(
        &self,
        pfn: Pfn,
        whole: Order,
        order: Order,
        word: HeadWord,
        mut sink: impl FnMut(Pfn),
    ) {
        let count = order.pages() as u32;
        let first = pfn.index();
        for index in (first..first + whole.pages()).step_by(order.pages()) {
            let piece = Self::nth(index);
            // SAFETY: a part of the block. Below the size of a carve block all of it has metadata;
            // above, `write_head` makes that of its head.
            unsafe {
                if whole < Self::CARVE_ORDER {
                    let page = self.page_unchecked(piece);
                    page.set_prev(count);
                    page.set_head(word);
                } else {
                    self.write_head(piece, order.pages(), word, count);
                }
            }
            sink(piece);
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
                if next.index() == from + step {
                    run = self.follow(&blocks[at..], step, word);
                } else if next.index() + step == from {
                    run = self.follow(&blocks[at..], step.wrapping_neg(), word);
                    from -= (run - 1) * step;
                }
            }
            // SAFETY: lock held; blocks of the caller's, in one zone where they are joined.
            unsafe {
                if run > 1 {
                    self.join_owned(from, run, order, word.zone_field());
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

    /// How many blocks follow one another in steps of so many pages, with the head of the first.
    #[inline(never)]
    fn follow(&self, blocks: &[Pfn], step: usize, word: HeadWord) -> usize {
        let mut next = match blocks {
            [first, ..] => first.index(),
            [] => return 0,
        };
        let alike = |pfn: &&Pfn| {
            // SAFETY: the first page of a block of the caller's has metadata.
            let alike = pfn.index() == next && unsafe { self.page_unchecked(**pfn) }.head() == word;
            next = next.wrapping_add(step);
            alike
        };
        blocks.iter().take_while(alike).count()
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

    /// Makes neighbouring blocks one run of pages without a head in it.
    ///
    /// # Safety
    /// - Lock held; the blocks are the caller's.
    unsafe fn join_owned(&self, from: usize, blocks: usize, order: Order, zone_field: u32) {
        for index in (from..from + blocks * order.pages()).step_by(order.pages()) {
            // SAFETY: the head of a block of the caller's has metadata, and below the size of a
            // carve block so does all around it.
            unsafe {
                if order < Self::CARVE_ORDER {
                    self.page_unchecked(Self::nth(index)).set_head(HeadWord::tail(zone_field));
                } else {
                    self.demote(Self::nth(index), zone_field);
                }
            }
        }
    }
}
