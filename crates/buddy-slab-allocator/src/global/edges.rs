//! The Rust edges: `GlobalAlloc`, and `Allocator` of allocator-api2 and of nightly. Thin, no
//! policy of their own.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use super::GlobalAllocator;
use crate::platform::Platform;
use crate::slab::SizeClass;

// SAFETY:
// - what `alloc` returns is aligned and large enough for the layout and overlaps nothing live, by
//   the invariants of slabs and sections;
// - nothing here unwinds: failures are null, misuse ends in the handler or an abort.
unsafe impl<const PAGE_SIZE: usize, P: Platform> GlobalAlloc for GlobalAllocator<PAGE_SIZE, P> {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // The same as the function of that name, but that no reason is worked out for a failure:
        // both ways end in a call, and nothing has to be saved for after it.
        let object = match SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE) {
            Some(class) => self.alloc_object(class),
            None => self.alloc_large_object(layout),
        };
        object.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.alloc_zeroed(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline(always)]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if let Some(ptr) = NonNull::new(ptr) {
            // SAFETY: the caller's promise to `GlobalAlloc::dealloc` is the same.
            unsafe { self.dealloc(ptr, layout) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(ptr) = NonNull::new(ptr) else { return ptr::null_mut() };
        // SAFETY: the caller's promise to `GlobalAlloc::realloc` is the same.
        unsafe { self.realloc(ptr, layout, new_size) }.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

/// The body of both `Allocator` traits, which have the same shape.
#[cfg(any(feature = "allocator-api2", feature = "nightly"))]
macro_rules! impl_allocator {
    ($allocator:path, $error:path) => {
        // SAFETY:
        // - memory stays valid until it is deallocated: the reference outlives nothing, and the
        //   allocator owns its regions for as long as it is used;
        // - a copy of the reference is the same allocator.
        unsafe impl<const PAGE_SIZE: usize, P: Platform> $allocator
            for &GlobalAllocator<PAGE_SIZE, P>
        {
            fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, $error> {
                if layout.size() == 0 {
                    let dangling = NonNull::without_provenance(
                        core::num::NonZero::new(layout.align()).ok_or($error)?,
                    );
                    return Ok(NonNull::slice_from_raw_parts(dangling, 0));
                }
                let memory = GlobalAllocator::alloc(self, layout).map_err(|_| $error)?;
                Ok(NonNull::slice_from_raw_parts(memory, layout.size()))
            }

            fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, $error> {
                if layout.size() == 0 {
                    return self.allocate(layout);
                }
                let memory = GlobalAllocator::alloc_zeroed(self, layout).map_err(|_| $error)?;
                Ok(NonNull::slice_from_raw_parts(memory, layout.size()))
            }

            unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
                if layout.size() != 0 {
                    // SAFETY: the caller's promise to `Allocator::deallocate` is the same.
                    unsafe { GlobalAllocator::dealloc(self, ptr, layout) }
                }
            }
        }
    };
}

#[cfg(feature = "allocator-api2")]
impl_allocator!(allocator_api2::alloc::Allocator, allocator_api2::alloc::AllocError);

#[cfg(feature = "nightly")]
impl_allocator!(core::alloc::Allocator, core::alloc::AllocError);
