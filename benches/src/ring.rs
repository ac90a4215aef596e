//! Objects on their way from one thread to another.
//!
//! One producer, one consumer, a row of pointers. Each side keeps its index to itself and shows it
//! every [`BATCH`] objects, so that the two cache lines between them move once per batch, the same
//! for every engine. The `floor` engine shows what is left of its cost.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many objects may be on their way.
pub const SLOTS: usize = 4096;
/// How many objects pass between two looks at what is shared.
pub const BATCH: usize = 64;

/// A number on a cache line of its own (two: processors fetch them in pairs).
#[repr(align(128))]
struct Shown(AtomicUsize);

/// The ring.
///
/// # Invariants
/// - `taken <= put <= taken + SLOTS`; slots from `taken` to `put` hold objects on their way.
pub struct Ring {
    put: Shown,
    taken: Shown,
    slots: Box<[UnsafeCell<*mut u8>]>,
}

// SAFETY: a slot is written by the producer alone while it is empty and read by the consumer alone
// while it is not, and which it is passes from one to the other by release and acquire.
unsafe impl Sync for Ring {}
// SAFETY: it owns its slots; what the pointers mean is the users' matter.
unsafe impl Send for Ring {}

impl Ring {
    /// An empty ring.
    pub fn new() -> Self {
        Self {
            put: Shown(AtomicUsize::new(0)),
            taken: Shown(AtomicUsize::new(0)),
            slots: (0..SLOTS).map(|_| UnsafeCell::new(std::ptr::null_mut())).collect(),
        }
    }

    /// Puts [`BATCH`] objects if there is room; says whether there was.
    ///
    /// # Safety
    /// - One thread puts at a time.
    #[inline(always)]
    pub unsafe fn put_batch(&self, mut make: impl FnMut() -> *mut u8) -> bool {
        let put = self.put.0.load(Ordering::Relaxed);
        if put - self.taken.0.load(Ordering::Acquire) > SLOTS - BATCH {
            return false;
        }
        for index in put..put + BATCH {
            // SAFETY: the slot is empty, and this is the one producer (condition).
            unsafe { *self.slots[index % SLOTS].get() = make() };
        }
        self.put.0.store(put + BATCH, Ordering::Release);
        true
    }

    /// Takes a batch if there is one; says whether there was.
    ///
    /// # Safety
    /// - One thread takes at a time.
    #[inline(always)]
    pub unsafe fn take_batch(&self, mut take: impl FnMut(*mut u8)) -> bool {
        let taken = self.taken.0.load(Ordering::Relaxed);
        if self.put.0.load(Ordering::Acquire) == taken {
            return false;
        }
        for index in taken..taken + BATCH {
            // SAFETY: the slot is full: the producer puts whole batches.
            take(unsafe { *self.slots[index % SLOTS].get() });
        }
        self.taken.0.store(taken + BATCH, Ordering::Release);
        true
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order_and_no_more_fits_than_there_are_slots() {
        let ring = Ring::new();
        let mut next = 0;
        let mut make = || {
            next += 1;
            std::ptr::without_provenance_mut(next)
        };
        // SAFETY: one thread.
        unsafe {
            let mut batches = 0;
            while ring.put_batch(&mut make) {
                batches += 1;
            }
            assert_eq!(batches, SLOTS / BATCH);
            let mut expected = 0;
            while ring.take_batch(|object| {
                expected += 1;
                assert_eq!(object.addr(), expected);
            }) {}
            assert_eq!(expected, SLOTS);
        }
    }
}
