//! Slabs: runs of pages cut into equal objects.
//!
//! - [`SizeClass`]: which object sizes there are. `class_table`: how slabs of each are cut.
//! - `slab`: one slab, its descriptor, what its owner does with it. `group`: a word's worth of its
//!   objects, where allocating and freeing happen. `object_index`: from an address to an object.
//!   `label`: what the pages of a slab say about it. `layout`: where the parts of the descriptor
//!   lie. `list`: lists of slabs.
//! - `remote_word`, `inbox`, `remote`: how other CPUs give objects back without waiting.
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
mod divisor;
#[cfg(not(loom))]
mod fields;
#[cfg(not(loom))]
mod group;
mod inbox;
#[cfg(not(loom))]
mod label;
#[cfg(not(loom))]
mod layout;
#[cfg(not(loom))]
mod list;
#[cfg(not(loom))]
mod object_index;
#[cfg(not(loom))]
mod remote;
mod remote_word;
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
    group::{Group, GroupFree},
    inbox::Inbox,
    label::{SlabLabel, object_in},
    layout::GROUP_OBJECTS,
    list::SlabList,
    object_index::ObjectIndex,
    remote::{Collected, collect, group_number, publish_at, slab_of, take_one},
    remote_word::RemoteWord,
    slab::{Slab, SlabPlace},
};
#[cfg(not(loom))]
pub use {
    size_class::SizeClass,
    standalone::{SlabAllocResult, SlabAllocator, SlabDeallocResult},
};
