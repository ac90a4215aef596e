//! The program's only heap: buddy-slab-allocator over the one region.
//!
//! The first allocation, which the runtime makes before `main`, maps the region and initialises
//! the allocator. A request that cannot be served ends the program with a message that says what
//! was asked and what was left, written without allocating.
//!
//! The fast path asks nothing: before it is initialised the allocator answers null like one that
//! is exhausted, and only then is it looked at which of the two it was.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use buddy_slab_allocator::GlobalAllocator;
use buddy_slab_allocator::inspect::Snapshot;

use crate::platform::{THREAD_LIMIT, Threads};
use crate::text::Bytes;
use crate::{boot, region, report, say};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 0x1000;

#[global_allocator]
static HEAP: Heap = Heap {
    allocator: GlobalAllocator::with_platform(Threads),
    state: AtomicU8::new(ABSENT),
    region_len: AtomicUsize::new(0),
};

const ABSENT: u8 = 0;
const STARTING: u8 = 1;
const READY: u8 = 2;

struct Heap {
    allocator: GlobalAllocator<PAGE_SIZE, Threads>,
    state: AtomicU8,
    region_len: AtomicUsize,
}

/// What the heap looks like at this moment. Allocates nothing.
pub fn snapshot() -> Snapshot {
    HEAP.allocator.snapshot()
}

/// Takes back what caches keep, so that a snapshot counts what is in use; returns the pages freed.
pub fn settle() -> usize {
    HEAP.allocator.shrink()
}

/// Checks every counting equation inside the allocator (compiled in with debug assertions).
///
/// # Panics
/// If one does not hold.
pub fn check_invariants() {
    HEAP.allocator.check_invariants();
}

/// The text of a map of the heap.
pub fn map(width: usize, rows: usize) -> impl core::fmt::Display {
    HEAP.allocator.heap_map(width, rows)
}

/// Length of the region in bytes.
pub fn region_len() -> usize {
    HEAP.region_len.load(Ordering::Relaxed)
}

/// Hands on the heap of a thread that ends.
pub fn thread_ends(index: usize) {
    // It fails only for an index that is not the caller's.
    let _ = HEAP.allocator.cpu_offline(index);
}

impl Heap {
    /// A request came back empty: starts the heap if that is why, or ends the program.
    #[cold]
    fn or_start(&self, layout: Layout, again: impl FnOnce() -> *mut u8) -> *mut u8 {
        let was_ready = self.state.load(Ordering::Acquire) == READY;
        if was_ready {
            self.exhausted(layout);
        }
        self.start();
        let ptr = again();
        if ptr.is_null() {
            self.exhausted(layout);
        }
        ptr
    }

    /// Maps the region and initialises the allocator, once; others wait.
    fn start(&self) {
        let mine = self
            .state
            .compare_exchange(ABSENT, STARTING, Ordering::Acquire, Ordering::Acquire)
            .is_ok();
        if !mine {
            while self.state.load(Ordering::Acquire) != READY {
                core::hint::spin_loop();
            }
            return;
        }
        let Some(asked) = boot::region_bytes() else {
            say::die(format_args!("buddy-slab: the region does not fit the address space\n"))
        };
        let Some(region) = region::map(asked) else {
            say::die(format_args!(
                "buddy-slab: the system refused to map a region of {}\n",
                Bytes::of(asked)
            ))
        };
        self.region_len.store(region.len, Ordering::Relaxed);
        // SAFETY: the region was mapped for this alone, is readable and writable, and stays until
        // the process ends.
        let outcome = unsafe { self.allocator.init_raw(region.base, region.len, THREAD_LIMIT) };
        if let Err(error) = outcome {
            say::die(format_args!(
                "buddy-slab: a region of {} cannot be managed: {error}\n",
                Bytes::of(region.len)
            ))
        }
        self.state.store(READY, Ordering::Release);
    }

    /// Says what was asked and what is left, and ends the process.
    fn exhausted(&self, layout: Layout) -> ! {
        static SPEAKER: AtomicU8 = AtomicU8::new(0);
        if SPEAKER.swap(1, Ordering::Relaxed) != 0 {
            // Another thread is speaking, and will end the process.
            loop {
                core::hint::spin_loop();
            }
        }
        let now = self.allocator.snapshot();
        let free = report::free_pages(&now);
        let largest = report::largest_free_order(&now).map_or(0, |order| PAGE_SIZE << order);
        let region = self.region_len.load(Ordering::Relaxed);
        say::die(format_args!(
            "\nbuddy-slab: the region of {} is too small\n  \
             asked: {} bytes, aligned to {}\n  \
             left:  {} in {free} pages, the largest block {}; {} are in use\n  \
             try again with --region-mib {}\n",
            Bytes::of(region),
            layout.size(),
            layout.align(),
            Bytes::of(free * PAGE_SIZE),
            Bytes::of(largest),
            Bytes::of(now.allocated_bytes),
            (region >> 20).max(1) * 2,
        ))
    }
}

// SAFETY: every request goes to the allocator unchanged, and is repeated only after it returned
// null, that is, had no effect.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's conditions are the allocator's.
        let serve = || unsafe { GlobalAlloc::alloc(&self.allocator, layout) };
        let ptr = serve();
        if ptr.is_null() { self.or_start(layout, serve) } else { ptr }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's conditions are the allocator's.
        unsafe { GlobalAlloc::dealloc(&self.allocator, ptr, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's conditions are the allocator's.
        let serve = || unsafe { GlobalAlloc::alloc_zeroed(&self.allocator, layout) };
        let ptr = serve();
        if ptr.is_null() { self.or_start(layout, serve) } else { ptr }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's conditions are the allocator's.
        let serve = || unsafe { GlobalAlloc::realloc(&self.allocator, ptr, layout, new_size) };
        let moved = serve();
        if !moved.is_null() {
            return moved;
        }
        // SAFETY: the caller vouches for `new_size` and the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        self.or_start(wanted, serve)
    }
}
