//! `PageCore`: the pages of all sections, shared by all CPUs.
//!
//! | file | what |
//! | --- | --- |
//! | `page` | [`PageRef`], a page that was looked up or is owned |
//! | `request` | what is asked, and what may go wrong |
//! | `alloc` | requests over zones and nodes, chosen addresses |
//! | `free` | frees, the deferred list, growing and shrinking |
//! | `batch` | blocks of one order in batches, for page lists |
//! | `claim` | a free by address becomes ownership, or a report |
//! | `region` | sections come |
//! | `removal` | sections go |
//! | `purge` | free memory is given up to whoever backs it |
//! | `freeze` | every lock at once |
//! | `counters` | what can be read without a lock |
//! | `checks` | the counting equations |
//!
//! Every function that changes a section's lists takes the lock of the section's node; the
//! table of the node is brought up to date before the lock is given back (see `edit`).

mod alloc;
mod batch;
mod checks;
mod claim;
mod counters;
mod free;
mod freeze;
mod page;
mod purge;
mod region;
mod removal;
mod request;
mod runs;
#[cfg(test)]
mod tests;

use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use super::deferred::DeferredStack;
use super::directory::Directory;
use super::node::{Node, Table, rank};
use super::section::{KeptPage, Page, PageMark, Reach, Section};
use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use crate::sync::{Guard, Rank, RawLock};
use crate::units::{NodeId, Zone};

pub(super) use self::claim::SlabMark;
pub(crate) use self::page::{OwnedPage, PageRef};
pub(crate) use self::removal::{RemovalError, RemovalToken};
pub(crate) use self::request::{PageError, PageRequest, Wait};
pub(crate) use self::runs::RunKind;
use super::node::Watermarks;

/// NUMA nodes that a core distinguishes.
pub(crate) const MAX_NODES: usize = if usize::BITS >= 64 { 8 } else { 2 };

/// All pages of all sections.
///
/// # Invariants
/// - P1: a section is in its node's table exactly if it is in the directory, or withdrawn and
///   about to be in neither.
/// - P2: the counter of a zone's free pages is the sum over the node's sections.
/// - P3: `total` is the sum of the sections' managed pages without their internal ones.
/// - P4: what is linked from `first` ascends by id, and is what the directory holds.
/// - P9: `largest` is that of no section, as long as there is none; else it was made from a pointer to
///   all of a section that is, or was until just now, in the core.
pub(crate) struct PageCore<const PAGE_SIZE: usize, L: RawLock> {
    /// The first section ever added, which is never removed.
    first: AtomicPtr<Section<PAGE_SIZE>>,
    /// The largest section, as a pointer to its reach (or to that of none): the fast path of a
    /// lookup. (A kernel's first piece of memory is often a small one.)
    largest: AtomicPtr<Reach<PAGE_SIZE>>,
    directory: Directory<Section<PAGE_SIZE>>,
    nodes: [Node<Section<PAGE_SIZE>, L>; MAX_NODES],
    deferred: DeferredStack,
    /// Managed pages, without internal ones.
    total: AtomicUsize,
    /// Pages that hold tables.
    internal: AtomicUsize,
    /// Pages of metadata slots; they count as allocated.
    pub(in crate::buddy) slot_pages: AtomicUsize,
    topology_lock: L,
    topology: UnsafeCell<region::Topology<PAGE_SIZE>>,
}

