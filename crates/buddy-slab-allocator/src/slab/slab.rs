//! One slab: its descriptor, and what its owner does with it.
//!
//! A descriptor records which objects are free in words of bits. Three parties touch it:
//! - the **owner** (one CPU's heap, under whatever keeps others out of that heap) allocates and
//!   frees with plain loads and stores of the words of a [`Group`];
//! - **any CPU that holds a live object** reads the fields of the header that never change after
//!   `format`;
//! - **remote freers** touch the remote words (see `remote_word`).
//!
//! `layout` puts the three on separate cache lines.
//!
//! # Invariants
//! - S1: `busy_groups` is the number of groups of which an object is taken. (`Slab::check`,
//!   O(groups); with G1 of `group`.)
//! - S2: the cursor is the number of a group; only that group has objects set aside.
//! - S3: a slab is released only when [`Slab::quiescent`]: nobody holds an object, no free is
//!   pending, and hence nobody is between publishing and pushing.
//!
//! An object whose remote free waits to be collected counts as in use.

use core::ptr::NonNull;

use super::class_table::objects_in;
use super::group::{Group, GroupFree};
use super::layout::{DescriptorLayout, GROUP_BYTES, GROUP_OBJECTS, HEADER_BYTES, LINE, line_tag};
use super::object_index::ObjectIndex;
use super::remote_word::{REMOTE_BYTES, RemoteWord};
use super::size_class::SizeClass;
use crate::sync::atomic::{AtomicU8, AtomicU16, Ordering::Relaxed};
use crate::units::Misuse;

/// Where a slab's pages lie. Kept for the layer that made the slab, which alone reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlabPlace {
    /// The section, or whatever stands for it.
    pub(crate) section: *mut u8,
    /// The first page.
    pub(crate) pfn: u32,
    /// How many pages.
    pub(crate) page_count: u16,
    /// Whether the descriptor lies within those pages.
    pub(crate) in_band: bool,
}

/// The header of a slab's descriptor. Reached only through `NonNull<Slab>` whose provenance spans
/// the whole descriptor.
#[cfg_attr(target_pointer_width = "64", repr(C, align(16)))]
#[cfg_attr(not(target_pointer_width = "64"), repr(C, align(8)))]
pub(crate) struct Slab {
    // Constant after `format`, except the list links.
    pub(super) objects: *mut u8,
    pub(super) next: *mut Slab,
    pub(super) prev: *mut Slab,
    pub(super) section: *mut u8,
    pub(super) pfn: u32,
    pub(super) object_count: u16,
    pub(super) page_count: u16,
    pub(super) owner: u16,
    pub(super) groups_at: u16,
    // The owner's.
    pub(super) busy_groups: AtomicU16,
    pub(super) cursor: AtomicU16,
    pub(super) state: AtomicU8,
    pub(super) class: SizeClass,
    pub(super) in_band: bool,
}

const _: () = assert!(size_of::<Slab>() <= HEADER_BYTES && align_of::<Slab>() <= LINE);

/// Every function wants, besides what it lists, a slab that is formatted and not released: an
/// owner, a holder of one of its objects, and a pusher of one of its groups can rely on that.
impl Slab {
    /// What descriptors must be aligned to.
    pub(crate) const ALIGN: usize = LINE;

    /// The largest descriptor for this page size, in bytes: a multiple of [`ALIGN`](Self::ALIGN).
    pub(crate) const fn descriptor_bytes(page_size: usize) -> usize {
        DescriptorLayout::largest(page_size).bytes
    }

