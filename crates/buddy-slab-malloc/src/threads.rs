//! Which heap a thread has: the *thread* way of the allocator's platforms.
//!
//! Every thread that allocates or frees takes an index for itself, and with it a heap that nobody
//! else touches. It gives both back when it ends. A thread without an index (because all are taken,
//! or because it is ending) is served by the allocator's shared heaps.
//!
//! # Protocol
//! The thread's word for it (`tls`) is 0 when it begins, [`NONE`] where there is no index and none
//! will come, and the index plus one otherwise. It goes `0 → NONE → index → NONE`. The step through
//! `NONE` comes first, so that whatever the registration allocates is served without an index and
//! does not come back here; a signal handler that allocates meanwhile is served the same way.
//!
//! # A thread's end
//! A destructor of thread-specific data gives the index back. Other destructors may run after it,
//! and may free and allocate: so it asks to be called again, in the last round that the C library
//! makes. What is freed even later goes to the slab's owner by way of the shared lists, what is
//! allocated comes from a shared heap.
//!
//! What the heap kept goes back; what others still use of it stays with it, for the next thread that
//! takes the index, the lowest free one.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use buddy_slab_allocator::{Access, Platform, RawLock};

use crate::lock::YieldingLock;
use crate::{process, purge, sys, tls};

/// How many threads can have a heap of their own at the same time.
pub(crate) const THREAD_LIMIT: usize = 8192;

/// The word of a thread that has no index and will get none.
const NONE: usize = usize::MAX;

/// How often the C library runs the destructors of a thread that ends.
const DESTRUCTOR_ROUNDS: usize = 4;

/// The platform.
pub(crate) struct Threads;

// SAFETY:
// - an index is in the word of one thread at most: the pool hands it out once, and it goes back
//   only after the heap was parked and the word changed; a signal handler runs on the thread that
//   it interrupted, reads the same word and ends before that goes on;
// - there is no context slot: the gate of a heap that is the thread's alone recognises a handler;
// - where its heap is a thread forgets before it gives its index back; there is one allocator;
// - nothing here unwinds, and nothing calls the allocator but `chores`: registration allocates, if
//   at all, while the word says that there is no index and with no heap entered;
// - `barrier` says `true` only if the system did what was asked.
unsafe impl Platform for Threads {
    type Lock = YieldingLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    const CLAIMS: bool = true;
    const KEEPS_HEAP: bool = true;
    const SHARED_HEAPS: usize = 4;
    /// A thread without an index asks again by itself (`process::refused`); a handler in one that
    /// is just getting its index must not wait long for what it interrupted.
    const PATIENCE: u32 = 1 << 7;

    #[inline(always)]
    fn pin(&self) -> ((), Option<usize>) {
        // Nobody looks at it where the heap is known.
        ((), Some(tls::get().wrapping_sub(1)))
    }

    #[inline(always)]
    fn heap(&self) -> *mut () {
        let heap = tls::heap();
        // It has its index at the next attempt, which follows.
        if heap.is_null() && tls::get() == 0 {
            register();
        }
        heap
    }

    fn set_heap(&self, heap: *mut ()) {
        tls::set_heap(heap);
    }

    #[inline(always)]
    fn unpin(&self, (): ()) {}

    fn barrier(&self) -> bool {
        sys::barrier()
    }

    fn relax(&self) {
        sys::yield_now();
    }

    fn retire(&self, block: core::ptr::NonNull<u8>, bytes: usize) {
        purge::retire(block, bytes);
    }

    fn chores(&self) {
        purge::chores();
    }
}

/// The index of the calling thread, if it has one.
pub(crate) fn index() -> Option<usize> {
    match tls::get() {
        0 | NONE => None,
        word => Some(word - 1),
    }
}

/// How many threads have an index.
pub(crate) fn count() -> usize {
    POOL.count()
}

/// In a child: of all threads only the calling one is left.
pub(crate) fn forget_others() {
    POOL.keep(index());
}

/// Gives the running thread an index, if one is left.
#[cold]
#[inline(never)]
fn register() {
    tls::set(NONE);
    if process::start()
        && let Some(index) = POOL.take()
    {
        if process::bring_up(index) && (sys::is_first_thread() || arm(1)) {
            tls::set(index + 1);
        } else {
            POOL.give_back(index);
        }
    }
}

