//! Pages come back: single blocks, the deferred list; blocks grow and shrink in place.

use core::num::NonZeroUsize;

use super::super::node::Node;
use super::super::section::{Kind, Page, Section};
use super::{PageCore, PageError, PageRef, Wait};
use crate::sync::RawLock;
use crate::units::{Misuse, Pfn};

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// Gives a block of `count` pages back.
    ///
    /// Complexity: O(order). Locks: the node's.
    ///
    /// # Errors
    /// [`PageError::Busy`] if `wait` ran out: the block is still the caller's, who may try again
    /// or call [`push_deferred`](Self::push_deferred).
    ///
    /// # Safety
    /// - The caller owns the block that `page` heads (allocated or claimed it), of exactly
    ///   `count` pages, and nobody uses its memory any more.
    pub(crate) unsafe fn free(
        &self,
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
        wait: Wait,
    ) -> Result<(), PageError> {
        // SAFETY: the condition is the same.
        unsafe { self.free_block(page, count, wait) }?;
        if !self.deferred.is_empty() {
            self.drain_deferred(Wait::Try);
        }
        Ok(())
    }

    /// `free` without a look at the deferred list.
    unsafe fn free_block(
        &self,
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
        wait: Wait,
    ) -> Result<(), PageError> {
        let node = self.node_of(page.section());
        let _guard = self.lock(&node.lock, wait).ok_or(PageError::Busy)?;
        // SAFETY: the lock is held; the block is the caller's.
        unsafe { Self::free_locked(node, page, count) };
        Ok(())
    }

    /// # Safety
    /// - The lock of `node`, which is the section's, is held.
    /// - As [`free`](Self::free).
    #[inline]
    unsafe fn free_locked(
        node: &Node<Section<PAGE_SIZE>, L>,
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
    ) {
        let section = page.section();
        // SAFETY: the lock is held; this is the only reference to the table.
        let table = unsafe { node.table() };
        // SAFETY: a section with an allocated block is in its node's table; the block is owned.
        unsafe { Self::edit(node, table, section, || section.free(page.pfn(), count)) };
    }

    /// Puts a block on the deferred list, from where the next holder of a lock takes it. It
    /// counts as free at once.
    ///
    /// Never fails, never waits.
    ///
    /// # Safety
    /// - As [`free`](Self::free).
    pub(crate) unsafe fn push_deferred(&self, page: PageRef<'_, PAGE_SIZE>, count: usize) {
        // SAFETY: the block is the caller's.
        unsafe { page.set_kind(Kind::Deferred) };
        if !is_single(page) {
            // A block that a page list kept has a link where its count goes.
            page.meta().set_prev(count as u32);
        }
        let Some(token) = NonZeroUsize::new(page.addr()) else {
            debug_assert!(false, "P6: the page at address 0 is never handed out");
            return;
        };
        let link_page = link_page(page);
        self.deferred.push(token, count, |below| {
            let link = (below.map_or(0, NonZeroUsize::get) / PAGE_SIZE) as u64;
            link_page.set_prev(link as u32);
            link_page.set_next((link >> 32) as u32);
        });
    }

    /// Takes `count` pages out of the deferred blocks, for a context that can take no lock. It owns
    /// them, as if it had claimed them; what is left of their block is deferred again.
    ///
    /// Lock-free; O(blocks deferred).
    pub(crate) fn take_deferred(&self, count: usize) -> Option<PageRef<'_, PAGE_SIZE>> {
        // Only these are certain to have valid metadata for every page.
        let limit = (4usize << 20) / PAGE_SIZE;
        let mut found = None;
        let mut next = self.deferred.take_all();
        while let Some(token) = next {
            let (page, held, below) = self.taken(token)?;
            next = below;
            // SAFETY: whoever takes the chain owns its blocks: each is kept or deferred again.
            unsafe {
                if found.is_none() && held >= count && held < limit {
                    if held > count
                        && let Some(rest) = page.split_owned(count, held - count)
                    {
                        self.push_deferred(rest, held - count);
                    }
                    page.shorten_owned(count);
                    found = Some(page);
                } else {
                    self.push_deferred(page, held);
                }
            }
            self.deferred.settled(held);
        }
        found
    }

    /// A block of a taken chain: itself, its pages, and the next one.
    fn taken(
        &self,
        token: NonZeroUsize,
    ) -> Option<(PageRef<'_, PAGE_SIZE>, usize, Option<NonZeroUsize>)> {
        let Some(page) = self.lookup(token.get()) else {
            debug_assert!(false, "P7: a deferred block's section stays");
            return None;
        };
        let count = if is_single(page) { 1 } else { page.count() };
        let linked = link_page(page);
        let link = u64::from(linked.prev()) | u64::from(linked.next()) << 32;
        Some((page, count, NonZeroUsize::new((link as usize).wrapping_mul(PAGE_SIZE))))
    }

    /// Frees what was deferred, as far as `wait` lets it; returns the number of pages.
    ///
    /// Must be called with no lock held.
    pub(crate) fn drain_deferred(&self, mut wait: Wait) -> usize {
        let mut freed = 0;
        let mut next = self.deferred.take_all();
        while let Some(token) = next {
            let Some((page, count, below)) = self.taken(token) else { return freed };
            next = below;
            // SAFETY: whoever takes the chain owns its blocks.
            if unsafe { self.free_block(page, count, wait) }.is_ok() {
                freed += count;
            } else {
                // Patience ran out once: that is enough for all.
                wait = Wait::Try;
                // SAFETY: as above: still ours.
                unsafe { self.push_deferred(page, count) };
            }
            self.deferred.settled(count);
        }
        freed
    }

    /// Makes a block longer in place, by free pages behind it; by up to `spare` more than asked for
    /// if they are at hand, as its metadata says then.
    ///
    /// # Errors
    /// [`PageError::Exhausted`] if those pages are not free (or of another zone),
    /// [`PageError::Busy`], [`PageError::Invalid`].
    ///
    /// # Safety
    /// - The caller owns the block of `old_count` pages that `page` heads.
    pub(crate) unsafe fn grow(
        &self,
        page: PageRef<'_, PAGE_SIZE>,
        old_count: usize,
        new_count: usize,
        spare: usize,
        wait: Wait,
    ) -> Result<(), PageError> {
        if new_count <= old_count || new_count > 1 << crate::units::MAX_ORDER {
            return Err(PageError::Invalid);
        }
        let section = page.section();
        let node = self.node_of(section);
        let zone = page.head().zone().ok_or(PageError::NotAllocated(Misuse::NotAllocated))?;
        let _guard = self.lock(&node.lock, wait).ok_or(PageError::Busy)?;
        let Some(beyond) = node.spare(zone, false).checked_sub(new_count - old_count) else {
            return Err(PageError::Exhausted);
        };
        let spare = spare.min(beyond);
        // SAFETY: the lock is held; this is the only reference to the table.
        let table = unsafe { node.table() };
        // SAFETY: the lock is held, the section of an allocated block is in the table, and the
        // block is the caller's.
        let grown = unsafe {
            Self::edit(node, table, section, || {
                section.grow(page.pfn(), old_count, new_count, spare)
            })
        };
        if grown { Ok(()) } else { Err(PageError::Exhausted) }
    }

    /// Makes a block shorter in place; its tail is free.
    ///
    /// # Errors
    /// [`PageError::Busy`]; [`PageError::Invalid`] unless `0 < new_count < old_count`.
    ///
    /// # Safety
    /// - The caller owns the block of `old_count` pages that `page` heads, and nobody uses the
    ///   pages from `new_count` on.
    pub(crate) unsafe fn shrink(
        &self,
        page: PageRef<'_, PAGE_SIZE>,
        old_count: usize,
        new_count: usize,
        wait: Wait,
    ) -> Result<(), PageError> {
        if new_count == 0 || new_count >= old_count {
            return Err(PageError::Invalid);
        }
        let section = page.section();
        // SAFETY: the node's lock is held, and the block is the caller's.
        self.edit_section(section, wait, || unsafe {
            section.shrink(page.pfn(), old_count, new_count);
        })
    }
}

/// Whether an allocated head stands for one page.
fn is_single<const PAGE_SIZE: usize>(page: PageRef<'_, PAGE_SIZE>) -> bool {
    page.head().order_byte() == 0
}

/// The metadata in whose words a deferred block's link is kept: that of its second page, which
/// means nothing while the block is allocated (and is initialised by carving before it does); of
/// a single page its own, whose count needs no word then.
fn link_page<const PAGE_SIZE: usize>(page: PageRef<'_, PAGE_SIZE>) -> Page<'_> {
    if is_single(page) {
        return page.meta();
    }
    let second = Pfn::from_index(page.pfn().index() + 1).unwrap_or(page.pfn());
    // SAFETY: the block has a second page, in the same section; only its link words are used,
    // by the owner of the block.
    unsafe { page.section().page_unchecked(second) }
}
