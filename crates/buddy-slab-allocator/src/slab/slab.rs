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
//! - S1: a slab is released only when [`Slab::quiescent`]: nobody holds an object, no free is
//!   pending, and hence nobody is between publishing and pushing.
//!
//! An object whose remote free waits to be collected counts as in use.

use core::ptr::NonNull;

use super::class_table::objects_in;
use super::group::Group;
use super::layout::{
    DescriptorLayout, GROUP_ALIGN, GROUP_BYTES, GROUP_OBJECTS, HEADER_BYTES, LINE, line_tag,
};
use super::object_index::ObjectIndex;
use super::remote_word::{REMOTE_BYTES, RemoteWord};
use super::size_class::SizeClass;
use crate::sync::atomic::AtomicU8;
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
    /// Its owner's.
    pub(super) state: AtomicU8,
    pub(super) class: SizeClass,
    pub(super) in_band: bool,
    /// Groups, and remote words, with those that have no object: one for every place.
    pub(super) words: u8,
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

    /// Whether a descriptor at `at` can lead to objects from `objects` on, of a slab below 512 MiB.
    pub(crate) fn can_reach(at: NonNull<u8>, objects: NonNull<u8>) -> bool {
        let distance = at.addr().get().abs_diff(objects.addr().get()) as u64;
        distance < ((GROUP_ALIGN as u64) << 31) - (1 << 29)
    }

    /// Makes a slab: every object free, on no list, state 0. `None` if not one object fits, or
    /// they are too far away for [`can_reach`](Self::can_reach).
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
                state: AtomicU8::new(0),
                class,
                in_band: place.in_band,
                words: layout.group_count as u8,
            });
            for number in 0..layout.group_count {
                let offset = layout.groups_at - (number + 1) * REMOTE_BYTES;
                let remote = at.byte_add(offset).cast::<RemoteWord>();
                remote.write(RemoteWord::new(line_tag(offset)));
                let offset = layout.groups_at + number * GROUP_BYTES;
                let base = objects.wrapping_byte_add(number * GROUP_OBJECTS * class.size());
                let count = object_count.saturating_sub(number * GROUP_OBJECTS).min(GROUP_OBJECTS);
                let group = slab.byte_add(offset).cast();
                if !Group::format(group, base, count, class, offset) {
                    return None;
                }
            }
        }
        Some(slab)
    }

    /// Takes a free object, for an owner who looks at one slab alone. `None` if none is free.
    ///
    /// # Complexity
    /// O(groups): at most eight up to 4 KiB pages (64-bit).
    ///
    /// # Safety
    /// - The caller is the owner.
    pub(crate) unsafe fn alloc(slab: NonNull<Self>) -> Option<NonNull<u8>> {
        // SAFETY: the owner's groups, which exist.
        unsafe { Self::groups(slab).find_map(|group| Group::alloc(group)) }
            .map(|(object, _)| object)
    }

    /// All groups that have objects.
    ///
    /// # Safety
    /// - The slab is kept alive while the iterator is used.
    #[inline]
    pub(crate) unsafe fn groups(slab: NonNull<Self>) -> impl Iterator<Item = NonNull<Group>> {
        // SAFETY: alive (condition); the groups are those that exist.
        unsafe {
            let count = Self::group_count(slab);
            (0..count).map(move |number| Self::group(slab, number))
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

    /// Gives an object back, for an owner who looks at one slab alone. An object that is free
    /// already is a double free, and nothing changes.
    ///
    /// A remote free of the same object that still waits lies on another cache line and is not
    /// looked at: it is reported when it is collected.
    ///
    /// # Safety
    /// - The caller is the owner; `index` came from [`index_of`](Self::index_of) of this slab,
    ///   none of whose groups is on a list.
    pub(crate) unsafe fn free_local(slab: NonNull<Self>, index: ObjectIndex) -> Result<(), Misuse> {
        // SAFETY: the owner may write its words; the index is below the object count, so its
        // group exists.
        let freed = unsafe { Group::free(Self::group(slab, index.group()), index) };
        freed.map(|_| ()).ok_or(Misuse::DoubleFree)
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
}