    /// Makes a slab: every object free, on no list, state 0. `None` if not one object fits.
    ///
    /// # Safety
    /// - `at` is aligned to [`ALIGN`](Self::ALIGN) and valid for writes of as many bytes as a
    ///   descriptor of `places` objects takes ([`descriptor_bytes`](Self::descriptor_bytes) at
    ///   most); what it holds does not matter. The caller owns it.
    /// - `objects` is not null, aligned to the class's natural alignment (or to the page, if the
    ///   class promises no more), and `object_bytes` bytes from it are the caller's and outside
    ///   the descriptor.
    pub(crate) unsafe fn format(
        at: *mut u8,
        objects: *mut u8,
        object_bytes: usize,
        class: SizeClass,
        page_size: usize,
        owner: u16,
        place: SlabPlace,
    ) -> Option<NonNull<Self>> {
        let object_count = objects_in(object_bytes, class.size(), page_size);
        if object_count == 0 {
            return None;
        }
        // Every address in the slab's pages has a group, whether or not an object begins there.
        let end = if place.in_band { usize::from(place.page_count) * page_size } else { 0 };
        let places = end.max(object_bytes).div_ceil(class.size());
        let layout = DescriptorLayout::new(places, page_size);
        let slab = NonNull::new(at.cast::<Self>())?;
        // SAFETY: the descriptor is the caller's, large enough for the layout, and aligned; all
        // its parts are written before anyone else learns of it, and none is read before.
        unsafe {
            slab.write(Self {
                objects,
                next: core::ptr::null_mut(),
                prev: core::ptr::null_mut(),
                section: place.section,
                pfn: place.pfn,
                object_count: object_count as u16,
                page_count: place.page_count,
                owner,
                groups_at: layout.groups_at as u16,
                busy_groups: AtomicU16::new(0),
                cursor: AtomicU16::new(0),
                state: AtomicU8::new(0),
                class,
                in_band: place.in_band,
            });
            for number in 0..layout.group_count {
                let offset = layout.groups_at - (number + 1) * REMOTE_BYTES;
                let remote = at.byte_add(offset).cast::<RemoteWord>();
                remote.write(RemoteWord::new(line_tag(offset)));
                let offset = layout.groups_at + number * GROUP_BYTES;
                let base = objects.wrapping_byte_add(number * GROUP_OBJECTS * class.size());
                at.byte_add(offset).cast::<Group>().write(Group::new(base, class, offset));
            }
        }
        Some(slab)
    }

    /// Takes a free object: from the cursor's group, or from the next one that has any. `None` if
    /// none is free locally.
    ///
    /// # Complexity
    /// O(1), or O(groups) when the group is used up.
    ///
    /// # Safety
    /// - The caller is the owner, and the slab is not sealed.
    #[inline]
    pub(crate) unsafe fn alloc(slab: NonNull<Self>) -> Option<NonNull<u8>> {
        // SAFETY: passed on; the cursor is the number of a group (S2).
        unsafe {
            let cursor = usize::from((*slab.as_ptr()).cursor.load(Relaxed));
            if let Some(object) = Group::alloc(Self::group(slab, cursor)) {
                return Some(object);
            }
            Self::refill(slab).map(|(object, _)| object)
        }
    }

    /// Sets aside what is free in the next group that has any, the cursor's first, and hands out
    /// one of it. `None` if no object is free.
    ///
    /// # Complexity
    /// O(groups): at most eight up to 4 KiB pages (64-bit).
    ///
    /// # Safety
    /// - The caller is the owner, the slab is not sealed, and the cursor's group has nothing set
    ///   aside.
    #[inline(never)]
    pub(crate) unsafe fn refill(slab: NonNull<Self>) -> Option<(NonNull<u8>, NonNull<Group>)> {
        // SAFETY: the owner reads and writes the words of the groups that exist.
        unsafe {
            let this = slab.as_ptr();
            let count = Self::group_count(slab);
            let mut number = usize::from((*this).cursor.load(Relaxed));
            for _ in 0..count {
                let group = Self::group(slab, number);
                let words = group.as_ptr();
                let taken = (*words).taken.load(Relaxed);
                let free = !taken & Self::valid_bits(slab, number);
                if free != 0 {
                    if taken == 0 {
                        let busy = &(*this).busy_groups;
                        busy.store(busy.load(Relaxed).wrapping_add(1), Relaxed);
                    }
                    (*words).taken.store(taken | free, Relaxed);
                    (*this).cursor.store(number as u16, Relaxed);
                    return Some((Group::hand_out(group, free), group));
                }
                number = if number + 1 == count { 0 } else { number + 1 };
            }
        }
        None
    }

