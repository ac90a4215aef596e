//! Runs: free pages in pieces of any length, for blocks that need no natural alignment.
//!
//! Large objects and slabs are asked for in exact page counts and released in random order. Cut
//! from buddies, what lies between them falls into aligned pieces that merge only with their own
//! buddy, and after a long churn a fifth of a region is free in pieces that serve nobody. So such
//! blocks live apart: the buddy system lends *extents* of 4 MiB, in which free pages are kept as
//! maximal runs, in bins by length. A block comes from the shortest run that has room for it, and
//! what is freed merges with both neighbours at once. Single pages and naturally aligned blocks
//! stay in the buddy system; each side is cut for the other when that one is used up.
//!
//! # Where it is written down
//! - The first page's head word says *run*; `prev` and `next` link the bin's list.
//! - The last page's head word says *run* and starts no block (unless it is the first page too).
//! - The words `prev` of the second page and of the last hold the length; a run of one page has
//!   order 0.
//! - A block that was cut from a run has a bit in its head word, by which its pages come back to
//!   the runs.
//!
//! All pages of a run are in the zone that the section's runs serve, and have metadata.
//!
//! Neighbours: `run_take` (requests), `run_exchange` (extents come and go).

use core::cell::UnsafeCell;

use super::Section;
use super::head::{HeadWord, Kind};
use super::lists::{add, sub};
use crate::buddy::page_meta::{PFN_NONE, PageMeta, free_list_push, free_list_remove};
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::units::{MAX_ORDER, Order, Pfn, Zone};

/// Bins by length.
pub(super) const BINS: usize = 64;
/// Runs up to so many pages have a bin for each length; above, four bins share each doubling.
pub(super) const EXACT: usize = 32;
const EXACT_LOG: u32 = EXACT.trailing_zeros();

/// The free runs of a section.
///
/// # Invariants
/// - R1: a run is in the bin of its length, linked both ways; bit `b` of `nonempty` is set if and
///   only if bin `b` is not empty.
/// - R2: no two runs are neighbours.
/// - R3: `pages` is the sum of all lengths.
/// - R4: `used` counts the pages of the blocks whose head words say that they were cut from a run,
///   and those of the spans that CPUs keep behind such blocks.
pub(super) struct RunBins {
    heads: UnsafeCell<[u32; BINS]>,
    nonempty: [AtomicU32; 2],
    /// Pages in runs. They count among the zone's free pages.
    pub(super) pages: AtomicUsize,
    /// The same by the order that the run's length has at least.
    by_order: [AtomicU32; MAX_ORDER + 1],
    /// Pages in blocks that go back to the runs when they are freed.
    pub(super) used: AtomicUsize,
    /// The zone that they serve: the one that most of the section is in.
    pub(super) zone: Zone,
}

/// A run: its first page and its length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) from: usize,
    pub(super) len: usize,
    pub(super) clean: bool,
}

/// The bin of runs of this length.
#[inline]
pub(super) fn bin_of(len: usize) -> usize {
    if len <= EXACT {
        return len - 1;
    }
    let log = len.ilog2();
    let quarter = (len >> (log - 2)) & 3;
    (EXACT + ((log - EXACT_LOG) as usize) * 4 + quarter).min(BINS - 1)
}

/// The least length in a bin.
fn least_in(bin: usize) -> usize {
    if bin < EXACT {
        return bin + 1;
    }
    let (doubling, quarter) = ((bin - EXACT) / 4, (bin - EXACT) % 4);
    ((4 + quarter) << (doubling + EXACT_LOG as usize - 2)).max(EXACT + 1)
}

impl RunBins {
    pub(super) fn new(zone: Zone) -> Self {
        Self {
            heads: UnsafeCell::new([PFN_NONE; BINS]),
            nonempty: [const { AtomicU32::new(0) }; 2],
            pages: AtomicUsize::new(0),
            by_order: [const { AtomicU32::new(0) }; MAX_ORDER + 1],
            used: AtomicUsize::new(0),
            zone,
        }
    }

    fn mask(&self) -> u64 {
        let [low, high] = &self.nonempty;
        u64::from(low.load(Ordering::Relaxed)) | u64::from(high.load(Ordering::Relaxed)) << 32
    }

