//! The 12 bytes that describe a page, and the lists that they form.
//!
//! Every page of a section has a [`PageMeta`] outside the page itself. Free blocks of one order
//! are doubly linked through page frame numbers: a list is one entry of a `[u32]` of heads, and
//! the links are the `prev` and `next` of the blocks' first pages.
//!
//! # Protocol
//! The lists belong to whoever holds the lock that guards their heads. Other CPUs may look at
//! any of the words without that lock (a free by address inspects its page first), therefore
//! every access, also in the list functions, is a relaxed atomic one: a reader without the lock
//! sees some value that was written, and acts only on pages that it owns.

use crate::sync::atomic::{AtomicU32, Ordering};

/// "No page": the end of a list, and the head of an empty one.
pub const PFN_NONE: u32 = u32::MAX;

/// What a page is in use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PageFlags {
    /// Free, or a page inside a block whose first page says more.
    Free = 0,
    /// First page of a block that is handed out.
    Allocated = 1,
    /// Page of a slab.
    Slab = 2,
}

/// What is known of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PageMeta {
    /// What the page is in use for.
    pub flags: PageFlags,
    /// Order of the block that starts here.
    pub order: u8,
    /// The allocator's own: kind, zone and cleanness of the block that starts here.
    pub _pad: u16,
    /// Previous block in the list of its order; free for other use in an allocated block.
    pub prev: u32,
    /// Next block in the list of its order; free for other use in an allocated block.
    pub next: u32,
}

const _: () = assert!(size_of::<PageMeta>() == 12 && align_of::<PageMeta>() == 4);

impl PageMeta {
    /// A free page of order 0 on no list.
    pub const fn new() -> Self {
        Self { flags: PageFlags::Free, order: 0, _pad: 0, prev: PFN_NONE, next: PFN_NONE }
    }
}

impl Default for PageMeta {
    fn default() -> Self {
        Self::new()
    }
}

/// The same 12 bytes as three atomic words.
#[repr(C)]
pub(crate) struct PageWords {
    /// `flags`, `order` and `_pad`, in the order in which they lie in memory.
    pub(crate) head: AtomicU32,
    pub(crate) prev: AtomicU32,
    pub(crate) next: AtomicU32,
}

// (A model checker's atomic is larger than the word that it stands for; pages are not modelled.)
const _: () = assert!(size_of::<AtomicU32>() != 4 || size_of::<PageWords>() == 12);

/// The words of page `pfn`.
///
/// # Safety
/// - `meta` points to an array of more than `pfn` entries that outlives `'a` and is read and
///   written only through these words meanwhile.
#[inline]
pub(crate) unsafe fn words<'a>(meta: *mut PageMeta, pfn: u32) -> &'a PageWords {
    // SAFETY: the entry is inside the array by the caller's word; both types are three 4-byte
    // words (asserted above), and all bit patterns are valid for the atomic view.
    unsafe { &*meta.add(pfn as usize).cast::<PageWords>() }
}

/// Puts block `pfn` at the front of the list of `order`.
///
/// Complexity: O(1). Locks: the caller holds the one that guards `free_lists`.
///
/// # Safety
/// - `meta` points to an array with an entry for `pfn` and for every page on the list.
/// - `pfn` is on no list.
/// - The lists are edited by nobody else meanwhile.
///
/// # Panics
/// If `free_lists` has no entry `order`.
#[inline]
pub unsafe fn free_list_push(meta: *mut PageMeta, free_lists: &mut [u32], pfn: u32, order: usize) {
    let old_head = free_lists[order];
    // SAFETY: `pfn` and the old head have entries.
    unsafe {
        let block = words(meta, pfn);
        block.prev.store(PFN_NONE, Ordering::Relaxed);
        block.next.store(old_head, Ordering::Relaxed);
        if old_head != PFN_NONE {
            words(meta, old_head).prev.store(pfn, Ordering::Relaxed);
        }
    }
    free_lists[order] = pfn;
}

