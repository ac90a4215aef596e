//! The part of a heap that only its holder touches: free objects by class, page lists, the remote
//! batch. This file is the life of an object on one CPU; `free_groups` keeps what is free of a
//! class, `slabs` makes and releases whole slabs, `magazines` are what may stand in front of all that.
//!
//! Of each class one empty slab is kept *warm*, besides the first group's. Others are idle (`idle`),
//! or released; the one that a run of frees (`free_run`) left empty only when the run has ended.

use core::hint::cold_path;
use core::ptr::NonNull;

use super::free_groups::FreeGroups;
use super::free_run::FreeRun;
use super::idle::IdleSlabs;
use super::magazines::Magazines;
use super::remote::{RemoteBatch, RemoteObject};
use super::{BlockCache, Env, FaultLog, PageLists};
use crate::buddy::PageError;
use crate::slab::{
    self, Collected, Group, GroupFree, Inbox, ObjectIndex, RemoteWord, SizeClass, Slab,
};
use crate::sync::RawLock;
use crate::units::Misuse;

/// How many groups that others freed into an allocation takes in; each brings an object at least.
const COLLECTED: usize = 64;

/// What only the holder of a heap touches.
pub(crate) struct Local<const PAGE_SIZE: usize> {
    pub(crate) magazines: Magazines,
    pub(super) classes: [FreeGroups; SizeClass::COUNT],
    pub(super) run: FreeRun,
    pub(super) idle: IdleSlabs,
    pub(crate) pages: PageLists<PAGE_SIZE>,
    pub(crate) blocks: BlockCache<PAGE_SIZE>,
    pub(crate) remote: RemoteBatch,
    pub(crate) faults: FaultLog,
    /// An empty slab could not be released and is neither kept nor the first group's.
    pub(super) unsettled: bool,
}

impl<const PAGE_SIZE: usize> Local<PAGE_SIZE> {
    pub(crate) const fn new() -> Self {
        Self {
            magazines: Magazines::none(),
            classes: [const { FreeGroups::new() }; SizeClass::COUNT],
            run: FreeRun::new(),
            idle: IdleSlabs::new(),
            pages: PageLists::new(),
            blocks: BlockCache::new(),
            remote: RemoteBatch::new(),
            faults: FaultLog::new(),
            unsettled: false,
        }
    }

    /// Takes an object that is at hand, from a magazine first if there can be any; `None` if there is
    /// none. O(1).
    #[inline(always)]
    pub(crate) fn alloc_at_hand(
        &mut self,
        class: SizeClass,
        magazines: bool,
    ) -> Option<NonNull<u8>> {
        if magazines && let Some(object) = self.magazines.pop(class) {
            return Some(object);
        }
        self.alloc(class)
    }

    /// Takes an object of the class's first group; `None` if there is none. O(1).
    #[inline(always)]
    pub(crate) fn alloc(&mut self, class: SizeClass) -> Option<NonNull<u8>> {
        let (object, left) = self.classes[class.index()].alloc()?;
        if let Some(group) = left {
            self.run.end_in_group(group);
        }
        Some(object)
    }

