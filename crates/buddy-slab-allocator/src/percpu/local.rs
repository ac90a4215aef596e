//! The part of a heap that only its holder touches: slabs by class, page lists, the remote batch.
//! This file is the life of an object on one CPU; `class_slabs` keeps the slabs of a class,
//! `slabs` makes and releases whole ones.
//!
//! An empty slab a class is kept warm behind the current one, and the current one stays if it is
//! empty too: at most two. Others are idle (`idle`), or released.

use core::hint::cold_path;
use core::ptr::NonNull;

use super::class_slabs::{CURRENT, ClassSlabs, PARTIAL};
use super::idle::IdleSlabs;
use super::{BlockCache, Env, FaultLog, PageLists, remote::RemoteBatch};
use crate::buddy::PageError;
use crate::slab::{self, Group, GroupFree, Inbox, ObjectIndex, RemoteWord, SizeClass, Slab};
use crate::sync::RawLock;
use crate::units::Misuse;

/// What only the holder of a heap touches.
pub(crate) struct Local<const PAGE_SIZE: usize> {
    pub(super) classes: [ClassSlabs; SizeClass::COUNT],
    pub(super) idle: IdleSlabs,
    pub(crate) pages: PageLists<PAGE_SIZE>,
    pub(crate) blocks: BlockCache<PAGE_SIZE>,
    pub(crate) remote: RemoteBatch,
    pub(crate) faults: FaultLog,
}

impl<const PAGE_SIZE: usize> Local<PAGE_SIZE> {
    pub(crate) const fn new() -> Self {
        Self {
            classes: [const { ClassSlabs::new() }; SizeClass::COUNT],
            idle: IdleSlabs::new(),
            pages: PageLists::new(),
            blocks: BlockCache::new(),
            remote: RemoteBatch::new(),
            faults: FaultLog::new(),
        }
    }

    /// Takes an object that was set aside; `None` if there is none. O(1).
    #[inline(always)]
    pub(crate) fn alloc(&mut self, class: SizeClass) -> Option<NonNull<u8>> {
        // SAFETY: a source is the empty group, or one of a slab of this heap, which the caller
        // holds.
        unsafe { Group::alloc(self.classes[class.index()].source) }
    }

    /// The rest of [`alloc`](Self::alloc) without a new slab: the rest of the current one, then
    /// the partial ones. O(groups of a slab).
    #[inline]
    pub(crate) fn alloc_at_hand(&mut self, class: SizeClass) -> Option<NonNull<u8>> {
        let slabs = &mut self.classes[class.index()];
        while let Some(current) = slabs.current() {
            // SAFETY: the current slab is this heap's, and not sealed; a group that is used up
            // has nothing set aside. A slab that has nothing free is in use as a whole.
            unsafe {
                if let Some(object) = Group::alloc(slabs.source) {
                    return Some(object);
                }
                if let Some((object, group)) = Slab::refill(current) {
                    slabs.source = group;
                    return Some(object);
                }
                slabs.shelve(current);
            }
        }
        None
    }

