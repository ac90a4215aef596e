//! A group: a machine word's worth of the objects of a slab, as the slab's owner sees them.
//!
//! A bit of `free` is set while its object is free; nothing else is recorded. An allocation clears
//! the lowest bit, a free sets one, and a bit that is set already is a double free: none goes
//! unseen, and no free object is ever touched.
//!
//! Groups of which something is free stand in a queue, which their owner keeps for each size class
//! (`percpu::free_groups`); full ones do not. The links lie in the group: it is at hand when they
//! are needed, and a heap needs two words a class, however many slabs it has.
//!
//! # Invariants
//! - G1: bits of `free` beyond the group's objects are clear.
//! - G2: only the slab's owner writes a group; others read `free` for a hint.

use core::hint::cold_path;
use core::ptr::NonNull;

use super::layout::{At, GROUP_ALIGN, GROUP_BYTES};
use super::object_index::ObjectIndex;
use super::size_class::SizeClass;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What became of a free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupFree {
    /// The object is free; nothing else is to be done.
    Done,
    /// The object is free, and with it all of this group, which is not the first of its queue: its slab
    /// may be empty. It is the object's, or the one in which a run of frees came to its end.
    Idle(NonNull<Group>),
    /// The object is free, and the last free went to its group too, this one.
    Again(NonNull<Group>),
    /// Nothing happened: the object is not in use, or more has to be done than this path does.
    Refused,
}

/// The owner's part of a group. Reached through pointers with the descriptor's provenance.
#[cfg_attr(target_pointer_width = "64", repr(C, align(32)))]
#[cfg_attr(not(target_pointer_width = "64"), repr(C))]
pub(crate) struct Group {
    free: AtomicUsize,
    /// The queue's links; `prev` of the first one leads to the last.
    next: NonNull<Group>,
    prev: NonNull<Group>,
    /// How far the first object is from here, in steps of [`GROUP_ALIGN`].
    base: i32,
    /// Where the group lies in its descriptor, in steps of [`GROUP_ALIGN`].
    at: At,
    /// How many objects there are, at most the bits of a word.
    count: u8,
    size: Size,
}

/// Bytes of an object.
#[cfg(target_pointer_width = "64")]
type Size = u16;
/// The class of the objects: the size itself has no room.
#[cfg(not(target_pointer_width = "64"))]
type Size = SizeClass;

const _: () = assert!(size_of::<Group>() == GROUP_BYTES && align_of::<Group>() == GROUP_ALIGN);

// SAFETY: shared are only `EMPTY` and `ELSEWHERE`, which nobody writes.
unsafe impl Sync for Group {}

/// A group without objects, for whoever has none: the end of every queue.
static EMPTY: Group = Group::of_no_slab(0);

/// A group in which nothing is in use: it refuses every free.
static ELSEWHERE: Group = Group::of_no_slab(usize::MAX);

/// What a group says of the size of its objects.
#[cfg(target_pointer_width = "64")]
const fn size_of_class(class: SizeClass) -> Size {
    class.size() as u16
}

/// What a group says of the size of its objects.
#[cfg(not(target_pointer_width = "64"))]
const fn size_of_class(class: SizeClass) -> Size {
    class
}

impl Group {
    /// A group to be looked at only.
    const fn of_no_slab(free: usize) -> Self {
        Self {
            free: AtomicUsize::new(free),
            next: Self::empty(),
            prev: Self::empty(),
            base: 0,
            at: 0,
            count: 0,
            size: size_of_class(SizeClass::Bytes8),
        }
    }

    /// The group that has no objects and belongs to no slab.
    #[inline(always)]
    pub(crate) const fn empty() -> NonNull<Self> {
        NonNull::from_ref(&EMPTY)
    }

    /// The group in which nothing is in use, and that belongs to no slab.
    #[inline(always)]
    pub(crate) const fn elsewhere() -> NonNull<Self> {
        NonNull::from_ref(&ELSEWHERE)
    }

