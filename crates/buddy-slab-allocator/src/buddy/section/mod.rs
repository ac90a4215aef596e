//! A section: one contiguous managed range of pages, with its metadata inside it.
//!
//! * `layout` places pages and metadata; `create` writes them and makes the first free blocks.
//! * `reach` is the way from an address to a page and its metadata.
//! * `head` is the word that says what a page is; `carve` keeps one byte for each 4 MiB that says
//!   which of these words exist; `lists` are the free lists of a zone.
//! * `alloc` and `free` are the buddy system's two directions; `take` takes exact ranges (and so
//!   grows blocks); `join` finds a run of neighbouring free blocks when no single one is large
//!   enough; `limit` serves requests whose physical limit is no zone's.
//! * `batch` moves blocks of one order to and from a CPU's page list, many at a time, each as a
//!   `kept_page`; `prefetch` are the hints with which it looks ahead.
//! * `runs` keeps free pages in pieces of any length, for blocks that need no alignment;
//!   `run_take` cuts and joins them, `run_exchange` borrows extents from the buddies.
//! * `slab_marks` ties the pages of a slab to its descriptor; `checks` counts everything.
//!
//! # Protocol
//! A section is used through shared references by every CPU.
//! - What `create` wrote into the immutable fields is read by anybody, without a lock.
//! - Free lists, and the metadata of free pages, belong to the holder of the node's lock.
//! - The metadata of an allocated block's first page belongs to the block's owner. Its head word
//!   is the exception: anybody may try to claim it by compare-and-swap, which succeeds once.
//! - A state byte is written before pages under it are handed out, after the metadata that it
//!   vouches for (release), and read before that metadata (acquire).
//! - Counters are written under the lock and read by anybody as a snapshot.

mod alloc;
mod batch;
mod carve;
mod checks;
mod create;
mod free;
mod head;
mod join;
mod kept_page;
mod layout;
mod limit;
mod lists;
mod prefetch;
mod reach;
mod run_exchange;
mod run_purge;
mod run_take;
mod runs;
mod slab_marks;
mod take;
#[cfg(all(test, unix, target_pointer_width = "64"))]
mod tests;

pub(crate) use alloc::{TakeRequest, Taken};
pub(crate) use create::RegionSpec;
pub(crate) use head::{HeadWord, Kind, Page};
pub(crate) use kept_page::KeptPage;
pub(crate) use reach::Reach;
pub(crate) use run_take::Placement;
pub(crate) use slab_marks::PageMark;

use core::ops::Deref;

use super::links::SectionLinks;
use crate::sync::atomic::Ordering;
use crate::units::{NodeId, Order, Pfn, Zone};
use layout::Needs;
use lists::ZoneLists;
use runs::RunBins;

/// Physical address of a page from its virtual one; `None` if nobody knows.
///
/// Taken as linear within 4 MiB of virtual addresses.
pub(crate) type PhysFn<'a> = Option<&'a dyn Fn(usize) -> usize>;

/// What a section says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SectionSummary {
    /// Address of the first page.
    pub start: usize,
    /// Bytes from the first page to the end of the last.
    pub size_bytes: usize,
    /// Pages under management: all but the reserved.
    pub total_pages: usize,
    /// Pages on the free lists.
    pub free_pages: usize,
}

/// How the physical addresses of a section's pages are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phys {
    Unknown,
    /// All follow from that of the first page.
    Linear(usize),
    /// Asked for each carve block.
    PerBlock,
}

/// A contiguous managed range.
///
/// # Invariants
/// - What its [`Reach`] says stays true for as long as the section exists.
#[repr(C, align(64))]
pub(crate) struct Section<const PAGE_SIZE: usize> {
    /// First, so that a pointer to a section is one to its reach.
    reach: Reach<PAGE_SIZE>,
    phys: Phys,
    region: (usize, usize),
    node: NodeId,
    links: SectionLinks<Self>,
    zones: [ZoneLists; Zone::COUNT],
    runs: RunBins,
}

// SAFETY: the raw pointers lead to atomics that any thread may use; the free lists are touched
// by the holder of the node's lock only, which every function that does so demands.
unsafe impl<const PAGE_SIZE: usize> Sync for Section<PAGE_SIZE> {}
// SAFETY: nothing in a section is tied to the thread that made it.
unsafe impl<const PAGE_SIZE: usize> Send for Section<PAGE_SIZE> {}

impl<const PAGE_SIZE: usize> Deref for Section<PAGE_SIZE> {
    type Target = Reach<PAGE_SIZE>;

