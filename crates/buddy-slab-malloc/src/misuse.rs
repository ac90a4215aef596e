//! What is said of a bad free, and done.

use core::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::MisuseReport;

use crate::options::{Check, OPTIONS};
use crate::{huge, sys};

/// How many bad frees there were, where they do not end the process.
pub(crate) static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The allocator's misuse handler. An address that it does not know may be one of the huge ones.
pub(crate) fn handle(report: &MisuseReport) {
    if huge::release(report.addr) {
        return;
    }
    COUNT.fetch_add(1, Ordering::Relaxed);
    let check = OPTIONS.check();
    if check == Check::Ignore {
        return;
    }
    sys::say(format_args!("buddy-slab-malloc: {report}\n"));
    end(check);
}

fn end(check: Check) {
    if check == Check::Abort {
        // SAFETY: no condition.
        unsafe { libc::abort() };
    }
}
