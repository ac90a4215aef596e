//! Runs of neighbouring free blocks: a snug place for a request of many pages, and the last
//! resort when no single free block is large enough.
//!
//! (Large allocations and slabs come from `runs` instead.)
//!
//! Requests of more than 8 pages that are no power of two look here first, at a few blocks of each
//! order from small to large, so that they fill what earlier ones left over, and lie snug against
//! what is in use: filling a region with such sizes then leaves a few percent unused instead of a
//! quarter (measured: `docs/design.md`).
//!
//! Twenty free pages need not contain a free block of 32. A run of `n` free pages always
//! contains a free block of more than `n / 4` pages, so looking around the blocks of the
//! orders from there up finds any run, if no order has too many blocks to look at them all.

use super::Section;
use super::alloc::{TakeRequest, Taken};
use crate::units::{Order, Pfn, Zone};

/// How many blocks of one order are looked at before the search gives up on that order.
pub(super) const ALL_PROBES: usize = 64;
/// The same for the first attempt of every request, which looks for a snug place.
pub(super) const QUICK_PROBES: usize = 4;

/// Free pages `[from, to)`.
#[derive(Clone, Copy)]
struct Run {
    from: usize,
    to: usize,
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Takes pages that several free blocks form together.
    ///
    /// # Safety
    /// - Lock held.
    pub(super) unsafe fn alloc_joined(
        &self,
        zone: Zone,
        request: &TakeRequest,
        probes: usize,
    ) -> Option<Taken> {
        // A pair is a buddy pair or nothing: users rely on two odd neighbours not serving it.
        let pair = request.count == 2 && request.align_order == Order::ZERO;
        if pair || request.count > self.free_pages(zone) {
            return None;
        }
        // A run of 2^(k + 1) - 1 pages, wherever it starts, contains an aligned block of order k.
        let smallest =
            Order::within_pages(request.count + 1).and_then(Order::half).unwrap_or(Order::ZERO);
        let mut from = smallest;
        loop {
            let order = self.lists(zone).smallest_from(from)?;
            // SAFETY: passed on.
            if let Some(start) = unsafe { self.probe_order(zone, order, request, probes) } {
                // SAFETY: passed on.
                return unsafe { self.alloc_at(start, request.count, request.kind) };
            }
            from = Order::new(order.get() + 1)?;
        }
    }

    /// # Safety
    /// - Lock held.
    unsafe fn probe_order(
        &self,
        zone: Zone,
        order: Order,
        request: &TakeRequest,
        probes: usize,
    ) -> Option<Pfn> {
        // SAFETY: lock held.
        let mut next = unsafe { self.lists(zone).first(order) };
        for _ in 0..probes {
            let block = next?;
            if let Some(start) = self.run_around(block, order, zone, request) {
                return Some(start);
            }
            // SAFETY: a block on a list has metadata.
            next = Pfn::new(unsafe { self.page_unchecked(block) }.next());
        }
        None
    }

    /// Where in the run of free blocks around this one the request fits.
    ///
    /// Complexity: neighbours that do not merge differ in order, except the largest; the run is
    /// followed no further than the request can need.
    fn run_around(
        &self,
        block: Pfn,
        order: Order,
        zone: Zone,
        request: &TakeRequest,
    ) -> Option<Pfn> {
        let mut run = Run { from: block.index(), to: block.index() + order.pages() };
        let enough = request.count.saturating_add(request.align_order.pages());
        // Leftwards first: a request lies snug against what is in use there.
        while run.to - run.from < enough.saturating_add(order.pages()) {
            let Some(below) = run.from.checked_sub(1).and_then(|below| self.page_at(below)) else {
                break;
            };
            match self.free_block_around(below) {
                Some((start, _, its_zone)) if its_zone == zone => run.from = start.index(),
                _ => break,
            }
        }
        loop {
            if let Some(start) = self.fit(run, request) {
                return Some(start);
            }
            if run.to - run.from >= enough {
                return None;
            }
            match self.page_at(run.to).and_then(|pfn| self.free_block_at(pfn)) {
                Some((order, its_zone)) if its_zone == zone => run.to += order.pages(),
                _ => return None,
            }
        }
    }

    /// Where in the run the request fits.
    fn fit(&self, run: Run, request: &TakeRequest) -> Option<Pfn> {
        let mask = request.align_order.pages() - 1;
        let start = (self.start_page + run.from).checked_add(mask)? & !mask;
        let start = start - self.start_page;
        if start.checked_add(request.count)? <= run.to { self.page_at(start) } else { None }
    }
}
