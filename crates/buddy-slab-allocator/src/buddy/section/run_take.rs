//! Blocks from runs, and back; growth into a run.

use super::Section;
use super::alloc::{TakeRequest, Taken};
use super::head::{HeadWord, Kind};
use super::lists::{add, sub};
use super::runs::{BINS, EXACT, Run, bin_of};
use crate::units::{Order, Pfn, Zone, ZoneReach};

/// How many runs of one bin are looked at where not all of them need fit.
const PROBES: usize = 16;

/// Where in the free memory a block is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Where it leaves the least behind.
    Snug,
    /// Where it has most room behind it: it is growing. Up to `spare` pages of that room are
    /// taken too; the block's metadata says how many it has then.
    Roomy {
        /// The most pages beyond those asked for.
        spare: usize,
    },
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Whether a request is one for runs: a block of moderate size whose user does not see how it
    /// lies.
    #[inline]
    pub(crate) fn by_runs(&self, zone: Zone, request: &TakeRequest) -> bool {
        matches!(request.kind, Kind::Object | Kind::Slab)
            && request.count <= Self::RUN_LIMIT
            && request.align_order < Self::CARVE_ORDER
            && zone == self.runs.zone
            && zone.reach(request.limit) == ZoneReach::All
    }

    /// Takes a block from the runs, which borrow an extent if need be.
    ///
    /// # Safety
    /// - Lock held; `by_runs` holds for the request.
    #[inline]
    pub(super) unsafe fn alloc_run(&self, request: &TakeRequest) -> Option<Taken> {
        // SAFETY: passed on.
        unsafe {
            match self.find_run(request) {
                Some((run, start)) => Some(self.cut_run(run, start, request)),
                None => {
                    if !self.borrow_extent(request) {
                        return None;
                    }
                    let (run, start) = self.find_run(request)?;
                    Some(self.cut_run(run, start, request))
                }
            }
        }
    }

    /// Takes a block from the runs as they are, on behalf of a request that found no buddies.
    ///
    /// # Safety
    /// - Lock held; the request's limit admits all of `zone`.
    pub(super) unsafe fn alloc_from_runs(
        &self,
        zone: Zone,
        request: &TakeRequest,
    ) -> Option<Taken> {
        if zone != self.runs.zone {
            return None;
        }
        // SAFETY: passed on.
        unsafe {
            let (run, start) = self.find_run(request)?;
            Some(self.cut_run(run, start, request))
        }
    }

    /// A run for the request, and where in it the request's pages lie.
    ///
    /// Complexity: O(1) without alignment; else up to `PROBES` runs of each bin are looked at.
    ///
    /// # Safety
    /// - Lock held.
    #[inline]
    unsafe fn find_run(&self, request: &TakeRequest) -> Option<(Run, usize)> {
        let mut bin = bin_of(request.count);
        if matches!(request.placement, Placement::Roomy { .. }) {
            bin = self.runs.last().filter(|last| *last > bin).unwrap_or(bin);
        }
        loop {
            bin = self.runs.first_from(bin)?;
            // SAFETY: lock held.
            let mut next = unsafe { self.runs.first(bin) };
            for _ in 0..PROBES {
                let Some(pfn) = next else { break };
                let run = self.run_at(pfn)?;
                if let Some(start) = self.fit_run(run, request) {
                    return Some((run, start));
                }
                // SAFETY: a run has metadata.
                next = Pfn::new(unsafe { self.page_unchecked(pfn) }.next());
            }
            bin += 1;
            if bin == BINS {
                return None;
            }
        }
    }

    #[inline]
    fn fit_run(&self, run: Run, request: &TakeRequest) -> Option<usize> {
        let mask = request.align_order.pages() - 1;
        let start = ((self.start_page + run.from).checked_add(mask)? & !mask) - self.start_page;
        (start.checked_add(request.count)? <= run.from + run.len).then_some(start)
    }

    /// Hands out a part of a run; what is left before and behind stays a run.
    ///
    /// # Safety
    /// - Lock held; the request's pages from `start` lie in the run.
    #[inline]
    unsafe fn cut_run(&self, run: Run, start: usize, request: &TakeRequest) -> Taken {
        let to = run.from + run.len;
        let count = match request.placement {
            Placement::Snug => request.count,
            Placement::Roomy { spare } => request.count + spare.min(to - start - request.count),
        };
        let end = start + count;
        let pfn = Self::nth(start);
        // SAFETY: lock held; the three parts are those of the run.
        unsafe {
            self.unlink_run(run);
            if run.from < start {
                self.link_run(Run { len: start - run.from, ..run });
            }
            if end < to {
                self.link_run(Run { from: end, len: to - end, clean: run.clean });
            }
            let page = self.page_unchecked(pfn);
            page.set_prev(count as u32);
            page.set_head(self.run_head(count, request.kind, run.clean));
        }
        sub(&self.lists(self.runs.zone).free_pages, count);
        add(&self.runs.used, count);
        Taken { pfn, clean: run.clean }
    }

    /// The head word of a block of `count` pages cut from runs.
    #[inline(always)]
    pub(crate) fn run_head(&self, count: usize, kind: Kind, clean: bool) -> HeadWord {
        HeadWord::allocated(Order::holding(count), kind, self.runs.zone, clean).cut_from_run()
    }

    /// Gives pages back to the runs.
    ///
    /// # Safety
    /// - As for `free`; the pages are (the end of) a block that was cut from a run, in one zone.
    #[inline]
    pub(super) unsafe fn free_to_runs(&self, from: usize, to: usize) {
        add(&self.lists(self.runs.zone).free_pages, to - from);
        let used = self.runs.used.load(core::sync::atomic::Ordering::Relaxed);
        debug_assert!(used >= to - from, "R4: pages in blocks of runs");
        sub(&self.runs.used, to - from);
        // SAFETY: passed on; fewer pages than a carve block has, so that those with metadata
        // at both ends have it in between.
        unsafe {
            self.ensure_carved(self.carve_of(Self::nth(from)));
            self.ensure_carved(self.carve_of(Self::nth(to - 1)));
            let run = self.join_run(from, to, false);
            if used == to - from || run.len > Self::CARVE_ORDER.pages() {
                self.return_extents(run);
            }
        }
    }

    /// Lets a block grow into the run behind it, by `pages` and up to `spare` more; how many it
    /// were, and whether they are clean. `None`, and nothing happens, if there is no run of that
    /// length.
    ///
    /// # Safety
    /// - Lock held; the pages before `from` are a block in the zone of the runs.
    #[inline]
    pub(super) unsafe fn grow_into_run(
        &self,
        from: usize,
        pages: usize,
        spare: usize,
    ) -> Option<(usize, bool)> {
        let run = self.page_at(from).and_then(|pfn| self.run_at(pfn))?;
        let pages = pages + spare.min(run.len.checked_sub(pages)?);
        let (to, rest) = (from + pages, run.len - pages);
        // SAFETY: lock held; a run of this section.
        unsafe {
            self.unlink_run(run);
            if rest != 0 {
                self.link_run(Run { from: to, len: rest, ..run });
            }
        }
        sub(&self.lists(self.runs.zone).free_pages, pages);
        Some((pages, run.clean))
    }
}

const _: () = assert!(EXACT < BINS);
