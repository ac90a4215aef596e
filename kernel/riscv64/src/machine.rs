//! The machine as the portable part sees it.

use core::arch::asm;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use kernel_core::{Arch, CpuLocal, Heap, Thread};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};

use crate::{paging, serial, traps, tree};

/// QEMU's `virt`, or a machine like it.
pub struct Machine;

/// `sstatus.SIE`.
const ENABLED: usize = 1 << 1;
/// Bytes of a virtio device's registers.
const DEVICE_BYTES: usize = 0x200;

unsafe extern "C" {
    fn other_entry();
    fn switch_stacks(save: *mut usize, to: usize);
    fn fresh_stack();
}

/// Stack and data of the hart that is being started.
static NEXT: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

// SAFETY: `cpu` and `thread` are one load each, relative to `tp`, which names the hart and is never
// restored from a trap's frame, so no migration splits them; `sstatus.SIE` holds back everything; the
// heap is one `static`.
unsafe impl Arch for Machine {
    const NAME: &'static str = "riscv64";
    /// 64 MiB into the memory: most of the heap is out of the device's reach.
    const DMA_LIMIT: u64 = 0x8400_0000;
    type Disk = MmioTransport<'static>;

    fn heap() -> &'static Heap<Self> {
        &crate::HEAP
    }

    fn write_serial(bytes: &[u8]) {
        serial::write(bytes);
    }

    fn exit(success: bool) -> ! {
        let finisher = tree::finisher();
        if finisher != 0 {
            let value: u32 = if success { 0x5555 } else { 1 << 16 | 0x3333 };
            // SAFETY: the device tree says that SiFive's test finisher is there.
            unsafe { ptr::with_exposed_provenance_mut::<u32>(finisher).write_volatile(value) };
        }
        if success {
            sbi_rt::system_reset(sbi_rt::Shutdown, sbi_rt::NoReason);
        } else {
            sbi_rt::system_reset(sbi_rt::Shutdown, sbi_rt::SystemFailure);
        }
        loop {
            riscv::asm::wfi();
        }
    }

    #[inline(always)]
    fn cpu() -> usize {
        let index;
        // SAFETY: `tp` points to this hart's `CpuLocal` from the first steps on.
        unsafe {
            asm!("ld {}, 8(tp)", out(reg) index, options(nostack, readonly, preserves_flags))
        };
        index
    }

    #[inline(always)]
    fn local() -> &'static CpuLocal {
        let local: *const CpuLocal;
        // SAFETY: as in `cpu`.
        unsafe {
            asm!("mv {}, tp", out(reg) local, options(nostack, readonly, preserves_flags));
            &*local
        }
    }

    #[inline(always)]
    fn thread() -> &'static Thread {
        let thread: *const Thread;
        // SAFETY: as in `cpu`; the third word points to the running thread.
        unsafe {
            asm!("ld {}, 16(tp)", out(reg) thread, options(nostack, readonly, preserves_flags));
            &*thread
        }
    }

    unsafe fn set_local(local: &'static CpuLocal) {
        // SAFETY: the register is the kernel's own.
        unsafe { asm!("mv tp, {}", in(reg) local, options(nostack, preserves_flags)) };
    }

    unsafe fn set_thread(thread: &'static Thread) {
        Self::local().thread.store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn mask() -> bool {
        let before: usize;
        // SAFETY: masking interrupts breaks nothing. (As a memory barrier: no `nomem`.)
        unsafe { asm!("csrrci {}, sstatus, 2", out(reg) before, options(nostack)) };
        before & ENABLED != 0
    }

    #[inline(always)]
    unsafe fn restore(enabled: bool) {
        if enabled {
            // SAFETY: the caller may be interrupted from here on (condition).
            unsafe { asm!("csrsi sstatus, 2", options(nostack)) };
        }
    }

    fn interrupts_enabled() -> bool {
        let now: usize;
        // SAFETY: reads a register.
        unsafe { asm!("csrr {}, sstatus", out(reg) now, options(nostack, preserves_flags)) };
        now & ENABLED != 0
    }

    fn wait() {
        // SAFETY: `wfi` ends when an interrupt is pending, masked or not; it is taken after that.
        unsafe { asm!("wfi", "csrsi sstatus, 2", "csrci sstatus, 2", options(nostack)) };
    }

    fn park(flag: &'static AtomicUsize) -> ! {
        // SAFETY: from the store on only registers are used.
        unsafe {
            asm!(
                "csrw sie, zero",
                "fence",
                "sd {one}, 0({flag})",
                "2:",
                "wfi",
                "j 2b",
                one = in(reg) 1,
                flag = in(reg) flag.as_ptr(),
                options(noreturn)
            )
        }
    }

    unsafe fn start_cpu(index: usize, local: &'static CpuLocal, stack_top: usize) {
        // Harts are started one at a time.
        NEXT[0].store(stack_top, Ordering::Relaxed);
        NEXT[1].store(ptr::from_ref(local).expose_provenance(), Ordering::Release);
        let entry = other_entry as *const () as usize;
        let result =
            sbi_rt::hart_start(tree::hart(index), entry, (&raw const NEXT).expose_provenance());
        assert!(result.is_ok(), "hart {} does not start: {result:?}", tree::hart(index));
    }

    fn notify(index: usize) {
        traps::notify(index);
    }

    fn set_timer(rate_hz: u32) {
        traps::set_timer(rate_hz);
    }

    fn now_ns() -> u64 {
        (u128::from(traps::time()) * 1_000_000_000 / u128::from(tree::time_hz())) as u64
    }

    #[inline(always)]
    fn instructions() -> u64 {
        riscv::register::instret::read64()
    }

    unsafe fn prepare_stack(
        stack_top: usize,
        entry: extern "C" fn(usize) -> !,
        argument: usize,
    ) -> usize {
        // As `switch_stacks` loads: ra, s0, s1, the rest.
        let mut frame = [0usize; 26];
        frame[0] = fresh_stack as *const () as usize;
        frame[1] = entry as *const () as usize;
        frame[2] = argument;
        let pointer = stack_top - size_of_val(&frame);
        // SAFETY: the top of a stack that nobody uses (condition).
        unsafe { ptr::with_exposed_provenance_mut::<[usize; 26]>(pointer).write(frame) };
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
