//! Remote frees gathered by the freeing CPU before they are published.
//!
//! Objects of other CPUs' slabs are collected here by group (up to a word of objects that share
//! one remote word), in a small set-associative cache. A whole entry goes out by one `fetch_or`, so
//! a consumer that frees in the order of allocation, or in any order among as many groups as
//! there are entries, pays about one atomic operation per 64 objects. What waits here is bounded in
//! bytes; it goes out when its place is needed, on tick, idle, CPU offline and under pressure.
//! (Batched frees by slab: the idea is snmalloc's, whose batches are lists of objects; bits never
//! touch the object.)
//!
//! An unpublished object still counts as live in its slab, so the slab cannot go away, unless the
//! free was a double free: so an entry is checked against the page metadata once more before it
//! is published.

use core::hint::cold_path;
use core::ptr::NonNull;

use super::{Env, FaultLog};
use crate::slab::{self, GROUP_OBJECTS, Group, ObjectIndex, Slab, SlabLabel};
use crate::sync::RawLock;
use crate::units::Misuse;

/// Groups are gathered in sets, by a hash of their address, so many in each; fewer sets on 32 bits,
/// where memory may be small.
const WAYS: usize = 4;
const SETS: usize = if usize::BITS >= 64 { 8 } else { 1 };
const SET_BITS: u32 = SETS.trailing_zeros();

/// The number of no entry.
const NO_RUN: u8 = (SETS * WAYS) as u8;

/// How many bytes of other CPUs' objects may wait in one heap.
pub(crate) const MAX_WAITING_BYTES: usize = 256 << 10;

/// What waits of one group.
#[derive(Clone, Copy)]
struct Entry {
    /// Where the group lies, as the page metadata names its slab; 0 if nothing waits here.
    group: usize,
    /// One object of the entry, by which the slab is found again.
    addr: usize,
    mask: usize,
    /// Of one object.
    size_bytes: usize,
}

impl Entry {
    const NONE: Self = Self { group: 0, addr: 0, mask: 0, size_bytes: 0 };
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

impl RemoteObject {
    /// The address of its group.
    #[inline(always)]
    pub(super) fn group(&self) -> usize {
        group_at(self.groups, self.index)
    }
}

#[inline(always)]
fn group_at(groups: NonNull<Group>, index: ObjectIndex) -> usize {
    groups.addr().get().wrapping_add(index.group() * size_of::<Group>())
}

/// The remote frees that one heap has not published yet.
pub(crate) struct RemoteBatch {
    sets: [[Entry; WAYS]; SETS],
    /// At most [`MAX_WAITING_BYTES`].
    waiting_bytes: u32,
    /// How many objects were added so far.
    frees: usize,
    /// The entry that a run of frees goes on in (`free_run`); beyond all if that is over.
    run: u8,
}

impl RemoteBatch {
    pub(crate) const fn new() -> Self {
        Self { sets: [[Entry::NONE; WAYS]; SETS], waiting_bytes: 0, frees: 0, run: NO_RUN }
    }

    /// How many objects of other heaps were freed here so far.
    pub(crate) fn frees(&self) -> usize {
        self.frees
    }

    /// [`add`](Self::add) if that takes no more than a note; says in which entry. O(1).
    #[inline(always)]
    pub(super) fn add_fast(&mut self, object: RemoteObject) -> Option<u8> {
        let group = object.group();
        let set = Self::set_of(group);
        let way = self.sets[set].iter().position(|entry| entry.group == group)?;
        let number = (set * WAYS + way) as u8;
        self.add_to(number, object.index, object.size_bytes).then_some(number)
    }

    /// Begins a run of frees in an entry, instead of any other.
    #[inline]
    pub(super) fn begin_run(&mut self, number: u8) {
        self.run = number;
    }

    /// Adds an object of the group that the run is in; `false`, and nothing happened, if that is
    /// over, or the object waits there already. O(1).
    #[inline(always)]
    pub(super) fn add_in_run(&mut self, index: ObjectIndex, size_bytes: usize) -> bool {
        self.add_to(self.run, index, size_bytes)
    }

    #[inline(always)]
    fn add_to(&mut self, number: u8, index: ObjectIndex, size_bytes: usize) -> bool {
        let waiting_bytes = self.waiting_bytes + size_bytes as u32;
        let entries = self.sets.as_flattened_mut();
        let Some(entry) = entries.get_mut(usize::from(number)) else { return false };
        if entry.mask & index.mask() != 0 || waiting_bytes > MAX_WAITING_BYTES as u32 {
            return false;
        }
        entry.mask |= index.mask();
        self.waiting_bytes = waiting_bytes;
        self.frees = self.frees.wrapping_add(1);
        true
    }

