//! Interrupts: the timer, messages from other CPUs; and faults, which are fatal.

use core::arch::asm;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0, MPIDR_EL1, Readable, Writeable,
};
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{GicCpuInterface, GicV3, SgiTarget, SgiTargetGroup};
use arm_gic::{IntId, InterruptGroup};
use kernel_core::mutex::Mutex;
use kernel_core::{Arch, handlers};
use safe_mmio::UniqueMmioPointer;

use crate::machine::Machine;
use crate::tree;

/// The virtual timer's interrupt: Arm's base system architecture gives it this number.
const TIMER: IntId = IntId::ppi(11);
/// What CPUs interrupt one another by.
const MESSAGE: IntId = IntId::sgi(0);

/// Places in `CpuLocal::arch`: counts between timer interrupts, and when the next one is due.
const INTERVAL: usize = 0;
const DUE: usize = 1;

/// The parts of an address of a CPU in `MPIDR_EL1`.
const AFFINITY: u64 = 0xff_00ff_ffff;

static CONTROLLER: Mutex<Option<GicV3<'static>>> = Mutex::new(None);

/// This CPU's affinity: its name in the device tree, for PSCI and for the interrupt controller.
pub fn affinity() -> u64 {
    MPIDR_EL1.get() & AFFINITY
}

/// Sets up what the CPUs share of the interrupt controller.
pub fn start_controller(cpu_count: usize) {
    let (distributor, redistributors) = tree::controller();
    let distributor = NonNull::new(ptr::with_exposed_provenance_mut::<Gicd>(distributor));
    let redistributors = NonNull::new(ptr::with_exposed_provenance_mut::<GicrSgi>(redistributors));
    let (Some(distributor), Some(redistributors)) = (distributor, redistributors) else {
        panic!("the device tree names no GICv3")
    };
    // SAFETY: the device tree says that both are there, in the gigabyte that is mapped as devices;
    // they are used here only.
    let controller =
        unsafe { GicV3::new(UniqueMmioPointer::new(distributor), redistributors, cpu_count) };
    match controller {
        Ok(mut controller) => {
            let here = own_place(&mut controller, cpu_count);
            controller.setup(here);
            CONTROLLER.with::<Machine, _>(|place| *place = Some(controller));
        }
        Err(error) => panic!("the interrupt controller does not start: {error}"),
    }
}

/// Which of the redistributors is this CPU's.
fn own_place(controller: &mut GicV3<'_>, count: usize) -> usize {
    let is_own = |place: &usize| {
        controller.gicr_typer(*place).is_ok_and(|kind| kind.core_mpidr() & AFFINITY == affinity())
    };
    match (0..count).find(is_own) {
        Some(place) => place,
        None => panic!("CPU {:#x} has no redistributor", affinity()),
    }
}

/// Lets timer and messages through to this CPU, once interrupts are enabled.
pub fn start_cpu() {
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::CLEAR);
    CONTROLLER.with::<Machine, _>(|controller| {
        let Some(controller) = controller else { panic!("no interrupt controller") };
        let here = own_place(controller, tree::cpu_count());
        controller.init_cpu(here);
        GicCpuInterface::enable_group1(true);
        GicCpuInterface::set_priority_mask(0xff);
        for interrupt in [TIMER, MESSAGE] {
            if let Err(error) = controller.enable_interrupt(interrupt, Some(here), true) {
                panic!("{interrupt:?} cannot be enabled: {error}");
            }
        }
    });
}

/// The counter that the timer compares with.
pub fn time() -> u64 {
    // SAFETY: keeps the counter from being read early.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
    CNTVCT_EL0.get()
}

/// Counts of `time` a second.
pub fn time_hz() -> u64 {
    CNTFRQ_EL0.get().max(1)
}

/// See `Arch::set_timer`.
pub fn set_timer(rate_hz: u32) {
    let enabled = Machine::mask();
    let arch = &Machine::local().arch;
    if rate_hz == 0 {
        arch[INTERVAL].store(0, Ordering::Relaxed);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::CLEAR);
    } else {
        let interval = (time_hz() / u64::from(rate_hz)).max(1);
        arch[INTERVAL].store(interval as usize, Ordering::Relaxed);
        arm(time() + interval);
        CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
    }
    // SAFETY: from the `mask` above.
    unsafe { Machine::restore(enabled) };
}

/// Sets when the timer is due next, which also withdraws its pending interrupt.
fn arm(due: u64) {
    Machine::local().arch[DUE].store(due as usize, Ordering::Relaxed);
    CNTV_CVAL_EL0.set(due);
    // SAFETY: the timer has the value before the interrupt is ended.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// Interrupts CPU `index`.
pub fn notify(index: usize) {
    let [here, cluster, group, _, outermost, ..] = tree::affinity(index).to_le_bytes();
    // SAFETY: what was written before is seen by whoever takes the interrupt.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    let target = SgiTarget::List {
        affinity3: outermost,
        affinity2: group,
        affinity1: cluster,
        target_list: 1 << (here & 15),
    };
    if let Err(error) = GicCpuInterface::send_sgi(MESSAGE, target, SgiTargetGroup::CurrentGroup1) {
        panic!("no message to CPU {index}: {error}");
    }
}

/// Called by `entry.s` with interrupts masked. Each interrupt is ended before its work is done: that
/// may come back on another CPU.
#[unsafe(no_mangle)]
extern "C" fn on_interrupt() {
    let group = InterruptGroup::Group1;
    let Some(interrupt) = GicCpuInterface::get_and_acknowledge_interrupt(group) else { return };
    match interrupt {
        TIMER => {
            let arch = &Machine::local().arch;
            let interval = arch[INTERVAL].load(Ordering::Relaxed) as u64;
            // In step, unless the CPU fell behind. (A stopped timer may have been pending.)
            let due = arch[DUE].load(Ordering::Relaxed) as u64 + interval;
            arm(due.max(time() + interval / 4));
            GicCpuInterface::end_interrupt(interrupt, group);
            if interval != 0 {
                handlers::on_tick::<Machine>();
            }
        }
        MESSAGE => {
            GicCpuInterface::end_interrupt(interrupt, group);
            handlers::on_message::<Machine>();
        }
        _ => panic!("interrupt {interrupt:?}, which nobody asked for"),
    }
}

/// Called by `entry.s` for every other exception.
#[unsafe(no_mangle)]
extern "C" fn on_fault(kind: usize, syndrome: usize, address: usize, instruction: usize) -> ! {
    crate::machine::on_fault_at_exit();
    panic!("exception {kind}, syndrome {syndrome:#x} (address {address:#x}) at {instruction:#x}")
}
