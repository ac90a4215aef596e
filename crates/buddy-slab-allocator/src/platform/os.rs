//! The published platform: [`OsImpl`] behind a reference, reached in the *locked* way.

use core::cell::UnsafeCell;

use super::{Access, Platform};
use crate::sync::SpinLock;
use crate::sync::atomic::{AtomicBool, Ordering};

/// What the published interface asks of an operating system.
///
/// It is the *locked* way: the index is a hint, which may be stale or out of range.
pub trait OsImpl: Sync + Send {
    /// The index of the CPU that runs this, counted from 0.
    fn current_cpu_idx(&self) -> usize;

    /// The physical address of `vaddr`, linear within 4 MiB. When it is asked:
    /// [`Platform::virt_to_phys`].
    fn virt_to_phys(&self, vaddr: usize) -> usize;
}

/// The default [`Platform`]: an [`OsImpl`] that is attached when the allocator is initialised,
/// a spin lock around each heap, no context token.
pub struct OsPlatform {
    os: UnsafeCell<Option<&'static dyn OsImpl>>,
    attached: AtomicBool,
}

// SAFETY: `os` is written once, before `attached` is set with release ordering, by the one caller
// whom the allocator's initialisation state admits; it is read only after `attached` was seen.
unsafe impl Sync for OsPlatform {}
// SAFETY: the reference is to a `Sync` object, and is all that moves.
unsafe impl Send for OsPlatform {}

impl OsPlatform {
    /// A platform that nothing is attached to: no CPU index yet.
    pub const fn new() -> Self {
        Self { os: UnsafeCell::new(None), attached: AtomicBool::new(false) }
    }

    /// Attaches `os`, once.
    ///
    /// # Safety
    /// - No other call of `attach` runs at the same time, and none has succeeded before.
    pub(crate) unsafe fn attach(&self, os: &'static dyn OsImpl) {
        // SAFETY: the only writer (condition), and no reader before the store below.
        unsafe { *self.os.get() = Some(os) };
        self.attached.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn os(&self) -> Option<&'static dyn OsImpl> {
        if !self.attached.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: written before `attached`, which was just seen, and never again.
        unsafe { *self.os.get() }
    }
}

impl Default for OsPlatform {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the *locked* way promises nothing about the index; there is no token; nothing here
// calls the allocator unless the user's `OsImpl` does, which its documentation forbids.
unsafe impl Platform for OsPlatform {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Locked;

    #[inline]
    fn pin(&self) -> ((), Option<usize>) {
        ((), self.os().map(|os| os.current_cpu_idx()))
    }

    #[inline]
    fn unpin(&self, (): ()) {}

    fn virt_to_phys(&self, vaddr: usize) -> Option<u64> {
        self.os().map(|os| os.virt_to_phys(vaddr) as u64)
    }
}