    /// Writes a group of `count` objects, all of them free, in no queue. `false`, and nothing is
    /// written, if they are too far away.
    ///
    /// # Safety
    /// - `group` is aligned to [`GROUP_ALIGN`] and valid for writes of a group; it lies `at` bytes
    ///   into its descriptor, a multiple of that. `base` is as well aligned.
    pub(super) unsafe fn format(
        group: NonNull<Self>,
        base: *mut u8,
        count: usize,
        class: SizeClass,
        at: usize,
    ) -> bool {
        debug_assert!(at.is_multiple_of(GROUP_ALIGN) && at / GROUP_ALIGN <= At::MAX as usize);
        let distance = base.addr().wrapping_sub(group.addr().get()) as isize;
        debug_assert!(distance % GROUP_ALIGN as isize == 0);
        let Ok(distance) = i32::try_from(distance / GROUP_ALIGN as isize) else { return false };
        // SAFETY: the condition.
        unsafe {
            group.write(Self {
                free: AtomicUsize::new(Self::bits(count)),
                next: Self::empty(),
                prev: Self::empty(),
                base: distance,
                at: (at / GROUP_ALIGN) as At,
                count: count as u8,
                size: size_of_class(class),
            });
        }
        true
    }

    /// Bytes of an object.
    ///
    /// # Safety
    /// - The slab is alive.
    #[inline(always)]
    unsafe fn size(group: NonNull<Self>) -> u32 {
        // SAFETY: alive (condition); the field never changes.
        let size = unsafe { (*group.as_ptr()).size };
        #[cfg(target_pointer_width = "64")]
        return u32::from(size);
        #[cfg(not(target_pointer_width = "64"))]
        return size.size() as u32;
    }

    /// The bits of `count` objects.
    #[inline(always)]
    const fn bits(count: usize) -> usize {
        if count == 0 { 0 } else { usize::MAX >> (usize::BITS as usize - count) }
    }

    /// The first object.
    ///
    /// # Safety
    /// - The slab is alive.
    #[inline(always)]
    unsafe fn base(group: NonNull<Self>) -> *mut u8 {
        // SAFETY: alive (condition).
        let distance = unsafe { (*group.as_ptr()).base } as isize * GROUP_ALIGN as isize;
        group.as_ptr().cast::<u8>().wrapping_byte_offset(distance)
    }

    /// The free objects.
    ///
    /// # Safety
    /// - The slab is kept alive. Exact for the owner.
    #[inline(always)]
    pub(crate) unsafe fn free_bits(group: NonNull<Self>) -> usize {
        // SAFETY: alive, and the word is atomic.
        unsafe { (*group.as_ptr()).free.load(Relaxed) }
    }

    /// The objects in use, and those whose remote free waits.
    ///
    /// # Safety
    /// - The slab is kept alive. Exact for the owner.
    #[inline]
    pub(crate) unsafe fn in_use(group: NonNull<Self>) -> usize {
        // SAFETY: alive (condition); the count never changes.
        unsafe { Self::all(group) & !Self::free_bits(group) }
    }

    /// The bits of all its objects.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline]
    pub(crate) unsafe fn all(group: NonNull<Self>) -> usize {
        // SAFETY: alive (condition); the count never changes.
        Self::bits(unsafe { usize::from((*group.as_ptr()).count) })
    }

    /// Whether every object is free.
    ///
    /// # Safety
    /// - The slab is kept alive. Exact for the owner.
    #[inline(always)]
    pub(crate) unsafe fn is_idle(group: NonNull<Self>) -> bool {
        // SAFETY: passed on.
        unsafe { Self::is_idle_with(group, Self::free_bits(group)) }
    }

