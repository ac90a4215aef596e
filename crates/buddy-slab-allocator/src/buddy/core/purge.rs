//! Free memory that holds something is given up to whoever backs it, and is known to be zero then.
//!
//! Blocks are taken off the free lists a few at a time, shown to the caller with no lock held, and
//! put back as clean ones. Meanwhile they count as allocated.

use core::ptr::NonNull;

use super::super::section::{Kind, Section};
use super::{PageCore, PageRef, Wait};
use crate::sync::RawLock;
use crate::units::{Order, Zone};

/// How many blocks are away from the lists at a time.
const BATCH: usize = 16;
/// An end to it, should others free all the time.
const ROUNDS: usize = 1 << 10;

/// The blocks that are taken off at a time.
type Batch<'a, const PAGE_SIZE: usize> = [Option<(PageRef<'a, PAGE_SIZE>, Order)>; BATCH];

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// Shows each free block of `smallest` or more that is not known to be zero to `give_up`,
    /// largest first. Where that answers `true` the block is known to be zero from then on;
    /// `false` ends it. Returns how many pages were given up.
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
                    let taken = self.take_dirty(section, zone, smallest, wait, &mut batch);
                    let mut goes_on = taken == BATCH;
                    for (page, order) in batch.into_iter().flatten() {
                        let clean = give_up(page.ptr(), order.pages() * PAGE_SIZE);
                        purged += if clean { order.pages() } else { 0 };
                        goes_on &= clean;
                        self.put_back(page, order, zone, clean, wait);
                    }
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        purged
    }

    /// Takes dirty blocks off the lists until the batch is full; returns how many.
    fn take_dirty<'a>(
        &'a self,
        section: &'a Section<PAGE_SIZE>,
        zone: Zone,
        smallest: Order,
        wait: Wait,
        batch: &mut Batch<'a, PAGE_SIZE>,
    ) -> usize {
        let mut count = 0;
        let taken = self.edit_section(section, wait, || {
            let mut order = Some(Order::MAX);
            while let Some(size) = order.filter(|size| *size >= smallest) {
                while let Some(place) = batch.get_mut(count) {
                    // SAFETY: `edit_section` holds the section's node lock.
                    let pfn = unsafe { section.take_dirty(zone, size, Kind::Cached) };
                    let Some(pfn) = pfn else { break };
                    *place = Some((PageRef::new(section, pfn), size));
                    count += 1;
                }
                order = size.half();
            }
        });
        if taken.is_ok() { count } else { 0 }
    }

    fn put_back(
        &self,
        page: PageRef<'_, PAGE_SIZE>,
        order: Order,
        zone: Zone,
        clean: bool,
        wait: Wait,
    ) {
        let freed = self.edit_section(page.section(), wait, || {
            // SAFETY: the lock is held; taken by this function's caller, who does not use it.
            unsafe { page.section().put_back(page.pfn(), order, zone, clean) }
        });
        if freed.is_err() {
            // SAFETY: still owned.
            unsafe { self.push_deferred(page, order.pages()) };
        }
    }
}
