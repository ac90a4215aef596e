//! The part of a heap that only its holder touches: current and partial slabs by class, page
//! lists, the remote batch. This file is the life of an object on one CPU; `slabs` makes and
//! releases whole slabs.
//!
//! A slab of this heap is in one of three places, which its state byte names: it is the *current*
//! one of its class (objects come from it), on the class's *partial* list, or *loose* (full, on no
//! list: it comes back when one of its objects is freed). Nothing is inferred from counters that
//! other CPUs change.
//!
//! An empty slab a class is kept warm at the front of the partial list, and the current one stays
//! if it is empty too: at most two.

use core::ptr::NonNull;

use super::{Env, FaultLog, PageLists, remote::RemoteBatch};
use crate::buddy::PageError;
use crate::slab::{self, FreeOutcome, Inbox, ObjectIndex, RemoteGroup, SizeClass, Slab, SlabList};
use crate::sync::RawLock;
use crate::units::Misuse;

/// On no list, because it is full.
pub(super) const LOOSE: u8 = 0;
/// The slab that objects of its class come from.
pub(super) const CURRENT: u8 = 1;
/// On the partial list of its class.
pub(super) const PARTIAL: u8 = 2;

/// What a free leaves to be done.
pub(crate) enum Freed {
    /// Nothing.
    Done,
    /// The slab belongs elsewhere now.
    Settle(FreeOutcome),
}

pub(super) struct ClassSlabs {
    pub(super) current: Option<NonNull<Slab>>,
    pub(super) partial: SlabList,
}

/// What only the holder of a heap touches.
pub(crate) struct Local<const PAGE_SIZE: usize> {
    pub(super) classes: [ClassSlabs; SizeClass::COUNT],
    pub(crate) pages: PageLists<PAGE_SIZE>,
    pub(crate) remote: RemoteBatch,
    pub(crate) faults: FaultLog,
}

impl<const PAGE_SIZE: usize> Local<PAGE_SIZE> {
    pub(crate) const fn new() -> Self {
        Self {
            classes: [const { ClassSlabs { current: None, partial: SlabList::new() } };
                SizeClass::COUNT],
            pages: PageLists::new(),
            remote: RemoteBatch::new(),
            faults: FaultLog::new(),
        }
    }

    /// Takes an object from the current slab; `None` if it has none. O(1).
    #[inline(always)]
    pub(crate) fn alloc(&mut self, class: SizeClass) -> Option<NonNull<u8>> {
        let slab = self.classes[class.index()].current?;
        // SAFETY: a current slab is alive and owned by this heap, which the caller holds.
        unsafe { Slab::alloc(slab) }
    }

