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
//!
//! # Claiming a running CPU's heap
//! Where the platform has a barrier that reaches every running CPU ([`Platform::CLAIMS`]), an
//! `OPEN` heap can be had too. The claimer sets `claimed`, passes the barrier, and looks at the
//! state; the owner stores `BUSY`, and looks at `claimed`. Of the two at least one sees the other:
//! whatever the owner does before the barrier reaches it the claimer sees, and what it does after
//! sees the claim. So if the claimer finds `OPEN`, the owner is outside, and stays there: each
//! time it tries to enter it sees the claim and takes `BUSY` back. The claimer leaves the state as
//! it is. The release store that ends the claim pairs with the owner's acquire load.
//!
//! An owner that was inside when the barrier reached it leaves afterwards, and the claimer waits
//! for that: what the owner wrote in between no barrier orders. So where heaps can be claimed,
//! `OPEN` is stored with release ordering, which pairs with the claimer's acquire load. (Where
//! they cannot, nobody else ever reads what an `OPEN` heap holds.)
//!
//! [`Platform::CLAIMS`]: crate::platform::Platform::CLAIMS

use crate::sync::atomic::{AtomicU8, Ordering, compiler_fence};
use crate::sync::spin_loop;

const OPEN: u8 = 0;
const BUSY: u8 = 1;
const PARKED: u8 = 2;
const TAKEN: u8 = 3;

/// How often a claimer looks again at an owner that is inside: for a microsecond or two. One that runs
/// is soon out; one that does not, or itself waits for what the claimer holds, would be waited for in
/// vain, by each claimer for each of all heaps.
const PATIENCE: usize = 1 << 6;

/// The state byte of one heap, and whether somebody claims it; see the module's table.
pub(crate) struct Gate {
    state: AtomicU8,
    claimed: AtomicU8,
}

impl Gate {
    /// A gate whose CPU is not running yet.
    pub(crate) fn new_parked() -> Self {
        Self { state: AtomicU8::new(PARKED), claimed: AtomicU8::new(0) }
    }

    /// Enters the heap of the running CPU; `false` if that takes more than a look. `claims` says
    /// whether the platform's heaps can be claimed while they are open.
    #[inline(always)]
    pub(crate) fn enter(&self, claims: bool) -> bool {
        if self.state.load(Ordering::Relaxed) != OPEN {
            return false;
        }
        self.state.store(BUSY, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        if claims && self.is_claimed() {
            self.leave(claims);
            return false;
        }
        true
    }

    /// The rest of [`enter`](Self::enter): unparks, waits for a drain to end; `false` if the
    /// caller is a handler that interrupted the owner.
    #[cold]
    pub(crate) fn enter_slow(&self, claims: bool, relax: impl Fn()) -> bool {
        loop {
            match self.state.load(Ordering::Relaxed) {
                OPEN => {
                    if self.enter(claims) {
                        return true;
                    }
                    relax();
                }
                BUSY => return false,
                // A claimer that finds the heap parked takes it from there.
                PARKED => {
                    if self.swap(PARKED, BUSY) {
                        compiler_fence(Ordering::SeqCst);
                        if !claims || !self.is_claimed() {
                            return true;
                        }
                        self.leave_parked();
                        relax();
                    }
                }
                _ => relax(),
            }
        }
    }

    /// Leaves the heap; its CPU goes on running.
    #[inline(always)]
    pub(crate) fn leave(&self, claims: bool) {
        compiler_fence(Ordering::SeqCst);
        self.state.store(OPEN, if claims { Ordering::Release } else { Ordering::Relaxed });
    }

    /// Leaves the heap and lets others drain it until its CPU enters again.
    pub(crate) fn leave_parked(&self) {
        self.state.store(PARKED, Ordering::Release);
    }

    /// Claims a parked heap on behalf of its CPU.
    pub(crate) fn take(&self) -> bool {
        self.swap(PARKED, TAKEN)
    }

    /// Claims the heap of a CPU that may be running, unless it is inside for long or somebody else
    /// has the heap. `barrier` is the platform's.
    pub(crate) fn claim(&self, barrier: impl FnOnce() -> bool) -> bool {
        if self.claimed.compare_exchange(0, 1, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return false;
        }
        if self.take() {
            return true;
        }
        if barrier() {
            for _ in 0..PATIENCE {
                match self.state.load(Ordering::Acquire) {
                    OPEN => return true,
                    PARKED if self.take() => return true,
                    _ => spin_loop(),
                }
            }
        }
        self.claimed.store(0, Ordering::Release);
        false
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
        if self.state.load(Ordering::Relaxed) == TAKEN {
            self.state.store(PARKED, Ordering::Release);
        }
        self.claimed.store(0, Ordering::Release);
    }

    /// Whether nobody is inside.
    pub(crate) fn is_parked(&self) -> bool {
        self.state.load(Ordering::Acquire) == PARKED
    }

    #[inline(always)]
    fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Acquire) != 0
    }

    fn swap(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

/// How tests wait.
#[cfg(test)]
fn relax() {
    spin_loop();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_nests_is_told_so() {
        let gate = Gate::new_parked();
        assert!(!gate.enter(false), "a parked gate takes the slow way");
        assert!(gate.enter_slow(false, relax));
        assert!(!gate.enter(false));
        assert!(!gate.enter_slow(false, relax));
        gate.leave(false);
        assert!(gate.enter(false));
    }

    #[test]
    fn only_a_parked_heap_can_be_taken_by_another() {
        let gate = Gate::new_parked();
        assert!(gate.take());
        assert!(!gate.take());
        gate.give_back();
        assert!(gate.enter_slow(false, relax));
        assert!(!gate.take());
        gate.leave(false);
        assert!(!gate.take());
        assert!(gate.enter(false));
        gate.leave_parked();
        assert!(gate.is_parked());
        assert!(gate.take());
    }

    #[test]
    fn an_open_heap_can_be_claimed_and_keeps_its_owner_out() {
        let gate = Gate::new_parked();
        let claim = || gate.claim(|| true);
        assert!(claim(), "a parked one too");
        assert!(!claim(), "by one at a time");
        gate.give_back();
        assert!(gate.is_parked());

        assert!(gate.enter_slow(true, relax));
        assert!(!claim(), "its owner is inside");
        gate.leave(true);
        assert!(claim());
        assert!(!gate.enter(true));
        gate.give_back();
        assert!(gate.enter(true), "the owner goes on as if nothing had been");
        gate.leave(true);
        assert!(!gate.claim(|| false), "not where the barrier fails");
        assert!(gate.enter(true));
    }
}
