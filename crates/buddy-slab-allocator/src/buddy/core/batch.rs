//! Blocks of one order in batches, between the sections and a CPU's page lists: one hold of a
//! node's lock and one update of its table for all that one section gives or takes.

use core::ptr::NonNull;

use super::super::node::{Node, rank};
use super::super::section::{KeptPage, Kind, Section};
use super::{PageCore, PageRef, Wait};
use crate::sync::{Guard, RawLock};
use crate::units::{NodeId, Order, Zone};

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// The block that begins at `start`, if no more than a look at the largest section is needed;
    /// `None` says nothing.
    ///
    /// # Safety
    /// - A block begins there, and is the caller's.
    #[inline(always)]
    pub(crate) unsafe fn own_at(&self, start: NonNull<u8>) -> Option<KeptPage> {
        let reach = self.reach();
        let pfn = reach.pfn_of(start.addr().get())?;
        // INVARIANT: the condition.
        Some(KeptPage::new(start, reach.meta_of(pfn)))
    }

    /// Fills `out` with blocks of one order, naturally aligned, under one lock hold, for a CPU's
    /// page list: they are [`Kind::Cached`]. They come from the highest zone of the nearest node
    /// that has any. Returns how many there are: they stand at the end of `out`, the first taken
    /// (of a larger block the lowest) last.
    ///
    /// Complexity: O(blocks + `MAX_ORDER`) for each section that gives some. Locks: one node's at
    /// a time.
    pub(crate) fn alloc_batch(
        &self,
        order: Order,
        node: NodeId,
        wait: Wait,
        use_reserve: bool,
        out: &mut [KeptPage],
    ) -> usize {
        if !self.deferred.is_empty() {
            self.drain_deferred(wait);
        }
        for zone in Zone::FALLBACK {
            for node in self.by_distance(node) {
                if !node.admits(zone, order.pages(), use_reserve) {
                    continue;
                }
                let Some(_guard) = self.lock(&node.lock, wait) else { continue };
                // Once more: the counter moved while we waited.
                let admitted = node.spare(zone, use_reserve) >> order.get();
                let max = out.len().min(admitted);
                let from = out.len() - max;
                // SAFETY: the node's lock is held.
                let got = unsafe { Self::take_batch(node, zone, order, &mut out[from..]) };
                if got > 0 {
                    return got;
                }
            }
        }
        0
    }

    /// Fills `out` from the sections of one node and zone, as far as they have any.
    ///
    /// # Safety
    /// - The node's lock is held.
    unsafe fn take_batch(
        node: &Node<Section<PAGE_SIZE>, L>,
        zone: Zone,
        order: Order,
        out: &mut [KeptPage],
    ) -> usize {
        // SAFETY: the lock is held (condition); this is the only reference to the table.
        let table = unsafe { node.table() };
        let mut left = out.len();
        while left != 0 {
            let Some(slot) = table.first_with(zone, order, 0) else { break };
            let Some(section) = table.get(slot) else { break };
            // SAFETY: a section in the table stays while the lock is held.
            let section: &Section<PAGE_SIZE> = unsafe { section.as_ref() };
            let before = section.free_pages(zone);
            // SAFETY: the lock of the section's node is held.
            let got = unsafe { section.alloc_evenly(zone, order, Kind::Cached, &mut out[..left]) };
            left -= got;
            node.account(zone, before, section.free_pages(zone));
            table.set_rank(slot, zone, rank(section.max_free_order(zone)));
            if got == 0 {
                break;
            }
        }
        out.len() - left
    }

    /// Gives back the blocks of `count` pages that `next` yields, with one lock hold for every run
    /// of blocks of one node. A block whose lock is not to be had goes on the deferred list.
    ///
    /// `next` runs with the lock held: it must do no more than hand over what it has.
    ///
    /// # Safety
    /// - Each is a block of exactly `count` pages which the caller owns, of which nobody uses the
    ///   memory, and is yielded once.
    pub(crate) unsafe fn free_counted<'a>(
        &'a self,
        count: usize,
        mut wait: Wait,
        mut next: impl FnMut() -> Option<PageRef<'a, PAGE_SIZE>>,
    ) {
        let mut held: Option<(Guard<'_, L>, &Node<Section<PAGE_SIZE>, L>)> = None;
        while let Some(page) = next() {
            let section = page.section();
            let node = self.node_of(section);
            if !held.as_ref().is_some_and(|(_, locked)| core::ptr::eq(*locked, node)) {
                // Give the old lock back before the next is taken: never two of a rank.
                drop(held.take());
                held = self.lock(&node.lock, wait).map(|guard| (guard, node));
            }
            if held.is_some() {
                // SAFETY: the lock is held; this is the only reference to the table. A section
                // with an allocated block is in it; the block is owned.
                unsafe {
                    let table = node.table();
                    Self::edit(node, table, section, || section.free(page.pfn(), count));
                }
            } else {
                // Patience ran out once: that is enough for all.
                wait = Wait::Try;
                // SAFETY: the block is owned (condition).
                unsafe { self.push_deferred(page, count) };
            }
        }
    }

    /// Gives back blocks of one order, with one lock hold for every run of blocks of one section.
    /// A block whose lock is not to be had goes on the deferred list.
    ///
    /// # Safety
    /// - Each is a naturally aligned block of this order which the caller owns, of which nobody uses
    ///   the memory, and which is not used again.
    pub(crate) unsafe fn free_batch(&self, mut blocks: &[KeptPage], order: Order, mut wait: Wait) {
        let mut held: Option<(Guard<'_, L>, &Node<Section<PAGE_SIZE>, L>)> = None;
        while let Some(first) = blocks.first() {
            let Some(section) = self.lookup_section(first.addr()) else {
                debug_assert!(false, "P8: the section of an owned block stays");
                return;
            };
            let node = self.node_of(section);
            if !held.as_ref().is_some_and(|(_, locked)| core::ptr::eq(*locked, node)) {
                // Give the old lock back before the next is taken: never two of a rank.
                drop(held.take());
                held = self.lock(&node.lock, wait).map(|guard| (guard, node));
            }
            if held.is_some() {
                // SAFETY: the lock is held; this is the only reference to the table. A section
                // with an allocated block is in it; the blocks are owned.
                unsafe {
                    let table = node.table();
                    Self::edit(node, table, section, || {
                        loop {
                            let freed = section.free_evenly(order, blocks);
                            if freed == 0 {
                                break;
                            }
                            blocks = &blocks[freed..];
                        }
                    });
                }
            } else {
                // Patience ran out once: that is enough for all.
                wait = Wait::Try;
                while let Some((block, rest)) = blocks.split_first()
                    && let Some(pfn) = section.pfn_of(block.addr())
                {
                    blocks = rest;
                    // SAFETY: the block is owned (condition).
                    unsafe { self.push_deferred(PageRef::new(section, pfn), order.pages()) };
                }
            }
        }
    }
}
