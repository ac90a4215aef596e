//! Remote frees of a slab: publishing them from any CPU, collecting them at the owner.
//!
//! The protocol stands in `groups`.

use core::ptr::NonNull;

use super::groups::RemoteGroup;
use super::layout::{LINE, line_offset};
use super::slab::{ObjectIndex, Slab};
use crate::sync::atomic::Ordering::Relaxed;

/// What publishing remote frees found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RemoteOutcome {
    /// Bits that were pending already: double frees.
    pub(crate) doubles: usize,
    /// The group that the caller must push on the owner's inbox now. Without it, the caller has
    /// no claim on the slab any more.
    pub(crate) push: Option<NonNull<RemoteGroup>>,
}

/// What collecting a group did to its slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Collected {
    /// How many objects became free.
    pub(crate) freed: usize,
    /// Bits of objects that were free already: double frees, left as they were.
    pub(crate) doubles: usize,
    /// No object was free before, and one is now.
    pub(crate) was_full: bool,
    /// Every object is free now (it may have been so before, after double frees).
    pub(crate) now_empty: bool,
}

impl Slab {
    /// Gives back the objects `mask` of a group, from a CPU that does not own the slab.
    ///
    /// # Complexity
    /// One atomic operation, whatever the number of objects. Never waits.
    ///
    /// # Safety
    /// - The slab is alive: the bits of `mask`, not zero, are indices of objects that were handed
    ///   out and that the caller gives back; the caller no longer uses them.
    /// - If the outcome has no `push`, the caller does not touch the slab afterwards. Otherwise it
    ///   pushes that group, once, on the inbox of [`Slab::owner`] as read now, and then stops.
    #[inline]
    pub(crate) unsafe fn publish_remote(
        slab: NonNull<Self>,
        group: usize,
        mask: usize,
    ) -> RemoteOutcome {
        // SAFETY: the objects are in use until the publish, so the slab is alive and the group
        // exists.
        let remote = unsafe { Self::remote_group(slab, group) };
        // SAFETY: as above. The reference is not used beyond the publish.
        let old = unsafe { remote.as_ref() }.publish(mask);
        RemoteOutcome { doubles: old & mask, push: (old == 0).then_some(remote) }
    }
}

/// The slab of a group.
///
/// # Safety
/// - The group is kept from being collected: the caller has taken it off an inbox, or must push
///   it.
#[inline]
pub(crate) unsafe fn slab_of(group: NonNull<RemoteGroup>) -> NonNull<Slab> {
    // SAFETY: a group that is not collected lies in a living descriptor, whose start is at the
    // line it lies in, less the distance that its tag names; the group's pointer was derived
    // from the descriptor's.
    unsafe {
        let within = group.addr().get() % LINE;
        group.byte_sub(within + line_offset(group.as_ref().tag())).cast::<Slab>()
    }
}

/// The index of a group within its slab.
///
/// # Safety
/// - As for [`slab_of`].
#[inline]
pub(crate) unsafe fn group_index(group: NonNull<RemoteGroup>) -> usize {
    // SAFETY: passed on.
    unsafe { Slab::index_of_group(slab_of(group), group) }
}

/// Makes the pending objects of a group free.
///
/// # Safety
/// - The caller owns the group's slab, and has taken the group off its own inbox just before.
#[inline]
pub(crate) unsafe fn collect(group: NonNull<RemoteGroup>) -> Collected {
    // SAFETY: the group was queued, so its slab lives, and is the caller's. Bits that are not
    // free are objects in use.
    unsafe {
        let slab = slab_of(group);
        let index = Slab::index_of_group(slab, group);
        let bits = group.as_ref().take();
        let free = (*Slab::free_word(slab, index)).load(Relaxed);
        let (doubles, returned) = (bits & free, bits & !free);
        let was_full = returned != 0 && Slab::is_full(slab);
        Slab::free_bits(slab, index, returned);
        Collected {
            freed: returned.count_ones() as usize,
            doubles,
            was_full,
            now_empty: Slab::is_empty(slab),
        }
    }
}

/// Takes one pending object of a group out for use, without making it free: for a CPU that is not
/// the owner. `true` if the group must be pushed on the owner's inbox again.
///
/// # Safety
/// - The caller has taken the group off an inbox, and pushes it if told so; otherwise it does not
///   touch the slab's groups any more.
pub(crate) unsafe fn take_one(group: NonNull<RemoteGroup>) -> (Option<NonNull<u8>>, bool) {
    // SAFETY: the group was queued, so its slab lives; the object that is taken keeps it alive.
    unsafe {
        let slab = slab_of(group);
        let number = Slab::index_of_group(slab, group);
        let bits = group.as_ref().take();
        if bits == 0 {
            return (None, false);
        }
        let object = Slab::object_ptr(slab, ObjectIndex::new(number, bits.trailing_zeros()));
        let rest = bits & (bits - 1);
        (Some(object), rest != 0 && group.as_ref().publish(rest) == 0)
    }
}
