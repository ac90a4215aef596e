//! How much of a region is handed out before the first failure.
//!
//! Sizes are log-uniform, alignment is 8. *Fill* allocates until one request fails. *Churn* stops
//! at 80 % of what this engine reached by *fill* on the same seed, then replaces random
//! allocations by ones of new sizes, and fills again. The share is requested bytes over the region
//! as it was given, metadata and all.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::{self, NonNull};

use buddy_slab_allocator::GlobalAllocator;
use fastrand::Rng;
use talc::TalcCell;
use talc::cell::TalcSyncCell;
use talc::source::Manual;
use testkit::Reservation;

use super::live::{draw, layout};
use super::{Round, Scale};
use crate::engines::timed;
use crate::platforms::HOST;

/// The region that is filled.
pub const REGION_BYTES: usize = 256 << 20;
/// Replacements of *churn*.
pub const REPLACEMENTS: usize = 2_000_000;

/// A heap over one region.
pub trait Bounded: GlobalAlloc {
    /// A heap over `region`.
    ///
    /// # Safety
    /// - The region outlives the heap, and nobody else uses it meanwhile.
    unsafe fn over(region: &mut [u8]) -> Box<Self>;
}

impl Bounded for GlobalAllocator {
    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        let heap = Box::new(Self::new());
        // SAFETY: the same conditions.
        unsafe { heap.init(region, 1, &HOST) }.expect("init");
        heap
    }
}

/// The same, every call of which is timed.
pub struct TimedHeap(Box<GlobalAllocator>);

impl Bounded for TimedHeap {
    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        // SAFETY: the same conditions.
        Box::new(Self(unsafe { GlobalAllocator::over(region) }))
    }
}

// SAFETY: passes every call on.
unsafe impl GlobalAlloc for TimedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same conditions.
        timed(|| unsafe { GlobalAlloc::alloc(&*self.0, layout) })
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the same conditions.
        timed(|| unsafe { GlobalAlloc::dealloc(&*self.0, ptr, layout) })
    }
}

impl Bounded for predecessor::GlobalAllocator {
    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        let heap = Box::new(Self::new());
        // SAFETY: the same conditions.
        unsafe { heap.init(region, 1, &HOST) }.expect("init");
        heap
    }
}

impl Bounded for TalcSyncCell<Manual, talc::DefaultBinning> {
    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        let cell = TalcCell::new(Manual);
        // SAFETY: the same conditions; the heap stays on the thread that made it.
        unsafe {
            cell.claim(region.as_mut_ptr(), region.len()).expect("claim");
            Box::new(Self::new(cell))
        }
    }
}

impl Bounded for buddy_system_allocator::LockedHeap<32> {
    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        let heap = Box::new(Self::new());
        // SAFETY: the same conditions.
        unsafe { heap.lock().init(region.as_mut_ptr().expose_provenance(), region.len()) };
        heap
    }
}

/// `rlsf` behind a lock.
pub struct Tlsf(spin::Mutex<rlsf::Tlsf<'static, u32, u32, 28, 16>>);

impl Bounded for Tlsf {
    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        let mut tlsf = rlsf::Tlsf::new();
        // SAFETY: the same conditions.
        unsafe { tlsf.insert_free_block_ptr(NonNull::from(region)) }.expect("a free block");
        Box::new(Self(spin::Mutex::new(tlsf)))
    }
}

// SAFETY: passes every call on to the TLSF, which never unwinds.
unsafe impl GlobalAlloc for Tlsf {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        if let Some(ptr) = NonNull::new(ptr) {
            // SAFETY: allocated by this heap with this alignment.
            unsafe { self.0.lock().deallocate(ptr, layout.align()) }
        }
    }
}

/// What is allocated.
pub struct Live {
    ptr: *mut u8,
    size_bytes: usize,
}

impl Live {
    /// What it was asked for.
    pub fn layout(&self) -> Layout {
        layout(self.size_bytes)
    }
}

/// When the share is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// When a fresh region fails for the first time.
    Fresh,
    /// When a region fails for the first time that was churned before.
    Churned,
}

/// One kind of filling.
#[derive(Debug, Clone, Copy)]
pub struct Filling {
    /// The largest size in bytes; the smallest is 8.
    pub most: usize,
    /// Fresh or churned.
    pub when: When,
}

/// Rounds that fill a region with `E`, another seed each; the result is per cent of the region.
pub fn prepare<E: Bounded>(filling: Filling, scale: Scale) -> Round {
    let mut seed = 0;
    Box::new(move || {
        seed += 1;
        let (bytes, ()) = fill_region::<E, _>(filling, seed, scale, |_, _| ());
        bytes as f64 / REGION_BYTES as f64 * 100.0
    })
}

/// Fills one region; the bytes requested, and what `look` sees in the full heap.
///
/// # Panics
/// If there is no address space.
pub fn fill_region<E: Bounded, R>(
    filling: Filling,
    seed: u64,
    scale: Scale,
    look: impl Fn(&E, &[Live]) -> R,
) -> (usize, R) {
    let most = filling.most;
    let fresh = |limit: usize, then: &dyn Fn(&E, &mut Rng, &mut Vec<Live>)| {
        let mut rng = Rng::with_seed(seed);
        let mut map = Reservation::new(REGION_BYTES, 1 << 22).expect("256 MiB of address space");
        // SAFETY: the heap is dropped before the map; the map is used by nobody else.
        let heap = unsafe { E::over(map.bytes_mut()) };
        let mut live = Vec::new();
        fill(&*heap, most, &mut rng, &mut live, limit);
        then(&heap, &mut rng, &mut live);
        let bytes: usize = live.iter().map(|object| object.size_bytes).sum();
        (bytes, look(&heap, &live))
    };
    let filled = fresh(usize::MAX, &|_, _, _| ());
    match filling.when {
        When::Fresh => filled,
        When::Churned => fresh(filled.0 / 5 * 4, &|heap, rng, live| {
            churn(heap, most, rng, live, scale.of(REPLACEMENTS));
            fill(heap, most, rng, live, usize::MAX);
        }),
    }
}

/// Allocates until `limit` bytes are requested or one request fails.
fn fill<E: Bounded>(heap: &E, most: usize, rng: &mut Rng, live: &mut Vec<Live>, limit: usize) {
    let mut total = 0;
    while total < limit {
        let size_bytes = draw(8, most, rng);
        // SAFETY: no size is zero.
        let ptr = unsafe { heap.alloc(layout(size_bytes)) };
        if ptr.is_null() {
            break;
        }
        total += size_bytes;
        live.push(Live { ptr, size_bytes });
    }
}

/// Replaces random allocations; one whose replacement is refused is gone.
fn churn<E: Bounded>(heap: &E, most: usize, rng: &mut Rng, live: &mut Vec<Live>, times: usize) {
    for _ in 0..times {
        let index = rng.usize(..live.len());
        let size_bytes = draw(8, most, rng);
        // SAFETY: allocated by this heap with this layout, and replaced or removed below.
        unsafe { heap.dealloc(live[index].ptr, live[index].layout()) };
        // SAFETY: no size is zero.
        let ptr = unsafe { heap.alloc(layout(size_bytes)) };
        if ptr.is_null() {
            live.swap_remove(index);
        } else {
            live[index] = Live { ptr, size_bytes };
        }
    }
}
