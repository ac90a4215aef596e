//! What the run prints about the heap, and what it demands of it at the end.

use core::sync::atomic::Ordering;

use buddy_slab_allocator::MisuseReport;

use crate::arch::Arch;
use crate::{cpu, say};

/// Prints the heap's state as Linux would in `buddyinfo` and `slabinfo`.
pub fn heap<A: Arch>() {
    let snapshot = A::heap().snapshot();
    say!(A, "buddyinfo\n{}\nslabinfo\n{}", snapshot.buddyinfo(), snapshot.slabinfo());
    if snapshot.heaps_not_seen != 0 {
        say!(A, "  (the free objects of {} running CPUs count as live)", snapshot.heaps_not_seen);
    }
}

/// What the allocator calls on a bad free: the run fails.
pub fn on_misuse(report: &MisuseReport) {
    panic!("{report}");
}

/// Prints what the handlers did since boot.
pub fn handlers<A: Arch>() {
    for local in cpu::all() {
        say!(
            A,
            "  CPU {}: {} ticks, {} preemptions, {} allocations and frees in handlers ({} in NMIs), {} refused",
            local.index(),
            local.ticks.load(Ordering::Relaxed),
            local.preemptions.load(Ordering::Relaxed),
            local.handler_work.load(Ordering::Relaxed),
            local.nmi_work.load(Ordering::Relaxed),
            local.refused.load(Ordering::Relaxed),
        );
    }
}

/// At the end, with the other CPUs gone: nothing may be left.
///
/// # Panics
/// If an object or a page is left allocated, or a bad free was found.
pub fn nothing_is_left<A: Arch>() {
    let heap = A::heap();
    let freed = heap.shrink();
    say!(A, "shrink() gave {} KiB back", freed / 1024);
    self::heap::<A>();
    let snapshot = heap.snapshot();
    for class in &snapshot.classes {
        assert!(
            class.objects_live == 0,
            "{} objects of {} bytes are left allocated",
            class.objects_live,
            class.size,
        );
    }
    assert!(snapshot.large_pages == 0, "{} pages are left allocated", snapshot.large_pages);
    assert!(heap.misuse_count() == 0, "{} bad frees", heap.misuse_count());
    heap.check_invariants();
}
