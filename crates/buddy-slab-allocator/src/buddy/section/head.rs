//! The first four bytes of a page's metadata as one word, so that the owner of a page can
//! change what it is in a single atomic step.
//!
//! The word holds `flags` and `order` as published, and in `_pad` the block's [`Kind`], its
//! zone, whether it is known to be zero, whether it lies in several zones, and whether it goes
//! back to the runs.

use crate::buddy::page_meta::{PageFlags, PageWords};
use crate::sync::atomic::Ordering;
use crate::units::{Order, Zone};

/// What a block is, as far as the buddy system tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Free, on a list of its section.
    Buddy = 0,
    /// Handed out by address.
    Pages = 1,
    /// Handed out through a handle.
    Handle = 2,
    /// A large object.
    Object = 3,
    /// The allocator's own metadata; also a page that is not managed.
    Internal = 4,
    /// In a CPU's page list.
    Cached = 5,
    /// Claimed by a free that is under way.
    Deferred = 6,
    /// Slab.
    Slab = 7,
    /// Free, in a run.
    Run = 8,
}

impl Kind {
    const ALL: [Self; 16] = [
        Self::Buddy,
        Self::Pages,
        Self::Handle,
        Self::Object,
        Self::Internal,
        Self::Cached,
        Self::Deferred,
        Self::Slab,
        Self::Run,
        // Never written.
        Self::Internal,
        Self::Internal,
        Self::Internal,
        Self::Internal,
        Self::Internal,
        Self::Internal,
        Self::Internal,
    ];
}

/// Where a field of `width` bytes at byte `offset` of the word begins, counted in bits.
const fn shift(offset: u32, width: u32) -> u32 {
    if cfg!(target_endian = "big") { 32 - 8 * (offset + width) } else { 8 * offset }
}

const FLAGS: u32 = shift(0, 1);
const ORDER: u32 = shift(1, 1);
const PAD: u32 = shift(2, 2);
const KIND_MASK: u32 = 0x0F << PAD;
const ZONE: u32 = PAD + 4;
const CLEAN: u32 = 1 << (PAD + 6);
const SPANS: u32 = 1 << (PAD + 7);
const FROM_RUN: u32 = 1 << (PAD + 8);

/// `order` of a page that starts no block.
const TAIL: u8 = 0xFF;
/// Zone field of a page that is not managed.
pub(super) const ZONE_NONE: u32 = 3;

/// `flags`, `order` and `_pad` of a page in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadWord(u32);

impl HeadWord {
    /// A page inside a block that starts elsewhere.
    #[inline]
    pub(super) const fn tail(zone_field: u32) -> Self {
        Self((TAIL as u32) << ORDER | zone_field << ZONE)
    }

    /// A page that the section does not manage.
    pub(super) const fn reserved() -> Self {
        Self(
            (PageFlags::Allocated as u32) << FLAGS
                | (Kind::Internal as u32) << PAD
                | ZONE_NONE << ZONE,
        )
    }

    /// First page of a free block.
    #[inline]
    pub(super) const fn free(order: Order, zone: Zone, clean: bool) -> Self {
        Self((order.get() as u32) << ORDER | (zone as u32) << ZONE | if clean { CLEAN } else { 0 })
    }

    /// First page of an allocated block.
    #[inline]
    pub(super) const fn allocated(order: Order, kind: Kind, zone: Zone, clean: bool) -> Self {
        Self(
            (PageFlags::Allocated as u32) << FLAGS
                | (order.get() as u32) << ORDER
                | (kind as u32) << PAD
                | (zone as u32) << ZONE
                | if clean { CLEAN } else { 0 },
        )
    }

    /// The word as a number.
    pub(super) const fn raw(self) -> u32 {
        self.0
    }

    /// The byte `flags`.
    #[inline]
    pub(crate) const fn flags_byte(self) -> u8 {
        (self.0 >> FLAGS) as u8
    }

    /// The byte `order`.
    #[inline]
    pub(crate) const fn order_byte(self) -> u8 {
        (self.0 >> ORDER) as u8
    }

    /// The order, unless the page starts no block.
    #[inline]
    pub(crate) const fn order(self) -> Option<Order> {
        Order::new(self.order_byte())
    }

    /// Whether the page starts no block.
    #[inline]
    pub(crate) const fn is_tail(self) -> bool {
        self.order_byte() == TAIL
    }

