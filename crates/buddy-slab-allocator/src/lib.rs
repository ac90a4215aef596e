//! Buddy pages under per-CPU slabs, behind one [`GlobalAlloc`](core::alloc::GlobalAlloc) facade:
//! a heap for kernels, hypervisors, unikernels and firmware. `no_std`, stable Rust, tied to no OS.
//!
//! # Words
//! - **page**: `PAGE_SIZE` bytes, aligned to its size; a **page frame number** (PFN) is its index
//!   within its section.
//! - **section**: one contiguous managed range, with the metadata of its pages at its end.
//! - **block**: 2^order pages, aligned to its size in the absolute address; two **buddies** of
//!   one order **merge** into a block of the next, and a block **splits** into two.
//! - **zone**: pages that share a physical reach (DMA, DMA32, normal); a **node** is where memory
//!   is near (NUMA).
//! - **slab**: a run of pages cut into equal **objects** of one **size class**; it is *full*,
//!   *partial* or *empty*.
//! - **page list**: the pages a CPU keeps at hand. **Magazine**: the stack of objects of a class
//!   that a CPU keeps for itself, where the platform wants that. **Remote free**: a free by a CPU
//!   that does not own the slab. **Refill** and **drain** move memory between a cache and its owner;
//!   **reclaim** gives kept memory back under pressure.
//!
//! # Layers
//! `global → percpu → slab, buddy → platform, sync → units, error`; imports run downwards only.
//!
//! # Example
//! ```
//! use buddy_slab_allocator::{GlobalAllocator, OsImpl};
//! use core::alloc::Layout;
//!
//! struct Kernel;
//! impl OsImpl for Kernel {
//!     fn current_cpu_idx(&self) -> usize { 0 }
//!     fn virt_to_phys(&self, vaddr: usize) -> usize { vaddr }
//! }
//! static KERNEL: Kernel = Kernel;
//! static HEAP: GlobalAllocator = GlobalAllocator::new();
//!
//! let region = vec![0xAAu8; 1 << 20].leak();
//! // SAFETY: the region is leaked: nobody else uses it, and it lives forever.
//! unsafe { HEAP.init(region, 1, &KERNEL) }?;
//! let layout = Layout::new::<[u64; 8]>();
//! let object = HEAP.alloc(layout)?;
//! // SAFETY: allocated just above with this layout.
//! unsafe { HEAP.dealloc(object, layout) };
//! let pages = HEAP.alloc_pages(3, 0)?;
//! HEAP.dealloc_pages(pages, 3);
//! # Ok::<(), buddy_slab_allocator::AllocError>(())
//! ```

#![cfg_attr(not(test), no_std)]
#![cfg_attr(feature = "nightly", feature(allocator_api, strict_provenance_lints))]
#![cfg_attr(feature = "nightly", warn(fuzzy_provenance_casts, lossy_provenance_casts))]

mod error;
mod sync;
mod units;

pub mod buddy;
#[cfg(not(loom))]
pub mod global;
#[cfg(not(loom))]
pub mod inspect;
#[cfg(not(loom))]
mod percpu;
#[cfg(not(loom))]
pub mod platform;
pub mod slab;

#[cfg(not(loom))]
pub use buddy::{BuddyAllocator, ManagedSection, Watermarks};
pub use error::{AllocError, AllocResult};
#[cfg(not(loom))]
pub use global::{
    CacheBox, GlobalAllocator, MemoryKind, MemoryRange, MisuseReport, ObjectCache, PageBlock,
    PageOptions, SectionRemoval,
};
#[cfg(not(loom))]
pub use platform::{Access, ContextSlot, OsImpl, OsPlatform, Platform};
#[cfg(not(loom))]
pub use slab::{SizeClass, SlabAllocResult, SlabAllocator, SlabDeallocResult};
#[cfg(feature = "critical-section")]
pub use sync::CriticalSectionLock;
#[cfg(feature = "lock_api")]
pub use sync::LockApi;
#[cfg(not(loom))]
pub use sync::{RawLock, SpinLock};
pub use units::{Misuse, Zone};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