    /// The rest of [`alloc`](Self::alloc): the partial list, then what others freed, then a new
    /// slab. O(1) amortised: the inbox holds each group once, however many objects it brings.
    #[cold]
    pub(crate) fn refill<L: RawLock>(
        &mut self,
        class: SizeClass,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<NonNull<u8>, PageError> {
        let slabs = &mut self.classes[class.index()];
        if let Some(full) = slabs.current.take() {
            // SAFETY: it was this heap's current slab; with no object left it is loose.
            unsafe { Slab::set_state(full, LOOSE) };
        }
        if !self.promote(class) {
            if let Some(inbox) = env.heaps.inbox_of(env.id)
                && !inbox.is_empty()
            {
                self.collect(inbox, env);
            }
            if !self.promote(class) {
                let slab = self.new_slab(class, env)?;
                // SAFETY: new, this heap's, on no list.
                unsafe { Slab::set_state(slab, CURRENT) };
                self.classes[class.index()].current = Some(slab);
            }
        }
        self.alloc(class).ok_or(PageError::Exhausted)
    }

    /// Makes a partial slab the current one; prefers one with live objects to an empty one.
    pub(super) fn promote(&mut self, class: SizeClass) -> bool {
        let slabs = &mut self.classes[class.index()];
        // SAFETY: all slabs on the list are alive and this heap's.
        unsafe {
            let Some(mut slab) = slabs.partial.pop_front() else { return false };
            if Slab::used(slab) == 0
                && let Some(other) = slabs.partial.pop_front()
            {
                slabs.partial.push_front(slab);
                slab = other;
            }
            Slab::set_state(slab, CURRENT);
            slabs.current = Some(slab);
        }
        true
    }

    /// Frees an object of a slab of this heap. O(1). If it says so, [`settle`](Self::settle) must
    /// follow.
    ///
    /// # Safety
    /// - `slab` is owned by this heap, and `index` is an object of it.
    #[inline(always)]
    pub(crate) unsafe fn free(
        &mut self,
        slab: NonNull<Slab>,
        index: ObjectIndex,
    ) -> Result<Freed, Misuse> {
        // SAFETY: ours (condition).
        unsafe {
            let outcome = Slab::free_local(slab, index)?;
            if (outcome.was_full || outcome.now_empty) && Slab::state(slab) != CURRENT {
                return Ok(Freed::Settle(outcome));
            }
        }
        Ok(Freed::Done)
    }

    /// Puts a slab where its new count of live objects belongs.
    ///
    /// # Safety
    /// - `slab` is owned by this heap and not current.
    #[cold]
    pub(crate) unsafe fn settle<L: RawLock>(
        &mut self,
        slab: NonNull<Slab>,
        was_full: bool,
        now_empty: bool,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: alive and ours (condition), as are all slabs on its class's list.
        unsafe {
            let slabs = &mut self.classes[Slab::class(slab).index()];
            if !now_empty {
                if was_full {
                    Self::push_partial(slabs, slab);
                }
                return;
            }
            if Slab::state(slab) == PARTIAL {
                slabs.partial.remove(slab);
                Slab::set_state(slab, LOOSE);
            }
            let warm_already = slabs.current.is_some_and(|current| Slab::used(current) == 0)
                || slabs.partial.front().is_some_and(|front| Slab::used(front) == 0);
            if !warm_already || !Slab::quiescent(slab) || !Self::release(slab, env) {
                let slabs = &mut self.classes[Slab::class(slab).index()];
                Slab::set_state(slab, PARTIAL);
                slabs.partial.push_front(slab);
            }
        }
    }

    /// Puts a slab on its class's list, behind an empty one at the front.
    ///
    /// # Safety
    /// - `slab` is alive, this heap's, and on no list.
    unsafe fn push_partial(slabs: &mut ClassSlabs, slab: NonNull<Slab>) {
        // SAFETY: alive and on no list (condition); the front is alive and ours.
        unsafe {
            Slab::set_state(slab, PARTIAL);
            let empty = slabs.partial.front().filter(|front| Slab::used(*front) == 0);
            if empty.is_some() {
                slabs.partial.pop_front();
            }
            slabs.partial.push_front(slab);
            if let Some(empty) = empty {
                slabs.partial.push_front(empty);
            }
        }
    }

    /// Takes in what other CPUs freed of this heap's slabs. O(groups queued).
    pub(crate) fn collect<L: RawLock>(&mut self, inbox: &Inbox, env: &Env<'_, PAGE_SIZE, L>) {
        for group in inbox.take_all() {
            // SAFETY: popped off this heap's inbox, whose chain is drained to its end.
            unsafe { self.collect_group(group, env) };
        }
    }

    /// # Safety
    /// - `group` was popped off this heap's inbox by the caller.
    unsafe fn collect_group<L: RawLock>(
        &mut self,
        group: NonNull<RemoteGroup>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: a queued group's slab is alive: it has objects that are not collected yet.
        unsafe {
            let slab = slab::slab_of(group);
            debug_assert_eq!(Slab::owner(slab), env.id, "a slab stays with the heap that made it");
            let number = slab::group_index(group);
            let collected = slab::collect(group);
            let mut doubles = collected.doubles;
            while doubles != 0 {
                let index = ObjectIndex::new(number, doubles.trailing_zeros());
                self.faults.note(Slab::object_ptr(slab, index).addr().get(), Misuse::DoubleFree);
                doubles &= doubles - 1;
            }
            if (collected.was_full || collected.now_empty) && Slab::state(slab) != CURRENT {
                self.settle(slab, collected.was_full, collected.now_empty, env);
            }
        }
    }

    /// How many objects of a class are free in this heap's slabs. O(partial slabs).
    pub(crate) fn free_objects(&self, class: SizeClass) -> usize {
        let slabs = &self.classes[class.index()];
        let mut free = 0;
        // SAFETY: all slabs reached are alive and this heap's.
        unsafe {
            let mut count = |slab| free += Slab::object_count(slab) - Slab::used(slab);
            if let Some(slab) = slabs.current {
                count(slab);
            }
            let mut at = slabs.partial.front();
            while let Some(slab) = at {
                count(slab);
                at = SlabList::next(slab);
            }
        }
        free
    }

    /// The counting equations of this heap, see `docs/invariants.md`.
    pub(crate) fn check<L: RawLock>(&self, env: &Env<'_, PAGE_SIZE, L>, shared: bool) {
        self.pages.check(env);
        for class in SizeClass::ALL {
            let slabs = &self.classes[class.index()];
            let mut warm = 0;
            let mut check = |slab: NonNull<Slab>, state: u8| {
                // SAFETY: all slabs reached are alive and this heap's.
                unsafe {
                    assert_eq!(Slab::state(slab), state, "slab: state names its place");
                    assert_eq!(Slab::owner(slab), env.id, "slab: owned by this heap");
                    assert_eq!(Slab::class(slab), class, "slab: class");
                    Slab::check(slab);
                    warm += usize::from(Slab::used(slab) == 0 && Slab::quiescent(slab));
                }
            };
            if let Some(slab) = slabs.current {
                check(slab, CURRENT);
            }
            let mut at = slabs.partial.front();
            while let Some(slab) = at {
                // SAFETY: on the list, so alive and this heap's.
                unsafe {
                    assert!(!Slab::is_full(slab), "slab: a full slab is not on the partial list");
                    check(slab, PARTIAL);
                    at = SlabList::next(slab);
                }
            }
            // A handler cannot release: empty slabs gather on a shared heap until it is drained.
            if !shared {
                assert!(warm <= 2, "slab: {warm} empty slabs of {class:?} are kept");
            }
        }
    }
}
