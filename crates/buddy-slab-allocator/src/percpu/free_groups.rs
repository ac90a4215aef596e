//! What a heap can allocate of one class: the groups of its slabs of which something is free.
//!
//! They form a queue through their links. Objects come from the *first* one until nothing of it is
//! free; it leaves the queue then. A group that was full and gets an object back becomes the last.
//! While it waits for its turn more of its objects come back, so that a turn serves many requests:
//! groups seldom come and go, where putting them in front made every other free move one. (mimalloc
//! queues its pages in the same way.) What comes back to the first group is used at once. Nothing
//! else is known of a slab, so nothing is inferred from counters, and nothing is searched.
//!
//! A slab is empty when all its groups are idle (every object free). That is looked at when a group
//! becomes idle that is not the first one; in a run of frees (`free_run`) when that ends. One empty
//! slab a class is kept (`warm`), besides the one that the first group belongs to.
//!
//! # Invariants
//! - F1: the queue holds exactly the groups of this heap and class of which an object is free.
//! - F2: `prev` of each but the first leads back, that of the first to the last; `next` of the last
//!   leads to the empty group.
//! - F3: `warm` is a slab of this heap and class that was empty once, or nothing. Its state says so,
//!   which keeps a CPU out of memory from releasing it over its owner's head (`percpu::steal`).

use core::ptr::NonNull;

use crate::slab::{Group, Slab};

/// The state of no other slab than the one that `warm` names.
pub(super) const WARM: u8 = 1;

/// What a heap has of one class: two words.
pub(super) struct FreeGroups {
    first: NonNull<Group>,
    warm: Option<NonNull<Slab>>,
}

/// The caller of all functions owns all groups in the queue.
impl FreeGroups {
    pub(super) const fn new() -> Self {
        Self { first: Group::empty(), warm: None }
    }

    /// Takes an object, and says from which group if that leaves its queue by it; `None` if there is
    /// none. O(1).
    #[inline(always)]
    pub(super) fn alloc(&mut self) -> Option<(NonNull<u8>, Option<NonNull<Group>>)> {
        // SAFETY: the first group is the caller's, or the empty one.
        unsafe {
            let first = self.first;
            let (object, last) = Group::alloc(first)?;
            if last {
                self.pop();
                return Some((object, Some(first)));
            }
            Some((object, None))
        }
    }

    /// The first group.
    #[inline(always)]
    pub(super) fn first(&self) -> NonNull<Group> {
        self.first
    }

    /// All groups of the queue.
    pub(super) fn all(&self) -> impl Iterator<Item = NonNull<Group>> {
        let listed = |group: NonNull<Group>| (group != Group::empty()).then_some(group);
        // SAFETY: alive, and the caller's.
        core::iter::successors(listed(self.first), move |group| unsafe {
            listed(Group::next(*group))
        })
    }

    /// Takes the first group off the queue.
    ///
    /// # Safety
    /// - There is one.
    #[inline(always)]
    unsafe fn pop(&mut self) {
        let first = self.first;
        // SAFETY: both are the caller's; the empty group is not written.
        unsafe {
            let next = Group::next(first);
            if next != Group::empty() {
                Group::set_prev(next, Group::prev(first));
            }
            self.first = next;
        }
    }

    /// Makes a group the last.
    ///
    /// # Safety
    /// - `group` is the caller's, of this class, in no queue, and something of it is free.
    #[inline(always)]
    pub(super) unsafe fn push(&mut self, group: NonNull<Group>) {
        let first = self.first;
        // SAFETY: all are the caller's; the empty group is not written.
        unsafe {
            Group::set_next(group, Group::empty());
            if first == Group::empty() {
                Group::set_prev(group, group);
                self.first = group;
                return;
            }
            let last = Group::prev(first);
            Group::set_next(last, group);
            Group::set_prev(group, last);
            Group::set_prev(first, group);
        }
    }

    /// Puts all groups of an empty slab into the queue.
    ///
    /// # Safety
    /// - `slab` is the caller's, of this class, empty, and none of its groups is in a queue.
    pub(super) unsafe fn insert(&mut self, slab: NonNull<Slab>) {
        // SAFETY: the caller's word; every group has objects.
        unsafe {
            for group in Slab::groups(slab) {
                self.push(group);
            }
        }
    }

    /// Takes a slab whose groups are all in the queue out of it. O(groups of the slab).
    ///
    /// # Safety
    /// - Something of every group of `slab` is free, and it is the caller's.
    pub(super) unsafe fn remove(&mut self, slab: NonNull<Slab>) {
        if self.warm == Some(slab) {
            // SAFETY: the caller's.
            unsafe { self.set_warm(None) };
        }
        // SAFETY: the groups are in this queue (F1), and their neighbours are the caller's.
        unsafe {
            for group in Slab::groups(slab) {
                if group == self.first {
                    self.pop();
                    continue;
                }
                let (next, prev) = (Group::next(group), Group::prev(group));
                Group::set_next(prev, next);
                // Behind the last one comes the first.
                let behind = if next == Group::empty() { self.first } else { next };
                Group::set_prev(behind, prev);
            }
        }
    }

    /// # Safety
    /// - `slab` is the caller's, and of this class.
    unsafe fn set_warm(&mut self, slab: Option<NonNull<Slab>>) {
        // SAFETY: both are the caller's (F3).
        unsafe {
            if let Some(warm) = self.warm {
                Slab::set_state(warm, 0);
            }
            if let Some(slab) = slab {
                Slab::set_state(slab, WARM);
            }
        }
        self.warm = slab;
    }

    /// A group of `slab` became idle. Says whether that leaves an empty slab too many: this one.
    /// O(groups of two slabs).
    ///
    /// # Safety
    /// - `slab` is the caller's, and of this class.
    pub(super) unsafe fn settle(&mut self, slab: NonNull<Slab>) -> bool {
        // SAFETY: the caller's word, and F3.
        unsafe {
            let surplus = |slab| Slab::is_empty(slab) && !Slab::has_group(slab, self.first);
            if !surplus(slab) {
                return false;
            }
            let another = self.warm.is_some_and(|warm| warm != slab && surplus(warm));
            if !another {
                self.set_warm(Some(slab));
            }
            another
        }
    }

    /// An empty slab: the one that is kept, or the first group's. O(groups of two slabs).
    pub(super) fn empty(&self) -> Option<NonNull<Slab>> {
        let first = self.first;
        // SAFETY: F3; the first group is the caller's.
        unsafe {
            let of_first = (first != Group::empty()).then(|| Slab::of_group(first));
            self.warm.into_iter().chain(of_first).find(|slab| Slab::is_empty(*slab))
        }
    }

    /// The first slab in the queue all of whose groups are idle, from a group on, and the group
    /// behind all of its own that follow. O(groups in the queue).
    ///
    /// # Safety
    /// - `from` is in the queue, or the empty group.
    pub(super) unsafe fn next_empty(
        &self,
        mut from: NonNull<Group>,
    ) -> Option<(NonNull<Slab>, NonNull<Group>)> {
        // SAFETY: the groups of the queue are alive, and the caller's.
        unsafe {
            while from != Group::empty() {
                let slab = Slab::of_group(from);
                from = Group::next(from);
                if !Slab::is_empty(slab) {
                    continue;
                }
                while from != Group::empty() && Slab::has_group(slab, from) {
                    from = Group::next(from);
                }
                return Some((slab, from));
            }
        }
        None
    }
}
