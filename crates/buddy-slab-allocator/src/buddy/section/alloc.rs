//! Taking a block off the free lists.

use super::head::{HeadWord, Kind};
use super::join::{ALL_PROBES, QUICK_PROBES};
use super::lists::sub;
use super::run_take::Placement;
use super::{PhysFn, Section};
use crate::units::{Order, Pfn, PhysLimit, Zone, ZoneReach};

/// Pages that a section handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The first page.
    pub pfn: Pfn,
    /// Whether all of it is known to hold zeros.
    pub clean: bool,
}

/// What a section is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakeRequest {
    /// Exactly so many pages.
    pub count: usize,
    /// The address is a multiple of so many pages.
    pub align_order: Order,
    /// Every byte lies below.
    pub limit: PhysLimit,
    /// What the pages become.
    pub kind: Kind,
    /// Where in a run it is placed.
    pub placement: Placement,
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Takes a block of `order` from a zone.
    ///
    /// Complexity: O(1) if a block of that order is free, O(`MAX_ORDER`) otherwise, and
    /// O(pages of a carve block) when one is carved for it. Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    #[inline]
    pub(crate) unsafe fn alloc_order(&self, zone: Zone, order: Order, kind: Kind) -> Option<Taken> {
        // SAFETY: lock held; a block on a list has metadata.
        unsafe {
            // Looked for on its own list first: that needs no look at the other orders.
            let (pfn, clean) = match self.pop_block(zone, order) {
                Some(pfn) => (pfn, self.page_unchecked(pfn).head().is_clean()),
                None => match self.pop_split(zone, order) {
                    Some(found) => found,
                    None => return self.alloc_order_from_runs(zone, order, kind),
                },
            };
            sub(&self.lists(zone).free_pages, order.pages());
            let page = self.page_unchecked(pfn);
            page.set_prev(order.pages() as u32);
            page.set_head(HeadWord::allocated(order, kind, zone, clean));
            Some(Taken { pfn, clean })
        }
    }

    /// # Safety
    /// - Lock held.
    #[cold]
    pub(super) unsafe fn alloc_order_from_runs(
        &self,
        zone: Zone,
        order: Order,
        kind: Kind,
    ) -> Option<Taken> {
        let request = TakeRequest {
            count: order.pages(),
            align_order: order,
            limit: PhysLimit::NONE,
            kind,
            placement: Placement::Snug,
        };
        // SAFETY: passed on.
        unsafe { self.alloc_from_runs(zone, &request) }
    }

    /// Takes the lowest part of the smallest block that is larger than `order`; tells whether it
    /// is clean.
    ///
    /// # Safety
    /// - Lock held.
    #[inline(never)]
    unsafe fn pop_split(&self, zone: Zone, order: Order) -> Option<(Pfn, bool)> {
        let from = self.lists(zone).smallest_from(order)?;
        // SAFETY: lock held; a block on a list has metadata.
        unsafe {
            let pfn = self.pop_block(zone, from)?;
            let clean = self.page_unchecked(pfn).head().is_clean();
            self.split(pfn, from, order, zone, clean);
            Some((pfn, clean))
        }
    }

    /// Halves a block until its lowest part has the order wanted; the upper parts become free.
    ///
    /// # Safety
    /// - Lock held; the block is free and on no list.
    pub(super) unsafe fn split(&self, pfn: Pfn, from: Order, to: Order, zone: Zone, clean: bool) {
        let mut order = from;
        // SAFETY: lock held; upper halves lie in the block.
        unsafe {
            while order > to && order > Self::CARVE_ORDER {
                let Some(half) = order.half() else { break };
                order = half;
                self.make_block(Self::nth(pfn.index() + order.pages()), order, zone, clean);
            }
            if order > to {
                self.ensure_carved(self.carve_of(pfn));
            }
            while order > to {
                let Some(half) = order.half() else { break };
                order = half;
                self.link_block(self, Self::nth(pfn.index() + order.pages()), order, zone, clean);
            }
        }
    }

    /// Takes pages from a zone: exactly as many as asked, aligned, below a physical limit.
    ///
    /// The smallest block that is sure to hold the request serves it; what is left before and
    /// behind goes back. If there is none, neighbouring free blocks are looked for.
    ///
    /// Complexity: O(`MAX_ORDER`), and O(pages of a carve block) for each of the at most two
    /// that are carved; when no single block serves, up to 64 blocks of each of few orders are
    /// looked at; with a limit that cuts through the zone, up to every free block of it.
    /// Locks: the node's is held. `phys` is called (under it) only for a limit that cuts through
    /// the zone, in a section whose physical addresses are not linear.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    pub(crate) unsafe fn alloc(
        &self,
        zone: Zone,
        request: &TakeRequest,
        phys: PhysFn<'_>,
    ) -> Option<Taken> {
        if request.count == 0 {
            return None;
        }
        // SAFETY: passed on.
        unsafe {
            match zone.reach(request.limit) {
                ZoneReach::All => {}
                ZoneReach::Part => {
                    let found = self.alloc_limited(zone, request, phys);
                    if found.is_some() || !self.give_runs_up(zone) {
                        return found;
                    }
                    return self.alloc_limited(zone, request, phys);
                }
                ZoneReach::None => return None,
            }
            if self.by_runs(zone, request) {
                let found = self.alloc_run(request);
                if found.is_some() || !self.give_blocks_up() {
                    return found;
                }
                return self.alloc_from_runs(zone, request);
            }
            let found = self.alloc_blocks(zone, request);
            if found.is_some() {
                return found;
            }
            if let Some(found) = self.alloc_from_runs(zone, request) {
                return Some(found);
            }
            if self.give_runs_up(zone) { self.alloc_blocks(zone, request) } else { None }
        }
    }

    /// The part of `alloc` that looks at blocks.
    ///
    /// # Safety
    /// - Lock held.
    #[inline]
    unsafe fn alloc_blocks(&self, zone: Zone, request: &TakeRequest) -> Option<Taken> {
        if let Some(order) = Order::for_pages(request.count) {
            let order = order.max(request.align_order);
            // SAFETY: passed on; a block of `from >= order` starts aligned.
            unsafe {
                if request.count == order.pages() {
                    if let Some(taken) = self.alloc_order(zone, order, request.kind) {
                        return Some(taken);
                    }
                } else if request.count > 8
                    && let Some(taken) = self.alloc_joined(zone, request, QUICK_PROBES)
                {
                    return Some(taken);
                } else if let Some(from) = self.lists(zone).smallest_from(order)
                    && let Some(pfn) = self.pop_block(zone, from)
                {
                    return Some(self.cut(pfn, from, zone, pfn, request));
                }
            }
        }
        // SAFETY: passed on.
        unsafe { self.alloc_joined(zone, request, ALL_PROBES) }
    }

    /// Hands out a part of a block and frees the rest of it.
    ///
    /// # Safety
    /// - Lock held; the block is free and on no list; the request's pages from `start` lie in it.
    pub(super) unsafe fn cut(
        &self,
        block: Pfn,
        order: Order,
        zone: Zone,
        start: Pfn,
        request: &TakeRequest,
    ) -> Taken {
        let end = start.index() + request.count;
        // SAFETY: lock held; the three parts are those of the block.
        unsafe {
            let clean = self.page_unchecked(block).head().is_clean();
            self.make_blocks(block.index(), start.index(), zone, clean);
            self.make_blocks(end, block.index() + order.pages(), zone, clean);
            sub(&self.lists(zone).free_pages, request.count);
            let word = Self::allocated_word(request.count, request.kind, zone, clean);
            self.write_head(start, request.count, word, request.count as u32);
            Taken { pfn: start, clean }
        }
    }

    /// Head word of an allocated block of `count` pages: its order rounds up.
    pub(super) fn allocated_word(count: usize, kind: Kind, zone: Zone, clean: bool) -> HeadWord {
        let order = Order::for_pages(count).unwrap_or(Order::MAX);
        HeadWord::allocated(order, kind, zone, clean)
    }
}
