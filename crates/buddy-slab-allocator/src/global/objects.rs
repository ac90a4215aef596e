//! `alloc` and `dealloc` of objects: the fast path is in this file and in `percpu::local`.

use core::alloc::Layout;
use core::hint::cold_path;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::GlobalAllocator;
use super::session::Session;
use crate::buddy::{PageError, PageMark};
use crate::error::{AllocError, AllocResult};
use crate::percpu::{self, FaultLog, Heap, HeapTable, RemoteObject};
use crate::platform::Platform;
use crate::slab::{ClassTable, Group, GroupFree, ObjectIndex, SizeClass, Slab, SlabLabel};
use crate::units::Misuse;

/// An object, as the metadata of its page describes it.
struct Found {
    label: SlabLabel,
    /// The first group of its slab.
    groups: NonNull<Group>,
    index: ObjectIndex,
}

impl Found {
    /// The group it belongs to.
    #[inline(always)]
    fn group(&self) -> NonNull<Group> {
        // SAFETY: there is a group for every address in a slab's pages.
        unsafe { self.groups.add(self.index.group()) }
    }

    #[inline(always)]
    fn remote(&self, addr: usize) -> RemoteObject {
        let size_bytes = self.label.class().size();
        RemoteObject { groups: self.groups, index: self.index, addr, size_bytes }
    }
}

/// What the caller of a free says about it.
#[derive(Clone, Copy)]
struct Expected {
    class: SizeClass,
    size: usize,
}

