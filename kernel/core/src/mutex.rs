//! A lock for the kernel's own data: masks interrupts while it is held.

use crate::arch::Arch;

/// Data behind a spin lock that handlers may take as well.
pub struct Mutex<T>(spin::mutex::SpinMutex<T>);

impl<T> Mutex<T> {
    /// A new, unlocked lock.
    pub const fn new(value: T) -> Self {
        Self(spin::mutex::SpinMutex::new(value))
    }

    /// Runs `work` on the data, with interrupts masked.
    pub fn with<A: Arch, R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let enabled = A::mask();
        let result = work(&mut self.0.lock());
        // SAFETY: from the `mask` above; the lock is free again.
        unsafe { A::restore(enabled) };
        result
    }
}
