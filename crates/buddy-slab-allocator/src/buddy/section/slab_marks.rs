//! Marks on the pages of a slab: from any address in it to its descriptor.
//!
//! The words `prev` and `next` of each of its pages hold the descriptor's distance from the
//! section's first page, so that the pointer comes back with the region's provenance.
//!
//! # Protocol
//! `prev` and `next` are written before the head word says slab (release), and read after it
//! (acquire). Whoever holds a live object of the slab sees both; anybody else acts on nothing.

use core::ptr::NonNull;

use super::Section;
use super::carve::CarveState;
use super::head::{HeadWord, Kind};
use crate::buddy::page_meta::{PFN_NONE, PageFlags};
use crate::units::{Order, Pfn};

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Marks an allocated block as the pages of the slab that `descriptor` describes.
    ///
    /// Complexity: O(count). Locks: none.
    ///
    /// # Safety
    /// - The block of exactly `count` pages at `pfn` is the caller's.
    /// - `descriptor` points into this section's region.
    pub(crate) unsafe fn mark_slab(&self, pfn: Pfn, count: usize, descriptor: NonNull<u8>) {
        let distance = descriptor.as_ptr().addr().wrapping_sub(self.heap.addr()) as u64;
        for index in pfn.index()..pfn.index() + count {
            let at = Self::nth(index);
            // SAFETY: the caller's pages. A carve block without all its metadata lies wholly
            // inside the block, and is the caller's with it.
            unsafe {
                self.ensure_carved(self.carve_of(at));
                let page = self.page_unchecked(at);
                page.set_prev(distance as u32);
                page.set_next((distance >> 32) as u32);
                let word = page.head();
                page.set_head(word.with_flags(PageFlags::Slab).with_kind(Kind::Slab));
            }
        }
    }

    /// Makes the pages of a slab an ordinary allocated block again, of kind `kind`.
    ///
    /// Complexity: O(count). Locks: none.
    ///
    /// # Safety
    /// - The pages were marked by `mark_slab` with the same count, and are the caller's.
    pub(crate) unsafe fn unmark_slab(&self, pfn: Pfn, count: usize, kind: Kind) {
        for index in pfn.index()..pfn.index() + count {
            // SAFETY: the caller's pages; marked pages have metadata.
            let page = unsafe { self.page_unchecked(Self::nth(index)) };
            let word = page.head();
            debug_assert!(word.is_slab());
            if index == pfn.index() {
                let order = Order::for_pages(count).unwrap_or(Order::MAX);
                let word = word.with_flags(PageFlags::Allocated).with_kind(kind);
                page.set_head(word.with_order(order).with_clean(false));
                page.set_prev(count as u32);
            } else {
                page.set_head(HeadWord::tail(word.zone_field()));
                page.set_prev(PFN_NONE);
            }
            page.set_next(PFN_NONE);
        }
    }

    /// The descriptor of the slab that holds `addr`; `None` if it is in none, or if that takes a
    /// closer look. The fast path of a free.
    ///
    /// Complexity: O(1), three dependent loads. Locks: none.
    #[inline(always)]
    pub(crate) fn slab_at(&self, addr: usize) -> Option<NonNull<u8>> {
        let pfn = self.pfn_of(addr)?;
        if self.state(self.carve_of(pfn)) != CarveState::Carved {
            return None;
        }
        // SAFETY: in range, and all metadata of a carved block is valid.
        let page = unsafe { self.page_unchecked(pfn) };
        if !page.head().is_slab() {
            return None;
        }
        let distance = u64::from(page.prev()) | u64::from(page.next()) << 32;
        NonNull::new(self.heap.wrapping_byte_add(distance as usize))
    }

    /// The descriptor of the slab that the page belongs to; `None` if it belongs to none.
    ///
    /// Complexity: O(1). Locks: none.
    #[inline]
    pub(crate) fn slab_descriptor(&self, pfn: Pfn) -> Option<NonNull<u8>> {
        let page = self.page(pfn)?;
        if !page.head().is_slab() {
            return None;
        }
        let distance = u64::from(page.prev()) | u64::from(page.next()) << 32;
        NonNull::new(self.heap.wrapping_byte_add(distance as usize))
    }
}
