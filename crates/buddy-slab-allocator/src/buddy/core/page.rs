//! A page of a section, as the layers above see it.

use core::fmt;
use core::ptr::NonNull;

use super::super::page_meta::PageFlags;
use super::super::section::{HeadWord, KeptPage, Kind, Page, PageMark, Section};
use crate::units::{Order, Pfn};

/// A page whose metadata is valid: looked up by address, or the head of an owned block.
///
/// # Invariants
/// - The section has page `pfn`, and its metadata was valid when this was made. It stays valid
///   for as long as the block that it heads is allocated.
pub(crate) struct PageRef<'a, const PAGE_SIZE: usize> {
    section: &'a Section<PAGE_SIZE>,
    pfn: Pfn,
}

impl<const PAGE_SIZE: usize> Clone for PageRef<'_, PAGE_SIZE> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<const PAGE_SIZE: usize> Copy for PageRef<'_, PAGE_SIZE> {}

impl<'a, const PAGE_SIZE: usize> PageRef<'a, PAGE_SIZE> {
    // INVARIANT: callers pass a page of which `section.page(pfn)` was `Some`, or an owned head.
    #[inline]
    pub(in crate::buddy) fn new(section: &'a Section<PAGE_SIZE>, pfn: Pfn) -> Self {
        Self { section, pfn }
    }

    /// Page `pfn` of a section, if its metadata is valid.
    pub(crate) fn of(section: &'a Section<PAGE_SIZE>, pfn: u32) -> Option<Self> {
        let pfn = Pfn::new(pfn)?;
        section.page(pfn)?;
        Some(Self::new(section, pfn))
    }

    /// The page of a section that contains `addr`, if its metadata is valid.
    #[inline(always)]
    pub(super) fn at(section: &'a Section<PAGE_SIZE>, addr: usize) -> Option<Self> {
        let pfn = section.pfn_of(addr)?;
        section.page(pfn).map(|_| Self::new(section, pfn))
    }

