//! Slabs: runs of pages cut into equal objects.
//!
//! - [`SizeClass`]: which object sizes there are. `class_table`: how slabs of each are cut.
//! - `slab`: one slab, its descriptor of bitmaps, what its owner does with it. `layout`: where
//!   the parts of the descriptor lie. `list`: lists of slabs.
//! - `groups`, `inbox`, `remote`: how other CPUs give objects back without waiting.
//! - [`SlabAllocator`]: slabs on their own, with pages supplied by the caller.
//!
//! Free objects are bits in a descriptor, never links inside the objects: memory that a user
//! writes after its free cannot mislead the allocator, and every double free is a bit that is
//! set already.
//!
//! This layer knows nothing of pages, sections or heaps: an owner is a number, a place opaque.

#[cfg(not(loom))]
mod class_table;
#[cfg(not(loom))]
mod fields;
mod groups;
mod inbox;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod list;
#[cfg(not(loom))]
mod remote;
#[cfg(not(loom))]
mod size_class;
#[cfg(not(loom))]
#[expect(clippy::module_inception, reason = "the folder is the layer, the file is one slab")]
mod slab;
#[cfg(not(loom))]
mod standalone;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod size_class_tests;
#[cfg(all(test, not(loom)))]
mod standalone_tests;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(not(loom))]
pub(crate) use {
    class_table::ClassTable,
    groups::RemoteGroup,
    inbox::Inbox,
    list::SlabList,
    remote::{collect, group_index, slab_of, take_one},
    slab::{FreeOutcome, ObjectIndex, Slab, SlabPlace},
};
#[cfg(not(loom))]
pub use {
    size_class::SizeClass,
    standalone::{SlabAllocResult, SlabAllocator, SlabDeallocResult},
};
