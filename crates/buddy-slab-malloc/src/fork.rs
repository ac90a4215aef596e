//! The heap on both sides of a `fork`.
//!
//! A child is a copy of the address space in which only the calling thread runs. So before the copy
//! is made every other thread is kept out of the allocator, and every lock is taken: then nobody is
//! in the middle of anything. In the child the heaps of the threads that are not there are parked:
//! what they keep is had by whoever needs it, and by the threads that take their indices.
//!
//! The handlers are registered when the heap starts, before almost everybody else's: so they run
//! last before the fork and first after it, and other handlers may allocate.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::process::{self, ALLOCATOR};
use crate::{huge, purge, sys, threads};

/// Whose fork keeps the others out; 0 for nobody's. One that went on without thaws nothing.
static FROZEN_BY: AtomicUsize = AtomicUsize::new(0);

/// Registers the handlers, once.
pub(crate) fn register() {
    // SAFETY: the three functions are there for as long as the process.
    sys::quietly(|| unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) });
}

/// Keeps the others out. A thread that does not run is waited for: a child made while it holds a
/// lock would wait for that lock for ever. If it takes seconds (some thread is stuck inside, or the
/// fork comes from a handler that interrupted the allocator) the fork goes on without.
unsafe extern "C" fn prepare() {
    if freeze() {
        FROZEN_BY.store(process::me(), Ordering::Relaxed);
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
    if huge && process::patiently(|| unsafe { ALLOCATOR.freeze(threads::index()) }) {
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

/// Whether the caller's fork kept the others out. (A child's thread is called what its parent is.)
fn is_over() -> bool {
    let frozen = FROZEN_BY.load(Ordering::Relaxed) == process::me();
    if frozen {
        FROZEN_BY.store(0, Ordering::Relaxed);
    }
    frozen
}

unsafe extern "C" fn parent() {
    if is_over() {
        // SAFETY: frozen by `prepare`, in this thread, whose index is the same.
        unsafe {
            ALLOCATOR.thaw(threads::index());
            thaw_rest();
        }
    }
}

unsafe extern "C" fn child() {
    if is_over() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A fork on a loaded machine gave up, and its child waited for ever.
    #[test]
    fn who_holds_a_lock_and_does_not_run_is_waited_for() {
        let held = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(huge::freeze());
                held.wait();
                std::thread::sleep(Duration::from_millis(300));
                // SAFETY: frozen above.
                unsafe { huge::thaw() };
            });
            held.wait();
            assert!(freeze());
            // SAFETY: frozen in the line before, with the same index.
            unsafe {
                ALLOCATOR.thaw(threads::index());
                thaw_rest();
            }
        });
        assert!(!process::patiently(|| false), "but not for ever");
    }

    #[test]
    fn a_fork_that_went_on_without_leaves_another_ones_locks_alone() {
        assert!(!is_over());
        let other = process::me() + 1;
        FROZEN_BY.store(other, Ordering::Relaxed);
        assert!(!is_over());
        assert_eq!(FROZEN_BY.swap(process::me(), Ordering::Relaxed), other);
        assert!(is_over());
        assert!(!is_over());
    }
}
