//! Heaps of other crates over one region, each behind a spin lock, as kernels run them.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::{self, NonNull};
use std::sync::Once;

use super::Engine;
use super::ours::memory;

/// `rlsf`'s TLSF with the bitmaps that its docs suggest for a large pool.
type Tlsf = rlsf::Tlsf<'static, u32, u32, 28, 16>;

static BUDDY: buddy_system_allocator::LockedHeap<32> = buddy_system_allocator::LockedHeap::new();
static LINKED_LIST: linked_list_allocator::LockedHeap = linked_list_allocator::LockedHeap::empty();
static RLSF: spin::Mutex<Tlsf> = spin::Mutex::new(Tlsf::new());
static TALC: talc::TalcLock<spin::Mutex<()>, talc::source::Manual> =
    talc::TalcLock::new(talc::source::Manual);

/// Passes the calls of a type without fields on to a static `GlobalAlloc`.
macro_rules! engine {
    ($(#[$doc:meta])* $name:ident, $heap:path, |$region:ident| $init:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default)]
        pub struct $name;

        impl Engine for $name {
            fn start() {
                static STARTED: Once = Once::new();
                STARTED.call_once(|| {
                    let $region = memory();
                    // SAFETY: the region is leaked, and goes to this heap only.
                    unsafe { $init }
                });
            }
        }

        forward!($name, $heap);
    };
}

engine!(
    /// `buddy_system_allocator`.
    BuddySystem,
    BUDDY,
    |region| BUDDY.lock().init(region.as_mut_ptr().expose_provenance(), region.len())
);
engine!(
    /// `linked_list_allocator`.
    LinkedList,
    LINKED_LIST,
    |region| LINKED_LIST.lock().init(region.as_mut_ptr(), region.len())
);
engine!(
    /// `talc`.
    Talc,
    TALC,
    |region| {
        TALC.lock().claim(region.as_mut_ptr(), region.len()).expect("claim");
    }
);

/// `rlsf`, which has no locked heap over a region of its own.
#[derive(Clone, Copy, Default)]
pub struct Rlsf;

impl Engine for Rlsf {
    fn start() {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| {
            let region = NonNull::from(memory());
            // SAFETY: the region is leaked, and goes to this heap only.
            unsafe { RLSF.lock().insert_free_block_ptr(region) }.expect("a free block");
        });
    }
}

// SAFETY: passes every call on to the TLSF, which never unwinds.
unsafe impl GlobalAlloc for Rlsf {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        RLSF.lock().allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    #[inline(always)]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if let Some(ptr) = NonNull::new(ptr) {
            // SAFETY: allocated by this heap with this alignment.
            unsafe { RLSF.lock().deallocate(ptr, layout.align()) }
        }
    }

    #[inline(always)]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(ptr) = NonNull::new(ptr) else { return ptr::null_mut() };
        // SAFETY: the caller's promise to `GlobalAlloc::realloc`.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: allocated by this heap with this alignment.
        let moved = unsafe { RLSF.lock().reallocate(ptr, new) };
        moved.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}
