//! What the allocator asks of the kernel around it.
//!
//! One small trait, [`Platform`], says how the running CPU's heap is reached, which lock guards
//! what is shared, and where memory lies physically. There are three ways to reach a heap:
//!
//! | way | what the platform promises | cost on the fast path |
//! | --- | --- | --- |
//! | *pinned* ([`Access::Exclusive`]) | between `pin` and `unpin` only nested handlers run on this CPU | a load, a compare, two stores |
//! | *thread* ([`Access::Exclusive`]) | the index belongs to the running thread alone | the same |
//! | *locked* ([`Access::Locked`]) | nothing: the index may be stale, or wrong | one uncontended lock |
//!
//! # Re-entry
//! A handler (interrupt, NMI, signal) may call the allocator while the code that it interrupted is
//! inside it. That never waits for the interrupted code and never corrupts:
//! - *pinned* and *thread*: the heap's gate says that its owner is inside; the handler is diverted
//!   to a shared heap, takes it only if nobody holds it, and only tries every other lock;
//! - *locked* with a [`ContextSlot`]: the slot says so, before any lock is taken;
//! - *locked* without one ([`OsImpl`]): attempts are bounded
//!   ([`Platform::PATIENCE`]), then the request ends in `NoMemory`.
//!
//! A free never fails: objects go on the slab's lock-free remote words, pages on a deferred list.

mod os;
mod slot;

pub use os::{OsImpl, OsPlatform};
pub use slot::ContextSlot;

use crate::sync::RawLock;

/// How a CPU's heap is protected while it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The platform keeps everybody else out between `pin` and `unpin`; only handlers nest.
    Exclusive,
    /// Each heap has a lock; the CPU index is a hint.
    Locked,
}

