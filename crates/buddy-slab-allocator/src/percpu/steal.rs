//! What others freed of a *running* CPU's slabs, taken by a CPU that is out of memory: the owner
//! has not collected it, and may not for a long time.
//!
//! # Protocol
//! Groups taken off the owner's inbox are the taker's until it pushes them back (`slab::remote_word`),
//! so the owner cannot collect them meanwhile. An object that is taken out of a remote word was
//! never free from the owner's view: it simply changes its user. A slab all of whose objects wait
//! in its remote words, and all of whose groups the taker holds, is out of its owner's reach
//! altogether: nothing of it is free, so it is on no list, and the owner only comes back to it by
//! collecting. (The last thing that the owner did to each group was to hand out an object that was
//! published since.) What stays behind are slabs of which some object is still in use or was freed
//! by the owner itself, and the one of each class that the owner names *warm* (its state says so).

use core::ptr::NonNull;

use super::free_groups::WARM;
use super::{Env, Heap, Local};
use crate::slab::{self, Inbox, SizeClass, Slab};
use crate::sync::RawLock;

/// How many slabs are released at a time.
const BATCH: usize = 32;

#[derive(Clone, Copy)]
struct Held {
    slab: NonNull<Slab>,
    groups: usize,
}

/// Takes an object of `class` out of what waits in the inbox of a running CPU's heap, and releases
/// slabs that wait there as a whole, as long as there are any.
///
/// The caller is the only one that does so at a time, waits for locks, and holds no heap's. O(groups queued)
/// for every 32 slabs released.
pub(crate) fn steal<const PAGE_SIZE: usize, L: RawLock>(
    heap: &Heap<PAGE_SIZE, L>,
    class: Option<SizeClass>,
    env: &Env<'_, PAGE_SIZE, L>,
) -> Option<NonNull<u8>> {
    let object = class.and_then(|class| steal_object(heap.inbox(), class));
    while release_some(heap.inbox(), env) == BATCH {}
    object
}

fn steal_object(inbox: &Inbox, class: SizeClass) -> Option<NonNull<u8>> {
    let mut object = None;
    for group in inbox.take_all() {
        // SAFETY: taken off the inbox: the group is this caller's until it is pushed back, and
        // its slab lives.
        unsafe {
            let mut again = true;
            if object.is_none() && Slab::class(slab::slab_of(group)) == class {
                (object, again) = slab::take_one(group);
            }
            if again {
                inbox.push(group);
            }
        }
    }
    object
}

/// Releases up to a batch of slabs all of whose objects wait in the inbox; returns how many.
fn release_some<const PAGE_SIZE: usize, L: RawLock>(
    inbox: &Inbox,
    env: &Env<'_, PAGE_SIZE, L>,
) -> usize {
    if inbox.is_empty() {
        return 0;
    }
    let mut held: [Option<Held>; BATCH] = [None; BATCH];
    let taken = Inbox::new();
    for group in inbox.take_all() {
        // SAFETY: taken off the inbox, so its slab lives; passed on to a stack of ours.
        unsafe {
            let slab = slab::slab_of(group);
            let place = held.iter_mut().find(|place| place.is_none_or(|held| held.slab == slab));
            if let Some(place) = place
                && Slab::all_freed(slab, WARM)
            {
                let groups = place.map_or(0, |held| held.groups) + 1;
                *place = Some(Held { slab, groups });
            }
            taken.push(group);
        }
    }
    // SAFETY: the slabs live: their groups are on our stack.
    let whole = |held: &Held| unsafe { held.groups == Slab::group_count(held.slab) };
    for place in &mut held {
        *place = place.filter(whole);
    }
    for group in taken.take_all() {
        // SAFETY: as above. Groups of slabs that are ours as a whole are dropped; the others go
        // back to where they were.
        unsafe {
            let slab = slab::slab_of(group);
            if !held.iter().flatten().any(|held| held.slab == slab) {
                inbox.push(group);
            }
        }
    }
    let mut released = 0;
    for Held { slab, .. } in held.into_iter().flatten() {
        // SAFETY: every object of it was freed, and every group is ours: nobody else reaches it.
        unsafe {
            Slab::take_all_freed(slab);
            let done = Local::<PAGE_SIZE>::release(slab, env);
            debug_assert!(done, "a caller that may wait releases");
            released += usize::from(done);
        }
    }
    released
}
