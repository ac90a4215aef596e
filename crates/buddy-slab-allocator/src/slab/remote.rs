//! Remote frees of a slab: publishing them from any CPU, collecting them at the owner.
//!
//! The protocol stands in `remote_word`.

use core::ptr::NonNull;

use super::group::Group;
use super::layout::{LINE, line_offset};
use super::object_index::ObjectIndex;
use super::remote_word::{REMOTE_BYTES, RemoteWord};
use super::slab::Slab;

/// What publishing remote frees found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RemoteOutcome {
    /// Bits that were pending already: double frees.
    pub(crate) doubles: usize,
    /// The word that the caller must push on the owner's inbox now. Without it, the caller has
    /// no claim on the slab any more.
    pub(crate) push: Option<NonNull<RemoteWord>>,
}

/// What collecting a word did to its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Collected {
    /// The group.
    pub(crate) group: NonNull<Group>,
    /// The objects that became free.
    pub(crate) freed: usize,
    /// Those that were free already: double frees, left as they were.
    pub(crate) doubles: usize,
    /// Nothing of the group was free before; now something is.
    pub(crate) was_full: bool,
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
    ///   pushes that word, once, on the inbox of the slab's owner, and then stops.
    #[inline]
    pub(crate) unsafe fn publish_remote(
        slab: NonNull<Self>,
        number: usize,
        mask: usize,
    ) -> RemoteOutcome {
        // SAFETY: the objects are in use until the publish, so the slab is alive and the group
        // exists; the other conditions are the callee's.
        unsafe { publish_at(Self::group(slab, 0), number, mask) }
    }
}

impl RemoteWord {
    /// The remote word of a group, from the first group of its slab: they lie before it, the
    /// first one last, so that nothing else of the descriptor has to be read.
    ///
    /// # Safety
    /// - `number` is below the group count of the slab to which `groups` belongs.
    #[inline(always)]
    pub(super) unsafe fn of_group(groups: NonNull<Group>, number: usize) -> NonNull<Self> {
        // SAFETY: within the descriptor (condition), from whose pointer this one was derived.
        unsafe { groups.cast::<Self>().sub(number + 1) }
    }
}

/// [`Slab::publish_remote`] for who knows the first group only. Reads and writes the remote word
/// alone.
///
/// # Safety
/// - As for `publish_remote`.
#[inline]
pub(crate) unsafe fn publish_at(
    groups: NonNull<Group>,
    number: usize,
    mask: usize,
) -> RemoteOutcome {
    // SAFETY: the objects are in use until the publish, so the slab is alive and the group exists.
    let remote = unsafe { RemoteWord::of_group(groups, number) };
    // SAFETY: as above. The reference is not used beyond the publish.
    let old = unsafe { remote.as_ref() }.publish(mask);
    RemoteOutcome { doubles: old & mask, push: (old == 0).then_some(remote) }
}

/// The slab of a remote word.
///
/// # Safety
/// - The word is kept from being collected: the caller has taken it off an inbox, or must push
///   it.
#[inline]
pub(crate) unsafe fn slab_of(word: NonNull<RemoteWord>) -> NonNull<Slab> {
    // SAFETY: a word that is not collected lies in a living descriptor, whose start is at the
    // line it lies in, less the distance that its tag names; the word's pointer was derived
    // from the descriptor's.
    unsafe {
        let within = word.addr().get() % LINE;
        word.byte_sub(within + line_offset(word.as_ref().tag())).cast::<Slab>()
    }
}

/// The number of a remote word's group within its slab.
///
/// # Safety
/// - As for [`slab_of`].
#[inline]
pub(crate) unsafe fn group_number(word: NonNull<RemoteWord>) -> usize {
    // SAFETY: passed on; the field never changes while the slab lives.
    unsafe {
        let slab = slab_of(word);
        let groups = slab.addr().get() + usize::from((*slab.as_ptr()).groups_at);
        (groups - word.addr().get()) / REMOTE_BYTES - 1
    }
}

/// Makes the pending objects of a group free. The caller sees to the group's list.
///
/// # Safety
/// - The caller owns the group's slab, and has taken the word off its own inbox just before.
#[inline]
pub(crate) unsafe fn collect(word: NonNull<RemoteWord>) -> Collected {
    // SAFETY: the word was queued, so its slab lives, and is the caller's, who may write its
    // groups. Bits that are in use become free.
    unsafe {
        let group = Slab::group(slab_of(word), group_number(word));
        let bits = word.as_ref().take();
        let freed = bits & Group::in_use(group);
        let before = Group::free_many(group, freed);
        Collected { group, freed, doubles: bits & !freed, was_full: before == 0 && freed != 0 }
    }
}

/// Takes one pending object of a group out for use, without making it free: for a CPU that is not
/// the owner. `true` if the word must be pushed on the owner's inbox again.
///
/// # Safety
/// - The caller has taken the word off an inbox, and pushes it if told so; otherwise it does not
///   touch the slab's remote words any more.
pub(crate) unsafe fn take_one(word: NonNull<RemoteWord>) -> (Option<NonNull<u8>>, bool) {
    // SAFETY: the word was queued, so its slab lives; the object that is taken keeps it alive.
    unsafe {
        let slab = slab_of(word);
        let number = group_number(word);
        let bits = word.as_ref().take();
        // What is free, or no object, was freed by mistake: its owner sees to that. (Whatever was
        // freed here was handed out before, which is seen with the bit.)
        let usable = bits & Group::in_use(Slab::group(slab, number));
        let rest = bits & !(usable & usable.wrapping_neg());
        let object = (usable != 0)
            .then(|| Slab::object_ptr(slab, ObjectIndex::new(number, usable.trailing_zeros())));
        (object, rest != 0 && word.as_ref().publish(rest) == 0)
    }
}