    /// The first bin from `bin` on that has a run.
    #[inline]
    pub(super) fn first_from(&self, bin: usize) -> Option<usize> {
        let fitting = self.mask() & u64::MAX.checked_shl(bin as u32)?;
        (fitting != 0).then_some(fitting.trailing_zeros() as usize)
    }

    /// The bin with the longest runs.
    pub(super) fn last(&self) -> Option<usize> {
        self.mask().checked_ilog2().map(|bin| bin as usize)
    }

    /// An order whose pages the longest run has.
    #[inline]
    pub(super) fn max_order(&self) -> Option<Order> {
        Order::within_pages(least_in(self.last()?))
    }

    /// The first run of a bin.
    ///
    /// # Safety
    /// - Lock held.
    #[inline]
    pub(super) unsafe fn first(&self, bin: usize) -> Option<Pfn> {
        // SAFETY: the lock's holder is the only one who touches the heads.
        Pfn::new(unsafe { (*self.heads.get())[bin] })
    }

    #[inline]
    fn mark(&self, bin: usize, some: bool) {
        let word = &self.nonempty[bin / 32];
        let bit = 1 << (bin % 32);
        let now = word.load(Ordering::Relaxed);
        word.store(if some { now | bit } else { now & !bit }, Ordering::Relaxed);
    }

    /// # Safety
    /// - Lock held; `metas` is the section's; `pfn` has metadata and is on no list.
    #[inline]
    unsafe fn push(&self, metas: *mut PageMeta, pfn: u32, len: usize) {
        let bin = bin_of(len);
        // SAFETY: the lock's holder is the only one who touches the heads; passed on.
        unsafe { free_list_push(metas, &mut *self.heads.get(), pfn, bin) };
        self.mark(bin, true);
        add(&self.pages, len);
        self.count(len, len as u32);
    }

    /// # Safety
    /// - Lock held; `metas` is the section's; `pfn` is on the list of `len`.
    #[inline]
    unsafe fn remove(&self, metas: *mut PageMeta, pfn: u32, len: usize) {
        let bin = bin_of(len);
        // SAFETY: the lock's holder is the only one who touches the heads; passed on.
        let heads = unsafe { &mut *self.heads.get() };
        // SAFETY: runs on the lists have metadata; this one is on this list (condition).
        unsafe { free_list_remove(metas, heads, pfn, bin) };
        if heads[bin] == PFN_NONE {
            self.mark(bin, false);
        }
        sub(&self.pages, len);
        self.count(len, (len as u32).wrapping_neg());
    }

