//! Allocators that ask the operating system for their memory.

use std::alloc::System;

use super::Engine;

impl Engine for System {}

#[cfg(feature = "peers")]
pub use native::{Jemalloc, MiMalloc, RpMalloc, SnMalloc};

#[cfg(feature = "peers")]
mod native {
    use std::alloc::{GlobalAlloc, Layout};
    use std::sync::Once;

    use super::Engine;

    /// A copy of a crate's allocator: all of them are types without fields, but not all `Default`.
    macro_rules! engine {
        ($(#[$doc:meta])* $name:ident, $inner:expr, $($hook:item)*) => {
            $(#[$doc])*
            #[derive(Clone, Copy, Default)]
            pub struct $name;

            impl Engine for $name {
                $($hook)*
            }

            // SAFETY: passes every call on to one `GlobalAlloc`.
            unsafe impl GlobalAlloc for $name {
                #[inline(always)]
                unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
                    // SAFETY: the same conditions.
                    unsafe { $inner.alloc(layout) }
                }

                #[inline(always)]
                unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
                    // SAFETY: the same conditions.
                    unsafe { $inner.alloc_zeroed(layout) }
                }

                #[inline(always)]
                unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
                    // SAFETY: the same conditions.
                    unsafe { $inner.dealloc(ptr, layout) }
                }

                #[inline(always)]
                unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
                    // SAFETY: the same conditions.
                    unsafe { $inner.realloc(ptr, layout, size) }
                }
            }
        };
    }

    engine!(
        /// `mimalloc`.
        MiMalloc,
        mimalloc::MiMalloc,
    );
    engine!(
        /// `snmalloc-rs`.
        SnMalloc,
        snmalloc_rs::SnMalloc,
    );
    engine!(
        /// `tikv-jemallocator`.
        Jemalloc,
        tikv_jemallocator::Jemalloc,
    );
    engine!(
        /// `rpmalloc`, which wants every thread announced.
        RpMalloc,
        rpmalloc::RpMalloc,
        fn start() {
            static STARTED: Once = Once::new();
            STARTED.call_once(|| {
                // SAFETY: before any other call of the library.
                assert_eq!(unsafe { rpmalloc_sys::rpmalloc_initialize() }, 0);
            });
        }

        fn enter_thread() {
            // SAFETY: the library is initialised: threads are entered after `start`.
            unsafe { rpmalloc_sys::rpmalloc_thread_initialize() }
        }
    );
}
