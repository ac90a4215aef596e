//! The counting equations of a section, checked by walking everything.
//!
//! * S1: every block on a list is a free block of that order and zone, aligned, inside the
//!   section, linked both ways.
//! * S2: no free block has a free buddy of its order and zone.
//! * S3: the non-empty mask says which lists have blocks, the counts say how many.
//! * S4: pages on the lists and in runs add up to the zone's free pages.
//! * S5: every page is in exactly one of: a free block, a free run, an allocated block, a slab, a
//!   reserved page, a span; and every free block or run found by walking is on a list.
//! * S6: metadata exists where a block starts; inner pages that have some start no block.
//! * S7: managed pages add up to the zones' totals.
//! * R1 to R4: what `runs` says of its bins.
//!
//! Cost: O(pages + free blocks).

use super::Section;
#[cfg(any(test, debug_assertions))]
use super::carve::CarveState;
#[cfg(any(test, debug_assertions))]
use super::head::Kind;
#[cfg(any(test, debug_assertions))]
use super::runs::{BINS, bin_of};
#[cfg(any(test, debug_assertions))]
use crate::sync::atomic::Ordering;
#[cfg(any(test, debug_assertions))]
use crate::units::{MAX_ORDER, Order, Pfn, Zone};

/// Free blocks by zone and order.
#[cfg(any(test, debug_assertions))]
type Tally = [[usize; MAX_ORDER + 1]; Zone::COUNT];

