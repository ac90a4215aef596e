//! Memory without layouts: what the C functions are made of.
//!
//! Everything here may be called at any time, from a signal handler too. A size is at most
//! `isize::MAX`; above it requests are refused like those for which there is no memory.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use crate::process::{ALLOCATOR, refused};
use crate::{PAGE_SIZE, huge, misuse, purge, sys};

/// From this size on a zeroed allocation gets fresh pages instead of being cleared.
const FRESH_FROM: usize = 1 << 20;

/// Beyond this size, and this alignment, nothing is at hand.
const AT_HAND: usize = 32 << 10;

/// From this size on a move takes the pages along instead of copying them. Each move may cost a
/// mapping, of which a process has some ten thousand.
const MOVE_FROM: usize = 4 << 20;
const MOVES: u64 = 1 << 11;

/// Allocates `size` bytes at a multiple of `align`; null if there is no memory.
///
/// # Panics
/// Never. (An `align` that is no power of two is refused.)
#[inline(always)]
pub fn allocate(size: usize, align: usize) -> *mut u8 {
    let Ok(layout) = Layout::from_size_align(size, align) else { return ptr::null_mut() };
    match ALLOCATOR.alloc(layout) {
        Ok(object) => object.as_ptr(),
        Err(_) => refused(layout),
    }
}

