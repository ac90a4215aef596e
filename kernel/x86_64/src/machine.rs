//! The machine as the portable part sees it.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use kernel_core::{Arch, CpuLocal, Heap, Thread};
use virtio_drivers::transport::pci::PciTransport;
use x86_64::VirtAddr;
use x86_64::instructions::interrupts;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::GsBase;

use crate::{apic, disk, paging, serial, tables};

/// A PC.
pub struct Machine;

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static other_stack: AtomicUsize;
    static other_local: AtomicUsize;
    fn switch_stacks(save: *mut usize, to: usize);
    fn fresh_stack();
}

// SAFETY: `cpu` and `thread` are one load each, relative to GS, which no migration can split; the
// CPU's `cli` and `sti` hold everything back but NMIs; the heap is one `static`.
unsafe impl Arch for Machine {
    const NAME: &'static str = "x86_64";
    /// As old ISA devices have it: pages from the lowest zone.
    const DMA_LIMIT: u64 = 16 << 20;
    type Disk = PciTransport;

    fn heap() -> &'static Heap<Self> {
        &crate::HEAP
    }

    fn write_serial(bytes: &[u8]) {
        serial::write(bytes);
    }

    fn exit(success: bool) -> ! {
        // SAFETY: QEMU's `isa-debug-exit`: the exit code is twice the value plus one.
        unsafe { Port::<u32>::new(0xF4).write(if success { 0x10 } else { 0x11 }) };
        loop {
            interrupts::disable();
            x86_64::instructions::hlt();
        }
    }

    #[inline(always)]
    fn cpu() -> usize {
        let index;
        // SAFETY: GS points to this CPU's `CpuLocal` from the first steps on.
        unsafe {
            asm!("mov {}, gs:[8]", out(reg) index, options(nostack, readonly, preserves_flags))
        };
        index
    }

    #[inline(always)]
    fn local() -> &'static CpuLocal {
        let local: *const CpuLocal;
        // SAFETY: as in `cpu`; the first word is the structure's own address.
        unsafe {
            asm!("mov {}, gs:[0]", out(reg) local, options(nostack, readonly, preserves_flags));
            &*local
        }
    }

    #[inline(always)]
    fn thread() -> &'static Thread {
        let thread: *const Thread;
        // SAFETY: as in `cpu`; the third word points to the running thread.
        unsafe {
            asm!("mov {}, gs:[16]", out(reg) thread, options(nostack, readonly, preserves_flags));
            &*thread
        }
    }

    unsafe fn set_local(local: &'static CpuLocal) {
        GsBase::write(VirtAddr::from_ptr(local));
    }

    unsafe fn set_thread(thread: &'static Thread) {
        Self::local().thread.store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn mask() -> bool {
        let enabled = interrupts::are_enabled();
        interrupts::disable();
        enabled
    }

    #[inline(always)]
    unsafe fn restore(enabled: bool) {
        if enabled {
            interrupts::enable();
        }
    }

    fn interrupts_enabled() -> bool {
        interrupts::are_enabled()
    }

    fn wait() {
        interrupts::enable_and_hlt();
        interrupts::disable();
    }

    fn park(flag: &'static AtomicUsize) -> ! {
        // SAFETY: from the store on only registers are used.
        unsafe {
            asm!(
                "cli",
                "mov qword ptr [{flag}], 1",
                "2:",
                "hlt",
                "jmp 2b",
                flag = in(reg) flag.as_ptr(),
                options(noreturn)
            )
        }
    }

    unsafe fn start_cpu(index: usize, local: &'static CpuLocal, stack_top: usize) {
        tables::make(local);
        // SAFETY: the page is reserved, CPUs are started one at a time, and the one before has left
        // the trampoline.
        unsafe {
            let start = &raw const trampoline_start;
            let len = (&raw const trampoline_end).addr() - start.addr();
            ptr::with_exposed_provenance_mut::<u8>(apic::TRAMPOLINE).copy_from(start, len);
            // Aligned as after a call.
            other_stack.store(stack_top, Ordering::Release);
            other_local.store(ptr::from_ref(local).expose_provenance(), Ordering::Release);
        }
        apic::start_cpu(index, || local.online.load(Ordering::Acquire));
    }

    unsafe fn free_cpu(local: &CpuLocal) {
        // SAFETY: the CPU is parked (condition).
        unsafe { tables::free(local) };
    }

    fn notify(index: usize) {
        apic::notify(index);
    }

    const HAS_NMI: bool = true;

    fn send_nmi(index: usize) {
        apic::send_nmi(index);
    }

    fn set_timer(rate_hz: u32) {
        apic::set_timer(rate_hz);
    }

    fn now_ns() -> u64 {
        apic::now_ns()
    }

    #[inline(always)]
    fn instructions() -> u64 {
        // SAFETY: every 64-bit CPU has the counter.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    unsafe fn prepare_stack(
        stack_top: usize,
        entry: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> usize {
        // As `switch_stacks` pops: r15 r14 r13 r12 rbp rbx, then the address it returns to.
        let frame =
            [0, 0, 0, argument, 0, entry as *const () as usize, fresh_stack as *const () as usize];
        // One word of room, so that the stack is aligned when `fresh_stack` calls.
        let pointer = stack_top - size_of_val(&frame) - 8;
        let pointer = pointer & !15 | 8;
        // SAFETY: the top of a stack that nobody uses (condition).
        unsafe { ptr::with_exposed_provenance_mut::<[usize; 7]>(pointer).write(frame) };
        pointer
    }

    unsafe fn switch(save: *mut usize, to: usize) {
        // SAFETY: the same conditions.
        unsafe { switch_stacks(save, to) };
    }

    fn virt_to_phys(vaddr: usize) -> u64 {
        vaddr as u64
    }

    fn phys_to_virt(paddr: u64) -> usize {
        paddr as usize
    }

    fn with_mapping(pages: &[usize], visit: &mut dyn FnMut(*mut u8)) -> usize {
        paging::with_mapping(pages, visit)
    }

    fn disk() -> Option<PciTransport> {
        disk::find()
    }
}
