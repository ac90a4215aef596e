//! Timer interrupts at a high rate on every CPU, whose handlers allocate and free while the threads
//! do the same.

use core::alloc::Layout;
use core::sync::atomic::Ordering;

use crate::arch::Arch;
use crate::boot::TICK_HZ;
use crate::pattern::{Object, Random};
use crate::{cpu, handlers, say, scheduler, thread};

const RATE_HZ: u32 = 2000;
const WORK_PER_TICK: usize = 16;
/// Allocations and frees that each CPU's handlers have to do.
const WORK: usize = 8000;
const TIME_LIMIT_NS: u64 = 60_000_000_000;

/// Runs until each CPU's handlers have done their share.
pub(super) fn run<A: Arch>(percent: usize) {
    handlers::set_work_per_tick(WORK_PER_TICK);
    let work = WORK * percent / 100;
    let nested_before = A::heap().reentry_count();
    thread::on_each_cpu::<A>(&|index| {
        let Some(local) = cpu::get(index) else { return };
        let before = local.handler_work.load(Ordering::Relaxed);
        A::set_timer(RATE_HZ);
        let start = A::now_ns();
        let mut random = Random::new(index as u64 + 200);
        while local.handler_work.load(Ordering::Relaxed) - before < work {
            assert!(A::now_ns() - start < TIME_LIMIT_NS, "CPU {index}: too few timer interrupts");
            for _ in 0..32 {
                let Ok(layout) = Layout::from_size_align(random.size(12), 8) else { continue };
                match Object::alloc::<A>(layout) {
                    Ok(object) => object.free::<A>(),
                    Err(error) => panic!("{layout:?}: {error}"),
                }
            }
            scheduler::yield_now::<A>();
        }
        A::set_timer(TICK_HZ);
    });
    handlers::set_work_per_tick(super::WORK_PER_TICK);
    let nested = A::heap().reentry_count() - nested_before;
    say!(A, "{nested} handlers interrupted the allocator");
    refusals();
}

/// Of so many requests of handlers one may be refused: those that interrupted the allocator are served
/// from a stock, which may be used up for a moment.
const REFUSED_SHARE: usize = 500;

/// Handlers get what they ask for while there is plenty.
///
/// # Panics
/// If more than a few were refused; if one was that cannot have interrupted the allocator.
pub(super) fn refusals() {
    let never_nested =
        !cfg!(any(feature = "pin-preempt", feature = "locked", feature = "lock-plain"));
    for local in cpu::all() {
        let refused = local.refused.load(Ordering::Relaxed);
        let work = local.handler_work.load(Ordering::Relaxed);
        let nmis = local.nmi_work.load(Ordering::Relaxed);
        let few = if never_nested && nmis == 0 { 0 } else { work / REFUSED_SHARE };
        assert!(
            refused <= few,
            "CPU {}: {refused} of {work} requests of handlers were refused with plenty of memory free",
            local.index(),
        );
    }
}
