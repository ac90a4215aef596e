//! What the tests of the facade share: a CPU that is a number in a thread-local, a platform for
//! each way of reaching a heap, a lock that knows what its thread holds, heaps over leaked regions.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use buddy_slab_allocator::{Access, ContextSlot, GlobalAllocator, Platform, RawLock, SpinLock};

pub const PAGE: usize = 4096;
pub const MIB: usize = 1 << 20;

/// No CPU index.
const NOWHERE: usize = usize::MAX - 1;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    static PREEMPT_COUNT: Cell<usize> = const { Cell::new(0) };
    static SLOT: ContextSlot = const { ContextSlot::new() };
    static LOCKS_HELD: Cell<usize> = const { Cell::new(0) };
}

/// Puts the calling thread on a CPU, or nowhere.
pub fn set_cpu(cpu: Option<usize>) {
    CPU.set(cpu.unwrap_or(NOWHERE));
}

/// The CPU that the calling thread pretends to run on.
pub fn cpu() -> Option<usize> {
    Some(CPU.get()).filter(|cpu| *cpu != NOWHERE)
}

/// Runs `body` on CPU `index`, and goes back to the CPU of before.
pub fn on<R>(index: usize, body: impl FnOnce() -> R) -> R {
    let before = CPU.replace(index);
    let result = body();
    CPU.set(before);
    result
}

/// How many locks of type [`WatchedLock`] the calling thread holds.
pub fn locks_held() -> usize {
    LOCKS_HELD.get()
}

/// A spin lock that counts, per thread, how many of its kind are held.
pub struct WatchedLock(SpinLock);

// SAFETY: the spin lock keeps the promises; the count is the thread's own.
unsafe impl RawLock for WatchedLock {
    const NEW: Self = Self(SpinLock::NEW);
    fn try_lock(&self) -> bool {
        let taken = self.0.try_lock();
        LOCKS_HELD.set(LOCKS_HELD.get() + usize::from(taken));
        taken
    }
    unsafe fn unlock(&self) {
        LOCKS_HELD.set(LOCKS_HELD.get() - 1);
        // SAFETY: the caller's condition is the same.
        unsafe { self.0.unlock() }
    }
}

/// What a fake platform tells of physical addresses and nodes, and does when CPUs are to drain.
#[derive(Default)]
pub struct Hooks {
    pub phys: OnceLock<fn(usize) -> Option<u64>>,
    pub node: OnceLock<fn(usize) -> u8>,
    /// How often a physical address was asked for with a lock held.
    pub phys_under_lock: AtomicUsize,
    pub drain: OnceLock<Box<dyn Fn() + Send + Sync>>,
    pub drain_enabled: AtomicBool,
    pub drains: AtomicUsize,
    /// Where the heaps of the first CPUs are.
    heaps: [AtomicPtr<()>; 8],
}

impl Hooks {
    fn phys(&self, vaddr: usize) -> Option<u64> {
        if locks_held() != 0 {
            self.phys_under_lock.fetch_add(1, Ordering::Relaxed);
        }
        self.phys.get().and_then(|phys| phys(vaddr))
    }
    /// The running CPU's word. CPUs beyond the first few have none.
    fn heap(&self) -> Option<&AtomicPtr<()>> {
        self.heaps.get(cpu()?)
    }
    fn node(&self, cpu: usize) -> u8 {
        self.node.get().map_or(0, |node| node(cpu))
    }
    fn drain(&self) {
        assert_eq!(locks_held(), 0, "drain_cpus was called with a lock held");
        assert_eq!(PREEMPT_COUNT.get(), 0, "drain_cpus was called pinned");
        if self.drain_enabled.load(Ordering::Acquire)
            && let Some(drain) = self.drain.get()
        {
            self.drains.fetch_add(1, Ordering::Relaxed);
            drain();
        }
    }
}

/// *Pinned* for simulations: a CPU is a number; one thread may play all of them in turn. Pins are
/// counted and must balance.
#[derive(Default)]
pub struct PinnedSim(pub Hooks);

