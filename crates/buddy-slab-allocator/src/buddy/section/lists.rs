//! The free lists of one zone in one section, and their counters.

use core::cell::UnsafeCell;

use super::head::HeadWord;
use super::{Reach, Section};
use crate::buddy::page_meta::{
    PFN_NONE, PageMeta, free_list_pop, free_list_push, free_list_remove,
};
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::units::{MAX_ORDER, Order, Pfn, Zone};

/// Free lists by order.
///
/// # Invariants
/// - Bit `k` of `nonempty` is set if and only if list `k` is not empty.
/// - `counts[k]` is the length of list `k`.
/// - `free_pages` is the sum of `counts[k] << k`, once an operation is over.
pub(super) struct ZoneLists {
    heads: UnsafeCell<[u32; MAX_ORDER + 1]>,
    nonempty: AtomicU32,
    counts: [AtomicU32; MAX_ORDER + 1],
    pub(super) free_pages: AtomicUsize,
    /// Pages under management.
    pub(super) total_pages: AtomicUsize,
}

/// Adds under the lock: one writer, so no read-modify-write is needed.
#[inline]
pub(super) fn add(counter: &AtomicUsize, amount: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// Subtracts under the lock.
#[inline]
pub(super) fn sub(counter: &AtomicUsize, amount: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_sub(amount), Ordering::Relaxed);
}

impl ZoneLists {
    pub(super) fn new() -> Self {
        Self {
            heads: UnsafeCell::new([PFN_NONE; MAX_ORDER + 1]),
            nonempty: AtomicU32::new(0),
            counts: core::array::from_fn(|_| AtomicU32::new(0)),
            free_pages: AtomicUsize::new(0),
            total_pages: AtomicUsize::new(0),
        }
    }

