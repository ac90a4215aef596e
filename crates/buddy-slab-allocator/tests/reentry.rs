//! Signals at a high rate to threads that allocate, whose handlers allocate and free too, with a
//! lock that masks nothing: nothing is corrupted, nothing waits for itself, and the handlers'
//! requests succeed. In each way of reaching a heap.
#![cfg(all(unix, not(loom)))]

use std::alloc::Layout;
use std::cell::Cell;
use std::os::unix::thread::JoinHandleExt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use buddy_slab_allocator::{
    Access, AllocResult, ContextSlot, GlobalAllocator, OsImpl, Platform, SpinLock,
};

const WORKERS: usize = 2;
const MIN_REENTRIES: usize = 100;
const TIME_LIMIT: Duration = Duration::from_secs(6);

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(usize::MAX) };
    static PREEMPT_COUNT: Cell<usize> = const { Cell::new(0) };
    static SLOT: ContextSlot = const { ContextSlot::new() };
}

fn index() -> Option<usize> {
    Some(INDEX.get()).filter(|index| *index != usize::MAX)
}

/// *Thread*: the index is the thread's own. With magazines or without.
struct ThreadWay<const MAGAZINES: bool>;
// SAFETY: each worker sets an index of its own once, before it allocates; a signal handler runs
// on the worker that it interrupted and ends before that goes on.
unsafe impl<const MAGAZINES: bool> Platform for ThreadWay<MAGAZINES> {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    const MAGAZINES: bool = MAGAZINES;
    fn pin(&self) -> ((), Option<usize>) {
        ((), index())
    }
    fn unpin(&self, (): ()) {}
}

/// *Pinned*, with a real count of nested pins that must balance, handlers included.
struct PinnedWay;
// SAFETY: as `ThreadWay`: a worker stands for a CPU.
unsafe impl Platform for PinnedWay {
    type Lock = SpinLock;
    type Pin = usize;
    const ACCESS: Access = Access::Exclusive;
    fn pin(&self) -> (usize, Option<usize>) {
        let depth = PREEMPT_COUNT.get();
        PREEMPT_COUNT.set(depth + 1);
        (depth, index())
    }
    fn unpin(&self, depth: usize) {
        assert_eq!(PREEMPT_COUNT.get(), depth + 1, "pins nest");
        PREEMPT_COUNT.set(depth);
    }
}

/// *Locked* with a context token; the index is stale half of the time.
struct LockedWay(AtomicUsize);
// SAFETY: the slot is the thread's own; a signal handler returns that of the thread which it
// interrupted, since it runs there.
unsafe impl Platform for LockedWay {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Locked;
    fn pin(&self) -> ((), Option<usize>) {
        let lie = self.0.fetch_add(1, Ordering::Relaxed) % 4;
        ((), index().map(|index| if lie == 0 { lie } else { index }))
    }
    fn unpin(&self, (): ()) {}
    fn context(&self) -> Option<&ContextSlot> {
        // SAFETY: thread-local storage outlives every use of it by its own thread, and the
        // allocator keeps the reference only for one call.
        Some(SLOT.with(|slot| unsafe { &*std::ptr::from_ref(slot) }))
    }
}

/// *Locked* as published: no token. Attempts are bounded, and may end in `NoMemory`.
struct Published;
impl OsImpl for Published {
    fn current_cpu_idx(&self) -> usize {
        index().unwrap_or(0)
    }
    fn virt_to_phys(&self, vaddr: usize) -> usize {
        vaddr
    }
}

/// What the handlers did.
struct Counts {
    requests: AtomicUsize,
    failures: AtomicUsize,
    corrupted: AtomicUsize,
}

static COUNTS: Counts = Counts {
    requests: AtomicUsize::new(0),
    failures: AtomicUsize::new(0),
    corrupted: AtomicUsize::new(0),
};

/// What a handler does; set for the test that runs. Only one runs at a time.
static HANDLER: std::sync::Mutex<()> = std::sync::Mutex::new(());
static WORK: std::sync::atomic::AtomicPtr<()> =
    std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());