    /// The section it belongs to.
    #[inline]
    pub(crate) fn section(self) -> &'a Section<PAGE_SIZE> {
        self.section
    }

    /// Its number in the section.
    #[inline]
    pub(crate) fn pfn(self) -> Pfn {
        self.pfn
    }

    /// Its address.
    #[inline]
    pub(crate) fn addr(self) -> usize {
        self.section.addr_of(self.pfn)
    }

    /// Its memory, with the provenance of the region.
    #[inline]
    pub(crate) fn ptr(self) -> NonNull<u8> {
        self.section.ptr_of(self.pfn)
    }

    /// Whether the block was known to hold zeros when it was handed out: so it still does if
    /// nobody has used it since.
    #[inline]
    pub(crate) fn known_zero(self) -> bool {
        self.head().is_clean()
    }

    #[inline]
    pub(super) fn meta(self) -> Page<'a> {
        // SAFETY: the invariant: a page of the section with valid metadata.
        unsafe { self.section.page_unchecked(self.pfn) }
    }

    /// The first metadata word, with acquire.
    #[inline]
    pub(crate) fn head(self) -> HeadWord {
        self.meta().head()
    }

    /// The exact page count of the allocated block that this page heads.
    #[inline]
    pub(crate) fn count(self) -> usize {
        self.meta().prev() as usize
    }

    /// Makes the block another kind of allocated block.
    ///
    /// # Safety
    /// - The caller owns the block that this page heads; nobody can claim it meanwhile.
    /// - `kind` is not `Kind::Buddy` or `Kind::Slab`.
    #[inline]
    pub(crate) unsafe fn set_kind(self, kind: Kind) {
        let meta = self.meta();
        meta.set_head(meta.head().with_kind(kind));
    }

    /// Makes the block one that nobody uses any more, between its last owner and its next.
    ///
    /// # Safety
    /// - As for [`set_kind`](Self::set_kind).
    #[inline(always)]
    pub(crate) unsafe fn retire(self) {
        let meta = self.meta();
        meta.set_head(meta.head().retired());
    }

    /// Makes the part of an owned block that begins `at` pages into it a block of its own, of
    /// `count` pages and the same kind.
    ///
    /// # Safety
    /// - The caller owns the block that this page heads, which is smaller than 4 MiB, and all of
    ///   the part lies in it.
    pub(crate) unsafe fn split_owned(self, at: usize, count: usize) -> Option<Self> {
        let order = Order::for_pages(count)?;
        let pfn = Pfn::from_index(self.pfn.index().checked_add(at)?)?;
        // INVARIANT: a block smaller than 4 MiB lies in a carved one: all its metadata is valid.
        let part = Self { section: self.section, pfn };
        part.meta().set_head(self.head().with_order(order));
        part.meta().set_prev(count as u32);
        Some(part)
    }

    /// Whether the block was cut from runs, and lies in the one zone that they serve.
    #[inline(always)]
    pub(crate) fn is_of_runs(self) -> bool {
        self.head().is_of_runs()
    }

    /// Lets an owned block have another number of pages, if it is one of `count` pages that was
    /// cut from runs and handed out as `kind`; `false`, and nothing happens, if it is not.
    ///
    /// # Safety
    /// - The caller owns the pages behind it that it gains, which head no block, and those that it
    ///   loses; nobody else claims, resizes or frees it meanwhile, if it is such a block.
    #[inline(always)]
    pub(crate) unsafe fn recount(self, kind: Kind, count: usize, new_count: usize) -> bool {
        let meta = self.meta();
        let head = meta.head();
        if !head.is_handed_out_of_runs(kind) || meta.prev() as usize != count {
            return false;
        }
        meta.set_prev(new_count as u32);
        meta.set_head(head.with_order(Order::holding(new_count)).with_clean(false));
        true
    }

    /// Makes pages that were cut from runs a block of their own, whatever its first page said.
    ///
    /// # Safety
    /// - The caller owns the `count` pages from here on, all with metadata, cut from runs of this
    ///   section and together smaller than 4 MiB; the others head no block. If `clean`, all of
    ///   them is zero.
    #[inline(always)]
    pub(crate) unsafe fn make_of_runs(self, kind: Kind, count: usize, clean: bool) {
        let meta = self.meta();
        meta.set_prev(count as u32);
        meta.set_head(self.section.run_head(count, kind, clean));
    }

    /// The page that lies `at` pages behind this one.
    ///
    /// # Safety
    /// - It is in the same section, and has metadata.
    #[inline(always)]
    pub(crate) unsafe fn behind(self, at: usize) -> Self {
        let pfn = Pfn::from_index(self.pfn.index() + at).unwrap_or(self.pfn);
        // INVARIANT: the condition.
        Self { section: self.section, pfn }
    }

    /// Records that an owned block has only `count` pages left.
    ///
    /// # Safety
    /// - The caller owns the block that this page heads, and has made the rest of it other
    ///   blocks; `count` is not 0.
    pub(crate) unsafe fn shorten_owned(self, count: usize) {
        if let Some(order) = Order::for_pages(count) {
            self.meta().set_head(self.head().with_order(order));
        }
        self.meta().set_prev(count as u32);
    }

    /// What [`set_link`](Self::set_link) wrote.
    ///
    /// # Safety
    /// - The caller owns the block of several pages that this page heads, and has written a link.
    #[inline(always)]
    pub(crate) unsafe fn link(self) -> usize {
        // SAFETY: the block has a second page (condition).
        let second = unsafe { self.second() };
        (u64::from(second.prev()) | u64::from(second.next()) << 32) as usize
    }

    /// Keeps a number in the metadata of the block's second page, which means nothing while the
    /// block is allocated, and is written anew before it does.
    ///
    /// # Safety
    /// - The caller owns the block of several pages that this page heads.
    #[inline(always)]
    pub(crate) unsafe fn set_link(self, link: usize) {
        // SAFETY: the block has a second page (condition).
        let second = unsafe { self.second() };
        second.set_prev(link as u32);
        second.set_next((link as u64 >> 32) as u32);
    }

    /// # Safety
    /// - The block that this page heads has a second one.
    #[inline(always)]
    unsafe fn second(self) -> Page<'a> {
        let second = Pfn::from_index(self.pfn.index() + 1).unwrap_or(self.pfn);
        // SAFETY: the section has the page (condition); only its link words are used, which need
        // not have been written before.
        unsafe { self.section.page_unchecked(second) }
    }

    /// Sets the published flags of a page.
    ///
    /// # Safety
    /// - The page belongs to a block that the caller owns.
    pub(in crate::buddy) unsafe fn set_flags(self, flags: PageFlags) {
        let meta = self.meta();
        meta.set_head(meta.head().with_flags(flags));
    }

    /// Whether a slab of `count` pages that begins here can have its descriptor there.
    pub(crate) fn can_mark(self, count: usize, descriptor: NonNull<u8>) -> bool {
        self.section.can_mark(self.pfn, count, descriptor)
    }

    /// Makes the block a slab whose descriptor and label any page of it leads to.
    ///
    /// # Safety
    /// - The caller owns the block of `count` pages that this page heads.
    /// - `descriptor` points into the section's region, with the region's provenance, and
    ///   [`can_mark`](Self::can_mark) said yes to it. The low eight bits of `label` are clear.
    pub(crate) unsafe fn mark_slab(self, count: usize, descriptor: NonNull<u8>, label: u32) {
        // SAFETY: the conditions are the callee's.
        unsafe { self.section.mark_slab(self.pfn, count, descriptor, label) };
    }

    /// Makes a slab an ordinary allocated block again.
    ///
    /// # Safety
    /// - The caller owns the slab of `count` pages that this page heads, and nobody follows its
    ///   descriptor any more.
    pub(crate) unsafe fn unmark_slab(self, count: usize, kind: Kind) {
        // SAFETY: the conditions are the callee's.
        unsafe { self.section.unmark_slab(self.pfn, count, kind) }
    }

    /// The mark of the slab that this page is part of.
    #[inline]
    pub(crate) fn slab_mark(self) -> Option<PageMark> {
        self.section.slab_mark(self.pfn)
    }
}

