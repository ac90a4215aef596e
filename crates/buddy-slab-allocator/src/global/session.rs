//! Entering the allocator: which heap this call works on, and what it may wait for.
//!
//! A [`Session`] is the token that proves it: while it lives, its heap is the caller's alone, and
//! the running context is announced, so that a handler that interrupts it does not wait for it.
//! What a session may wait for:
//!
//! | entered through | others' locks |
//! | --- | --- |
//! | the gate of its own heap, or announced by a context slot | waited for: the holder runs elsewhere |
//! | a shared heap, as a handler that interrupted the allocator | tried once |
//! | a lock without a context token | tried [`Platform::PATIENCE`] times |
//!
//! Locks are taken in the order of `sync::Rank`.

use core::mem::ManuallyDrop;

use super::GlobalAllocator;
use crate::buddy::Wait;
use crate::percpu::{Env, Heap, Local};
use crate::platform::{Access, ContextSlot, Platform};
use crate::sync::atomic::Ordering;
use crate::sync::{self, Rank, spin_loop};

/// How the heap of a session is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hold {
    Gate,
    Lock,
    /// Let go of for a while, by `suspend`.
    Suspended,
}

/// The running CPU's heap, entered by the fast path: no more than what it takes to leave again, so
/// that it stays in registers.
pub(crate) struct Own<'a, const PAGE_SIZE: usize, P: Platform> {
    allocator: &'a GlobalAllocator<PAGE_SIZE, P>,
    heap: &'a Heap<PAGE_SIZE, P::Lock>,
    pin: ManuallyDrop<P::Pin>,
    /// Announced, in the locked way with a token.
    slot: Option<&'a ContextSlot>,
}

impl<'a, const PAGE_SIZE: usize, P: Platform> Own<'a, PAGE_SIZE, P> {
    #[inline(always)]
    pub(crate) fn heap(&self) -> &'a Heap<PAGE_SIZE, P::Lock> {
        self.heap
    }

    /// The heap's guarded part.
    #[inline(always)]
    pub(crate) fn local(&mut self) -> &mut Local<PAGE_SIZE> {
        // SAFETY: entered by the gate or the lock, and borrowed exclusively.
        unsafe { self.heap.local() }
    }

    /// The heap's surroundings.
    #[inline(always)]
    pub(crate) fn env(&self) -> Env<'a, PAGE_SIZE, P::Lock> {
        self.allocator.env_of(self.heap, self.wait())
    }

    /// An announced context may wait: the holder of a lock runs elsewhere.
    #[inline(always)]
    fn wait(&self) -> Wait {
        match P::ACCESS {
            Access::Locked if self.slot.is_none() => Wait::Bounded(P::PATIENCE),
            _ => Wait::Spin,
        }
    }

    /// The same hold, to be passed on in registers.
    #[inline(always)]
    pub(crate) fn into_held(self) -> Held<'a, PAGE_SIZE, P> {
        let own = ManuallyDrop::new(self);
        // SAFETY: taken out of what is not dropped.
        Held { heap: own.heap, pin: unsafe { core::ptr::read(&own.pin) } }
    }

    /// The same hold, for what takes longer.
    #[inline]
    pub(crate) fn into_session(self) -> Session<'a, PAGE_SIZE, P> {
        let own = ManuallyDrop::new(self);
        let hold = match P::ACCESS {
            Access::Exclusive => Hold::Gate,
            Access::Locked => Hold::Lock,
        };
        // SAFETY: taken out of what is not dropped.
        let pin = unsafe { core::ptr::read(&*own.pin) };
        own.allocator.session(own.heap, pin, own.slot, hold, own.wait())
    }
}

/// An [`Own`] without what can be had again: the allocator, and the context's slot. It has to become
/// one again for the heap to be left.
#[must_use = "the heap stays entered"]
pub(crate) struct Held<'a, const PAGE_SIZE: usize, P: Platform> {
    heap: &'a Heap<PAGE_SIZE, P::Lock>,
    pin: ManuallyDrop<P::Pin>,
}

