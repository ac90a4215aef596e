//! The way from an address to a page of a section and to its metadata. Nothing of it ever changes.

use core::ptr::{self, NonNull};

use super::carve::CarveState;
use super::head::Page;
use super::kept_page::KeptPage;
use super::layout::CARVE_BYTES;
use crate::buddy::page_meta::{PageMeta, PageWords, words};
use crate::sync::atomic::AtomicU8;
use crate::units::{Order, Pfn};

/// Where a section's pages are, and what is written about them.
///
/// What is read through a [copy](Self::copy) on the stack, a compiler need not read again after every
/// write to some metadata.
///
/// # Invariants
/// - `metas` has an entry for each of `pages` pages (fewer than 2^32 - 1), and `states` plus `c` is
///   the byte of carve block `c`, for each that they touch; these lie in the section's region,
///   outside every page that is handed out, and both pointers have the region's provenance.
/// - `heap`, the first page, is aligned to `PAGE_SIZE`, and not null; `start_page` is its address in
///   pages.
/// - Or there are no pages, and this is [`NOTHING`](Self::NOTHING).
#[repr(C)]
pub(crate) struct Reach<const PAGE_SIZE: usize> {
    pub(super) heap: *mut u8,
    pub(super) metas: NonNull<PageMeta>,
    /// Where the state byte of the carve block at address 0 would be: so an address leads to its byte
    /// by a shift.
    pub(super) states: *mut AtomicU8,
    /// Absolute number of the first page: its address in pages.
    pub(super) start_page: usize,
    pub(super) pages: usize,
}

impl<const PAGE_SIZE: usize> Reach<PAGE_SIZE> {
    /// That of no section: contains no address.
    pub(crate) const NOTHING: &Self = &Self {
        heap: ptr::null_mut(),
        metas: NonNull::dangling(),
        states: ptr::null_mut(),
        start_page: 0,
        pages: 0,
    };

    pub(super) const PAGE_SHIFT: u32 = {
        assert!(PAGE_SIZE.is_power_of_two() && PAGE_SIZE >= 64, "PAGE_SIZE: a power of two >= 64");
        PAGE_SIZE.trailing_zeros()
    };

    /// Order of a carve block.
    pub(super) const CARVE_ORDER: Order = match Order::within_pages(CARVE_BYTES >> Self::PAGE_SHIFT)
    {
        Some(order) => order,
        None => Order::ZERO,
    };

    /// A carve block's bytes, as a shift.
    const CARVE_SHIFT: u32 = Self::PAGE_SHIFT + Self::CARVE_ORDER.get() as u32;

    /// The same once more.
    ///
    /// # Safety
    /// - It is not used after the section is gone.
    #[inline(always)]
    pub(super) unsafe fn copy(&self) -> Self {
        // INVARIANT: the same.
        Self { ..*self }
    }

    /// Whether a page of the section contains the address.
    #[inline]
    pub(crate) fn contains(&self, addr: usize) -> bool {
        (addr >> Self::PAGE_SHIFT).wrapping_sub(self.start_page) < self.pages
    }

    /// The page that contains the address.
    #[inline]
    pub(crate) fn pfn_of(&self, addr: usize) -> Option<Pfn> {
        self.page_at((addr >> Self::PAGE_SHIFT).wrapping_sub(self.start_page))
    }

    /// The page with this index, if the section has it.
    #[inline]
    pub(super) fn page_at(&self, index: usize) -> Option<Pfn> {
        if index < self.pages {
            // SAFETY: a section's page numbers end below 2^32 - 1, so this is always one. Said so
            // that a lookup compares once.
            unsafe { core::hint::assert_unchecked(index < u32::MAX as usize) };
            Pfn::from_index(index)
        } else {
            None
        }
    }

    /// The buddy of a block, if the section has its first page.
    #[inline]
    pub(super) fn buddy_of(&self, pfn: Pfn, order: Order) -> Option<Pfn> {
        let buddy = (self.start_page + pfn.index()) ^ order.pages();
        self.page_at(buddy.wrapping_sub(self.start_page))
    }

    /// Address of a page.
    #[inline]
    pub(crate) fn addr_of(&self, pfn: Pfn) -> usize {
        (self.start_page + pfn.index()) << Self::PAGE_SHIFT
    }

    /// Pointer to a page that the section has, with the region's provenance.
    #[inline]
    pub(crate) fn ptr_of(&self, pfn: Pfn) -> NonNull<u8> {
        debug_assert!(pfn.index() < self.pages);
        let page = self.heap.wrapping_add(pfn.index() << Self::PAGE_SHIFT);
        // SAFETY: the first page does not start at address 0, and the region does not wrap, so
        // that no page does. (Page numbers come from lookups in a section: there are pages.)
        unsafe { NonNull::new_unchecked(page) }
    }

    /// Pointer to the page that begins at `addr`, which the section has, with the region's provenance.
    #[inline(always)]
    pub(crate) fn ptr_at(&self, addr: usize) -> NonNull<u8> {
        debug_assert!(self.contains(addr) && addr & (PAGE_SIZE - 1) == 0);
        // SAFETY: no page is at address 0. (As above.)
        unsafe { NonNull::new_unchecked(self.heap.with_addr(addr)) }
    }

    /// The block that page `pfn` heads, or is to head, which is the caller's.
    #[inline(always)]
    pub(in crate::buddy) fn keep(&self, pfn: Pfn) -> KeptPage {
        // INVARIANT: the caller's.
        KeptPage::new(self.ptr_of(pfn), self.meta_of(pfn))
    }

    /// The page that contains the address, and its metadata, if all metadata around it was written.
    /// On the fast path of every free of pages, and of objects outside a run.
    ///
    /// Complexity: O(1), one load that waits for another. Locks: none.
    #[inline(always)]
    pub(crate) fn carved_page(&self, addr: usize) -> Option<(Pfn, Page<'_>)> {
        let pfn = self.pfn_of(addr)?;
        if self.state(addr >> Self::CARVE_SHIFT) != CarveState::Carved {
            return None;
        }
        // SAFETY: in range, and all metadata of a carved block is valid.
        Some((pfn, unsafe { self.page_unchecked(pfn) }))
    }

    /// Metadata of a page.
    ///
    /// # Safety
    /// - The section has the page.
    /// - Its metadata was written: it is, say, the first page of a block.
    #[inline]
    pub(crate) unsafe fn page_unchecked(&self, pfn: Pfn) -> Page<'_> {
        debug_assert!(pfn.index() < self.pages);
        // SAFETY: in range by the caller's word.
        Page::new(unsafe { words(self.metas.as_ptr(), pfn.get()) })
    }

    /// Where the metadata of a page that the section has is, or will be: in the array of that of all
    /// pages, whose provenance this has.
    #[inline]
    pub(crate) fn meta_of(&self, pfn: Pfn) -> NonNull<PageWords> {
        debug_assert!(pfn.index() < self.pages);
        // SAFETY: the array of metadata has a place for each page of the section. (As above.)
        unsafe { self.metas.add(pfn.index()).cast() }
    }
}