/// Takes the block at the front of the list of `order`; [`PFN_NONE`] when it is empty.
///
/// Complexity: O(1). Locks: the caller holds the one that guards `free_lists`.
///
/// # Safety
/// - `meta` points to an array with an entry for every page on the list.
/// - The lists are edited by nobody else meanwhile.
///
/// # Panics
/// If `free_lists` has no entry `order`.
#[inline]
pub unsafe fn free_list_pop(meta: *mut PageMeta, free_lists: &mut [u32], order: usize) -> u32 {
    let pfn = free_lists[order];
    if pfn == PFN_NONE {
        return PFN_NONE;
    }
    // SAFETY: the head and its successor are on the list.
    unsafe {
        let block = words(meta, pfn);
        let next = block.next.load(Ordering::Relaxed);
        if next != PFN_NONE {
            words(meta, next).prev.store(PFN_NONE, Ordering::Relaxed);
        }
        block.prev.store(PFN_NONE, Ordering::Relaxed);
        block.next.store(PFN_NONE, Ordering::Relaxed);
        free_lists[order] = next;
    }
    pfn
}

/// Takes block `pfn` out of the list of `order`, wherever in it it is.
///
/// Complexity: O(1). Locks: the caller holds the one that guards `free_lists`.
///
/// # Safety
/// - `meta` points to an array with an entry for every page on the list.
/// - `pfn` is on that list.
/// - The lists are edited by nobody else meanwhile.
///
/// # Panics
/// If `free_lists` has no entry `order`.
#[inline]
pub unsafe fn free_list_remove(
    meta: *mut PageMeta,
    free_lists: &mut [u32],
    pfn: u32,
    order: usize,
) {
    // SAFETY: `pfn` and its neighbours are on the list.
    unsafe {
        let block = words(meta, pfn);
        let prev = block.prev.load(Ordering::Relaxed);
        let next = block.next.load(Ordering::Relaxed);
        if prev == PFN_NONE {
            free_lists[order] = next;
        } else {
            words(meta, prev).next.store(next, Ordering::Relaxed);
        }
        if next != PFN_NONE {
            words(meta, next).prev.store(prev, Ordering::Relaxed);
        }
        block.prev.store(PFN_NONE, Ordering::Relaxed);
        block.next.store(PFN_NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_of(meta: *mut PageMeta, heads: &[u32], order: usize) -> [u32; 4] {
        let mut found = [PFN_NONE; 4];
        let mut pfn = heads[order];
        for slot in &mut found {
            if pfn == PFN_NONE {
                break;
            }
            *slot = pfn;
            // SAFETY: the test's lists hold pages of its array only.
            pfn = unsafe { words(meta, pfn) }.next.load(Ordering::Relaxed);
        }
        found
    }

    #[test]
    fn a_new_page_is_free_and_unlinked() {
        let page = PageMeta::new();
        assert_eq!((page.flags, page.order, page._pad), (PageFlags::Free, 0, 0));
        assert_eq!((page.prev, page.next), (PFN_NONE, PFN_NONE));
        assert_eq!(PageMeta::default(), page);
    }

    #[test]
    fn lists_are_last_in_first_out_and_give_up_any_member() {
        const N: u32 = PFN_NONE;
        let mut pages = [PageMeta::new(); 8];
        let meta = pages.as_mut_ptr();
        let mut heads = [PFN_NONE; 3];
        // SAFETY: every number is below 8, each page is on one list at most.
        unsafe {
            for pfn in [1, 4, 6] {
                free_list_push(meta, &mut heads, pfn, 1);
            }
            free_list_push(meta, &mut heads, 7, 2);
            assert_eq!(list_of(meta, &heads, 1), [6, 4, 1, N]);
            free_list_remove(meta, &mut heads, 4, 1);
            assert_eq!(list_of(meta, &heads, 1), [6, 1, N, N]);
            free_list_remove(meta, &mut heads, 6, 1);
            assert_eq!(list_of(meta, &heads, 1), [1, N, N, N]);
            free_list_push(meta, &mut heads, 0, 1);
            free_list_remove(meta, &mut heads, 1, 1);
            assert_eq!(free_list_pop(meta, &mut heads, 1), 0);
            assert_eq!(free_list_pop(meta, &mut heads, 1), PFN_NONE);
            assert_eq!(free_list_pop(meta, &mut heads, 0), PFN_NONE);
            assert_eq!(free_list_pop(meta, &mut heads, 2), 7);
        }
        assert_eq!(heads, [PFN_NONE; 3]);
        assert!(pages.iter().all(|page| *page == PageMeta::new()));
    }
}