/// The fast path of [`allocate`]: null if that has to do more. O(1), and takes no lock.
///
/// # Panics
/// Never.
#[inline(always)]
pub fn allocate_at_hand(size: usize, align: usize) -> *mut u8 {
    if size > AT_HAND || !align.is_power_of_two() || align > AT_HAND {
        return ptr::null_mut();
    }
    // SAFETY: a power of two; both are far below the largest size, rounded up too.
    let layout = unsafe { Layout::from_size_align_unchecked(size, align) };
    ALLOCATOR.alloc_at_hand(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
}

/// [`allocate`], and every byte is zero.
#[inline]
pub fn allocate_zeroed(size: usize, align: usize) -> *mut u8 {
    let Ok(layout) = Layout::from_size_align(size, align) else { return ptr::null_mut() };
    if size >= FRESH_FROM {
        return allocate_fresh(layout);
    }
    match ALLOCATOR.alloc_zeroed(layout) {
        Ok(object) => object.as_ptr(),
        Err(_) => {
            let object = refused(layout);
            if !object.is_null() {
                // SAFETY: just allocated, of this size.
                unsafe { object.write_bytes(0, size) };
            }
            object
        }
    }
}

/// Whole pages, which the system makes zero where they are touched: a program that asks for much
/// and uses little of it has little.
#[cold]
fn allocate_fresh(layout: Layout) -> *mut u8 {
    let object = allocate(layout.size(), layout.align());
    if object.is_null() || huge::usable_size(object.addr()).is_some() {
        return object;
    }
    let bytes = layout.size().next_multiple_of(PAGE_SIZE);
    // SAFETY: a large allocation is whole pages, all of them its own, whose content is nobody's.
    if !unsafe { sys::give_up(object, bytes) } {
        // SAFETY: just allocated, of this size.
        unsafe { object.write_bytes(0, layout.size()) };
    }
    object
}

/// Frees what [`allocate`] and its kin returned. A bad free is reported (`BSA_CHECK`) and has no
/// effect.
///
/// # Safety
/// - `ptr` came from this heap and was not freed since; nothing uses the memory any more.
#[inline(always)]
pub unsafe fn release(ptr: NonNull<u8>) {
    // SAFETY: the caller's conditions are the same.
    unsafe { ALLOCATOR.dealloc_unsized(ptr) }
}

/// How many bytes the allocation can hold.
///
/// # Safety
/// - `ptr` came from this heap and was not freed since.
#[inline(always)]
pub unsafe fn usable_size(ptr: NonNull<u8>) -> usize {
    // SAFETY: the caller's allocation, which nobody frees.
    match unsafe { ALLOCATOR.usable_size_of_live(ptr) } {
        Some(bytes) => bytes,
        None => huge::usable_size(ptr.addr().get()).unwrap_or(0),
    }
}

/// Changes the size of an allocation; its content stays, up to the smaller size. Null if there is
/// no memory; it is as it was then. The new place is a multiple of 16.
///
/// # Safety
/// - `ptr` came from this heap and was not freed since; after success only the result is used.
pub unsafe fn resize(ptr: NonNull<u8>, new_size: usize) -> *mut u8 {
    // SAFETY: the caller's allocation.
    let Some(old_size) = (unsafe { ALLOCATOR.usable_size(ptr) }) else {
        // SAFETY: the same, if it is one of those.
        let resized = unsafe { huge::resize(ptr, new_size) };
        if resized.is_null() && huge::usable_size(ptr.addr().get()).is_none() {
            use buddy_slab_allocator::{Misuse, MisuseReport};
            let (addr, kind) = (ptr.addr().get(), Misuse::NotAllocated);
            misuse::handle(&MisuseReport { addr, kind });
        }
        return resized;
    };
    // Not worth a move: it fits, and does not waste as much as it uses.
    if new_size <= old_size && (new_size > old_size / 2 || old_size <= 64) {
        return shrink_pages(ptr, old_size, new_size);
    }
    // SAFETY: the caller's allocation, of that many bytes.
    unsafe { resize_by_move(ptr, old_size, new_size) }
}

/// Gives up whole pages of a large allocation.
fn shrink_pages(ptr: NonNull<u8>, old_size: usize, new_size: usize) -> *mut u8 {
    if new_size + PAGE_SIZE <= old_size
        && let Ok(layout) = Layout::from_size_align(old_size, 16)
    {
        // SAFETY: an allocation of that size, which `resize`'s caller owns. What does not go stays.
        unsafe { ALLOCATOR.resize_in_place(ptr, layout, new_size) };
    }
    ptr.as_ptr()
}

/// # Safety
/// - As for `resize`; the allocation has `old_size` usable bytes.
#[cold]
unsafe fn resize_by_move(ptr: NonNull<u8>, old_size: usize, new_size: usize) -> *mut u8 {
    if old_size > PAGE_SIZE
        && let Ok(layout) = Layout::from_size_align(old_size, 16)
    {
        // SAFETY: the caller's allocation, of that many bytes.
        if unsafe { ALLOCATOR.resize_in_place(ptr, layout, new_size) } {
            return ptr.as_ptr();
        }
    }
    let Ok(layout) = Layout::from_size_align(new_size, 16) else { return ptr::null_mut() };
    let Some(new) = NonNull::new(allocate_resized(layout, old_size)) else {
        return ptr::null_mut();
    };
    // SAFETY: both are live, and hold so many bytes; then the old one is freed, and not used again
    // (condition).
    unsafe {
        relocate(ptr.as_ptr(), new.as_ptr(), old_size.min(new_size));
        release(ptr);
    }
    new.as_ptr()
}

/// From this size on what grows is put where it can grow on. Below, a copy costs less than to
/// touch memory that was never used.
const ROOMY_FROM: usize = 256 << 10;

/// The new place of an allocation of `old_size` bytes.
pub(crate) fn allocate_resized(layout: Layout, old_size: usize) -> *mut u8 {
    let grows = layout.size() > old_size && layout.size() >= ROOMY_FROM;
    match if grows { ALLOCATOR.alloc_to_grow(layout) } else { ALLOCATOR.alloc(layout) } {
        Ok(object) => object.as_ptr(),
        Err(_) => refused(layout),
    }
}

/// Brings `bytes` from one allocation to another; what the first one holds afterwards is not said.
///
/// # Safety
/// - Both are live allocations of this heap of at least so many bytes, and the caller's.
#[inline]
pub(crate) unsafe fn relocate(from: *mut u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's conditions.
    let moved = if bytes >= MOVE_FROM { unsafe { relocate_pages(from, to, bytes) } } else { 0 };
    // SAFETY: live, of at least so many bytes, and distinct, so that they do not overlap.
    unsafe { to.add(moved).copy_from_nonoverlapping(from.add(moved), bytes - moved) };
}

/// # Safety
/// - As for `relocate`; allocations of that size begin at pages, which are all their own.
#[cold]
unsafe fn relocate_pages(from: *mut u8, to: *mut u8, bytes: usize) -> usize {
    let pages = bytes / PAGE_SIZE * PAGE_SIZE;
    let may = sys::KERNEL.moves.load(core::sync::atomic::Ordering::Relaxed) < MOVES;
    // SAFETY: whole pages of two allocations of the caller's.
    if may && unsafe { sys::move_pages(from, to, pages) } { pages } else { 0 }
}

/// Gives back to the system what is not in use, as far as it can be had; whether that was anything.
pub fn trim() -> bool {
    purge::trim()
}
