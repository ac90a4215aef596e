//! What the run prints about the heap, and what it demands of it at the end.

use buddy_slab_allocator::MisuseReport;

use crate::console::say;
use crate::{HEAP, tick};

/// Prints the heap's state as Linux would in `buddyinfo` and `slabinfo`.
pub fn heap() {
    let snapshot = HEAP.snapshot();
    say!("buddyinfo\n{}\nslabinfo\n{}", snapshot.buddyinfo(), snapshot.slabinfo());
}

/// What the allocator calls on a bad free: the run fails.
pub fn on_misuse(report: &MisuseReport) {
    panic!("{report}");
}

/// At the end, with the handler silent: nothing may be left.
///
/// # Panics
/// If an object or a page is left allocated, or a bad free was found.
pub fn nothing_is_left() {
    say!("\n== the end ==");
    let counts = tick::counts();
    say!(
        "{} ticks, {} allocations and frees in the handler, {} refused, {} objects handed over",
        counts.ticks,
        counts.work,
        counts.refused,
        counts.handed_over,
    );
    let freed = HEAP.shrink();
    say!("shrink() gave {freed} bytes back");
    heap();
    let snapshot = HEAP.snapshot();
    for class in &snapshot.classes {
        assert!(
            class.objects_live == 0,
            "{} objects of {} bytes are left allocated",
            class.objects_live,
            class.size,
        );
    }
    assert!(snapshot.large_pages == 0, "{} pages are left allocated", snapshot.large_pages);
    assert!(HEAP.misuse_count() == 0, "{} bad frees", HEAP.misuse_count());
    HEAP.check_invariants();
}