/// How many runs there are, and pages in them.
#[cfg(any(test, debug_assertions))]
type RunTally = (usize, usize);

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Checks S1 to S7.
    ///
    /// # Panics
    /// If one of them does not hold.
    ///
    /// # Safety
    /// - The node's lock is held.
    /// - Nobody is claiming, marking or giving back a block meanwhile.
    #[cfg(any(test, debug_assertions))]
    pub(crate) unsafe fn check_invariants(&self) {
        // SAFETY: passed on.
        unsafe {
            let listed = (self.check_lists(), self.check_runs());
            let walked = self.check_pages();
            assert_eq!(listed, walked, "S5: free blocks on lists and in the section");
        }
    }

    /// # Safety
    /// - As for `check_invariants`.
    #[cfg(any(test, debug_assertions))]
    unsafe fn check_lists(&self) -> Tally {
        let mut tally = Tally::default();
        for zone in Zone::ALL {
            let mut free_pages = 0;
            for (order, count) in Self::orders().zip(&mut tally[zone.index()]) {
                // SAFETY: lock held.
                let mut next = unsafe { self.lists(zone).first(order) };
                let mut previous = None;
                while let Some(pfn) = next {
                    let found = self.free_block_at(pfn);
                    assert_eq!(
                        found,
                        Some((order, zone)),
                        "S1: {pfn:?} on list {zone:?} {order:?}"
                    );
                    let page = self.start_page + pfn.index();
                    assert_eq!(page & (order.pages() - 1), 0, "S1: {pfn:?} {order:?} is aligned");
                    assert!(pfn.index() + order.pages() <= self.pages, "S1: {pfn:?} is inside");
                    // SAFETY: the block has metadata, as was just asserted.
                    let meta = unsafe { self.page_unchecked(pfn) };
                    assert_eq!(Pfn::new(meta.prev()), previous, "S1: {pfn:?} is linked both ways");
                    let buddy = (page ^ order.pages()).wrapping_sub(self.start_page);
                    let buddy = self.page_at(buddy).and_then(|buddy| self.free_block_at(buddy));
                    assert!(
                        order == Order::MAX || buddy != Some((order, zone)),
                        "S2: {pfn:?} {order:?} has merged with its buddy"
                    );
                    previous = Some(pfn);
                    next = Pfn::new(meta.next());
                    *count += 1;
                    free_pages += order.pages();
                }
                let bit = self.lists(zone).mask() >> order.get() & 1;
                assert_eq!(bit == 1, *count > 0, "S3: mask of {zone:?} {order:?}");
                assert_eq!(
                    self.free_blocks(zone, order),
                    *count,
                    "S3: count of {zone:?} {order:?}"
                );
            }
            assert_eq!(self.lists(zone).mask() >> (MAX_ORDER + 1), 0, "S3: mask of {zone:?}");
            if zone == self.runs.zone {
                free_pages += self.runs.pages.load(Ordering::Relaxed);
            }
            assert_eq!(self.free_pages(zone), free_pages, "S4: free pages of {zone:?}");
        }
        tally
    }

    /// # Safety
    /// - As for `check_invariants`.
    #[cfg(any(test, debug_assertions))]
    unsafe fn check_runs(&self) -> RunTally {
        let (mut count, mut pages) = (0, 0);
        for bin in 0..BINS {
            // SAFETY: lock held.
            let mut next = unsafe { self.runs.first(bin) };
            assert_eq!(
                next.is_some(),
                self.runs.first_from(bin) == Some(bin),
                "R1: mask of bin {bin}"
            );
            let mut previous = None;
            while let Some(pfn) = next {
                let run = self.run_at(pfn).expect("R1: a run is in a bin");
                assert_eq!(bin_of(run.len), bin, "R1: {run:?} is in the bin of its length");
                let end = run.from + run.len;
                assert!(end <= self.pages, "R1: {run:?} is inside");
                assert_eq!(self.run_before(end), Some(run), "R1: {run:?} is known at its end");
                let above = self.page_at(end).and_then(|pfn| self.run_at(pfn));
                assert_eq!(above, None, "R2: {run:?} is merged with its neighbour");
                // SAFETY: a run has metadata.
                let meta = unsafe { self.page_unchecked(pfn) };
                assert_eq!(meta.head().zone(), Some(self.runs.zone), "R1: zone of {run:?}");
                assert_eq!(Pfn::new(meta.prev()), previous, "R1: {run:?} is linked both ways");
                previous = Some(pfn);
                next = Pfn::new(meta.next());
                count += 1;
                pages += run.len;
            }
        }
        assert_eq!(pages, self.runs.pages.load(Ordering::Relaxed), "R3: pages in runs");
        (count, pages)
    }

    /// # Safety
    /// - As for `check_invariants`.
    #[cfg(any(test, debug_assertions))]
    unsafe fn check_pages(&self) -> (Tally, RunTally) {
        let mut tally = Tally::default();
        let (mut runs, mut from_runs) = (RunTally::default(), 0);
        let mut in_span = false;
        let mut reserved = 0;
        let mut at = 0;
        while at < self.pages {
            let pfn = Self::nth(at);
            let carve = self.carve_of(pfn);
            let Some(page) = self.page(pfn) else {
                // No block starts here, and none reaches here: all of it is reserved.
                let (first, end) = self.carve_range(carve);
                assert_eq!(self.state(carve), CarveState::Interior, "S6: {pfn:?}");
                assert_eq!(at, first, "S6: {pfn:?} starts an unmanaged carve block");
                reserved += end - first;
                at = end;
                continue;
            };
            let word = page.head();
            let spare = word.is_tail() && !word.is_slab() && !word.is_run();
            let pages = if spare {
                // A CPU keeps it behind a block that grows.
                assert!(in_span || at != 0, "S5: {pfn:?} is in no block");
                assert_eq!(self.state(carve), CarveState::Carved, "S6: {pfn:?} of a span");
                from_runs += 1;
                1
            } else if let Some((order, zone)) = self.free_block_at(pfn) {
                tally[zone.index()][order.index()] += 1;
                order.pages()
            } else if let Some(run) = self.run_at(pfn) {
                runs = (runs.0 + 1, runs.1 + run.len);
                run.len
            } else if word.is_slab() {
                assert!(!word.is_tail(), "S5: {pfn:?} is an inner page of no slab");
                // Its exact count is in the descriptor: the inner pages that follow.
                let inner = (at + 1..self.pages).take_while(|index| {
                    self.page(Self::nth(*index))
                        .is_some_and(|page| page.head().is_tail() && page.head().is_slab())
                });
                1 + inner.count()
            } else {
                assert!(
                    word.is_allocated() && !word.is_tail(),
                    "S5: {pfn:?} is in no block: {word:?}"
                );
                if word.zone().is_none() {
                    reserved += 1;
                    1
                } else {
                    // A link stands where the count was in a deferred single page.
                    let linked = word.kind() == Kind::Deferred && word.order_byte() == 0;
                    let whole = word.order().map_or(0, Order::pages);
                    let count = if linked { whole } else { page.prev() as usize };
                    let order = Order::for_pages(count).unwrap_or(Order::MAX);
                    assert_eq!(
                        word.order(),
                        Some(order),
                        "S5: {pfn:?}: order and exact count: {word:?}"
                    );
                    count
                }
            };
            assert!(pages >= 1 && pages <= self.pages - at, "S5: block at {pfn:?} is inside");
            self.check_inner(at, pages);
            in_span = spare;
            from_runs += if word.is_from_run() { pages } else { 0 };
            at += pages;
        }
        assert_eq!(self.total_pages() + reserved, self.pages, "S7: managed pages");
        assert_eq!(from_runs, self.runs.used.load(Ordering::Relaxed), "R4: pages cut from runs");
        (tally, runs)
    }

    /// Inner pages of a block start none.
    #[cfg(any(test, debug_assertions))]
    fn check_inner(&self, start: usize, pages: usize) {
        let mut at = start + 1;
        while at < start + pages {
            let pfn = Self::nth(at);
            let carve = self.carve_of(pfn);
            if self.state(carve) == CarveState::Carved {
                // SAFETY: carved: it has metadata.
                let word = unsafe { self.page_unchecked(pfn) }.head();
                assert!(word.is_tail(), "S6: {pfn:?} inside a block is no head: {word:?}");
                at += 1;
            } else {
                let (first, end) = self.carve_range(carve);
                let head = first == start && self.state(carve) == CarveState::Head;
                assert!(
                    head || self.state(carve) == CarveState::Interior,
                    "S6: {pfn:?} lies inside a block"
                );
                assert!(end <= start + pages, "S6: uncarved carve block at {pfn:?} is whole");
                at = end;
            }
        }
    }

    #[cfg(any(test, debug_assertions))]
    fn orders() -> impl Iterator<Item = Order> {
        (0..=MAX_ORDER as u8).filter_map(Order::new)
    }
}
