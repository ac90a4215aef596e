//! What happens before a request fails, in order: this CPU's caches, other CPUs' caches, empty
//! slabs, the user's callback; then `NoMemory`, and everything is as it was.
#![cfg(not(loom))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use buddy_slab_allocator::{
    AllocError, GlobalAllocator, OsPlatform, PageOptions, Platform, SizeClass, Watermarks, Zone,
};
use common::{
    LockedSim, MIB, PAGE, PinnedSim, Random, free_objects, free_pages, layout, locks_held,
    managed_pages, objects, on, take_all_pages,
};

/// A callback that must not be needed.
fn never() -> bool {
    panic!("the callback was asked though the heap keeps enough");
}

/// Pages kept as single ones serve a request for one large block.
#[test]
fn own_page_lists_serve_before_the_callback_is_asked() {
    let heap = common::heap_on(PinnedSim::default(), 2 * MIB, 1);
    let largest = (1..).take_while(|order| {
        heap.alloc_pages(1 << order, 0).map(|at| heap.dealloc_pages(at, 1 << order)).is_ok()
    });
    let largest = 1 << largest.last().expect("a block");
    for count in [1, 2, 4, 8] {
        let some: Vec<_> = (0..24 / count).map(|_| heap.alloc_pages(count, 0)).collect();
        some.into_iter().flatten().for_each(|at| heap.dealloc_pages(at, count));
    }
    assert!(heap.snapshot().cached_pages > 0);
    heap.set_reclaim(Some(never));
    let block = heap.alloc_pages(largest, 0).expect("the same block as at first");
    heap.set_reclaim(None);
    heap.dealloc_pages(block, largest);
    common::check_all_free(heap);
}

#[test]
fn other_cpus_caches_serve_before_the_callback_is_asked() {
    let heap = common::heap_on(LockedSim::default(), 2 * MIB, 4);
    for round in 0..3 {
        let mut taken = Vec::new();
        for cpu in 0..4 {
            taken.push(on(cpu, || (0..40).map(|_| heap.alloc_pages(1, 0)).collect::<Vec<_>>()));
        }
        for (cpu, pages) in taken.into_iter().enumerate() {
            on(cpu, || pages.into_iter().flatten().for_each(|page| heap.dealloc_pages(page, 1)));
        }
        assert!(heap.snapshot().cached_pages > 0);
        let managed = managed_pages(heap);
        heap.set_reclaim(Some(never));
        let all = on(0, || (0..managed).map(|_| heap.alloc_pages(1, 0)).collect::<Vec<_>>());
        assert!(all.iter().all(Result::is_ok), "round {round}");
        heap.set_reclaim(None);
        all.into_iter().flatten().for_each(|page| heap.dealloc_pages(page, 1));
    }
    common::check_all_free(heap);
}

#[test]
fn empty_slabs_serve_before_the_callback_is_asked() {
    let heap = common::heap_on(LockedSim::default(), 8 * MIB, 2);
    for cpu in 0..2 {
        on(cpu, || {
            for class in SizeClass::ALL {
                let many = objects(heap, layout(class.size(), 8), 20);
                free_objects(heap, layout(class.size(), 8), &many);
            }
        });
    }
    let kept = heap.allocated_bytes();
    assert!(kept > 0, "an empty slab of each class is kept warm");
    let managed = managed_pages(heap);
    heap.set_reclaim(Some(never));
    let all: Vec<_> = (0..managed).map(|_| heap.alloc_pages(1, 0)).collect();
    assert!(all.iter().all(Result::is_ok));
    heap.set_reclaim(None);
    all.into_iter().flatten().for_each(|page| heap.dealloc_pages(page, 1));
    common::check_all_free(heap);
}

/// An object of a class whose slabs are full comes from the empty slab of another class.
#[test]
fn empty_slabs_of_one_class_serve_another() {
    let heap = common::heap_on(PinnedSim::default(), MIB, 1);
    let (small, big) = (layout(32, 8), layout(3000, 8));
    let mut some: Vec<_> = std::iter::from_fn(|| heap.alloc(small).ok()).collect();
    let kept = some.split_off(some.len() - 10);
    free_objects(heap, small, &some);
    heap.set_reclaim(Some(never));
    let served = objects(heap, big, 100);
    heap.set_reclaim(None);
    free_objects(heap, big, &served);
    free_objects(heap, small, &kept);
    common::check_all_free(heap);
}

