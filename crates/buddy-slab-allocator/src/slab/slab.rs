//! One slab: its descriptor, and what its owner does with it.
//!
//! A descriptor records which objects are free in words of bits. Three parties touch it:
//! - the **owner** (one CPU's heap, under whatever keeps others out of that heap) allocates and
//!   frees with plain loads and stores of the free words, the count and the cursor;
//! - **any CPU that holds a live object** reads the fields that never change after `format`, to
//!   find the object's index;
//! - **remote freers** touch the groups (see `remote`).
//!
//! `layout` puts the three on separate cache lines.
//!
//! # Invariants
//! - S1: `used + free bits == object_count`, where an object with a pending remote bit counts as
//!   used; bits beyond `object_count` are clear. (`Slab::check`, O(words))
//! - S2: the cursor names one of the free words, and the index of that word's first object.
//! - S3: a slab is released only when [`Slab::quiescent`]: nobody holds an object, no free is
//!   pending, and hence nobody is between publishing and pushing.

use core::hint::cold_path;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::class_table::{objects_in, reciprocal};
use super::groups::{GROUP_BYTES, RemoteGroup};
use super::layout::{
    DescriptorLayout, GROUP_OBJECTS, INLINE_FREE_BYTES, LINE, WORD_BYTES, line_tag,
};
use super::size_class::SizeClass;
use crate::sync::atomic::{AtomicU16, AtomicUsize, Ordering::Relaxed};
use crate::units::Misuse;

/// The position of an object within its slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectIndex(u16);

impl ObjectIndex {
    /// The object at `bit` of group `group`.
    #[inline]
    pub(crate) const fn new(group: usize, bit: u32) -> Self {
        Self((group * GROUP_OBJECTS + bit as usize) as u16)
    }

    /// The plain number.
    #[inline(always)]
    pub(crate) const fn get(self) -> usize {
        self.0 as usize
    }

    /// The group it belongs to.
    #[inline(always)]
    pub(crate) const fn group(self) -> usize {
        self.0 as usize / GROUP_OBJECTS
    }

    /// Its bit within the group.
    #[inline(always)]
    pub(crate) const fn mask(self) -> usize {
        1 << (self.0 as usize % GROUP_OBJECTS)
    }
}

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

/// What a local free did to the slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreeOutcome {
    /// No object was free before.
    pub(crate) was_full: bool,
    /// Every object is free now.
    pub(crate) now_empty: bool,
}

/// The descriptor of a slab. Reached only through `NonNull<Slab>` whose provenance spans the
/// whole descriptor, which is longer than this header.
#[repr(C, align(64))]
pub(crate) struct Slab {
    // Line 0: the owner's.
    pub(super) used: AtomicU16,
    pub(super) cursor_at: AtomicU16,
    pub(super) cursor_first: AtomicU16,
    pub(super) state: AtomicU16,
    /// Free words (and groups, when compact), addressed by offset.
    pub(super) inline_words: MaybeUninit<[u8; INLINE_FREE_BYTES]>,
    // Line 1: constant after `format`, except the owner and its list links.
    pub(super) objects: *mut u8,
    pub(super) next: *mut Slab,
    pub(super) prev: *mut Slab,
    pub(super) section: *mut u8,
    pub(super) reciprocal: u32,
    pub(super) size: u32,
    pub(super) pfn: u32,
    pub(super) object_count: u16,
    pub(super) owner: AtomicU16,
    pub(super) page_count: u16,
    pub(super) free_at: u16,
    pub(super) groups_at: u16,
    pub(super) class: SizeClass,
    pub(super) in_band: bool,
}

