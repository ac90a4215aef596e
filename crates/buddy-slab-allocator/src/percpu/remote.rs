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

use core::ptr::NonNull;

use super::{Env, FaultLog};
use crate::buddy::PageRef;
use crate::slab::{ObjectIndex, Slab};
use crate::sync::RawLock;
use crate::units::Misuse;

const ENTRIES: usize = 16;

/// How many bytes of other CPUs' objects may wait in one heap.
pub(crate) const MAX_WAITING_BYTES: usize = 256 << 10;

#[derive(Clone, Copy)]
struct Entry {
    slab: Option<NonNull<Slab>>,
    /// One object of the entry, by which the slab is found again.
    addr: usize,
    group: usize,
    mask: usize,
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
        let empty = Entry { slab: None, addr: 0, group: 0, mask: 0 };
        Self { entries: [empty; ENTRIES], waiting_bytes: 0, frees: 0 }
    }

    /// How many objects of other heaps were freed here so far.
    pub(crate) fn frees(&self) -> usize {
        self.frees
    }

    /// Adds an object that another heap owns. O(1); one atomic operation when an entry goes out.
    ///
    /// # Safety
    /// - `slab` is the slab of `addr` by the page metadata, and `index` its object there.
    pub(crate) unsafe fn add<const PAGE_SIZE: usize, L: RawLock>(
        &mut self,
        slab: NonNull<Slab>,
        index: ObjectIndex,
        addr: usize,
        env: &Env<'_, PAGE_SIZE, L>,
        faults: &mut FaultLog,
    ) -> Result<(), Misuse> {
        // SAFETY: the slab holds this object (condition), so its descriptor is alive.
        let (already_free, size_bytes) =
            unsafe { (Slab::is_free_hint(slab, index), Slab::object_size(slab)) };
        if already_free {
            return Err(Misuse::DoubleFree);
        }
        let group = index.group();
        let place = (slab.addr().get() >> 6).wrapping_add(group) % ENTRIES;
        let entry = &mut self.entries[place];
        if entry.slab == Some(slab) && entry.group == group {
            if entry.mask & index.mask() != 0 {
                return Err(Misuse::DoubleFree);
            }
            entry.mask |= index.mask();
        } else {
            if entry.slab.is_some() {
                publish(entry, env, faults);
            }
            *entry = Entry { slab: Some(slab), addr, group, mask: index.mask() };
        }
        self.waiting_bytes += size_bytes;
        self.frees = self.frees.wrapping_add(1);
        if self.waiting_bytes > MAX_WAITING_BYTES {
            self.flush(env, faults);
        }
        Ok(())
    }

    /// Publishes everything.
    pub(crate) fn flush<const PAGE_SIZE: usize, L: RawLock>(
        &mut self,
        env: &Env<'_, PAGE_SIZE, L>,
        faults: &mut FaultLog,
    ) {
        if self.waiting_bytes == 0 {
            return;
        }
        for entry in &mut self.entries {
            if entry.slab.is_some() {
                publish(entry, env, faults);
            }
        }
        self.waiting_bytes = 0;
    }
}

#[cold]
fn publish<const PAGE_SIZE: usize, L: RawLock>(
    entry: &mut Entry,
    env: &Env<'_, PAGE_SIZE, L>,
    faults: &mut FaultLog,
) {
    let Some(slab) = entry.slab.take() else { return };
    let found = env.core.lookup(entry.addr).and_then(PageRef::slab_descriptor);
    if found.is_none_or(|descriptor| descriptor.addr() != slab.addr()) {
        faults.note(entry.addr, Misuse::DoubleFree);
        return;
    }
    // SAFETY: the page metadata says that the slab is there; the objects of the mask were live
    // when they came in and are freed by nobody else (a double free aside, which the slab's own
    // words then show).
    unsafe { publish_to(slab, entry.group, entry.mask, env, faults) };
}

/// Publishes the objects `mask` of a group of `slab`, and queues the group if it was idle.
///
/// # Safety
/// - The slab is alive: at least one object of the mask has not been freed otherwise.
pub(crate) unsafe fn publish_to<const PAGE_SIZE: usize, L: RawLock>(
    slab: NonNull<Slab>,
    group: usize,
    mask: usize,
    env: &Env<'_, PAGE_SIZE, L>,
    faults: &mut FaultLog,
) {
    // SAFETY: alive until the bits are out (condition); afterwards it is only touched if this
    // caller has to push, and it cannot be released before that push.
    unsafe {
        let objects = Slab::objects(slab).addr();
        let size_bytes = Slab::object_size(slab);
        let outcome = Slab::publish_remote(slab, group, mask);
        if let Some(queued) = outcome.push {
            let owner = Slab::owner(slab);
            if let Some(inbox) = env.heaps.inbox_of(owner) {
                inbox.push(queued);
            }
        }
        let mut doubles = outcome.doubles;
        while doubles != 0 {
            let index = group * usize::BITS as usize + doubles.trailing_zeros() as usize;
            faults.note(objects + index * size_bytes, Misuse::DoubleFree);
            doubles &= doubles - 1;
        }
    }
}