impl KeptPage {
    /// The block that `page` heads, which the caller owns.
    #[inline(always)]
    pub(crate) fn keep<const PAGE_SIZE: usize>(page: PageRef<'_, PAGE_SIZE>) -> Self {
        page.section().keep(page.pfn())
    }
}

impl<const PAGE_SIZE: usize> fmt::Debug for PageRef<'_, PAGE_SIZE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {:#x} ({:?})", self.addr(), self.pfn)
    }
}

/// A [`PageRef`] without its lifetime, for who owns the page.
///
/// # Invariants
/// - `section` is a section, and `pfn` a page of it that whoever has this owns; or this is
///   [`NOTHING`](Self::NOTHING). (A section with such a page is not removed.)
pub(crate) struct OwnedPage<const PAGE_SIZE: usize> {
    section: NonNull<Section<PAGE_SIZE>>,
    pfn: Pfn,
}

impl<const PAGE_SIZE: usize> OwnedPage<PAGE_SIZE> {
    /// No page.
    pub(crate) const NOTHING: Self = Self { section: NonNull::dangling(), pfn: Pfn::ZERO };

    /// Keeps a page, which the caller owns.
    #[inline(always)]
    pub(crate) fn keep(page: PageRef<'_, PAGE_SIZE>) -> Self {
        // INVARIANT: the caller owns it.
        Self { section: NonNull::from(page.section()), pfn: page.pfn() }
    }

    /// The page.
    ///
    /// # Safety
    /// - It is one (not `NOTHING`), and was not given away since it was kept.
    #[inline(always)]
    pub(crate) unsafe fn page<'a>(&self) -> PageRef<'a, PAGE_SIZE> {
        // SAFETY: a section that has an owned page stays (invariant).
        PageRef::new(unsafe { self.section.as_ref() }, self.pfn)
    }
}
