//! The one place that chooses the atomics (core's, loom's, or portable-atomic's where the
//! target has no compare-and-swap), and the lock that guards shared lists.
//!
//! Nothing else in the crate names `cfg(loom)` or `core::sync::atomic`.

#[cfg(any(feature = "lock_api", feature = "critical-section"))]
mod adapters;
mod lock;
mod order;

pub(crate) use lock::{Guard, lock, lock_bounded, try_lock, unlock};
pub use lock::{NoLock, RawLock, SpinLock};
pub(crate) use order::{Rank, assert_nothing_held};

#[cfg(feature = "critical-section")]
pub use adapters::CriticalSectionLock;
#[cfg(feature = "lock_api")]
pub use adapters::LockApi;

/// Atomics under one name, whatever the target or the model checker.
pub(crate) mod atomic {
    #[cfg(loom)]
    pub(crate) use core::sync::atomic::compiler_fence;
    #[cfg(all(not(loom), target_has_atomic = "ptr"))]
    pub(crate) use core::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, compiler_fence, fence,
    };
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, Ordering, fence,
    };
    #[cfg(all(not(loom), not(target_has_atomic = "ptr")))]
    pub(crate) use {
        core::sync::atomic::Ordering,
        portable_atomic::{
            AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize, compiler_fence, fence,
        },
    };
}

/// Tells the processor that this is a spin loop (yields to the model under loom).
#[inline]
pub(crate) fn spin_loop() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
