//! The demo kernel on x86_64: direct boot by PVH, ACPI's list of CPUs, INIT and SIPI, local APICs.
//!
//! - `boot.s`, `interrupts.s`: from firmware to Rust; entries of interrupts; the switch of stacks
//! - [`firmware`]: memory map, command line, CPUs
//! - [`tables`]: descriptor tables, one set a CPU
//! - [`apic`]: timer, interrupts between CPUs
//! - [`machine`]: all of it as the portable part's `Arch`
//! - [`paging`]: page tables from the heap
//! - [`disk`]: the virtio disk on PCI

#![no_std]
#![no_main]

extern crate alloc;

mod apic;
mod disk;
mod firmware;
mod machine;
#[cfg(target_os = "linux")]
mod memory_functions;
mod paging;
mod serial;
mod tables;

use core::arch::global_asm;
use core::panic::PanicInfo;

use kernel_core::{CpuLocal, Heap, KernelPlatform};
use machine::Machine;

/// The kernel's heap: its only one.
#[global_allocator]
static HEAP: Heap<Machine> = Heap::with_platform(KernelPlatform::new());

global_asm!(include_str!("boot.s"), options(att_syntax));

#[cfg(target_feature = "sse")]
global_asm!(
    ".macro save_sse\n fxsave64 (%rsp)\n .endm",
    ".macro restore_sse\n fxrstor64 (%rsp)\n .endm",
    include_str!("interrupts.s"),
    options(att_syntax)
);
#[cfg(not(target_feature = "sse"))]
global_asm!(
    ".macro save_sse\n .endm",
    ".macro restore_sse\n .endm",
    include_str!("interrupts.s"),
    options(att_syntax)
);

/// The boot CPU in long mode, on the boot stack, with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn boot_start(start_info: usize) -> ! {
    kernel_core::boot::first_steps::<Machine>();
    serial::start();
    // SAFETY: the loader passed the address.
    let boot = unsafe { firmware::read(start_info) };
    tables::load_boot();
    apic::calibrate();
    apic::start();
    kernel_core::kernel_main::<Machine>(&boot)
}

/// Another CPU in long mode, on its idle thread's stack, with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn other_start(local: &'static CpuLocal) -> ! {
    tables::load(local);
    apic::start();
    kernel_core::secondary_main::<Machine>(local)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    kernel_core::on_panic::<Machine>(info)
}

/// What the host's precompiled `core` and `alloc` name in case they unwind; panics end the run here.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    <Machine as kernel_core::Arch>::exit(false)
}

/// As above.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    <Machine as kernel_core::Arch>::exit(false)
}
