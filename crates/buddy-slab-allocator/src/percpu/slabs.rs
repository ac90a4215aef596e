//! Whole slabs: made from pages, and released to pages.

use core::ptr::NonNull;

use super::local::LOOSE;
use super::{Env, Local};
use crate::buddy::{Kind, PageError, PageRef, Section};
use crate::slab::{ClassTable, Inbox, SizeClass, Slab, SlabList, SlabPlace};
use crate::sync::RawLock;

/// How many slabs of a class there are before longer ones are made.
const FIRST_SLABS: usize = 4;

/// In band, a descriptor lies at the start of a page.
const _: () = assert!(Slab::ALIGN <= 256, "the smallest page aligns a descriptor");

impl<const PAGE_SIZE: usize> Local<PAGE_SIZE> {
    /// Makes a slab of `class` from free pages: of the preferred size if there is room, else of
    /// the largest that there is. One or two holds of the node's lock.
    #[cold]
    pub(super) fn new_slab<L: RawLock>(
        &mut self,
        class: SizeClass,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<NonNull<Slab>, PageError> {
        let info = ClassTable::<PAGE_SIZE>::info(class);
        let (owned, ..) = env.heaps.totals(class).get();
        let cut = if owned < FIRST_SLABS { info.first } else { info.grown };
        let mut pages = usize::from(cut.pages);
        let min_pages = usize::from(info.min_pages).max(1);
        let mut error;
        loop {
            match env.core.alloc(&env.request(pages, Kind::Slab)) {
                Ok(page) => match Self::format(class, page, pages, true, env) {
                    Ok(slab) => return Ok(slab),
                    Err(why) => error = why,
                },
                Err(why) => error = why,
            }
            if pages == min_pages || error == PageError::Busy {
                break;
            }
            pages = (pages / 2).max(min_pages);
        }
        // The lists are locked, or there is little on them, or no slot (the smallest pages have
        // none for some classes): a small slab whose descriptor lies in its own pages may do, from
        // the lists or from what this heap keeps.
        let offset = Self::in_band_offset(class);
        let count = (offset + info.size as usize).div_ceil(PAGE_SIZE);
        let page = if error == PageError::Busy {
            None
        } else {
            env.core.alloc(&env.request(count, Kind::Slab)).ok()
        };
        let page = page.or_else(|| self.pages.take_part(count, env)).ok_or(error)?;
        Self::format(class, page, count, false, env)
    }

    /// Cuts `count` pages into a slab. The descriptor goes into a slot of the same section, or,
    /// if none can be had, to the start of the pages themselves. Gives the pages back on failure.
    fn format<L: RawLock>(
        class: SizeClass,
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
        out_of_band: bool,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<NonNull<Slab>, PageError> {
        let bytes = count * PAGE_SIZE;
        let info = ClassTable::<PAGE_SIZE>::info(class);
        let first = count <= usize::from(info.first.pages);
        let cut = if first { info.first } else { info.grown };
        let descriptor_bytes = usize::from(cut.descriptor_bytes);
        let slot = if out_of_band {
            env.core.alloc_slot(page.section(), descriptor_bytes, env.wait).ok()
        } else {
            None
        };
        let start = page.ptr();
        let (at, offset) = match slot {
            Some(slot) => (slot, 0),
            None => (start, Self::in_band_offset(class)),
        };
        let place = SlabPlace {
            section: core::ptr::from_ref(page.section()).cast_mut().cast(),
            pfn: page.pfn().get(),
            page_count: count as u16,
            in_band: slot.is_none(),
        };
        let slab = if offset < bytes {
            // SAFETY: `at` is a slot of the size that the class asks for, or the start of pages
            // that are this heap's alone; the objects lie behind the descriptor, within the
            // pages, aligned to the class's natural alignment.
            unsafe {
                let objects = start.as_ptr().add(offset);
                let object_bytes = bytes - offset;
                let at = at.as_ptr();
                Slab::format(at, objects, object_bytes, class, PAGE_SIZE, env.id, place)
            }
        } else {
            None
        };
        let Some(slab) = slab else {
            Self::give_pages_back(page, count, env);
            return Err(PageError::Exhausted);
        };
        // SAFETY: the pages are this heap's, and the descriptor lies in their section.
        unsafe { page.mark_slab(count, slab.as_ptr().cast()) };
        // SAFETY: just formatted.
        let objects = unsafe { Slab::object_count(slab) };
        env.heaps.totals(class).add(count, objects);
        Ok(slab)
    }

    /// Where the objects begin behind a descriptor that lies in the slab's own pages. It has room
    /// for any number of objects, since such a slab may be larger than the preferred one.
    fn in_band_offset(class: SizeClass) -> usize {
        let align = (1usize << class.size().trailing_zeros()).min(PAGE_SIZE);
        Slab::descriptor_bytes(PAGE_SIZE).next_multiple_of(align)
    }

    fn give_pages_back<L: RawLock>(
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) {
        // SAFETY: the pages are this heap's, of this count, and nothing refers to them.
        unsafe {
            if env.core.free(page, count, env.wait).is_err() {
                env.core.push_deferred(page, count);
            }
        }
    }

    /// Gives an empty slab's pages back; `false` (and the slab untouched) if this context may not
    /// take the lock that its descriptor needs.
    ///
    /// # Safety
    /// - `slab` is this heap's, quiescent, and on no list; or the caller has taken all its objects
    ///   and groups.
    pub(super) unsafe fn release<L: RawLock>(
        slab: NonNull<Slab>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> bool {
        if !env.may_wait() {
            return false;
        }
        // SAFETY: alive (condition) until its descriptor is given back below; its place names the
        // section in which its pages lie, and a section with pages in use is not removed.
        unsafe {
            let place = Slab::place(slab);
            let class = Slab::class(slab);
            let objects = Slab::object_count(slab);
            let section = &*place.section.cast::<Section<PAGE_SIZE>>();
            let count = usize::from(place.page_count);
            let Some(page) = PageRef::of(section, place.pfn) else { return false };
            page.unmark_slab(count, Kind::Cached);
            if !place.in_band && env.core.free_slot(section, slab.cast(), env.wait).is_err() {
                page.mark_slab(count, slab.as_ptr().cast());
                return false;
            }
            Self::give_pages_back(page, count, env);
            env.heaps.totals(class).remove(count, objects);
        }
        true
    }

    /// Gives everything back that is not in use: remote frees to their owners, what others freed
    /// to its slabs, empty slabs and kept pages to their sections.
    pub(crate) fn drain<L: RawLock>(&mut self, inbox: &Inbox, env: &Env<'_, PAGE_SIZE, L>) {
        let Self { remote, faults, .. } = self;
        remote.flush(env, faults);
        self.collect(inbox, env);
        for class in 0..SizeClass::COUNT {
            self.release_empty(class, env);
        }
        self.pages.drain(env);
    }

    /// Releases the empty slabs of a class. O(partial slabs).
    fn release_empty<L: RawLock>(&mut self, class: usize, env: &Env<'_, PAGE_SIZE, L>) {
        // SAFETY: the current slab and those on the list are alive and this heap's.
        unsafe {
            if let Some(slab) = self.classes[class].current
                && Slab::quiescent(slab)
            {
                self.classes[class].current = None;
                if !Self::release(slab, env) {
                    self.classes[class].current = Some(slab);
                }
            }
            // An empty slab is at the front; those whose release had to wait may be anywhere.
            let mut at = self.classes[class].partial.front();
            while let Some(slab) = at {
                at = SlabList::next(slab);
                if Slab::quiescent(slab) {
                    self.classes[class].partial.remove(slab);
                    if !Self::release(slab, env) {
                        self.classes[class].partial.push_front(slab);
                        break;
                    }
                }
            }
        }
    }

    /// Takes an object of `class` from what this heap has at hand, on behalf of a CPU that found
    /// no memory anywhere else. O(1).
    pub(crate) fn take_for_another(&mut self, class: SizeClass) -> Option<NonNull<u8>> {
        if let Some(object) = self.alloc(class) {
            return Some(object);
        }
        if let Some(full) = self.classes[class.index()].current.take() {
            // SAFETY: it was this heap's current slab; with no object left it is loose.
            unsafe { Slab::set_state(full, LOOSE) };
        }
        if self.promote(class) { self.alloc(class) } else { None }
    }
}