impl<'a, const PAGE_SIZE: usize, P: Platform> Held<'a, PAGE_SIZE, P> {
    #[inline(always)]
    pub(crate) fn heap(&self) -> &'a Heap<PAGE_SIZE, P::Lock> {
        self.heap
    }

    /// The hold whole again. `allocator` is the one whose heap it is.
    #[inline(always)]
    pub(crate) fn into_own(
        self,
        allocator: &'a GlobalAllocator<PAGE_SIZE, P>,
    ) -> Own<'a, PAGE_SIZE, P> {
        // The running context is the one that entered, and so is its slot.
        let slot = match P::ACCESS {
            Access::Exclusive => None,
            Access::Locked => allocator.platform.context(),
        };
        Own { allocator, heap: self.heap, pin: self.pin, slot }
    }
}

impl<const PAGE_SIZE: usize, P: Platform> Drop for Own<'_, PAGE_SIZE, P> {
    #[inline(always)]
    fn drop(&mut self) {
        match P::ACCESS {
            Access::Exclusive => self.heap.gate.leave(P::CLAIMS),
            // SAFETY: the fast path took the lock.
            Access::Locked => unsafe { sync::unlock(&self.heap.lock, Rank::Heap) },
        }
        if let Some(slot) = self.slot {
            slot.leave();
        }
        // SAFETY: taken once, here; the value is gone afterwards.
        let pin = unsafe { ManuallyDrop::take(&mut self.pin) };
        self.allocator.platform.unpin(pin);
    }
}

