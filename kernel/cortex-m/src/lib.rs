//! What a firmware with one core writes to use the allocator: the platform, the heap, its memory.

#![no_std]

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use buddy_slab_allocator::{Access, AllocResult, CriticalSectionLock, GlobalAllocator, Platform};
use critical_section::RestoreState;

/// Bytes of a page.
///
/// Metadata takes 12 bytes of each, 4.7 %. Larger pages save some of that, and cost more: each of the size classes
/// in use ties down a slab of up to 8 pages. Filled with blocks of mixed sizes up to 1 KiB until a request is
/// refused, the heap hands out half of its bytes; with pages of 512 bytes a quarter, of 1024 a tenth.
pub const PAGE_SIZE: usize = 256;

/// Bytes of the heap, its own structures included.
pub const HEAP_BYTES: usize = 64 << 10;

/// The heap of a firmware on this board.
pub type Heap = GlobalAllocator<PAGE_SIZE, Board>;

/// What the allocator asks of this board: one core, whose handlers are masked while it is inside.
pub struct Board;

// SAFETY:
// - between `pin` and `unpin` all handlers are masked but those of faults and of NMIs, which do not
//   allocate here; there is no other core;
// - nothing here unwinds or calls the allocator.
unsafe impl Platform for Board {
    type Lock = CriticalSectionLock;

    /// What `PRIMASK` was.
    type Pin = RestoreState;

    const ACCESS: Access = Access::Exclusive;

    /// Nobody interrupts the allocator, so one is enough, and only early boot would use it.
    const SHARED_HEAPS: usize = 1;

    #[inline]
    fn pin(&self) -> (RestoreState, Option<usize>) {
        // SAFETY: `unpin` gives the state back, in order: pins do not overlap but nest.
        (unsafe { critical_section::acquire() }, Some(0))
    }

    #[inline]
    fn unpin(&self, state: RestoreState) {
        // SAFETY: from the `pin` that this ends.
        unsafe { critical_section::release(state) };
    }
}

/// Memory that is handed to the heap, once.
#[repr(align(256))]
pub struct Memory {
    bytes: UnsafeCell<[u8; HEAP_BYTES]>,
    is_taken: AtomicBool,
}

// SAFETY: the bytes are given away once, and not touched here otherwise.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroes, which take no room in the image.
    pub const fn new() -> Self {
        Self { bytes: UnsafeCell::new([0; HEAP_BYTES]), is_taken: AtomicBool::new(false) }
    }

    /// Gives the memory to `heap`, which serves one CPU from then on.
    ///
    /// # Errors
    /// The heap's.
    ///
    /// # Panics
    /// The second time.
    pub fn give_to(&'static self, heap: &Heap) -> AllocResult {
        let was_taken = critical_section::with(|_| {
            let was_taken = self.is_taken.load(Ordering::Relaxed);
            self.is_taken.store(true, Ordering::Relaxed);
            was_taken
        });
        assert!(!was_taken, "the memory is the heap's already");
        // SAFETY: a static's bytes, which nobody else touches: this happens once.
        unsafe { heap.init_raw(ptr::addr_of_mut!(*self.bytes.get()).cast(), HEAP_BYTES, 1) }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}
