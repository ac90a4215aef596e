//! Runs that may hold something leave their bins to be given up to whoever backs them, and come
//! back known to be zero.

use super::Section;
use super::head::Kind;
use super::lists::{add, sub};
use super::runs::{Run, bin_of};
use crate::units::{Pfn, Zone};

/// How many runs of one bin are looked at for one that is not clean.
const DIRTY_PROBES: usize = 1 << 12;

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// The zone that the section's runs serve.
    pub(crate) fn run_zone(&self) -> Zone {
        self.runs.zone
    }

    /// Takes a run of `least` pages or more that is not known to be zero out of its bin, from the
    /// bins of the longest ones; `None` if there is none among the first few thousand of each. It
    /// is a block of the runs' then, of that many pages.
    ///
    /// Complexity: O(runs looked at). Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held.
    pub(crate) unsafe fn take_dirty_run(&self, least: usize, kind: Kind) -> Option<(Pfn, usize)> {
        let longest = self.runs.last()?;
        // SAFETY: lock held; runs in bins have metadata.
        unsafe {
            let run = (bin_of(least)..=longest).rev().find_map(|bin| self.dirty_in(bin, least))?;
            self.unlink_run(run);
            let pfn = Self::nth(run.from);
            let page = self.page_unchecked(pfn);
            page.set_prev(run.len as u32);
            let word = Self::allocated_word(run.len, kind, self.runs.zone, false);
            page.set_head(word.cut_from_run());
            sub(&self.lists(self.runs.zone).free_pages, run.len);
            add(&self.runs.used, run.len);
            Some((pfn, run.len))
        }
    }

    /// # Safety
    /// - Lock held.
    unsafe fn dirty_in(&self, bin: usize, least: usize) -> Option<Run> {
        // SAFETY: lock held.
        let mut next = unsafe { self.runs.first(bin) };
        for _ in 0..DIRTY_PROBES {
            let pfn = next?;
            let run = self.run_at(pfn)?;
            if !run.clean && run.len >= least {
                return Some(run);
            }
            // SAFETY: a run has metadata.
            next = Pfn::new(unsafe { self.page_unchecked(pfn) }.next());
        }
        None
    }

    /// Gives back what `take_dirty_run` took; it is known to be zero if `clean` says so.
    ///
    /// Complexity: O(1). Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held; `take_dirty_run` returned these pages to the caller, who does
    ///   not use them any more. If they are clean, all of them are zero.
    pub(crate) unsafe fn put_back_run(&self, pfn: Pfn, count: usize, clean: bool) {
        add(&self.lists(self.runs.zone).free_pages, count);
        sub(&self.runs.used, count);
        // SAFETY: the caller's pages, which have metadata since they were a run; neighbours that
        // were freed meanwhile are runs in their bins.
        unsafe { self.join_run(pfn.index(), pfn.index() + count, clean) };
    }
}
