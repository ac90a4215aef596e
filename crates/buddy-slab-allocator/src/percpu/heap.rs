//! One CPU's heap, and the table of all heaps.

use core::cell::UnsafeCell;
use core::mem::size_of;
use core::ptr::NonNull;

use super::{Gate, Local, PageCounts};
use crate::slab::{Inbox, SizeClass, SlabLabel};
use crate::sync::RawLock;
use crate::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use crate::units::NodeId;

/// Set in the number of a shared heap.
const SHARED: u16 = 0x8000;

/// What one CPU keeps for itself, and the two ways of guarding it.
///
/// # Invariants
/// - `local` is touched only by whoever holds the gate (exclusive way) or the lock (locked way,
///   and shared heaps in every way).
/// - A heap is never freed: remote frees reach its inbox at any time.
#[cfg_attr(target_pointer_width = "64", repr(C, align(64)))]
#[cfg_attr(not(target_pointer_width = "64"), repr(C, align(8)))]
pub(crate) struct Heap<const PAGE_SIZE: usize, L> {
    pub(crate) gate: Gate,
    node: AtomicU8,
    /// What the labels of its slabs have in common.
    label: SlabLabel,
    pub(crate) lock: L,
    page_counts: PageCounts,
    local: UnsafeCell<Local<PAGE_SIZE>>,
    inbox: Apart<Inbox>,
}

/// On cache lines of its own, since other CPUs write it; not on 32 bits.
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
struct Apart<T>(T);

// SAFETY: `local` is guarded as the invariant says; everything else is atomic or immutable.
unsafe impl<const PAGE_SIZE: usize, L: RawLock> Sync for Heap<PAGE_SIZE, L> {}

impl<const PAGE_SIZE: usize, L: RawLock> Heap<PAGE_SIZE, L> {
    fn new(id: u16, node: NodeId) -> Self {
        Self {
            gate: Gate::new_parked(),
            node: AtomicU8::new(node.get()),
            label: SlabLabel::of_owner(id),
            lock: L::NEW,
            page_counts: PageCounts::new(),
            local: UnsafeCell::new(Local::new()),
            inbox: Apart(Inbox::new()),
        }
    }

    /// The number by which slabs name their owner.
    #[inline]
    pub(crate) fn id(&self) -> u16 {
        self.label.owner()
    }

    /// What the labels of its slabs have in common.
    #[inline(always)]
    pub(crate) fn label(&self) -> SlabLabel {
        self.label
    }

    #[inline]
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox.0
    }

    #[inline]
    pub(crate) fn node(&self) -> NodeId {
        NodeId::new(self.node.load(Ordering::Relaxed))
    }

    /// The guarded part.
    ///
    /// # Safety
    /// - The caller holds the gate or the lock, and no other reference to the part is in use.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the gate or the lock makes it exclusive")]
    pub(crate) unsafe fn local(&self) -> &mut Local<PAGE_SIZE> {
        // SAFETY: exclusive by the caller's condition.
        unsafe { &mut *self.local.get() }
    }

    /// How much this heap's page lists keep; lags while the heap is in use.
    #[inline(always)]
    pub(crate) fn page_counts(&self) -> &PageCounts {
        &self.page_counts
    }
}

/// All heaps: those of the CPUs, and the shared ones.
///
/// # Invariants
/// - `cpus` heaps lie at `cpu_base` and `shared` at `shared_base`, both written before the count
///   (release, acquire) and never moved. The counts only grow.
pub(crate) struct HeapTable<const PAGE_SIZE: usize, L> {
    cpu_base: AtomicPtr<Heap<PAGE_SIZE, L>>,
    cpus: AtomicUsize,
    /// For how many CPUs there is room at `cpu_base`; not less than `cpus`.
    capacity: AtomicUsize,
    shared_base: AtomicPtr<Heap<PAGE_SIZE, L>>,
    shared: AtomicUsize,
    /// What all heaps together own of each class.
    totals: [ClassTotals; SizeClass::COUNT],
}

/// What all heaps together own of a size class. Changed where slabs are made and released.
pub(crate) struct ClassTotals {
    slabs: AtomicUsize,
    pages: AtomicUsize,
    objects: AtomicUsize,
}

impl ClassTotals {
    const fn new() -> Self {
        Self {
            slabs: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            objects: AtomicUsize::new(0),
        }
    }

    /// Records a new slab.
    pub(super) fn add(&self, pages: usize, objects: usize) {
        self.slabs.fetch_add(1, Ordering::Relaxed);
        self.pages.fetch_add(pages, Ordering::Relaxed);
        self.objects.fetch_add(objects, Ordering::Relaxed);
    }

    /// Records that a slab is gone.
    pub(super) fn remove(&self, pages: usize, objects: usize) {
        self.slabs.fetch_sub(1, Ordering::Relaxed);
        self.pages.fetch_sub(pages, Ordering::Relaxed);
        self.objects.fetch_sub(objects, Ordering::Relaxed);
    }

    /// Slabs, pages and objects.
    pub(crate) fn get(&self) -> (usize, usize, usize) {
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (load(&self.slabs), load(&self.pages), load(&self.objects))
    }
}

impl<const PAGE_SIZE: usize, L: RawLock> HeapTable<PAGE_SIZE, L> {
    /// The most CPUs there can be: slabs name their owner in 15 bits.
    pub(crate) const MAX_CPUS: usize = SHARED as usize - 1;