    #[inline(always)]
    fn deref(&self) -> &Reach<PAGE_SIZE> {
        &self.reach
    }
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    const PAGE_SHIFT: u32 = Reach::<PAGE_SIZE>::PAGE_SHIFT;
    const CARVE_ORDER: Order = Reach::<PAGE_SIZE>::CARVE_ORDER;

    const fn needs(extra_bytes: usize) -> Needs {
        Needs { page_size: 1 << Self::PAGE_SHIFT, header_bytes: size_of::<Self>(), extra_bytes }
    }

    /// Bytes of metadata that a section of `pages` pages needs, wherever it starts; `None` if
    /// there cannot be so many.
    pub(crate) const fn metadata_bytes(pages: usize, extra_bytes: usize) -> Option<usize> {
        let blocks = (pages >> Self::CARVE_ORDER.get()) + 2;
        Self::needs(extra_bytes).metadata_bytes(pages, blocks)
    }

    /// The region that the section was made of: address and bytes.
    pub(crate) fn region(&self) -> (usize, usize) {
        self.region
    }

    /// Address of the first page.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        self.start_page << Self::PAGE_SHIFT
    }

    /// Pages from the first to the last, reserved ones included.
    #[cfg(all(test, unix, target_pointer_width = "64"))]
    pub(crate) fn page_span(&self) -> usize {
        self.pages
    }

    /// The NUMA node that the section belongs to.
    #[inline]
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// The words that belong to the layer above.
    #[inline]
    pub(crate) fn links(&self) -> &SectionLinks<Self> {
        &self.links
    }

    /// Whether physical addresses, and so zones, are known.
    pub(crate) fn phys_known(&self) -> bool {
        self.phys != Phys::Unknown
    }

    /// Metadata of a page; `None` while none has been written for it (it lies inside a larger
    /// block), or if there is no such page.
    #[inline]
    pub(crate) fn page(&self, pfn: Pfn) -> Option<Page<'_>> {
        if pfn.index() >= self.pages || !self.has_meta(pfn) {
            return None;
        }
        // SAFETY: in range, and vouched for by the state byte.
        Some(unsafe { self.page_unchecked(pfn) })
    }

    /// The order of the largest free block of a zone, or one whose pages its longest run has.
    #[inline]
    pub(crate) fn max_free_order(&self, zone: Zone) -> Option<Order> {
        let listed = self.lists(zone).max_order();
        if zone == self.runs.zone { listed.max(self.runs.max_order()) } else { listed }
    }

    /// Pages of a zone on the free lists.
    #[inline]
    pub(crate) fn free_pages(&self, zone: Zone) -> usize {
        self.lists(zone).free_pages.load(Ordering::Relaxed)
    }

    /// Free blocks of a zone that have this order.
    pub(crate) fn free_blocks(&self, zone: Zone, order: Order) -> usize {
        self.lists(zone).blocks(order)
    }

    /// Pages in runs of 2^`order` pages or more, but fewer than twice as many.
    pub(crate) fn run_pages(&self, order: Order) -> usize {
        self.runs.pages_of(order)
    }

    /// The length of the free run that starts at this page; a hint without the lock.
    pub(crate) fn run_length(&self, pfn: Pfn) -> Option<usize> {
        self.run_at(pfn).map(|run| run.len)
    }

    /// Pages of a zone under management.
    pub(crate) fn zone_pages(&self, zone: Zone) -> usize {
        self.lists(zone).total_pages.load(Ordering::Relaxed)
    }

    /// Pages under management.
    pub(crate) fn total_pages(&self) -> usize {
        Zone::ALL.iter().map(|zone| self.zone_pages(*zone)).sum()
    }

    /// Where the section lies and how full it is.
    pub(crate) fn summary(&self) -> SectionSummary {
        SectionSummary {
            start: self.start(),
            size_bytes: self.pages << Self::PAGE_SHIFT,
            total_pages: self.total_pages(),
            free_pages: Zone::ALL.iter().map(|zone| self.free_pages(*zone)).sum(),
        }
    }

    #[inline]
    fn lists(&self, zone: Zone) -> &ZoneLists {
        &self.zones[zone.index()]
    }

    /// The page with this index, which the section has.
    #[inline]
    fn nth(index: usize) -> Pfn {
        match Pfn::from_index(index) {
            Some(pfn) => pfn,
            None => unreachable!("a section's page numbers end below 2^32 - 1"),
        }
    }
}
