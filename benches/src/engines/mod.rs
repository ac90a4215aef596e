//! What the workloads compare: each engine is a type without fields with [`GlobalAlloc`] as its
//! face, so that every call in a timed loop is static.

/// Makes `$name` a `GlobalAlloc` that passes every call on to the static `$heap`.
macro_rules! forward {
    ($name:ident, $heap:path) => {
        // SAFETY: passes every call on to one `GlobalAlloc`.
        unsafe impl GlobalAlloc for $name {
            #[inline(always)]
            unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
                // SAFETY: the same conditions.
                unsafe { GlobalAlloc::alloc(&$heap, layout) }
            }

            #[inline(always)]
            unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
                // SAFETY: the same conditions.
                unsafe { GlobalAlloc::alloc_zeroed(&$heap, layout) }
            }

            #[inline(always)]
            unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
                // SAFETY: the same conditions.
                unsafe { GlobalAlloc::dealloc(&$heap, ptr, layout) }
            }

            #[inline(always)]
            unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
                // SAFETY: the same conditions.
                unsafe { GlobalAlloc::realloc(&$heap, ptr, layout, new_size) }
            }
        }
    };
}

mod floor;
pub mod floors;
mod hosted_peers;
mod locked_peers;
mod ours;
mod page_floor;
pub mod pages;
mod timed;

use std::alloc::GlobalAlloc;

pub use floor::Floor;
#[cfg(feature = "peers")]
pub use hosted_peers::{Jemalloc, MiMalloc, RpMalloc, SnMalloc};
pub use locked_peers::{BuddySystem, LinkedList, Rlsf, Talc};
pub use ours::{
    OursLocked, OursPinned, OursThread, PinnedMagazines, Predecessor, ThreadMagazines, region,
};
pub(crate) use timed::timed;
pub use timed::{Timed, calls_since, clear_calls, new_histogram};

/// Whether peers written in C and C++ are built in.
pub const HAS_NATIVE_PEERS: bool = cfg!(feature = "peers");

/// One allocator.
pub trait Engine: GlobalAlloc + Copy + Default + Send + Sync + 'static {
    /// Makes it ready: called before anything else, any number of times, by the main thread.
    fn start() {}

    /// Called by every other thread before it allocates; its CPU number is set.
    fn enter_thread() {}

    /// Called by a thread that ends for good, where a hosted engine has a destructor of
    /// thread-local data.
    fn leave_thread() {}

    /// What the timer of a kernel would call on the caller's CPU.
    fn tick() {}
}

/// What an engine is to a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// This library.
    Ours,
    /// What it is compared to.
    Peer,
    /// What the harness costs alone, or a [prototype](floors).
    Floor,
}

/// What is done with an engine once its name is known.
pub trait Visitor {
    /// What comes of it.
    type Output;
    /// Does it.
    fn visit<E: Engine>(self) -> Self::Output;
}

macro_rules! engines {
    ($($(#[$meta:meta])* $id:ident: $type:ty, $name:literal, $role:ident;)*) => {
        /// The engines of the object workloads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "their names say it")]
        pub enum EngineId {
            $($(#[$meta])* $id,)*
        }

        impl EngineId {
            /// All of them, in the order of tables.
            pub const ALL: &'static [Self] = &[$($(#[$meta])* Self::$id,)*];

            /// The name in tables and on the command line.
            pub fn name(self) -> &'static str {
                match self { $($(#[$meta])* Self::$id => $name,)* }
            }

            /// Its part in the comparison.
            pub fn role(self) -> Role {
                match self { $($(#[$meta])* Self::$id => Role::$role,)* }
            }

            /// Hands its type to `visitor`.
            pub fn with<V: Visitor>(self, visitor: V) -> V::Output {
                match self { $($(#[$meta])* Self::$id => visitor.visit::<$type>(),)* }
            }
        }
    };
}

engines! {
    Pinned: OursPinned, "pinned", Ours;
    Thread: OursThread, "thread", Ours;
    PinnedMagazines: PinnedMagazines, "pinned-mag", Ours;
    ThreadMagazines: ThreadMagazines, "thread-mag", Ours;
    Locked: OursLocked, "locked", Ours;
    Old: Predecessor, "0.3.0", Peer;
    BuddySystem: BuddySystem, "buddy_system_allocator", Peer;
    LinkedList: LinkedList, "linked_list_allocator", Peer;
    Rlsf: Rlsf, "rlsf", Peer;
    Talc: Talc, "talc", Peer;
    #[cfg(feature = "peers")]
    MiMalloc: MiMalloc, "mimalloc", Peer;
    #[cfg(feature = "peers")]
    SnMalloc: SnMalloc, "snmalloc", Peer;
    #[cfg(feature = "peers")]
    Jemalloc: Jemalloc, "jemalloc", Peer;
    #[cfg(feature = "peers")]
    RpMalloc: RpMalloc, "rpmalloc", Peer;
    System: std::alloc::System, "system", Peer;
    Floor: Floor, "floor", Floor;
    FloorList: floors::List, "floor-list", Floor;
    FloorBits: floors::Bits, "floor-bits", Floor;
    FloorMagazine: floors::Magazines, "floor-magazine", Floor;
}
