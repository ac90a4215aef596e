//! What is managed and how much of it is in use.

use super::GlobalAllocator;
use crate::buddy::{ManagedSection, PageCore, Wait};
use crate::percpu::{
    FaultLog, Heap, HeapTable, Local, MAX_MAGAZINE_BYTES, MAX_WAITING_BYTES, max_cached_pages,
    max_kept_pages,
};
use crate::platform::Platform;
use crate::slab::SizeClass;
use crate::sync::atomic::Ordering;

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// The most pages that one CPU's page lists and block cache keep. A running *pinned* or *thread*
    /// CPU withholds this from others, [`MAX_UNPUBLISHED_BYTES`](Self::MAX_UNPUBLISHED_BYTES) of
    /// other CPUs' objects, at most two empty slabs per size class (three of one), 512 KiB of others,
    /// what is free in slabs that it uses, and what lies in its
    /// [magazines](Self::MAX_MAGAZINE_BYTES); until it ticks (of magazines: a part), idles, or answers
    /// the platform's `drain_cpus`.
    pub const MAX_KEPT_PAGES: usize = max_kept_pages(PAGE_SIZE) + max_cached_pages(PAGE_SIZE);

    /// The most bytes of other CPUs' objects whose free one CPU has not published yet, but for what
    /// lies in [magazines](Self::MAX_MAGAZINE_BYTES).
    pub const MAX_UNPUBLISHED_BYTES: usize = MAX_WAITING_BYTES;

    /// The most bytes of objects that one CPU keeps in magazines, where the platform
    /// [wants them](Platform::MAGAZINES): 0 where it does not. (Each of them, at most 1,024 of a class,
    /// may be what keeps its slab from being released.)
    pub const MAX_MAGAZINE_BYTES: usize = if P::MAGAZINES { MAX_MAGAZINE_BYTES } else { 0 };

    /// How many sections are managed. O(1), no lock.
    pub fn managed_section_count(&self) -> usize {
        self.core.section_count()
    }

    /// The section that was added as number `index`. Pages kept by CPUs are given back first
    /// where that is possible, so that its count of free pages is exact at rest; running *pinned*
    /// CPUs may each keep up to [`MAX_KEPT_PAGES`](Self::MAX_KEPT_PAGES).
    pub fn managed_section(&self, index: usize) -> Option<ManagedSection> {
        self.settle_pages();
        self.core.section(index)
    }

    /// Bytes of all sections that are allocatable: without metadata. O(sections), no lock.
    pub fn managed_bytes(&self) -> usize {
        self.core.managed_bytes()
    }

    /// Bytes of pages handed out, in slabs, in empty slabs that are kept warm, and in magazines. Pages that
    /// CPUs keep at hand count as free. Exact at rest; under load it lags by what is on its way.
    /// O(sections + CPUs), no lock.
    pub fn allocated_bytes(&self) -> usize {
        let kept = self.kept_pages(|_| true);
        self.core.allocated_pages().saturating_sub(kept) * PAGE_SIZE
    }

    /// How many calls came from handlers that had interrupted the allocator on the same context.
    pub fn reentry_count(&self) -> usize {
        self.reentries.load(Ordering::Relaxed)
    }

    /// Asserts the counting equations of every structure (`docs/invariants.md`). Nothing else may
    /// use the allocator meanwhile, and nothing that was freed wrongly may lie in a
    /// [magazine](Platform::MAGAZINES). Empty unless debug assertions are on.
    pub fn check_invariants(&self) {
        if !cfg!(debug_assertions) || !self.is_ready() {
            return;
        }
        self.core.check_invariants();
        for heap in self.heaps.all() {
            if self.seize(heap, Wait::Try) {
                // SAFETY: just seized.
                unsafe {
                    let shared = HeapTable::is_shared(heap);
                    heap.local().check(&self.env_of(heap, Wait::Spin), shared);
                    self.let_go(heap);
                }
            } else if let Some(mut session) = self.enter_own()
                && core::ptr::eq(session.heap(), heap)
            {
                let (local, env) = session.parts();
                local.check(&env, false);
            }
        }
    }

    /// Gives the pages back that heaps keep, where they can be had.
    pub(super) fn settle_pages(&self) {
        if let Some(mut session) = self.enter_own() {
            let (local, env) = session.parts();
            local.drain_pages(&env);
            let wait = session.wait();
            session.suspend();
            self.stock_is_low();
            for heap in self.heaps.all() {
                let kept = heap.page_counts().pages(PAGE_SIZE);
                if kept != 0 && !session.keeps(heap) && self.seize(heap, wait) {
                    // SAFETY: just seized.
                    unsafe {
                        heap.local().drain_pages(&self.env_of(heap, wait));
                        self.let_go(heap);
                    }
                }
            }
            self.core.drain_deferred(wait);
        }
    }
}

/// What `inspect` looks at.
impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    pub(crate) fn core(&self) -> &PageCore<PAGE_SIZE, P::Lock> {
        &self.core
    }

    /// Slabs, pages and objects of a class, over all heaps.
    pub(crate) fn class_totals(&self, class: SizeClass) -> (usize, usize, usize) {
        self.heaps.totals(class).get()
    }

    /// Pages that CPUs keep at hand.
    pub(crate) fn cached_pages(&self) -> usize {
        self.kept_pages(|heap| !HeapTable::is_shared(heap))
    }

    /// Pages that the shared heaps keep for handlers.
    pub(crate) fn stock_pages(&self) -> usize {
        self.kept_pages(HeapTable::is_shared)
    }

    fn kept_pages(&self, of: impl Fn(&Heap<PAGE_SIZE, P::Lock>) -> bool) -> usize {
        let heaps = self.heaps.all().filter(|heap| of(heap));
        heaps.map(|heap| heap.page_counts().pages(PAGE_SIZE)).sum()
    }

    /// Shows every heap that can be had to `look`, after it has taken in what others freed.
    /// Returns how many could not be had.
    pub(crate) fn visit_heaps(&self, mut look: impl FnMut(&Local<PAGE_SIZE>)) -> usize {
        let mut missed = 0;
        let mut faults = FaultLog::new();
        let mut show = |local: &mut Local<PAGE_SIZE>, heap: &Heap<PAGE_SIZE, P::Lock>, wait| {
            let env = self.env_of(heap, wait);
            local.remote.flush(&env, &mut local.faults);
            local.collect(heap.inbox(), &env);
            look(local);
            local.faults.take()
        };
        if let Some(mut session) = self.enter_own() {
            let own = session.heap();
            let wait = session.wait();
            faults = show(session.local(), own, wait);
            session.suspend();
            for heap in self.heaps.all().filter(|heap| !core::ptr::eq(*heap, own)) {
                if self.seize(heap, wait) {
                    // SAFETY: just seized.
                    unsafe {
                        show(heap.local(), heap, wait);
                        self.let_go(heap);
                    }
                } else {
                    missed += 1;
                }
            }
        } else {
            missed = self.heaps.all().count();
        }
        self.report_all(&faults);
        missed
    }
}
