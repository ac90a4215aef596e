//! The heaps that `pair` and `handover` compare, each behind a type without fields.
//!
//! Ours and the predecessor's are statics, as in a kernel; mimalloc and the system's are what
//! their crates give. [`GlobalAlloc`] is the face of all of them; calls are static.

use std::alloc::{GlobalAlloc, Layout};

use buddy_slab_allocator::GlobalAllocator;
use testkit::Reservation;

use crate::platforms::{HOST, Pinned, Thread};

/// Ours, *pinned*.
pub static PINNED: GlobalAllocator<0x1000, Pinned> = GlobalAllocator::with_platform(Pinned);
/// Ours, *thread*.
pub static THREAD: GlobalAllocator<0x1000, Thread> = GlobalAllocator::with_platform(Thread);
/// Ours, *locked*.
pub static LOCKED: GlobalAllocator = GlobalAllocator::new();
/// 0.3.0.
pub static OLD: predecessor::GlobalAllocator = predecessor::GlobalAllocator::new();

const REGION_BYTES: usize = 1 << 30;
const CPU_COUNT: usize = 2;

/// Gives every static heap its region, once in the life of the program.
///
/// # Panics
/// If the system refuses the address space, or a heap its region.
pub fn start() {
    fn region() -> &'static mut [u8] {
        let map = Reservation::new(REGION_BYTES, 1 << 21).expect("1 GiB of address space");
        Box::leak(Box::new(map)).bytes_mut()
    }
    let (pinned, thread) = (region(), region());
    // SAFETY: every region is leaked and goes to one heap only.
    unsafe {
        PINNED.init_raw(pinned.as_mut_ptr(), pinned.len(), CPU_COUNT).expect("pinned");
        THREAD.init_raw(thread.as_mut_ptr(), thread.len(), CPU_COUNT).expect("thread");
        LOCKED.init(region(), CPU_COUNT, &HOST).expect("locked");
        OLD.init(region(), CPU_COUNT, &HOST).expect("0.3.0");
    }
}

/// A type without fields that stands for a static heap, so that its address is a constant.
macro_rules! engine {
    ($(#[$doc:meta])* $name:ident, $heap:path) => {
        $(#[$doc])*
        pub struct $name;

        // SAFETY: passes every call on to one `GlobalAlloc`.
        unsafe impl GlobalAlloc for $name {
            #[inline(always)]
            unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
                // SAFETY: the same conditions.
                unsafe { GlobalAlloc::alloc(&$heap, layout) }
            }

            #[inline(always)]
            unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
                // SAFETY: the same conditions.
                unsafe { GlobalAlloc::dealloc(&$heap, ptr, layout) }
            }
        }
    };
}

engine!(
    /// Ours, *pinned*.
    OursPinned,
    PINNED
);
engine!(
    /// Ours, *thread*.
    OursThread,
    THREAD
);
engine!(
    /// Ours, *locked*.
    OursLocked,
    LOCKED
);
engine!(
    /// The predecessor.
    Predecessor,
    OLD
);
