//! What can be asked of a slab besides allocating and freeing: its fields, its list links, its
//! live objects, its check.

use core::ptr::NonNull;

use super::group::Group;
use super::layout::GROUP_OBJECTS;
use super::object_index::ObjectIndex;
use super::size_class::SizeClass;
use super::slab::{Slab, SlabPlace};
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Every function wants a slab that is formatted and not released; those that say *owner* are
/// for its owner only.
impl Slab {
    /// Which heap owns the slab.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn owner(slab: NonNull<Self>) -> u16 {
        // SAFETY: alive; the field never changes.
        unsafe { (*slab.as_ptr()).owner }
    }

    /// The size class of the objects.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn class(slab: NonNull<Self>) -> SizeClass {
        // SAFETY: alive; the field never changes.
        unsafe { (*slab.as_ptr()).class }
    }

    /// The size of the objects, in bytes.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn object_size(slab: NonNull<Self>) -> usize {
        // SAFETY: passed on.
        unsafe { Self::class(slab) }.size()
    }

    /// How many objects the slab holds, used or free.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn object_count(slab: NonNull<Self>) -> usize {
        // SAFETY: alive; the field never changes.
        unsafe { usize::from((*slab.as_ptr()).object_count) }
    }

    /// How many groups the slab has; the last ones may be without objects.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline]
    pub(crate) unsafe fn group_count(slab: NonNull<Self>) -> usize {
        // SAFETY: passed on.
        unsafe { Self::object_count(slab) }.div_ceil(GROUP_OBJECTS)
    }

    /// The slab of a group.
    ///
    /// # Safety
    /// - The group is not the empty one, and its slab is kept alive.
    #[inline]
    pub(crate) unsafe fn of_group(group: NonNull<Group>) -> NonNull<Self> {
        // SAFETY: the group lies so far into its descriptor, from whose pointer its own was
        // derived.
        unsafe { group.byte_sub(Group::offset(group)).cast() }
    }

    /// Whether the group is one of this slab's.
    ///
    /// # Safety
    /// - The slab is kept alive. (The group need not be.)
    pub(crate) unsafe fn has_group(slab: NonNull<Self>, group: NonNull<Group>) -> bool {
        // SAFETY: passed on; the field never changes.
        let groups_at = unsafe { usize::from((*slab.as_ptr()).groups_at) };
        let first = slab.addr().get() + groups_at;
        // SAFETY: passed on.
        let bytes = unsafe { Self::group_count(slab) } * size_of::<Group>();
        group.addr().get().wrapping_sub(first) < bytes
    }

    /// Objects in use, counting those whose remote free waits to be collected. A snapshot unless
    /// the caller is the owner. O(groups).
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[cfg(test)]
    pub(crate) unsafe fn used(slab: NonNull<Self>) -> usize {
        // SAFETY: passed on; the groups are those that exist.
        unsafe { Self::groups(slab).map(|group| Group::in_use(group).count_ones() as usize).sum() }
    }

    /// Whether no object is free locally. O(groups).
    ///
    /// # Safety
    /// - The slab is kept alive.
    pub(crate) unsafe fn is_full(slab: NonNull<Self>) -> bool {
        // SAFETY: passed on; the groups are those that exist.
        unsafe { Self::groups(slab).all(|group| Group::free_bits(group) == 0) }
    }

    /// Whether every object is free. O(groups).
    ///
    /// # Safety
    /// - The slab is kept alive.
    pub(crate) unsafe fn is_empty(slab: NonNull<Self>) -> bool {
        // SAFETY: passed on; the groups are those that exist.
        unsafe { Self::groups(slab).all(|group| Group::is_idle(group)) }
    }

    /// Whether the slab may be released: every object is free and no remote bit is pending. The
    /// second can fail alone only after a double free, or one of what is no object. O(groups).
    ///
    /// # Safety
    /// - The caller is the owner.
    pub(crate) unsafe fn quiescent(slab: NonNull<Self>) -> bool {
        // SAFETY: passed on; the groups are those that exist.
        unsafe { Self::is_empty(slab) && Self::all_pending(slab, |_| 0) }
    }

    /// Whether in each remote word, also where there is no object, those bits wait that are
    /// `wanted` of its group.
    ///
    /// # Safety
    /// - The slab is kept alive.
    unsafe fn all_pending(slab: NonNull<Self>, wanted: impl Fn(NonNull<Group>) -> usize) -> bool {
        // SAFETY: alive, and the words are atomic; the field never changes, and says how many
        // words and groups exist.
        unsafe {
            (0..usize::from((*slab.as_ptr()).words)).all(|number| {
                let pending = Self::remote_word(slab, number).as_ref().pending();
                pending == wanted(Self::group(slab, number))
            })
        }
    }

    /// Where the pages lie.
    ///
    /// # Safety
    /// - The slab is kept alive.
    pub(crate) unsafe fn place(slab: NonNull<Self>) -> SlabPlace {
        let this = slab.as_ptr();
        // SAFETY: alive; the fields never change.
        unsafe {
            SlabPlace {
                section: (*this).section,
                pfn: (*this).pfn,
                page_count: (*this).page_count,
                in_band: (*this).in_band,
            }
        }
    }

    /// The first object.
    ///
    /// # Safety
    /// - The slab is kept alive.
    pub(crate) unsafe fn objects(slab: NonNull<Self>) -> *mut u8 {
        // SAFETY: alive; the field never changes.
        unsafe { (*slab.as_ptr()).objects }
    }

    /// The object at an index.
    ///
    /// # Safety
    /// - The slab is kept alive; `index` is below the object count.
    #[inline]
    pub(crate) unsafe fn object_ptr(slab: NonNull<Self>, index: ObjectIndex) -> NonNull<u8> {
        // SAFETY: the object lies within the slab's objects, whose base is not null.
        unsafe {
            let offset = index.get() * Self::object_size(slab);
            NonNull::new_unchecked(Self::objects(slab).byte_add(offset))
        }
    }

    /// The owner's tag: which list the slab is on. 0 after `format`; its meaning is the owner's.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn state(slab: NonNull<Self>) -> u8 {
        // SAFETY: alive, and the field is atomic.
        unsafe { (*slab.as_ptr()).state.load(Relaxed) }
    }

    /// Sets the owner's tag. Whoever sees it by [`all_freed`](Self::all_freed) also sees what the
    /// owner did before.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(crate) unsafe fn set_state(slab: NonNull<Self>, state: u8) {
        // SAFETY: alive, and the field is atomic.
        unsafe { (*slab.as_ptr()).state.store(state, Release) }
    }

    /// Whether every object waits in the remote words, and the owner's tag is not `state`; the owner
    /// then has nothing to do with the slab but to collect it: each object was handed out after the
    /// owner's last look at its group, and published after that.
    ///
    /// # Safety
    /// - The slab is kept alive.
    pub(crate) unsafe fn all_freed(slab: NonNull<Self>, state: u8) -> bool {
        // SAFETY: alive, and the words are atomic; the groups are those that exist.
        unsafe {
            if (*slab.as_ptr()).state.load(Acquire) == state {
                return false;
            }
            // (What is no object may have been freed too: a count would take it for one.) Full as
            // well, or a double free is pending.
            Self::all_pending(slab, |group| Group::all(group)) && Self::is_full(slab)
        }
    }

    /// Takes every object out of the remote words, for good.
    ///
    /// # Safety
    /// - [`all_freed`](Self::all_freed) said so, and the caller has taken all groups off an inbox.
    pub(crate) unsafe fn take_all_freed(slab: NonNull<Self>) {
        // SAFETY: alive while its groups are not collected; the groups are those that exist.
        unsafe {
            for group in 0..Self::group_count(slab) {
                Self::remote_word(slab, group).as_ref().take();
            }
        }
    }

    /// Whether the object looks free at this moment: a bit of it is set, locally or remotely.
    /// For early detection of double frees; certain only at rest.
    ///
    /// # Safety
    /// - The slab is kept alive; `index` is below the object count.
    #[inline]
    pub(crate) unsafe fn is_free_hint(slab: NonNull<Self>, index: ObjectIndex) -> bool {
        // SAFETY: the index is within the slab, so its group exists; both words are atomic.
        unsafe {
            let in_use = Group::in_use(Self::group(slab, index.group()));
            let remote = Self::remote_word(slab, index.group()).as_ref().pending();
            in_use & !remote & index.mask() == 0
        }
    }

    /// Whether the object is handed out. Exact for the owner while no remote free is under way.
    ///
    /// # Safety
    /// - The slab is kept alive; `index` is below the object count.
    #[cfg(test)]
    pub(crate) unsafe fn is_live(slab: NonNull<Self>, index: ObjectIndex) -> bool {
        // SAFETY: passed on.
        unsafe { !Self::is_free_hint(slab, index) }
    }

    /// Calls `visit` with every live object, in ascending order.
    ///
    /// # Safety
    /// - The caller is the owner, and `visit` neither allocates from nor frees into the slab.
    #[cfg(test)]
    pub(crate) unsafe fn live_objects(slab: NonNull<Self>, mut visit: impl FnMut(ObjectIndex)) {
        // SAFETY: passed on; the indices are below the object count.
        unsafe {
            for index in 0..Self::object_count(slab) {
                let index = ObjectIndex::new(0, index as u32);
                if Self::is_live(slab, index) {
                    visit(index);
                }
            }
        }
    }

    /// Checks, of every group, G1. O(groups); empty in a release build.
    ///
    /// # Safety
    /// - The caller is the owner.
    pub(crate) unsafe fn check(slab: NonNull<Self>) {
        if !cfg!(any(test, debug_assertions)) {
            return;
        }
        // SAFETY: the owner reads its words; the groups are those that exist.
        unsafe {
            let mut count = 0;
            for group in Self::groups(slab) {
                let all = Group::all(group);
                assert_eq!(Group::free_bits(group) & !all, 0, "G1: a bit beyond the objects");
                assert_eq!(Self::of_group(group), slab, "a group finds its slab");
                count += all.count_ones() as usize;
            }
            assert_eq!(count, Self::object_count(slab), "the groups have all objects");
        }
    }

    /// The list links: next, previous.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(super) unsafe fn links(slab: NonNull<Self>) -> (*mut Self, *mut Self) {
        // SAFETY: the links are the owner's.
        unsafe { ((*slab.as_ptr()).next, (*slab.as_ptr()).prev) }
    }

    /// Sets both list links.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(super) unsafe fn set_links(slab: NonNull<Self>, next: *mut Self, prev: *mut Self) {
        // SAFETY: the links are the owner's.
        unsafe {
            (*slab.as_ptr()).next = next;
            (*slab.as_ptr()).prev = prev;
        }
    }

    /// Sets the link to the next slab.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(super) unsafe fn set_next(slab: NonNull<Self>, next: *mut Self) {
        // SAFETY: the links are the owner's.
        unsafe { (*slab.as_ptr()).next = next }
    }

    /// Sets the link to the previous slab.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline]
    pub(super) unsafe fn set_prev(slab: NonNull<Self>, prev: *mut Self) {
        // SAFETY: the links are the owner's.
        unsafe { (*slab.as_ptr()).prev = prev }
    }
}
