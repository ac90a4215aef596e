//! How this kernel uses the allocator: what a kernel author writes.
//!
//! | feature | pinning | locks |
//! | --- | --- | --- |
//! | (none) | masks interrupts | mask interrupts |
//! | `pin-preempt` | counts up the thread's preemption count | mask interrupts |
//! | `locked` | does not pin: the index may be stale | mask interrupts |
//! | `lock-plain`, with any | as above | disable preemption only |
//! | `magazines`, with any | as above | as above |
//!
//! With `pin-preempt` or `lock-plain` interrupt handlers, and in every build NMI handlers, may
//! interrupt the allocator; the heap's gate, or the thread's context slot, tells it so.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use buddy_slab_allocator::{Access, ContextSlot, GlobalAllocator, Platform, RawLock};

use crate::arch::Arch;
use crate::{PAGE_SIZE, cpu};

/// The heap of this kernel on machine `A`.
pub type Heap<A> = GlobalAllocator<PAGE_SIZE, KernelPlatform<A>>;

/// How CPUs reach the heap, in words.
pub const WAY: &str = match (cfg!(feature = "locked"), cfg!(feature = "pin-preempt")) {
    (true, _) => "locked",
    (false, true) => "pinned by disabling preemption",
    (false, false) => "pinned by masking interrupts",
};

/// What the locks mask, in words.
pub const LOCKS: &str =
    if cfg!(feature = "lock-plain") { "mask no interrupts" } else { "mask interrupts" };

/// What the allocator asks of this kernel.
pub struct KernelPlatform<A>(PhantomData<A>);

impl<A> KernelPlatform<A> {
    /// The platform: it has no state of its own.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<A> Default for KernelPlatform<A> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY:
// - Exclusive: while interrupts are masked, or the running thread's preemption count is not zero,
//   the scheduler gives its CPU to no other thread, so whoever else gets the index is a handler that
//   interrupted this code on this CPU, and handlers run to their end;
// - the slot is the running thread's: it runs on one CPU at a time, and a handler finds the thread
//   that it interrupted;
// - a handler reads the same CPU register as what it interrupted;
// - the heap's word is the CPU's, whose index never changes again; this kernel has one heap;
// - nothing here unwinds (panics end the run) or calls the allocator, but `drain_cpus`.
unsafe impl<A: Arch> Platform for KernelPlatform<A> {
    #[cfg(not(feature = "lock-plain"))]
    type Lock = IrqLock<A>;
    #[cfg(feature = "lock-plain")]
    type Lock = PlainLock<A>;

    /// Whether interrupts were enabled; unused where pinning is something else.
    type Pin = bool;

    const ACCESS: Access =
        if cfg!(feature = "locked") { Access::Locked } else { Access::Exclusive };

    const KEEPS_HEAP: bool = !cfg!(feature = "locked");

    const MAGAZINES: bool = cfg!(feature = "magazines");

    #[inline(always)]
    fn heap(&self) -> *mut () {
        A::local().heap.load(Ordering::Relaxed)
    }

    fn set_heap(&self, heap: *mut ()) {
        A::local().heap.store(heap, Ordering::Relaxed);
    }

    #[inline(always)]
    fn pin(&self) -> (bool, Option<usize>) {
        let mut enabled = false;
        if cfg!(feature = "locked") {
            // Nothing is kept: the index is a hint.
        } else if cfg!(feature = "pin-preempt") {
            A::thread().disable_preemption();
        } else {
            enabled = A::mask();
        }
        // Before the heap knows of CPUs the index is out of range, which it takes as none.
        (enabled, Some(A::cpu()))
    }

    #[inline(always)]
    fn unpin(&self, enabled: bool) {
        if cfg!(feature = "locked") {
        } else if cfg!(feature = "pin-preempt") {
            A::thread().enable_preemption();
        } else {
            // SAFETY: from the `pin` that this ends.
            unsafe { A::restore(enabled) };
        }
    }

    #[inline(always)]
    fn context(&self) -> Option<&ContextSlot> {
        if cfg!(feature = "no-token") { None } else { Some(&A::thread().slot) }
    }

    fn virt_to_phys(&self, vaddr: usize) -> Option<u64> {
        Some(A::virt_to_phys(vaddr))
    }

