//! To be seen: what is in use and where, as plain numbers and as text.
//!
//! A [`Snapshot`] is taken without allocating and printed like `buddyinfo` and `slabinfo`;
//! [`HeapMap`] draws the sections. Both may be used inside the allocator that they describe, from
//! a kernel's panic handler too.

mod map;
mod snapshot;

pub use map::HeapMap;
pub use snapshot::{BuddyInfo, ClassInfo, SlabInfo, Snapshot};
