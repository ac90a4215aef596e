//! The allocator's platform in a hosted program: the *thread* way.
//!
//! Every thread that allocates takes an index for itself, and with it a heap that nobody else
//! touches; it gives both back when it ends. A thread without an index (because all are taken, or
//! because its thread-local data is gone already) is served by the allocator's shared heaps.
//!
//! # Protocol
//! `INDEX` is a plain cell with a constant initialiser and no destructor: it can be read at any
//! time in a thread's life, from inside the allocator too. It goes `NEW → none → index → none`.
//! The step through `none` comes first, so that whatever the registration of the destructor
//! allocates is served without an index and cannot come back here.

use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::{Access, Platform, SpinLock};

/// How many threads can have a heap of their own at the same time.
pub const THREAD_LIMIT: usize = 64;

/// Not registered yet.
const NEW: usize = usize::MAX;
/// No index, and none will come: out of range, which the allocator takes as none.
const NONE: usize = usize::MAX - 1;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(NEW) };
    static GIVES_BACK: GivesBack = const { GivesBack };
}

/// The platform: indices by thread, nothing known of physical addresses.
pub struct Threads;

// SAFETY:
// - an index is in the cell of one thread at most: `IndexPool::take` hands it out once, and it goes
//   back only after the heap was put offline and the cell cleared; a signal handler runs on the
//   thread that it interrupted, reads the same cell and ends before that goes on;
// - there is no context slot: the gate of a heap that is the thread's alone recognises a handler;
// - nothing here unwinds; registering the destructor allocates, if at all, while the cell says
//   that there is no index and with no heap entered.
unsafe impl Platform for Threads {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;

    #[inline]
    fn pin(&self) -> ((), Option<usize>) {
        let index = INDEX.get();
        ((), Some(if index == NEW { register() } else { index }))
    }

    #[inline]
    fn unpin(&self, (): ()) {}
}

/// Gives the running thread an index, if one is left.
#[cold]
fn register() -> usize {
    INDEX.set(NONE);
    // The first access registers the destructor; it fails where the thread is ending already.
    if GIVES_BACK.try_with(|_| ()).is_ok()
        && let Some(index) = POOL.take()
    {
        INDEX.set(index);
    }
    INDEX.get()
}

/// Its destructor returns the thread's index.
struct GivesBack;

impl Drop for GivesBack {
    fn drop(&mut self) {
        let index = INDEX.get();
        if index < THREAD_LIMIT {
            // In this order: only the thread itself may take its heap offline, and the next owner
            // of the index may come as soon as it is back.
            crate::heap::thread_ends(index);
            INDEX.set(NONE);
            POOL.give_back(index);
        }
    }
}

static POOL: IndexPool = IndexPool::new();

const WORD_COUNT: usize = THREAD_LIMIT.div_ceil(usize::BITS as usize);

/// The indices in use, a bit each. Lock-free.
struct IndexPool {
    taken: [AtomicUsize; WORD_COUNT],
}

impl IndexPool {
    const fn new() -> Self {
        Self { taken: [const { AtomicUsize::new(0) }; WORD_COUNT] }
    }

    /// Takes the lowest free index.
    fn take(&self) -> Option<usize> {
        for (i, word) in self.taken.iter().enumerate() {
            // Acquire pairs with the release in `give_back`: the next thread with an index sees
            // what the one before it did with its heap.
            let claimed = word.try_update(Ordering::Acquire, Ordering::Relaxed, |bits| {
                (bits != usize::MAX).then(|| bits | (bits + 1))
            });
            if let Ok(before) = claimed {
                return Some(i * usize::BITS as usize + before.trailing_ones() as usize);
            }
        }
        None
    }

    fn give_back(&self, index: usize) {
        let bits = usize::BITS as usize;
        self.taken[index / bits].fetch_and(!(1 << (index % bits)), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::{IndexPool, THREAD_LIMIT};

    #[test]
    fn an_index_is_handed_out_once_and_again_after_it_came_back() {
        let pool = IndexPool::new();
        for expected in 0..THREAD_LIMIT {
            assert_eq!(pool.take(), Some(expected));
        }
        assert_eq!(pool.take(), None);
        pool.give_back(7);
        assert_eq!(pool.take(), Some(7));
        assert_eq!(pool.take(), None);
    }
}
