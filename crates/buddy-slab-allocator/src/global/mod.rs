//! The facade: routes a request by size and alignment, and decides what to do when nothing is
//! left. Everything it knows about one CPU is in `percpu`, about pages in `buddy`.
//!
//! - `session`: which heap a call works on, and what it may wait for
//! - `init`, `memory_map`: regions in
//! - `objects`, `free`, `large`, `resize`, `usable`: `alloc`, `dealloc`, `realloc`, how much fits
//! - `pages`, `block`: pages by address and by handle; `blocks`: where both end
//! - `stock`: pages for handlers
//! - `pressure`: what happens before `NoMemory`
//! - `purge`: free memory is given up to whoever backs it
//! - `freeze`: everybody is kept out, for a copy of the address space
//! - `watermarks`: what is kept for handlers
//! - `life`: CPUs come, sleep and go
//! - `misuse`: what happens on a bad free
//! - `edges`: `GlobalAlloc`, `Allocator`
//! - `object_cache`: typed caches

mod block;
mod blocks;
mod edges;
mod free;
mod freeze;
mod init;
mod large;
mod life;
mod memory_map;
mod misuse;
mod object_cache;
mod objects;
mod pages;
mod pressure;
mod purge;
mod query;
mod removal;
mod resize;
mod session;
mod stock;
mod usable;
mod watermarks;

pub use block::PageBlock;
pub use memory_map::{MemoryKind, MemoryRange};
pub use misuse::MisuseReport;
pub use object_cache::{CacheBox, ObjectCache};
pub use pages::PageOptions;
pub use removal::SectionRemoval;

use crate::buddy::{PageCore, Wait};
use crate::percpu::{Env, Heap, HeapTable};
use crate::platform::{OsPlatform, Platform};
use crate::sync::RawLock;
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize};

/// A heap over any number of regions: per-CPU slabs above a buddy allocator.
///
/// It is meant to be a `static`, `#[global_allocator]` or not. `PAGE_SIZE` is a power of two;
/// `P` says how the running CPU's heap is reached (see [`platform`](crate::platform)): the
/// default is the published [`OsImpl`](crate::OsImpl) interface.
///
/// All functions may be called from any CPU at any time. Handlers that may have interrupted the
/// allocator allocate, free, resize and ask; they do not initialise, add or remove regions, attach
/// CPUs, or say that a CPU sleeps or stops.
pub struct GlobalAllocator<const PAGE_SIZE: usize = 0x1000, P: Platform = OsPlatform> {
    core: PageCore<PAGE_SIZE, P::Lock>,
    heaps: HeapTable<PAGE_SIZE, P::Lock>,
    platform: P,
    /// `init::{NEW, STARTING, READY}`.
    state: AtomicU8,
    /// Serialises the draining of other CPUs' heaps.
    pressure: P::Lock,
    /// The reclaim callback, as a pointer; null if there is none.
    reclaim: AtomicPtr<()>,
    reclaiming: AtomicBool,
    /// What running CPUs are asked for while they are drained: class number plus one, or 0.
    wanted: AtomicU8,
    /// What one of them gave.
    gift: AtomicPtr<u8>,
    /// The misuse handler, as a pointer; null if there is none.
    misuse: AtomicPtr<()>,
    misuse_count: AtomicUsize,
    /// How often a handler was diverted because it had interrupted the allocator.
    reentries: AtomicUsize,
    /// Whether the shared heaps' stock may need filling up.
    stock_low: AtomicBool,
}

impl<const PAGE_SIZE: usize> GlobalAllocator<PAGE_SIZE> {
    /// An allocator without memory; [`init`](Self::init) gives it some.
    pub const fn new() -> Self {
        Self::with_platform(OsPlatform::new())
    }
}

impl<const PAGE_SIZE: usize> Default for GlobalAllocator<PAGE_SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    const CHECKED: () = {
        assert!(P::SHARED_HEAPS > 0, "early boot and re-entering handlers need a shared heap");
        assert!(P::SHARED_HEAPS < 256, "a few shared heaps are enough");
        Self::PAGE_SIZE_CHECKED
    };

    const PAGE_SIZE_CHECKED: () = assert!(
        PAGE_SIZE.is_power_of_two() && PAGE_SIZE >= 256 && PAGE_SIZE <= 1 << 22,
        "PAGE_SIZE must be a power of two, 256 bytes to 4 MiB"
    );

    /// Bytes that the heap of each CPU, and each shared one, takes of the memory that is managed.
    pub const BYTES_PER_CPU: usize = size_of::<Heap<PAGE_SIZE, P::Lock>>();

    /// An allocator without memory, on a platform of one's own.
    pub const fn with_platform(platform: P) -> Self {
        let () = Self::CHECKED;
        Self {
            core: PageCore::new(),
            heaps: HeapTable::new(),
            platform,
            state: AtomicU8::new(init::NEW),
            pressure: P::Lock::NEW,
            reclaim: AtomicPtr::new(core::ptr::null_mut()),
            reclaiming: AtomicBool::new(false),
            wanted: AtomicU8::new(0),
            gift: AtomicPtr::new(core::ptr::null_mut()),
            misuse: AtomicPtr::new(core::ptr::null_mut()),
            misuse_count: AtomicUsize::new(0),
            reentries: AtomicUsize::new(0),
            stock_low: AtomicBool::new(true),
        }
    }

    /// The platform that was given to [`with_platform`](Self::with_platform).
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// The surroundings of a heap for a holder that may wait as `wait` says.
    #[inline(always)]
    fn env_of<'a>(
        &'a self,
        heap: &'a Heap<PAGE_SIZE, P::Lock>,
        wait: Wait,
    ) -> Env<'a, PAGE_SIZE, P::Lock> {
        Env {
            core: &self.core,
            heaps: &self.heaps,
            id: heap.id(),
            node: heap.node(),
            wait,
            use_reserve: matches!(wait, Wait::Try),
            magazines: P::MAGAZINES,
            page_counts: heap.page_counts(),
        }
    }
}
