//! The portable part of a small kernel whose only heap is `buddy_slab_allocator`.
//!
//! It boots on several CPUs, takes interrupts, runs preemptive threads, and puts the heap under all
//! the loads that a kernel has. Each load is a *phase*; every allocation carries a pattern that is
//! verified when it is freed, and at the end nothing may be left.
//!
//! What differs between machines is behind one trait, [`Arch`]; a crate per architecture implements
//! it, owns the heap (a `static`, also the `#[global_allocator]`), and calls [`kernel_main`].
//!
//! - [`arch`]: the trait, and what the machine says at boot
//! - [`cpu`], [`thread`](mod@thread), [`scheduler`]: CPUs and threads
//! - [`platform`]: **what a kernel writes to use the allocator**: how a CPU pins itself, its lock
//! - [`handlers`]: timer, messages between CPUs, NMIs: all of them allocate
//! - [`boot`]: memory map to heap, CPUs up and down
//! - [`phases`]: the loads
//! - [`pattern`], [`report`], [`console`], [`options`]: the tools

#![no_std]

extern crate alloc;

pub mod arch;
pub mod boot;
pub mod console;
pub mod cpu;
pub mod handlers;
pub mod mutex;
pub mod options;
pub mod pattern;
pub mod phases;
pub mod platform;
pub mod report;
pub mod scheduler;
pub mod thread;

pub use arch::{Arch, BootInfo};
pub use boot::{kernel_main, secondary_main};
pub use console::on_panic;
pub use cpu::CpuLocal;
pub use platform::{Heap, KernelPlatform};
pub use thread::Thread;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// The most CPUs that this kernel drives.
pub const MAX_CPUS: usize = 64;