mod callback {
    use super::*;

    type Heap = GlobalAllocator<PAGE, LockedSim>;

    /// One story at a time: callbacks are plain functions, so what they need is in statics.
    static ALONE: Mutex<()> = Mutex::new(());
    static HEAP: OnceLock<&'static Heap> = OnceLock::new();
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    static INSIDE: AtomicBool = AtomicBool::new(false);
    static HOARD: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    static MANAGED: AtomicUsize = AtomicUsize::new(0);

    fn story(body: impl FnOnce(&'static Heap)) {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let heap = *HEAP.get_or_init(|| common::heap_on(LockedSim::default(), MIB, 2));
        MANAGED.store(managed_pages(heap), Ordering::Relaxed);
        ASKED.store(0, Ordering::Relaxed);
        heap.set_reclaim(None);
        body(heap);
        heap.set_reclaim(None);
        free_pages(heap, &HOARD.lock().expect("the hoard").split_off(0));
        common::check_all_free(heap);
    }

    fn heap() -> &'static Heap {
        HEAP.get().expect("the story's heap")
    }

    fn hoard(heap: &Heap) {
        *HOARD.lock().expect("the hoard") = take_all_pages(heap);
    }

    fn from_hoard(count: usize) -> Vec<usize> {
        let mut hoard = HOARD.lock().expect("the hoard");
        let left = hoard.len().saturating_sub(count);
        hoard.split_off(left)
    }

    fn free_a_page() -> bool {
        ASKED.fetch_add(1, Ordering::Relaxed);
        assert_eq!(locks_held(), 0, "the callback runs with no lock held");
        let pages = from_hoard(1);
        free_pages(heap(), &pages);
        !pages.is_empty()
    }

    #[test]
    fn it_is_asked_last_and_what_it_frees_serves_the_request() {
        story(|heap| {
            hoard(heap);
            heap.set_reclaim(Some(free_a_page));
            let page = heap.alloc_pages(1, 0).expect("what the callback freed");
            assert_eq!(ASKED.load(Ordering::Relaxed), 1, "once was enough");
            heap.dealloc_pages(page, 1);
            let page = heap.alloc_pages(1, 0).expect("the free page");
            assert_eq!(ASKED.load(Ordering::Relaxed), 1, "it was not needed");
            // An object too: its slab needs pages, and a descriptor.
            let object = heap.alloc(layout(64, 8)).expect("after another round or two");
            assert!(ASKED.load(Ordering::Relaxed) <= 4);
            free_objects(heap, layout(64, 8), &[object]);
            heap.dealloc_pages(page, 1);
        });
    }

