//! The demo kernel on aarch64: the device tree, CPUs started by PSCI, GICv3, the generic timer.
//!
//! - `entry.s`: from the loader to Rust; exceptions; the switch of stacks; the boot page tables
//! - [`tree`]: what the device tree says
//! - [`interrupts`]: timer and messages
//! - [`machine`]: all of it as the portable part's `Arch`
//! - [`paging`]: page tables from the heap
//! - [`serial`]: the console

#![no_std]
#![no_main]

extern crate alloc;

mod interrupts;
mod machine;
mod paging;
mod serial;
mod tree;

use core::arch::global_asm;
use core::panic::PanicInfo;

use kernel_core::{CpuLocal, Heap, KernelPlatform};
use machine::Machine;

/// The kernel's heap: its only one.
#[global_allocator]
static HEAP: Heap<Machine> = Heap::with_platform(KernelPlatform::new());

global_asm!(include_str!("entry.s"));

/// Where QEMU puts the device tree for kernels that are ELF files, to which it passes no address.
const DEFAULT_TREE: usize = 0x4000_0000;

/// The boot CPU, on the boot stack, with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn boot_start(device_tree: usize) -> ! {
    kernel_core::boot::first_steps::<Machine>();
    let device_tree = if device_tree == 0 { DEFAULT_TREE } else { device_tree };
    // SAFETY: whoever loaded the kernel put it there; nothing was written over it yet.
    let boot = unsafe { tree::read(device_tree) };
    serial::start(tree::serial());
    interrupts::start_controller(boot.cpu_count);
    interrupts::start_cpu();
    kernel_core::kernel_main::<Machine>(&boot)
}

/// Another CPU, on its idle thread's stack, with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn other_start(local: &'static CpuLocal) -> ! {
    // SAFETY: this CPU's data; interrupts are masked.
    unsafe { <Machine as kernel_core::Arch>::set_local(local) };
    interrupts::start_cpu();
    kernel_core::secondary_main::<Machine>(local)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    kernel_core::on_panic::<Machine>(info)
}
