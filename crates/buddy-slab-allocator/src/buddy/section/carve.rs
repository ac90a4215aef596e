//! Which page metadata exists: one state byte for each carve block (4 MiB, or one page where
//! pages are larger).
//!
//! Fresh memory holds garbage, and writing 12 bytes for every page of a large region takes long.
//! So metadata is written when a block is first cut into pieces smaller than a carve block.
//! Until then the carve block's byte says that it is not there.
//!
//! | state    | metadata that exists    | the carve block                                |
//! |----------|-------------------------|------------------------------------------------|
//! | Interior | none                    | lies inside a larger block, or is all reserved |
//! | Head     | that of the first page  | starts a block of at least its own size        |
//! | Carved   | all                     | anything                                       |
//!
//! Carved is for good. The byte also names the zone of the whole carve block, or none where
//! zones meet in it (then it is carved, and each page's word has its own zone).

use super::head::{HeadWord, ZONE_NONE};
use super::{Reach, Section};
use crate::buddy::page_meta::{PFN_NONE, words};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::units::{Order, Pfn, Zone};

/// How much metadata of a carve block exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum CarveState {
    Interior = 0,
    Head = 1,
    Carved = 2,
}

const STATE_MASK: u8 = 3;
const ZONE_SHIFT: u32 = 2;

impl<const PAGE_SIZE: usize> Reach<PAGE_SIZE> {
    /// Pages of a carve block, less one: the low bits of a page number in it.
    pub(super) const CARVE_MASK: usize = Self::CARVE_ORDER.pages() - 1;

    /// The carve block of a page: which it is of all that an address space has.
    #[inline]
    pub(super) fn carve_of(&self, pfn: Pfn) -> usize {
        (self.start_page + pfn.index()) >> Self::CARVE_ORDER.get()
    }

    /// Whether the page is the first of a carve block.
    #[inline]
    pub(super) fn starts_carve(&self, pfn: Pfn) -> bool {
        (pfn.index() + self.start_page) & Self::CARVE_MASK == 0
    }

    #[inline]
    fn state_byte(&self, carve: usize) -> &AtomicU8 {
        debug_assert!(carve >= self.start_page >> Self::CARVE_ORDER.get());
        debug_assert!(carve <= (self.start_page + self.pages - 1) >> Self::CARVE_ORDER.get());
        // SAFETY: the section has a byte for each of its carve blocks, initialised by `create`
        // and accessed through this view only. (Back in the region, by as much as the pointer was
        // moved out of it.)
        unsafe { &*self.states.wrapping_add(carve) }
    }

    #[inline]
    pub(super) fn state(&self, carve: usize) -> CarveState {
        match self.state_byte(carve).load(Ordering::Acquire) & STATE_MASK {
            0 => CarveState::Interior,
            1 => CarveState::Head,
            _ => CarveState::Carved,
        }
    }

    /// Whether the metadata of the page, which the section has, was written.
    #[inline]
    pub(super) fn has_meta(&self, pfn: Pfn) -> bool {
        match self.state(self.carve_of(pfn)) {
            CarveState::Carved => true,
            CarveState::Head => self.starts_carve(pfn),
            CarveState::Interior => false,
        }
    }
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Pages of a carve block, less one.
    pub(super) const CARVE_MASK: usize = Reach::<PAGE_SIZE>::CARVE_MASK;

    /// First page of a carve block and one past its last, as far as the section has them.
    pub(super) fn carve_range(&self, carve: usize) -> (usize, usize) {
        let first = carve << Self::CARVE_ORDER.get();
        let end = first + Self::CARVE_ORDER.pages() - self.start_page;
        (first.saturating_sub(self.start_page), end.min(self.pages))
    }

    fn set_state(&self, carve: usize, state: CarveState) {
        let byte = self.state_byte(carve);
        let zone = byte.load(Ordering::Relaxed) & !STATE_MASK;
        byte.store(zone | state as u8, Ordering::Release);
    }

    /// Says in which zone the whole carve block lies, and that it has no metadata.
    pub(super) fn set_interior(&self, carve: usize, zone: Option<Zone>) {
        let field = zone.map_or(ZONE_NONE as u8, |zone| zone as u8);
        let byte = field << ZONE_SHIFT | CarveState::Interior as u8;
        self.state_byte(carve).store(byte, Ordering::Release);
    }

    /// The zone field of the whole carve block; `ZONE_NONE` if its pages differ.
    #[inline]
    pub(super) fn carve_zone(&self, carve: usize) -> u32 {
        u32::from(self.state_byte(carve).load(Ordering::Relaxed) >> ZONE_SHIFT)
    }

    /// The zone of a page that is under management.
    pub(super) fn zone_of(&self, pfn: Pfn) -> Option<Zone> {
        match self.carve_zone(self.carve_of(pfn)) {
            0 => Some(Zone::Dma),
            1 => Some(Zone::Dma32),
            2 => Some(Zone::Normal),
            _ => self.page(pfn)?.head().zone(),
        }
    }