trait Heap: Sync {
    fn get(&self, layout: Layout) -> AllocResult<NonNull<u8>>;
    unsafe fn put(&self, object: NonNull<u8>, layout: Layout);
    fn get_pages(&self, count: usize) -> AllocResult<usize>;
    fn put_pages(&self, addr: usize, count: usize);
}

impl<P: Platform> Heap for GlobalAllocator<4096, P> {
    fn get(&self, layout: Layout) -> AllocResult<NonNull<u8>> {
        self.alloc(layout)
    }
    unsafe fn put(&self, object: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's condition is the same.
        unsafe { self.dealloc(object, layout) }
    }
    fn get_pages(&self, count: usize) -> AllocResult<usize> {
        self.alloc_pages(count, 0)
    }
    fn put_pages(&self, addr: usize, count: usize) {
        self.dealloc_pages(addr, count);
    }
}

fn fill(object: NonNull<u8>, layout: Layout) {
    // SAFETY: just allocated with this layout.
    unsafe { object.as_ptr().write_bytes(object.addr().get() as u8 ^ 0x5A, layout.size()) };
}

fn intact(object: NonNull<u8>, layout: Layout) -> bool {
    let pattern = object.addr().get() as u8 ^ 0x5A;
    // SAFETY: live, and filled by `fill`.
    let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), layout.size()) };
    bytes.iter().all(|byte| *byte == pattern)
}

fn layout_of(seed: usize) -> Layout {
    let sizes = [8, 24, 64, 200, 1024, 4096, 9000, 70_000];
    Layout::from_size_align(sizes[seed % sizes.len()], 8).expect("a layout")
}

fn handler_body<H: Heap>(heap: &H) {
    let seed = COUNTS.requests.fetch_add(2, Ordering::Relaxed);
    let layout = layout_of(seed / 2);
    match heap.get(layout) {
        Ok(object) => {
            fill(object, layout);
            if !intact(object, layout) {
                COUNTS.corrupted.fetch_add(1, Ordering::Relaxed);
            }
            // SAFETY: allocated above with this layout.
            unsafe { heap.put(object, layout) };
        }
        Err(_) => {
            COUNTS.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
    let count = 1 + seed % 3;
    match heap.get_pages(count) {
        Ok(addr) => heap.put_pages(addr, count),
        Err(_) => {
            COUNTS.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn handler_of<P: Platform>(heap: *const ()) {
    // SAFETY: the test that set it keeps the heap for ever.
    handler_body(unsafe { &*heap.cast::<GlobalAllocator<4096, P>>() });
}

static BODY: std::sync::atomic::AtomicPtr<()> =
    std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());

extern "C" fn on_signal(_: libc::c_int) {
    let body = BODY.load(Ordering::Acquire);
    if !body.is_null() {
        // SAFETY: only `deliver` stores here, and only such functions.
        let body = unsafe { std::mem::transmute::<*mut (), fn(*const ())>(body) };
        body(WORK.load(Ordering::Acquire));
    }
}

fn worker<P: Platform>(heap: &GlobalAllocator<4096, P>, number: usize, stop: &AtomicBool) {
    INDEX.set(number);
    let mut live: Vec<(NonNull<u8>, Layout)> = Vec::new();
    let mut state = number as u64;
    while !stop.load(Ordering::Relaxed) {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let round = (state >> 32) as usize;
        if live.len() < 400 && round % 5 < 3 {
            let layout = layout_of(round >> 8);
            if let Ok(object) = heap.alloc(layout) {
                fill(object, layout);
                live.push((object, layout));
            }
        } else if !live.is_empty() {
            let (object, layout) = live.swap_remove((round >> 4) % live.len());
            assert!(intact(object, layout), "an object was overwritten");
            // SAFETY: allocated above with this layout.
            unsafe { heap.dealloc(object, layout) };
        }
        if round.is_multiple_of(7)
            && let Ok(addr) = heap.alloc_pages(2, 0)
        {
            heap.dealloc_pages(addr, 2);
        }
    }
    for (object, layout) in live {
        // SAFETY: allocated above with this layout.
        unsafe { heap.dealloc(object, layout) };
    }
}

/// Runs workers under fire until enough signals have hit the allocator from inside.
fn deliver<P: Platform>(heap: &'static GlobalAllocator<4096, P>, enough: impl Fn() -> bool) {
    let _alone = HANDLER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for count in [&COUNTS.requests, &COUNTS.failures, &COUNTS.corrupted] {
        count.store(0, Ordering::Relaxed);
    }
    WORK.store(std::ptr::from_ref(heap).cast_mut().cast(), Ordering::Release);
    BODY.store(handler_of::<P> as *mut (), Ordering::Release);
    // SAFETY: a handler that touches only atomics, thread-locals without destructors, and the
    // allocator under test.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || worker(heap, number, &stop))
        })
        .collect();
    while !enough() && started.elapsed() < TIME_LIMIT {
        for worker in &workers {
            // SAFETY: the thread has not been joined.
            unsafe { libc::pthread_kill(worker.as_pthread_t(), libc::SIGUSR1) };
        }
        for _ in 0..200 {
            std::hint::spin_loop();
        }
    }
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().expect("a worker");
    }
    BODY.store(std::ptr::null_mut(), Ordering::Release);
}

fn region() -> (*mut u8, usize) {
    let region = testkit::Region::new(64 << 20).leak();
    (region.as_mut_ptr(), region.len())
}

/// Everything is free again, and the equations hold.
fn check_at_rest<P: Platform>(heap: &GlobalAllocator<4096, P>) {
    for cpu in 0..WORKERS {
        INDEX.set(cpu);
        heap.cpu_offline(cpu).expect("a CPU");
    }
    INDEX.set(0);
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0, "everything was freed");
    assert_eq!(heap.misuse_count(), 0);
    assert_eq!(COUNTS.corrupted.load(Ordering::Relaxed), 0);
}

