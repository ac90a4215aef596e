//! Marks on the pages of a slab: from any address in it to its descriptor.
//!
//! The word `prev` of each of its pages holds how far from that page the descriptor lies (in
//! units of 8 or 64 bytes, both ways), so that the pointer comes back with the region's
//! provenance. The word `next` holds a *label* of the layer above, and in its low eight bits which
//! page of the slab it is.
//!
//! # Protocol
//! `prev` and `next` are written before the head word says slab (release), and read after it
//! (acquire). Whoever holds a live object of the slab sees both; anybody else acts on nothing.

use core::ptr::NonNull;

use super::head::{HeadWord, Kind, Page};
use super::{Reach, Section};
use crate::buddy::page_meta::{PFN_NONE, PageFlags};
use crate::units::{Order, Pfn};

/// What the metadata of a slab's page leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageMark {
    /// The descriptor, or whatever part of it was marked.
    pub(crate) descriptor: NonNull<u8>,
    /// The label, and the number of the page within the slab.
    pub(crate) label: u32,
}

/// Pages of a slab at most: their numbers have eight bits of the label.
const MAX_PAGES: usize = 256;

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    const UNIT: u32 = Reach::<PAGE_SIZE>::UNIT;

    /// Whether each of `count` pages can name a descriptor of up to 64 KiB that begins at
    /// `descriptor`: they are less than 128 GiB apart (16 GiB with pages below 4 KiB).
    pub(crate) fn can_mark(&self, pfn: Pfn, count: usize, descriptor: NonNull<u8>) -> bool {
        let reach = |index: usize| {
            let page = (self.start_page + index) << Self::PAGE_SHIFT;
            let distance = descriptor.addr().get().abs_diff(page) as u64;
            distance < (1 << (31 + Self::UNIT)) - (1 << 16)
        };
        count <= MAX_PAGES && reach(pfn.index()) && reach(pfn.index() + count - 1)
    }

    /// Marks an allocated block as the pages of the slab that `descriptor` describes.
    ///
    /// Complexity: O(count). Locks: none.
    ///
    /// # Safety
    /// - The block of exactly `count` pages at `pfn` is the caller's.
    /// - `descriptor` points into this section's region, and [`can_mark`](Self::can_mark) said
    ///   yes to it. The low eight bits of `label` are clear.
    pub(crate) unsafe fn mark_slab(
        &self,
        pfn: Pfn,
        count: usize,
        descriptor: NonNull<u8>,
        label: u32,
    ) {
        debug_assert!(self.can_mark(pfn, count, descriptor) && label & 0xFF == 0);
        for index in pfn.index()..pfn.index() + count {
            let at = Self::nth(index);
            // SAFETY: the caller's pages. A carve block without all its metadata lies wholly
            // inside the block, and is the caller's with it.
            unsafe {
                self.ensure_carved(self.carve_of(at));
                let page = self.page_unchecked(at);
                let distance = descriptor.addr().get().wrapping_sub(self.addr_of(at)) as isize;
                page.set_prev((distance >> Self::UNIT) as u32);
                page.set_next(label | (index - pfn.index()) as u32);
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

    /// The mark of the slab that the page belongs to; `None` if it belongs to none.
    ///
    /// Complexity: O(1). Locks: none.
    #[inline]
    pub(crate) fn slab_mark(&self, pfn: Pfn) -> Option<PageMark> {
        // SAFETY: the page itself.
        unsafe { Reach::<PAGE_SIZE>::mark_of(self.page(pfn)?, self.ptr_of(pfn).as_ptr()) }
    }
}

impl<const PAGE_SIZE: usize> Reach<PAGE_SIZE> {
    /// What the distance of a descriptor is counted in, and descriptors are aligned to, as a
    /// shift.
    const UNIT: u32 = if PAGE_SIZE < 4096 { 3 } else { 6 };

    /// The mark of the slab that holds `addr`; `None` if it is in none, or if that takes a closer
    /// look. The fast path of a free.
    ///
    /// Complexity: O(1), two dependent loads. Locks: none.
    #[inline(always)]
    pub(crate) fn slab_at(&self, addr: usize) -> Option<PageMark> {
        let (_, page) = self.carved_page(addr)?;
        // SAFETY: the page that the address lies in, with the region's provenance.
        unsafe { Self::mark_of(page, self.heap.with_addr(addr & !(PAGE_SIZE - 1))) }
    }

    /// What the metadata of a page says.
    ///
    /// # Safety
    /// - `at` points to that page, with the region's provenance.
    #[inline(always)]
    unsafe fn mark_of(page: Page<'_>, at: *mut u8) -> Option<PageMark> {
        if !page.head().is_slab() {
            return None;
        }
        let distance = (page.prev() as i32 as isize) << Self::UNIT;
        // SAFETY: the address of the descriptor that the slab was marked with (condition).
        let descriptor = unsafe { NonNull::new_unchecked(at.wrapping_byte_offset(distance)) };
        Some(PageMark { descriptor, label: page.next() })
    }
}
