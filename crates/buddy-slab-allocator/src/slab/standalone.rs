//! Slabs on their own: [`SlabAllocator`] serves objects from pages that its caller supplies.
//!
//! A slab keeps its descriptor in its first bytes and is aligned to its size, so that the
//! descriptor is found from an object's address by masking. A full slab is on no list; a free
//! puts it back on one. Of each class, one empty slab stays; the next one goes back to the
//! caller.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::class_table::objects_in;
use super::layout::DescriptorLayout;
use super::list::SlabList;
use super::size_class::SizeClass;
use super::slab::{Slab, SlabPlace};
use crate::error::{AllocError, AllocResult};

/// List tags of [`Slab::state`].
const PARTIAL: u8 = 1;
const FULL: u8 = 2;
const KEPT: u8 = 3;
const RELEASED: u8 = 4;

/// What an allocation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlabAllocResult {
    /// The object.
    Allocated(NonNull<u8>),
    /// No slab of this class has a free object: supply `pages` pages, aligned to their size,
    /// by [`SlabAllocator::add_slab`], and ask again.
    NeedsSlab {
        /// The class to supply.
        size_class: SizeClass,
        /// How many pages.
        pages: usize,
    },
}

/// What a deallocation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlabDeallocResult {
    /// Nothing is left to do.
    Done,
    /// The slab became empty, and it is the caller's again.
    FreeSlab {
        /// Its address, as given to [`SlabAllocator::add_slab`].
        base: usize,
        /// How many pages.
        pages: usize,
    },
}

/// The slabs of one class.
struct ClassSlabs {
    /// Slabs with a free object, except the kept one.
    partial: SlabList,
    /// The empty slab kept for the next need.
    kept: Option<NonNull<Slab>>,
}

/// Objects of every size class from slabs whose pages the caller supplies.
///
/// It takes no lock: it is reached through `&mut self`.
pub struct SlabAllocator<const PAGE_SIZE: usize = 0x1000> {
    classes: [ClassSlabs; SizeClass::COUNT],
    misuse_count: usize,
}

// SAFETY: the allocator owns its slabs, and nothing in them is tied to a thread.
unsafe impl<const PAGE_SIZE: usize> Send for SlabAllocator<PAGE_SIZE> {}

impl<const PAGE_SIZE: usize> Default for SlabAllocator<PAGE_SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PAGE_SIZE: usize> SlabAllocator<PAGE_SIZE> {
    /// An allocator without a slab.
    pub const fn new() -> Self {
        assert!(PAGE_SIZE.is_power_of_two() && PAGE_SIZE >= 256);
        Self {
            classes: [const { ClassSlabs { partial: SlabList::new(), kept: None } };
                SizeClass::COUNT],
            misuse_count: 0,
        }
    }

    /// Allocates an object for `layout`, or says which slab it needs.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if no size class serves the layout.
    ///
    /// # Complexity
    /// O(1): a few words of bits, eight of them up to 4 KiB pages.
    pub fn alloc(&mut self, layout: Layout) -> AllocResult<SlabAllocResult> {
        let size_class = SizeClass::from_layout(layout).ok_or(AllocError::InvalidParam)?;
        let class = &mut self.classes[size_class.index()];
        let slab = match class.partial.front() {
            Some(slab) => slab,
            None => match class.kept.take() {
                Some(slab) => {
                    // SAFETY: the slab is this allocator's and was on no list.
                    unsafe { class.list(slab) };
                    slab
                }
                None => {
                    let pages = size_class.slab_pages(PAGE_SIZE);
                    return Ok(SlabAllocResult::NeedsSlab { size_class, pages });
                }
            },
        };
        // SAFETY: the slab is this allocator's, which is its owner; it is on the partial list,
        // so it has a free object.
        unsafe {
            let object = Slab::alloc(slab).ok_or(AllocError::NoMemory)?;
            if Slab::is_full(slab) {
                class.partial.remove(slab);
                Slab::set_state(slab, FULL);
            }
            Ok(SlabAllocResult::Allocated(object))
        }
    }

    /// Gives an object back.
    ///
    /// A double free, and an address at which no object of the slab begins, change nothing and
    /// are counted ([`misuse_count`](Self::misuse_count)).
    ///
    /// # Complexity
    /// O(1).
    ///
    /// # Safety
    /// - `ptr` lies in a slab that was added to this allocator for the class of `layout` and was
    ///   not given back since; nobody uses the object any more.
    pub unsafe fn dealloc(&mut self, ptr: NonNull<u8>, layout: Layout) -> SlabDeallocResult {
        let Some(size_class) = SizeClass::from_layout(layout) else {
            return self.misused();
        };
        let pages = size_class.slab_pages(PAGE_SIZE);
        let addr = ptr.addr().get();
        let base = addr & !(pages * PAGE_SIZE - 1);
        // The object's pointer may reach no further than the object: the slab's own provenance
        // was exposed by whoever passed its address to `add_slab`.
        let Some(slab) = NonNull::new(core::ptr::with_exposed_provenance_mut::<Slab>(base)) else {
            return self.misused();
        };
        // SAFETY: by the caller's word a slab of this class begins at `base`, and it is this
        // allocator's.
        let (freed, was_full) = unsafe {
            let state = Slab::state(slab);
            if !matches!(state, PARTIAL | FULL) || Slab::class(slab) != size_class {
                return self.misused();
            }
            let freed = Slab::index_of(slab, addr).and_then(|index| Slab::free_local(slab, index));
            (freed, state == FULL)
        };
        if freed.is_err() {
            return self.misused();
        }
        let class = &mut self.classes[size_class.index()];
        // SAFETY: the slab is this allocator's; the tags say which list it is on.
        unsafe {
            if Slab::is_empty(slab) {
                if !was_full {
                    class.partial.remove(slab);
                }
                if class.kept.is_some() {
                    Slab::set_state(slab, RELEASED);
                    return SlabDeallocResult::FreeSlab { base, pages };
                }
                Slab::set_state(slab, KEPT);
                class.kept = Some(slab);
            } else if was_full {
                class.list(slab);
            }
        }
        SlabDeallocResult::Done
    }