/// A heap that the caller holds, whichever way it was entered.
pub(crate) struct Session<'a, const PAGE_SIZE: usize, P: Platform> {
    allocator: &'a GlobalAllocator<PAGE_SIZE, P>,
    heap: &'a Heap<PAGE_SIZE, P::Lock>,
    pin: ManuallyDrop<P::Pin>,
    slot: Option<&'a ContextSlot>,
    hold: Hold,
    wait: Wait,
    park: bool,
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Takes the running CPU's heap if nothing stands in the way: the fast path. Otherwise gives
    /// the pin and the index back for [`enter_slow`](Self::enter_slow).
    #[inline(always)]
    pub(crate) fn enter_fast(&self) -> Result<Own<'_, PAGE_SIZE, P>, (P::Pin, Option<usize>)> {
        let (pin, cpu) = self.platform.pin();
        let Some(heap) = self.heap_at_hand(cpu) else { return Err((pin, cpu)) };
        let mut slot = None;
        let entered = match P::ACCESS {
            Access::Exclusive => heap.gate.enter(P::CLAIMS),
            Access::Locked => {
                slot = self.platform.context();
                slot.is_none_or(ContextSlot::announce) && self.try_announced(heap, slot)
            }
        };
        if !entered {
            return Err((pin, cpu));
        }
        Ok(Own { allocator: self, heap, pin: ManuallyDrop::new(pin), slot })
    }

    /// The heap of CPU `cpu`, the running one: by its word, if the platform has one for it.
    #[inline(always)]
    fn heap_at_hand(&self, cpu: Option<usize>) -> Option<&Heap<PAGE_SIZE, P::Lock>> {
        let by_index = || cpu.and_then(|cpu| self.heaps.cpu(cpu));
        if !Self::KEEPS_HEAP {
            return by_index();
        }
        // SAFETY: the address of a heap of this allocator, kept by `enter_gate_slow`, or null
        // (contract of `Platform`); heaps stay for as long as the allocator.
        let kept = unsafe { self.platform.heap().cast::<Heap<PAGE_SIZE, P::Lock>>().as_ref() };
        debug_assert!(
            kept.zip(by_index()).is_none_or(|(kept, own)| core::ptr::eq(kept, own)),
            "the platform's word is another CPU's, or another allocator's"
        );
        kept
    }

    /// Whether CPUs have a word for the address of their heap.
    const KEEPS_HEAP: bool = P::KEEPS_HEAP && matches!(P::ACCESS, Access::Exclusive);

    /// Takes a heap's lock at once, or takes the announcement back.
    #[inline(always)]
    fn try_announced(&self, heap: &Heap<PAGE_SIZE, P::Lock>, slot: Option<&ContextSlot>) -> bool {
        let taken = sync::try_lock(&heap.lock, Rank::Heap);
        if !taken && let Some(slot) = slot {
            slot.leave();
        }
        taken
    }

    /// [`enter_fast`](Self::enter_fast) for a caller that does not want the pin without the heap.
    #[inline(always)]
    pub(crate) fn enter_fast_or_leave(&self) -> Option<Own<'_, PAGE_SIZE, P>> {
        match self.enter_fast() {
            Ok(own) => Some(own),
            Err((pin, _)) => {
                self.platform.unpin(pin);
                None
            }
        }
    }

    /// Enters where the fast path did not; `divert` says whether another heap will do.
    #[cold]
    pub(crate) fn enter_slow(
        &self,
        pin: P::Pin,
        cpu: Option<usize>,
        divert: bool,
    ) -> Option<Session<'_, PAGE_SIZE, P>> {
        match P::ACCESS {
            Access::Exclusive => self.enter_gate_slow(pin, cpu, divert),
            Access::Locked => self.enter_locked(pin, cpu, divert),
        }
    }

    /// Enters for an allocation; a handler that interrupted the allocator gets a shared heap.
    /// `None` if every heap that this context could have is in use by what it interrupted, or
    /// there is no heap yet.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Session<'_, PAGE_SIZE, P>> {
        match self.enter_fast() {
            Ok(own) => Some(own.into_session()),
            Err((pin, cpu)) => self.enter_slow(pin, cpu, true),
        }
    }

    /// Enters for a free, which has a lock-free way out: `None` also where `enter` would divert.
    #[inline]
    pub(crate) fn enter_own(&self) -> Option<Session<'_, PAGE_SIZE, P>> {
        match self.enter_fast() {
            Ok(own) => Some(own.into_session()),
            Err((pin, cpu)) => self.enter_slow(pin, cpu, false),
        }
    }

    #[inline(always)]
    fn session<'a>(
        &'a self,
        heap: &'a Heap<PAGE_SIZE, P::Lock>,
        pin: P::Pin,
        slot: Option<&'a ContextSlot>,
        hold: Hold,
        wait: Wait,
    ) -> Session<'a, PAGE_SIZE, P> {
        let pin = ManuallyDrop::new(pin);
        Session { allocator: self, heap, pin, slot, hold, wait, park: false }
    }

    #[cold]
    fn enter_gate_slow(
        &self,
        pin: P::Pin,
        cpu: Option<usize>,
        divert: bool,
    ) -> Option<Session<'_, PAGE_SIZE, P>> {
        let wait = match cpu.and_then(|cpu| self.heaps.cpu(cpu)) {
            Some(heap) if heap.gate.enter_slow(P::CLAIMS, || self.platform.relax()) => {
                if Self::KEEPS_HEAP {
                    self.platform.set_heap(core::ptr::from_ref(heap).cast_mut().cast());
                }
                return Some(self.session(heap, pin, None, Hold::Gate, Wait::Spin));
            }
            Some(_) => Wait::Try,
            None => Wait::Bounded(P::PATIENCE),
        };
        self.enter_shared(pin, None, wait, divert)
    }

    #[inline]
    fn enter_locked(
        &self,
        pin: P::Pin,
        cpu: Option<usize>,
        divert: bool,
    ) -> Option<Session<'_, PAGE_SIZE, P>> {
        let heap = cpu.and_then(|cpu| self.heaps.cpu(cpu));
        match self.platform.context() {
            None => {
                if let Some(heap) = heap
                    && sync::try_lock(&heap.lock, Rank::Heap)
                {
                    let wait = Wait::Bounded(P::PATIENCE);
                    return Some(self.session(heap, pin, None, Hold::Lock, wait));
                }
                self.enter_shared(pin, None, Wait::Bounded(P::PATIENCE), divert)
            }
            Some(slot) if slot.announce() => {
                let Some(heap) = heap.or_else(|| self.heaps.shared(0)) else {
                    slot.leave();
                    self.platform.unpin(pin);
                    return None;
                };
                sync::lock(&heap.lock, Rank::Heap);
                Some(self.session(heap, pin, Some(slot), Hold::Lock, Wait::Spin))
            }
            Some(_) => self.enter_shared(pin, None, Wait::Try, divert),
        }
    }

    /// Looks for a heap that nobody holds: a shared one; in the locked way without a token, then
    /// any. (With one, a handler keeps to the shared heaps: those of CPUs are worth waiting for
    /// by their users.)
    #[cold]
    fn enter_shared<'a>(
        &'a self,
        pin: P::Pin,
        slot: Option<&'a ContextSlot>,
        wait: Wait,
        divert: bool,
    ) -> Option<Session<'a, PAGE_SIZE, P>> {
        if matches!(wait, Wait::Try) {
            self.reentries.fetch_add(1, Ordering::Relaxed);
            self.stock_is_low();
        }
        if divert {
            let (rounds, any) = match wait {
                Wait::Bounded(rounds) => (rounds, P::ACCESS == Access::Locked),
                _ => (1, false),
            };
            for _ in 0..rounds {
                let cpus = if any { self.heaps.cpu_count() } else { 0 };
                let heaps = (0..self.heaps.shared_count()).filter_map(|i| self.heaps.shared(i));
                let heaps = heaps.chain((0..cpus).filter_map(|i| self.heaps.cpu(i)));
                for heap in heaps {
                    if sync::try_lock(&heap.lock, Rank::Heap) {
                        return Some(self.session(heap, pin, slot, Hold::Lock, wait));
                    }
                }
                if self.heaps.shared_count() == 0 {
                    break; // not initialised
                }
                spin_loop();
            }
        }
        self.platform.unpin(pin);
        None
    }

    /// Runs `f` with the context announced but no heap lock held, for work on the shared lists.
    pub(crate) fn announced<R>(&self, f: impl FnOnce(Wait) -> R) -> R {
        match self.enter() {
            Some(mut session) => {
                session.suspend();
                f(session.wait)
            }
            None => f(Wait::Try),
        }
    }
}

