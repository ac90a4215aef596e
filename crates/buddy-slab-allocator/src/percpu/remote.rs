//! Remote frees gathered by the freeing CPU before they are published.
//!
//! Objects of other CPUs' slabs are collected here by group (up to a word of objects that share
//! one remote word), in a small direct-mapped cache. A whole entry goes out by one `fetch_or`, so
//! a consumer that frees in the order of allocation pays about one atomic operation per 64
//! objects. What waits here is bounded in bytes; it goes out when its place is needed, on tick,
//! idle, CPU offline and under pressure. (Batched frees by slab: the idea is snmalloc's, whose
//! batches are lists of objects; bits never touch the object.)
//!
//! An unpublished object still counts as live in its slab, so the slab cannot go away, unless the
//! free was a double free: so an entry is checked against the page metadata once more before it
//! is published.

use core::hint::cold_path;
use core::ptr::NonNull;

use super::{Env, FaultLog};
use crate::slab::{GROUP_OBJECTS, Group, ObjectIndex, Slab};
use crate::sync::RawLock;
use crate::units::Misuse;

/// How many groups can be gathered at a time: fewer on 32 bits, where memory may be small.
const ENTRIES: usize = if usize::BITS >= 64 { 32 } else { 4 };

/// How many bytes of other CPUs' objects may wait in one heap.
pub(crate) const MAX_WAITING_BYTES: usize = 256 << 10;

#[derive(Clone, Copy)]
struct Entry {
    /// The first group of the slab, as the page metadata names it.
    groups: Option<NonNull<Group>>,
    /// One object of the entry, by which the slab is found again.
    addr: usize,
    number: usize,
    mask: usize,
}

/// An object of another heap's slab, and where it lies.
#[derive(Clone, Copy)]
pub(crate) struct RemoteObject {
    /// The first group of its slab, as the page metadata names it.
    pub(crate) groups: NonNull<Group>,
    pub(crate) index: ObjectIndex,
    pub(crate) addr: usize,
    pub(crate) size_bytes: usize,
}

/// The remote frees that one heap has not published yet.
pub(crate) struct RemoteBatch {
    entries: [Entry; ENTRIES],
    waiting_bytes: usize,
    /// How many objects were added so far.
    frees: usize,
}

impl RemoteBatch {
    pub(crate) const fn new() -> Self {
        let empty = Entry { groups: None, addr: 0, number: 0, mask: 0 };
        Self { entries: [empty; ENTRIES], waiting_bytes: 0, frees: 0 }
    }

    /// How many objects of other heaps were freed here so far.
    pub(crate) fn frees(&self) -> usize {
        self.frees
    }

    /// [`add`](Self::add) if that takes no more than a note.
    #[inline(always)]
    pub(crate) fn add_fast(&mut self, object: RemoteObject) -> bool {
        let number = object.index.group();
        let entry = &mut self.entries[Self::place(object.groups, number)];
        let waiting_bytes = self.waiting_bytes + object.size_bytes;
        if entry.groups != Some(object.groups)
            || entry.number != number
            || entry.mask & object.index.mask() != 0
            || waiting_bytes > MAX_WAITING_BYTES
        {
            return false;
        }
        entry.mask |= object.index.mask();
        self.waiting_bytes = waiting_bytes;
        self.frees = self.frees.wrapping_add(1);
        true
    }

    #[inline(always)]
    fn place(groups: NonNull<Group>, number: usize) -> usize {
        (groups.addr().get() / 64).wrapping_add(number) % ENTRIES
    }

    /// Adds an object that another heap owns, without a look at its slab: the next free of this
    /// slab's objects finds the same entry. O(1); one atomic operation when an entry goes out.
    ///
    /// # Errors
    /// [`Misuse::DoubleFree`] if the object waits here already.
    ///
    /// # Safety
    /// - The page metadata says so of the object.
    pub(crate) unsafe fn add<const PAGE_SIZE: usize, L: RawLock>(
        &mut self,
        object: RemoteObject,
        env: &Env<'_, PAGE_SIZE, L>,
        faults: &mut FaultLog,
    ) -> Result<(), Misuse> {
        let RemoteObject { groups, index, addr, size_bytes } = object;
        let number = index.group();
        let entry = &mut self.entries[Self::place(groups, number)];
        if entry.groups == Some(groups) && entry.number == number {
            if entry.mask & index.mask() != 0 {
                cold_path();
                return Err(Misuse::DoubleFree);
            }
            entry.mask |= index.mask();
        } else {
            if entry.groups.is_some() {
                publish(entry, env, faults);
            }
            *entry = Entry { groups: Some(groups), addr, number, mask: index.mask() };
        }
        self.waiting_bytes += size_bytes;
        self.frees = self.frees.wrapping_add(1);
        if self.waiting_bytes > MAX_WAITING_BYTES {
            cold_path();
            self.flush(env, faults);
        }
        Ok(())
    }

    /// Publishes everything.
    #[cold]
    pub(crate) fn flush<const PAGE_SIZE: usize, L: RawLock>(
        &mut self,
        env: &Env<'_, PAGE_SIZE, L>,
        faults: &mut FaultLog,
    ) {
        if self.waiting_bytes == 0 {
            return;
        }
        for entry in &mut self.entries {
            if entry.groups.is_some() {
                publish(entry, env, faults);
            }
        }
        self.waiting_bytes = 0;
    }
}

#[inline(never)]
fn publish<const PAGE_SIZE: usize, L: RawLock>(
    entry: &mut Entry,
    env: &Env<'_, PAGE_SIZE, L>,
    faults: &mut FaultLog,
) {
    let Some(groups) = entry.groups.take() else { return };
    let found = env.core.slab_at(entry.addr);
    if found.is_none_or(|mark| mark.descriptor.addr() != groups.addr()) {
        faults.note(entry.addr, Misuse::DoubleFree);
        return;
    }
    // SAFETY: the page metadata says that the slab is there; the objects of the mask were live
    // when they came in and are freed by nobody else (a double free aside, which the slab's own
    // words then show).
    unsafe { publish_to(Slab::of_group(groups), entry.number, entry.mask, env, faults) };
}

/// Publishes the objects `mask` of a group of `slab`, and queues its word if it was idle. Bits
/// of no object are faults.
///
/// # Safety
/// - The slab is alive: at least one object of the mask has not been freed otherwise; the group
///   exists, or the mask has no bit of an object.
pub(crate) unsafe fn publish_to<const PAGE_SIZE: usize, L: RawLock>(
    slab: NonNull<Slab>,
    number: usize,
    mask: usize,
    env: &Env<'_, PAGE_SIZE, L>,
    faults: &mut FaultLog,
) {
    // SAFETY: alive until the bits are out (condition); afterwards it is only touched if this
    // caller has to push, and it cannot be released before that push.
    unsafe {
        let objects = Slab::objects(slab).addr();
        let size_bytes = Slab::object_size(slab);
        let valid = Group::all(Slab::group(slab, number));
        let mut note = |mut bits: usize, kind| {
            while bits != 0 {
                let index = number * GROUP_OBJECTS + bits.trailing_zeros() as usize;
                faults.note(objects + index * size_bytes, kind);
                bits &= bits - 1;
            }
        };
        note(mask & !valid, Misuse::Interior);
        if mask & valid == 0 {
            return;
        }
        let owner = Slab::owner(slab);
        let outcome = Slab::publish_remote(slab, number, mask & valid);
        if let Some(queued) = outcome.push
            && let Some(inbox) = env.heaps.inbox_of(owner)
        {
            inbox.push(queued);
        }
        note(outcome.doubles, Misuse::DoubleFree);
    }
}