    /// Adds a slab of `bytes` bytes at `base` to a class.
    ///
    /// `bytes` must be [`SizeClass::slab_pages`] pages, and `base` a multiple of it; anything
    /// else is counted as misuse and ignored. `owner_cpu` is recorded, and means nothing here.
    ///
    /// # Safety
    /// - The `bytes` bytes at `base` are valid for reads and writes, are used by nobody else
    ///   until the slab is given back, and their provenance was exposed (as by handing out their
    ///   address as an integer).
    /// - They are not part of a slab of this allocator already.
    pub unsafe fn add_slab(
        &mut self,
        size_class: SizeClass,
        base: usize,
        bytes: usize,
        owner_cpu: u16,
    ) {
        let pages = size_class.slab_pages(PAGE_SIZE);
        if bytes != pages * PAGE_SIZE || base == 0 || base & (bytes - 1) != 0 {
            self.misuse_count += 1;
            return;
        }
        let at = core::ptr::with_exposed_provenance_mut::<u8>(base);
        let start = size_class.in_band_start(bytes, PAGE_SIZE);
        let place = SlabPlace {
            section: core::ptr::null_mut(),
            pfn: 0,
            page_count: pages.min(usize::from(u16::MAX)) as u16,
            in_band: true,
        };
        // SAFETY: the memory is the caller's gift; it is aligned to its size, hence to a line;
        // `in_band_start` leaves room for the descriptor and aligns the objects behind it.
        let slab = unsafe {
            let objects = at.byte_add(start);
            Slab::format(at, objects, bytes - start, size_class, PAGE_SIZE, owner_cpu, place)
        };
        match slab {
            // SAFETY: the slab is this allocator's and on no list.
            Some(slab) => unsafe { self.classes[size_class.index()].list(slab) },
            None => self.misuse_count += 1,
        }
    }

    /// How many calls were found to be misuse and ignored.
    pub fn misuse_count(&self) -> usize {
        self.misuse_count
    }

    /// Checks the counting equations of every slab with a free object. O(slabs); empty in a
    /// release build.
    ///
    /// # Panics
    /// If one does not hold, which is a fault of this crate or of an earlier unsafe call.
    pub fn check_invariants(&self) {
        if !cfg!(any(test, debug_assertions)) {
            return;
        }
        for (index, class) in self.classes.iter().enumerate() {
            // SAFETY: listed slabs are this allocator's.
            unsafe {
                let mut next = class.partial.front();
                while let Some(slab) = next {
                    Slab::check(slab);
                    assert_eq!(Slab::state(slab), PARTIAL, "a slab's tag names its list");
                    assert_eq!(Slab::class(slab).index(), index, "a slab is listed by its class");
                    assert!(!Slab::is_full(slab), "a full slab is on no list");
                    next = Slab::next(slab);
                }
                if let Some(slab) = class.kept {
                    Slab::check(slab);
                    assert!(Slab::is_empty(slab) && Slab::state(slab) == KEPT, "kept is empty");
                }
            }
        }
    }

    #[cold]
    fn misused(&mut self) -> SlabDeallocResult {
        self.misuse_count += 1;
        SlabDeallocResult::Done
    }
}

impl ClassSlabs {
    /// Puts a slab on the partial list.
    ///
    /// # Safety
    /// - The slab is this class's, has a free object, and is on no list.
    unsafe fn list(&mut self, slab: NonNull<Slab>) {
        // SAFETY: the caller's word.
        unsafe {
            Slab::set_state(slab, PARTIAL);
            self.partial.push_front(slab);
        }
    }
}

impl SizeClass {
    /// How many pages a standalone slab of this class takes: a power of two, so that a slab can
    /// be aligned to its size. The fewest with at least four objects (if any are to fit) and at
    /// most an eighth lost to the descriptor and the tail.
    pub const fn slab_pages(self, page_size: usize) -> usize {
        if !page_size.is_power_of_two() {
            return 1;
        }
        let limit = self.size().saturating_mul(16);
        let mut pages = 1;
        let mut best = (usize::MAX, 1);
        loop {
            let bytes = page_size.saturating_mul(pages);
            let start = self.in_band_start(bytes, page_size);
            let objects = objects_in(bytes.saturating_sub(start), self.size(), page_size);
            let lost = bytes - objects * self.size();
            if objects >= 4 && lost <= bytes / 8 {
                return pages;
            }
            let share = lost.saturating_mul(1024) / bytes;
            if objects >= 1 && share < best.0 {
                best = (share, pages);
            }
            if bytes >= limit && bytes >= 1024 && objects >= 1 {
                return best.1;
            }
            pages *= 2;
        }
    }

    /// Where the objects of an in-band slab of `bytes` bytes begin.
    const fn in_band_start(self, bytes: usize, page_size: usize) -> usize {
        DescriptorLayout::new(bytes.div_ceil(self.size()), page_size)
            .bytes
            .next_multiple_of(self.natural_align())
    }
}
