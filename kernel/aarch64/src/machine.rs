//! The machine as the portable part sees it.

use core::arch::asm;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kernel_core::{Arch, CpuLocal, Heap, Thread};
use smccc::{Hvc, psci};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};

use crate::{interrupts, paging, serial, tree};

/// QEMU's `virt`, or a machine like it.
pub struct Machine;

/// `DAIF.I`: interrupts are masked.
const MASKED: usize = 1 << 7;
/// Bytes of a virtio device's registers.
const DEVICE_BYTES: usize = 0x200;

unsafe extern "C" {
    fn other_entry();
    fn switch_stacks(save: *mut usize, to: usize);
    fn fresh_stack();
}

/// Stack and data of the CPU that is being started.
static NEXT: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];
/// Set when the end of the run has been tried by semihosting.
static EXITING: AtomicBool = AtomicBool::new(false);

/// If a fault comes of the call by which the run was to end, since nobody is there to take it,
/// switches the machine off, without an exit code.
pub fn on_fault_at_exit() {
    if EXITING.load(Ordering::Relaxed) {
        let _ = psci::system_off::<Hvc>();
    }
}

// SAFETY: `TPIDR_EL1` points to the CPU's data and is never restored from an interrupt's frame;
// `TPIDR_EL0` is the thread's own, set at each switch, so one instruction reads it; `DAIF.I` holds
// back everything; the heap is one `static`.
unsafe impl Arch for Machine {
    const NAME: &'static str = "aarch64";
    /// 64 MiB into the memory: most of the heap is out of the device's reach.
    const DMA_LIMIT: u64 = 0x4400_0000;
    type Disk = MmioTransport<'static>;

    fn heap() -> &'static Heap<Self> {
        &crate::HEAP
    }

    fn write_serial(bytes: &[u8]) {
        serial::write(bytes);
    }

    fn exit(success: bool) -> ! {
        EXITING.store(true, Ordering::Relaxed);
        semihosting::process::exit(i32::from(!success))
    }

    #[inline(always)]
    fn cpu() -> usize {
        let index;
        // SAFETY: the register points to the data of this CPU (or, an instruction later, of one that
        // was this) from the first steps on.
        unsafe {
            asm!(
                "mrs {index}, tpidr_el1",
                "ldr {index}, [{index}, #8]",
                index = out(reg) index,
                options(nostack, readonly, preserves_flags)
            )
        };
        index
    }

    #[inline(always)]
    fn local() -> &'static CpuLocal {
        let local: *const CpuLocal;
        // SAFETY: as in `cpu`.
        unsafe {
            asm!("mrs {}, tpidr_el1", out(reg) local, options(nostack, readonly, preserves_flags));
            &*local
        }
    }

    #[inline(always)]
    fn thread() -> &'static Thread {
        let thread: *const Thread;
        // SAFETY: the register points to the running thread from the first steps on.
        unsafe {
            asm!("mrs {}, tpidr_el0", out(reg) thread, options(nostack, readonly, preserves_flags));
            &*thread
        }
    }

    unsafe fn set_local(local: &'static CpuLocal) {
        // SAFETY: the register is the kernel's own.
        unsafe { asm!("msr tpidr_el1, {}", in(reg) local, options(nostack, preserves_flags)) };
    }

    unsafe fn set_thread(thread: &'static Thread) {
        Self::local().thread.store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
        // SAFETY: nothing runs at EL0, to which the register belongs otherwise.
        unsafe { asm!("msr tpidr_el0, {}", in(reg) thread, options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn mask() -> bool {
        let before: usize;
        // SAFETY: masking interrupts breaks nothing. (As a memory barrier: no `nomem`.)
        unsafe {
            asm!(
                "mrs {}, daif",
                "msr daifset, #2",
                out(reg) before,
                options(nostack, preserves_flags)
            )
        };
        before & MASKED == 0
    }

    #[inline(always)]
    unsafe fn restore(enabled: bool) {
        if enabled {
            // SAFETY: the caller may be interrupted from here on (condition).
            unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
        }
    }

    fn interrupts_enabled() -> bool {
        let now: usize;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, daif", out(reg) now, options(nostack, preserves_flags)) };
        now & MASKED == 0
    }

    fn wait() {
        // SAFETY: `wfi` ends when an interrupt is pending, masked or not; it is taken after that.
        unsafe {
            asm!(
                "dsb sy",
                "wfi",
                "msr daifclr, #2",
                "isb",
                "msr daifset, #2",
                options(nostack, preserves_flags)
            )
        };
    }

    fn park(flag: &'static AtomicUsize) -> ! {
        // SAFETY: from the store on only registers are used; PSCI's `CPU_OFF` does not return.
        unsafe {
            asm!(
                "stlr {one}, [{flag}]",
                "mov w0, {off:w}",
                "hvc #0",
                "2:",
                "wfi",
                "b 2b",
                one = in(reg) 1usize,
                flag = in(reg) flag.as_ptr(),
                off = in(reg) psci::PSCI_CPU_OFF,
                options(noreturn)
            )
        }
    }

    unsafe fn start_cpu(index: usize, local: &'static CpuLocal, stack_top: usize) {
        // CPUs are started one at a time.
        NEXT[0].store(stack_top, Ordering::Relaxed);
        NEXT[1].store(ptr::from_ref(local).expose_provenance(), Ordering::Release);
        // SAFETY: orders the stores before the call.
        unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
        let entry = other_entry as *const () as u64;
        let argument = (&raw const NEXT).expose_provenance() as u64;
        let result = psci::cpu_on::<Hvc>(tree::affinity(index), entry, argument);
        assert!(result.is_ok(), "CPU {:#x} does not start: {result:?}", tree::affinity(index));
    }

    fn notify(index: usize) {
        interrupts::notify(index);
    }

    fn set_timer(rate_hz: u32) {
        interrupts::set_timer(rate_hz);
    }

    fn now_ns() -> u64 {
        let time = u128::from(interrupts::time());
        (time * 1_000_000_000 / u128::from(interrupts::time_hz())) as u64
    }

    #[inline(always)]
    fn instructions() -> u64 {
        let cycles;
        // SAFETY: reads the counter that `entry.s` has started.
        unsafe { asm!("mrs {}, pmccntr_el0", out(reg) cycles, options(nostack, preserves_flags)) };
        cycles
    }

    unsafe fn prepare_stack(
        stack_top: usize,
        entry: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> usize {
        // As `switch_stacks` loads: x19 to x30, the rest.
        let mut frame = [0usize; 20];
        frame[0] = entry as *const () as usize;
        frame[1] = argument;
        frame[11] = fresh_stack as *const () as usize;
        let pointer = stack_top - size_of_val(&frame);
        // SAFETY: the top of a stack that nobody uses (condition).
        unsafe { ptr::with_exposed_provenance_mut::<[usize; 20]>(pointer).write(frame) };
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

    fn disk() -> Option<MmioTransport<'static>> {
        tree::devices().find_map(|base| {
            let header = NonNull::new(ptr::with_exposed_provenance_mut::<VirtIOHeader>(base))?;
            // SAFETY: the device tree says that a device's registers are there; used here only.
            let transport = unsafe { MmioTransport::new(header, DEVICE_BYTES) }.ok()?;
            (transport.device_type() == DeviceType::Block).then_some(transport)
        })
    }
}