    /// The set of a group. Descriptors lie in slots, at regular distances: the upper bits of a
    /// product depend on all of the address.
    #[inline(always)]
    fn set_of(group: usize) -> usize {
        if SETS == 1 {
            return 0;
        }
        let product = (group as u32).wrapping_mul(0x9E37_79B9);
        (product >> (u32::BITS - SET_BITS)) as usize
    }

    /// Adds an object that another heap owns, without a look at its slab: the next free of this
    /// slab's objects finds the same entry. O(1); one atomic operation when an entry goes out:
    /// the one of its set that has the most.
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
        let RemoteObject { index, addr, size_bytes, .. } = object;
        let group = object.group();
        let set = &mut self.sets[Self::set_of(group)];
        let fullness = |entry: &&mut Entry| match entry.group {
            at if at == group => u32::MAX,
            0 => u32::MAX - 1,
            _ => entry.mask.count_ones(),
        };
        let Some(entry) = set.iter_mut().max_by_key(fullness) else { return Ok(()) };
        if entry.group == group {
            if entry.mask & index.mask() != 0 {
                cold_path();
                return Err(Misuse::DoubleFree);
            }
            entry.mask |= index.mask();
        } else {
            self.run = NO_RUN;
            if entry.group != 0 {
                self.waiting_bytes -= entry.mask.count_ones() * entry.size_bytes as u32;
                publish(entry, env, faults);
            }
            *entry = Entry { group, addr, mask: index.mask(), size_bytes };
        }
        self.waiting_bytes += size_bytes as u32;
        self.frees = self.frees.wrapping_add(1);
        if self.waiting_bytes > MAX_WAITING_BYTES as u32 {
            cold_path();
            self.flush(env, faults);
        }
        Ok(())
    }

    /// Whether objects of this size wait in the entry of the run, if that is not over.
    pub(super) fn check_run(&self, size_bytes: usize) {
        if let Some(entry) = self.sets.as_flattened().get(usize::from(self.run)) {
            assert!(entry.group != 0 && entry.mask != 0, "U2: objects of the run wait");
            assert_eq!(entry.size_bytes, size_bytes, "U2: of the run's class");
        }
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
        self.run = NO_RUN;
        for entry in self.sets.as_flattened_mut() {
            if entry.group != 0 {
                publish(entry, env, faults);
            }
        }
        self.waiting_bytes = 0;
    }
}

/// Publishes an entry, which is free then. If its slab is gone (all that waited were double frees)
/// that is a fault, even if another slab has taken the place.
///
/// Reads nothing of the slab that its owner writes: the page metadata says where the remote word
/// lies, and whose it is.
#[inline(never)]
fn publish<const PAGE_SIZE: usize, L: RawLock>(
    entry: &mut Entry,
    env: &Env<'_, PAGE_SIZE, L>,
    faults: &mut FaultLog,
) {
    let Entry { group, addr, mask, size_bytes } = core::mem::replace(entry, Entry::NONE);
    let found = env.core.slab_at(addr).and_then(|mark| {
        // SAFETY: slabs are marked with labels.
        let label = unsafe { SlabLabel::from_raw(mark.label) };
        let index = label.object_at(addr, PAGE_SIZE)?;
        let groups = mark.descriptor.cast::<Group>();
        let same = group_at(groups, index) == group
            && label.class().size() == size_bytes
            && mask & index.mask() != 0;
        same.then_some((label, groups, index.group()))
    });
    let Some((label, groups, number)) = found else {
        faults.note(addr, Misuse::DoubleFree);
        return;
    };
    // SAFETY: the page metadata says that the slab is there; the objects of the mask were live
    // when they came in and are freed by nobody else (a double free aside, which the slab's own
    // words then show). The word is pushed if that is called for, and not touched afterwards.
    let outcome = unsafe {
        let outcome = slab::publish_at(groups, number, mask);
        if let Some(queued) = outcome.push
            && let Some(inbox) = env.heaps.inbox_of(label.owner())
        {
            inbox.push(queued);
        }
        outcome
    };
    // The object's place in its group, and with it that of the others.
    let first = |at: ObjectIndex| addr.wrapping_sub(at.get() * size_bytes);
    let mut doubles = outcome.doubles;
    while doubles != 0
        && let Some(at) = label.object_at(addr, PAGE_SIZE)
    {
        let index = number * GROUP_OBJECTS + doubles.trailing_zeros() as usize;
        faults.note(first(at).wrapping_add(index * size_bytes), Misuse::DoubleFree);
        doubles &= doubles - 1;
    }
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
