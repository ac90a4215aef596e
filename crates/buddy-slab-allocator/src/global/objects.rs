//! `alloc` and `dealloc` of objects: the fast path is in this file and in `percpu::local`.

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::GlobalAllocator;
use super::session::Session;
use crate::buddy::PageError;
use crate::error::{AllocError, AllocResult};
use crate::percpu::{self, FaultLog, Freed, HeapTable};
use crate::platform::Platform;
use crate::slab::{ClassTable, FreeOutcome, ObjectIndex, SizeClass, Slab};
use crate::units::Misuse;

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
        match self.enter_fast() {
            Ok(mut own) => {
                if let Some(object) = own.local().alloc(class) {
                    return Some(object);
                }
                self.alloc_object_slow(own.into_session(), class)
            }
            Err(place) => self.alloc_object_elsewhere(place, class),
        }
    }

    /// The running CPU's heap cannot be had at once.
    #[cold]
    #[inline(never)]
    fn alloc_object_elsewhere(
        &self,
        (pin, cpu): (P::Pin, Option<usize>),
        class: SizeClass,
    ) -> Option<NonNull<u8>> {
        let mut session = self.enter_slow(pin, cpu, true)?;
        if let Some(object) = session.local().alloc(class) {
            return Some(object);
        }
        self.alloc_object_slow(session, class)
    }

    /// Why there is no heap to be had.
    #[cold]
    pub(super) fn no_heap(&self) -> AllocError {
        if self.is_ready() { AllocError::NoMemory } else { AllocError::NotInitialized }
    }

    #[cold]
    #[inline(never)]
    fn alloc_object_slow(
        &self,
        mut session: Session<'_, PAGE_SIZE, P>,
        class: SizeClass,
    ) -> Option<NonNull<u8>> {
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
    #[inline]
    pub unsafe fn dealloc(&self, ptr: NonNull<u8>, layout: Layout) {
        // Folds where the layout is known when compiling.
        let class = SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE);
        let Some(slab) = self.slab_of(ptr) else {
            return self.dealloc_large(ptr, Some(layout));
        };
        // SAFETY: the page metadata names this slab, which holds the object being freed
        // (condition), so it is alive.
        let wrong_size = unsafe { class != Some(Slab::class(slab)) };
        if wrong_size {
            return self.report(ptr.addr().get(), Misuse::WrongSize);
        }
        // SAFETY: the same.
        unsafe { self.dealloc_object(slab, ptr) }
    }

    /// [`dealloc`](Self::dealloc) for callers that do not know the layout, such as C's `free`.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc), but for the layout.
    #[inline(always)]
    pub unsafe fn dealloc_unsized(&self, ptr: NonNull<u8>) {
        match self.slab_of(ptr) {
            // SAFETY: the page metadata names this slab, which holds the object being freed.
            Some(slab) => unsafe { self.dealloc_object(slab, ptr) },
            None => self.dealloc_large(ptr, None),
        }
    }

    /// The slab that holds `ptr`, by the metadata of its page: never by what lies near it.
    #[inline(always)]
    pub(super) fn slab_of(&self, ptr: NonNull<u8>) -> Option<NonNull<Slab>> {
        self.core.slab_at(ptr.addr().get()).map(NonNull::cast)
    }

    /// # Safety
    /// - `slab` is alive, and named by the metadata of `ptr`'s page.
    #[inline(always)]
    unsafe fn dealloc_object(&self, slab: NonNull<Slab>, ptr: NonNull<u8>) {
        let addr = ptr.addr().get();
        // SAFETY: alive (condition); `index_of` refuses what is no object of it.
        let index = match unsafe { Slab::index_of(slab, addr) } {
            Ok(index) => index,
            Err(kind) => return self.report(addr, kind),
        };
        match self.enter_fast() {
            Ok(mut own) => {
                // SAFETY: alive; the owner's words are touched only if this heap owns the slab.
                let freed = unsafe {
                    if Slab::owner(slab) != own.heap().id() {
                        return self.dealloc_with(Some(own.into_session()), slab, index, addr);
                    }
                    own.local().free(slab, index)
                };
                match freed {
                    Ok(Freed::Done) => {}
                    Ok(Freed::Settle(outcome)) => {
                        // SAFETY: this heap's slab, which is not current, after that free.
                        unsafe { self.settle(own.into_session(), slab, outcome) }
                    }
                    Err(kind) => {
                        drop(own);
                        self.report(addr, kind);
                    }
                }
            }
            Err((pin, cpu)) => {
                let session = self.enter_slow(pin, cpu, false);
                // SAFETY: alive (condition), and `index` is its object.
                unsafe { self.dealloc_with(session, slab, index, addr) }
            }
        }
    }

    /// The rest of a free that changed where its slab belongs.
    ///
    /// # Safety
    /// - `slab` is owned by the session's heap and not current, and `outcome` is of its last free.
    #[cold]
    #[inline(never)]
    unsafe fn settle(
        &self,
        mut session: Session<'_, PAGE_SIZE, P>,
        slab: NonNull<Slab>,
        outcome: FreeOutcome,
    ) {
        let (local, env) = session.parts();
        // SAFETY: the same conditions.
        unsafe { local.settle(slab, outcome.was_full, outcome.now_empty, &env) };
        let faults = local.faults.take();
        drop(session);
        self.report_all(&faults);
        self.platform.chores();
    }

    /// A free off the fast path: of an object of another heap's slab, which goes into the batch;
    /// by a context whose heap took longer to enter; or by one that has none.
    ///
    /// # Safety
    /// - `slab` is alive, and `index` its object, at `addr`.
    #[inline(never)]
    unsafe fn dealloc_with(
        &self,
        session: Option<Session<'_, PAGE_SIZE, P>>,
        slab: NonNull<Slab>,
        index: ObjectIndex,
        addr: usize,
    ) {
        let Some(mut session) = session else {
            // SAFETY: the same conditions.
            return unsafe { self.dealloc_nested(slab, index, addr) };
        };
        let heap = session.heap();
        let (local, env) = session.parts();
        // SAFETY: alive; a slab never changes its owner, whose words only that heap's holder uses.
        let freed = unsafe {
            if Slab::owner(slab) == heap.id() {
                local.free(slab, index).map(|freed| {
                    if let Freed::Settle(outcome) = freed {
                        local.settle(slab, outcome.was_full, outcome.now_empty, &env);
                    }
                })
            } else if HeapTable::is_shared(heap) {
                let mut faults = FaultLog::new();
                percpu::publish_to(slab, index.group(), index.mask(), &env, &mut faults);
                faults.iter().next().map_or(Ok(()), |(_, kind)| Err(kind))
            } else {
                local.remote.add(slab, index, addr, &env, &mut local.faults)
            }
        };
        if freed.is_ok() && local.faults.is_empty() {
            return;
        }
        let faults = local.faults.take();
        drop(session);
        if let Err(kind) = freed {
            self.report(addr, kind);
        }
        self.report_all(&faults);
    }

    /// A free by a handler that interrupted the allocator, or by code that has no heap: straight
    /// to the slab's remote word. Waits for nothing.
    ///
    /// # Safety
    /// - `slab` is alive, and `index` its object.
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
                percpu::publish_to(slab, index.group(), index.mask(), &env, &mut faults);
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