fn fire_at<P: Platform>(platform: P) {
    let heap = Box::leak(Box::new(GlobalAllocator::with_platform(platform)));
    let (base, len) = region();
    // SAFETY: a leaked region of that length.
    unsafe { heap.init_raw(base, len, WORKERS) }.expect("init");
    let heap = &*heap;
    // A worker that loses its processor inside the allocator makes several requests of the other's
    // handlers fail in a row: their share counts in the long run.
    let few_failed = || {
        let counts = [&COUNTS.requests, &COUNTS.failures];
        let [requests, failures] = counts.map(|count| count.load(Ordering::Relaxed));
        (failures * 1000 <= requests, requests, failures)
    };
    deliver(heap, || heap.reentry_count() >= 10 * MIN_REENTRIES && few_failed().0);
    let (few, requests, failures) = few_failed();
    println!("{} re-entries, {requests} requests, {failures} failed", heap.reentry_count());
    assert!(heap.reentry_count() >= MIN_REENTRIES, "too few handlers hit the allocator");
    assert!(few, "{failures} of {requests} requests failed");
    check_at_rest(heap);
}

#[test]
fn handlers_reenter_thread_heaps() {
    fire_at(ThreadWay::<false>);
}

#[test]
fn handlers_reenter_heaps_with_magazines() {
    fire_at(ThreadWay::<true>);
}

#[test]
fn handlers_reenter_pinned_heaps() {
    fire_at(PinnedWay);
}

#[test]
fn handlers_reenter_locked_heaps_that_have_a_token() {
    fire_at(LockedWay(AtomicUsize::new(0)));
}

/// Without a token a handler cannot know what it interrupted: it may be refused, it may take a
/// while, but it comes back, and nothing is lost.
#[test]
fn handlers_reenter_published_heaps_without_deadlock() {
    static OS: Published = Published;
    let heap: &'static GlobalAllocator = Box::leak(Box::new(GlobalAllocator::new()));
    let (base, len) = region();
    // SAFETY: a leaked region of that length.
    unsafe { heap.init_raw_with(base, len, WORKERS, &OS) }.expect("init");
    let enough = || COUNTS.requests.load(Ordering::Relaxed) >= 10_000;
    deliver(heap, enough);
    let requests = COUNTS.requests.load(Ordering::Relaxed);
    println!("{requests} requests, {} failed", COUNTS.failures.load(Ordering::Relaxed));
    assert!(requests > 0, "no handler ran");
    check_at_rest(heap);
}
