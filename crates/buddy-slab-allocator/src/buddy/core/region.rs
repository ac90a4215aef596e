//! Sections come: overlap test, construction with no lock held, publication.
//!
//! # Protocol
//! A region is announced under the topology lock, after a test against every section and every
//! other announced region. Then, with no lock held, the section is built inside it (this asks the
//! user's `virt_to_phys`). Then, under the topology lock again, the tables grow if they must and
//! the section becomes visible: first in the directory, so that an address can be looked up
//! before it can be handed out, then in its node, then in the order of adding. A failure at any
//! point withdraws the announcement; nothing else has happened.

use core::ptr::{self, NonNull};

use super::super::node::rank;
use super::super::section::{RegionSpec, Section};
use super::{MAX_NODES, PageCore, Wait};
use crate::error::AllocError;
use crate::sync::atomic::Ordering;
use crate::sync::{Guard, Rank, RawLock};
use crate::units::Zone;

/// What the topology lock guards besides publication itself.
pub(super) struct Topology<const PAGE_SIZE: usize> {
    /// Regions that are being built, on the stacks of their builders.
    announced: *mut Announced,
    /// Withdrawn sections whose removal is neither finished nor cancelled.
    pub(super) isolated: *mut Section<PAGE_SIZE>,
    pub(super) isolated_count: usize,
    next_id: u32,
}

impl<const PAGE_SIZE: usize> Topology<PAGE_SIZE> {
    pub(super) const fn new() -> Self {
        Self {
            announced: ptr::null_mut(),
            isolated: ptr::null_mut(),
            isolated_count: 0,
            next_id: 0,
        }
    }
}

/// A region that is being built, so that a second builder sees it.
struct Announced {
    first_byte: usize,
    last_byte: usize,
    next: *mut Announced,
}

/// Withdraws an announcement, whichever way its builder leaves.
struct Withdraw<'a, const PAGE_SIZE: usize, L: RawLock> {
    core: &'a PageCore<PAGE_SIZE, L>,
    announced: *mut Announced,
}

impl<const PAGE_SIZE: usize, L: RawLock> Drop for Withdraw<'_, PAGE_SIZE, L> {
    fn drop(&mut self) {
        let _guard = Guard::lock(&self.core.topology_lock, Rank::Topology);
        // SAFETY: the topology lock is held.
        let topology = unsafe { self.core.topology() };
        let mut link = &raw mut topology.announced;
        // SAFETY: the list's nodes are alive until their builders, whom we may be, took them out
        // under this lock.
        unsafe {
            while !(*link).is_null() {
                if *link == self.announced {
                    *link = (*self.announced).next;
                    return;
                }
                link = &raw mut (**link).next;
            }
        }
    }
}