// SAFETY: everything mutable is an atomic or behind one of the locks; the raw pointers lead to
// regions that were given up to the core for as long as they are in it.
unsafe impl<const PAGE_SIZE: usize, L: RawLock> Send for PageCore<PAGE_SIZE, L> {}
// SAFETY: as above. (With `NoLock`, its constructor's condition stands in for the locks.)
unsafe impl<const PAGE_SIZE: usize, L: RawLock> Sync for PageCore<PAGE_SIZE, L> {}

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// A core without any section.
    pub(crate) const fn new() -> Self {
        Self {
            first: AtomicPtr::new(ptr::null_mut()),
            largest: AtomicPtr::new(ptr::from_ref(Reach::NOTHING).cast_mut()),
            directory: Directory::new(),
            nodes: [const { Node::new() }; MAX_NODES],
            deferred: DeferredStack::new(),
            total: AtomicUsize::new(0),
            internal: AtomicUsize::new(0),
            slot_pages: AtomicUsize::new(0),
            topology_lock: L::NEW,
            topology: UnsafeCell::new(region::Topology::new()),
        }
    }

    /// Whether no region was added yet.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.load(Ordering::Relaxed).is_null()
    }

    /// The section added first.
    #[inline]
    fn first_section(&self) -> Option<&Section<PAGE_SIZE>> {
        // SAFETY: null, or the first section, initialised before the release store that this
        // acquire pairs with, and never removed.
        unsafe { self.first.load(Ordering::Acquire).as_ref() }
    }

    /// The reach of the largest section: of none if there is none.
    #[inline(always)]
    fn reach(&self) -> &Reach<PAGE_SIZE> {
        // SAFETY: that of no section, or the first field of one that was initialised before the
        // release store that this acquire pairs with; one that is withdrawn meanwhile stays until
        // no caller is inside the core (condition of `finish_removal`).
        unsafe { &*self.largest.load(Ordering::Acquire) }
    }

    /// The page that contains `addr`, and its metadata, if the largest section has it and all
    /// metadata around it was written.
    #[inline(always)]
    fn carved_page(&self, addr: usize) -> Option<(PageRef<'_, PAGE_SIZE>, Page<'_>)> {
        let largest = self.largest.load(Ordering::Acquire);
        // SAFETY: as in `reach`.
        let (pfn, page) = unsafe { &*largest }.carved_page(addr)?;
        // SAFETY: that of no section has no page; so this is a section's first field, made from a
        // pointer to all of that.
        Some((PageRef::new(unsafe { &*largest.cast::<Section<PAGE_SIZE>>() }, pfn), page))
    }

    /// The largest section, if `addr` lies in it.
    #[inline(always)]
    fn largest_with(&self, addr: usize) -> Option<&Section<PAGE_SIZE>> {
        let largest = self.largest.load(Ordering::Acquire);
        // SAFETY: as in `reach`; no address lies in no section.
        unsafe { (*largest).contains(addr).then(|| &*largest.cast::<Section<PAGE_SIZE>>()) }
    }

    /// Looks for the largest section anew. For whoever adds or withdraws one, under the topology
    /// lock. O(sections).
    fn choose_largest(&self) {
        let largest = self.sections().max_by_key(|section| section.total_pages());
        let largest = match largest {
            // (A pointer to the section, not to the field: see `carved_page`.)
            Some(section) => ptr::from_ref(section).cast::<Reach<PAGE_SIZE>>(),
            None => ptr::from_ref(Reach::NOTHING),
        };
        self.largest.store(largest.cast_mut(), Ordering::Release);
    }

    /// The section that manages `addr`. Lock-free, at most three dependent loads.
    #[inline]
    pub(crate) fn lookup_section(&self, addr: usize) -> Option<&Section<PAGE_SIZE>> {
        if let Some(largest) = self.largest_with(addr) {
            return Some(largest);
        }
        // SAFETY: what the directory holds is an initialised section; one that is withdrawn
        // meanwhile stays until no caller is inside the core (condition of `finish_removal`).
        let holds = |candidate: NonNull<Section<PAGE_SIZE>>| unsafe {
            Some(candidate.as_ref()).filter(|section| section.contains(addr))
        };
        match self.directory.candidate(addr).and_then(holds) {
            Some(section) => Some(section),
            None => self.directory.candidate_below(addr).and_then(holds),
        }
    }

    /// [`slab_at`](Self::slab_at) where no more than a look at the largest section is needed;
    /// `None` says nothing.
    #[inline(always)]
    pub(crate) fn slab_at_fast(&self, addr: usize) -> Option<PageMark> {
        self.reach().slab_at(addr)
    }

    /// The mark of the slab that holds `addr`, by the metadata of its page. Lock-free.
    #[inline]
    pub(crate) fn slab_at(&self, addr: usize) -> Option<PageMark> {
        self.slab_at_fast(addr).or_else(|| self.slab_at_elsewhere(addr))
    }

    #[inline(never)]
    fn slab_at_elsewhere(&self, addr: usize) -> Option<PageMark> {
        self.lookup(addr)?.slab_mark()
    }

    /// The page that contains `addr`, if its metadata is valid: not for an address inside a
    /// block that was never carved. Lock-free.
    #[inline(always)]
    pub(crate) fn lookup(&self, addr: usize) -> Option<PageRef<'_, PAGE_SIZE>> {
        match self.largest_with(addr) {
            Some(largest) => PageRef::at(largest, addr),
            None => self.lookup_elsewhere(addr),
        }
    }

    /// The first page of a block.
    ///
    /// `Some` for every block that the caller owns.
    #[inline]
    pub(crate) fn page_of(&self, block: KeptPage) -> Option<PageRef<'_, PAGE_SIZE>> {
        let page = self.lookup(block.addr());
        debug_assert!(page.is_some(), "P8: the section of an owned block stays");
        page
    }

    #[inline(never)]
    fn lookup_elsewhere(&self, addr: usize) -> Option<PageRef<'_, PAGE_SIZE>> {
        PageRef::at(self.lookup_section(addr)?, addr)
    }

    #[inline]
    pub(super) fn node_of(&self, section: &Section<PAGE_SIZE>) -> &Node<Section<PAGE_SIZE>, L> {
        self.node(section.node())
    }

    /// The node of that number; numbers beyond the last wrap, since a preference is no demand.
    #[inline]
    fn node(&self, id: NodeId) -> &Node<Section<PAGE_SIZE>, L> {
        &self.nodes[id.index() & (MAX_NODES - 1)]
    }

    #[inline]
    fn lock<'a>(&self, lock: &'a L, wait: Wait) -> Option<Guard<'a, L>> {
        match wait {
            Wait::Spin => Some(Guard::lock(lock, Rank::Node)),
            Wait::Bounded(attempts) => Guard::lock_bounded(lock, Rank::Node, attempts),
            Wait::Try => Guard::try_lock(lock, Rank::Node),
        }
    }

    /// Runs `operation` on a section under its node's lock (see [`edit`](Self::edit)).
    pub(in crate::buddy) fn edit_section<R>(
        &self,
        section: &Section<PAGE_SIZE>,
        wait: Wait,
        operation: impl FnOnce() -> R,
    ) -> Result<R, PageError> {
        let node = self.node_of(section);
        let _guard = self.lock(&node.lock, wait).ok_or(PageError::Busy)?;
        if section.links().isolated.load(Ordering::Relaxed) {
            return Err(PageError::NotFound);
        }
        // SAFETY: the lock is held; this is the only reference to the table.
        let table = unsafe { node.table() };
        // SAFETY: the lock is held; a section that is not withdrawn is in the table.
        Ok(unsafe { Self::edit(node, table, section, operation) })
    }

    /// Runs `operation` on a section's lists and brings its node's table and counters up to
    /// date.
    ///
    /// # Safety
    /// - The node's lock is held, `table` is the node's, and `section` is in it.
    #[inline]
    unsafe fn edit<R>(
        node: &Node<Section<PAGE_SIZE>, L>,
        table: &mut Table<Section<PAGE_SIZE>>,
        section: &Section<PAGE_SIZE>,
        operation: impl FnOnce() -> R,
    ) -> R {
        let before = Zone::ALL.map(|zone| section.free_pages(zone));
        let result = operation();
        let slot = section.links().slot.load(Ordering::Relaxed);
        for zone in Zone::ALL {
            if before[zone.index()] == 0 && section.zone_pages(zone) == 0 {
                continue;
            }
            node.account(zone, before[zone.index()], section.free_pages(zone));
            table.set_rank(slot, zone, rank(section.max_free_order(zone)));
        }
        result
    }
}

const _: () = assert!(MAX_NODES.is_power_of_two());
