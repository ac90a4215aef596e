//! buddy-slab-allocator as the heap of a whole program.
//!
//! ```
//! use buddy_slab_malloc::BuddySlabMalloc;
//!
//! #[global_allocator]
//! static HEAP: BuddySlabMalloc = BuddySlabMalloc::new();
//!
//! let words: Vec<String> = (0..1000).map(|i| format!("word {i}")).collect();
//! assert_eq!(words.len(), 1000);
//! ```
//!
//! Every thread has a heap of its own, which it enters without a lock or an atomic
//! read-modify-write. Memory comes from address space that is reserved once and backed by the
//! system where it is touched; what is free for a while goes back. The heap works before `main`,
//! in destructors of thread-local data, in signal handlers, and on both sides of a `fork`.
//!
//! There is one heap in a process, however many values of [`BuddySlabMalloc`] there are. The crate
//! `buddy-slab-malloc-c` makes it the C `malloc`; [`heap`] is what that is made of.
//!
//! # Modules
//! - [`heap`]: allocate, free, resize, without layouts: the interface under C's
//! - `edges`: `GlobalAlloc`
//! - `process`: the one allocator; where it starts, grows and fails
//! - `threads`: which heap a thread has; `tls`: the word that says so
//! - `region`: address space; `huge`: what is too large for a section
//! - `purge`: memory goes back; `fork`: the heap in a child
//! - [`options`]: `BSA_…`; [`report`]: what happened; `misuse`: what is said of a bad free
//! - `lock`, `sys`: what these stand on
//!
//! Linux only: elsewhere the crate is empty.
#![cfg(target_os = "linux")]

mod edges;
mod fork;
pub mod heap;
mod huge;
mod lock;
mod misuse;
pub mod options;
mod process;
mod purge;
mod region;
pub mod report;
mod sys;
mod threads;
mod tls;

pub use edges::BuddySlabMalloc;

/// Bytes of a page as the allocator counts them.
pub const PAGE_SIZE: usize = 0x1000;
