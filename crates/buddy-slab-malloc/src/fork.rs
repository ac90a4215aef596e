//! The heap on both sides of a `fork`.
//!
//! A child is a copy of the address space in which only the calling thread runs. So before the copy
//! is made every other thread is kept out of the allocator, and every lock is taken: then nobody is
//! in the middle of anything. In the child the heaps of the threads that are not there are parked:
//! what they keep is had by whoever needs it, and by the threads that take their indices.
//!
//! The handlers are registered when the heap starts, before almost everybody else's: so they run
//! last before the fork and first after it, and other handlers may allocate.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::process::{self, ALLOCATOR};
use crate::{huge, purge, sys, threads};

/// How often the others are asked out before the fork goes on without (some thread is stuck inside,
/// or the fork comes from a handler that interrupted the allocator).
const ATTEMPTS: usize = 64;

static FROZEN: AtomicBool = AtomicBool::new(false);

/// Registers the handlers, once.
pub(crate) fn register() {
    // SAFETY: the three functions are there for as long as the process.
    sys::quietly(|| unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) });
}

unsafe extern "C" fn prepare() {
    for _ in 0..ATTEMPTS {
        if freeze() {
            FROZEN.store(true, Ordering::Relaxed);
            return;
        }
        sys::yield_now();
    }
}

fn freeze() -> bool {
    if !process::freeze() {
        return false;
    }
    let huge = huge::freeze();
    // SAFETY: the calling thread's own index, which it keeps; thawed by `parent` or `child`, in the
    // same context. A fork in a handler that interrupted the allocator finds a lock held or a heap
    // in use.
    if huge && unsafe { ALLOCATOR.freeze(threads::index()) } {
        return true;
    }
    // SAFETY: both were frozen above.
    unsafe {
        if huge {
            huge::thaw();
        }
        process::thaw();
    }
    false
}

unsafe extern "C" fn parent() {
    if FROZEN.swap(false, Ordering::Relaxed) {
        // SAFETY: frozen by `prepare`, in this thread, whose index is the same.
        unsafe {
            ALLOCATOR.thaw(threads::index());
            thaw_rest();
        }
    }
}

unsafe extern "C" fn child() {
    if FROZEN.swap(false, Ordering::Relaxed) {
        // SAFETY: frozen by `prepare` in the thread that this one is a copy of, and no other runs.
        unsafe {
            ALLOCATOR.thaw_alone(threads::index());
            thaw_rest();
        }
        threads::forget_others();
    }
    purge::forget();
}

/// # Safety
/// - Frozen by `freeze`, in this context.
unsafe fn thaw_rest() {
    // SAFETY: frozen (condition).
    unsafe {
        huge::thaw();
        process::thaw();
    }
}