    /// Bit `k` is set if a block of order `k` is free.
    #[inline]
    pub(super) fn mask(&self) -> u32 {
        self.nonempty.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn max_order(&self) -> Option<Order> {
        Order::new(self.mask().checked_ilog2()? as u8)
    }

    /// The smallest order with a free block that is at least `order`.
    #[inline]
    pub(super) fn smallest_from(&self, order: Order) -> Option<Order> {
        let fitting = self.mask() & (u32::MAX << order.get());
        if fitting == 0 { None } else { Order::new(fitting.trailing_zeros() as u8) }
    }

    pub(super) fn blocks(&self, order: Order) -> usize {
        self.counts[order.index()].load(Ordering::Relaxed) as usize
    }

    /// The first block of a list.
    ///
    /// # Safety
    /// - Lock held.
    #[inline]
    pub(super) unsafe fn first(&self, order: Order) -> Option<Pfn> {
        // SAFETY: the lock's holder is the only one who touches the heads.
        Pfn::new(unsafe { (*self.heads.get())[order.index()] })
    }

    #[inline]
    fn count(&self, order: Order, change: u32) {
        let count = &self.counts[order.index()];
        count.store(count.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
    }

    /// Keeps `nonempty` right after a block left the list of `order`.
    #[inline]
    fn left(&self, order: Order, heads: &[u32; MAX_ORDER + 1]) {
        self.count(order, u32::MAX);
        if heads[order.index()] == PFN_NONE {
            self.nonempty.store(self.mask() & !(1 << order.get()), Ordering::Relaxed);
        }
    }

    /// # Safety
    /// - Lock held; `metas` is the section's; `pfn` has metadata and is on no list.
    #[inline]
    unsafe fn push(&self, metas: *mut PageMeta, pfn: Pfn, order: Order) {
        // SAFETY: the lock's holder is the only one who touches the heads.
        let heads = unsafe { &mut *self.heads.get() };
        if heads[order.index()] == PFN_NONE {
            self.nonempty.store(self.mask() | 1 << order.get(), Ordering::Relaxed);
        }
        // SAFETY: passed on.
        unsafe { free_list_push(metas, heads, pfn.get(), order.index()) };
        self.count(order, 1);
    }

    /// # Safety
    /// - Lock held; `metas` is the section's.
    #[inline]
    unsafe fn pop(&self, metas: *mut PageMeta, order: Order) -> Option<Pfn> {
        // SAFETY: the lock's holder is the only one who touches the heads.
        let heads = unsafe { &mut *self.heads.get() };
        // SAFETY: pages on the lists have metadata.
        let pfn = Pfn::new(unsafe { free_list_pop(metas, heads, order.index()) })?;
        self.left(order, heads);
        Some(pfn)
    }

    /// # Safety
    /// - Lock held; `metas` is the section's; `pfn` is on the list of `order`.
    #[inline]
    unsafe fn remove(&self, metas: *mut PageMeta, pfn: Pfn, order: Order) {
        // SAFETY: the lock's holder is the only one who touches the heads.
        let heads = unsafe { &mut *self.heads.get() };
        // SAFETY: pages on the lists have metadata; this one is on this list.
        unsafe { free_list_remove(metas, heads, pfn.get(), order.index()) };
        self.left(order, heads);
    }
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Takes the first block off a list. Counters of pages are the caller's.
    ///
    /// # Safety
    /// - Lock held.
    #[inline]
    pub(super) unsafe fn pop_block(&self, zone: Zone, order: Order) -> Option<Pfn> {
        // SAFETY: passed on.
        unsafe { self.lists(zone).pop(self.metas.as_ptr(), order) }
    }

    /// Takes a block off its list. Counters of pages are the caller's.
    ///
    /// # Safety
    /// - Lock held; the block is on that list.
    /// - `reach` is this section's, or a copy of it.
    #[inline]
    pub(super) unsafe fn unlink_block(
        &self,
        reach: &Reach<PAGE_SIZE>,
        pfn: Pfn,
        order: Order,
        zone: Zone,
    ) {
        // SAFETY: passed on.
        unsafe { self.lists(zone).remove(reach.metas.as_ptr(), pfn, order) }
    }

    /// Makes a free block whose head page has metadata already, unmerged. Counters of pages are
    /// the caller's.
    ///
    /// # Safety
    /// - Lock held; the block is aligned, in one zone, on no list and in nobody's hands; the
    ///   state byte vouches for its first page.
    /// - `reach` is this section's, or a copy of it.
    #[inline]
    pub(super) unsafe fn link_block(
        &self,
        reach: &Reach<PAGE_SIZE>,
        pfn: Pfn,
        order: Order,
        zone: Zone,
        clean: bool,
    ) {
        // SAFETY: passed on; the metadata exists.
        unsafe {
            reach.page_unchecked(pfn).set_head(HeadWord::free(order, zone, clean));
            self.lists(zone).push(reach.metas.as_ptr(), pfn, order);
        }
    }

    /// Makes a free block, unmerged, and its head's metadata. Counters of pages are the caller's.
    ///
    /// # Safety
    /// - Lock held; the block is aligned, in one zone, on no list and in nobody's hands.
    pub(super) unsafe fn make_block(&self, pfn: Pfn, order: Order, zone: Zone, clean: bool) {
        // SAFETY: passed on; `write_head` makes the metadata exist.
        unsafe {
            self.write_head(pfn, order.pages(), HeadWord::free(order, zone, clean), PFN_NONE);
            self.lists(zone).push(self.metas.as_ptr(), pfn, order);
        }
    }

    /// Makes the largest free blocks that `[from, to)` consists of, unmerged, the lowest at the
    /// front of their lists. Counters of pages are the caller's.
    ///
    /// # Safety
    /// - Lock held; the pages are in one zone, on no list and in nobody's hands.
    pub(super) unsafe fn make_blocks(&self, from: usize, to: usize, zone: Zone, clean: bool) {
        let mut end = to;
        // The largest block that ends at `end` is as aligned as `end` is.
        while let Some(order) = Order::fitting(self.start_page + end, end - from) {
            end -= order.pages();
            // SAFETY: part of the range.
            unsafe { self.make_block(Self::nth(end), order, zone, clean) }
        }
    }
}
