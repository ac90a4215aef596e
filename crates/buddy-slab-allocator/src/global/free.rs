//! `dealloc` of objects: the fast path is in this file and in `slab::group`.

use core::alloc::Layout;
use core::hint::cold_path;
use core::ptr::NonNull;

use super::GlobalAllocator;
use super::session::{Held, Own, Session};
use crate::buddy::PageMark;
use crate::percpu::{self, FaultLog, Found, HeapTable, Pushed};
use crate::platform::Platform;
use crate::slab::{self, ClassTable, Group, GroupFree, ObjectIndex, SizeClass, Slab, SlabLabel};
use crate::units::Misuse;

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Frees what [`alloc`](Self::alloc) or [`realloc`](Self::realloc) returned. Never fails and
    /// never waits for another CPU's heap.
    ///
    /// Misuse is detected where the data at hand shows it (a double free, an interior, foreign or
    /// page address, a size of another class), reported to the
    /// [handler](Self::set_misuse_handler), and otherwise ignored: the heap stays whole. With
    /// [magazines](Platform::MAGAZINES) it is detected later, or not: until then the object may be
    /// handed out again.
    ///
    /// # Complexity
    /// O(1); as [`alloc`](Self::alloc). An object of another CPU's slab costs no atomic operation
    /// until a batch of them is published (or, once in as many as follow each other, to give the slab
    /// back that earlier frees left empty).
    ///
    /// # Safety
    /// - `ptr` came from this allocator with this layout, and was not freed since.
    /// - Nothing uses the memory any more.
    #[inline(always)]
    pub unsafe fn dealloc(&self, ptr: NonNull<u8>, layout: Layout) {
        // Folds where the layout is known when compiling.
        let class = SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE);
        let Some(class) = class else { return self.dealloc_large(ptr, Some(layout.size())) };
        let Some(own) = self.enter_fast_or_leave() else {
            // SAFETY: the condition.
            return unsafe { self.dealloc_slow(ptr, Some(class)) };
        };
        // SAFETY: the condition.
        let own = unsafe { self.free_into_magazine(own, ptr, class) };
        let Some(mut own) = own else { return };
        if !own.local().free_in_run(Some(class), ptr.addr().get()) {
            // SAFETY: the condition.
            unsafe { self.free_listed(own.into_held(), ptr, class) }
        }
    }

    /// Frees the object of `class` into a magazine, where the platform wants them, and leaves the
    /// heap.
    /// If there is no room the heap is still entered, and nothing has happened.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), with a layout of this class.
    #[inline(always)]
    unsafe fn free_into_magazine<'a>(
        &'a self,
        mut own: Own<'a, PAGE_SIZE, P>,
        ptr: NonNull<u8>,
        class: SizeClass,
    ) -> Option<Own<'a, PAGE_SIZE, P>> {
        if !P::MAGAZINES {
            return Some(own);
        }
        // SAFETY: the condition.
        match unsafe { own.local().magazines.push(class, ptr) } {
            Pushed::Kept => None,
            Pushed::Full => Some(own),
            Pushed::Twice => {
                self.free_twice(own.into_held(), ptr);
                None
            }
        }
    }

    /// [`dealloc`](Self::dealloc) for callers that do not know the layout, such as C's `free`.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), but for the layout.
    #[inline(always)]
    pub unsafe fn dealloc_unsized(&self, ptr: NonNull<u8>) {
        let Some(mut own) = self.enter_fast_or_leave() else {
            // SAFETY: the condition.
            return unsafe { self.dealloc_slow(ptr, None) };
        };
        if !own.local().free_in_run(None, ptr.addr().get()) {
            // SAFETY: the condition.
            unsafe { self.free_unsized(own.into_held(), ptr) }
        }
    }

    /// The slab that holds `ptr`, by the metadata of its page: never by what lies near it.
    pub(super) fn slab_of(&self, ptr: NonNull<u8>) -> Option<NonNull<Slab>> {
        let mark = self.core.slab_at(ptr.addr().get())?;
        // SAFETY: the mark of a slab's page leads to its first group; whoever asks holds an
        // object of it, so it is alive.
        Some(unsafe { Slab::of_group(mark.descriptor.cast()) })
    }

    /// Frees the object of `class` that the metadata of `ptr`'s page names, and leaves the heap: the
    /// rest of [`dealloc`](Self::dealloc) where it is no run's. In the largest section, and for an
    /// object of that heap, it calls nothing but its own end, so that nothing has to be saved.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), of which this is the rest; the heap is this allocator's.
    #[inline(never)]
    unsafe fn free_listed(&self, held: Held<'_, PAGE_SIZE, P>, ptr: NonNull<u8>, class: SizeClass) {
        // SAFETY: the condition.
        unsafe {
            match self.core.slab_at_fast(ptr.addr().get()) {
                Some(mark) => self.free_marked(held, ptr, class, mark, Some(class)),
                None => self.free_elsewhere(held, ptr, Some(class)),
            }
        }
    }

    /// [`free_listed`](Self::free_listed) of an object whose class only the metadata knows.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), of which this is the rest; the heap is this allocator's.
    #[inline(never)]
    unsafe fn free_unsized(&self, held: Held<'_, PAGE_SIZE, P>, ptr: NonNull<u8>) {
        // SAFETY: slabs are marked with labels; the condition.
        unsafe {
            match self.core.slab_at_fast(ptr.addr().get()) {
                Some(mark) => {
                    let class = SlabLabel::from_raw(mark.label).class();
                    let own = self.free_into_magazine(held.into_own(self), ptr, class);
                    let Some(own) = own else { return };
                    self.free_marked(own.into_held(), ptr, class, mark, None);
                }
                None => self.free_elsewhere(held, ptr, None),
            }
        }
    }

    /// The rest of both, where the metadata names a slab.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), of which this is the rest; the heap is this allocator's.
    #[inline(always)]
    unsafe fn free_marked(
        &self,
        held: Held<'_, PAGE_SIZE, P>,
        ptr: NonNull<u8>,
        class: SizeClass,
        mark: PageMark,
        expected: Option<SizeClass>,
    ) {
        let heap = held.heap();
        // SAFETY: slabs are marked with labels.
        let label = unsafe { SlabLabel::from_raw(mark.label) };
        let page = label.page_behind(heap.label().with_class(class));
        let Some(page) = page.filter(|_| !ClassTable::<PAGE_SIZE>::IS_CAPPED) else {
            // SAFETY: the condition.
            return unsafe { self.free_foreign(held, ptr, expected, mark) };
        };
        let Some(index) = slab::object_in(class, page, ptr.addr().get(), PAGE_SIZE) else {
            cold_path();
            // SAFETY: the condition.
            return unsafe { self.free_refused(held, ptr, expected) };
        };
        let mut own = held.into_own(self);
        // SAFETY: the heap's slab, of this class; there is a group for every address in a slab's
        // pages, and what was just said of it is passed on.
        unsafe {
            let group = mark.descriptor.cast::<Group>().add(index.group());
            match own.local().free(class, group, index) {
                GroupFree::Done => {}
                GroupFree::Refused => self.free_refused(own.into_held(), ptr, expected),
                GroupFree::Idle(group) => self.settle_idle(own.into_held(), group),
                GroupFree::Again(group) => self.begin_run(own.into_held(), class, group),
            }
        }
    }

    /// The same of what may be in any section.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), of which this is the rest; the heap is this allocator's.
    #[inline(never)]
    unsafe fn free_elsewhere(
        &self,
        held: Held<'_, PAGE_SIZE, P>,
        ptr: NonNull<u8>,
        expected: Option<SizeClass>,
    ) {
        // SAFETY: the condition.
        unsafe {
            match self.core.slab_at(ptr.addr().get()) {
                Some(mark) => self.free_foreign(held, ptr, expected, mark),
                None => self.free_refused(held, ptr, expected),
            }
        }
    }

    /// The same of what may be another heap's, or no object of the class at all.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), of which this is the rest; the heap is this allocator's.
    #[inline(never)]
    unsafe fn free_foreign(
        &self,
        held: Held<'_, PAGE_SIZE, P>,
        ptr: NonNull<u8>,
        expected: Option<SizeClass>,
        mark: PageMark,
    ) {
        let addr = ptr.addr().get();
        let Ok(found) = Found::by_mark::<PAGE_SIZE>(addr, mark, expected) else {
            // SAFETY: the condition.
            return unsafe { self.free_refused(held, ptr, expected) };
        };
        let mut own = held.into_own(self);
        let class = found.label.class();
        let freed = if found.label.owner() == own.heap().id() {
            // SAFETY: this heap's slab, of this class, in which the group exists.
            unsafe { own.local().free(class, found.group(), found.index) }
        } else {
            own.local().free_remote(class, found.remote(addr))
        };
        match freed {
            GroupFree::Done => {}
            // SAFETY: the condition.
            GroupFree::Refused => unsafe { self.free_refused(own.into_held(), ptr, expected) },
            // SAFETY: this heap's, as it just said.
            GroupFree::Idle(group) => unsafe { self.settle_idle(own.into_held(), group) },
            // SAFETY: the same.
            GroupFree::Again(group) => unsafe { self.begin_run(own.into_held(), class, group) },
        }
    }

    /// Leaves the heap, in which the object could not be freed just like that, and begins anew.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), of which this is the rest; the heap is this allocator's.
    #[cold]
    #[inline(never)]
    unsafe fn free_refused(
        &self,
        held: Held<'_, PAGE_SIZE, P>,
        ptr: NonNull<u8>,
        expected: Option<SizeClass>,
    ) {
        drop(held.into_own(self));
        // SAFETY: the condition.
        unsafe { self.dealloc_slow(ptr, expected) }
    }

    /// Leaves the heap, and reports that the object was freed just before.
    #[cold]
    #[inline(never)]
    fn free_twice(&self, held: Held<'_, PAGE_SIZE, P>, ptr: NonNull<u8>) {
        drop(held.into_own(self));
        self.report(ptr.addr().get(), Misuse::DoubleFree);
    }

    /// The rest of a free that went where the last one went: a run begins, and the heap is left.
    ///
    /// # Safety
    /// - `group` is one of the heap's, of `class`, and something of it is free.
    #[cold]
    #[inline(never)]
    unsafe fn begin_run(
        &self,
        held: Held<'_, PAGE_SIZE, P>,
        class: SizeClass,
        group: NonNull<Group>,
    ) {
        let mut own = held.into_own(self);
        // SAFETY: the condition.
        unsafe {
            if let GroupFree::Idle(left) = own.local().begin_run(class, group) {
                self.settle_idle(own.into_held(), left);
            }
        }
    }

    /// The rest of a free after which nothing of a group is in use: leaves the heap when it
    /// was seen to that no more than one empty slab of the class is kept.
    ///
    /// # Safety
    /// - `group` is one of the heap's.
    #[cold]
    #[inline(never)]
    unsafe fn settle_idle(&self, held: Held<'_, PAGE_SIZE, P>, group: NonNull<Group>) {
        let mut session = held.into_own(self).into_session();
        let (local, env) = session.parts();
        // SAFETY: this heap's slab (condition).
        unsafe { local.group_idle(Slab::of_group(group), &env) };
        let faults = local.faults.take();
        drop(session);
        self.report_all(&faults);
    }

    /// A free that takes more than a look at the page's metadata, or by a context whose heap took
    /// longer to enter, or that has none.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc).
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_slow(&self, ptr: NonNull<u8>, expected: Option<SizeClass>) {
        let addr = ptr.addr().get();
        let Some(mark) = self.core.slab_at(addr) else {
            // Pages, or a mistake.
            return self.dealloc_large(ptr, expected.map(SizeClass::size));
        };
        match Found::by_mark::<PAGE_SIZE>(addr, mark, expected) {
            Ok(found) => {
                let session = self.enter_own();
                // SAFETY: alive (condition); named by the metadata of its page.
                unsafe { self.dealloc_with(session, &found, addr) }
            }
            Err(kind) => self.report(addr, kind),
        }
    }

    /// A free off the fast path: of an object of another heap's slab, which goes into the batch; by
    /// a context whose heap took longer to enter; or by one that has none.
    ///
    /// # Safety
    /// - The slab of `found` is alive.
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_with(
        &self,
        session: Option<Session<'_, PAGE_SIZE, P>>,
        found: &Found,
        addr: usize,
    ) {
        // SAFETY: alive (condition); its groups are named by the metadata of its page.
        let slab = unsafe { Slab::of_group(found.groups) };
        let Some(mut session) = session else {
            // SAFETY: the same conditions.
            return unsafe { self.dealloc_nested(slab, found.index, addr) };
        };
        let heap = session.heap();
        let (local, env) = session.parts();
        let (class, group, index) = (found.label.class(), found.group(), found.index);
        // SAFETY: alive; a slab never changes its owner, whose words only that heap's holder uses.
        let outcome = unsafe {
            if found.label.owner() == heap.id() {
                let freed = local.free(class, group, index);
                local.finish_free(group, index, freed, &env)
            } else if HeapTable::is_shared(heap) {
                let (number, mask) = (index.group(), index.mask());
                let mut faults = FaultLog::new();
                percpu::publish_to(slab, number, mask, &env, &mut faults);
                faults.iter().next().map_or(Ok(()), |(_, kind)| Err(kind))
            } else {
                local.remote.add(found.remote(addr), &env, &mut local.faults)
            }
        };
        if outcome.is_ok() && local.faults.is_empty() {
            return;
        }
        let faults = local.faults.take();
        drop(session);
        if let Err(kind) = outcome {
            self.report(addr, kind);
        }
        self.report_all(&faults);
    }

    /// A free by a handler that interrupted the allocator, or by code that has no heap: straight
    /// to the slab's remote word. Waits for nothing.
    ///
    /// # Safety
    /// - `slab` is alive, and `index` lies in its pages.
    #[cold]
    pub(super) unsafe fn dealloc_nested(
        &self,
        slab: NonNull<Slab>,
        index: ObjectIndex,
        addr: usize,
    ) {
        let mut faults = FaultLog::new();
        // SAFETY: alive (condition).
        unsafe {
            if index.get() < Slab::object_count(slab) && Slab::is_free_hint(slab, index) {
                faults.note(addr, Misuse::DoubleFree);
            } else if let Some(heap) = self.heaps.shared(0) {
                let env = self.env_of(heap, crate::buddy::Wait::Try);
                let (number, mask) = (index.group(), index.mask());
                percpu::publish_to(slab, number, mask, &env, &mut faults);
            }
        }
        self.report_all(&faults);
    }

    /// Frees objects of one layout; as [`dealloc`](Self::dealloc) for each. O(`objects.len()`).
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), for each of them.
    pub unsafe fn dealloc_bulk(&self, layout: Layout, objects: &[NonNull<u8>]) {
        for object in objects {
            // SAFETY: the same conditions.
            unsafe { self.dealloc(*object, layout) };
        }
    }
}
