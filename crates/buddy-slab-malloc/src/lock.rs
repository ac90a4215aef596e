//! The lock around what threads share: spins for a moment, then lets others run.
//!
//! Giving it back is a plain store, which is what counts: it is held for a few dozen instructions
//! and rarely wanted twice. A thread that was interrupted while it holds the lock is waited for by
//! yielding, and, should the scheduler prefer the one that waits, by sleeping.

use core::sync::atomic::{AtomicBool, Ordering};

use buddy_slab_allocator::RawLock;

use crate::sys;

const SPINS: usize = 64;
const YIELDS: usize = 32;

/// See the module.
pub(crate) struct YieldingLock(AtomicBool);

// SAFETY:
// - the flag goes from false to true by one compare-and-swap only, and back by the holder;
// - acquire on taking pairs with release on giving back;
// - `try_lock` is a load and a compare-and-swap: it fails whenever the flag is set;
// - nothing here unwinds or allocates.
unsafe impl RawLock for YieldingLock {
    const NEW: Self = Self(AtomicBool::new(false));

    #[inline]
    fn try_lock(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
            && self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn lock(&self) {
        if self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_slow();
        }
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

impl YieldingLock {
    #[cold]
    fn lock_slow(&self) {
        for round in 0_usize.. {
            if self.try_lock() {
                return;
            }
            if round < SPINS {
                core::hint::spin_loop();
            } else if round < SPINS + YIELDS {
                sys::yield_now();
            } else {
                sys::nap();
            }
        }
    }

    /// Runs `body` with the lock held.
    pub(crate) fn with<R>(&self, body: impl FnOnce() -> R) -> R {
        self.lock();
        let result = body();
        // SAFETY: taken above.
        unsafe { self.unlock() };
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicUsize;

    #[test]
    fn one_thread_at_a_time_is_inside() {
        static LOCK: YieldingLock = YieldingLock::NEW;
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        LOCK.with(|| {
                            let count = COUNT.load(Ordering::Relaxed);
                            assert!(!LOCK.try_lock());
                            COUNT.store(count + 1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(COUNT.load(Ordering::Relaxed), 80_000);
    }
}