    fn promise_much() -> bool {
        ASKED.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn promise_nothing() -> bool {
        ASKED.fetch_add(1, Ordering::Relaxed);
        false
    }

    #[test]
    fn it_is_asked_at_most_three_times_for_one_request() {
        story(|heap| {
            hoard(heap);
            for (callback, most) in [(promise_much as fn() -> bool, 3), (promise_nothing, 2)] {
                heap.set_reclaim(Some(callback));
                for request in [layout(64, 8), layout(2 * PAGE, 8), layout(20 * PAGE, 8)] {
                    ASKED.store(0, Ordering::Relaxed);
                    assert_eq!(heap.alloc(request), Err(AllocError::NoMemory));
                    let asked = ASKED.load(Ordering::Relaxed);
                    assert!((1..=most).contains(&asked), "asked {asked} times");
                }
                ASKED.store(0, Ordering::Relaxed);
                assert_eq!(heap.alloc_pages(1, 0), Err(AllocError::NoMemory));
                assert!((1..=most).contains(&ASKED.load(Ordering::Relaxed)));
                heap.check_invariants();
            }
        });
    }

    fn reenter() -> bool {
        ASKED.fetch_add(1, Ordering::Relaxed);
        assert!(!INSIDE.swap(true, Ordering::Relaxed), "it was called from within itself");
        assert_eq!(locks_held(), 0);
        // What cannot be served fails here, and does not come back to this function.
        assert_eq!(
            heap().alloc_pages(MANAGED.load(Ordering::Relaxed), 0),
            Err(AllocError::NoMemory)
        );
        assert_eq!(heap().alloc(layout(MIB, 8)), Err(AllocError::NoMemory));
        INSIDE.store(false, Ordering::Relaxed);
        false
    }

    #[test]
    fn it_is_not_called_from_within_itself() {
        story(|heap| {
            hoard(heap);
            heap.set_reclaim(Some(reenter));
            assert_eq!(heap.alloc_pages(2, 0), Err(AllocError::NoMemory));
            assert!(ASKED.load(Ordering::Relaxed) >= 1);
        });
    }

    fn use_the_heap() -> bool {
        ASKED.fetch_add(1, Ordering::Relaxed);
        let heap = heap();
        free_pages(heap, &from_hoard(40));
        // Everything may be called: objects, pages, handles, queries, other reclaim.
        for size in [8, 100, 4096, 9000] {
            let some = objects(heap, layout(size, 8), 3);
            free_objects(heap, layout(size, 8), &some);
        }
        drop(heap.alloc_page().expect("a page"));
        heap.shrink();
        heap.idle(1).expect("CPU 1");
        assert!(heap.snapshot().free_blocks.iter().flatten().sum::<usize>() > 0);
        heap.check_invariants();
        // And from other CPUs at the same time, which would wait for ever for a held lock.
        testkit::watchdog::within(10, move || {
            for cpu in 0..2 {
                common::set_cpu(Some(cpu));
                let some = objects(heap, layout(64, 8), 5);
                free_objects(heap, layout(64, 8), &some);
                let page = heap.alloc_pages(3, 0).expect("pages");
                heap.dealloc_pages(page, 3);
                heap.cpu_offline(cpu).expect("a CPU");
            }
        });
        true
    }

    #[test]
    fn it_may_use_the_heap_in_every_way() {
        story(|heap| {
            hoard(heap);
            heap.set_reclaim(Some(use_the_heap));
            let page = heap.alloc_pages(1, 0).expect("what the callback freed");
            assert_eq!(ASKED.load(Ordering::Relaxed), 1);
            heap.dealloc_pages(page, 1);
        });
    }

    #[test]
    fn a_request_may_forbid_it() {
        story(|heap| {
            hoard(heap);
            heap.set_reclaim(Some(free_a_page));
            let options = PageOptions { reclaim: false, ..PageOptions::default() };
            assert_eq!(heap.alloc_pages_with(1, &options), Err(AllocError::NoMemory));
            assert!(heap.alloc_block_of(1, &options).is_err());
            assert_eq!(ASKED.load(Ordering::Relaxed), 0);
            let options = PageOptions::default();
            let page = heap.alloc_pages_with(1, &options).expect("with reclaim");
            assert_eq!(ASKED.load(Ordering::Relaxed), 1);
            heap.dealloc_pages(page, 1);
        });
    }

    /// Requests that can never be served do not ask anybody.
    #[test]
    fn it_is_not_asked_for_what_is_invalid() {
        story(|heap| {
            heap.set_reclaim(Some(promise_much));
            assert_eq!(heap.alloc_pages(0, 0), Err(AllocError::InvalidParam));
            assert_eq!(heap.alloc_pages(1, 3), Err(AllocError::InvalidParam));
            assert_eq!(heap.alloc_pages((1 << 20) + 1, 0), Err(AllocError::InvalidParam));
            assert!(heap.alloc_pages(usize::MAX, 0).is_err());
            // On 32 bits even these are within 2^20 pages, and so merely too much.
            #[cfg(target_pointer_width = "64")]
            {
                assert!(heap.alloc(layout(isize::MAX as usize - 7, 8)).is_err());
                assert_eq!(heap.alloc(layout(1, 1 << 40)), Err(AllocError::InvalidParam));
            }
            assert_eq!(ASKED.load(Ordering::Relaxed), 0);
        });
    }

    fn slow_and_generous() -> bool {
        ASKED.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
        let pages = from_hoard(4);
        free_pages(heap(), &pages);
        !pages.is_empty()
    }

    /// Two requests at once: the callback runs for one of them, and the other may fail meanwhile;
    /// neither hangs, and what is freed serves.
    #[test]
    fn requests_of_two_cpus_share_it() {
        story(|heap| {
            hoard(heap);
            heap.set_reclaim(Some(slow_and_generous));
            let served = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for cpu in 0..2 {
                    let served = &served;
                    scope.spawn(move || {
                        common::set_cpu(Some(cpu));
                        // How many fail beside the other's callback says the machine.
                        let start = Instant::now();
                        while served.load(Ordering::Relaxed) < 40 {
                            if let Ok(page) = heap.alloc_pages(1, 0) {
                                HOARD.lock().expect("the hoard").push(page);
                                served.fetch_add(1, Ordering::Relaxed);
                            } else {
                                assert!(start.elapsed() < Duration::from_secs(60), "{served:?}");
                                std::thread::yield_now();
                            }
                        }
                    });
                }
            });
            assert!(ASKED.load(Ordering::Relaxed) >= 1, "it was full");
        });
    }
}