    /// Takes back what is set aside: for a slab that is no longer allocated from.
    ///
    /// # Safety
    /// - The caller is the owner, and the slab is not sealed.
    pub(crate) unsafe fn put_back(slab: NonNull<Self>) {
        // SAFETY: the owner's words; only the cursor's group has objects set aside (S2).
        unsafe {
            let cursor = usize::from((*slab.as_ptr()).cursor.load(Relaxed));
            let words = Self::group(slab, cursor).as_ptr();
            let ready = (*words).ready.load(Relaxed);
            if ready != 0 {
                let taken = (*words).taken.load(Relaxed) & !ready;
                (*words).ready.store(0, Relaxed);
                (*words).taken.store(taken, Relaxed);
                if taken == 0 {
                    Self::group_emptied(slab);
                }
            }
        }
    }

    /// Records that nothing of a group is taken any more; `true` if that empties the slab.
    ///
    /// # Safety
    /// - The caller is the owner, and just emptied a group.
    pub(crate) unsafe fn group_emptied(slab: NonNull<Self>) -> bool {
        // SAFETY: alive, and the field is the owner's.
        unsafe {
            let busy = &(*slab.as_ptr()).busy_groups;
            let left = busy.load(Relaxed).wrapping_sub(1);
            busy.store(left, Relaxed);
            left == 0
        }
    }

    /// The index of the object that begins at `addr`; [`Misuse::Interior`] if none does.
    ///
    /// # Safety
    /// - The slab is kept alive: the caller is the owner, or a live object of it is the caller's.
    #[inline]
    pub(crate) unsafe fn index_of(slab: NonNull<Self>, addr: usize) -> Result<ObjectIndex, Misuse> {
        let this = slab.as_ptr();
        // SAFETY: these fields never change while the slab lives.
        let (objects, class, count) =
            unsafe { ((*this).objects, (*this).class, (*this).object_count) };
        match ObjectIndex::at(class, addr.wrapping_sub(objects.addr())) {
            Some(index) if index.get() < usize::from(count) => Ok(index),
            _ => Err(Misuse::Interior),
        }
    }

    /// Gives an object back, for an owner who looks at one slab alone; the owner counts emptied
    /// groups. An object that is free already is a double free, and nothing changes.
    ///
    /// A remote free of the same object that still waits lies on another cache line and is not
    /// looked at: it is reported when it is collected.
    ///
    /// # Safety
    /// - The caller is the owner; `index` came from [`index_of`](Self::index_of) of this slab,
    ///   which is not sealed.
    #[inline]
    pub(crate) unsafe fn free_local(slab: NonNull<Self>, index: ObjectIndex) -> Result<(), Misuse> {
        // SAFETY: the owner may write its words; the index is below the object count, so its
        // group exists.
        match unsafe { Group::free(Self::group(slab, index.group()), index) } {
            GroupFree::Done => Ok(()),
            GroupFree::Emptied => {
                // SAFETY: the owner's.
                unsafe { Self::group_emptied(slab) };
                Ok(())
            }
            GroupFree::Refused => Err(Misuse::DoubleFree),
        }
    }

    /// The group of that number.
    ///
    /// # Safety
    /// - `number` is below the group count. (The slab need not be alive to be pointed into.)
    #[inline(always)]
    pub(crate) unsafe fn group(slab: NonNull<Self>, number: usize) -> NonNull<Group> {
        // SAFETY: the caller's bound keeps the group within the descriptor.
        unsafe {
            let at = usize::from((*slab.as_ptr()).groups_at) + number * GROUP_BYTES;
            slab.byte_add(at).cast()
        }
    }

    /// The remote word of a group.
    ///
    /// # Safety
    /// - `number` is below the group count.
    #[inline(always)]
    pub(super) unsafe fn remote_word(slab: NonNull<Self>, number: usize) -> NonNull<RemoteWord> {
        // SAFETY: the caller's bound keeps the word within the descriptor.
        unsafe { RemoteWord::of_group(Self::group(slab, 0), number) }
    }

    /// The bits of a group's word that stand for objects.
    ///
    /// # Safety
    /// - The slab is kept alive, and `number` is below the group count.
    #[inline]
    pub(crate) unsafe fn valid_bits(slab: NonNull<Self>, number: usize) -> usize {
        // SAFETY: passed on.
        let count = unsafe { Self::object_count(slab) };
        match count.saturating_sub(number * GROUP_OBJECTS) {
            rest if rest < GROUP_OBJECTS => (1 << rest) - 1,
            _ => usize::MAX,
        }
    }
}
