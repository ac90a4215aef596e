//! Pure values that every layer speaks in: block orders, page frame numbers, zones and physical
//! limits, names of nodes and CPUs, kinds of misuse.
//!
//! Nothing here touches memory; nothing here knows an allocator. A value of one of these types
//! proves what its constructor checked, so that indices need no second look further up.

#![forbid(unsafe_code)]

mod misuse;
mod order;
mod pages;
mod zone;

pub use misuse::Misuse;
pub use order::{MAX_ORDER, Order};
pub use pages::{NodeId, Pfn};
pub use zone::{PhysLimit, Zone, ZoneReach};
