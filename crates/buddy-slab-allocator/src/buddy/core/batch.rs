//! Blocks of one order in batches, between the sections and a CPU's page lists: one hold of a
//! node's lock and one update of its table for all that one section gives or takes.

use core::ptr::NonNull;

use super::super::node::{Node, rank};
use super::super::page_meta::PageWords;
use super::super::section::{HeadWord, Kind, Page, Section};
use super::{PageCore, PageRef, Wait};
use crate::sync::{Guard, RawLock};
use crate::units::{NodeId, Order, Pfn, Zone};

/// How many blocks go back to their section together.
const AT_ONCE: usize = if usize::BITS >= 64 { 64 } else { 8 };

/// A block that somebody owns: where it begins, and where the metadata of its first page is. As
/// much as it takes to hand it out, without a look at its section.
///
/// # Invariants
/// - `start` is the first byte of a block that whoever has this owns, and `meta` its metadata; or
///   this is [`NOTHING`](Self::NOTHING). (A section with such a block is not removed.)
#[derive(Clone, Copy)]
pub(crate) struct KeptPage {
    start: NonNull<u8>,
    meta: NonNull<PageWords>,
}

impl KeptPage {
    /// A place where a block can be kept.
    pub(crate) const NOTHING: Self = Self { start: NonNull::dangling(), meta: NonNull::dangling() };

    /// The block that `page` heads, which the caller owns.
    #[inline(always)]
    pub(crate) fn keep<const PAGE_SIZE: usize>(page: PageRef<'_, PAGE_SIZE>) -> Self {
        // INVARIANT: the caller owns the block.
        Self { start: page.ptr(), meta: page.meta().words() }
    }

    /// Its first byte.
    #[inline(always)]
    pub(crate) fn ptr(self) -> NonNull<u8> {
        self.start
    }

    /// Its address.
    #[inline(always)]
    pub(crate) fn addr(self) -> usize {
        self.start.addr().get()
    }

    /// What its head says.
    ///
    /// # Safety
    /// - It is a block (not `NOTHING`) that the caller owns.
    #[inline(always)]
    pub(crate) unsafe fn head(self) -> HeadWord {
        // SAFETY: the condition is the same.
        unsafe { self.meta() }.head()
    }

    /// How many pages it has.
    ///
    /// # Safety
    /// - It is a block (not `NOTHING`) that the caller owns.
    #[inline(always)]
    pub(crate) unsafe fn count(self) -> usize {
        // SAFETY: the condition is the same.
        unsafe { self.meta() }.prev() as usize
    }

    /// Makes it another kind of allocated block.
    ///
    /// # Safety
    /// - It is a block (not `NOTHING`) that the caller owns; nobody can claim it meanwhile.
    /// - `kind` is not `Kind::Buddy` or `Kind::Slab`.
    #[inline(always)]
    pub(crate) unsafe fn set_kind(self, kind: Kind) {
        // SAFETY: the condition is the same.
        let meta = unsafe { self.meta() };
        meta.set_head(meta.head().with_kind(kind));
    }

    /// Makes it one that nobody uses any more, between its last owner and its next.
    ///
    /// # Safety
    /// - As for [`set_kind`](Self::set_kind).
    #[inline(always)]
    pub(crate) unsafe fn retire(self) {
        // SAFETY: the condition is the same.
        let meta = unsafe { self.meta() };
        meta.set_head(meta.head().retired());
    }

    /// # Safety
    /// - It is a block (not `NOTHING`) that the caller owns.
    #[inline(always)]
    unsafe fn meta<'a>(self) -> Page<'a> {
        // SAFETY: metadata of an owned block, whose section stays (invariant).
        Page::new(unsafe { self.meta.as_ref() })
    }
}

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// The block that begins at `start`, if no more than a look at the largest section is needed;
    /// `None` says nothing.
    ///
    /// # Safety
    /// - A block begins there, and is the caller's.
    #[inline(always)]
    pub(crate) unsafe fn own_at(&self, start: NonNull<u8>) -> Option<KeptPage> {
        let section = self.largest_section()?;
        let pfn = section.pfn_of(start.addr().get())?;
        // SAFETY: the first page of a block that is in use has metadata.
        let meta = unsafe { section.page_unchecked(pfn) }.words();
        // INVARIANT: the condition.
        Some(KeptPage { start, meta })
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
        let wanted = out.len();
        let mut places = out;
        while !places.is_empty() {
            let Some(slot) = table.first_with(zone, order, 0) else { break };
            let Some(section) = table.get(slot) else { break };
            // SAFETY: a section in the table stays while the lock is held.
            let section: &Section<PAGE_SIZE> = unsafe { section.as_ref() };
            let before = section.free_pages(zone);
            let max = places.len();
            // SAFETY: the lock of the section's node is held. `start` and `meta` are those of the
            // first of blocks that lie side by side, and lead to the others; behind the last one
            // there is still something of the region (metadata, and what follows that).
            let got = unsafe {
                section.alloc_evenly(zone, order, Kind::Cached, max, |first, blocks| {
                    let (mut start, mut meta) = (section.ptr_of(first), section.meta_of(first));
                    let left = core::mem::take(&mut places);
                    let (left, filled) = left.split_at_mut(left.len() - blocks);
                    places = left;
                    for place in filled.iter_mut().rev() {
                        // INVARIANT: just allocated.
                        *place = KeptPage { start, meta };
                        start = start.byte_add(order.pages() * PAGE_SIZE);
                        meta = meta.add(order.pages());
                    }
                })
            };
            node.account(zone, before, section.free_pages(zone));
            table.set_rank(slot, zone, rank(section.max_free_order(zone)));
            if got == 0 {
                break;
            }
        }
        wanted - places.len()
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
                        let mut pfns = [Pfn::ZERO; AT_ONCE];
                        loop {
                            let mut count = 0;
                            for (pfn, block) in pfns.iter_mut().zip(blocks) {
                                let Some(first) = section.pfn_of(block.addr()) else { break };
                                *pfn = first;
                                count += 1;
                            }
                            if count == 0 {
                                break;
                            }
                            blocks = &blocks[count..];
                            section.free_evenly(order, &mut pfns[..count]);
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
