//! Engines that hand out pages: ours by address and by owning handle, and those that others have.

use std::hint::black_box;
use std::sync::Once;

use buddy_slab_allocator::{GlobalAllocator, PageBlock, PageOptions};
use buddy_system_allocator::LockedFrameAllocator;

use super::page_floor::Arrays;
use super::{Role, region};
use crate::platforms::{CPU_COUNT, HOST, Pinned, Thread};

/// 262,144 pages, and what it takes to keep account of them.
const REGION_BYTES: usize = (1 << 30) + (64 << 20);
const PAGE_BYTES: usize = 0x1000;

/// What holds pages until they are freed.
pub trait Pages: 'static {
    /// What stands for a block.
    type Block: Send + 'static;

    /// Makes it ready: called before anything else, any number of times.
    fn start();

    /// 2^order pages, aligned to their size.
    fn alloc(order: usize) -> Option<Self::Block>;

    /// Takes them back.
    fn free(block: Self::Block, order: usize);

    /// The block, of which the compiler knows no more than that it is one.
    #[inline(always)]
    fn opaque(block: Self::Block) -> Self::Block {
        black_box(block)
    }
}

/// An engine over a static heap: by address.
macro_rules! by_address {
    ($name:ident, $heap:ident: $type:ty = $new:expr, |$region:ident| $init:expr) => {
        /// By address.
        pub struct $name;

        static $heap: $type = $new;

        impl $name {
            /// The heap itself.
            pub fn heap() -> &'static $type {
                &$heap
            }
        }

        impl Pages for $name {
            type Block = usize;

            fn start() {
                static STARTED: Once = Once::new();
                STARTED.call_once(|| {
                    let $region = region(REGION_BYTES);
                    // SAFETY: the region is leaked, and goes to this heap only.
                    unsafe { $init }.expect("a heap takes its region");
                });
            }

            #[inline(always)]
            fn alloc(order: usize) -> Option<usize> {
                $heap.alloc_pages(1 << order, PAGE_BYTES).ok()
            }

            #[inline(always)]
            fn free(block: usize, order: usize) {
                $heap.dealloc_pages(block, 1 << order);
            }
        }
    };
}

/// An engine over the same heap: by owning handle.
macro_rules! by_handle {
    ($name:ident, $of:ident, $heap:ident, $platform:ty) => {
        /// By `PageBlock`.
        pub struct $name;

        impl Pages for $name {
            type Block = PageBlock<'static, PAGE_BYTES, $platform>;

            fn start() {
                $of::start();
            }

            #[inline(always)]
            fn alloc(order: usize) -> Option<Self::Block> {
                if order == 0 {
                    $heap.alloc_page().ok()
                } else {
                    $heap.alloc_block_of(1 << order, &PageOptions::default()).ok()
                }
            }

            #[inline(always)]
            fn free(block: Self::Block, _: usize) {
                drop(block);
            }

            // The address is known to somebody else, which is enough. Both words of the handle
            // through memory would be written one by one and read back at once, and such a load
            // waits for the stores: 4 ns that have nothing to do with pages.
            #[inline(always)]
            fn opaque(block: Self::Block) -> Self::Block {
                black_box(block.as_ptr());
                block
            }
        }
    };
}

by_address!(PinnedAddress, PINNED: GlobalAllocator<PAGE_BYTES, Pinned<2>> =
    GlobalAllocator::with_platform(Pinned),
    |region| PINNED.init_raw(region.as_mut_ptr(), region.len(), CPU_COUNT));
by_handle!(PinnedBlock, PinnedAddress, PINNED, Pinned<2>);
by_address!(ThreadAddress, THREAD: GlobalAllocator<PAGE_BYTES, Thread<3>> =
    GlobalAllocator::with_platform(Thread),
    |region| THREAD.init_raw(region.as_mut_ptr(), region.len(), CPU_COUNT));
by_handle!(ThreadBlock, ThreadAddress, THREAD, Thread<3>);
by_address!(LockedAddress, LOCKED: GlobalAllocator = GlobalAllocator::new(),
    |region| LOCKED.init(region, CPU_COUNT, &HOST));
by_address!(OldAddress, OLD: predecessor::GlobalAllocator = predecessor::GlobalAllocator::new(),
    |region| OLD.init(region, CPU_COUNT, &HOST));

/// `buddy_system_allocator`'s allocator of frame numbers, which keeps them in trees.
pub struct Frames;

static FRAMES: LockedFrameAllocator<32> = LockedFrameAllocator::new();

impl Pages for Frames {
    type Block = usize;

    fn start() {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| FRAMES.lock().add_frame(1 << 18, 2 << 18));
    }

    #[inline(always)]
    fn alloc(order: usize) -> Option<usize> {
        FRAMES.lock().alloc(1 << order)
    }

    #[inline(always)]
    fn free(block: usize, order: usize) {
        FRAMES.lock().dealloc(block, 1 << order);
    }
}

/// `P`, every call of which is timed.
pub struct TimedPages<P>(std::marker::PhantomData<P>);

impl<P: Pages> Pages for TimedPages<P> {
    type Block = P::Block;

    fn start() {
        P::start();
    }

    #[inline(always)]
    fn alloc(order: usize) -> Option<Self::Block> {
        super::timed::timed(|| P::alloc(order))
    }

    #[inline(always)]
    fn free(block: Self::Block, order: usize) {
        super::timed::timed(|| P::free(block, order));
    }

    #[inline(always)]
    fn opaque(block: Self::Block) -> Self::Block {
        P::opaque(block)
    }
}

/// What is done with an engine once its name is known.
pub trait PageVisitor {
    /// What comes of it.
    type Output;
    /// Does it.
    fn visit<P: Pages>(self) -> Self::Output;
}

macro_rules! page_engines {
    ($($id:ident: $type:ty, $name:literal, $role:ident;)*) => {
        /// The engines of the page workloads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "their names say it")]
        pub enum PageEngineId {
            $($id,)*
        }

        impl PageEngineId {
            /// All of them, in the order of tables.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            /// The name in tables and on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }

            /// Its part in the comparison.
            pub fn role(self) -> Role {
                match self { $(Self::$id => Role::$role,)* }
            }

            /// Hands its type to `visitor`.
            pub fn with<V: PageVisitor>(self, visitor: V) -> V::Output {
                match self { $(Self::$id => visitor.visit::<$type>(),)* }
            }
        }
    };
}

page_engines! {
    PinnedBlock: PinnedBlock, "pinned-block", Ours;
    Pinned: PinnedAddress, "pinned", Ours;
    ThreadBlock: ThreadBlock, "thread-block", Ours;
    Thread: ThreadAddress, "thread", Ours;
    Locked: LockedAddress, "locked", Ours;
    Old: OldAddress, "0.3.0", Peer;
    Frames: Frames, "buddy_system_allocator", Peer;
    Floor: Arrays<false>, "floor", Floor;
    FloorClaim: Arrays<true>, "floor-claim", Floor;
}