    #[inline]
    fn count(&self, len: usize, change: u32) {
        let pages = &self.by_order[len.ilog2().min(MAX_ORDER as u32) as usize];
        pages.store(pages.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
    }

    /// Pages in runs of 2^`order` pages or more, but fewer than twice as many.
    pub(super) fn pages_of(&self, order: Order) -> usize {
        self.by_order[order.index()].load(Ordering::Relaxed) as usize
    }
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// The most pages of a block that is cut from runs: half an extent.
    pub(super) const RUN_LIMIT: usize = Self::CARVE_ORDER.pages() / 2;

    /// The run that starts at this page.
    ///
    /// Only the lock's holder may rely on the answer.
    #[inline]
    pub(super) fn run_at(&self, pfn: Pfn) -> Option<Run> {
        let word = self.page(pfn)?.head();
        if !word.is_run() || word.is_tail() {
            return None;
        }
        let from = pfn.index();
        let len = if word.order_byte() == 0 {
            1
        } else {
            // SAFETY: a run of several pages has metadata for its second one.
            unsafe { self.page_unchecked(Self::nth(from + 1)) }.prev() as usize
        };
        Some(Run { from, len, clean: word.is_clean() })
    }

    /// The run that ends before page `end`. Only the lock's holder may rely on the answer.
    #[inline]
    pub(super) fn run_before(&self, end: usize) -> Option<Run> {
        let last = end.checked_sub(1)?;
        let page = self.page(Self::nth(last))?;
        let word = page.head();
        if !word.is_run() {
            return None;
        }
        if !word.is_tail() {
            return Some(Run { from: last, len: 1, clean: word.is_clean() });
        }
        self.run_at(Self::nth(end - page.prev() as usize))
    }

    /// The run that contains this page.
    ///
    /// Complexity: O(pages of a carve block), and O(runs longer than two) deep in one of those.
    ///
    /// # Safety
    /// - Lock held.
    pub(super) unsafe fn run_containing(&self, pfn: Pfn) -> Option<Run> {
        let near = 2 * Self::CARVE_ORDER.pages();
        for index in (pfn.index().saturating_sub(near)..=pfn.index()).rev() {
            let at = Self::nth(index);
            let word = self.page(at)?.head();
            if !word.is_tail() {
                return self.run_at(at).filter(|run| run.from + run.len > pfn.index());
            }
            if word.is_run() && index != pfn.index() {
                return None;
            }
        }
        // SAFETY: passed on.
        unsafe { self.long_run_containing(pfn, near) }
    }

    /// The run that contains this page, if it begins more than `near` pages below.
    ///
    /// # Safety
    /// - Lock held.
    #[cold]
    unsafe fn long_run_containing(&self, pfn: Pfn, near: usize) -> Option<Run> {
        let mut bins = bin_of(near);
        while let Some(bin) = self.runs.first_from(bins) {
            // SAFETY: lock held.
            let mut next = unsafe { self.runs.first(bin) };
            while let Some(first) = next {
                let run = self.run_at(first)?;
                if (run.from..run.from + run.len).contains(&pfn.index()) {
                    return Some(run);
                }
                // SAFETY: a run has metadata.
                next = Pfn::new(unsafe { self.page_unchecked(first) }.next());
            }
            bins = bin + 1;
        }
        None
    }

    /// Writes a run down and puts it into its bin.
    ///
    /// # Safety
    /// - Lock held; the pages are on no list and in nobody's hands, in the zone that the runs
    ///   serve, and all have metadata, which starts no block but perhaps at `from`.
    /// - No neighbour is a run.
    #[inline]
    pub(super) unsafe fn link_run(&self, Run { from, len, clean }: Run) {
        let zone = self.runs.zone;
        let order = Order::within_pages(len).unwrap_or(Order::MAX);
        // SAFETY: the section has these pages, with metadata (condition).
        unsafe {
            if len > 1 {
                self.page_unchecked(Self::nth(from + 1)).set_prev(len as u32);
                let last = self.page_unchecked(Self::nth(from + len - 1));
                last.set_prev(len as u32);
                last.set_head(HeadWord::tail(zone as u32).with_kind(Kind::Run));
            }
            let first = self.page_unchecked(Self::nth(from));
            first.set_head(HeadWord::free(order, zone, clean).with_kind(Kind::Run));
            self.runs.push(self.metas.as_ptr(), from as u32, len);
        }
    }

    /// Takes a run out of its bin; its pages start no block then.
    ///
    /// # Safety
    /// - Lock held; `run` is a run of this section.
    #[inline]
    pub(super) unsafe fn unlink_run(&self, run: Run) {
        let tail = HeadWord::tail(self.runs.zone as u32);
        // SAFETY: a run in its bin (condition), all of whose pages have metadata.
        unsafe {
            self.runs.remove(self.metas.as_ptr(), run.from as u32, run.len);
            self.page_unchecked(Self::nth(run.from)).set_head(tail);
            self.page_unchecked(Self::nth(run.from + run.len - 1)).set_head(tail);
        }
    }

    /// Makes pages a run, merged with its neighbours, and tells which it is part of.
    ///
    /// # Safety
    /// - As for `link_run`, but for the neighbours.
    #[inline]
    pub(super) unsafe fn join_run(&self, from: usize, to: usize, clean: bool) -> Run {
        let mut run = Run { from, len: to - from, clean };
        // SAFETY: lock held; neighbours that are runs are in their bins.
        unsafe {
            if let Some(below) = self.run_before(from) {
                self.unlink_run(below);
                self.page_unchecked(Self::nth(from))
                    .set_head(HeadWord::tail(self.runs.zone as u32));
                run.from = below.from;
                run.len += below.len;
                run.clean &= below.clean;
            }
            if to < self.pages
                && let Some(above) = self.run_at(Self::nth(to))
            {
                self.unlink_run(above);
                run.len += above.len;
                run.clean &= above.clean;
            }
            self.link_run(run);
        }
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_holds_the_lengths_from_its_least_to_the_next_ones() {
        for len in 1..20_000 {
            let bin = bin_of(len);
            assert!(least_in(bin) <= len, "{len} in bin {bin}");
            assert!(bin + 1 == BINS || len < least_in(bin + 1), "{len} in bin {bin}");
        }
        assert_eq!(bin_of(usize::MAX), BINS - 1);
    }
}