#[test]
fn shrink_reports_what_came_back() {
    for size in [16, 200, 4096, 20_000] {
        let heap = common::pinned(16 * MIB, 2);
        let free =
            || Zone::ALL.into_iter().map(|zone| heap.zone_free_pages(0, zone)).sum::<usize>();
        let some = objects(heap, layout(size, 8), 500);
        let pages: Vec<_> = (0..50).map(|_| heap.alloc_pages(2, 0).expect("pages")).collect();
        free_objects(heap, layout(size, 8), &some[..499]);
        pages.iter().for_each(|at| heap.dealloc_pages(*at, 2));
        let before = free();
        let reported = heap.shrink();
        assert_eq!(reported, (free() - before) * PAGE, "{size}");
        assert!(reported > 0);
        assert_eq!(heap.shrink(), 0, "{size}: there is no more");
        free_objects(heap, layout(size, 8), &some[499..]);
        let before = free();
        assert_eq!(heap.shrink(), (managed_pages(heap) - before) * PAGE, "{size}: all is free");
        common::check_all_free(heap);
    }
}

/// `shrink` also brings what a running CPU keeps, by the hook, and what this CPU owes it.
#[test]
fn shrink_asks_running_cpus() {
    let heap = common::pinned(4 * MIB, 3);
    common::enable_hook(heap);
    let many = on(1, || objects(heap, layout(64, 8), 2000));
    on(0, || free_objects(heap, layout(64, 8), &many));
    let pages = on(2, || (0..30).map(|_| heap.alloc_pages(1, 0)).collect::<Vec<_>>());
    on(2, || pages.into_iter().flatten().for_each(|page| heap.dealloc_pages(page, 1)));
    on(0, || heap.shrink());
    assert_eq!((heap.allocated_bytes(), heap.snapshot().cached_pages), (0, 0));
}

