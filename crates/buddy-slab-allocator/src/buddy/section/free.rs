//! Giving blocks back: merging with free buddies.

use super::carve::CarveState;
use super::head::{HeadWord, Kind};
use super::lists::{add, sub};
use super::{Reach, Section};
use crate::units::{Order, Pfn, Zone};

/// How many blocks of a list are looked at for one that is not clean.
const DIRTY_PROBES: usize = 512;

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Gives back the block of `count` pages that starts at `pfn`.
    ///
    /// Complexity: O(`MAX_ORDER`) for each power of two that `count` consists of; O(count) if the
    /// block lies in more than one zone. Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    /// - The block was handed out by this section, has exactly `count` pages, and is the
    ///   caller's, who does not use it any more.
    #[inline]
    pub(crate) unsafe fn free(&self, pfn: Pfn, count: usize) {
        // SAFETY: an allocated block's first page has metadata.
        let word = unsafe { self.page_unchecked(pfn) }.head();
        debug_assert!(!word.is_tail() && !word.is_free_block(), "freed page heads no block");
        if word.is_from_run() {
            // SAFETY: passed on.
            unsafe { self.free_pieces(pfn.index(), pfn.index() + count, word) }
        } else if let Some(zone) = word.zone()
            && let Some(order) = word.order()
            && !word.spans_zones()
            && order.pages() == count
            && (self.start_page + pfn.index()) & (count - 1) == 0
        {
            // SAFETY: a naturally aligned block of the caller's, in one zone.
            unsafe { self.free_block(pfn, order, zone, false) }
            add(&self.lists(zone).free_pages, count);
        } else {
            // SAFETY: passed on.
            unsafe { self.free_pieces(pfn.index(), pfn.index() + count, word) }
        }
    }

    /// Gives back `[from, to)`, part of an allocated block whose head word is `word`.
    ///
    /// # Safety
    /// - Lock held; the pages are the caller's and not used any more.
    #[inline(never)]
    pub(super) unsafe fn free_pieces(&self, from: usize, to: usize, word: HeadWord) {
        debug_assert!(from <= to && to <= self.pages);
        if word.is_from_run() {
            if !word.spans_zones() && to - from <= Self::CARVE_MASK {
                // SAFETY: passed on.
                return unsafe { self.free_to_runs(from, to) };
            }
            sub(&self.runs.used, to - from);
        }
        match word.zone() {
            // SAFETY: passed on.
            Some(zone) if !word.spans_zones() => unsafe { self.free_run(from, to, zone) },
            // SAFETY: passed on.
            _ => unsafe { self.free_zone_by_zone(from, to) },
        }
    }

    /// # Safety
    /// - As for `free_pieces`; all pages are in one zone.
    unsafe fn free_run(&self, from: usize, to: usize, zone: Zone) {
        // SAFETY: passed on.
        unsafe { self.merge_blocks(from, to, zone) };
        add(&self.lists(zone).free_pages, to - from);
    }

    /// Makes the largest free blocks that `[from, to)` consists of, merged with those around.
    /// Counters of pages are the caller's.
    ///
    /// # Safety
    /// - Lock held; the pages are in one zone, on no list and the caller's.
    pub(super) unsafe fn merge_blocks(&self, from: usize, to: usize, zone: Zone) {
        let mut end = to;
        // The largest block that ends at `end` is as aligned as `end` is.
        while let Some(order) = Order::fitting(self.start_page + end, end - from) {
            end -= order.pages();
            // SAFETY: part of the range.
            unsafe { self.free_block(Self::nth(end), order, zone, false) }
        }
    }

    /// # Safety
    /// - As for `free_pieces`.
    #[cold]
    unsafe fn free_zone_by_zone(&self, from: usize, to: usize) {
        let mut at = from;
        while at < to {
            let pfn = Self::nth(at);
            let Some(zone) = self.zone_of(pfn) else {
                debug_assert!(false, "freed page is not managed");
                return;
            };
            // Where zones meet in a carve block each page has its own.
            let carve = self.carve_of(pfn);
            let whole = self.carve_zone(carve) == zone as u32;
            let end = if whole { self.carve_range(carve).1.min(to) } else { at + 1 };
            // SAFETY: pages of one zone, part of the range.
            unsafe { self.free_run(at, end, zone) }
            at = end;
        }
    }

    /// Makes an aligned block free, merged as far as its buddies are. Counters of pages are the
    /// caller's. What results is clean if the block is, and all that it is merged with.
    ///
    /// # Safety
    /// - Lock held; the block is the caller's, aligned, in one zone; if it is clean, all of it is
    ///   zero.
    #[inline]
    pub(super) unsafe fn free_block(&self, pfn: Pfn, order: Order, zone: Zone, clean: bool) {
        let mut start = pfn;
        let mut size = order;
        let mut clean = clean;
        // SAFETY: lock held, so the section stays; buddies below a carve block's size share its
        // metadata, which exists from here on.
        unsafe {
            let reach = self.reach.copy();
            if size < Self::CARVE_ORDER {
                self.ensure_carved(self.carve_of(pfn));
                while size < Self::CARVE_ORDER {
                    let Some((lower, buddy_clean)) = self.merge(&reach, start, size, zone) else {
                        break;
                    };
                    clean = clean && buddy_clean;
                    start = lower;
                    let Some(parent) = size.parent() else { break };
                    size = parent;
                }
                if size < Self::CARVE_ORDER {
                    self.link_block(&reach, start, size, zone, clean);
                    return;
                }
            }
            self.free_large(start, size, zone, clean);
        }
    }

    /// Merges a block smaller than a carve block with its buddy, if that is free: tells where the
    /// two begin, and whether the buddy was clean. They are on no list then.
    ///
    /// # Safety
    /// - Lock held; the block is the caller's, aligned, in this zone; its carve block is carved.
    /// - `reach` is this section's, or a copy of it.
    #[inline(always)]
    pub(super) unsafe fn merge(
        &self,
        reach: &Reach<PAGE_SIZE>,
        pfn: Pfn,
        order: Order,
        zone: Zone,
    ) -> Option<(Pfn, bool)> {
        let buddy = reach.buddy_of(pfn, order)?;
        // SAFETY: lock held; buddies below a carve block's size share its metadata.
        unsafe {
            let word = reach.page_unchecked(buddy).head();
            if !word.is_free_as(order, zone) {
                return None;
            }
            self.unlink_block(reach, buddy, order, zone);
            // The upper one of the two starts no block any more.
            reach.page_unchecked(pfn.max(buddy)).set_head(HeadWord::tail(zone as u32));
            Some((pfn.min(buddy), word.is_clean()))
        }
    }

    /// The rest of `free_block` for blocks of whole carve blocks.
    ///
    /// # Safety
    /// - As for `free_block`; `order >= CARVE_ORDER`.
    #[inline(never)]
    unsafe fn free_large(&self, pfn: Pfn, order: Order, zone: Zone, clean: bool) {
        let mut start = pfn;
        let mut size = order;
        let mut clean = clean;
        while let Some(parent) = size.parent() {
            let Some(buddy) = self.buddy_of(start, size) else { break };
            if self.state(self.carve_of(buddy)) == CarveState::Interior {
                break;
            }
            // SAFETY: lock held; the buddy starts a carve block that is not interior, so that
            // its metadata exists.
            unsafe {
                let word = self.page_unchecked(buddy).head();
                if !word.is_free_as(size, zone) {
                    break;
                }
                clean = clean && word.is_clean();
                self.unlink_block(self, buddy, size, zone);
                self.demote(start.max(buddy), zone as u32);
            }
            start = start.min(buddy);
            size = parent;
        }
        // SAFETY: passed on; the block is what was given and its buddies, off their lists.
        unsafe { self.make_block(start, size, zone, clean) }
    }

    /// Takes a block of `order` that is not known to be zero off its list; `None` if there is none
    /// among the first few hundred.
    ///
    /// Complexity: O(blocks looked at). Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held.
    pub(crate) unsafe fn take_dirty(&self, zone: Zone, order: Order, kind: Kind) -> Option<Pfn> {
        // SAFETY: lock held; blocks on a list have metadata.
        unsafe {
            let mut at = self.lists(zone).first(order);
            for _ in 0..DIRTY_PROBES {
                let pfn = at?;
                let page = self.page_unchecked(pfn);
                if !page.head().is_clean() {
                    self.unlink_block(self, pfn, order, zone);
                    sub(&self.lists(zone).free_pages, order.pages());
                    page.set_prev(order.pages() as u32);
                    page.set_head(HeadWord::allocated(order, kind, zone, false));
                    return Some(pfn);
                }
                at = Pfn::new(page.next());
            }
        }
        None
    }

    /// Gives back what `take_dirty` took; it is known to be zero if `clean` says so.
    ///
    /// Complexity: O(`MAX_ORDER`). Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held; the block is of this order and zone, and the caller's, who does
    ///   not use it any more. If it is clean, all of it is zero.
    pub(crate) unsafe fn put_back(&self, pfn: Pfn, order: Order, zone: Zone, clean: bool) {
        // SAFETY: passed on.
        unsafe { self.free_block(pfn, order, zone, clean) }
        add(&self.lists(zone).free_pages, order.pages());
    }
}
