//! Ours in three ways, and the predecessor: statics, as in a kernel, each over a region of its own.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::Once;

use buddy_slab_allocator::GlobalAllocator;
use testkit::Reservation;

use super::Engine;
use crate::platforms::{CPU_COUNT, HOST, Pinned, Thread, current_cpu};

/// How much memory every heap over a region gets.
const REGION_BYTES: usize = 256 << 20;
/// Bytes of the system's pages, or a part of them.
const PAGE_BYTES: usize = 0x1000;

/// Address space for a heap that lives as long as the program.
///
/// # Panics
/// If the system refuses it.
pub fn region(size_bytes: usize) -> &'static mut [u8] {
    let map = Reservation::new(size_bytes, 1 << 22).expect("address space for a heap");
    Box::leak(Box::new(map)).bytes_mut()
}

/// Memory for a heap that lives as long as the program, in place as a kernel's is: no page of it is
/// still to be had from the system, which takes a microsecond in the middle of what is timed.
///
/// # Panics
/// If the system refuses it.
pub fn memory() -> &'static mut [u8] {
    let region = region(REGION_BYTES);
    region.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 0);
    region
}

/// A type without fields that stands for a static heap, so that its address is a constant.
macro_rules! engine {
    ($(#[$doc:meta])* $name:ident, $heap:ident: $type:ty = $new:expr, |$region:ident| $init:expr,
     $($hook:item)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default)]
        pub struct $name;

        static $heap: $type = $new;

        impl Engine for $name {
            fn start() {
                static STARTED: Once = Once::new();
                STARTED.call_once(|| {
                    let $region = memory();
                    // SAFETY: the region is leaked, and goes to this heap only.
                    unsafe { $init }.expect("a heap takes its region");
                });
            }

            $($hook)*
        }

        forward!($name, $heap);
    };
}

/// One of ours: it knows of a CPU's life.
macro_rules! ours {
    ($(#[$doc:meta])* $name:ident, $heap:ident: $type:ty = $new:expr, |$region:ident| $init:expr) => {
        engine!(
            $(#[$doc])*
            $name,
            $heap: $type = $new,
            |$region| $init,
            fn leave_thread() {
                $heap.cpu_offline(current_cpu()).expect("the caller's own CPU");
            }

            fn tick() {
                $heap.tick(current_cpu()).expect("the caller's own CPU");
            }
        );
    };
}

ours!(
    /// Ours, *pinned*.
    OursPinned,
    PINNED: GlobalAllocator<0x1000, Pinned<0>> = GlobalAllocator::with_platform(Pinned),
    |region| PINNED.init_raw(region.as_mut_ptr(), region.len(), CPU_COUNT)
);
ours!(
    /// Ours, *thread*.
    OursThread,
    THREAD: GlobalAllocator<0x1000, Thread<1>> = GlobalAllocator::with_platform(Thread),
    |region| THREAD.init_raw(region.as_mut_ptr(), region.len(), CPU_COUNT)
);
ours!(
    /// Ours, *pinned*, with magazines.
    PinnedMagazines,
    PINNED_MAGAZINES: GlobalAllocator<0x1000, Pinned<4, true>> =
        GlobalAllocator::with_platform(Pinned),
    |region| PINNED_MAGAZINES.init_raw(region.as_mut_ptr(), region.len(), CPU_COUNT)
);
ours!(
    /// Ours, *thread*, with magazines.
    ThreadMagazines,
    THREAD_MAGAZINES: GlobalAllocator<0x1000, Thread<5, true>> =
        GlobalAllocator::with_platform(Thread),
    |region| THREAD_MAGAZINES.init_raw(region.as_mut_ptr(), region.len(), CPU_COUNT)
);
ours!(
    /// Ours, *locked*.
    OursLocked,
    LOCKED: GlobalAllocator = GlobalAllocator::new(),
    |region| LOCKED.init(region, CPU_COUNT, &HOST)
);
engine!(
    /// 0.3.0.
    Predecessor,
    OLD: predecessor::GlobalAllocator = predecessor::GlobalAllocator::new(),
    |region| OLD.init(region, CPU_COUNT, &HOST),
);
