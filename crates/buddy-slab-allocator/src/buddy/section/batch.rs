//! Blocks of one order in batches: what fills a CPU's page list, and what it gives back.
//!
//! A batch is taken as few large blocks, each cut in one sweep over its metadata, instead of being
//! split and linked block by block. Blocks that come back are joined first where they are
//! neighbours, so that a batch freed in order of address (either way) merges as a whole.

use super::Section;
use super::head::{HeadWord, Kind};
use super::lists::sub;
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

    /// Gives back `blocks` blocks of `order`; `pfn_of` tells the first page of each.
    ///
    /// Complexity: O(blocks × `MAX_ORDER`), O(blocks + `MAX_ORDER`) if they are neighbours in order
    /// of address, ascending or descending. Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held.
    /// - The blocks were handed out by this section, are naturally aligned, of this order, and the
    ///   caller's, who does not use them any more.
    pub(crate) unsafe fn free_evenly(
        &self,
        order: Order,
        blocks: usize,
        pfn_of: impl Fn(usize) -> Pfn,
    ) {
        let step = order.pages();
        let mut at = 0;
        while at < blocks {
            let first = pfn_of(at);
            // SAFETY: the first page of a block of the caller's has metadata.
            let word = unsafe { self.page_unchecked(first) }.head();
            // SAFETY: the same.
            let same = |pfn: Pfn| unsafe { self.page_unchecked(pfn) }.head() == word;
            // The neighbours that follow, upwards or downwards, as long as they are alike.
            let follow = |step: usize| {
                let mut next = first.index().wrapping_add(step);
                let mut run = 1;
                while at + run < blocks {
                    let pfn = pfn_of(at + run);
                    if pfn.index() != next || !same(pfn) {
                        break;
                    }
                    next = next.wrapping_add(step);
                    run += 1;
                }
                run
            };
            let (mut run, mut from) = (1, first.index());
            if !word.spans_zones() {
                run = follow(step);
                if run == 1 {
                    run = follow(step.wrapping_neg());
                    from -= (run - 1) * step;
                }
            }
            // SAFETY: lock held; blocks of the caller's, in one zone where they are joined.
            unsafe {
                if run == 1 {
                    self.free(first, step);
                } else {
                    self.join_owned(from, run, order, word.zone_field());
                    self.free_pieces(from, from + run * step, word);
                }
            }
            at += run;
        }
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