/// First and last byte of a region.
fn bounds(base: usize, size_bytes: usize) -> Option<(usize, usize)> {
    Some((base, base.checked_add(size_bytes.checked_sub(1)?)?))
}

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// # Safety
    /// - The caller holds the topology lock while it uses the reference, and has no other.
    #[expect(clippy::mut_from_ref, reason = "the topology lock makes the reference unique")]
    pub(super) unsafe fn topology(&self) -> &mut Topology<PAGE_SIZE> {
        // SAFETY: unique while the lock is held (condition).
        unsafe { &mut *self.topology.get() }
    }

    /// Adds a region. Returns its section and the `extra_bytes` that the specification asked for.
    ///
    /// Concurrent calls are safe. Complexity: O(sections) plus the construction, which touches
    /// metadata once per 4 MiB. Locks: topology, node; none while `virt_to_phys` runs.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] for a region too small, wrapping, or of no such node;
    /// [`AllocError::MemoryOverlap`]; [`AllocError::NoMemory`] if the tables must grow and nothing
    /// serves that. After an error the region is the caller's as before (its content is not).
    ///
    /// # Safety
    /// - The region is writable, used by nobody else, and stays so until its section is removed.
    /// - The reserved ranges (address, bytes) are not accessed by the allocator.
    pub(crate) unsafe fn add_region<I>(
        &self,
        spec: &RegionSpec<'_>,
        reserved: I,
    ) -> Result<(NonNull<Section<PAGE_SIZE>>, NonNull<u8>), AllocError>
    where
        I: Iterator<Item = (usize, usize)> + Clone,
    {
        if spec.node.index() >= MAX_NODES {
            return Err(AllocError::InvalidParam);
        }
        let (first_byte, last_byte) =
            bounds(spec.base.addr(), spec.len).ok_or(AllocError::InvalidParam)?;
        let mut place = Announced { first_byte, last_byte, next: ptr::null_mut() };
        let announced = &raw mut place;
        {
            let _guard = Guard::lock(&self.topology_lock, Rank::Topology);
            // SAFETY: the topology lock is held.
            let topology = unsafe { self.topology() };
            if self.overlaps(topology, first_byte, last_byte) {
                return Err(AllocError::MemoryOverlap);
            }
            // SAFETY: our own place, not shared yet.
            unsafe { (*announced).next = topology.announced };
            topology.announced = announced;
        }
        let _withdraw = Withdraw { core: self, announced };
        // SAFETY: the region is the caller's to give (condition) and overlaps nothing of ours.
        let (section, extra) = unsafe { Section::<PAGE_SIZE>::create(spec, reserved) }?;
        // SAFETY: just built and not visible yet.
        unsafe { self.publish(section) }?;
        Ok((section, extra))
    }

    fn overlaps(&self, topology: &Topology<PAGE_SIZE>, first: usize, last: usize) -> bool {
        let meets = |other: Option<(usize, usize)>| {
            other
                .is_some_and(|(other_first, other_last)| first <= other_last && other_first <= last)
        };
        let of = |section: &Section<PAGE_SIZE>| {
            let (base, size_bytes) = section.region();
            bounds(base, size_bytes)
        };
        if self.sections().any(|section| meets(of(section))) {
            return true;
        }
        let mut isolated = topology.isolated;
        // SAFETY: withdrawn sections stay until they are taken off this list, under the lock
        // that the caller holds (it has the topology).
        while let Some(section) = unsafe { isolated.as_ref() } {
            if meets(of(section)) {
                return true;
            }
            isolated = section.links().next_isolated.load(Ordering::Relaxed);
        }
        let mut announced = topology.announced.cast_const();
        // SAFETY: announced places stay until their builders take them out, under the lock.
        while let Some(place) = unsafe { announced.as_ref() } {
            if meets(Some((place.first_byte, place.last_byte))) {
                return true;
            }
            announced = place.next;
        }
        false
    }

    /// Makes a section visible.
    ///
    /// # Safety
    /// - It is built, and nobody else has it.
    unsafe fn publish(&self, section: NonNull<Section<PAGE_SIZE>>) -> Result<(), AllocError> {
        let _guard = Guard::lock(&self.topology_lock, Rank::Topology);
        // SAFETY: the topology lock is held.
        let topology = unsafe { self.topology() };
        // SAFETY: built (condition); lives until it is removed.
        let fresh = unsafe { section.as_ref() };
        // Room for the withdrawn ones too: cancelling a removal must not fail.
        let spare = topology.isolated_count;
        let node = self.node_of(fresh);
        let table_bytes = {
            let _node_guard = self.lock(&node.lock, Wait::Spin);
            // SAFETY: the node's lock is held.
            unsafe { node.table() }.growth_needed(spare)
        };
        let directory_need = self.directory.growth_needed(spare);
        // Storage for both first: with only one of them the region would stay the caller's, and
        // hold a table in use. (What was taken from the first section is lost then, once.)
        // SAFETY: topology lock held, no node's; `fresh` is not published.
        let take = |size_bytes| unsafe { self.take_internal(fresh, size_bytes) };
        let take = |size_bytes| take(size_bytes).ok_or(AllocError::NoMemory);
        let directory_at = directory_need.map(|need| take(need.size_bytes)).transpose()?;
        let table_at = table_bytes.map(take).transpose()?;
        if let (Some(at), Some(need)) = (directory_at, directory_need) {
            // SAFETY: the only writer, by the topology lock; internal pages are page-aligned and
            // given up for good.
            unsafe { self.directory.grow(at, need) };
        }
        if let Some(at) = table_at {
            let _node_guard = self.lock(&node.lock, Wait::Spin);
            // SAFETY: the node's lock is held; the table changed size only under the topology
            // lock, so it still needs this much; internal pages are given up for good.
            unsafe { node.table().grow(at) };
        }
        fresh.links().id.store(topology.next_id, Ordering::Relaxed);
        topology.next_id = topology.next_id.wrapping_add(1);
        // SAFETY: topology lock held, tables have room.
        unsafe { self.make_visible(section) };
        Ok(())
    }

    /// Enters a section in the directory, its node and the order of adding.
    ///
    /// # Safety
    /// - The topology lock is held; the tables have room; the section is in none of them.
    pub(super) unsafe fn make_visible(&self, section: NonNull<Section<PAGE_SIZE>>) {
        // SAFETY: a built section.
        let fresh = unsafe { section.as_ref() };
        let links = fresh.links();
        let id = links.id.load(Ordering::Relaxed);
        // SAFETY: the only writer; there is room; a section's header lies behind its pages, and
        // regions do not overlap.
        unsafe { self.directory.insert(section) };
        self.total.fetch_add(managed(fresh), Ordering::Relaxed);
        {
            let node = self.node_of(fresh);
            let _node_guard = self.lock(&node.lock, Wait::Spin);
            // SAFETY: the node's lock is held.
            let table = unsafe { node.table() };
            let mut slot = table.len();
            while slot > 0
                && table.get(slot - 1).is_some_and(|before| {
                    // SAFETY: sections in the table are alive.
                    id_of(unsafe { before.as_ref() }) > id
                })
            {
                slot -= 1;
            }
            table.insert(slot, section, |moved, slot| {
                // SAFETY: as above.
                unsafe { moved.as_ref() }.links().slot.store(slot, Ordering::Relaxed);
            });
            links.isolated.store(false, Ordering::Relaxed);
            for zone in Zone::ALL {
                node.account(zone, 0, fresh.free_pages(zone));
                table.set_rank(slot, zone, rank(fresh.max_free_order(zone)));
            }
        }
        // The order of adding: behind the last with a smaller id.
        let mut link = &self.first;
        loop {
            let next = link.load(Ordering::Acquire);
            // SAFETY: linked sections are alive.
            match unsafe { next.as_ref() } {
                Some(section) if id_of(section) < id => link = &section.links().next_added,
                _ => {
                    links.next_added.store(next, Ordering::Relaxed);
                    link.store(section.as_ptr(), Ordering::Release);
                    return self.choose_largest();
                }
            }
        }
    }

    /// The sections in the order of adding. Lock-free.
    pub(super) fn sections(&self) -> impl Iterator<Item = &Section<PAGE_SIZE>> {
        core::iter::successors(self.first_section(), |section| {
            // SAFETY: null or a built section, by the release that linked it; a withdrawn one
            // keeps its link, and stays until no caller is inside the core.
            unsafe { section.links().next_added.load(Ordering::Acquire).as_ref() }
        })
    }
}

pub(super) fn id_of<const PAGE_SIZE: usize>(section: &Section<PAGE_SIZE>) -> u32 {
    section.links().id.load(Ordering::Relaxed)
}

/// Pages that a section can hand out.
pub(super) fn managed<const PAGE_SIZE: usize>(section: &Section<PAGE_SIZE>) -> usize {
    section.total_pages() - section.links().internal_pages.load(Ordering::Relaxed)
}