const _: () = assert!(size_of::<Slab>() == 2 * LINE && align_of::<Slab>() == LINE);

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
    ///   descriptor of that many objects takes ([`descriptor_bytes`](Self::descriptor_bytes) at
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
        let layout = DescriptorLayout::new(object_count, page_size);
        let slab = NonNull::new(at.cast::<Self>())?;
        // SAFETY: the descriptor is the caller's, large enough for the layout, and aligned; all
        // its parts are written before anyone else learns of it, and none is read before.
        unsafe {
            slab.write(Self {
                used: AtomicU16::new(0),
                cursor_at: AtomicU16::new(layout.free_at as u16),
                cursor_first: AtomicU16::new(0),
                state: AtomicU16::new(0),
                inline_words: MaybeUninit::uninit(),
                objects,
                next: core::ptr::null_mut(),
                prev: core::ptr::null_mut(),
                section: place.section,
                reciprocal: reciprocal(class.size()),
                size: class.size() as u32,
                pfn: place.pfn,
                object_count: object_count as u16,
                owner: AtomicU16::new(owner),
                page_count: place.page_count,
                free_at: layout.free_at as u16,
                groups_at: layout.groups_at as u16,
                class,
                in_band: place.in_band,
            });
            for group in 0..layout.group_count {
                let rest = object_count - group * GROUP_OBJECTS;
                let bits = if rest >= GROUP_OBJECTS { usize::MAX } else { (1 << rest) - 1 };
                let word = at.byte_add(layout.free_at + group * WORD_BYTES);
                word.cast::<AtomicUsize>().write(AtomicUsize::new(bits));
                let offset = layout.groups_at + group * GROUP_BYTES;
                let remote = at.byte_add(offset).cast::<RemoteGroup>();
                remote.write(RemoteGroup::new(line_tag(offset)));
            }
        }
        Some(slab)
    }

    /// Takes a free object, the lowest of the cursor's word. `None` if none is free locally.
    ///
    /// # Complexity
    /// O(1); out of line, a scan of the free words (one cache line at 4 KiB pages).
    ///
    /// # Safety
    /// - The caller is the owner.
    #[inline(always)]
    pub(crate) unsafe fn alloc(slab: NonNull<Self>) -> Option<NonNull<u8>> {
        // SAFETY: the owner may read its words; by S2 the cursor names one of them.
        unsafe {
            let this = slab.as_ptr();
            let at = usize::from((*this).cursor_at.load(Relaxed));
            let free = (*Self::word_at(slab, at)).load(Relaxed);
            if free == 0 {
                return Self::alloc_elsewhere(slab);
            }
            let first = (*this).cursor_first.load(Relaxed);
            Some(Self::take(slab, at, free, first))
        }
    }

    /// [`alloc`](Self::alloc) when the cursor's word is used up.
    ///
    /// # Safety
    /// - The caller is the owner.
    #[cold]
    #[inline(never)]
    unsafe fn alloc_elsewhere(slab: NonNull<Self>) -> Option<NonNull<u8>> {
        // SAFETY: the owner may read and write its words and its cursor; the loop stays within
        // the words that `format` wrote.
        unsafe {
            let this = slab.as_ptr();
            if (*this).used.load(Relaxed) == (*this).object_count {
                return None;
            }
            for group in 0..Self::group_count(slab) {
                let at = usize::from((*this).free_at) + group * WORD_BYTES;
                let free = (*Self::word_at(slab, at)).load(Relaxed);
                if free != 0 {
                    let first = (group * GROUP_OBJECTS) as u16;
                    (*this).cursor_at.store(at as u16, Relaxed);
                    (*this).cursor_first.store(first, Relaxed);
                    return Some(Self::take(slab, at, free, first));
                }
            }
        }
        None
    }

    /// Hands out the lowest object of a free word.
    ///
    /// # Safety
    /// - The caller is the owner, `at` is the offset of a free word whose first object is
    ///   `first`, and `free`, not zero, its content.
    #[inline(always)]
    unsafe fn take(slab: NonNull<Self>, at: usize, free: usize, first: u16) -> NonNull<u8> {
        // SAFETY: the word is the owner's; by S1 its set bits name objects of the slab, so the
        // address lies within the objects, whose base is not null.
        unsafe {
            let this = slab.as_ptr();
            (*Self::word_at(slab, at)).store(free & (free - 1), Relaxed);
            let used = &(*this).used;
            used.store(used.load(Relaxed).wrapping_add(1), Relaxed);
            let index = u32::from(first) | free.trailing_zeros();
            let offset = index.wrapping_mul((*this).size) as usize;
            NonNull::new_unchecked((*this).objects.byte_add(offset))
        }
    }

    /// The index of the object that begins at `addr`; [`Misuse::Interior`] if none does.
    ///
    /// # Safety
    /// - The slab is kept alive: the caller is the owner, or a live object of it is the caller's.
    #[inline(always)]
    pub(crate) unsafe fn index_of(slab: NonNull<Self>, addr: usize) -> Result<ObjectIndex, Misuse> {
        let this = slab.as_ptr();
        // SAFETY: these fields never change while the slab lives.
        let (objects, size, reciprocal, count) =
            unsafe { ((*this).objects, (*this).size, (*this).reciprocal, (*this).object_count) };
        let offset = addr.wrapping_sub(objects.addr());
        // An offset beyond 32 bits is cut here and refused by the comparison below.
        let index = ((u64::from(offset as u32) * u64::from(reciprocal)) >> 32) as usize;
        if index.wrapping_mul(size as usize) != offset || index >= usize::from(count) {
            cold_path();
            return Err(Misuse::Interior);
        }
        Ok(ObjectIndex(index as u16))
    }

    /// Gives an object back. A bit that is set already is a double free, and nothing changes.
    ///
    /// A remote free of the same object that still waits lies on another cache line and is not
    /// looked at: it is reported when it is collected.
    ///
    /// # Safety
    /// - The caller is the owner; `index` came from [`index_of`](Self::index_of) of this slab.
    #[inline(always)]
    pub(crate) unsafe fn free_local(
        slab: NonNull<Self>,
        index: ObjectIndex,
    ) -> Result<FreeOutcome, Misuse> {
        // SAFETY: the owner may read and write its words; the index is below the object count,
        // so its word exists.
        unsafe {
            let this = slab.as_ptr();
            let word = &*Self::free_word(slab, index.group());
            let free = word.load(Relaxed);
            if free & index.mask() != 0 {
                cold_path();
                return Err(Misuse::DoubleFree);
            }
            word.store(free | index.mask(), Relaxed);
            let used = (*this).used.load(Relaxed);
            debug_assert!(used > 0);
            (*this).used.store(used.wrapping_sub(1), Relaxed);
            Ok(FreeOutcome { was_full: used == (*this).object_count, now_empty: used == 1 })
        }
    }

    /// Puts the bits `mask` of a group back, for `remote::collect`: none of them is free.
    ///
    /// # Safety
    /// - The caller is the owner, and the bits are objects in use.
    pub(super) unsafe fn free_bits(slab: NonNull<Self>, group: usize, mask: usize) {
        // SAFETY: the owner may write its words, and objects in use imply that the group exists.
        unsafe {
            let word = &*Self::free_word(slab, group);
            word.store(word.load(Relaxed) | mask, Relaxed);
            let used = &(*slab.as_ptr()).used;
            used.store(used.load(Relaxed).wrapping_sub(mask.count_ones() as u16), Relaxed);
        }
    }

    /// The free word of a group.
    ///
    /// # Safety
    /// - `group` is below the group count.
    #[inline(always)]
    pub(super) unsafe fn free_word(slab: NonNull<Self>, group: usize) -> *const AtomicUsize {
        // SAFETY: the caller's bound keeps the word within the descriptor.
        unsafe {
            let at = usize::from((*slab.as_ptr()).free_at) + group * WORD_BYTES;
            slab.as_ptr().byte_add(at).cast::<AtomicUsize>()
        }
    }

    /// The free word at an offset.
    ///
    /// # Safety
    /// - `at` is the offset of a free word.
    #[inline(always)]
    unsafe fn word_at(slab: NonNull<Self>, at: usize) -> *const AtomicUsize {
        // SAFETY: the offset lies within the descriptor.
        unsafe { slab.as_ptr().byte_add(at).cast::<AtomicUsize>() }
    }

    /// The remote words of a group.
    ///
    /// # Safety
    /// - `group` is below the group count.
    #[inline(always)]
    pub(super) unsafe fn remote_group(slab: NonNull<Self>, group: usize) -> NonNull<RemoteGroup> {
        // SAFETY: the caller's bound keeps the group within the descriptor.
        unsafe {
            let at = usize::from((*slab.as_ptr()).groups_at) + group * GROUP_BYTES;
            slab.byte_add(at).cast::<RemoteGroup>()
        }
    }

    /// The index of a group, by its address.
    ///
    /// # Safety
    /// - `group` belongs to this slab.
    #[inline]
    pub(super) unsafe fn index_of_group(slab: NonNull<Self>, group: NonNull<RemoteGroup>) -> usize {
        // SAFETY: the field never changes while the slab lives.
        let groups_at = usize::from(unsafe { (*slab.as_ptr()).groups_at });
        (group.addr().get() - slab.addr().get() - groups_at) / GROUP_BYTES
    }
}
