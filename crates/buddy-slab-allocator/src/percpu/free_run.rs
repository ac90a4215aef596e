//! The group that frees go to one after another: it is tried before the metadata of the page.
//!
//! Frees often come in runs: a pair takes turns in one group, a list that is torn down goes through
//! the groups as they were allocated, and so does a consumer of what another CPU made. The second
//! free in a row into the same group begins a *run* there. A heap has one, not one a class: so
//! asking takes no class, and four instructions, and is easily foreseen, since where frees go
//! anywhere no run begins. While it lasts nobody looks whether its group is idle: that is seen to when
//! the next run begins, on tick, on idle, and before a heap is drained. So a heap may keep one empty
//! slab more.
//!
//! A run of another heap's objects goes on in the entry of the remote batch that gathers them. It
//! ends with the page of the object that began it: that one's metadata vouches for all pages of the
//! slab up to there, and so nothing of the group is read, which its owner writes. (After a double
//! free the slab may be gone, as for any entry; what is freed into the run then is lost when the
//! entry is found out.)
//!
//! # Invariants
//! - U1: a run of this heap's objects is in a group that is in the queue of its class (something of
//!   it is free). So that is alive: what takes a group off its queue ends the run.
//! - U2: a run of another heap's objects is in the group of the entry that the remote batch calls the
//!   run's. Objects wait there, and so their slab is alive, unless all of them were freed twice; when
//!   the entry goes out it has no run.

use core::hint::cold_path;
use core::ptr::NonNull;

use crate::slab::{Group, ObjectIndex, SizeClass, Slab};

/// Where the run is, if there is one.
pub(super) struct FreeRun {
    /// The address of the group's first object.
    base: usize,
    /// The bytes behind it that belong to the run: none if there is no run.
    bytes: usize,
    /// The group; [`Group::elsewhere`] if it is another heap's.
    group: NonNull<Group>,
    /// The address of the group that the last free went to that was not part of the run.
    last: usize,
    class: SizeClass,
}

impl FreeRun {
    pub(super) const fn new() -> Self {
        let (group, class) = (Group::elsewhere(), SizeClass::Bytes8);
        Self { base: 0, bytes: 0, group, class, last: 0 }
    }

    /// The class of the run, if `addr` belongs to it. O(1).
    #[inline(always)]
    pub(super) fn class_at(&self, addr: usize) -> Option<SizeClass> {
        if addr.wrapping_sub(self.base) < self.bytes { Some(self.class) } else { None }
    }

    /// The object of `class`, the run's, that begins at `addr`, which belongs to the run: its place
    /// in the group. `None` if none begins there. O(1).
    #[inline(always)]
    pub(super) fn object_at(&self, class: SizeClass, addr: usize) -> Option<ObjectIndex> {
        // A group is shorter than 4 GiB, which spares `at` a look.
        let offset = addr.wrapping_sub(self.base) as u32;
        ObjectIndex::at(class, offset as usize)
    }

    /// The group that objects of the run are freed into: of another heap's run one in which nothing
    /// is in use.
    #[inline(always)]
    pub(super) fn group(&self) -> NonNull<Group> {
        self.group
    }

    /// Notes a free into the group at this address, which was no part of the run. Says whether the one
    /// before went there too: a run is to begin.
    #[inline(always)]
    pub(super) fn note(&mut self, group: usize) -> bool {
        if self.last == group {
            cold_path();
            return true;
        }
        self.last = group;
        false
    }

    /// Begins a run in a group of this heap.
    ///
    /// # Safety
    /// - The group is the heap's, of `class`, and in its queue.
    #[inline]
    pub(super) unsafe fn begin(&mut self, class: SizeClass, group: NonNull<Group>) {
        // SAFETY: alive (condition).
        (self.base, self.bytes) = unsafe { Group::extent(group) };
        (self.group, self.class) = (group, class);
    }

    /// Begins a run in a group of another heap, with its object number `bit`, of `class`, which begins
    /// at `addr`.
    #[inline]
    pub(super) fn begin_remote<const PAGE_SIZE: usize>(
        &mut self,
        class: SizeClass,
        (addr, bit): (usize, u32),
    ) {
        self.base = addr - bit as usize * class.size();
        let page_end = (addr | (PAGE_SIZE - 1)) - self.base + 1;
        self.bytes = page_end.min(usize::BITS as usize * class.size());
        (self.group, self.class) = (Group::elsewhere(), class);
    }

    /// Whether it is a run of another heap's objects.
    #[inline]
    pub(super) fn is_remote(&self) -> bool {
        self.group == Group::elsewhere()
    }

    /// A group leaves its queue.
    #[inline]
    pub(super) fn end_in_group(&mut self, group: NonNull<Group>) {
        if self.group == group {
            *self = Self::new();
        }
    }

    /// The groups of a slab leave their queue.
    ///
    /// # Safety
    /// - The slab is alive.
    pub(super) unsafe fn end_in_slab(&mut self, slab: NonNull<Slab>) {
        // SAFETY: alive (condition).
        if unsafe { Slab::has_group(slab, self.group) } {
            *self = Self::new();
        }
    }

    /// The group of this heap that the run is in, with its class.
    pub(super) fn queued(&self) -> Option<(SizeClass, NonNull<Group>)> {
        (!self.is_remote()).then_some((self.class, self.group))
    }

    /// The size of the objects, if the run is in another heap's.
    pub(super) fn remote_size(&self) -> Option<usize> {
        (self.is_remote() && self.bytes != 0).then(|| self.class.size())
    }
}
