//! Small metadata slots inside a section's pages: where slab descriptors live, out of the reach
//! of whoever overruns an object, and in the same region as what they describe (so that they come
//! and go with it).
//!
//! A slot page is one page of the section, counted as allocated. Its first 64 bytes are its
//! header, with a bitmap of free slots; pages with a free slot form a list by slot size whose head is in
//! the section's links. A page whose slots are all free goes back to the lists at once. Everything
//! here happens under the node's lock.

use core::ptr::NonNull;

use super::core::{PageCore, PageError, PageRef, Wait};
use super::links::SLOT_SIZES;
use super::page_meta::PFN_NONE;
use super::section::{Kind, Section};
use crate::sync::RawLock;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::units::{Misuse, Order, Pfn, Zone};

/// Alignment of every slot, and the size of the header.
const UNIT: usize = 64;
/// Slots in a page at most.
const MAX_SLOTS: usize = 256;
const WORD_BITS: usize = usize::BITS as usize;

/// The header of a slot page.
///
/// # Invariants
/// - S1: `free_count` is the number of set bits; bits from `slot_count` on are clear.
/// - S2: the page is on the list of its size exactly if `free_count > 0`.
#[repr(C, align(8))]
struct SlotPage {
    free_count: u16,
    slot_count: u16,
    slot_bytes: u32,
    next: u32,
    prev: u32,
    free: [usize; MAX_SLOTS / WORD_BITS],
}

const _: () = assert!(size_of::<SlotPage>() <= UNIT);

/// Rounds a slot size up; `None` if no page of this size has room for a few of them.
fn slot_size(size_bytes: usize, page_size: usize) -> Option<usize> {
    let rounded = size_bytes.max(1).checked_next_multiple_of(UNIT)?;
    (rounded <= page_size / 4).then_some(rounded)
}

/// The header of slot page `pfn`.
///
/// # Safety
/// - `pfn` is a slot page of `section`, and the node's lock is held; no other reference to the
///   header is in use.
#[expect(clippy::mut_from_ref, reason = "the node's lock makes the reference unique")]
unsafe fn header<const PAGE_SIZE: usize>(
    section: &Section<PAGE_SIZE>,
    pfn: u32,
) -> Option<&mut SlotPage> {
    // SAFETY: a slot page begins with its header; unique by the lock (condition).
    Pfn::new(pfn).map(|pfn| unsafe { section.ptr_of(pfn).cast::<SlotPage>().as_mut() })
}

/// The list of pages with free slots of a size: one for each multiple of 64 bytes up to 448 (512 on
/// 32 bits), and one for all larger ones.
fn list_of<const PAGE_SIZE: usize>(section: &Section<PAGE_SIZE>, slot_bytes: usize) -> &AtomicU32 {
    &section.links().slot_pages[(slot_bytes / UNIT).clamp(1, SLOT_SIZES) - 1]
}

/// Puts a slot page on the list of its size.
///
/// # Safety
/// - As [`header`]; the page is not on the list.
unsafe fn push<const PAGE_SIZE: usize>(section: &Section<PAGE_SIZE>, pfn: u32, slot_bytes: usize) {
    let head = list_of(section, slot_bytes);
    let next = head.load(Ordering::Relaxed);
    // SAFETY: list members are slot pages; one reference at a time.
    unsafe {
        if let Some(page) = header(section, pfn) {
            page.prev = PFN_NONE;
            page.next = next;
        }
        if let Some(next) = header(section, next) {
            next.prev = pfn;
        }
    }
    head.store(pfn, Ordering::Relaxed);
}

