//! Free memory that holds something is given up to whoever backs it, and is known to be zero then.
//!
//! Blocks and runs are taken off their lists a few at a time, shown to the caller with no lock held,
//! and put back as clean ones. Meanwhile they count as allocated.

use core::ptr::NonNull;

use super::super::section::{Kind, Section};
use super::{PageCore, PageRef, Wait};
use crate::sync::RawLock;
use crate::units::{Order, Zone};

/// How many blocks are away from the lists at a time.
const BATCH: usize = 16;
/// How many bytes of them, unless one alone is larger.
const AWAY_BYTES: usize = 32 << 20;
/// An end to it, should others free all the time.
const ROUNDS: usize = 1 << 12;

/// A block that is taken off its list.
#[derive(Clone, Copy)]
struct Away<'a, const PAGE_SIZE: usize> {
    page: PageRef<'a, PAGE_SIZE>,
    pages: usize,
    /// Of a block of the buddy system; `None` for a run.
    order: Option<Order>,
}

/// The blocks that are taken off at a time.
type Batch<'a, const PAGE_SIZE: usize> = [Option<Away<'a, PAGE_SIZE>>; BATCH];

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// Shows each free block and run of the pages of `smallest` or more that is not known to be
    /// zero to `give_up`, large ones first. Where that answers `true` the block is known to be zero
    /// from then on; `false` ends it. Returns how many pages were given up.
    ///
    /// Complexity: O(free blocks looked at). Locks: a node's, for a few blocks at a time; `give_up`
    /// runs with none held.
    pub(crate) fn purge(
        &self,
        smallest: Order,
        wait: Wait,
        give_up: &mut dyn FnMut(NonNull<u8>, usize) -> bool,
    ) -> usize {
        let mut purged = 0;
        for section in self.sections() {
            for zone in Zone::ALL {
                for _ in 0..ROUNDS {
                    let mut batch = [None; BATCH];
                    self.take_dirty(section, zone, smallest, wait, &mut batch);
                    let mut goes_on = batch[0].is_some();
                    for away in batch.into_iter().flatten() {
                        let clean = give_up(away.page.ptr(), away.pages * PAGE_SIZE);
                        purged += if clean { away.pages } else { 0 };
                        goes_on &= clean;
                        self.put_back(away, zone, clean, wait);
                    }
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        purged
    }

    /// Takes dirty runs and blocks off the lists until the batch is full.
    fn take_dirty<'a>(
        &'a self,
        section: &'a Section<PAGE_SIZE>,
        zone: Zone,
        smallest: Order,
        wait: Wait,
        batch: &mut Batch<'a, PAGE_SIZE>,
    ) {
        let mut order = Some(Order::MAX);
        let mut has_runs = zone == section.run_zone();
        // SAFETY (both): `edit_section` holds the section's node lock.
        let mut next = || loop {
            if has_runs {
                // SAFETY: above.
                let run = unsafe { section.take_dirty_run(smallest.pages(), Kind::Cached) };
                if let Some((pfn, pages)) = run {
                    return Some(Away { page: PageRef::new(section, pfn), pages, order: None });
                }
                has_runs = false;
            }
            let size = order.filter(|size| *size >= smallest)?;
            // SAFETY: above.
            if let Some(pfn) = unsafe { section.take_dirty(zone, size, Kind::Cached) } {
                let (page, pages) = (PageRef::new(section, pfn), size.pages());
                return Some(Away { page, pages, order });
            }
            order = size.half();
        };
        // Where the lock is not to be had the batch stays empty.
        let _ = self.edit_section(section, wait, || {
            let mut bytes = 0;
            for place in batch {
                *place = next();
                bytes += place.map_or(AWAY_BYTES, |away| away.pages * PAGE_SIZE);
                if bytes >= AWAY_BYTES {
                    break;
                }
            }
        });
    }

    fn put_back(&self, away: Away<'_, PAGE_SIZE>, zone: Zone, clean: bool, wait: Wait) {
        let Away { page, pages, order } = away;
        let freed = self.edit_section(page.section(), wait, || {
            // SAFETY: the lock is held; taken by this function's caller, who does not use it.
            unsafe {
                match order {
                    Some(order) => page.section().put_back(page.pfn(), order, zone, clean),
                    None => page.section().put_back_run(page.pfn(), pages, clean),
                }
            }
        });
        if freed.is_err() {
            // SAFETY: still owned.
            unsafe { self.push_deferred(page, pages) };
        }
    }
}
