//! The host as the three kinds of platform: a CPU is a number that a thread gives itself.

use std::cell::Cell;

use buddy_slab_allocator::{Access, OsImpl, Platform, SpinLock};

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    /// What a kernel would keep in a per-CPU variable: how often preemption was forbidden.
    static PREEMPT_COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Runs `work` as CPU 1, on a thread that starts for it; the main thread is CPU 0.
pub fn as_second_cpu<R>(work: impl FnOnce() -> R) -> R {
    CPU.set(1);
    work()
}

/// *Pinned*: counts in and out of sections without preemption, as a kernel does.
pub struct Pinned;

// SAFETY:
// - an index is used by one thread at a time: the main thread has 0, and of the threads that
//   `as_second_cpu` puts on 1, one ends before the next begins (`handover`); no handler runs;
// - nothing here unwinds or allocates: both thread-locals are constant and need no destructor.
unsafe impl Platform for Pinned {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;

    #[inline(always)]
    fn pin(&self) -> ((), Option<usize>) {
        PREEMPT_COUNT.set(PREEMPT_COUNT.get() + 1);
        ((), Some(CPU.get()))
    }

    #[inline(always)]
    fn unpin(&self, (): ()) {
        PREEMPT_COUNT.set(PREEMPT_COUNT.get() - 1);
    }
}

/// *Thread*: the index belongs to the thread, so that there is nothing to forbid.
pub struct Thread;

// SAFETY: as for `Pinned`.
unsafe impl Platform for Thread {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;

    #[inline(always)]
    fn pin(&self) -> ((), Option<usize>) {
        ((), Some(CPU.get()))
    }

    #[inline(always)]
    fn unpin(&self, (): ()) {}
}

/// *Locked*, through the published interface; physical addresses equal virtual ones.
pub struct Host;

/// The one host.
pub static HOST: Host = Host;

impl OsImpl for Host {
    fn current_cpu_idx(&self) -> usize {
        CPU.get()
    }

    fn virt_to_phys(&self, vaddr: usize) -> usize {
        vaddr
    }
}

impl predecessor::OsImpl for Host {
    fn current_cpu_idx(&self) -> usize {
        CPU.get()
    }

    fn virt_to_phys(&self, vaddr: usize) -> usize {
        vaddr
    }
}