// SAFETY: tests play each CPU from one thread at a time, which no signal interrupts.
unsafe impl Platform for PinnedSim {
    type Lock = WatchedLock;
    type Pin = usize;
    const ACCESS: Access = Access::Exclusive;
    const KEEPS_HEAP: bool = true;
    fn heap(&self) -> *mut () {
        self.0.heap().map_or(std::ptr::null_mut(), |heap| heap.load(Ordering::Relaxed))
    }
    fn set_heap(&self, heap: *mut ()) {
        if let Some(place) = self.0.heap() {
            place.store(heap, Ordering::Relaxed);
        }
    }
    fn pin(&self) -> (usize, Option<usize>) {
        (PREEMPT_COUNT.replace(PREEMPT_COUNT.get() + 1), cpu())
    }
    fn unpin(&self, depth: usize) {
        assert_eq!(PREEMPT_COUNT.replace(depth), depth + 1, "pins nest");
    }
    fn virt_to_phys(&self, vaddr: usize) -> Option<u64> {
        self.0.phys(vaddr)
    }
    fn node_of(&self, cpu: usize) -> u8 {
        self.0.node(cpu)
    }
    fn drain_cpus(&self) {
        self.0.drain();
    }
}

/// *Locked* for simulations, with a context token.
#[derive(Default)]
pub struct LockedSim(pub Hooks);

// SAFETY: the token is the thread's own, and no signal interrupts it.
unsafe impl Platform for LockedSim {
    type Lock = WatchedLock;
    type Pin = ();
    const ACCESS: Access = Access::Locked;
    fn pin(&self) -> ((), Option<usize>) {
        ((), cpu())
    }
    fn unpin(&self, (): ()) {}
    fn context(&self) -> Option<&ContextSlot> {
        Some(own_slot())
    }
    fn virt_to_phys(&self, vaddr: usize) -> Option<u64> {
        self.0.phys(vaddr)
    }
    fn node_of(&self, cpu: usize) -> u8 {
        self.0.node(cpu)
    }
    fn drain_cpus(&self) {
        self.0.drain();
    }
}

/// Another platform, with magazines.
#[derive(Default)]
pub struct WithMagazines<P>(pub P);

// SAFETY: all is the other platform's, which keeps the promises; magazines ask for none.
unsafe impl<P: Platform> Platform for WithMagazines<P> {
    type Lock = P::Lock;
    type Pin = P::Pin;
    const ACCESS: Access = P::ACCESS;
    const PATIENCE: u32 = P::PATIENCE;
    const SHARED_HEAPS: usize = P::SHARED_HEAPS;
    const CLAIMS: bool = P::CLAIMS;
    const KEEPS_HEAP: bool = P::KEEPS_HEAP;
    const MAGAZINES: bool = true;
    fn pin(&self) -> (P::Pin, Option<usize>) {
        self.0.pin()
    }
    fn unpin(&self, pin: P::Pin) {
        self.0.unpin(pin);
    }
    fn heap(&self) -> *mut () {
        self.0.heap()
    }
    fn set_heap(&self, heap: *mut ()) {
        self.0.set_heap(heap);
    }
    fn context(&self) -> Option<&ContextSlot> {
        self.0.context()
    }
    fn virt_to_phys(&self, vaddr: usize) -> Option<u64> {
        self.0.virt_to_phys(vaddr)
    }
    fn node_of(&self, cpu: usize) -> u8 {
        self.0.node_of(cpu)
    }
    fn drain_cpus(&self) {
        self.0.drain_cpus();
    }
    fn barrier(&self) -> bool {
        self.0.barrier()
    }
    fn relax(&self) {
        self.0.relax();
    }
    fn retire(&self, block: NonNull<u8>, bytes: usize) {
        self.0.retire(block, bytes);
    }
    fn chores(&self) {
        self.0.chores();
    }
}

/// The calling thread's context token.
pub fn own_slot<'a>() -> &'a ContextSlot {
    // SAFETY: thread-local storage outlives every use of it by its own thread, and the allocator
    // keeps the reference only for one call.
    SLOT.with(|slot| unsafe { &*std::ptr::from_ref(slot) })
}

