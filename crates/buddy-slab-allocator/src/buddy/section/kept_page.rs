//! A block that lies ready for somebody, as page lists keep it.

use core::ptr::NonNull;

use super::head::{HeadWord, Kind, Page};
use crate::buddy::page_meta::PageWords;

/// A block that somebody owns: where it begins, and where the metadata of its first page is. As
/// much as it takes to hand it out, without a look at its section.
///
/// # Invariants
/// - `start` is the first byte of a block that whoever has this owns, and `meta` its metadata, with
///   the provenance of that of the whole section; or this is [`NOTHING`](Self::NOTHING), or what is
///   [behind](Self::behind) a block. (A section with such a block is not removed.)
#[derive(Clone, Copy)]
pub(crate) struct KeptPage {
    start: NonNull<u8>,
    meta: NonNull<PageWords>,
}

impl KeptPage {
    /// A place where a block can be kept.
    pub(crate) const NOTHING: Self = Self { start: NonNull::dangling(), meta: NonNull::dangling() };

    /// The block that begins at `start`, and whose first page has its metadata at `meta` (with the
    /// provenance of its section's).
    // INVARIANT: callers pass a block that they own, and hand it over with this.
    #[inline(always)]
    pub(in crate::buddy) fn new(start: NonNull<u8>, meta: NonNull<PageWords>) -> Self {
        Self { start, meta }
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

    /// The block that lies behind this one, which has `pages` pages and `bytes` bytes; or what the
    /// region has there.
    ///
    /// # Safety
    /// - The region goes on there, or ends, and so does the metadata.
    #[inline(always)]
    pub(super) unsafe fn behind(self, pages: usize, bytes: usize) -> Self {
        // SAFETY: the condition.
        // INVARIANT: the caller's, if it is a block.
        unsafe { Self { start: self.start.byte_add(bytes), meta: self.meta.add(pages) } }
    }

    /// Where the metadata of its first page is.
    #[inline(always)]
    pub(super) fn words(self) -> NonNull<PageWords> {
        self.meta
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
    pub(super) unsafe fn meta<'a>(self) -> Page<'a> {
        // SAFETY: metadata of an owned block, whose section stays (invariant).
        Page::new(unsafe { self.meta.as_ref() })
    }
}