    /// [`is_idle`](Self::is_idle) of a group in which `free` is free.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(crate) unsafe fn is_idle_with(group: NonNull<Self>, free: usize) -> bool {
        // Most that are not have a gap.
        if free & free.wrapping_add(1) != 0 {
            return false;
        }
        cold_path();
        // Then it is all of them if the last one is. (A group has one at least.)
        // SAFETY: alive (condition); the count never changes.
        let last = unsafe { (*group.as_ptr()).count }.wrapping_sub(1);
        free.wrapping_shr(u32::from(last)) & 1 != 0
    }

    /// Takes the lowest free object. Also says whether it was the last one; the group is to be
    /// taken off its queue then. `None` if none is free.
    ///
    /// # Safety
    /// - The caller owns the group's slab; or the group is the empty one.
    #[inline(always)]
    pub(crate) unsafe fn alloc(group: NonNull<Self>) -> Option<(NonNull<u8>, bool)> {
        // SAFETY: alive and ours (condition); a bit of `free` names an object of the slab, so the
        // address lies within the objects, whose base is not null. The empty group is only read.
        unsafe {
            let this = group.as_ptr();
            let free = (*this).free.load(Relaxed);
            if free == 0 {
                return None;
            }
            let rest = free & (free - 1);
            (*this).free.store(rest, Relaxed);
            let offset = free.trailing_zeros().wrapping_mul(Self::size(group));
            let object = Self::base(group).wrapping_byte_add(offset as usize);
            Some((NonNull::new_unchecked(object), rest == 0))
        }
    }

    /// Gives an object back; says what was free before, and what is now. `None` if the object is not
    /// in use, or none of the group's. The caller sees to the queue.
    ///
    /// # Safety
    /// - The caller owns the group's slab; or the group is the empty one.
    #[inline(always)]
    pub(crate) unsafe fn free(group: NonNull<Self>, index: ObjectIndex) -> Option<(usize, usize)> {
        // SAFETY: ours (condition); the empty group has no objects.
        unsafe {
            if index.bit() as u8 >= (*group.as_ptr()).count {
                cold_path();
                return None;
            }
            let before = Self::free_bits(group);
            let free = before | index.mask();
            if free == before {
                cold_path();
                return None;
            }
            (*group.as_ptr()).free.store(free, Relaxed);
            Some((before, free))
        }
    }

    /// Gives several objects back, of which none is free; says what was free before.
    ///
    /// # Safety
    /// - The caller owns the group's slab; `bits` are objects in use.
    #[inline]
    pub(super) unsafe fn free_many(group: NonNull<Self>, bits: usize) -> usize {
        // SAFETY: ours (condition).
        unsafe {
            let free = Self::free_bits(group);
            debug_assert!(bits & !Self::in_use(group) == 0);
            (*group.as_ptr()).free.store(free | bits, Relaxed);
            free
        }
    }

    /// [`free`](Self::free) of what is known to be one of the group's objects, into a group in a
    /// queue; `false`, and nothing happened, if it is free already.
    ///
    /// # Safety
    /// - The caller owns the group's slab, and `index` is that of one of its objects; or the group is
    ///   the one in which nothing is in use.
    #[inline(always)]
    pub(crate) unsafe fn free_known(group: NonNull<Self>, index: ObjectIndex) -> bool {
        // SAFETY: ours (condition).
        unsafe {
            let free = Self::free_bits(group);
            if free & index.mask() != 0 {
                cold_path();
                return false;
            }
            (*group.as_ptr()).free.store(free | index.mask(), Relaxed);
        }
        true
    }

    /// The address of the first object, and the bytes of all of them.
    ///
    /// # Safety
    /// - The slab is alive.
    #[inline]
    pub(crate) unsafe fn extent(group: NonNull<Self>) -> (usize, usize) {
        // SAFETY: alive (condition).
        unsafe {
            let count = usize::from((*group.as_ptr()).count);
            (Self::base(group).addr(), count * Self::size(group) as usize)
        }
    }

    /// The group behind this one in its queue; the empty one behind the last.
    ///
    /// # Safety
    /// - The caller owns the group's slab; the group is in a queue.
    #[inline(always)]
    pub(crate) unsafe fn next(group: NonNull<Self>) -> NonNull<Self> {
        // SAFETY: ours (condition).
        unsafe { (*group.as_ptr()).next }
    }

    /// The group before this one in its queue; the last one before the first.
    ///
    /// # Safety
    /// - As for [`next`](Self::next).
    #[inline]
    pub(crate) unsafe fn prev(group: NonNull<Self>) -> NonNull<Self> {
        // SAFETY: ours (condition).
        unsafe { (*group.as_ptr()).prev }
    }

    /// Sets the link to the next group.
    ///
    /// # Safety
    /// - The caller owns the group's slab.
    #[inline(always)]
    pub(crate) unsafe fn set_next(group: NonNull<Self>, next: NonNull<Self>) {
        // SAFETY: ours (condition).
        unsafe { (*group.as_ptr()).next = next }
    }

    /// Sets the link to the previous group.
    ///
    /// # Safety
    /// - The caller owns the group's slab.
    #[inline(always)]
    pub(crate) unsafe fn set_prev(group: NonNull<Self>, prev: NonNull<Self>) {
        // SAFETY: ours (condition).
        unsafe { (*group.as_ptr()).prev = prev }
    }

    /// Where the group lies in its descriptor, in bytes.
    ///
    /// # Safety
    /// - The slab is kept alive.
    #[inline(always)]
    pub(super) unsafe fn offset(group: NonNull<Self>) -> usize {
        // SAFETY: alive (condition); the field never changes.
        usize::from(unsafe { (*group.as_ptr()).at }) * GROUP_ALIGN
    }
}
