//! Counts at one moment, and their printed forms.

use core::fmt;

use crate::buddy::{MAX_NODES, MAX_ORDER};
use crate::global::GlobalAllocator;
use crate::platform::Platform;
use crate::slab::SizeClass;
use crate::units::{NodeId, Order, Zone};

/// What all heaps own of one size class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassInfo {
    /// Bytes of an object.
    pub size: usize,
    /// Slabs, full, partial and empty.
    pub slabs: usize,
    /// Pages of those slabs.
    pub pages: usize,
    /// Objects that those slabs can hold.
    pub objects_total: usize,
    /// Objects handed out, remote frees that their owner has not taken in, and what lies in magazines
    /// of heaps that were not seen.
    pub objects_live: usize,
}

/// Counts at one moment: exact at rest, a good picture under load. Plain numbers, no allocation.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Bytes that can be allocated, over all sections.
    pub managed_bytes: usize,
    /// Bytes of pages handed out, in slabs and in magazines.
    pub allocated_bytes: usize,
    /// How many sections there are.
    pub sections: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Free blocks by zone (DMA, DMA32, normal) and order.
    pub free_blocks: [[usize; MAX_ORDER + 1]; 3],
    /// Pages in free runs by the order that their length has at least: from runs come large
    /// allocations and slabs.
    pub run_pages: [usize; MAX_ORDER + 1],
    /// Pages that CPUs keep at hand; they count as free.
    pub cached_pages: usize,
    /// Pages that shared heaps keep for handlers; they count as free.
    pub stock_pages: usize,
    /// Pages whose free waits for a lock; they count as free.
    pub deferred_pages: usize,
    /// Pages of the allocator's own structures that were taken from sections.
    pub internal_pages: usize,
    /// Pages that hold the descriptors of slabs.
    pub descriptor_pages: usize,
    /// Pages handed out as pages, or holding allocations above the size classes.
    pub large_pages: usize,
    /// By size class.
    pub classes: [ClassInfo; SizeClass::COUNT],
    /// Objects that were freed through another heap than their owner's so far, as far as heaps
    /// could be seen. (Frees by handlers inside the allocator are not counted.)
    pub remote_frees: usize,
    /// Heaps that were in use by their CPU: what is free in their slabs counts as live.
    pub heaps_not_seen: usize,
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Counts what is in use. What is free in the slabs of running *pinned* and *thread* CPUs other
    /// than the caller's is not seen, see [`Snapshot::heaps_not_seen`].
    ///
    /// # Complexity
    /// O(heaps × (size classes + groups with free objects + objects in magazines) + sections × orders).
    /// Takes one heap's lock at a time.
    pub fn snapshot(&self) -> Snapshot {
        // First, since what the heaps take in may empty slabs, whose pages then go back.
        let mut free = [0usize; SizeClass::COUNT];
        let (mut remote_frees, mut magazine_pages) = (0, 0);
        let in_slab = |addr| self.core().slab_at(addr).is_some();
        let heaps_not_seen = self.visit_heaps(|local| {
            remote_frees += local.remote.frees();
            magazine_pages += local.magazine_pages(in_slab);
            for class in SizeClass::ALL {
                free[class.index()] += local.free_objects(class, in_slab);
            }
        });
        let core = self.core();
        let mut snapshot = Snapshot {
            managed_bytes: self.managed_bytes(),
            allocated_bytes: self.allocated_bytes(),
            sections: core.section_count(),
            page_bytes: PAGE_SIZE,
            free_blocks: [[0; MAX_ORDER + 1]; 3],
            run_pages: [0; MAX_ORDER + 1],
            cached_pages: self.cached_pages(),
            stock_pages: self.stock_pages(),
            deferred_pages: core.deferred_pages(),
            internal_pages: core.internal_pages(),
            descriptor_pages: core.slot_pages(),
            large_pages: 0,
            classes: [ClassInfo::default(); SizeClass::COUNT],
            remote_frees,
            heaps_not_seen,
        };
        for (zone, blocks) in Zone::ALL.into_iter().zip(&mut snapshot.free_blocks) {
            for (order, count) in blocks.iter_mut().enumerate() {
                let Some(order) = Order::new(order as u8) else { continue };
                *count = (0..MAX_NODES as u8)
                    .map(|node| core.free_blocks(NodeId::new(node), zone, order))
                    .sum();
            }
        }
        for (order, pages) in snapshot.run_pages.iter_mut().enumerate() {
            *pages = Order::new(order as u8).map_or(0, |order| core.run_pages(order));
        }
        for class in SizeClass::ALL {
            let (slabs, pages, objects_total) = self.class_totals(class);
            let info = &mut snapshot.classes[class.index()];
            *info = ClassInfo {
                size: class.size(),
                slabs,
                pages,
                objects_total,
                objects_live: objects_total.saturating_sub(free[class.index()]),
            };
        }
        let slab_pages: usize = snapshot.classes.iter().map(|class| class.pages).sum();
        let allocated = snapshot.allocated_bytes / PAGE_SIZE;
        let own = slab_pages + snapshot.descriptor_pages + magazine_pages;
        snapshot.large_pages = allocated.saturating_sub(own);
        snapshot
    }
}

