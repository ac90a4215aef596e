//! The lock around shared lists: a minimal trait, the spin lock that is its default, and the
//! no-op for structures behind `&mut`.
//!
//! # Protocol
//! A holder is whoever got `true` from `try_lock` or returned from `lock`, until `unlock`. The
//! allocator holds at most one lock of a rank, calls nothing foreign while it holds one, and
//! announces the running context before it takes one (see `platform`).

use super::atomic::{AtomicBool, Ordering};
use super::order::{self, Rank};
use super::spin_loop;

/// A mutual-exclusion lock that the allocator can embed.
///
/// A kernel plugs in its own: one that also masks interrupts, one that lockdep knows.
///
/// # Safety
/// - While one caller holds the lock no other caller of `lock` or `try_lock` may obtain it.
/// - `unlock` makes what the holder wrote visible to the next holder (release and acquire).
/// - `try_lock` never waits, and fails for a nested holder: a handler that interrupted the
///   holder on the same CPU gets `false`.
/// - None of the functions may unwind or call the allocator.
pub unsafe trait RawLock: Send + Sync {
    /// A new, unlocked lock.
    const NEW: Self;

    /// Takes the lock if it is free; `false` otherwise. Never waits.
    fn try_lock(&self) -> bool;

    /// Waits until the lock is taken.
    fn lock(&self) {
        while !self.try_lock() {
            spin_loop();
        }
    }

    /// Gives the lock back.
    ///
    /// # Safety
    /// - The caller holds the lock, in the context in which it took it.
    unsafe fn unlock(&self);
}

/// A test-and-test-and-set spin lock. It masks nothing: a handler that waits for the code it
/// interrupted would wait forever, which the allocator's re-entry protocol prevents.
pub struct SpinLock {
    held: AtomicBool,
}

impl SpinLock {
    /// A new, unlocked lock.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { held: AtomicBool::new(false) }
    }
}

#[cfg(not(loom))]
impl Default for SpinLock {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY:
// - `held` goes from false to true by one compare-and-swap only, and back by the holder;
// - acquire on taking pairs with release on giving back;
// - `try_lock` is one compare-and-swap: it fails whenever the flag is set, whoever set it.
#[cfg(not(loom))]
unsafe impl RawLock for SpinLock {
    const NEW: Self = Self::new();

    #[inline]
    fn try_lock(&self) -> bool {
        self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    fn lock(&self) {
        while !self.try_lock() {
            while self.held.load(Ordering::Relaxed) {
                spin_loop();
            }
        }
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.held.store(false, Ordering::Release);
    }
}

/// No lock at all, for a structure that is only reached through `&mut`.
pub struct NoLock(());

impl NoLock {
    /// # Safety
    /// - The structure that embeds it is only reached through `&mut`, which is what keeps a
    ///   second holder out.
    pub(crate) const unsafe fn new() -> Self {
        Self(())
    }
}

// SAFETY: the constructor's condition makes every holder the only one.
unsafe impl RawLock for NoLock {
    // SAFETY: `NoLock` is crate-built only into `BuddyAllocator`, whose methods take `&mut self`.
    const NEW: Self = unsafe { Self::new() };

    #[inline]
    fn try_lock(&self) -> bool {
        true
    }

    #[inline]
    unsafe fn unlock(&self) {}
}

/// Waits for a lock.
#[inline]
pub(crate) fn lock<L: RawLock>(lock: &L, rank: Rank) {
    order::check_wait(rank);
    lock.lock();
    order::took(rank);
}

/// Takes a lock if it is free at this moment.
#[inline]
pub(crate) fn try_lock<L: RawLock>(lock: &L, rank: Rank) -> bool {
    let taken = lock.try_lock();
    if taken {
        order::took(rank);
    }
    taken
}

/// Tries `attempts` times, then gives up.
pub(crate) fn lock_bounded<L: RawLock>(lock: &L, rank: Rank, attempts: u32) -> bool {
    for _ in 0..attempts {
        if try_lock(lock, rank) {
            return true;
        }
        spin_loop();
    }
    false
}

/// Gives a lock back.
///
/// # Safety
/// - The caller holds it, in this context.
#[inline]
pub(crate) unsafe fn unlock<L: RawLock>(lock: &L, rank: Rank) {
    order::gave(rank);
    // SAFETY: held by the caller (condition).
    unsafe { lock.unlock() }
}

/// Holds a [`RawLock`] and gives it back when dropped.
pub(crate) struct Guard<'a, L: RawLock>(&'a L, Rank);

impl<'a, L: RawLock> Guard<'a, L> {
    /// Waits for the lock.
    #[inline]
    pub(crate) fn lock(lock: &'a L, rank: Rank) -> Self {
        self::lock(lock, rank);
        Self(lock, rank)
    }

    /// Takes the lock if it is free at this moment.
    #[inline]
    pub(crate) fn try_lock(lock: &'a L, rank: Rank) -> Option<Self> {
        // Not `then_some`: a guard that is built and dropped would give back another's lock.
        try_lock(lock, rank).then(|| Self(lock, rank))
    }

    /// Tries `attempts` times, then gives up.
    pub(crate) fn lock_bounded(lock: &'a L, rank: Rank, attempts: u32) -> Option<Self> {
        lock_bounded(lock, rank, attempts).then(|| Self(lock, rank))
    }
}

impl<L: RawLock> Drop for Guard<'_, L> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a guard exists only while its lock is held, and never leaves its context.
        unsafe { unlock(self.0, self.1) }
    }
}