/// What the allocator needs from the kernel, hypervisor, firmware or host around it.
///
/// # Safety
/// - With [`Access::Exclusive`]: from the return of [`pin`](Self::pin) until
///   [`unpin`](Self::unpin), whoever else gets the same index from `pin` is a handler that
///   interrupted this very code and finishes before it resumes. The CPU does not change.
/// - [`context`](Self::context) returns the slot of the running context; a handler that may call
///   the allocator returns that of the context which it interrupted. A slot is never shared by two
///   contexts that can run at the same time.
/// - In a handler, `pin` gives the index that the interrupted code got, or would have got.
/// - None of the functions unwinds or calls the allocator, except
///   [`drain_cpus`](Self::drain_cpus) and [`chores`](Self::chores), which are called with nothing
///   held.
/// - [`barrier`](Self::barrier) returns `true` only if it did what it says.
/// - With [`KEEPS_HEAP`](Self::KEEPS_HEAP): [`heap`](Self::heap) returns null, or what
///   [`set_heap`](Self::set_heap) was last given on this CPU (or thread), whose index nobody else has
///   got since: where an index changes hands, the word of the old owner becomes null first. Each
///   word serves one allocator.
pub unsafe trait Platform: Sync + 'static {
    /// The lock around what CPUs share (and, with [`Access::Locked`], around each heap).
    type Lock: RawLock;

    /// What undoes a `pin`: an interrupt flag, a preemption guard, or `()`.
    type Pin;

    /// How heaps are protected.
    const ACCESS: Access;

    /// How often a lock is tried where waiting could be waiting for oneself. Each attempt is a
    /// few cycles up to a hundred; the default is tens of milliseconds.
    const PATIENCE: u32 = 1 << 20;

    /// How many shared heaps serve early boot, unknown CPUs and re-entering handlers;
    /// at least one.
    const SHARED_HEAPS: usize = 2;

    /// Whether [`barrier`](Self::barrier) works: the heap of a running CPU can then be drained,
    /// looked at, and kept from it for a while ([`Access::Exclusive`] only). One more load on the
    /// fast path.
    const CLAIMS: bool = false;

    /// Whether there is a word for each CPU (or thread) in which the allocator can keep where its heap
    /// is ([`Access::Exclusive`] only). It saves checking the index and computing the address: four
    /// instructions a call or more, one of them a multiplication. Debug builds compare the two.
    const KEEPS_HEAP: bool = false;

    /// Whether a CPU keeps the objects that it frees in *magazines*: stacks, one for each size class,
    /// from which it serves its next requests without a look at any slab. Objects of mixed sizes,
    /// and those freed in no order, take half to three quarters of the time then ("Magazines" in
    /// `docs/design.md`).
    ///
    /// The price: what is freed wrongly (twice, inside an object, with another size, or nothing of
    /// this allocator's) is found when it leaves the magazine (on tick in part, on idle, offline and
    /// before a request fails), or at once if it is what was freed just before; of a drain that finds
    /// more than four, three and the last are reported (on 32 bits: more than two, one and the last).
    /// What was handed out again until then is not found: it may have two owners, or be no object at
    /// all. So this is for code whose frees are known to be right, say by having run without
    /// magazines. And a CPU reuses what it freed, wherever it was allocated; keeps up to 64 KiB and
    /// 1,024 objects of each class; and takes 28 pages of 4 KiB (14 on 32 bits) for the stacks
    /// themselves, if 64 times as much is free then. All of that goes back under pressure.
    const MAGAZINES: bool = false;

    /// Keeps this CPU, and tells its index; `None` before indices exist. An index out of range
    /// is served like `None`.
    fn pin(&self) -> (Self::Pin, Option<usize>);

    /// Ends what `pin` began.
    fn unpin(&self, pin: Self::Pin);

    /// The running CPU's word, null at first. Called between `pin` and `unpin`, on the fast path: one
    /// load, if it can be. Only with [`KEEPS_HEAP`](Self::KEEPS_HEAP).
    #[inline(always)]
    fn heap(&self) -> *mut () {
        core::ptr::null_mut()
    }

    /// Sets the running CPU's word. Called between `pin` and `unpin`.
    fn set_heap(&self, heap: *mut ()) {
        let _ = heap;
    }

    /// The token of the running context, for the *locked* way; `None` if there is none.
    #[inline(always)]
    fn context(&self) -> Option<&ContextSlot> {
        None
    }

    /// The physical address of `vaddr`, linear within 4 MiB; `None` if unknown. Asked once per
    /// 4 MiB when a region is added, with no lock held. Asked again, with the node's lock held,
    /// only for a request whose limit is neither 16 MiB nor 4 GiB, in a region whose physical
    /// addresses jump: it must not call the allocator, nor take a lock under which somebody does.
    fn virt_to_phys(&self, vaddr: usize) -> Option<u64> {
        let _ = vaddr;
        None
    }

    /// The NUMA node of a CPU.
    fn node_of(&self, cpu: usize) -> u8 {
        let _ = cpu;
        0
    }

    /// Makes every other CPU call `GlobalAllocator::drain_current` before this returns (an
    /// inter-processor interrupt, `membarrier`), so that memory kept by running CPUs can serve a
    /// request that would fail. Called with nothing held and nothing pinned.
    fn drain_cpus(&self) {}

    /// A full memory barrier on every running CPU, on behalf of this one: before it returns each
    /// of them has executed one (Linux: `membarrier`). `false` if that is not to be had; then only
    /// parked heaps can be claimed. Called only with [`CLAIMS`](Self::CLAIMS).
    fn barrier(&self) -> bool {
        false
    }

    /// Lets others run: a CPU waits for one that holds its heap, or the other way round.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// Called with nothing held when a large allocation of `bytes` was freed by address (but for what
    /// goes back from a [magazine](Self::MAGAZINES)), before its pages are anybody else's: they may
    /// be given back to whoever backs them. (Their content is not looked at again.)
    fn retire(&self, block: core::ptr::NonNull<u8>, bytes: usize) {
        let _ = (block, bytes);
    }

    /// Called at the end of slow paths, with nothing held and nothing pinned: the place for
    /// chores. It may call the allocator.
    fn chores(&self) {}
}