/// A heap on `platform` over a fresh region that is never given back.
pub fn heap_on<P: Platform>(
    platform: P,
    bytes: usize,
    cpus: usize,
) -> &'static GlobalAllocator<PAGE, P> {
    let heap = &*Box::leak(Box::new(GlobalAllocator::with_platform(platform)));
    heap.set_misuse_handler(Some(testkit::misuse::fail));
    let region = testkit::Region::aligned(bytes, 2 * MIB).leak();
    // SAFETY: the region is leaked: nobody else uses it, and it lives for ever.
    unsafe { heap.init_raw(region.as_mut_ptr(), region.len(), cpus) }.expect("init");
    forget_stock(heap);
    heap
}

/// Has the heap lay in its stock for handlers, and give it back: these tests have no handlers, and
/// count every page.
pub fn forget_stock<P: Platform>(heap: &GlobalAllocator<PAGE, P>) {
    let page = heap.alloc_pages(1, 0).expect("a page");
    heap.dealloc_pages(page, 1);
    if let Some(cpu) = cpu() {
        // No such CPU, or the platform has its own mind: then it stays awake.
        let _ = heap.cpu_offline(cpu);
    }
    heap.shrink();
}

/// A heap in the *pinned* way whose `drain_cpus` hook, once enabled, has every other CPU call
/// `drain_current`.
pub fn pinned(bytes: usize, cpus: usize) -> &'static GlobalAllocator<PAGE, PinnedSim> {
    let heap = heap_on(PinnedSim::default(), bytes, cpus);
    let drain = move || {
        for other in (0..cpus).filter(|other| Some(*other) != cpu()) {
            on(other, || heap.drain_current());
        }
    };
    assert!(heap.platform().0.drain.set(Box::new(drain)).is_ok());
    heap
}

/// Allows the `drain_cpus` hook.
pub fn enable_hook(heap: &GlobalAllocator<PAGE, PinnedSim>) {
    heap.platform().0.drain_enabled.store(true, Ordering::Release);
}

pub fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a layout")
}

/// Pages that the heap manages.
pub fn managed_pages<P: Platform>(heap: &GlobalAllocator<PAGE, P>) -> usize {
    heap.managed_bytes() / PAGE
}

/// Takes single pages until none is left.
pub fn take_all_pages<P: Platform>(heap: &GlobalAllocator<PAGE, P>) -> Vec<usize> {
    std::iter::from_fn(|| heap.alloc_pages(1, 0).ok()).collect()
}

/// Gives single pages back.
pub fn free_pages<P: Platform>(heap: &GlobalAllocator<PAGE, P>, pages: &[usize]) {
    for &page in pages {
        heap.dealloc_pages(page, 1);
    }
}

/// Allocates `count` objects.
pub fn objects<P: Platform>(
    heap: &GlobalAllocator<PAGE, P>,
    layout: Layout,
    count: usize,
) -> Vec<NonNull<u8>> {
    (0..count).map(|_| heap.alloc(layout).expect("an object")).collect()
}

/// Frees objects.
pub fn free_objects<P: Platform>(
    heap: &GlobalAllocator<PAGE, P>,
    layout: Layout,
    objects: &[NonNull<u8>],
) {
    for &object in objects {
        // SAFETY: tests pass live objects of this layout.
        unsafe { heap.dealloc(object, layout) };
    }
}

/// Every page is free again, the equations hold, nothing was misused.
pub fn check_all_free<P: Platform>(heap: &GlobalAllocator<PAGE, P>) {
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0, "everything was freed");
    assert_eq!(heap.misuse_count(), 0);
    let all = take_all_pages(heap);
    assert_eq!(all.len(), managed_pages(heap), "every managed page can be allocated");
    free_pages(heap, &all);
}

/// A small generator of numbers, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize
    }
    pub fn below(&mut self, bound: usize) -> usize {
        self.next() % bound
    }
}

/// As [`check_all_free`], by blocks of `count` pages: for heaps with very many.
pub fn check_all_free_of<P: Platform>(heap: &GlobalAllocator<PAGE, P>, count: usize) {
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0, "everything was freed");
    let free = (0..heap.managed_section_count()).filter_map(|index| heap.managed_section(index));
    assert_eq!(free.map(|section| section.free_pages).sum::<usize>(), managed_pages(heap));
    let block = heap.alloc_pages(count, 0).expect("a block");
    heap.dealloc_pages(block, count);
}
