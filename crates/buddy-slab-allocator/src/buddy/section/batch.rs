//! Blocks of one order in batches: what fills a CPU's page list, and what it gives back.
//!
//! A batch is taken as few large blocks, each cut in one sweep over its metadata, instead of being
//! split and linked block by block. Blocks that come back are joined first where they are
//! neighbours, so that a batch freed in order of address (either way) merges as a whole.

use super::head::{HeadWord, Kind, Page};
use super::lists::{add, sub};
use super::prefetch::prefetch_for_write;
use super::{KeptPage, Reach, Section};
use crate::units::{Order, Pfn, Zone};

/// How many blocks that have nothing to do with one another go back together.
const AT_ONCE: usize = if usize::BITS >= 64 { 64 } else { 8 };

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Fills `out` from its end with blocks of `order` from a zone, the smallest free blocks first, and
    /// of a larger block the lowest part first. Returns how many there are.
    ///
    /// Complexity: O(blocks + `MAX_ORDER`), and O(pages of a carve block) for each that is carved.
    /// Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    pub(crate) unsafe fn alloc_evenly(
        &self,
        zone: Zone,
        order: Order,
        kind: Kind,
        out: &mut [KeptPage],
    ) -> usize {
        let mut left = out.len();
        while left != 0 {
            let Some(from) = self.lists(zone).smallest_from(order) else {
                // SAFETY: passed on.
                let Some(taken) = (unsafe { self.alloc_order_from_runs(zone, order, kind) }) else {
                    break;
                };
                left -= 1;
                out[left] = self.keep(taken.pfn);
                continue;
            };
            let Some(wanted) = Order::within_pages(left << order.get()) else { break };
            let whole = from.min(wanted);
            // SAFETY: lock held; a block on a list has metadata.
            unsafe {
                let Some(pfn) = self.pop_block(zone, from) else { break };
                let clean = self.page_unchecked(pfn).head().is_clean();
                self.split(pfn, from, whole, zone, clean);
                let word = HeadWord::allocated(order, kind, zone, clean);
                let end = left;
                left -= 1 << (whole.get() - order.get());
                self.cut_evenly(pfn, whole, order, word, &mut out[left..end]);
            }
            sub(&self.lists(zone).free_pages, whole.pages());
        }
        out.len() - left
    }

    /// Makes a block of order `whole` into blocks of `order` whose head is `word`; the last place of
    /// `out` is for the first of them.
    ///
    /// # Safety
    /// - Lock held; the block is on no list and in nobody's hands, its first page has metadata; `out`
    ///   has a place for each of its parts.
    #[inline]
    unsafe fn cut_evenly(
        &self,
        pfn: Pfn,
        whole: Order,
        order: Order,
        word: HeadWord,
        out: &mut [KeptPage],
    ) {
        let count = order.pages() as u32;
        if whole >= Self::CARVE_ORDER {
            let parts = (pfn.index()..).step_by(order.pages());
            for (place, index) in out.iter_mut().rev().zip(parts) {
                let part = Self::nth(index);
                // SAFETY: a part of the block, whose head gets metadata by it.
                unsafe { self.write_head(part, order.pages(), word, count) };
                *place = self.keep(part);
            }
            return;
        }
        let mut part = self.keep(pfn);
        for place in out.iter_mut().rev() {
            // SAFETY: a part of the block, which lies in one carve block: all of that has metadata.
            let page = unsafe { part.meta() };
            page.set_prev(count);
            page.set_head(word);
            *place = part;
            // SAFETY: behind each part there is another, or the rest of the region, or its end; behind
            // its entry there are others, or the state bytes.
            part = unsafe { part.behind(order.pages(), order.pages() << Self::PAGE_SHIFT) };
        }
    }

    /// Gives back blocks of one order, the first of `blocks` that are this section's and as many as
    /// go back at once. Returns how many these were.
    ///
    /// Complexity: O(blocks × `MAX_ORDER`), O(blocks + `MAX_ORDER`) if they are neighbours in order
    /// of address, ascending or descending. Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held.
    /// - The blocks are naturally aligned, of this order, and the caller's, who does not use those
    ///   any more that were given back.
    pub(crate) unsafe fn free_evenly(&self, order: Order, blocks: &[KeptPage]) -> usize {
        let step = order.pages();
        // Those that are alone, for later, and the head of one of them: all are in its zone.
        let (mut apart, mut alone, mut like) = ([Pfn::ZERO; AT_ONCE], 0, None::<HeadWord>);
        let mut done = 0;
        while let Some(block) = blocks.get(done)
            && alone < AT_ONCE
            && let Some(first) = self.pfn_of(block.addr())
        {
            // SAFETY: a block of the caller's.
            let word = unsafe { block.head() };
            let (mut run, mut from) = (1, first.index());
            if let Some(next) = blocks.get(done + 1)
                && !word.spans_zones()
            {
                let (left, meta) = (&blocks[done..], block.words().as_ptr());
                // SAFETY: the caller's blocks, of this order, no more than the section has room for
                // on that side; the lock is held.
                unsafe {
                    if next.words().as_ptr() == meta.wrapping_add(step) {
                        let most = left.len().min((self.pages - from) >> order.get());
                        run = self.join_owned(&left[..most], first, 1, order, word);
                    } else if next.words().as_ptr() == meta.wrapping_sub(step) {
                        let most = left.len().min((from >> order.get()) + 1);
                        run = self.join_owned(&left[..most], first, -1, order, word);
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
                    || like.get_or_insert(word).zone_field() != word.zone_field()
                {
                    self.free(first, step);
                } else {
                    apart[alone] = first;
                    alone += 1;
                }
            }
            done += run;
        }
        if let Some(zone) = like.and_then(HeadWord::zone) {
            // SAFETY: lock held; aligned blocks of the caller's, in one zone, none from a run.
            unsafe { self.free_apart(order, zone, &mut apart[..alone]) };
        }
        done
    }

    /// Makes the first of `blocks`, which page `first` heads and whose head is `word`, one stretch of
    /// pages without a head in it together with those after it, as long as each lies beside the one
    /// before, behind it (`side` is 1) or in front (-1), and has the same head. Returns how many they
    /// are; a block that is alone stays as it is.
    ///
    /// # Safety
    /// - Lock held; the blocks are the caller's, of this order, the first is this section's, and there
    ///   are no more than the section has room for on that side of it.
    #[inline(never)]
    unsafe fn join_owned(
        &self,
        blocks: &[KeptPage],
        first: Pfn,
        side: isize,
        order: Order,
        word: HeadWord,
    ) -> usize {
        let Some((block, others)) = blocks.split_first() else { return 0 };
        let step = side * order.pages() as isize;
        let (mut next, mut run) = (block.words().as_ptr(), 1);
        for other in others {
            // (Metadata of this section's pages: see the condition.)
            next = next.wrapping_offset(step);
            if other.words().as_ptr() != next {
                break;
            }
            // SAFETY: a block of the caller's.
            let page = unsafe { other.meta() };
            if page.head() != word {
                break;
            }
            let index = first.index().wrapping_add_signed(step * run as isize);
            // SAFETY: that block.
            unsafe { self.make_tail(page, index, order, word) };
            run += 1;
        }
        if run > 1 {
            // SAFETY: the caller's block.
            unsafe { self.make_tail(block.meta(), first.index(), order, word) };
        }
        run
    }

    /// Makes the first page of a block with that head one within a larger block.
    ///
    /// # Safety
    /// - Lock held; the block, whose first page has this index and this metadata, is the caller's, of this
    ///   order.
    #[inline(always)]
    unsafe fn make_tail(&self, page: Page<'_>, index: usize, order: Order, word: HeadWord) {
        if order < Self::CARVE_ORDER {
            page.set_head(HeadWord::tail(word.zone_field()));
        } else {
            // SAFETY: passed on.
            unsafe { self.demote(Self::nth(index), word.zone_field()) };
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
        // SAFETY: lock held, so the section stays.
        let reach = unsafe { self.reach.copy() };
        let (mut left, mut size) = (blocks, order);
        while size < Self::CARVE_ORDER && !left.is_empty() {
            let Some(parent) = size.parent() else { return };
            let with_buddy = reach.sort_by_buddy(left, size, zone);
            let mut merged = 0;
            for at in 0..left.len() {
                let block = left[at];
                // A block whose buddy was not free may follow that very buddy.
                // SAFETY: lock held; buddies below a carve block's size share its metadata.
                match unsafe { self.merge(&reach, block, size, zone) } {
                    Some((start, _)) => {
                        reach.fetch(reach.buddy_of(start, parent).unwrap_or(start).get());
                        left[merged] = start;
                        merged += 1;
                    }
                    None => {
                        debug_assert!(at >= with_buddy);
                        // SAFETY: as above.
                        unsafe { self.link_block(&reach, block, size, zone, false) };
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
}

impl<const PAGE_SIZE: usize> Reach<PAGE_SIZE> {
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
            self.fetch(page.prev().min(last));
            self.fetch(page.next().min(last));
            blocks[at] = blocks[with_buddy];
            blocks[with_buddy] = block;
            with_buddy += usize::from(page.head().is_free_as(order, zone));
        }
        with_buddy
    }

    /// Fetches the metadata of a page, which the caller is about to change.
    #[inline(always)]
    fn fetch(&self, page: u32) {
        prefetch_for_write(self.metas.as_ptr().wrapping_add(page as usize));
    }
}
