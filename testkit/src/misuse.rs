//! Misuse handlers for tests: one records, one fails.

use std::cell::RefCell;

use buddy_slab_allocator::Misuse;
use buddy_slab_allocator::global::MisuseReport;

thread_local! {
    static REPORTS: RefCell<Vec<(usize, Misuse)>> = const { RefCell::new(Vec::new()) };
}

/// A handler that keeps the report for [`take`] on the same thread and returns.
pub fn record(report: &MisuseReport) {
    REPORTS.with(|reports| reports.borrow_mut().push((report.addr, report.kind)));
}

/// A handler for tests that make legal calls only.
pub fn fail(report: &MisuseReport) {
    panic!("misuse reported for a legal call: {:?} at {:#x}", report.kind, report.addr);
}

/// What was recorded on this thread since the last call.
pub fn take() -> Vec<(usize, Misuse)> {
    REPORTS.with(|reports| reports.take())
}

/// Fails unless exactly one report arrived, about `addr`, of one of `kinds`.
///
/// # Panics
/// If there was no report, more than one, or another.
#[track_caller]
pub fn expect_one(addr: usize, kinds: &[Misuse]) {
    let reports = take();
    assert_eq!(reports.len(), 1, "one report was due for {addr:#x}, got {reports:x?}");
    assert_eq!(reports[0].0, addr, "the report names another address: {reports:x?}");
    assert!(kinds.contains(&reports[0].1), "expected one of {kinds:?}, got {:?}", reports[0].1);
}

/// Fails if a report arrived.
///
/// # Panics
/// If there was one.
#[track_caller]
pub fn expect_none() {
    let reports = take();
    assert!(reports.is_empty(), "no report was due, got {reports:x?}");
}