impl<'a, const PAGE_SIZE: usize, P: Platform> Session<'a, PAGE_SIZE, P> {
    /// The heap's guarded part.
    #[inline(always)]
    pub(crate) fn local(&mut self) -> &mut Local<PAGE_SIZE> {
        debug_assert!(self.hold != Hold::Suspended);
        // SAFETY: the session holds the gate or the lock, and is borrowed exclusively.
        unsafe { self.heap.local() }
    }

    /// The guarded part together with its surroundings.
    #[inline(always)]
    pub(crate) fn parts(&mut self) -> (&mut Local<PAGE_SIZE>, Env<'a, PAGE_SIZE, P::Lock>) {
        let env = self.env();
        (self.local(), env)
    }

    #[inline(always)]
    pub(crate) fn env(&self) -> Env<'a, PAGE_SIZE, P::Lock> {
        self.allocator.env_of(self.heap, self.wait)
    }

    #[inline(always)]
    pub(crate) fn heap(&self) -> &'a Heap<PAGE_SIZE, P::Lock> {
        self.heap
    }

    pub(crate) fn wait(&self) -> Wait {
        self.wait
    }

    /// Whether this is a handler that interrupted the allocator.
    pub(crate) fn is_nested(&self) -> bool {
        matches!(self.wait, Wait::Try)
    }

    /// Whether this session keeps `heap` from others even while it is suspended.
    pub(crate) fn keeps(&self, heap: &Heap<PAGE_SIZE, P::Lock>) -> bool {
        self.hold == Hold::Gate && core::ptr::eq(self.heap, heap)
    }

    /// Lets go of the heap's lock, and stays announced. (A gate is not a lock: it stays.)
    pub(crate) fn suspend(&mut self) {
        if self.hold == Hold::Lock {
            self.hold = Hold::Suspended;
            // SAFETY: this session held the lock.
            unsafe { sync::unlock(&self.heap.lock, Rank::Heap) };
        }
    }

    /// Takes the lock again; `false` (and still suspended) if it may not wait and cannot have it.
    pub(crate) fn resume(&mut self) -> bool {
        if self.hold == Hold::Suspended && self.wait.acquire(&self.heap.lock, Rank::Heap) {
            self.hold = Hold::Lock;
        }
        self.hold != Hold::Suspended
    }

    /// Leaves the heap parked instead of open: its CPU is about to sleep or to stop.
    pub(crate) fn leave_parked(mut self) {
        self.park = true;
    }
}

impl<const PAGE_SIZE: usize, P: Platform> Drop for Session<'_, PAGE_SIZE, P> {
    #[inline(always)]
    fn drop(&mut self) {
        match self.hold {
            Hold::Gate if self.park => self.heap.gate.leave_parked(),
            Hold::Gate => self.heap.gate.leave(P::CLAIMS),
            // SAFETY: this session holds the lock.
            Hold::Lock => unsafe { sync::unlock(&self.heap.lock, Rank::Heap) },
            Hold::Suspended => {}
        }
        if let Some(slot) = self.slot {
            slot.leave();
        }
        // SAFETY: taken once, here; the session is gone afterwards.
        let pin = unsafe { ManuallyDrop::take(&mut self.pin) };
        self.allocator.platform.unpin(pin);
    }
}
