//! Locks of other crates as [`RawLock`], each behind its feature.

use super::RawLock;

/// Any [`lock_api::RawMutex`] as the allocator's lock.
#[cfg(feature = "lock_api")]
pub struct LockApi<R>(R);

// SAFETY: `lock_api::RawMutex` is itself an unsafe trait with the same promises: exclusion,
// acquire and release, and a `try_lock` that never waits.
#[cfg(feature = "lock_api")]
unsafe impl<R: lock_api::RawMutex + Send + Sync> RawLock for LockApi<R> {
    const NEW: Self = Self(R::INIT);

    #[inline]
    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    #[inline]
    fn lock(&self) {
        self.0.lock();
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller holds the lock in this context (condition of `unlock`).
        unsafe { self.0.unlock() }
    }
}

/// The critical section of the `critical-section` crate as a lock: what a single-core
/// microcontroller uses. It masks every handler that could call the allocator.
#[cfg(feature = "critical-section")]
pub struct CriticalSectionLock {
    held: super::atomic::AtomicBool,
    restore: core::cell::UnsafeCell<critical_section::RestoreState>,
}

// SAFETY: `restore` is touched only by the holder of the lock.
#[cfg(feature = "critical-section")]
unsafe impl Sync for CriticalSectionLock {}

// SAFETY: the restore state is a plain value that the holder alone reads and writes; a lock that
// is not held has none worth keeping.
#[cfg(feature = "critical-section")]
unsafe impl Send for CriticalSectionLock {}

// SAFETY:
// - the critical section keeps every other context out; `held` refuses a nested holder (the
//   section itself may nest);
// - a critical section is an acquire on entry and a release on exit.
#[cfg(feature = "critical-section")]
unsafe impl RawLock for CriticalSectionLock {
    const NEW: Self = Self {
        held: super::atomic::AtomicBool::new(false),
        restore: core::cell::UnsafeCell::new(critical_section::RestoreState::invalid()),
    };

    fn try_lock(&self) -> bool {
        use super::atomic::Ordering;
        // SAFETY: released below, or by `unlock` of this holder, which the trait's users pair.
        let state = unsafe { critical_section::acquire() };
        if self.held.load(Ordering::Relaxed) {
            // SAFETY: pairs with the acquire above, in order.
            unsafe { critical_section::release(state) };
            return false;
        }
        self.held.store(true, Ordering::Relaxed);
        // SAFETY: inside the section, and nobody else holds the lock.
        unsafe { *self.restore.get() = state };
        true
    }

    unsafe fn unlock(&self) {
        use super::atomic::Ordering;
        // SAFETY: the caller is the holder, so `restore` is its own.
        let state = unsafe { *self.restore.get() };
        self.held.store(false, Ordering::Relaxed);
        // SAFETY: pairs with the acquire in `try_lock`.
        unsafe { critical_section::release(state) };
    }
}
