//! The gate of a heap that one CPU (or thread) has to itself.
//!
//! # Protocol
//! | state | who may touch the heap | who may change the state |
//! | --- | --- | --- |
//! | `OPEN` | nobody; its CPU may enter | the CPU, by a plain store |
//! | `BUSY` | its CPU | the CPU, by a plain store |
//! | `PARKED` | nobody; anybody may claim it | anybody, by compare-and-swap |
//! | `TAKEN` | whoever claimed it | that one, by a store to `PARKED` |
//!
//! Between `OPEN` and `BUSY` plain loads and stores suffice: the platform keeps everybody else
//! off this CPU, and a handler that nests leaves the gate as it found it. A CPU gives its heap up
//! by storing `PARKED` with release ordering; both sides leave `PARKED` by a compare-and-swap with
//! acquire ordering, so exactly one of an owner that returns and a claimer gets it, and sees
//! everything that the previous holder wrote. `TAKEN` lasts for one drain, which waits for nothing
//! that the owner could hold, so the owner spins it out.

use crate::sync::atomic::{AtomicU8, Ordering, compiler_fence};
use crate::sync::spin_loop;

const OPEN: u8 = 0;
const BUSY: u8 = 1;
const PARKED: u8 = 2;
const TAKEN: u8 = 3;

/// The state byte of one heap; see the module's table.
pub(crate) struct Gate(AtomicU8);

impl Gate {
    /// A gate whose CPU is not running yet.
    pub(crate) fn new_parked() -> Self {
        Self(AtomicU8::new(PARKED))
    }

    /// Enters the heap of the running CPU; `false` if that takes more than a look.
    #[inline(always)]
    pub(crate) fn enter(&self) -> bool {
        if self.0.load(Ordering::Relaxed) != OPEN {
            return false;
        }
        self.0.store(BUSY, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// The rest of [`enter`](Self::enter): unparks, waits for a drain to end; `false` if the
    /// caller is a handler that interrupted the owner.
    #[cold]
    pub(crate) fn enter_slow(&self) -> bool {
        loop {
            match self.0.load(Ordering::Relaxed) {
                OPEN => {
                    if self.enter() {
                        return true;
                    }
                }
                BUSY => return false,
                PARKED => {
                    if self.swap(PARKED, BUSY) {
                        return true;
                    }
                }
                _ => spin_loop(),
            }
        }
    }

    /// Leaves the heap; its CPU goes on running.
    #[inline(always)]
    pub(crate) fn leave(&self) {
        compiler_fence(Ordering::SeqCst);
        self.0.store(OPEN, Ordering::Relaxed);
    }

    /// Leaves the heap and lets others drain it until its CPU enters again.
    pub(crate) fn leave_parked(&self) {
        self.0.store(PARKED, Ordering::Release);
    }

    /// Claims a parked heap on behalf of its CPU.
    pub(crate) fn take(&self) -> bool {
        self.swap(PARKED, TAKEN)
    }

    /// Claims the heap of a CPU that is gone for good, inside or outside.
    ///
    /// # Safety
    /// - The CPU has stopped and does not come back before `cpu_online`.
    pub(crate) unsafe fn take_dead(&self) -> bool {
        self.take() || self.swap(OPEN, TAKEN) || self.swap(BUSY, TAKEN)
    }

    /// Gives a claimed heap back.
    pub(crate) fn give_back(&self) {
        self.0.store(PARKED, Ordering::Release);
    }

    /// Whether nobody is inside.
    pub(crate) fn is_parked(&self) -> bool {
        self.0.load(Ordering::Acquire) == PARKED
    }

    fn swap(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_nests_is_told_so() {
        let gate = Gate::new_parked();
        assert!(!gate.enter(), "a parked gate takes the slow way");
        assert!(gate.enter_slow());
        assert!(!gate.enter());
        assert!(!gate.enter_slow());
        gate.leave();
        assert!(gate.enter());
    }

    #[test]
    fn only_a_parked_heap_can_be_taken_by_another() {
        let gate = Gate::new_parked();
        assert!(gate.take());
        assert!(!gate.take());
        gate.give_back();
        assert!(gate.enter_slow());
        assert!(!gate.take());
        gate.leave();
        assert!(!gate.take());
        assert!(gate.enter());
        gate.leave_parked();
        assert!(gate.is_parked());
        assert!(gate.take());
    }
}
