//! The host as the three kinds of platform: a CPU is a number that a thread gives itself.

use std::cell::Cell;
use std::ptr;

use buddy_slab_allocator::{Access, OsImpl, Platform, SpinLock};

/// How many CPUs every heap is told of: one more than any workload has threads at a time.
pub const CPU_COUNT: usize = 8;

/// How many allocators keep their heap's address in a word of the running CPU.
const WORDS: usize = 6;

/// The number of no word.
pub const NO_WORD: usize = WORDS;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    /// What a kernel would keep in a per-CPU variable: how often preemption was forbidden.
    static PREEMPT_COUNT: Cell<isize> = const { Cell::new(0) };
    /// Where the running CPU's heaps are, for allocators that keep that in a word of theirs.
    static HEAPS: [Cell<*mut ()>; WORDS] = const { [const { Cell::new(ptr::null_mut()) }; WORDS] };
}

/// Makes the calling thread CPU number `cpu`. The main thread is CPU 0.
///
/// # Safety
/// - No other thread that is still to call an allocator has that number.
pub unsafe fn become_cpu(cpu: usize) {
    CPU.set(cpu);
    HEAPS.with(|heaps| heaps.iter().for_each(|heap| heap.set(ptr::null_mut())));
}

/// The number of the calling thread.
pub fn current_cpu() -> usize {
    CPU.get()
}

/// Changes the count in memory. Volatile, so that neither change is dropped: in a kernel, an
/// interrupt looks at it.
#[inline(always)]
fn add_to_preempt_count(change: isize) {
    PREEMPT_COUNT.with(|count| {
        let count = count.as_ptr();
        // SAFETY: the thread's own cell, borrowed by nobody.
        unsafe { count.write_volatile(count.read_volatile() + change) }
    });
}

/// *Pinned*: counts in and out of sections without preemption, as a kernel does.
/// One allocator can have the word of that number. With magazines or without.
pub struct Pinned<const WORD: usize = NO_WORD, const MAGAZINES: bool = false>;

// SAFETY:
// - an index is used by one thread at a time (condition of `become_cpu`); no handler runs;
// - nothing here unwinds or allocates: the thread-locals are constant and need no destructor;
// - a word is a thread's, empty when that becomes another CPU, and of one allocator: each names its
//   own, or none.
unsafe impl<const WORD: usize, const MAGAZINES: bool> Platform for Pinned<WORD, MAGAZINES> {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    const KEEPS_HEAP: bool = WORD < WORDS;
    const MAGAZINES: bool = MAGAZINES;

    #[inline(always)]
    fn pin(&self) -> ((), Option<usize>) {
        add_to_preempt_count(1);
        ((), Some(CPU.get()))
    }

    #[inline(always)]
    fn unpin(&self, (): ()) {
        add_to_preempt_count(-1);
    }

    #[inline(always)]
    fn heap(&self) -> *mut () {
        HEAPS.with(|heaps| heaps[WORD].get())
    }

    fn set_heap(&self, heap: *mut ()) {
        HEAPS.with(|heaps| heaps[WORD].set(heap));
    }
}

/// *Thread*: the index belongs to the thread, so that there is nothing to forbid.
/// One allocator can have the word of that number. With magazines or without.
pub struct Thread<const WORD: usize = NO_WORD, const MAGAZINES: bool = false>;

// SAFETY: as for `Pinned`.
unsafe impl<const WORD: usize, const MAGAZINES: bool> Platform for Thread<WORD, MAGAZINES> {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    const KEEPS_HEAP: bool = WORD < WORDS;
    const MAGAZINES: bool = MAGAZINES;

    #[inline(always)]
    fn pin(&self) -> ((), Option<usize>) {
        ((), Some(CPU.get()))
    }

    #[inline(always)]
    fn unpin(&self, (): ()) {}

    #[inline(always)]
    fn heap(&self) -> *mut () {
        HEAPS.with(|heaps| heaps[WORD].get())
    }

    fn set_heap(&self, heap: *mut ()) {
        HEAPS.with(|heaps| heaps[WORD].set(heap));
    }
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