/// Has `thread_ends` called when this thread does. (The first thread's end is the process's.)
fn arm(round: usize) -> bool {
    static KEY: AtomicU32 = AtomicU32::new(0);
    static HAS_KEY: AtomicBool = AtomicBool::new(false);
    static LOCK: YieldingLock = YieldingLock::NEW;
    if !HAS_KEY.load(Ordering::Acquire) {
        // A handler that interrupts this thread here does not come here: the word says `NONE`.
        LOCK.with(|| {
            let mut key = 0;
            if HAS_KEY.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: the key is ours to write, and the destructor takes any value.
            if unsafe { libc::pthread_key_create(&raw mut key, Some(thread_ends)) } == 0 {
                KEY.store(key, Ordering::Relaxed);
                HAS_KEY.store(true, Ordering::Release);
            }
        });
    }
    HAS_KEY.load(Ordering::Acquire) && {
        let key = KEY.load(Ordering::Relaxed);
        let value = core::ptr::without_provenance(round);
        // SAFETY: the key was created above.
        unsafe { libc::pthread_setspecific(key, value) == 0 }
    }
}

/// The destructor: hands the thread's heap on, in the last round.
unsafe extern "C" fn thread_ends(round: *mut libc::c_void) {
    let round = round.addr();
    if round < DESTRUCTOR_ROUNDS && arm(round + 1) {
        return;
    }
    if let Some(index) = index() {
        // In this order: only the thread itself may park its heap, and the next owner of the index
        // may come as soon as it is back.
        // A handler that comes between finds the heap parked, and no index to enter it with again.
        process::thread_ends(index);
        tls::set(NONE);
        tls::set_heap(core::ptr::null_mut());
        POOL.give_back(index);
    }
}

static POOL: IndexPool<{ THREAD_LIMIT / usize::BITS as usize }> = IndexPool::new();

/// The indices in use, a bit each. Lock-free.
struct IndexPool<const WORDS: usize> {
    taken: [AtomicUsize; WORDS],
    /// Words below this one are full, as far as anybody knows.
    hint: AtomicUsize,
}

impl<const WORDS: usize> IndexPool<WORDS> {
    const fn new() -> Self {
        Self { taken: [const { AtomicUsize::new(0) }; WORDS], hint: AtomicUsize::new(0) }
    }

    /// Takes the lowest free index.
    fn take(&self) -> Option<usize> {
        let from = self.hint.load(Ordering::Relaxed);
        let order = (from..WORDS).chain(0..from);
        for i in order {
            // Acquire pairs with the release in `give_back`: the next thread with an index sees
            // what the one before it did with its heap.
            let claimed = self.taken[i].try_update(Ordering::Acquire, Ordering::Relaxed, |bits| {
                (bits != usize::MAX).then(|| bits | (bits + 1))
            });
            if let Ok(before) = claimed {
                self.hint.store(i, Ordering::Relaxed);
                return Some(i * usize::BITS as usize + before.trailing_ones() as usize);
            }
        }
        None
    }

    fn give_back(&self, index: usize) {
        let bits = usize::BITS as usize;
        self.taken[index / bits].fetch_and(!(1 << (index % bits)), Ordering::Release);
        self.hint.fetch_min(index / bits, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.taken.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Gives back all but one.
    fn keep(&self, kept: Option<usize>) {
        let bits = usize::BITS as usize;
        for (i, word) in self.taken.iter().enumerate() {
            let own = kept.filter(|index| index / bits == i).map_or(0, |index| 1 << (index % bits));
            if word.load(Ordering::Relaxed) != own {
                word.store(own, Ordering::Release);
            }
        }
        self.hint.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::IndexPool;

    #[test]
    fn an_index_is_handed_out_once_and_again_after_it_came_back() {
        let pool = IndexPool::<2>::new();
        for expected in 0..128 {
            assert_eq!(pool.take(), Some(expected));
        }
        assert_eq!(pool.take(), None);
        pool.give_back(7);
        assert_eq!(pool.take(), Some(7), "the lowest, so that heaps are used again");
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn a_child_has_only_its_own() {
        let pool = IndexPool::<2>::new();
        for _ in 0..100 {
            pool.take();
        }
        pool.keep(Some(70));
        assert_eq!(pool.count(), 1);
        assert_eq!(pool.take(), Some(0));
        pool.keep(None);
        assert_eq!(pool.count(), 0);
    }
}