impl Snapshot {
    /// Free blocks by zone and order, as Linux's `/proc/buddyinfo` prints them.
    pub fn buddyinfo(&self) -> BuddyInfo<'_> {
        BuddyInfo(self)
    }

    /// Size classes in use, as Linux's `/proc/slabinfo` prints them.
    pub fn slabinfo(&self) -> SlabInfo<'_> {
        SlabInfo(self)
    }

    /// Pages on the free lists and in runs.
    pub fn listed_free_pages(&self) -> usize {
        let pages = |blocks: &[usize; MAX_ORDER + 1]| -> usize {
            blocks.iter().enumerate().map(|(order, count)| count << order).sum()
        };
        self.free_blocks.iter().map(pages).sum::<usize>() + self.run_pages.iter().sum::<usize>()
    }

    /// The share of free pages, in 1/1000, that lie in blocks and runs too small for a request
    /// of 2^`order` pages: 0 is no fragmentation at that order. (Gorman's unusable free space index.)
    pub fn fragmentation_permille(&self, order: usize) -> usize {
        let small = |blocks: &[usize; MAX_ORDER + 1]| -> usize {
            blocks.iter().enumerate().take(order).map(|(order, count)| count << order).sum()
        };
        let runs: usize = self.run_pages.iter().take(order).sum();
        let unusable = self.free_blocks.iter().map(small).sum::<usize>() + runs;
        (unusable * 1000).checked_div(self.listed_free_pages()).unwrap_or(0)
    }
}

/// Prints [`Snapshot::free_blocks`].
pub struct BuddyInfo<'a>(&'a Snapshot);

impl fmt::Display for BuddyInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = &self.0.free_blocks;
        let runs = &self.0.run_pages;
        let in_runs = runs.iter().any(|pages| *pages != 0);
        let used = |order: &usize| blocks.iter().any(|zone| zone[*order] != 0) || runs[*order] != 0;
        let top = (0..=MAX_ORDER).rev().find(used).unwrap_or(0);
        write!(f, "{:<14}", "order")?;
        for order in 0..=top {
            write!(f, "{order:>7}")?;
        }
        for (name, zone) in ["DMA", "DMA32", "Normal"].iter().zip(blocks) {
            if zone.iter().all(|count| *count == 0) {
                continue;
            }
            write!(f, "\nzone {name:<9}")?;
            for count in &zone[..=top] {
                write!(f, "{count:>7}")?;
            }
        }
        if in_runs {
            write!(f, "\n{:<14}", "runs (pages)")?;
            for pages in &runs[..=top] {
                write!(f, "{pages:>7}")?;
            }
        }
        let Snapshot { cached_pages, stock_pages, deferred_pages, .. } = self.0;
        let Snapshot { internal_pages, descriptor_pages, .. } = self.0;
        write!(f, "\nkept by CPUs {cached_pages}, for handlers {stock_pages}, ")?;
        write!(f, "deferred {deferred_pages}, descriptors {descriptor_pages}, ")?;
        write!(f, "own structures {internal_pages} (pages)")
    }
}

/// Prints [`Snapshot::classes`], those that own slabs.
pub struct SlabInfo<'a>(&'a Snapshot);

impl fmt::Display for SlabInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7}{:>12}{:>12}{:>9}{:>9}", "size", "live", "total", "slabs", "pages")?;
        for class in self.0.classes.iter().filter(|class| class.slabs != 0) {
            let ClassInfo { size, slabs, pages, objects_total, objects_live } = class;
            write!(f, "\n{size:>7}{objects_live:>12}{objects_total:>12}{slabs:>9}{pages:>9}")?;
        }
        write!(f, "\n  pages{:>12}{:>42}", self.0.large_pages, "(allocated as pages)")
    }
}
