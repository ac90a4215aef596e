//! What the tests, fuzz targets and benches of the allocator share.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`region`] | host memory that looks like a kernel's: any alignment, full of garbage, guarded at both ends |
//! | [`platform`] | fake CPUs and physical maps behind the published `OsImpl` |
//! | [`heap`] | the face that every engine shows to the runner |
//! | [`global`] | that face over `GlobalAllocator` |
//! | [`op`] | one operation, and strategies that draw sequences of them |
//! | [`oracle`] | the slow, obvious shadow of what is live |
//! | [`runner`] | drives a heap by operations and holds it against the oracle |
//! | [`misuse`] | a misuse handler that records instead of aborting |
//! | [`watchdog`] | turns a hang into a failure |
//!
//! Nothing here runs on a target without `std`, and nothing here is fast: where a check can be
//! plain or clever, it is plain.
#![cfg(not(loom))]

pub mod global;
pub mod heap;
pub mod misuse;
pub mod op;
pub mod oracle;
pub mod platform;
pub mod region;
pub mod runner;
pub mod watchdog;

pub use global::GlobalHeap;
pub use heap::Heap;
pub use op::Op;
pub use oracle::Oracle;
pub use platform::{FakeCpus, PhysMap, current_cpu, set_cpu};
pub use region::Region;
#[cfg(unix)]
pub use region::Reservation;
pub use runner::Runner;
