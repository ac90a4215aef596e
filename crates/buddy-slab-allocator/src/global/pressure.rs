//! What happens before a request fails, in this order: this heap's own caches, other CPUs'
//! caches (remote frees on their way, empty slabs, kept pages), an object that another heap has at
//! hand, running CPUs by the platform's hook, the user's callback; then `NoMemory`.
//!
//! The hook and the callback run with nothing held and nothing pinned.

use core::mem;
use core::ptr::NonNull;

use super::GlobalAllocator;
use super::session::Session;
use crate::buddy::Wait;
use crate::error::{AllocError, AllocResult};
use crate::percpu::{self, FaultLog, Heap, HeapTable, Local};
use crate::platform::{Access, Platform};
use crate::slab::{SizeClass, Slab};
use crate::sync::atomic::Ordering;
use crate::sync::{self, Rank};

/// How often the reclaim callback is asked on behalf of one request.
const CALLBACK_ROUNDS: usize = 3;

/// What a request that found nothing gets out of reclaim: an object made or a block found.
pub(super) trait Served {
    /// Makes the result from an object that another heap had at hand, if it can be one.
    fn from_object(object: NonNull<u8>) -> Option<Self>
    where
        Self: Sized;
}

impl Served for NonNull<u8> {
    fn from_object(object: NonNull<u8>) -> Option<Self> {
        Some(object)
    }
}

