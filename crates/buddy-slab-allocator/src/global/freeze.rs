//! Everybody is kept out, for a copy of the whole address space (`fork`): in the copy nobody is in
//! the middle of anything, and no lock is held by somebody who is not there.

use super::GlobalAllocator;
use crate::percpu::{Heap, HeapTable};
use crate::platform::Platform;
use crate::sync::{self, Rank};

/// How often a lock is tried before everything is let go of again.
const PATIENCE: usize = 1 << 8;

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Keeps every CPU but `own`, the caller's, out of its heap, and takes every lock. `false` if
    /// somebody stays inside for long, or a running CPU's heap cannot be claimed
    /// ([`Platform::CLAIMS`]): then nothing has changed, and the caller may try again.
    ///
    /// Between this and [`thaw`](Self::thaw) the caller may allocate and free what its own heap
    /// serves by itself, and nothing else.
    ///
    /// # Complexity
    /// O(CPUs); one [`Platform::barrier`] for each that runs.
    ///
    /// # Safety
    /// - `own` is the caller's CPU, which stays the same until the heap is thawed; the caller is
    ///   not a handler that interrupted the allocator.
    /// - [`thaw`](Self::thaw) or [`thaw_alone`](Self::thaw_alone) follows, in the same context.
    pub unsafe fn freeze(&self, own: Option<usize>) -> bool {
        if !self.is_ready() {
            return true;
        }
        if !self.try_patiently(|| sync::try_lock(&self.pressure, Rank::Pressure)) {
            return false;
        }
        if !self.try_patiently(|| self.hold_state()) {
            // SAFETY: taken above.
            unsafe { sync::unlock(&self.pressure, Rank::Pressure) };
            return false;
        }
        let mut frozen = 0;
        let all = self.others(own).all(|heap| {
            let taken = self.try_patiently(|| self.freeze_heap(heap));
            frozen += usize::from(taken);
            taken
        });
        if all && self.try_patiently(|| self.core.try_lock_all()) {
            return true;
        }
        // SAFETY: the first so many were taken above, and the pressure lock.
        unsafe { self.thaw_heaps(self.others(own).take(frozen), |_| {}) };
        false
    }

    /// Lets everybody in again.
    ///
    /// # Safety
    /// - [`freeze`](Self::freeze) has succeeded in this context, with the same `own`.
    pub unsafe fn thaw(&self, own: Option<usize>) {
        if self.is_ready() {
            // SAFETY: frozen (condition).
            unsafe {
                self.core.unlock_all();
                self.thaw_heaps(self.others(own), |_| {});
            }
        }
    }

    /// Thaws a copy in which only the caller runs: the heaps of all other CPUs are parked, as if
    /// each had gone to [`idle`](Self::idle), so that others can have what they keep.
    ///
    /// # Safety
    /// - As for [`thaw`](Self::thaw); and of the other CPUs none runs.
    pub unsafe fn thaw_alone(&self, own: Option<usize>) {
        if self.is_ready() {
            // SAFETY: frozen (condition); who is gone was outside, and does not come back.
            unsafe {
                self.core.unlock_all();
                self.thaw_heaps(self.others(own), |heap| {
                    if !HeapTable::is_shared(heap) {
                        heap.gate.take_dead();
                    }
                });
            }
        }
    }

    /// # Safety
    /// - The heaps were frozen, and the state and the pressure lock are held.
    unsafe fn thaw_heaps<'a>(
        &'a self,
        heaps: impl Iterator<Item = &'a Heap<PAGE_SIZE, P::Lock>>,
        before: impl Fn(&Heap<PAGE_SIZE, P::Lock>),
    ) {
        for heap in heaps {
            before(heap);
            // SAFETY: frozen (condition).
            unsafe { self.let_go(heap) };
        }
        self.release_state();
        // SAFETY: held (condition).
        unsafe { sync::unlock(&self.pressure, Rank::Pressure) };
    }

    fn freeze_heap(&self, heap: &Heap<PAGE_SIZE, P::Lock>) -> bool {
        if HeapTable::is_shared(heap) {
            sync::try_lock(&heap.lock, Rank::Heap)
        } else {
            self.seize(heap, crate::buddy::Wait::Bounded(1))
        }
    }

    /// Every heap but that of CPU `own`.
    fn others(&self, own: Option<usize>) -> impl Iterator<Item = &Heap<PAGE_SIZE, P::Lock>> {
        let own = own.and_then(|cpu| self.heaps.cpu(cpu));
        self.heaps.all().filter(move |heap| !own.is_some_and(|own| core::ptr::eq(own, *heap)))
    }

    fn try_patiently(&self, attempt: impl Fn() -> bool) -> bool {
        for _ in 0..PATIENCE {
            if attempt() {
                return true;
            }
            self.platform.relax();
        }
        false
    }
}