    /// Asks every other CPU by an interrupt. Whoever has interrupts masked cannot wait for CPUs that
    /// may be waiting for it, and goes without.
    fn drain_cpus(&self) {
        if !A::interrupts_enabled() {
            return;
        }
        let enabled = A::mask(); // this thread stays where it is while it counts itself out
        let here = A::cpu();
        for local in cpu::all() {
            if local.index() != here && local.online.load(Ordering::Acquire) {
                local.drain.store(true, Ordering::Release);
                A::notify(local.index());
            }
        }
        // SAFETY: from the `mask` above.
        unsafe { A::restore(enabled) };
        for local in cpu::all() {
            while local.online.load(Ordering::Acquire) && local.drain.load(Ordering::Acquire) {
                A::relax();
            }
        }
    }
}

/// A spin lock that masks interrupts while it is held.
pub struct IrqLock<A> {
    held: AtomicBool,
    /// Whether they were enabled before; the holder's.
    enabled: UnsafeCell<bool>,
    arch: PhantomData<A>,
}

// SAFETY: `enabled` is written and read by the holder only.
unsafe impl<A: Arch> Sync for IrqLock<A> {}

// SAFETY:
// - one compare-exchange wins; `unlock` releases, taking it acquires;
// - `try_lock` makes one attempt, and a holder's lock is held for its handlers (NMIs) too;
// - nothing unwinds or allocates.
unsafe impl<A: Arch> RawLock for IrqLock<A> {
    const NEW: Self =
        Self { held: AtomicBool::new(false), enabled: UnsafeCell::new(false), arch: PhantomData };

    #[inline]
    fn try_lock(&self) -> bool {
        let enabled = A::mask();
        if self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            // SAFETY: this is the holder.
            unsafe { *self.enabled.get() = enabled };
            return true;
        }
        // SAFETY: from the `mask` above.
        unsafe { A::restore(enabled) };
        false
    }

    #[inline]
    fn lock(&self) {
        while !self.try_lock() {
            while self.held.load(Ordering::Relaxed) {
                A::relax();
            }
        }
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller is the holder.
        let enabled = unsafe { *self.enabled.get() };
        self.held.store(false, Ordering::Release);
        // SAFETY: from the `mask` with which the lock was taken.
        unsafe { A::restore(enabled) };
    }
}

/// A spin lock that keeps its holder on the CPU, and masks nothing: handlers may interrupt it.
///
/// It knows its holder's CPU, as lockdep would, so that a handler that waits for the code which it
/// interrupted ends the run instead of waiting.
pub struct PlainLock<A> {
    held: AtomicBool,
    /// The holder's CPU; the holder's.
    owner: AtomicUsize,
    /// Attempts to take the lock on its holder's own CPU, since it was taken.
    futile: AtomicU32,
    arch: PhantomData<A>,
}

/// A handler that knows what it interrupted tries once for each request.
const FUTILE_ATTEMPTS: u32 = 1 << 14;

impl<A: Arch> PlainLock<A> {
    /// The lock is held on this CPU: whoever tries is a handler above the holder.
    #[cold]
    fn note_futile(&self) {
        if self.futile.fetch_add(1, Ordering::Relaxed) == FUTILE_ATTEMPTS {
            panic!(
                "CPU {} waits for a lock that it holds itself: a handler interrupted the holder, the \
                 lock masks no interrupts, and no context token told the allocator so",
                A::cpu(),
            );
        }
    }
}

// SAFETY: as for `IrqLock`; a handler that interrupted the holder finds the lock held. The panic ends
// the run: it does not unwind.
unsafe impl<A: Arch> RawLock for PlainLock<A> {
    const NEW: Self = Self {
        held: AtomicBool::new(false),
        owner: AtomicUsize::new(usize::MAX),
        futile: AtomicU32::new(0),
        arch: PhantomData,
    };

    #[inline]
    fn try_lock(&self) -> bool {
        A::thread().disable_preemption();
        if self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            self.owner.store(A::cpu(), Ordering::Relaxed);
            return true;
        }
        if self.owner.load(Ordering::Relaxed) == A::cpu() && A::cpu() != usize::MAX {
            self.note_futile();
        }
        A::thread().enable_preemption();
        false
    }

    #[inline]
    fn lock(&self) {
        while !self.try_lock() {
            while self.held.load(Ordering::Relaxed)
                && self.owner.load(Ordering::Relaxed) != A::cpu()
            {
                A::relax();
            }
        }
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.owner.store(usize::MAX, Ordering::Relaxed);
        self.futile.store(0, Ordering::Relaxed);
        self.held.store(false, Ordering::Release);
        A::thread().enable_preemption();
    }
}