    /// All of [`alloc`](Self::alloc): what is at hand, then what others freed, then a new slab.
    /// O(1) amortised: the inbox holds each group once, however many objects it brings.
    #[inline(never)]
    pub(crate) fn refill<L: RawLock>(
        &mut self,
        class: SizeClass,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<NonNull<u8>, PageError> {
        if let Some(object) = self.alloc_at_hand(class) {
            return Ok(object);
        }
        self.refill_from_outside(class, env)
    }

    #[cold]
    fn refill_from_outside<L: RawLock>(
        &mut self,
        class: SizeClass,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<NonNull<u8>, PageError> {
        let mut idle = self.idle.pop(class.index());
        if idle.is_none()
            && let Some(inbox) = env.heaps.inbox_of(env.id)
            && !inbox.is_empty()
        {
            self.collect(inbox, env);
            if let Some(object) = self.alloc_at_hand(class) {
                return Ok(object);
            }
            idle = self.idle.pop(class.index());
        }
        let slab = idle.map_or_else(|| self.new_slab(class, env), Ok)?;
        // SAFETY: this heap's, of this class, empty, in no chain.
        unsafe { self.classes[class.index()].insert(slab) };
        self.alloc_at_hand(class).ok_or(PageError::Exhausted)
    }

    /// Frees an object into the group into which the last one of its class was freed, if it
    /// belongs there and nothing else is to be done. O(1), and no look at the page's metadata.
    #[inline(always)]
    pub(crate) fn free_recent(&mut self, class: SizeClass, addr: usize) -> GroupFree {
        // SAFETY: the empty group, or one of a slab of this class and of this heap, which the
        // caller holds.
        unsafe { Group::free_at(self.classes[class.index()].recent, class, addr) }
    }

    /// Frees an object of a slab of this heap. O(1). If it says [`GroupFree::Emptied`] or
    /// [`GroupFree::Refused`], [`finish_free`](Self::finish_free) must follow.
    ///
    /// # Safety
    /// - `group` is one of a slab of this class that this heap owns.
    #[inline(always)]
    pub(crate) unsafe fn free(
        &mut self,
        class: SizeClass,
        group: NonNull<Group>,
        index: ObjectIndex,
    ) -> GroupFree {
        // SAFETY: ours (condition).
        let freed = unsafe { Group::free(group, index) };
        if freed != GroupFree::Refused {
            self.classes[class.index()].recent = group;
        }
        freed
    }

    /// What a free leaves to be done off the fast path: the group was emptied, or refused because
    /// its slab is sealed, or because the object is not in use.
    ///
    /// # Errors
    /// The misuse; nothing happened then.
    ///
    /// # Safety
    /// - [`free`](Self::free) or [`free_recent`](Self::free_recent) just said `freed` of this
    ///   object.
    #[cold]
    pub(crate) unsafe fn finish_free<L: RawLock>(
        &mut self,
        group: NonNull<Group>,
        index: ObjectIndex,
        freed: GroupFree,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<(), Misuse> {
        // SAFETY: the group's slab is this heap's (condition).
        unsafe {
            let slab = Slab::of_group(group);
            match freed {
                GroupFree::Done => Ok(()),
                GroupFree::Emptied => {
                    self.group_emptied(slab, env);
                    Ok(())
                }
                GroupFree::Refused => self.free_refused(slab, group, index, env),
            }
        }
    }

    /// # Safety
    /// - `group` is one of `slab`, which this heap owns.
    unsafe fn free_refused<L: RawLock>(
        &mut self,
        slab: NonNull<Slab>,
        group: NonNull<Group>,
        index: ObjectIndex,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<(), Misuse> {
        // SAFETY: the slab is this heap's (condition).
        unsafe {
            if index.get() >= Slab::object_count(slab) {
                return Err(Misuse::Interior);
            }
            if !Slab::is_sealed(slab) {
                return Err(Misuse::DoubleFree);
            }
            // The first free of a full slab.
            Slab::set_sealed(slab, false);
            self.classes[Slab::class(slab).index()].insert(slab);
            match Group::free(group, index) {
                GroupFree::Refused => Err(Misuse::DoubleFree),
                GroupFree::Done => Ok(()),
                GroupFree::Emptied => {
                    self.group_emptied(slab, env);
                    Ok(())
                }
            }
        }
    }

    /// A group of `slab` was emptied by a free.
    ///
    /// # Safety
    /// - `slab` is this heap's, and in its class's chain.
    unsafe fn group_emptied<L: RawLock>(
        &mut self,
        slab: NonNull<Slab>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: passed on.
        unsafe {
            if Slab::group_emptied(slab) && Slab::state(slab) != CURRENT {
                self.settle_empty(slab, env);
            }
        }
    }

    /// Releases an empty slab, or keeps it: warm if the class has no other, idle if there is room.
    ///
    /// # Safety
    /// - `slab` is this heap's, empty, and a partial one in its class's chain.
    #[cold]
    unsafe fn settle_empty<L: RawLock>(
        &mut self,
        slab: NonNull<Slab>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: alive and ours (condition), as are all slabs in its class's chain.
        unsafe {
            let slabs = &mut self.classes[Slab::class(slab).index()];
            slabs.remove(slab);
            let warm_already = slabs.current().is_some_and(|current| Slab::is_empty(current))
                || slabs.first_partial().is_some_and(|first| Slab::is_idle(first));
            if !warm_already
                || !Slab::quiescent(slab)
                || !(self.idle.push(slab, env) || Self::release(slab, env))
            {
                slabs.insert(slab);
            }
        }
    }

    /// Takes in what other CPUs freed of this heap's slabs. O(groups queued).
    pub(crate) fn collect<L: RawLock>(&mut self, inbox: &Inbox, env: &Env<'_, PAGE_SIZE, L>) {
        for word in inbox.take_all() {
            // SAFETY: popped off this heap's inbox, whose chain is drained to its end.
            unsafe { self.collect_word(word, env) };
        }
    }

    /// # Safety
    /// - `word` was popped off this heap's inbox by the caller.
    unsafe fn collect_word<L: RawLock>(
        &mut self,
        word: NonNull<RemoteWord>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: a queued word's slab is alive: it has objects that are not collected yet.
        unsafe {
            let slab = slab::slab_of(word);
            debug_assert_eq!(Slab::owner(slab), env.id, "a slab stays with the heap that made it");
            let number = slab::group_number(word);
            let collected = slab::collect(word);
            if collected.doubles != 0 {
                cold_path();
                self.note_doubles(slab, number, collected.doubles);
            }
            if collected.was_full {
                self.classes[Slab::class(slab).index()].insert(slab);
            }
            if collected.now_empty && Slab::state(slab) == PARTIAL {
                self.settle_empty(slab, env);
            }
        }
    }

    /// # Safety
    /// - `slab` is this heap's.
    unsafe fn note_doubles(&mut self, slab: NonNull<Slab>, number: usize, mut doubles: usize) {
        while doubles != 0 {
            let index = ObjectIndex::new(number, doubles.trailing_zeros());
            // SAFETY: alive; an object that was published is one of the slab's.
            let object = unsafe { Slab::object_ptr(slab, index) };
            // SAFETY: as above.
            let exists = index.get() < unsafe { Slab::object_count(slab) };
            let kind = if exists { Misuse::DoubleFree } else { Misuse::Interior };
            self.faults.note(object.addr().get(), kind);
            doubles &= doubles - 1;
        }
    }

    /// How many objects of a class are free in this heap's slabs. O(slabs in the chain).
    pub(crate) fn free_objects(&self, class: SizeClass) -> usize {
        let slabs = self.classes[class.index()].all().chain(self.idle.of_class(class.index()));
        // SAFETY: all slabs reached are alive and this heap's.
        slabs.map(|slab| unsafe { Slab::object_count(slab) - Slab::used(slab) }).sum()
    }

    /// The counting equations of this heap, see `docs/invariants.md`.
    pub(crate) fn check<L: RawLock>(&self, env: &Env<'_, PAGE_SIZE, L>, shared: bool) {
        self.pages.check(env);
        self.blocks.check(env);
        self.idle.check(env.id);
        for class in SizeClass::ALL {
            let slabs = &self.classes[class.index()];
            let mut warm = 0;
            let mut recent_is_ours = slabs.recent == Group::empty();
            for (position, slab) in slabs.all().enumerate() {
                let state = if position == 0 { CURRENT } else { PARTIAL };
                // SAFETY: all slabs reached are alive and this heap's.
                unsafe {
                    assert_eq!(Slab::state(slab), state, "slab: state names its place");
                    assert_eq!(Slab::owner(slab), env.id, "slab: owned by this heap");
                    assert_eq!(Slab::class(slab), class, "slab: class");
                    assert!(!Slab::is_sealed(slab), "slab: a sealed slab is in no chain");
                    Slab::check(slab);
                    if state == PARTIAL {
                        assert!(!Slab::is_full(slab), "slab: a full slab is not partial");
                    }
                    warm += usize::from(Slab::quiescent(slab));
                    recent_is_ours |= Slab::has_group(slab, slabs.recent);
                }
            }
            assert!(recent_is_ours, "C2: the group freed into last is in the chain");
            // A handler cannot release: empty slabs gather on a shared heap until it is drained.
            if !shared {
                assert!(warm <= 2, "slab: {warm} empty slabs of {class:?} are kept");
            }
        }
    }
}