    /// What the block is.
    #[inline]
    pub(crate) const fn kind(self) -> Kind {
        Kind::ALL[((self.0 >> PAD) & 15) as usize]
    }

    #[inline]
    pub(super) const fn zone_field(self) -> u32 {
        (self.0 >> ZONE) & 3
    }

    /// The zone, unless the page is not managed.
    #[inline]
    pub(crate) const fn zone(self) -> Option<Zone> {
        match self.zone_field() {
            0 => Some(Zone::Dma),
            1 => Some(Zone::Dma32),
            2 => Some(Zone::Normal),
            _ => None,
        }
    }

    /// Whether the block was known to hold zeros when it left the free lists.
    #[inline]
    pub(crate) const fn is_clean(self) -> bool {
        self.0 & CLEAN != 0
    }

    /// Whether the allocated block lies in more than one zone.
    #[inline]
    pub(super) const fn spans_zones(self) -> bool {
        self.0 & SPANS != 0
    }

    /// Whether it is the first page of a block that is handed out and no slab.
    #[inline]
    pub(crate) const fn is_allocated(self) -> bool {
        self.flags_byte() == PageFlags::Allocated as u8
    }

    /// Whether it is the first page of a block that is handed out as `kind`.
    #[inline(always)]
    pub(crate) const fn is_handed_out_as(self, kind: Kind) -> bool {
        let word = (PageFlags::Allocated as u32) << FLAGS | (kind as u32) << PAD;
        // (Inner pages have other flags.)
        self.0 & (0xFF << FLAGS | KIND_MASK) == word
    }

    /// Whether it is a page of a slab.
    #[inline]
    pub(crate) const fn is_slab(self) -> bool {
        self.flags_byte() == PageFlags::Slab as u8
    }

    /// Whether it is the first page of a block on a free list.
    #[inline]
    pub(crate) const fn is_free_block(self) -> bool {
        self.0 & (0xFF << FLAGS | KIND_MASK) == 0 && !self.is_tail()
    }

    /// Whether it is the first page of a free block of this order and zone.
    #[inline]
    pub(super) const fn is_free_as(self, order: Order, zone: Zone) -> bool {
        self.0 & !CLEAN == Self::free(order, zone, false).0
    }

    /// The same block as another kind.
    #[inline]
    pub(crate) const fn with_kind(self, kind: Kind) -> Self {
        Self(self.0 & !KIND_MASK | (kind as u32) << PAD)
    }

    /// The same block when its user is done with it: `Cached`, and no longer known to hold zeros.
    #[inline]
    pub(crate) const fn retired(self) -> Self {
        Self(self.0 & !(KIND_MASK | CLEAN) | (Kind::Cached as u32) << PAD)
    }

    /// The same block with other flags.
    #[inline]
    pub(crate) const fn with_flags(self, flags: PageFlags) -> Self {
        Self(self.0 & !(0xFF << FLAGS) | (flags as u32) << FLAGS)
    }

    /// The same block with another order.
    #[inline]
    pub(crate) const fn with_order(self, order: Order) -> Self {
        Self(self.0 & !(0xFF << ORDER) | (order.get() as u32) << ORDER)
    }

    /// The same block, known to hold zeros or not.
    #[inline]
    pub(crate) const fn with_clean(self, clean: bool) -> Self {
        Self(self.0 & !CLEAN | if clean { CLEAN } else { 0 })
    }

    /// Whether the page is the first or the last of a free run.
    #[inline]
    pub(crate) const fn is_run(self) -> bool {
        self.0 & (0xFF << FLAGS | KIND_MASK) == (Kind::Run as u32) << PAD
    }

    /// Whether the allocated block goes back to the runs.
    #[inline]
    pub(super) const fn is_from_run(self) -> bool {
        self.0 & FROM_RUN != 0
    }

    /// Whether the allocated block goes back to the runs, and lies in the one zone that they serve.
    #[inline(always)]
    pub(crate) const fn is_of_runs(self) -> bool {
        self.0 & (FROM_RUN | SPANS) == FROM_RUN
    }

    /// Whether it is the first page of such a block that is handed out as `kind`.
    #[inline(always)]
    pub(crate) const fn is_handed_out_of_runs(self, kind: Kind) -> bool {
        let word = (PageFlags::Allocated as u32) << FLAGS | (kind as u32) << PAD | FROM_RUN;
        self.0 & (0xFF << FLAGS | KIND_MASK | FROM_RUN | SPANS) == word
    }

