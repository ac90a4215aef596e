//! Traps: the timer, messages from other harts, and faults, which are fatal.

use core::sync::atomic::Ordering;

use kernel_core::{Arch, handlers};
use riscv::register::sie;
use sbi_rt::HartMask;

use crate::machine::Machine;
use crate::tree;

const INTERRUPT: usize = 1 << 63;
const SOFTWARE: usize = INTERRUPT | 1;
const TIMER: usize = INTERRUPT | 5;

/// Places in `CpuLocal::arch`: counts between timer interrupts, and when the next one is due.
const INTERVAL: usize = 0;
const DUE: usize = 1;

unsafe extern "C" {
    fn trap_entry();
}

/// Sets this hart's trap entry, and lets timer and messages through once interrupts are enabled.
pub fn start() {
    // SAFETY: the entry saves all that it must; it is aligned, which makes the mode direct.
    unsafe {
        core::arch::asm!("csrw stvec, {}", in(reg) trap_entry as *const () as usize);
        sie::set_ssoft();
        sie::set_stimer();
    }
}

/// The time register.
pub fn time() -> u64 {
    riscv::register::time::read64()
}

/// See `Arch::set_timer`.
pub fn set_timer(rate_hz: u32) {
    let enabled = Machine::mask();
    let arch = &Machine::local().arch;
    if rate_hz == 0 {
        arch[INTERVAL].store(0, Ordering::Relaxed);
        sbi_rt::set_timer(u64::MAX);
    } else {
        let interval = (tree::time_hz() / u64::from(rate_hz)).max(1);
        arch[INTERVAL].store(interval as usize, Ordering::Relaxed);
        arm(time() + interval);
    }
    // SAFETY: from the `mask` above.
    unsafe { Machine::restore(enabled) };
}

fn arm(due: u64) {
    Machine::local().arch[DUE].store(due as usize, Ordering::Relaxed);
    sbi_rt::set_timer(due);
}

/// Sends a hart a software interrupt.
pub fn notify(index: usize) {
    sbi_rt::send_ipi(HartMask::from_mask_base(1, tree::hart(index)));
}

/// Called by `entry.s` with interrupts masked.
#[unsafe(no_mangle)]
extern "C" fn on_trap(cause: usize, value: usize, instruction: usize) {
    match cause {
        TIMER => {
            let arch = &Machine::local().arch;
            let interval = arch[INTERVAL].load(Ordering::Relaxed) as u64;
            if interval == 0 {
                sbi_rt::set_timer(u64::MAX);
                return;
            }
            // In step, unless the hart fell behind; this also withdraws the pending interrupt.
            let due = arch[DUE].load(Ordering::Relaxed) as u64 + interval;
            arm(due.max(time() + interval / 4));
            handlers::on_tick::<Machine>();
        }
        SOFTWARE => {
            // First: what comes after this is not lost.
            // SAFETY: clears the pending bit of this hart's software interrupt.
            unsafe { riscv::register::sip::clear_ssoft() };
            handlers::on_message::<Machine>();
        }
        _ => panic!("trap {cause:#x} (value {value:#x}) at {instruction:#x}"),
    }
}