/// Why there is no object at an address.
enum NotFound {
    /// It is in no slab.
    NoSlab,
    /// It is, but this is wrong.
    Misuse(Misuse),
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Allocates memory for `layout`: an object of a size class up to 32 KiB (or 8 pages), whole
    /// pages above, and for alignments above `PAGE_SIZE`. A size of zero is served like one byte.
    ///
    /// # Errors
    /// [`AllocError::NoMemory`] when nothing is left after reclaim; [`AllocError::InvalidParam`]
    /// for a size or alignment beyond 2^20 pages; [`AllocError::NotInitialized`].
    ///
    /// # Complexity
    /// O(1). Takes no lock when *pinned* or *thread*, this CPU's when *locked*; a refill takes the
    /// node's lock.
    #[inline(always)]
    pub fn alloc(&self, layout: Layout) -> AllocResult<NonNull<u8>> {
        match SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE) {
            Some(class) => self.alloc_object(class).ok_or_else(|| self.no_heap()),
            None => self.alloc_large(layout).map(|(object, _)| object),
        }
    }

    /// [`alloc`](Self::alloc), and every byte is zero. Pages that are known to be zero (fresh from
    /// a region that was declared zeroed) are not cleared again.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn alloc_zeroed(&self, layout: Layout) -> AllocResult<NonNull<u8>> {
        let (object, known_zero) =
            match SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE) {
                Some(class) => (self.alloc_object(class).ok_or_else(|| self.no_heap())?, false),
                None => self.alloc_large(layout)?,
            };
        if !known_zero {
            // SAFETY: fresh memory of at least this size, not shared with anybody yet.
            unsafe { object.as_ptr().write_bytes(0, layout.size()) };
        }
        Ok(object)
    }

    #[inline(always)]
    pub(super) fn alloc_object(&self, class: SizeClass) -> Option<NonNull<u8>> {
        if let Some(mut own) = self.enter_fast_or_leave()
            && let Some(object) = own.local().alloc(class)
        {
            return Some(object);
        }
        self.alloc_object_at_hand(class)
    }

    /// What is set aside is used up, or the running CPU's heap cannot be had at once.
    #[inline(never)]
    fn alloc_object_at_hand(&self, class: SizeClass) -> Option<NonNull<u8>> {
        if let Some(mut own) = self.enter_fast_or_leave()
            && let Some(object) = own.local().alloc_at_hand(class)
        {
            return Some(object);
        }
        self.alloc_object_slow(class)
    }

    /// Why there is no heap to be had.
    #[cold]
    pub(super) fn no_heap(&self) -> AllocError {
        if self.is_ready() { AllocError::NoMemory } else { AllocError::NotInitialized }
    }

    /// This CPU's heap has nothing at hand, or cannot be had at once.
    #[cold]
    #[inline(never)]
    fn alloc_object_slow(&self, class: SizeClass) -> Option<NonNull<u8>> {
        let mut session = self.enter()?;
        let (local, env) = session.parts();
        let refilled = local.refill(class, &env);
        let faults = local.faults.take();
        match refilled {
            Ok(object) => {
                drop(session);
                self.report_all(&faults);
                self.restock();
                Some(object)
            }
            // The lock is held by what this handler interrupted, as far as anybody can tell.
            Err(PageError::Busy) => {
                drop(session);
                self.report_all(&faults);
                None
            }
            Err(_) => {
                let served = self.under_pressure(session, faults, Some(class), |session| {
                    let (local, env) = session.parts();
                    local.alloc(class).or_else(|| local.refill(class, &env).ok())
                });
                served.ok()
            }
        }
    }

    /// Frees what [`alloc`](Self::alloc) or [`realloc`](Self::realloc) returned. Never fails and
    /// never waits for another CPU's heap.
    ///
    /// Misuse is detected where the data at hand shows it (a double free, an interior, foreign or
    /// page address, a size of another class), reported to the
    /// [handler](Self::set_misuse_handler), and otherwise ignored: the heap stays whole.
    ///
    /// # Complexity
    /// O(1); as [`alloc`](Self::alloc). An object of another CPU's slab costs no atomic operation
    /// until a batch of them is published.
    ///
    /// # Safety
    /// - `ptr` came from this allocator with this layout, and was not freed since.
    /// - Nothing uses the memory any more.
    #[inline(always)]
    pub unsafe fn dealloc(&self, ptr: NonNull<u8>, layout: Layout) {
        // Folds where the layout is known when compiling.
        let class = SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE);
        let Some(class) = class else { return self.dealloc_large(ptr, Some(layout.size())) };
        if let Some(mut own) = self.enter_fast_or_leave() {
            let freed = match own.local().free_recent(class, ptr.addr().get()) {
                GroupFree::Refused => self.free_listed(own.heap(), ptr, Some(class)),
                freed => freed,
            };
            match freed {
                GroupFree::Done => return,
                GroupFree::Emptied => {
                    // SAFETY: just said so; still in that heap.
                    return unsafe { self.finish_emptied(own.into_session(), ptr) };
                }
                GroupFree::Refused => {}
            }
        }
        // SAFETY: the condition.
        unsafe { self.dealloc_slow(ptr, Some(Expected { class, size: layout.size() })) }
    }

    /// [`dealloc`](Self::dealloc) for callers that do not know the layout, such as C's `free`.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), but for the layout.
    #[inline(always)]
    pub unsafe fn dealloc_unsized(&self, ptr: NonNull<u8>) {
        if let Some(own) = self.enter_fast_or_leave() {
            match self.free_listed(own.heap(), ptr, None) {
                GroupFree::Done => return,
                GroupFree::Emptied => {
                    // SAFETY: just said so; still in that heap.
                    return unsafe { self.finish_emptied(own.into_session(), ptr) };
                }
                GroupFree::Refused => {}
            }
        }
        // SAFETY: the condition.
        unsafe { self.dealloc_slow(ptr, None) }
    }

    /// The slab that holds `ptr`, by the metadata of its page: never by what lies near it.
    pub(super) fn slab_of(&self, ptr: NonNull<u8>) -> Option<NonNull<Slab>> {
        let mark = self.core.slab_at(ptr.addr().get())?;
        // SAFETY: the mark of a slab's page leads to its first group; whoever asks holds an
        // object of it, so it is alive.
        Some(unsafe { Slab::of_group(mark.descriptor.cast()) })
    }

    /// The object at `addr`, by the metadata of its page. Touches nothing of its slab.
    fn find(&self, addr: usize, expected: Option<Expected>) -> Result<Found, NotFound> {
        let Some(mark) = self.core.slab_at(addr) else { return Err(NotFound::NoSlab) };
        // SAFETY: slabs are marked with labels.
        let label = unsafe { SlabLabel::from_raw(mark.label) };
        if expected.is_some_and(|expected| expected.class != label.class()) {
            cold_path();
            return Err(NotFound::Misuse(Misuse::WrongSize));
        }
        let Some(index) = label.object_at(addr, PAGE_SIZE) else {
            cold_path();
            return Err(NotFound::Misuse(Misuse::Interior));
        };
        let groups = mark.descriptor.cast::<Group>();
        if ClassTable::<PAGE_SIZE>::IS_CAPPED
            // SAFETY: the slab is alive: an object of it is being freed.
            && index.get() >= unsafe { Slab::object_count(Slab::of_group(groups)) }
        {
            return Err(NotFound::Misuse(Misuse::Interior));
        }
        Ok(Found { label, groups, index })
    }

    /// Frees the object that the metadata of `ptr`'s page names, if that is all there is to do:
    /// into its slab, or, if that is another heap's, into the remote batch. In the largest section
    /// it calls nothing, so that nothing has to be saved for later.
    ///
    /// `heap` is the one that the caller has entered.
    #[inline(never)]
    fn free_listed(
        &self,
        heap: &Heap<PAGE_SIZE, P::Lock>,
        ptr: NonNull<u8>,
        expected: Option<SizeClass>,
    ) -> GroupFree {
        match self.core.slab_at_fast(ptr.addr().get()) {
            Some(mark) => self.free_marked(heap, ptr, expected, mark),
            None => self.free_listed_elsewhere(heap, ptr, expected),
        }
    }

    /// [`free_listed`](Self::free_listed) in any section.
    #[inline(never)]
    fn free_listed_elsewhere(
        &self,
        heap: &Heap<PAGE_SIZE, P::Lock>,
        ptr: NonNull<u8>,
        expected: Option<SizeClass>,
    ) -> GroupFree {
        match self.core.slab_at(ptr.addr().get()) {
            Some(mark) => self.free_marked(heap, ptr, expected, mark),
            None => GroupFree::Refused,
        }
    }

    #[inline(always)]
    fn free_marked(
        &self,
        heap: &Heap<PAGE_SIZE, P::Lock>,
        ptr: NonNull<u8>,
        expected: Option<SizeClass>,
        mark: PageMark,
    ) -> GroupFree {
        let addr = ptr.addr().get();
        // SAFETY: slabs are marked with labels.
        let label = unsafe { SlabLabel::from_raw(mark.label) };
        let class = label.class();
        if ClassTable::<PAGE_SIZE>::IS_CAPPED || expected.is_some_and(|other| other != class) {
            return GroupFree::Refused;
        }
        let Some(index) = label.object_at(addr, PAGE_SIZE) else { return GroupFree::Refused };
        let found = Found { label, groups: mark.descriptor.cast(), index };
        // SAFETY: the caller has entered the heap.
        let local = unsafe { heap.local() };
        if label.owner() == heap.id() {
            // SAFETY: this heap's slab, of this class, in which the group exists.
            unsafe { local.free(class, found.group(), index) }
        } else if local.remote.add_fast(found.remote(addr)) {
            GroupFree::Done
        } else {
            GroupFree::Refused
        }
    }

    /// The rest of a free that emptied the group of the object that was at `ptr`.
    ///
    /// # Safety
    /// - The free was just made, in the session's heap, which was not left since.
    #[cold]
    #[inline(never)]
    unsafe fn finish_emptied(&self, session: Session<'_, PAGE_SIZE, P>, ptr: NonNull<u8>) {
        let addr = ptr.addr().get();
        if let Ok(found) = self.find(addr, None) {
            // SAFETY: this heap's slab, which is not released while the emptied group is counted
            // as one of which something is taken.
            unsafe { self.dealloc_with(Some(session), &found, addr, GroupFree::Emptied) };
        }
    }

    /// A free that takes more than a look at the page's metadata, or by a context whose heap took
    /// longer to enter, or that has none.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc).
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_slow(&self, ptr: NonNull<u8>, expected: Option<Expected>) {
        let addr = ptr.addr().get();
        match self.find(addr, expected) {
            Ok(found) => {
                let session = self.enter_own();
                // SAFETY: alive (condition); named by the metadata of its page.
                unsafe { self.dealloc_with(session, &found, addr, GroupFree::Refused) }
            }
            Err(why) => self.not_found(ptr, expected, why),
        }
    }

    /// A free of something that is no object of a slab: of pages, or by mistake.
    #[inline(never)]
    fn not_found(&self, ptr: NonNull<u8>, expected: Option<Expected>, why: NotFound) {
        match why {
            NotFound::NoSlab => self.dealloc_large(ptr, expected.map(|expected| expected.size)),
            NotFound::Misuse(kind) => self.report(ptr.addr().get(), kind),
        }
    }

    /// A free off the fast path: of an object of another heap's slab, which goes into the batch;
    /// one that changes where its slab belongs (`freed` says what was done already); by a context
    /// whose heap took longer to enter; or by one that has none.
    ///
    /// # Safety
    /// - The slab of `found` is alive; `freed` is what became of the free so far.
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_with(
        &self,
        session: Option<Session<'_, PAGE_SIZE, P>>,
        found: &Found,
        addr: usize,
        freed: GroupFree,
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
                let freed = match freed {
                    GroupFree::Emptied => freed,
                    _ => local.free(class, group, index),
                };
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
            if Slab::is_free_hint(slab, index) {
                faults.note(addr, Misuse::DoubleFree);
            } else if let Some(heap) = self.heaps.shared(0) {
                let env = self.env_of(heap, crate::buddy::Wait::Try);
                let (number, mask) = (index.group(), index.mask());
                percpu::publish_to(slab, number, mask, &env, &mut faults);
            }
        }
        self.report_all(&faults);
    }

    /// Allocates objects of one layout until `objects` is full or memory runs out; returns how
    /// many there are. One entry into this CPU's heap for all that it has at hand.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc), if there was not even one.
    pub fn alloc_bulk(
        &self,
        layout: Layout,
        objects: &mut [MaybeUninit<NonNull<u8>>],
    ) -> AllocResult<usize> {
        let class = SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE);
        let mut count = 0;
        while count < objects.len() {
            if let (Some(class), Some(mut session)) = (class, self.enter()) {
                let local = session.local();
                while let Some(place) = objects.get_mut(count) {
                    let Some(object) = local.alloc(class) else { break };
                    place.write(object);
                    count += 1;
                }
            }
            if let Some(place) = objects.get_mut(count) {
                match self.alloc(layout) {
                    Ok(object) => place.write(object),
                    Err(error) if count == 0 => return Err(error),
                    Err(_) => break,
                };
                count += 1;
            }
        }
        Ok(count)
    }

    /// Frees objects of one layout; as [`dealloc`](Self::dealloc) for each.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), for each of them.
    pub unsafe fn dealloc_bulk(&self, layout: Layout, objects: &[NonNull<u8>]) {
        for object in objects {
            // SAFETY: the same conditions.
            unsafe { self.dealloc(*object, layout) };
        }
    }

    /// How many bytes the allocation at `ptr` can hold: its class's size, or its pages. `None` if
    /// `ptr` is not the start of a live allocation, as far as the metadata tells.
    ///
    /// O(1), no lock.
    ///
    /// # Safety
    /// - If `ptr` points into memory of this allocator, nobody frees what lies there meanwhile.
    pub unsafe fn usable_size(&self, ptr: NonNull<u8>) -> Option<usize> {
        let addr = ptr.addr().get();
        let Some(slab) = self.slab_of(ptr) else {
            return self.large_pages(addr).map(|pages| pages * PAGE_SIZE);
        };
        // SAFETY: named by the page metadata, and kept alive by the caller's condition.
        unsafe {
            let index = Slab::index_of(slab, addr).ok()?;
            if Slab::is_free_hint(slab, index) {
                return None;
            }
            Some(ClassTable::<PAGE_SIZE>::info(Slab::class(slab)).size as usize)
        }
    }
}