    /// Writes the metadata of a page.
    ///
    /// # Safety
    /// - The caller may write it: lock held and page free, or page owned.
    /// - The section has the page.
    #[inline]
    unsafe fn write_meta(&self, pfn: Pfn, word: HeadWord, prev: u32) {
        // SAFETY: the section has the page.
        let meta = unsafe { words(self.metas.as_ptr(), pfn.get()) };
        meta.prev.store(prev, Ordering::Relaxed);
        meta.next.store(PFN_NONE, Ordering::Relaxed);
        meta.head.store(word.raw(), Ordering::Release);
    }

    /// Makes the metadata of a carve block exist: what does not yet becomes that of inner pages.
    ///
    /// Complexity: O(1) once carved; O(pages of a carve block) the first time.
    ///
    /// # Safety
    /// - Lock held; or every page of the carve block owned by the caller, or it is carved.
    #[inline]
    pub(super) unsafe fn ensure_carved(&self, carve: usize) {
        if self.state(carve) != CarveState::Carved {
            // SAFETY: passed on.
            unsafe { self.carve(carve) }
        }
    }

    /// # Safety
    /// - As for `ensure_carved`.
    #[cold]
    unsafe fn carve(&self, carve: usize) {
        let (first, end) = self.carve_range(carve);
        let skip = usize::from(self.state(carve) == CarveState::Head);
        let tail = HeadWord::tail(self.carve_zone(carve));
        for index in first + skip..end {
            // SAFETY: a page of the section without metadata: nobody else reads or writes it.
            unsafe { self.write_meta(Self::nth(index), tail, PFN_NONE) }
        }
        self.set_state(carve, CarveState::Carved);
    }

    /// Carves a block whose pages differ: `word` tells each one's first metadata.
    ///
    /// # Safety
    /// - The section is not visible yet.
    pub(super) unsafe fn carve_with(&self, carve: usize, word: impl Fn(usize) -> HeadWord) {
        let (first, end) = self.carve_range(carve);
        for index in first..end {
            // SAFETY: a page of the section, which nobody else sees.
            unsafe { self.write_meta(Self::nth(index), word(index), PFN_NONE) }
        }
        self.set_state(carve, CarveState::Carved);
    }

    /// Writes the head of a block of `page_count` pages that starts at `pfn`, and carves or
    /// marks the carve block around it as that size demands.
    ///
    /// # Safety
    /// - Lock held. The pages are on no list, and in nobody's hands.
    pub(super) unsafe fn write_head(&self, pfn: Pfn, page_count: usize, word: HeadWord, prev: u32) {
        let carve = self.carve_of(pfn);
        let whole = page_count > Self::CARVE_MASK && self.starts_carve(pfn);
        // SAFETY: pages nobody else uses, lock held.
        unsafe {
            if !whole {
                self.ensure_carved(carve);
            }
            self.write_meta(pfn, word, prev);
        }
        if whole && self.state(carve) == CarveState::Interior {
            self.set_state(carve, CarveState::Head);
        }
    }

    /// Makes a page one that starts no block.
    ///
    /// # Safety
    /// - Lock held. The page is part of a block in the making, on no list.
    #[inline]
    pub(super) unsafe fn demote(&self, pfn: Pfn, zone_field: u32) {
        let carve = self.carve_of(pfn);
        match self.state(carve) {
            CarveState::Interior => return,
            CarveState::Head if !self.starts_carve(pfn) => return,
            CarveState::Head => self.set_state(carve, CarveState::Interior),
            CarveState::Carved => {}
        }
        // SAFETY: the metadata exists.
        unsafe { self.page_unchecked(pfn) }.set_head(HeadWord::tail(zone_field));
    }

    /// The free block that starts at this page: its order and zone.
    ///
    /// Only the lock's holder may rely on the answer.
    #[inline]
    pub(super) fn free_block_at(&self, pfn: Pfn) -> Option<(Order, Zone)> {
        let word = self.page(pfn)?.head();
        if !word.is_free_block() {
            return None;
        }
        Some((word.order()?, word.zone()?))
    }

    /// The free block that contains this page: its start, order and zone.
    ///
    /// Only the lock's holder may rely on the answer. Complexity: O(`MAX_ORDER`).
    pub(super) fn free_block_around(&self, pfn: Pfn) -> Option<(Pfn, Order, Zone)> {
        let page = self.start_page + pfn.index();
        let mut order = Some(Order::ZERO);
        while let Some(size) = order {
            // Blocks of this order start at multiples of their size.
            let start = (page & !(size.pages() - 1)).checked_sub(self.start_page)?;
            let start = Self::nth(start);
            if let Some((found, zone)) = self.free_block_at(start)
                && found == size
            {
                return Some((start, size, zone));
            }
            order = size.parent();
        }
        None
    }
}
