//! The Rust edge: `GlobalAlloc`.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use crate::process::{ALLOCATOR, refused};
use crate::{heap, huge};

/// The process's heap as a `#[global_allocator]`. See the [crate's page](crate).
#[derive(Debug, Clone, Copy, Default)]
pub struct BuddySlabMalloc(());

impl BuddySlabMalloc {
    /// The heap; all values are the same one.
    pub const fn new() -> Self {
        Self(())
    }

    /// Gives back to the system what is not in use, as far as it can be had; whether that was
    /// anything.
    pub fn trim(&self) -> bool {
        heap::trim()
    }
}

/// What no section holds is not known to the allocator.
const SECTION_LIMIT: usize = crate::PAGE_SIZE << 20;

// SAFETY:
// - what comes back is aligned and large enough for the layout and overlaps nothing live, by the
//   allocator's own promise, and that of the mappings of `huge`;
// - nothing here unwinds: failures are null, misuse ends in a report or an abort.
unsafe impl GlobalAlloc for BuddySlabMalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match ALLOCATOR.alloc(layout) {
            Ok(object) => object.as_ptr(),
            Err(_) => refused(layout),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        heap::allocate_zeroed(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        let Some(ptr) = NonNull::new(ptr) else { return };
        if layout.size() > SECTION_LIMIT {
            huge::release(ptr.addr().get());
            return;
        }
        // SAFETY: the caller's promise to `GlobalAlloc::dealloc` is the same.
        unsafe { ALLOCATOR.dealloc(ptr, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(old) = NonNull::new(ptr) else { return ptr::null_mut() };
        if layout.size() <= SECTION_LIMIT && new_size <= SECTION_LIMIT {
            // SAFETY: the caller's allocation, with its layout.
            if unsafe { ALLOCATOR.resize_in_place(old, layout, new_size) } {
                return ptr;
            }
        }
        // SAFETY: the new size, rounded up to the alignment, fits (the caller's promise).
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: both are live and hold the smaller size; the old one is freed with its layout.
        unsafe {
            let new = heap::allocate_resized(new_layout, layout.size());
            if !new.is_null() {
                heap::relocate(ptr, new, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            new
        }
    }
}