/// Requests of every kind until each has failed often: after each failure all equations hold, and
/// what was live is untouched.
fn fail_often<P: Platform>(heap: &GlobalAllocator<PAGE, P>, cpus: usize) {
    let mut random = Random(0xFA11);
    let mut live: Vec<(NonNull<u8>, Layout, u8)> = Vec::new();
    let mut pages: Vec<(usize, usize)> = Vec::new();
    let mut failures = 0;
    while failures < 150 {
        common::set_cpu(Some(random.below(cpus)));
        let scale = 8 << random.below(15);
        let layout = layout(1 + random.below(scale), 1 << random.below(14));
        let failed = match random.below(7) {
            0 if !live.is_empty() => {
                let (ptr, layout, mark) = live.swap_remove(random.below(live.len()));
                // SAFETY: live, filled below with `mark`.
                unsafe {
                    let last = ptr.as_ptr().add(layout.size() - 1);
                    assert_eq!((*ptr.as_ptr(), *last), (mark, mark));
                    heap.dealloc(ptr, layout);
                }
                false
            }
            1 => {
                let count = 1 + random.below(20);
                heap.alloc_pages(count, 0).map(|at| pages.push((at, count))).is_err()
            }
            2 if !live.is_empty() => {
                let at = random.below(live.len());
                let (ptr, layout, mark) = live[at];
                // SAFETY: live; on failure it stays as it was.
                match unsafe { heap.realloc(ptr, layout, layout.size() * 2) } {
                    Err(_) => true,
                    Ok(moved) => {
                        let layout = common::layout(layout.size() * 2, layout.align());
                        // SAFETY: of the new size.
                        unsafe { moved.as_ptr().write_bytes(mark, layout.size()) };
                        live[at] = (moved, layout, mark);
                        false
                    }
                }
            }
            _ => match heap.alloc(layout) {
                Err(error) => {
                    assert_eq!(error, AllocError::NoMemory);
                    true
                }
                Ok(ptr) => {
                    let mark = random.next() as u8;
                    // SAFETY: just allocated.
                    unsafe { ptr.as_ptr().write_bytes(mark, layout.size()) };
                    live.push((ptr, layout, mark));
                    false
                }
            },
        };
        if failed {
            failures += 1;
            heap.check_invariants();
            if failures % 50 == 0 {
                for (at, count) in pages.split_off(pages.len() / 2) {
                    heap.dealloc_pages(at, count);
                }
            }
        }
    }
    for (ptr, layout, _) in live {
        // SAFETY: live.
        unsafe { heap.dealloc(ptr, layout) };
    }
    pages.into_iter().for_each(|(at, count)| heap.dealloc_pages(at, count));
    for cpu in 0..cpus {
        on(cpu, || heap.cpu_offline(cpu)).expect("a CPU");
    }
    common::set_cpu(Some(0));
    common::check_all_free(heap);
}

#[test]
fn failing_requests_leave_everything_consistent() {
    fail_often(common::heap_on(PinnedSim::default(), MIB, 3), 3);
    fail_often(common::heap_on(LockedSim::default(), MIB, 3), 3);
    fail_often(common::heap_on(PinnedSim::default(), 200 << 10, 1), 1);
}

/// A bulk request that fails half-way says how much it got.
#[test]
fn a_bulk_request_that_meets_the_end_says_how_much_it_got() {
    let heap = common::heap_on(PinnedSim::default(), MIB, 1);
    let managed = managed_pages(heap);
    let mut pages = vec![0; managed + 10];
    assert_eq!(heap.alloc_pages_bulk(&mut pages), Ok(managed));
    assert_eq!(heap.alloc_pages_bulk(&mut [0; 4]), Err(AllocError::NoMemory));
    heap.dealloc_pages_bulk(&pages[..managed]);
    let mut room = vec![std::mem::MaybeUninit::uninit(); 1000];
    let got = heap.alloc_bulk(layout(4000, 8), &mut room).expect("some");
    assert!(got > 200 && got < 1000, "{got}");
    assert_eq!(heap.alloc_bulk(layout(4000, 8), &mut room[got..]), Err(AllocError::NoMemory));
    // SAFETY: the first `got` were written.
    let some: Vec<_> = room[..got].iter().map(|place| unsafe { place.assume_init() }).collect();
    // SAFETY: live, of this layout.
    unsafe { heap.dealloc_bulk(layout(4000, 8), &some) };
    common::check_all_free(heap);
}

