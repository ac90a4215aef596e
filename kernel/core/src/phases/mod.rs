//! The loads: each phase says what it does, does it on all CPUs, and shows the heap afterwards.

pub mod count;
pub mod disk;
mod exhaustion;
mod faults;
mod hot_add;
mod interrupts;
mod messages;
mod migration;
mod nmi;
mod objects;
mod page_storm;
pub mod tables;

use crate::arch::Arch;
use crate::boot::HotRegion;
use crate::options::{Extra, Options};
use crate::{handlers, report, say};

/// Allocations or frees of each timer interrupt, in ordinary phases.
const WORK_PER_TICK: usize = 4;

/// Runs the phases that the options ask for, on the boot thread.
pub fn run<A: Arch>(options: &Options, hot: HotRegion) {
    handlers::set_work_per_tick(WORK_PER_TICK);
    let percent = options.work_percent;
    if options.extra.is_fault() {
        // Nothing else: the fault's message is what is wanted.
    } else if options.extra == Extra::Handlers {
        phase::<A>("timer interrupts that allocate, at high rate", || {
            interrupts::run::<A>(percent)
        });
    } else {
        phase::<A>("objects allocated on one CPU, freed on another", || objects::run::<A>(percent));
        phase::<A>("page storm", || page_storm::run::<A>(percent));
        phase::<A>("timer interrupts that allocate, at high rate", || {
            interrupts::run::<A>(percent)
        });
        phase::<A>("messages between CPUs as boxes", || messages::run::<A>(percent));
        phase::<A>("threads that migrate in the middle of work", || migration::run::<A>(percent));
        phase::<A>("exhaustion and recovery", || exhaustion::run::<A>());
        phase::<A>("hot add of a region", || hot_add::run::<A>(hot));
        phase::<A>("a disk behind DMA pages", || disk::run::<A>());
        phase::<A>("page tables from the heap", || tables::run::<A>(percent));
    }
    if options.extra == Extra::Nmi {
        phase::<A>("NMIs that allocate, whatever is masked", || nmi::run::<A>(percent));
    }
    handlers::set_work_per_tick(0);
    faults::run::<A>(options.extra);
}

/// One phase: a title, its work, the heap afterwards.
fn phase<A: Arch>(title: &str, work: impl FnOnce()) {
    say!(A, "\n== {title} ==");
    let start = A::now_ns();
    work();
    say!(A, "{} ms", (A::now_ns() - start) / 1_000_000);
    report::heap::<A>();
}
