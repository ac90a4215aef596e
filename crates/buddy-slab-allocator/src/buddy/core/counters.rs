//! What can be read without a lock. Exact at rest; each number is a relaxed snapshot under load.
//!
//! # Equations
//! - free = Σ zone counters + deferred
//! - allocated = total − free (blocks that CPUs keep as `Kind::Cached` are in it: whoever keeps
//!   them knows how many)
//! - managed bytes = total × page size

use super::super::standalone::ManagedSection;
use super::region::managed;
use super::{PageCore, Watermarks};
use crate::sync::RawLock;
use crate::sync::atomic::Ordering;
use crate::units::{NodeId, Order, Zone};

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// Pages that can be handed out: neither reserved nor holding the core's tables.
    pub(crate) fn total_pages(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// [`total_pages`](Self::total_pages) in bytes.
    pub(crate) fn managed_bytes(&self) -> usize {
        self.total_pages().saturating_mul(PAGE_SIZE)
    }

    /// Pages that hold metadata slots.
    pub(crate) fn slot_pages(&self) -> usize {
        self.slot_pages.load(Ordering::Relaxed)
    }

    /// Pages of the allocator's own tables, which stay.
    pub(crate) fn internal_pages(&self) -> usize {
        self.internal.load(Ordering::Relaxed)
    }

    /// Free pages: on the lists or deferred.
    pub(crate) fn free_pages(&self) -> usize {
        self.free_pages_up_to(usize::MAX)
    }

    /// The same, or `most` if there are more: which needs no look at what comes then.
    pub(crate) fn free_pages_up_to(&self, most: usize) -> usize {
        let mut free = self.deferred_pages();
        for node in &self.nodes {
            free += node.zones.iter().map(|zone| zone.free.load(Ordering::Relaxed)).sum::<usize>();
            if free >= most {
                return most;
            }
        }
        free
    }

    /// Pages on the deferred list.
    pub(crate) fn deferred_pages(&self) -> usize {
        self.deferred.pages()
    }

    /// Pages handed out, those kept by CPUs included.
    pub(crate) fn allocated_pages(&self) -> usize {
        self.total_pages().saturating_sub(self.free_pages())
    }

    /// Number of sections.
    pub(crate) fn section_count(&self) -> usize {
        self.directory.len()
    }

    /// Section number `index` in the order of adding, of those that are there. O(index).
    pub(crate) fn section(&self, index: usize) -> Option<ManagedSection> {
        self.sections().nth(index).map(|section| {
            let summary = section.summary();
            ManagedSection {
                start: summary.start,
                size: summary.size_bytes,
                free_pages: summary.free_pages,
                total_pages: managed(section),
            }
        })
    }

    /// Free pages on a zone's lists.
    pub(crate) fn zone_free_pages(&self, node: NodeId, zone: Zone) -> usize {
        self.node(node).zones[zone.index()].free.load(Ordering::Relaxed)
    }

    /// Free blocks of one order in a zone, for a `buddyinfo`. O(sections).
    pub(crate) fn free_blocks(&self, node: NodeId, zone: Zone, order: Order) -> usize {
        self.sections()
            .filter(|section| section.node() == node)
            .map(|section| section.free_blocks(zone, order))
            .sum()
    }

    /// Pages in free runs of 2^`order` pages or more, but fewer than twice as many. O(sections).
    pub(crate) fn run_pages(&self, order: Order) -> usize {
        self.sections().map(|section| section.run_pages(order)).sum()
    }

    /// Sets a zone's watermarks.
    pub(crate) fn set_watermarks(&self, node: NodeId, zone: Zone, marks: Watermarks) {
        let counters = &self.node(node).zones[zone.index()];
        counters.min.store(marks.min_pages, Ordering::Relaxed);
        counters.low.store(marks.low_pages, Ordering::Relaxed);
    }

    /// A zone's watermarks; both 0 unless set.
    pub(crate) fn watermarks(&self, node: NodeId, zone: Zone) -> Watermarks {
        let counters = &self.node(node).zones[zone.index()];
        Watermarks {
            min_pages: counters.min.load(Ordering::Relaxed),
            low_pages: counters.low.load(Ordering::Relaxed),
        }
    }

    /// Whether it is time to reclaim for a zone.
    pub(crate) fn below_low(&self, node: NodeId, zone: Zone) -> bool {
        let counters = &self.node(node).zones[zone.index()];
        counters.free.load(Ordering::Relaxed) < counters.low.load(Ordering::Relaxed)
    }
}
