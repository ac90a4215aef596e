//! The local APIC, by its memory-mapped registers: timer, interrupts between CPUs, the start of CPUs.
//!
//! (The `x2apic` crate is marked experimental, and asks CPUID at each access.)

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use kernel_core::Arch;
use x86_64::instructions::port::Port;

use crate::firmware;
use crate::machine::Machine;

const BASE: usize = 0xFEE0_0000;
const ID: usize = 0x20;
const END_OF_INTERRUPT: usize = 0xB0;
const SPURIOUS: usize = 0xF0;
const COMMAND: usize = 0x300;
const COMMAND_TARGET: usize = 0x310;
const TIMER: usize = 0x320;
const TIMER_INITIAL: usize = 0x380;
const TIMER_CURRENT: usize = 0x390;
const TIMER_DIVIDE: usize = 0x3E0;

const ENABLED: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
const NMI: u32 = 0b100 << 8;
const INIT: u32 = 0b101 << 8;
const STARTUP: u32 = 0b110 << 8;
const DIVIDE_BY_16: u32 = 0b0011;

/// Vectors; those of `interrupts.s`.
pub const TIMER_VECTOR: u8 = 0x20;
/// The vector of messages.
pub const MESSAGE_VECTOR: u8 = 0x21;
/// The vector of interrupts that were withdrawn.
pub const SPURIOUS_VECTOR: u8 = 0xFF;

/// Page of the other CPUs' first instructions.
pub const TRAMPOLINE: usize = 0x8000;

static TIMER_HZ: AtomicU64 = AtomicU64::new(0);
static COUNTER_HZ: AtomicU64 = AtomicU64::new(0);

fn read(register: usize) -> u32 {
    // SAFETY: a register of this CPU's local APIC, mapped where it is.
    unsafe { ptr::with_exposed_provenance::<u32>(BASE + register).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as above; what is written is right for the register.
    unsafe { ptr::with_exposed_provenance_mut::<u32>(BASE + register).write_volatile(value) }
}

/// This CPU's identifier.
pub fn id() -> u8 {
    (read(ID) >> 24) as u8
}

/// Turns this CPU's APIC on, its timer off. The old interrupt controllers stay silent.
pub fn start() {
    // SAFETY: masks every line of both controllers.
    unsafe {
        Port::<u8>::new(0x21).write(0xFF);
        Port::<u8>::new(0xA1).write(0xFF);
    }
    write(SPURIOUS, ENABLED | u32::from(SPURIOUS_VECTOR));
    write(TIMER, MASKED);
}

/// Says that the running interrupt was taken.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Interrupts of this CPU's timer a second; 0 for none.
pub fn set_timer(rate_hz: u32) {
    if rate_hz == 0 {
        write(TIMER, MASKED);
        return;
    }
    let count = TIMER_HZ.load(Ordering::Relaxed) / u64::from(rate_hz);
    write(TIMER_DIVIDE, DIVIDE_BY_16);
    write(TIMER, PERIODIC | u32::from(TIMER_VECTOR));
    write(TIMER_INITIAL, u32::try_from(count.max(1)).unwrap_or(u32::MAX));
}

/// Writes a command for the APIC `target`. Two registers: nobody may come between.
fn command(target: u8, what: u32) {
    let enabled = Machine::mask();
    while read(COMMAND) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_TARGET, u32::from(target) << 24);
    write(COMMAND, what | ASSERT);
    // SAFETY: from the `mask` above.
    unsafe { Machine::restore(enabled) };
}

/// Sends a CPU the message vector.
pub fn notify(index: usize) {
    command(firmware::apic_id(index), u32::from(MESSAGE_VECTOR));
}

/// Sends a CPU an NMI.
pub fn send_nmi(index: usize) {
    command(firmware::apic_id(index), NMI);
}

/// Resets a CPU and starts it at the trampoline: INIT, 10 ms, SIPI, twice.
pub fn start_cpu(index: usize, is_up: impl Fn() -> bool) {
    let target = firmware::apic_id(index);
    command(target, INIT);
    pause_ns(10_000_000);
    for _ in 0..2 {
        command(target, STARTUP | (TRAMPOLINE >> 12) as u32);
        for _ in 0..100 {
            if is_up() {
                return;
            }
            pause_ns(200_000);
        }
    }
}

fn pause_ns(duration: u64) {
    let start = now_ns();
    while now_ns() - start < duration {
        core::hint::spin_loop();
    }
}

fn time_stamp() -> u64 {
    // SAFETY: every 64-bit CPU has the counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Nanoseconds since the counter began.
pub fn now_ns() -> u64 {
    let hz = u128::from(COUNTER_HZ.load(Ordering::Relaxed).max(1));
    (u128::from(time_stamp()) * 1_000_000_000 / hz) as u64
}

/// Measures the timer and the time stamp counter against 10 ms of the old interval timer (1,193,182
/// counts a second; its second channel, whose end is bit 5 of port 0x61).
pub fn calibrate() {
    const COUNTS: u16 = 11_932;
    let mut control = Port::<u8>::new(0x61);
    let [low, high] = COUNTS.to_le_bytes();
    write(TIMER_DIVIDE, DIVIDE_BY_16);
    // SAFETY: the ports of the interval timer, which nobody else uses.
    unsafe {
        let gate = control.read() & 0xFC | 1;
        Port::<u8>::new(0x43).write(0xB0); // channel 2, both bytes, one shot
        Port::<u8>::new(0x42).write(low);
        control.write(gate);
        Port::<u8>::new(0x42).write(high); // it counts from here
        write(TIMER_INITIAL, u32::MAX);
        let start = time_stamp();
        while control.read() & 0x20 == 0 {}
        let timer = u32::MAX - read(TIMER_CURRENT);
        let counter = time_stamp() - start;
        TIMER_HZ.store(u64::from(timer) * 100, Ordering::Relaxed);
        COUNTER_HZ.store(counter * 100, Ordering::Relaxed);
    }
}
