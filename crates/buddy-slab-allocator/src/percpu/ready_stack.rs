//! Where the next object of a class comes from: a short stack of groups in which objects are set
//! aside.
//!
//! At the bottom lies the *source*, a group of the class's current slab; it is never popped, and
//! used up object by object. Above it lie groups into which objects were just freed, one entry an
//! object, so that what was freed last is allocated next, wherever it lies, and a slab that is
//! in use as a whole does not go on the chain and off again for the sake of one object. (A
//! magazine in the sense of Bonwick and Adams, 2001, but of groups: the objects stay bits.)
//!
//! # Invariants
//! - R1: every entry above the source stands for an object that is set aside in its group, no two
//!   entries for the same one.

use core::ptr::NonNull;

use crate::slab::{Group, SizeClass};

/// Entries, the source among them: with `ClassSlabs`' other word, one cache line a class. Small
/// machines do without.
const ENTRIES: usize = if usize::BITS >= 64 { 6 } else { 1 };

/// How many bytes of one class may be set aside above the source.
const MAX_BYTES: usize = 32 << 10;

/// How many objects may be set aside above the source, by class.
const LIMITS: &[u8; SizeClass::COUNT] = &{
    let mut limits = [0; SizeClass::COUNT];
    let mut i = 0;
    while i < SizeClass::COUNT {
        let fit = MAX_BYTES / SizeClass::ALL[i].size();
        limits[i] = (if fit < ENTRIES - 1 { fit } else { ENTRIES - 1 }) as u8;
        i += 1;
    }
    limits
};

/// The stack of one class.
pub(super) struct ReadyStack {
    groups: [NonNull<Group>; ENTRIES],
    #[cfg(target_pointer_width = "64")]
    depth: usize,
}

impl ReadyStack {
    pub(super) const fn new() -> Self {
        Self {
            groups: [Group::empty(); ENTRIES],
            #[cfg(target_pointer_width = "64")]
            depth: 0,
        }
    }

    /// How many entries lie above the source.
    #[inline(always)]
    pub(super) fn depth(&self) -> usize {
        #[cfg(target_pointer_width = "64")]
        return self.depth;
        #[cfg(not(target_pointer_width = "64"))]
        return 0;
    }

    #[inline(always)]
    fn set_depth(&mut self, depth: usize) {
        #[cfg(target_pointer_width = "64")]
        {
            self.depth = depth;
        }
        #[cfg(not(target_pointer_width = "64"))]
        debug_assert!(depth == 0);
    }

    /// The group that the next object comes from. Only the source may have none set aside.
    #[inline(always)]
    pub(super) fn top(&self) -> NonNull<Group> {
        debug_assert!(self.depth() < ENTRIES);
        // SAFETY: `push` keeps the depth below the limit of a class, which is below `ENTRIES`.
        unsafe { *self.groups.get_unchecked(self.depth()) }
    }

    /// Takes the top entry off, after its object was taken; the source stays.
    #[inline(always)]
    pub(super) fn pop(&mut self) {
        self.set_depth(self.depth().saturating_sub(1));
    }

    /// Puts a group on top for an object that the caller sets aside in it; `false` if there are
    /// enough.
    #[inline(always)]
    pub(super) fn push(&mut self, class: SizeClass, group: NonNull<Group>) -> bool {
        let depth = self.depth();
        if depth >= usize::from(LIMITS[class.index()]) {
            return false;
        }
        // SAFETY: the limit is at most `ENTRIES - 1`.
        unsafe { *self.groups.get_unchecked_mut(depth + 1) = group };
        self.set_depth(depth + 1);
        true
    }

    /// The group at the bottom.
    #[inline(always)]
    pub(super) fn source(&self) -> NonNull<Group> {
        self.groups[0]
    }

    /// Sets the group at the bottom.
    #[inline(always)]
    pub(super) fn set_source(&mut self, group: NonNull<Group>) {
        self.groups[0] = group;
    }

    /// Takes the top entry off to give its object back; `None` if only the source is left.
    pub(super) fn take(&mut self) -> Option<NonNull<Group>> {
        let above = self.depth() > 0;
        let group = self.top();
        self.pop();
        above.then_some(group)
    }

    /// The entries above the source.
    pub(super) fn entries(&self) -> &[NonNull<Group>] {
        self.groups.get(1..=self.depth()).unwrap_or_default()
    }
}