/// The reserve is not touched by objects either, and reclaim gives pages to it first.
#[test]
fn ordinary_requests_of_every_kind_leave_the_reserve() {
    let heap = common::heap_on(PinnedSim::default(), 2 * MIB, 1);
    for zone in Zone::ALL {
        heap.set_watermarks(0, zone, Watermarks { min_pages: 100, low_pages: 120 });
    }
    let free = || Zone::ALL.into_iter().map(|zone| heap.zone_free_pages(0, zone)).sum::<usize>();
    let small = layout(64, 8);
    let some: Vec<_> = std::iter::from_fn(|| heap.alloc(small).ok()).collect();
    assert!(free() >= 100, "{} pages left by objects", free());
    assert!(heap.alloc(layout(PAGE * 9, 8)).is_err());
    assert_eq!(heap.alloc_pages(1, 0), Err(AllocError::NoMemory));
    let options = PageOptions { use_reserve: true, ..PageOptions::default() };
    let reserve: Vec<_> = std::iter::from_fn(|| heap.alloc_pages_with(1, &options).ok()).collect();
    assert!(reserve.len() >= 100);
    free_pages(heap, &reserve);
    free_objects(heap, small, &some);
    for zone in Zone::ALL {
        heap.set_watermarks(0, zone, Watermarks { min_pages: 0, low_pages: 0 });
    }
    common::check_all_free(heap);
}

/// The global allocator of this test program: the system's, except where a test asks for a small
/// heap of ours.
struct Switch;
static SMALL: GlobalAllocator = GlobalAllocator::with_platform(OsPlatform::new());
static SMALL_RANGE: OnceLock<std::ops::Range<usize>> = OnceLock::new();
thread_local! {
    static USE_SMALL: Cell<bool> = const { Cell::new(false) };
}

fn is_small(ptr: *mut u8) -> bool {
    SMALL_RANGE.get().is_some_and(|range| range.contains(&ptr.addr()))
}

// SAFETY: each block goes back to where it came from, by its address.
unsafe impl GlobalAlloc for Switch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's conditions are the same.
        unsafe {
            if USE_SMALL.try_with(Cell::get).unwrap_or(false) {
                GlobalAlloc::alloc(&SMALL, layout)
            } else {
                System.alloc(layout)
            }
        }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's conditions are the same.
        unsafe {
            if is_small(ptr) {
                GlobalAlloc::dealloc(&SMALL, ptr, layout)
            } else {
                System.dealloc(ptr, layout)
            }
        }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's conditions are the same.
        unsafe {
            if is_small(ptr) {
                GlobalAlloc::realloc(&SMALL, ptr, layout, new_size)
            } else {
                System.realloc(ptr, layout, new_size)
            }
        }
    }
}

#[global_allocator]
static GLOBAL: Switch = Switch;

#[test]
fn try_reserve_gets_an_error_and_no_panic() {
    let region = testkit::Region::new(MIB).leak();
    let range = region.as_ptr().addr()..region.as_ptr().addr() + region.len();
    SMALL_RANGE.set(range).expect("once");
    // SAFETY: the region is leaked.
    unsafe { SMALL.init_raw(region.as_mut_ptr(), region.len(), 0) }.expect("init");
    let outcome = {
        USE_SMALL.set(true);
        let mut vec: Vec<u8> = Vec::new();
        let too_much = vec.try_reserve(2 * MIB).is_err();
        let absurd = vec.try_reserve(isize::MAX as usize).is_err();
        let enough = vec.try_reserve(100_000).is_ok();
        vec.resize(100_000, 7);
        let grown = vec.try_reserve_exact(2 * MIB).is_err();
        let intact = vec.len() == 100_000 && vec.iter().all(|byte| *byte == 7);
        let mut list = std::collections::VecDeque::<[u8; 500]>::new();
        let mut pushed = 0;
        while list.try_reserve(1).is_ok() {
            list.push_back([3; 500]);
            pushed += 1;
        }
        let kept = list.iter().flatten().all(|byte| *byte == 3);
        let mut string = String::new();
        let text = string.try_reserve(2 * MIB).is_err();
        drop((vec, list, string));
        USE_SMALL.set(false);
        (too_much, absurd, enough, grown, intact, pushed, kept, text)
    };
    let (too_much, absurd, enough, grown, intact, pushed, kept, text) = outcome;
    assert!(too_much && absurd && enough && grown && intact && kept && text, "{outcome:?}");
    assert!(pushed > 200, "{pushed}");
    SMALL.shrink();
    SMALL.check_invariants();
    assert_eq!(SMALL.allocated_bytes(), 0);
}