impl<const PAGE_SIZE: usize> Served for crate::buddy::PageRef<'_, PAGE_SIZE> {
    fn from_object(_: NonNull<u8>) -> Option<Self> {
        None
    }
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Sets the function that is asked to free memory when there is none: it returns whether it
    /// freed any. It runs with no lock held, may free and allocate, and is not called again from
    /// within itself. It is asked at most three times for one request.
    pub fn set_reclaim(&self, callback: Option<fn() -> bool>) {
        let pointer = callback.map_or(core::ptr::null_mut(), |callback| callback as *mut ());
        self.reclaim.store(pointer, Ordering::Release);
    }

    /// Gives everything back that is kept but not in use: the caches of this CPU, of parked and
    /// of lockable ones, the shared heaps, and, by the platform's hook, of running CPUs. Returns
    /// how many bytes of pages came back.
    ///
    /// # Complexity
    /// O(heaps × size classes + pages kept + objects in magazines). Takes one heap's lock at a time.
    pub fn shrink(&self) -> usize {
        if !self.is_ready() {
            return 0;
        }
        let before = self.core.free_pages();
        let mut faults;
        // First what this CPU owes running ones: they take it in when they are asked below.
        match self.enter() {
            Some(mut session) if !session.is_nested() => faults = self.drain_own(&mut session),
            // A handler above what it interrupted: it can neither wait nor make others wait.
            _ => return 0,
        }
        let _ = self.ask_cpus(None);
        if let Some(mut session) = self.enter() {
            merge(&mut faults, &self.drain_own(&mut session));
            self.drain_others(&mut session, &mut faults, None);
            if session.resume() {
                merge(&mut faults, &self.drain_own(&mut session));
            }
        }
        self.report_all(&faults);
        self.core.free_pages().saturating_sub(before) * PAGE_SIZE
    }

    /// Goes through the list above, and tries again after each step.
    #[cold]
    #[inline(never)]
    pub(super) fn under_pressure<'a, T: Served>(
        &'a self,
        session: Session<'a, PAGE_SIZE, P>,
        mut faults: FaultLog,
        class: Option<SizeClass>,
        mut attempt: impl FnMut(&mut Session<'a, PAGE_SIZE, P>) -> Option<T>,
    ) -> AllocResult<T> {
        let mut session = Some(session);
        let mut served = None;
        for round in 0..=CALLBACK_ROUNDS {
            let Some(mut held) = session.take().or_else(|| self.enter()) else { break };
            merge(&mut faults, &self.drain_own(&mut held));
            served = attempt(&mut held);
            if served.is_some() || held.is_nested() {
                break;
            }
            let object = self.drain_others(&mut held, &mut faults, class);
            served = object.and_then(T::from_object);
            if served.is_none() && held.resume() {
                merge(&mut faults, &self.drain_own(&mut held));
                served = attempt(&mut held);
            }
            drop(held);
            if served.is_some() || round == CALLBACK_ROUNDS {
                break;
            }
            served = self.ask_cpus(class).and_then(T::from_object);
            if served.is_some() {
                break;
            }
            if !self.ask_callback() && round > 0 {
                break; // the round after the hook has found nothing, and nobody can help
            }
        }
        drop(session);
        self.report_all(&faults);
        served.ok_or(AllocError::NoMemory)
    }

    /// Drains what the session's own heap keeps, and pages whose free could not take the lock.
    fn drain_own(&self, session: &mut Session<'_, PAGE_SIZE, P>) -> FaultLog {
        let heap = session.heap();
        let (local, env) = session.parts();
        local.drain(heap.inbox(), &env);
        self.core.drain_deferred(env.wait);
        local.faults.take()
    }

    /// Drains every heap that can be had, twice: first what they owe each other, then what that
    /// made free. With a class, stops as soon as one of them has an object of it. Leaves the
    /// session suspended (unless its heap has a gate).
    #[cold]
    fn drain_others(
        &self,
        session: &mut Session<'_, PAGE_SIZE, P>,
        faults: &mut FaultLog,
        class: Option<SizeClass>,
    ) -> Option<NonNull<u8>> {
        if session.is_nested() {
            return None;
        }
        session.suspend();
        self.stock_is_low();
        let wait = session.wait();
        let serialised = wait.acquire(&self.pressure, Rank::Pressure);
        let mut object = None;
        for last in [false, true] {
            for heap in self.heaps.all() {
                if session.keeps(heap) {
                    continue;
                }
                if !self.seize(heap, wait) {
                    // A running CPU's: not its heap, but what others freed to it.
                    if last && serialised && wait == Wait::Spin {
                        let class = class.filter(|_| object.is_none());
                        object = object.or(percpu::steal(heap, class, &self.env_of(heap, wait)));
                    }
                    continue;
                }
                // SAFETY: just seized.
                let local = unsafe { heap.local() };
                let env = self.env_of(heap, wait);
                local.drain(heap.inbox(), &env);
                if last && object.is_none() {
                    object = class.and_then(|class| local.alloc(class));
                }
                merge(faults, &local.faults.take());
                // SAFETY: seized above, with the same way in.
                unsafe { self.let_go(heap) };
            }
        }
        if serialised {
            // SAFETY: acquired above.
            unsafe { sync::unlock(&self.pressure, Rank::Pressure) };
        }
        object
    }

    /// Takes hold of a heap that is not the caller's.
    pub(super) fn seize(&self, heap: &Heap<PAGE_SIZE, P::Lock>, wait: Wait) -> bool {
        if P::ACCESS == Access::Locked || HeapTable::is_shared(heap) {
            wait.acquire(&heap.lock, Rank::Heap)
        } else if P::CLAIMS {
            // Not by letting others run: each time could cost the caller its turn on the processor, for
            // each heap of those that wait for it.
            wait != Wait::Try && heap.gate.claim(|| self.platform.barrier())
        } else {
            heap.gate.take()
        }
    }

    /// # Safety
    /// - The caller has seized `heap`.
    pub(super) unsafe fn let_go(&self, heap: &Heap<PAGE_SIZE, P::Lock>) {
        if P::ACCESS == Access::Locked || HeapTable::is_shared(heap) {
            // SAFETY: held (condition).
            unsafe { sync::unlock(&heap.lock, Rank::Heap) };
        } else {
            heap.gate.give_back();
        }
    }

    /// Makes running CPUs give back what they keep, and perhaps an object of `class`.
    fn ask_cpus(&self, class: Option<SizeClass>) -> Option<NonNull<u8>> {
        let wish = class.map_or(0, |class| class.index() as u8 + 1);
        let (first, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        // One wish at a time: another request's stands until that one takes it back.
        let wished = wish != 0 && self.wanted.compare_exchange(0, wish, first, relaxed).is_ok();
        self.platform.drain_cpus();
        if wished {
            self.wanted.store(0, Ordering::Release);
        } else if self.wanted.load(Ordering::Acquire) != 0 {
            return None;
        }
        let gift = NonNull::new(self.gift.swap(core::ptr::null_mut(), Ordering::AcqRel))?;
        let slab = self.slab_of(gift)?;
        // SAFETY: a gift is a live object of this slab, owned by whoever took it.
        if Some(unsafe { Slab::class(slab) }) == class {
            return Some(gift);
        }
        // SAFETY: the same; it came late for another request, and nobody uses it.
        unsafe { self.dealloc_unsized(gift) };
        None
    }

    /// Gives an object that another CPU's request is about to fail for, if this heap has one.
    pub(super) fn give_wanted(&self, local: &mut Local<PAGE_SIZE>) {
        let wanted = usize::from(self.wanted.load(Ordering::Acquire));
        let Some(class) = wanted.checked_sub(1).and_then(SizeClass::from_index) else { return };
        if !self.gift.load(Ordering::Relaxed).is_null() {
            return;
        }
        if let Some(object) = local.alloc(class) {
            let before = self.gift.swap(object.as_ptr(), Ordering::AcqRel);
            // Two gave at once: the first object goes back by way of its slab's remote word.
            if let Some(first) = NonNull::new(before) {
                self.give_back(first);
            }
        }
    }

    /// Frees an object without entering a heap.
    fn give_back(&self, object: NonNull<u8>) {
        let Some(slab) = self.slab_of(object) else { return };
        // SAFETY: a live object of this slab, which nobody uses.
        unsafe {
            if let Ok(index) = Slab::index_of(slab, object.addr().get()) {
                self.dealloc_nested(slab, index, object.addr().get());
            }
        }
    }

    /// Asks the user to free something; `false` if nobody does.
    fn ask_callback(&self) -> bool {
        let pointer = self.reclaim.load(Ordering::Acquire);
        if pointer.is_null() {
            return false;
        }
        if self.reclaiming.swap(true, Ordering::Acquire) {
            // Another context is at it, whose work may help this one too; or this is called from
            // within the callback. Either way only the number of rounds counts.
            return true;
        }
        // SAFETY: only `set_reclaim` stores here, and only such functions.
        let callback = unsafe { mem::transmute::<*mut (), fn() -> bool>(pointer) };
        if P::ACCESS == Access::Exclusive {
            // Without a context token a handler may get here above what it interrupted.
            sync::assert_nothing_held();
        }
        let freed = callback();
        self.reclaiming.store(false, Ordering::Release);
        freed
    }
}

fn merge(faults: &mut FaultLog, more: &FaultLog) {
    for (addr, kind) in more.iter() {
        faults.note(addr, kind);
    }
}