    /// The same block, which goes back to the runs.
    #[inline]
    pub(super) const fn cut_from_run(self) -> Self {
        Self(self.0 | FROM_RUN)
    }

    #[inline]
    pub(super) const fn spanning(self) -> Self {
        Self(self.0 | SPANS)
    }
}

/// A page's metadata, which is known to be initialised.
#[derive(Clone, Copy)]
pub(crate) struct Page<'a>(&'a PageWords);

impl<'a> Page<'a> {
    #[inline]
    pub(in crate::buddy) const fn new(words: &'a PageWords) -> Self {
        Self(words)
    }

    /// Reads the head word; what its writer did before is visible.
    #[inline]
    pub(crate) fn head(self) -> HeadWord {
        HeadWord(self.0.head.load(Ordering::Acquire))
    }

    /// Writes the head word. Only for the owner of the page.
    #[inline]
    pub(crate) fn set_head(self, word: HeadWord) {
        self.0.head.store(word.0, Ordering::Release);
    }

    /// Changes the head word if it still is `current`; otherwise tells what it is.
    #[inline]
    pub(crate) fn compare_exchange(self, current: HeadWord, new: HeadWord) -> Result<(), HeadWord> {
        match self.0.head.compare_exchange(current.0, new.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(now) => Err(HeadWord(now)),
        }
    }

    /// The word `prev`.
    #[inline]
    pub(crate) fn prev(self) -> u32 {
        self.0.prev.load(Ordering::Relaxed)
    }

    /// The word `next`.
    #[inline]
    pub(crate) fn next(self) -> u32 {
        self.0.next.load(Ordering::Relaxed)
    }

    /// Writes the word `prev`. Only for the owner of the page.
    #[inline]
    pub(crate) fn set_prev(self, value: u32) {
        self.0.prev.store(value, Ordering::Relaxed);
    }

    /// Writes the word `next`. Only for the owner of the page.
    #[inline]
    pub(crate) fn set_next(self, value: u32) {
        self.0.next.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buddy::page_meta::{PageMeta, words};

    #[test]
    fn the_word_is_the_published_bytes() {
        let mut meta =
            PageMeta { flags: PageFlags::Slab, order: 7, _pad: 0x0025, prev: 1, next: 2 };
        // SAFETY: one entry, reached through this pointer only.
        let page = Page::new(unsafe { words(&raw mut meta, 0) });
        let word = page.head();
        assert_eq!((word.flags_byte(), word.order_byte()), (2, 7));
        assert_eq!((word.kind(), word.zone()), (Kind::Cached, Some(Zone::Normal)));
        assert_eq!((page.prev(), page.next()), (1, 2));
        page.set_head(
            word.with_flags(PageFlags::Allocated).with_kind(Kind::Object).with_clean(true),
        );
        assert_eq!((meta.flags, meta.order, meta._pad), (PageFlags::Allocated, 7, 0x0063));
    }

    #[test]
    fn a_claim_succeeds_once() {
        let mut meta = PageMeta::new();
        // SAFETY: one entry, reached through this pointer only.
        let page = Page::new(unsafe { words(&raw mut meta, 0) });
        let word = HeadWord::allocated(Order::ZERO, Kind::Pages, Zone::Dma32, false);
        page.set_head(word);
        let claimed = word.with_kind(Kind::Deferred);
        assert_eq!(page.compare_exchange(word, claimed), Ok(()));
        assert_eq!(page.compare_exchange(word, claimed), Err(claimed));
        assert_eq!(claimed.zone(), Some(Zone::Dma32));
    }

    #[test]
    fn the_words_of_free_tail_and_reserved_pages_differ() {
        let free = HeadWord::free(Order::ZERO, Zone::Dma, false);
        assert!(free.is_free_block() && !free.is_tail() && free.is_free_as(Order::ZERO, Zone::Dma));
        assert!(!free.is_free_as(Order::ZERO, Zone::Dma32));
        let clean = HeadWord::free(Order::ZERO, Zone::Dma, true);
        assert!(clean.is_free_as(Order::ZERO, Zone::Dma) && clean.is_clean());
        assert!(HeadWord::tail(0).is_tail() && !HeadWord::tail(0).is_free_block());
        assert_eq!(HeadWord::reserved().zone(), None);
        assert!(HeadWord::reserved().is_allocated());
    }
}
