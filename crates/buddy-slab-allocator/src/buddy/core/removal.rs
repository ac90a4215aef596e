//! Sections go, in two steps.
//!
//! `isolate` succeeds only while every page of the section is free on its lists (the caller has
//! drained what CPUs keep), and then takes the section out of everything that leads to it: its
//! node's table, so that nothing is allocated from it, the directory and the order of adding.
//! From then on no call *begins* to see it; a call that began before may still stand on its
//! header. So the caller waits until every CPU has left the allocator once (a grace period), and
//! then promises that with the unsafe `finish_removal`, which gives the region back.
//!
//! The first section, and sections that hold the core's own tables, stay for ever.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::super::section::Section;
use super::region::{id_of, managed};
use super::{PageCore, Wait};
use crate::sync::atomic::Ordering;
use crate::sync::{Guard, Rank, RawLock};
use crate::units::Zone;

/// Why a section cannot be withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RemovalError {
    /// No section manages the address.
    NotFound,
    /// Some of its pages are in use or kept by a CPU.
    Busy,
    /// It is the first, or holds the allocator's own tables.
    Pinned,
}

/// A withdrawn section. Dropping it puts the section back.
pub(crate) struct RemovalToken<'a, const PAGE_SIZE: usize, L: RawLock> {
    core: &'a PageCore<PAGE_SIZE, L>,
    section: NonNull<Section<PAGE_SIZE>>,
}

// SAFETY: the token is the only owner of the withdrawn section, which is as good on any thread.
unsafe impl<const PAGE_SIZE: usize, L: RawLock> Send for RemovalToken<'_, PAGE_SIZE, L> {}

impl<const PAGE_SIZE: usize, L: RawLock> fmt::Debug for RemovalToken<'_, PAGE_SIZE, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemovalToken({:p})", self.section)
    }
}

impl<const PAGE_SIZE: usize, L: RawLock> Drop for RemovalToken<'_, PAGE_SIZE, L> {
    fn drop(&mut self) {
        let _guard = Guard::lock(&self.core.topology_lock, Rank::Topology);
        // SAFETY: the topology lock is held; the token's section is on the list.
        unsafe {
            self.core.forget_isolated(self.section);
            self.core.make_visible(self.section);
        }
    }
}

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// Withdraws the section that manages `addr`.
    ///
    /// Complexity: O(sections). Locks: topology, node.
    ///
    /// # Errors
    /// See [`RemovalError`]; nothing has changed then.
    pub(crate) fn isolate(
        &self,
        addr: usize,
    ) -> Result<RemovalToken<'_, PAGE_SIZE, L>, RemovalError> {
        self.drain_deferred(Wait::Spin);
        let _guard = Guard::lock(&self.topology_lock, Rank::Topology);
        let section = self.lookup_section(addr).ok_or(RemovalError::NotFound)?;
        let links = section.links();
        let is_first = self.first_section().is_some_and(|first| core::ptr::eq(first, section));
        if is_first || links.internal_pages.load(Ordering::Relaxed) != 0 {
            return Err(RemovalError::Pinned);
        }
        {
            let node = self.node_of(section);
            let _node_guard = self.lock(&node.lock, Wait::Spin);
            let free: usize = Zone::ALL.iter().map(|&zone| section.free_pages(zone)).sum();
            if free != section.total_pages() {
                return Err(RemovalError::Busy);
            }
            // SAFETY: the node's lock is held.
            let table = unsafe { node.table() };
            table.remove(links.slot.load(Ordering::Relaxed), |moved, slot| {
                // SAFETY: sections in the table are alive.
                unsafe { moved.as_ref() }.links().slot.store(slot, Ordering::Relaxed);
            });
            links.slot.store(usize::MAX, Ordering::Relaxed);
            links.isolated.store(true, Ordering::Relaxed);
            for zone in Zone::ALL {
                node.account(zone, section.free_pages(zone), 0);
            }
        }
        self.total.fetch_sub(managed(section), Ordering::Relaxed);
        let before = self.sections().take_while(|other| id_of(other) < id_of(section)).last();
        let next = links.next_added.load(Ordering::Relaxed);
        if let Some(before) = before {
            before.links().next_added.store(next, Ordering::Release);
        }
        self.choose_largest();
        let section = NonNull::from(section);
        // SAFETY: the topology lock is held: the only writer.
        let was_there = unsafe { self.directory.remove(section) };
        debug_assert!(was_there, "P4: a section that is found is in the directory");
        // SAFETY: the topology lock is held.
        let topology = unsafe { self.topology() };
        links.next_isolated.store(topology.isolated, Ordering::Relaxed);
        topology.isolated = section.as_ptr();
        topology.isolated_count += 1;
        Ok(RemovalToken { core: self, section })
    }

    /// Completes a removal: the region (address and bytes) is the caller's again.
    ///
    /// # Safety
    /// - Since `isolate` returned, every CPU has been outside the allocator at least once: no
    ///   call that began before is still running, in any context.
    /// - The token is this core's.
    pub(crate) unsafe fn finish_removal(
        &self,
        token: RemovalToken<'_, PAGE_SIZE, L>,
    ) -> (usize, usize) {
        let token = ManuallyDrop::new(token);
        let _guard = Guard::lock(&self.topology_lock, Rank::Topology);
        // SAFETY: the topology lock is held; the token's section is on the list.
        unsafe { self.forget_isolated(token.section) };
        // SAFETY: a built section, which the token owns.
        unsafe { token.section.as_ref() }.region()
    }

    /// Takes a section off the list of withdrawn ones.
    ///
    /// # Safety
    /// - The topology lock is held.
    unsafe fn forget_isolated(&self, section: NonNull<Section<PAGE_SIZE>>) {
        // SAFETY: the topology lock is held (condition).
        let topology = unsafe { self.topology() };
        // SAFETY: withdrawn sections are alive.
        let next_of = |s: *mut Section<PAGE_SIZE>| unsafe { &(*s).links().next_isolated };
        let next = next_of(section.as_ptr()).load(Ordering::Relaxed);
        let mut current = topology.isolated;
        if current == section.as_ptr() {
            topology.isolated = next;
            topology.isolated_count -= 1;
            return;
        }
        while !current.is_null() {
            let link = next_of(current);
            current = link.load(Ordering::Relaxed);
            if current == section.as_ptr() {
                link.store(next, Ordering::Relaxed);
                topology.isolated_count -= 1;
                return;
            }
        }
    }
}