    /// All of [`alloc`](Self::alloc): what is at hand, then what others freed, then a new slab. (And
    /// magazines, if the platform wants them and the heap has none.)
    /// O(1): of what waits in the inbox a bounded part is taken in.
    #[cold]
    #[inline(never)]
    pub(crate) fn refill<L: RawLock>(
        &mut self,
        class: SizeClass,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<NonNull<u8>, PageError> {
        if let Some(object) = self.alloc_at_hand(class, env.magazines) {
            return Ok(object);
        }
        let mut idle = self.idle.pop(class.index());
        if idle.is_none()
            && let Some(inbox) = env.heaps.inbox_of(env.id)
            && !inbox.is_empty()
        {
            self.collect_some(inbox, COLLECTED, env);
            if let Some(object) = self.alloc(class) {
                return Ok(object);
            }
            idle = self.idle.pop(class.index());
        }
        let slab = idle.map_or_else(|| self.new_slab(class, env), Ok)?;
        // SAFETY: this heap's, of this class, empty, and nothing else of the class is free.
        unsafe { self.classes[class.index()].insert(slab) };
        let object = self.alloc(class).ok_or(PageError::Exhausted)?;
        // Not before there is an object: it may have been the last room.
        self.supply_magazines(env);
        Ok(object)
    }

    /// Frees the object at `addr` if that goes on with the run of frees (`free_run`), and if it is of
    /// the class, where one is expected; `false`, and nothing happened, if not. O(1), and no look at the
    /// page's metadata; nor at whether the group is idle now: that is seen to when the run ends.
    #[inline(always)]
    pub(crate) fn free_in_run(&mut self, expected: Option<SizeClass>, addr: usize) -> bool {
        let Some(class) = self.run.class_at(addr) else { return false };
        if expected.is_some_and(|expected| expected != class) {
            return false;
        }
        // A constant where the layout is one.
        let class = expected.unwrap_or(class);
        let Some(index) = self.run.object_at(class, addr) else { return false };
        // SAFETY: the heap's group, of the run's class (U1), in whose objects the address lies; or
        // the one in which nothing is in use.
        if unsafe { Group::free_known(self.run.group(), index) } {
            return true;
        }
        self.run.is_remote() && self.remote.add_in_run(index, class.size())
    }

    /// Frees an object of another heap's slab if that takes no more than a note in the remote
    /// batch. O(1). What it says is to be understood as of [`free`](Self::free).
    #[inline(always)]
    pub(crate) fn free_remote(&mut self, class: SizeClass, object: RemoteObject) -> GroupFree {
        let Some(entry) = self.remote.add_fast(object) else { return GroupFree::Refused };
        if !self.run.note(object.group()) {
            return GroupFree::Done;
        }
        let left = self.run.queued();
        self.run.begin_remote::<PAGE_SIZE>(class, (object.addr, object.index.bit()));
        self.remote.begin_run(entry);
        self.left_by_run(left)
    }

    /// Frees an object of a slab of this heap, if that is all there is to do. O(1). If it says
    /// [`GroupFree::Idle`], [`group_idle`](Self::group_idle) must follow, and if [`GroupFree::Again`]
    /// [`begin_run`](Self::begin_run); if [`GroupFree::Refused`], nothing happened.
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
        // SAFETY: ours, and of this class (condition). What was full is in no queue; something of
        // it is free now.
        unsafe {
            let Some((before, free)) = Group::free(group, index) else { return GroupFree::Refused };
            if before == 0 {
                self.classes[class.index()].push(group);
            }
            if self.run.note(group.addr().get()) {
                return GroupFree::Again(group);
            }
            // It may be any, and hardly one is idle.
            if Group::is_idle_with(group, free) && group != self.classes[class.index()].first() {
                return GroupFree::Idle(group);
            }
            GroupFree::Done
        }
    }

    /// What follows [`GroupFree::Again`]: from now on frees in the group are a run. O(1). It says
    /// [`GroupFree::Done`] or [`GroupFree::Idle`], to be understood as of [`free`](Self::free).
    ///
    /// # Safety
    /// - `group` is one of this heap and class, and something of it is free.
    #[inline]
    pub(crate) unsafe fn begin_run(
        &mut self,
        class: SizeClass,
        group: NonNull<Group>,
    ) -> GroupFree {
        let left = self.run.queued();
        // SAFETY: the condition; a group of which something is free is in its queue (F1).
        unsafe { self.run.begin(class, group) };
        self.left_by_run(left)
    }

    /// What is to be done for the group that a run was in, as of a free: while it lasted nobody looked.
    #[inline(always)]
    fn left_by_run(&self, left: Option<(SizeClass, NonNull<Group>)>) -> GroupFree {
        match left {
            // SAFETY: alive and this heap's, being in its queue (U1).
            Some((class, group)) if unsafe { Group::is_idle(group) } => {
                let first = group == self.classes[class.index()].first();
                if first { GroupFree::Done } else { GroupFree::Idle(group) }
            }
            _ => GroupFree::Done,
        }
    }

