//! Whole slabs: made from pages, and released to pages.

use core::ptr::NonNull;

use super::free_groups::FreeGroups;
use super::free_run::FreeRun;
use super::{Env, Local};
use crate::buddy::{Kind, PageError, PageRef, Section};
use crate::slab::{ClassTable, Group, Inbox, SizeClass, Slab, SlabLabel, SlabPlace};
use crate::sync::RawLock;

/// How many slabs of a class there are before longer ones are made.
const FIRST_SLABS: usize = 4;

/// In band, a descriptor lies at the end of the slab's pages.
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
        let count = (Slab::descriptor_bytes(PAGE_SIZE) + info.size as usize).div_ceil(PAGE_SIZE);
        let page = if error == PageError::Busy {
            None
        } else {
            env.core.alloc(&env.request(count, Kind::Slab)).ok()
        };
        let page = page.or_else(|| self.pages.take_part(count, env)).ok_or(error)?;
        Self::format(class, page, count, false, env)
    }

    /// Cuts `count` pages into a slab. The descriptor goes into a slot of the same section, or,
    /// if none can be had, to the end of the pages themselves. Gives the pages back on failure.
    fn format<L: RawLock>(
        class: SizeClass,
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
        out_of_band: bool,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Result<NonNull<Slab>, PageError> {
        let slot = if out_of_band { Self::descriptor_slot(class, page, count, env) } else { None };
        let bytes = count * PAGE_SIZE;
        let object_bytes = match slot {
            Some(_) => bytes,
            // Room for any number of objects: such a slab may be larger than the preferred one.
            None => bytes.saturating_sub(Slab::descriptor_bytes(PAGE_SIZE)),
        };
        let start = page.ptr().as_ptr();
        let at = slot.map_or(start.wrapping_add(object_bytes), NonNull::as_ptr);
        let place = SlabPlace {
            section: core::ptr::from_ref(page.section()).cast_mut().cast(),
            pfn: page.pfn().get(),
            page_count: count as u16,
            in_band: slot.is_none(),
        };
        // SAFETY: `at` is a slot of the size that the class asks for, or the end of pages that
        // are this heap's alone (if nothing fits before it, nothing is written); the objects lie
        // before it, within the pages, aligned as the pages are.
        let slab =
            unsafe { Slab::format(at, start, object_bytes, class, PAGE_SIZE, env.id, place) };
        let Some(slab) = slab else {
            Self::give_pages_back(page, count, env);
            return Err(PageError::Exhausted);
        };
        // SAFETY: just formatted; the pages are this heap's, and the descriptor lies in their
        // section, near enough.
        let objects = unsafe {
            page.mark_slab(count, Slab::group(slab, 0).cast(), SlabLabel::new(env.id, class).raw());
            Slab::object_count(slab)
        };
        env.heaps.totals(class).add(count, objects);
        Ok(slab)
    }

    /// A slot for the descriptor of a slab of `count` pages.
    fn descriptor_slot<L: RawLock>(
        class: SizeClass,
        page: PageRef<'_, PAGE_SIZE>,
        count: usize,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> Option<NonNull<u8>> {
        let info = ClassTable::<PAGE_SIZE>::info(class);
        let first = count <= usize::from(info.first.pages);
        let cut = if first { info.first } else { info.grown };
        let bytes = usize::from(cut.descriptor_bytes);
        let near = |slot| page.can_mark(count, slot) && Slab::can_reach(slot, page.ptr());
        env.core.alloc_slot(page.section(), bytes, env.wait, env.use_reserve, near).ok()
    }

    pub(super) fn give_pages_back<L: RawLock>(
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
                let label = SlabLabel::new(Slab::owner(slab), class).raw();
                page.mark_slab(count, Slab::group(slab, 0).cast(), label);
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
        self.drain_magazines(env);
        let Self { remote, faults, .. } = self;
        remote.flush(env, faults);
        self.collect(inbox, env);
        self.end_run(env);
        self.release_idle(usize::MAX, env);
        let mut settled = true;
        for class in 0..SizeClass::COUNT {
            settled &= self.release_empty(class, env);
        }
        self.unsettled &= !settled;
        self.drain_pages(env);
    }

    /// Gives every kept page back.
    pub(crate) fn drain_pages<L: RawLock>(&mut self, env: &Env<'_, PAGE_SIZE, L>) {
        self.pages.drain(env);
        self.blocks.drain(env);
    }

    /// Releases up to `most` idle slabs. O(classes + slabs released).
    pub(crate) fn release_idle<L: RawLock>(&mut self, most: usize, env: &Env<'_, PAGE_SIZE, L>) {
        if self.idle.is_empty() {
            return;
        }
        let mut left = most;
        for class in 0..SizeClass::COUNT {
            while left != 0
                && let Some(slab) = self.idle.pop(class)
            {
                left -= 1;
                // SAFETY: this heap's, empty, on no list; a free that is pending is a double one.
                unsafe {
                    if !(Slab::quiescent(slab) && Self::release(slab, env)) {
                        // Neither the first group's nor kept.
                        self.classes[class].insert(slab);
                        self.unsettled = true;
                        break;
                    }
                }
            }
        }
    }

    /// Releases the empty slabs of a class: the one that is kept, and the first group's. O(groups
    /// of these); where others could not be released before, O(groups in the list). `false` if
    /// there may be more.
    fn release_empty<L: RawLock>(&mut self, class: usize, env: &Env<'_, PAGE_SIZE, L>) -> bool {
        let Self { classes, run, unsettled, .. } = self;
        let groups = &mut classes[class];
        let mut settled = true;
        // SAFETY: the slabs named, and the groups of the list, are alive and this heap's; where
        // the search goes on is a group of another slab, which stays when this one goes.
        unsafe {
            while let Some(slab) = groups.empty() {
                if !Slab::quiescent(slab) {
                    break;
                }
                if !Self::release_listed(groups, run, slab, env) {
                    // If it was tried, the slab is queued again, neither the first's nor kept.
                    *unsettled |= env.may_wait();
                    return false;
                }
            }
            let mut at = if *unsettled { groups.first() } else { Group::empty() };
            while let Some((slab, next)) = groups.next_empty(at) {
                at = next;
                if !Slab::quiescent(slab) {
                    settled = false;
                } else if !Self::release_listed(groups, run, slab, env) {
                    return false;
                }
            }
        }
        settled
    }

    /// Takes an empty slab off its list and releases it; `false`, and nothing has changed, if
    /// this context may not.
    ///
    /// # Safety
    /// - `slab` is this heap's, quiescent, and of the class of `groups`.
    unsafe fn release_listed<L: RawLock>(
        groups: &mut FreeGroups,
        run: &mut FreeRun,
        slab: NonNull<Slab>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> bool {
        if !env.may_wait() {
            return false;
        }
        // SAFETY: this heap's (condition); its groups are all on the list, since all are free. If
        // the slab is not released they go back there.
        unsafe {
            run.end_in_slab(slab);
            groups.remove(slab);
            let released = Self::release(slab, env);
            if !released {
                groups.insert(slab);
            }
            released
        }
    }
}
