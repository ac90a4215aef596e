//! `SysTick`: each interrupt allocates or frees a few objects, and exchanges one with the main program.

use core::alloc::Layout;
use core::cell::RefCell;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use critical_section::Mutex;

use crate::arch::Machine;
use crate::pattern::{Object, Random};

/// The core's clock.
const CLOCK_HZ: u32 = 25_000_000;
/// Interrupts a second.
const RATE_HZ: u32 = 10_000;

/// Allocations or frees of each interrupt.
const WORK: usize = 4;
/// Objects that the handler keeps.
const SLOTS: usize = 24;
/// The largest of them, as a power of two.
const LARGEST_LOG2: usize = 8;

/// What happened so far.
#[derive(Clone, Copy)]
pub struct Counts {
    /// Interrupts.
    pub ticks: u32,
    /// Allocations and frees in the handler.
    pub work: u32,
    /// Allocations that the heap refused it.
    pub refused: u32,
    /// Objects that one side allocated and the other freed.
    pub handed_over: u32,
}

struct State {
    objects: [Option<Object>; SLOTS],
    random: Random,
    counts: Counts,
}

static STATE: Mutex<RefCell<State>> = Mutex::new(RefCell::new(State {
    objects: [const { None }; SLOTS],
    random: Random::new(7),
    counts: Counts { ticks: 0, work: 0, refused: 0, handed_over: 0 },
}));

/// What lies between the two sides: whoever comes by takes it, and leaves one of his own.
static BETWEEN: Mutex<RefCell<Option<Object>>> = Mutex::new(RefCell::new(None));

/// Starts the interrupts.
pub fn start(syst: &mut SYST) {
    syst.set_clock_source(SystClkSource::Core);
    syst.set_reload(CLOCK_HZ / RATE_HZ - 1);
    syst.clear_current();
    syst.enable_interrupt();
    syst.enable_counter();
}

/// Stops them, and frees what the handler keeps.
pub fn stop(syst: &mut SYST) {
    syst.disable_interrupt();
    syst.disable_counter();
    critical_section::with(|section| {
        for object in &mut STATE.borrow_ref_mut(section).objects {
            if let Some(object) = object.take() {
                object.free::<Machine>();
            }
        }
        if let Some(object) = BETWEEN.borrow_ref_mut(section).take() {
            object.free::<Machine>();
        }
    });
}

/// What happened so far.
pub fn counts() -> Counts {
    critical_section::with(|section| STATE.borrow_ref(section).counts)
}

/// Takes what the other side left, and leaves `object`.
pub fn exchange(object: Option<Object>) -> Option<Object> {
    critical_section::with(|section| BETWEEN.replace(section, object))
}

/// The interrupt: the main program may be anywhere, but in the allocator.
pub fn on_tick() {
    critical_section::with(|section| {
        let State { objects, random, counts } = &mut *STATE.borrow_ref_mut(section);
        counts.ticks += 1;
        for _ in 0..WORK {
            counts.work += 1;
            let slot = &mut objects[random.below(SLOTS)];
            if let Some(object) = slot.take() {
                object.free::<Machine>();
                continue;
            }
            let layout = Layout::from_size_align(random.size(LARGEST_LOG2), 8);
            match layout.map(Object::alloc::<Machine>) {
                Ok(Ok(object)) => *slot = Some(object),
                _ => counts.refused += 1,
            }
        }
        let mine = objects[0].take();
        if let Some(other) = BETWEEN.borrow_ref_mut(section).take() {
            other.free::<Machine>();
            counts.handed_over += 1;
        }
        *BETWEEN.borrow_ref_mut(section) = mine;
    });
}