/// Takes a slot page off the list of its size.
///
/// # Safety
/// - As [`header`]; the page is on the list.
unsafe fn remove<const PAGE_SIZE: usize>(section: &Section<PAGE_SIZE>, pfn: u32) {
    // SAFETY: list members are slot pages; one reference at a time.
    unsafe {
        let Some((prev, next, slot_bytes)) =
            header(section, pfn).map(|page| (page.prev, page.next, page.slot_bytes as usize))
        else {
            return;
        };
        match header(section, prev) {
            Some(prev) => prev.next = next,
            None => list_of(section, slot_bytes).store(next, Ordering::Relaxed),
        }
        if let Some(next) = header(section, next) {
            next.prev = prev;
        }
    }
}

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// A slot of `size_bytes` in `section`: aligned to 64, uninitialised; one that `accept`, a mere
    /// calculation under the lock, says yes to.
    ///
    /// Complexity: O(1) up to 448 bytes, and above while all larger slots of a section are of one
    /// size (with 4 KiB pages they are). Locks: the node's.
    ///
    /// # Errors
    /// [`PageError::Exhausted`], [`PageError::Busy`]; [`PageError::Invalid`] for more than a
    /// quarter of a page.
    pub(crate) fn alloc_slot(
        &self,
        section: &Section<PAGE_SIZE>,
        size_bytes: usize,
        wait: Wait,
        accept: impl Fn(NonNull<u8>) -> bool,
    ) -> Result<NonNull<u8>, PageError> {
        let slot_bytes = slot_size(size_bytes, PAGE_SIZE).ok_or(PageError::Invalid)?;
        self.edit_section(section, wait, || {
            let mut pfn = list_of(section, slot_bytes).load(Ordering::Relaxed);
            loop {
                // SAFETY: the node's lock is held; list members are slot pages.
                match unsafe { header(section, pfn) } {
                    Some(page) if page.slot_bytes as usize == slot_bytes => break,
                    Some(page) => pfn = page.next,
                    // SAFETY: the node's lock is held.
                    None => match unsafe { new_slot_page(section, slot_bytes) } {
                        Some(fresh) => {
                            self.slot_pages.fetch_add(1, Ordering::Relaxed);
                            pfn = fresh;
                        }
                        None => return Err(PageError::Exhausted),
                    },
                }
            }
            // SAFETY: the lock is held, `pfn` is a slot page.
            let page = unsafe { header(section, pfn) }.ok_or(PageError::Exhausted)?;
            let word = page.free.iter().position(|&w| w != 0).ok_or(PageError::Exhausted)?;
            let bit = page.free[word].trailing_zeros() as usize;
            let offset = UNIT + (word * WORD_BITS + bit) * slot_bytes;
            let base = Pfn::new(pfn).map(|pfn| section.ptr_of(pfn)).ok_or(PageError::Exhausted)?;
            // SAFETY: the slot lies inside its page.
            let slot = unsafe { base.byte_add(offset) };
            if !accept(slot) {
                if page.free_count == page.slot_count {
                    // SAFETY: the lock is held; a page without slots in use is nobody's.
                    unsafe { self.give_slot_page_back(section, pfn) };
                }
                return Err(PageError::Exhausted);
            }
            page.free[word] &= page.free[word] - 1;
            page.free_count -= 1;
            if page.free_count == 0 {
                // SAFETY: as above; a page with a free slot was on the list.
                unsafe { remove(section, pfn) };
            }
            Ok(slot)
        })?
    }

    /// Gives a slot back.
    ///
    /// # Errors
    /// [`PageError::Busy`] (nothing happened); [`PageError::NotAllocated`] if it is free already.
    ///
    /// # Safety
    /// - `slot` came from [`alloc_slot`](Self::alloc_slot) with this section, and nobody uses it.
    pub(crate) unsafe fn free_slot(
        &self,
        section: &Section<PAGE_SIZE>,
        slot: NonNull<u8>,
        wait: Wait,
    ) -> Result<(), PageError> {
        let foreign = PageError::NotAllocated(Misuse::Foreign);
        let pfn = section.pfn_of(slot.addr().get()).ok_or(foreign)?;
        self.edit_section(section, wait, || {
            // SAFETY: a page with a slot is a slot page; the lock is held.
            let page = unsafe { header(section, pfn.get()) }.ok_or(foreign)?;
            let offset = slot.addr().get() - section.addr_of(pfn);
            let index = offset.wrapping_sub(UNIT) / (page.slot_bytes as usize).max(1);
            if index >= usize::from(page.slot_count) {
                return Err(PageError::NotAllocated(Misuse::Interior));
            }
            let (word, bit) = (index / WORD_BITS, 1usize << (index % WORD_BITS));
            if page.free[word] & bit != 0 {
                return Err(PageError::NotAllocated(Misuse::DoubleFree));
            }
            page.free[word] |= bit;
            page.free_count += 1;
            let (free, all) = (page.free_count, page.slot_count);
            // SAFETY: the lock is held; a full page was off the list, any other is on it; a page
            // without slots in use is nobody's.
            unsafe {
                if free == 1 {
                    push(section, pfn.get(), page.slot_bytes as usize);
                }
                if free == all {
                    self.give_slot_page_back(section, pfn.get());
                }
            }
            Ok(())
        })?
    }

    /// # Safety
    /// - `pfn` is a slot page of `section`, on its list, without a slot in use; the node's lock is
    ///   held.
    unsafe fn give_slot_page_back(&self, section: &Section<PAGE_SIZE>, pfn: u32) {
        let Some(page) = Pfn::new(pfn) else { return };
        // SAFETY: passed on.
        unsafe {
            remove(section, pfn);
            section.free(page, 1);
        }
        self.slot_pages.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a page for slots and puts it on the section's list.
///
/// # Safety
/// - The section's node lock is held.
unsafe fn new_slot_page<const PAGE_SIZE: usize>(
    section: &Section<PAGE_SIZE>,
    slot_bytes: usize,
) -> Option<u32> {
    let slot_count = ((PAGE_SIZE - UNIT) / slot_bytes).min(MAX_SLOTS);
    let taken = Zone::FALLBACK
        .into_iter()
        // SAFETY: the lock is held (condition).
        .find_map(|zone| unsafe { section.alloc_order(zone, Order::ZERO, Kind::Internal) })?;
    let mut free = [0usize; MAX_SLOTS / WORD_BITS];
    for index in 0..slot_count {
        free[index / WORD_BITS] |= 1 << (index % WORD_BITS);
    }
    let page = SlotPage {
        free_count: slot_count as u16,
        slot_count: slot_count as u16,
        slot_bytes: slot_bytes as u32,
        next: PFN_NONE,
        prev: PFN_NONE,
        free,
    };
    let head = PageRef::new(section, taken.pfn);
    // SAFETY: the page was just taken: it is ours, large enough and aligned; it is on no list.
    unsafe {
        head.ptr().cast::<SlotPage>().write(page);
        push(section, taken.pfn.get(), slot_bytes);
    }
    Some(taken.pfn.get())
}