    pub(crate) const fn new() -> Self {
        Self {
            cpu_base: AtomicPtr::new(core::ptr::null_mut()),
            cpus: AtomicUsize::new(0),
            capacity: AtomicUsize::new(0),
            shared_base: AtomicPtr::new(core::ptr::null_mut()),
            shared: AtomicUsize::new(0),
            totals: [const { ClassTotals::new() }; SizeClass::COUNT],
        }
    }

    /// What all heaps own of a class.
    #[inline]
    pub(crate) fn totals(&self, class: SizeClass) -> &ClassTotals {
        &self.totals[class.index()]
    }

    /// Bytes that `count` heaps take; `None` if that is beyond the address space.
    pub(crate) const fn bytes_for(count: usize) -> Option<usize> {
        size_of::<Heap<PAGE_SIZE, L>>().checked_mul(count)
    }

    /// Builds the CPUs' heaps at `at`.
    ///
    /// # Safety
    /// - `at` is aligned to 64 and valid for `bytes_for(count)` bytes, for ever, ours alone.
    /// - Called once.
    pub(crate) unsafe fn attach_cpus(
        &self,
        at: NonNull<u8>,
        count: usize,
        node_of: impl Fn(usize) -> NodeId,
    ) {
        // SAFETY: the same conditions; nobody else is here yet.
        unsafe {
            self.reserve_cpus(at, count);
            self.bring_up(count, node_of);
        }
    }

    /// Makes room at `at` for the heaps of `capacity` CPUs, and builds none of them yet.
    ///
    /// # Safety
    /// - As for `attach_cpus`, with the capacity for the count.
    pub(crate) unsafe fn reserve_cpus(&self, at: NonNull<u8>, capacity: usize) {
        self.cpu_base.store(at.cast().as_ptr(), Ordering::Relaxed);
        self.capacity.store(capacity, Ordering::Release);
    }

    /// For how many CPUs there is room.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Acquire)
    }

    /// Builds the heaps of the CPUs below `count`, as far as there is room, that have none yet.
    /// Other CPUs may use theirs meanwhile.
    ///
    /// # Safety
    /// - One caller at a time.
    pub(crate) unsafe fn bring_up(&self, count: usize, node_of: impl Fn(usize) -> NodeId) {
        let (built, count) = (self.cpu_count(), count.min(self.capacity()));
        let base = self.cpu_base.load(Ordering::Relaxed);
        for index in built..count {
            // SAFETY: within the bytes that were reserved; nobody looks there before the count
            // says so, and only this caller writes (condition).
            unsafe { base.add(index).write(Heap::new(index as u16, node_of(index))) };
        }
        if count > built {
            self.cpus.store(count, Ordering::Release);
        }
    }

    /// Builds the shared heaps at `at`.
    ///
    /// # Safety
    /// - As for `attach_cpus`.
    pub(crate) unsafe fn attach_shared(&self, at: NonNull<u8>, count: usize) {
        let base = at.cast::<Heap<PAGE_SIZE, L>>();
        for index in 0..count {
            let heap = Heap::new(SHARED | index as u16, NodeId::default());
            // SAFETY: within the bytes that the caller gave.
            unsafe { base.add(index).write(heap) };
        }
        self.shared_base.store(base.as_ptr(), Ordering::Relaxed);
        self.shared.store(count, Ordering::Release);
    }

    /// The heap of CPU `index`, if there is such a CPU.
    #[inline(always)]
    pub(crate) fn cpu(&self, index: usize) -> Option<&Heap<PAGE_SIZE, L>> {
        if index >= self.cpus.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: in range, and built before the count was published (invariant).
        unsafe {
            let base = NonNull::new_unchecked(self.cpu_base.load(Ordering::Relaxed));
            Some(base.add(index).as_ref())
        }
    }

    /// Shared heap `index`, if there is one.
    pub(crate) fn shared(&self, index: usize) -> Option<&Heap<PAGE_SIZE, L>> {
        if index >= self.shared.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: in range, and built before the count was published (invariant).
        Some(unsafe { &*self.shared_base.load(Ordering::Relaxed).add(index) })
    }

    #[inline]
    pub(crate) fn cpu_count(&self) -> usize {
        self.cpus.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn shared_count(&self) -> usize {
        self.shared.load(Ordering::Acquire)
    }

    /// Every heap, the CPUs' first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Heap<PAGE_SIZE, L>> {
        let cpus = (0..self.cpu_count()).filter_map(|index| self.cpu(index));
        cpus.chain((0..self.shared_count()).filter_map(|index| self.shared(index)))
    }

    /// Whether the heap is one of the shared ones, which are guarded by their lock in every way.
    pub(crate) fn is_shared(heap: &Heap<PAGE_SIZE, L>) -> bool {
        Self::is_shared_id(heap.id())
    }

    /// Whether a heap's number is that of a shared one.
    #[inline(always)]
    pub(crate) const fn is_shared_id(id: u16) -> bool {
        id & SHARED != 0
    }

    /// The inbox of the heap that a slab names as its owner.
    #[inline]
    pub(crate) fn inbox_of(&self, owner: u16) -> Option<&Inbox> {
        let index = usize::from(owner & !SHARED);
        let heap = if owner & SHARED == 0 { self.cpu(index) } else { self.shared(index) };
        heap.map(Heap::inbox)
    }
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use super::*;
    use crate::sync::SpinLock;

    #[test]
    fn four_heaps_fit_into_a_small_memory() {
        // With what else a region of 12 pages needs, and two shared ones. 114 cache lines.
        assert!(size_of::<Heap<4096, SpinLock>>() <= 7296);
    }
}
