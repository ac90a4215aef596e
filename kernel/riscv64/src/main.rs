//! The demo kernel on riscv64: OpenSBI below, the device tree, harts started by SBI's HSM.
//!
//! - `entry.s`: from firmware to Rust; traps; the switch of stacks
//! - [`tree`]: what the device tree says
//! - [`traps`]: timer and messages
//! - [`machine`]: all of it as the portable part's `Arch`
//! - [`paging`]: Sv39 tables from the heap
//! - [`serial`]: the console

#![no_std]
#![no_main]

extern crate alloc;

mod machine;
mod paging;
mod serial;
mod traps;
mod tree;

use core::arch::global_asm;
use core::panic::PanicInfo;

use kernel_core::{CpuLocal, Heap, KernelPlatform};
use machine::Machine;

/// The kernel's heap: its only one.
#[global_allocator]
static HEAP: Heap<Machine> = Heap::with_platform(KernelPlatform::new());

// The target's features do not reach this assembler: floating point is named here.
global_asm!(".attribute arch, \"rv64gc\"", include_str!("entry.s"));

/// The boot hart, on the boot stack, with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn boot_start(hart: usize, device_tree: usize) -> ! {
    kernel_core::boot::first_steps::<Machine>();
    // SAFETY: OpenSBI passed the address; nothing was written over it yet.
    let boot = unsafe { tree::read(hart, device_tree) };
    serial::start(tree::serial());
    traps::start();
    kernel_core::kernel_main::<Machine>(&boot)
}

/// Another hart, on its idle thread's stack, with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn other_start(local: &'static CpuLocal) -> ! {
    // SAFETY: this hart's data; interrupts are masked.
    unsafe { <Machine as kernel_core::Arch>::set_local(local) };
    traps::start();
    kernel_core::secondary_main::<Machine>(local)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    kernel_core::on_panic::<Machine>(info)
}