    /// Ends a run of this heap's objects, and sees to it that it leaves no empty slab too many. O(groups
    /// of two slabs).
    pub(crate) fn end_run<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        let left = self.run.queued();
        if left.is_some() {
            self.run = FreeRun::new();
        }
        if let GroupFree::Idle(group) = self.left_by_run(left) {
            // SAFETY: this heap's, as it just said.
            unsafe { self.group_idle(Slab::of_group(group), env) };
        }
    }

    /// Looks whether a group that became idle leaves an empty slab too many; that becomes idle then, or
    /// is released. O(groups of two slabs).
    ///
    /// # Safety
    /// - `slab` is this heap's.
    #[cold]
    pub(crate) unsafe fn group_idle<L: RawLock>(
        &mut self,
        slab: NonNull<Slab>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: this heap's (condition); an empty slab's groups are all in the queue (F1), and
        // one that cannot be released stays there.
        unsafe {
            let groups = &mut self.classes[Slab::class(slab).index()];
            if !groups.settle(slab) {
                return;
            }
            if !Slab::quiescent(slab) {
                self.unsettled = true;
                return;
            }
            // First, so that a run's group is queued at every moment (U1).
            self.run.end_in_slab(slab);
            groups.remove(slab);
            if !self.idle.push(slab, env) && !Self::release(slab, env) {
                self.classes[Slab::class(slab).index()].insert(slab);
                self.unsettled = true;
            }
        }
    }

    /// What [`free`](Self::free) left to be done, off the fast path.
    ///
    /// # Errors
    /// The misuse; nothing happened then.
    ///
    /// # Safety
    /// - `free` just said `freed` of this object.
    #[cold]
    pub(crate) unsafe fn finish_free<L: RawLock>(
        &mut self,
        group: NonNull<Group>,
        index: ObjectIndex,
        freed: GroupFree,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<(), Misuse> {
        // SAFETY: the group's slab is this heap's (condition), as is that of the second one.
        unsafe {
            let slab = Slab::of_group(group);
            let freed = match freed {
                GroupFree::Again(group) => self.begin_run(Slab::class(slab), group),
                freed => freed,
            };
            match freed {
                GroupFree::Done | GroupFree::Again(_) => Ok(()),
                GroupFree::Refused if index.get() >= Slab::object_count(slab) => {
                    Err(Misuse::Interior)
                }
                GroupFree::Refused => Err(Misuse::DoubleFree),
                GroupFree::Idle(group) => {
                    self.group_idle(Slab::of_group(group), env);
                    Ok(())
                }
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

    /// Takes in some of it: up to `most` groups. O(`most`).
    pub(crate) fn collect_some<L: RawLock>(
        &mut self,
        inbox: &Inbox,
        most: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: popped off this heap's inbox, whose owner the caller is or stands for.
        inbox.take_some(most, |word| unsafe { self.collect_word(word, env) });
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
            let Collected { group, freed, doubles, was_full } = slab::collect(word);
            if doubles != 0 {
                cold_path();
                self.note_doubles(slab, number, doubles);
            }
            let groups = &mut self.classes[Slab::class(slab).index()];
            if was_full {
                groups.push(group);
            }
            if freed != 0 && Group::is_idle(group) {
                self.group_idle(slab, env);
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

    /// Whether frees go to one of its groups one after another.
    #[cfg(test)]
    pub(crate) fn is_in_run(&self) -> bool {
        self.run.queued().is_some()
    }

    /// How many objects of a class are free in this heap's slabs, and in its magazines, if they lie in a
    /// slab as `in_slab` says of an address. O(groups in the queue + objects in the magazine).
    pub(crate) fn free_objects(&self, class: SizeClass, in_slab: impl Fn(usize) -> bool) -> usize {
        let kept = self.magazines.of_class(class).iter().filter(|addr| in_slab(**addr)).count();
        let groups = self.classes[class.index()].all();
        let idle = self.idle.of_class(class.index());
        // SAFETY: all groups and slabs reached are alive and this heap's.
        unsafe {
            groups.map(|group| Group::free_bits(group).count_ones() as usize).sum::<usize>()
                + idle.map(|slab| Slab::object_count(slab)).sum::<usize>()
                + kept
        }
    }

    /// The counting equations of this heap, see `docs/invariants.md`.
    pub(crate) fn check<L: RawLock>(&self, env: &Env<'_, PAGE_SIZE, L>, shared: bool) {
        self.pages.check(env);
        self.blocks.check(env);
        self.idle.check(env.id);
        self.check_magazines(env);
        if let Some((class, group)) = self.run.queued() {
            let mut queue = self.classes[class.index()].all();
            assert!(queue.any(|queued| queued == group), "U1: the run's group is queued");
        } else if let Some(size_bytes) = self.run.remote_size() {
            self.remote.check_run(size_bytes);
        }
        for class in SizeClass::ALL {
            let groups = &self.classes[class.index()];
            let (mut before, mut empty) = (None, 0);
            for group in groups.all() {
                // SAFETY: all groups reached are alive and this heap's.
                unsafe {
                    let slab = Slab::of_group(group);
                    assert_ne!(Group::free_bits(group), 0, "F1: a full group is on no list");
                    assert_eq!(Slab::owner(slab), env.id, "slab: owned by this heap");
                    assert_eq!(Slab::class(slab), class, "slab: class");
                    if let Some(before) = before {
                        assert_eq!(Group::prev(group), before, "F2: the links agree");
                    }
                    Slab::check(slab);
                    empty += usize::from(Slab::group(slab, 0) == group && Slab::quiescent(slab));
                }
                before = Some(group);
            }
            if let Some(last) = before {
                // SAFETY: alive, and this heap's.
                assert_eq!(unsafe { Group::prev(groups.first()) }, last, "F2: the ends agree");
            }
            // A handler cannot release: empty slabs gather on a shared heap until it is drained.
            if !shared && !self.unsettled {
                let in_run = self.run.queued().is_some_and(|(of, _)| of == class);
                let most = 2 + usize::from(in_run);
                assert!(empty <= most, "slab: {empty} empty slabs of {class:?} are kept");
            }
        }
    }
}
