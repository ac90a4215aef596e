//! Pages: the buddy system, from one section's free lists to the core that all CPUs share.
//!
//! | file | what |
//! | --- | --- |
//! | [`page_meta`] | the published 12 bytes per page and the lists through them |
//! | `section` | one contiguous managed range: split, merge, exact counts |
//! | `directory` | from an address to its section, lock-free |
//! | `node` | the sections of one NUMA node, who serves next, watermarks |
//! | `deferred` | frees that could not take a lock |
//! | `core` | `PageCore`: requests over nodes and zones, claims, hot add and remove |
//! | `slots` | small metadata slots inside a section's pages |
//! | `standalone` | [`BuddyAllocator`], the published allocator behind `&mut` |
//!
//! # Locks
//! Two ranks: the *topology* lock (add, remove, growth of the tables) may be held when a *node*
//! lock is taken, never the other way round, and never two of a rank. Everything from an address
//! (lookup, claim, deferred free) takes none.
//!
//! A node has one lock for its three zones. Per-CPU page lists absorb the ordinary traffic and
//! the low zones see next to none, so a lock per zone would buy nothing; and a 4 MiB block that
//! straddles a zone limit would need two.

mod deferred;
mod directory;

#[cfg(not(loom))]
mod core;
#[cfg(not(loom))]
mod links;
#[cfg(not(loom))]
mod node;
#[cfg(not(loom))]
pub mod page_meta;
#[cfg(not(loom))]
mod section;
#[cfg(not(loom))]
mod slots;
#[cfg(not(loom))]
mod standalone;

#[cfg(not(loom))]
pub use self::{
    node::Watermarks,
    page_meta::{PFN_NONE, PageFlags, PageMeta},
    standalone::{BuddyAllocator, ManagedSection},
};
#[cfg(not(loom))]
pub use crate::units::MAX_ORDER;

#[cfg(not(loom))]
pub(crate) use self::{
    core::{
        MAX_NODES, OwnedPage, PageCore, PageError, PageRef, PageRequest, RemovalError,
        RemovalToken, RunKind, Wait,
    },
    section::{KeptPage, Kind, PageMark, Placement, RegionSpec, Section},
};
