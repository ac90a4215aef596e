//! Pages go from the buddy system to the runs and back.
//!
//! The runs borrow a whole carve block at a time, or the largest block that there is (in a small
//! section with the free blocks on both sides of it), and return what is whole again, but keep one
//! as long as they are in use. What neither side can serve alone is looked for once more when the
//! pieces of one were given to the other, a bounded number of them for each request.

use super::Section;
use super::alloc::TakeRequest;
use super::lists::ZoneLists;
use super::runs::Run;
use crate::sync::atomic::Ordering;
use crate::units::{Order, Pfn, Zone};

/// How many pieces change sides for a request that is about to fail.
const EXCHANGED: usize = 256;
/// How many runs go back when the last block of them is freed.
const RETURNED: usize = 16;

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Sections with fewer pages need not contain a whole extent. Longer ones have extents, and run
    /// out of free ones only when they are nearly full.
    const WIDENED_BELOW: usize = 2 * Self::CARVE_ORDER.pages();

    fn run_lists(&self) -> &ZoneLists {
        self.lists(self.runs.zone)
    }

    /// Makes a free block a run; `false` if none has room for the request.
    ///
    /// # Safety
    /// - Lock held.
    #[cold]
    pub(super) unsafe fn borrow_extent(&self, request: &TakeRequest) -> bool {
        let lists = self.run_lists();
        let zone = self.runs.zone;
        let Some(fitting) = Order::for_pages(request.count) else { return false };
        let fitting = fitting.max(request.align_order);
        let large = fitting.max(Self::CARVE_ORDER);
        // SAFETY: lock held; a block on a list has metadata, and is nobody's once it is off it.
        unsafe {
            if let Some(from) = lists.smallest_from(large) {
                let Some(pfn) = self.pop_block(zone, from) else { return false };
                let clean = self.page_unchecked(pfn).head().is_clean();
                self.split(pfn, from, large, zone, clean);
                let _ = self.block_to_run(pfn, large);
                return true;
            }
            let Some(order) = lists.max_order().filter(|most| *most >= fitting) else {
                return false;
            };
            let Some(pfn) = self.pop_block(zone, order) else { return false };
            let run = self.block_to_run(pfn, order);
            if self.pages < Self::WIDENED_BELOW {
                self.widen_run(run);
            }
        }
        true
    }

    /// Adds the free blocks on both sides of a run to it, until it is as long as an extent.
    ///
    /// Blocks that lie side by side would else be used from their low ends each, and what is left
    /// of one be cut off from the next: a third of a section that has no whole extent.
    ///
    /// Complexity: neighbours that do not merge differ in order, except the largest, so that there
    /// are O(`MAX_ORDER`) of them on each side, unless runs lie between.
    ///
    /// # Safety
    /// - Lock held; a run of this section.
    unsafe fn widen_run(&self, mut run: Run) {
        let ours = |block: &(Pfn, Order, Zone)| block.2 == self.runs.zone;
        while run.len < Self::CARVE_ORDER.pages() {
            let below = run.from.checked_sub(1).and_then(|below| self.page_at(below));
            let above = self.page_at(run.from + run.len);
            let block =
                below.and_then(|pfn| self.free_block_around(pfn).filter(ours)).or_else(|| {
                    above.and_then(|pfn| {
                        let (order, zone) = self.free_block_at(pfn)?;
                        Some((pfn, order, zone)).filter(ours)
                    })
                });
            let Some((pfn, order, zone)) = block else { return };
            // SAFETY: lock held; a free block is on its list, and nobody's once it is off it.
            run = unsafe {
                self.unlink_block(self, pfn, order, zone);
                self.block_to_run(pfn, order)
            };
        }
    }

    /// Makes a block that was taken off its list a run, merged with its neighbours.
    ///
    /// # Safety
    /// - Lock held; the block is in the zone of the runs, on no list and in nobody's hands.
    unsafe fn block_to_run(&self, pfn: Pfn, order: Order) -> Run {
        // SAFETY: passed on; a block's first page has metadata.
        unsafe {
            let clean = self.page_unchecked(pfn).head().is_clean();
            self.demote_block(pfn.index(), order);
            self.join_run(pfn.index(), pfn.index() + order.pages(), clean)
        }
    }

    /// Makes a block that was taken off its list inner pages with metadata.
    ///
    /// # Safety
    /// - Lock held; the block is on no list and in nobody's hands.
    unsafe fn demote_block(&self, from: usize, order: Order) {
        // SAFETY: passed on.
        unsafe {
            self.demote(Self::nth(from), self.runs.zone as u32);
            let mut at = from;
            while at < from + order.pages() {
                self.ensure_carved(self.carve_of(Self::nth(at)));
                at += Self::CARVE_ORDER.pages();
            }
        }
    }

    /// Makes a run free blocks.
    ///
    /// # Safety
    /// - Lock held; a run of this section.
    unsafe fn return_run(&self, run: Run) {
        // SAFETY: lock held; once unlinked, nobody's.
        unsafe {
            self.unlink_run(run);
            self.merge_blocks(run.from, run.from + run.len, self.runs.zone);
        }
    }

    /// After a free that made `run`: returns the whole extents in it, if the runs have enough
    /// left; or everything, if no block of theirs is in use.
    ///
    /// # Safety
    /// - Lock held; a run of this section.
    #[cold]
    pub(super) unsafe fn return_extents(&self, run: Run) {
        let extent = Self::CARVE_ORDER.pages();
        // SAFETY: passed on.
        unsafe {
            if self.runs.used.load(Ordering::Relaxed) == 0 {
                self.return_runs(RETURNED);
                return;
            }
            let first = (self.start_page + run.from).next_multiple_of(extent) - self.start_page;
            let end = (self.start_page + run.from + run.len) & !(extent - 1);
            let end = end.saturating_sub(self.start_page);
            let spare = self.runs.pages.load(Ordering::Relaxed);
            if end <= first || spare < 2 * (end - first) {
                return;
            }
            self.unlink_run(run);
            if run.from < first {
                self.link_run(Run { len: first - run.from, ..run });
            }
            if end < run.from + run.len {
                self.link_run(Run { from: end, len: run.from + run.len - end, ..run });
            }
            self.merge_blocks(first, end, self.runs.zone);
        }
    }

    /// Returns up to `most` runs, the longest first; how many it were.
    ///
    /// # Safety
    /// - Lock held.
    unsafe fn return_runs(&self, most: usize) -> usize {
        for returned in 0..most {
            // SAFETY: passed on.
            unsafe {
                let longest = self.runs.last().and_then(|bin| self.runs.first(bin));
                let Some(run) = longest.and_then(|pfn| self.run_at(pfn)) else { return returned };
                self.return_run(run);
            }
        }
        most
    }

    /// For a request of the buddy system that is about to fail: returns runs, so that they merge
    /// with the blocks around them; whether there was any.
    ///
    /// # Safety
    /// - Lock held.
    #[cold]
    pub(super) unsafe fn give_runs_up(&self, zone: Zone) -> bool {
        // SAFETY: passed on.
        zone == self.runs.zone && unsafe { self.return_runs(EXCHANGED) } != 0
    }

    /// For a request of runs that is about to fail: makes free blocks runs, the largest first, so
    /// that they merge with the runs around them; whether there was any.
    ///
    /// # Safety
    /// - Lock held.
    #[cold]
    pub(super) unsafe fn give_blocks_up(&self) -> bool {
        let lists = self.run_lists();
        for given in 0..EXCHANGED {
            let Some(order) = lists.max_order() else { return given != 0 };
            // SAFETY: lock held; once off its list the block is nobody's.
            unsafe {
                let Some(pfn) = self.pop_block(self.runs.zone, order) else { return given != 0 };
                let _ = self.block_to_run(pfn, order);
            }
        }
        true
    }
}
