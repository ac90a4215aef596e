//! The edges: `GlobalAlloc`, both `Allocator` traits, object caches, bulk requests, sizes and
//! alignments, `realloc`, locks of other crates.
#![cfg(not(loom))]
#![cfg_attr(feature = "nightly", feature(allocator_api))]

mod common;

use std::alloc::{GlobalAlloc, Layout};
use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::{
    AllocError, CacheBox, GlobalAllocator, Misuse, ObjectCache, OsPlatform, SizeClass,
};
use common::{LockedSim, MIB, PAGE, PinnedSim, Random, free_objects, layout, objects, on};

type Pinned = GlobalAllocator<PAGE, PinnedSim>;

fn heap(bytes: usize) -> &'static Pinned {
    common::heap_on(PinnedSim::default(), bytes, 2)
}

fn fill(object: NonNull<u8>, len: usize, mark: u8) {
    // SAFETY: tests pass live objects of at least this length.
    unsafe { object.as_ptr().write_bytes(mark, len) };
}

fn holds(object: NonNull<u8>, len: usize, mark: u8) -> bool {
    // SAFETY: as for `fill`.
    let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), len) };
    bytes.iter().all(|byte| *byte == mark)
}

// ---- GlobalAlloc

#[test]
fn global_alloc_serves_and_answers_null_when_it_cannot() {
    let heap = heap(MIB);
    let too_large = layout(2 * MIB, 8);
    // SAFETY: sizes are not zero; each object is freed once, with its layout.
    unsafe {
        assert!(GlobalAlloc::alloc(heap, too_large).is_null());
        assert!(GlobalAlloc::alloc_zeroed(heap, too_large).is_null());
        assert!(GlobalAlloc::alloc(heap, layout(1, 1 << (usize::BITS - 2))).is_null());
        for size in [1, 8, 100, 4096, 40_000, 100_000] {
            let object = GlobalAlloc::alloc_zeroed(heap, layout(size, 16));
            let zeroed = NonNull::new(object).expect("memory");
            assert!(holds(zeroed, size, 0));
            fill(zeroed, size, 0x3C);
            assert!(GlobalAlloc::realloc(heap, object, layout(size, 16), 2 * MIB).is_null());
            assert!(holds(zeroed, size, 0x3C), "a failed realloc leaves the object");
            let larger = GlobalAlloc::realloc(heap, object, layout(size, 16), size * 2);
            assert!(holds(NonNull::new(larger).expect("memory"), size, 0x3C));
            GlobalAlloc::dealloc(heap, larger, layout(size * 2, 16));
        }
        // What the edge does with null is nothing.
        GlobalAlloc::dealloc(heap, std::ptr::null_mut(), layout(8, 8));
        assert!(GlobalAlloc::realloc(heap, std::ptr::null_mut(), layout(8, 8), 16).is_null());
    }
    common::check_all_free(heap);
}

// ---- Allocator

#[cfg(feature = "allocator-api2")]
mod api2 {
    use super::*;
    use allocator_api2::alloc::Allocator;
    use allocator_api2::boxed::Box;
    use allocator_api2::vec::Vec;

    #[test]
    fn collections_of_allocator_api2_live_on_the_heap() {
        let heap = heap(8 * MIB);
        let mut vec = Vec::new_in(heap);
        for number in 0..100_000u64 {
            vec.push(number);
        }
        assert!(vec.iter().copied().eq(0..100_000));
        vec.truncate(10);
        vec.shrink_to_fit();
        assert_eq!(vec.len(), 10);
        let nothing: Vec<(), &Pinned> =
            core::iter::repeat_n((), 5).fold(Vec::new_in(heap), |mut v, ()| {
                v.push(());
                v
            });
        let boxed = Box::new_in([7u8; 5000], heap);
        assert!(boxed.iter().all(|byte| *byte == 7));
        assert_eq!(nothing.len(), 5);
        assert!(heap.allocated_bytes() > 0);
        drop((vec, nothing, boxed));
        common::check_all_free(heap);
    }

    #[test]
    fn try_reserve_of_allocator_api2_gets_an_error() {
        let heap = heap(MIB);
        let mut vec: Vec<u8, _> = Vec::new_in(heap);
        assert!(vec.try_reserve(2 * MIB).is_err());
        assert!(vec.try_reserve(isize::MAX as usize).is_err());
        vec.try_reserve(MIB / 4).expect("memory");
        vec.resize(MIB / 4, 9);
        assert!(vec.try_reserve(MIB).is_err());
        assert!(vec.iter().all(|byte| *byte == 9));
        drop(vec);
        common::check_all_free(heap);
    }

    #[test]
    fn zero_sizes_need_no_memory_in_allocator_api2() {
        let heap: Pinned = GlobalAllocator::with_platform(PinnedSim::default());
        // Not even a region.
        for shift in 0..20 {
            let nothing = (&heap).allocate(layout(0, 1 << shift)).expect("nothing is needed");
            assert_eq!((nothing.len(), nothing.cast::<u8>().addr().get() % (1 << shift)), (0, 0));
            // SAFETY: allocated just above.
            unsafe { (&heap).deallocate(nothing.cast(), layout(0, 1 << shift)) };
            assert!((&heap).allocate_zeroed(layout(0, 1 << shift)).is_ok());
        }
        assert!((&heap).allocate(layout(1, 1)).is_err());
    }

    /// The defaults of the trait grow and shrink through our allocate and deallocate.
    #[test]
    fn grow_and_shrink_of_allocator_api2_keep_the_contents() {
        let heap = heap(4 * MIB);
        let mut size = 1;
        let mut object = heap.allocate_zeroed(layout(size, 8)).expect("memory").cast::<u8>();
        fill(object, size, 0x42);
        while size < MIB {
            // SAFETY: live, with its layout; then only the new one is used.
            let grown = unsafe { (&heap).grow(object, layout(size, 8), layout(size * 3, 8)) };
            object = grown.expect("memory").cast();
            assert!(holds(object, size, 0x42));
            size *= 3;
            fill(object, size, 0x42);
        }
        while size > 1 {
            // SAFETY: as above.
            let shrunk = unsafe { (&heap).shrink(object, layout(size, 8), layout(size / 3, 8)) };
            object = shrunk.expect("memory").cast();
            size /= 3;
            assert!(holds(object, size, 0x42));
        }
        // SAFETY: live, with its layout.
        unsafe { (&heap).deallocate(object, layout(size, 8)) };
        common::check_all_free(heap);
    }
}

#[cfg(feature = "nightly")]
#[test]
fn collections_of_the_standard_library_live_on_the_heap() {
    let heap = heap(8 * MIB);
    let mut vec = Vec::new_in(heap);
    vec.extend(0..50_000u32);
    let mut queue = std::collections::VecDeque::new_in(heap);
    queue.extend((0..5_000u32).map(|number| number * 2));
    let boxed = Box::new_in([1u64; 100], heap);
    assert!(vec.iter().copied().eq(0..50_000) && queue[77] == 154 && boxed[99] == 1);
    assert!(vec.try_reserve(1 << 30).is_err());
    drop((vec, queue, boxed));
    common::check_all_free(heap);
}

// ---- Object caches

static DROPPED: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug)]
struct Task {
    id: u32,
    name: String,
    stack: [u64; 20],
}

impl Drop for Task {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn new_task() -> Task {
    Task { id: 17, name: String::from("idle"), stack: [5; 20] }
}

/// A cache that lives for ever, as in a kernel's `static`.
fn cache_of<T>(
    name: &'static str,
    heap: &'static Pinned,
    construct: fn() -> T,
) -> &'static ObjectCache<T, PAGE, PinnedSim> {
    Box::leak(Box::new(ObjectCache::new(name, heap, construct)))
}

#[test]
fn an_object_cache_constructs_counts_and_drops() {
    let heap = heap(4 * MIB);
    let tasks = cache_of("task", heap, new_task);
    assert_eq!((tasks.name(), tasks.live()), ("task", 0));
    let before = DROPPED.load(Ordering::Relaxed);
    let mut task = tasks.alloc().expect("a task");
    assert_eq!((task.id, task.name.as_str(), task.stack), (17, "idle", [5; 20]));
    task.id = 18;
    task.name.push_str(" no more");
    assert_eq!(format!("{tasks:?}"), "ObjectCache(task, 1 live)");
    assert!(format!("{task:?}").contains("idle no more"));
    drop(task);
    assert_eq!((tasks.live(), DROPPED.load(Ordering::Relaxed) - before), (0, 1));
    // On one CPU made, on the other dropped.
    let many: Vec<_> = on(0, || (0..500).map(|_| tasks.alloc().expect("a task")).collect());
    assert_eq!(tasks.live(), 500);
    let addresses: HashSet<_> = many.iter().map(|task| std::ptr::from_ref::<Task>(task)).collect();
    assert_eq!(addresses.len(), 500, "each is another");
    on(1, || drop(many));
    assert_eq!(tasks.live(), 0);
    on(1, || heap.cpu_offline(1)).expect("a CPU");
    common::check_all_free(heap);
}

#[test]
fn a_cache_makes_many_at_once_until_memory_ends() {
    let heap = heap(MIB);
    let cache = cache_of("buffer", heap, || [0x55u8; 1000]);
    let mut room: Vec<MaybeUninit<CacheBox<'_, [u8; 1000], PAGE, PinnedSim>>> =
        (0..5000).map(|_| MaybeUninit::uninit()).collect();
    assert_eq!(cache.alloc_bulk(&mut room[..0]), 0);
    assert_eq!(cache.alloc_bulk(&mut room[..10]), 10);
    let more = cache.alloc_bulk(&mut room[10..]);
    assert!(more > 500 && more < 4990, "{more}");
    assert_eq!(cache.live(), 10 + more);
    assert!(cache.alloc().is_err());
    for place in &mut room[..10 + more] {
        // SAFETY: written by `alloc_bulk`, taken once.
        let buffer = unsafe { place.assume_init_read() };
        assert!(buffer.iter().all(|byte| *byte == 0x55));
    }
    assert_eq!(cache.live(), 0);
    common::check_all_free(heap);
}

#[test]
fn a_cache_aligns_its_objects() {
    let heap = heap(4 * MIB);
    for shift in [0, 3, 6, 10, 12, 13, 16] {
        let cache = ObjectCache::new("aligned", heap, || [1u8; 24]).aligned_to(1 << shift);
        let cache: &'static _ = Box::leak(Box::new(cache));
        let some: Vec<_> = (0..20).map(|_| cache.alloc().expect("an object")).collect();
        assert!(some.iter().all(|one| one.as_ptr().addr() % (1 << shift) == 0), "2^{shift}");
    }
    // Never below what the type asks for, and no nonsense.
    let cache: &'static _ =
        Box::leak(Box::new(ObjectCache::new("low", heap, || 1u128).aligned_to(1)));
    assert_eq!(std::ptr::from_ref::<u128>(&cache.alloc().expect("an object")).addr() % 16, 0);
    let odd: &'static _ =
        Box::leak(Box::new(ObjectCache::new("odd", heap, || 1u128).aligned_to(48)));
    assert_eq!(odd.alloc().err(), Some(AllocError::InvalidParam));
    // Types without size, and larger than any class.
    let nothing = cache_of("nothing", heap, || ());
    drop([nothing.alloc().expect("one"), nothing.alloc().expect("another")]);
    let large = cache_of("large", heap, || [9u8; 50_000]);
    assert!(large.alloc().expect("an object").iter().all(|byte| *byte == 9));
    common::check_all_free(heap);
}

#[test]
fn a_cache_may_be_a_static_and_its_boxes_travel() {
    static HEAP: GlobalAllocator = GlobalAllocator::with_platform(OsPlatform::new());
    static CACHE: ObjectCache<Vec<u8>> = ObjectCache::new("static", &HEAP, || vec![1, 2, 3]);
    assert_eq!(CACHE.alloc().err(), Some(AllocError::NotInitialized));
    let region = testkit::Region::new(MIB).leak();
    // SAFETY: the region is leaked.
    unsafe { HEAP.init(region, 2, &testkit::platform::IDENTITY) }.expect("init");
    let mut one = CACHE.alloc().expect("an object");
    std::thread::scope(|scope| {
        let borrowed = &mut one;
        scope.spawn(move || borrowed.push(4));
    });
    std::thread::spawn(move || assert_eq!(*one, [1, 2, 3, 4])).join().expect("the thread");
    assert_eq!(CACHE.live(), 0);
    common::check_all_free(&HEAP);
}

// ---- Bulk

#[test]
fn bulk_objects_are_distinct_and_aligned_and_freed_together() {
    let heap = heap(8 * MIB);
    for (size, align) in [(8, 8), (24, 8), (100, 64), (4096, 4096), (30_000, 8), (50_000, 8192)] {
        let layout = layout(size, align);
        let mut room = [MaybeUninit::uninit(); 100];
        assert_eq!(heap.alloc_bulk(layout, &mut room), Ok(100));
        // SAFETY: all were written.
        let some = room.map(|place| unsafe { place.assume_init() });
        for (number, object) in some.iter().enumerate() {
            assert_eq!(object.addr().get() % align, 0);
            fill(*object, size, number as u8);
        }
        for (number, object) in some.iter().enumerate() {
            assert!(holds(*object, size, number as u8), "{size}: objects overlap");
        }
        // SAFETY: live, of this layout.
        on(1, || unsafe { heap.dealloc_bulk(layout, &some[..50]) });
        // SAFETY: as above.
        on(0, || unsafe { heap.dealloc_bulk(layout, &some[50..]) });
    }
    assert_eq!(heap.alloc_bulk(layout(8, 8), &mut []), Ok(0));
    on(1, || heap.cpu_offline(1)).expect("a CPU");
    common::check_all_free(heap);
}

// ---- Sizes and alignments

#[test]
fn every_usable_byte_may_be_used() {
    let heap = heap(16 * MIB);
    let mut live = Vec::new();
    for size in (1..2000).chain((2000..70_000).step_by(377)) {
        let layout = layout(size, 8);
        let object = heap.alloc(layout).expect("memory");
        let usable = usable(heap, object).expect("a live object");
        assert!(usable >= size && usable <= size + size / 4 + PAGE);
        if let Some(class) = SizeClass::from_layout(layout) {
            assert_eq!(usable, class.size());
        }
        fill(object, usable, size as u8);
        live.push((object, layout, usable));
        if live.len() == 100 {
            for (object, layout, usable) in live.drain(..) {
                assert!(holds(object, usable, layout.size() as u8));
                // In place: it is what the object has already.
                // SAFETY: live, with its layout.
                let same = unsafe { heap.realloc(object, layout, usable) };
                assert_eq!(same, Ok(object));
                // SAFETY: live, with its new layout.
                unsafe { heap.dealloc(object, common::layout(usable, 8)) };
            }
        }
    }
    for (object, layout, _) in live {
        free_objects(heap, layout, &[object]);
    }
    common::check_all_free(heap);
}

#[test]
fn usable_size_knows_what_is_no_live_object() {
    let heap = heap(MIB);
    let object = heap.alloc(layout(100, 4)).expect("an object");
    let large = heap.alloc(layout(100_000, 8)).expect("a large object");
    let pages = heap.alloc_pages(2, 0).expect("pages");
    let interior = |at: NonNull<u8>, by: usize| at.map_addr(|addr| addr.saturating_add(by));
    assert_eq!(usable(heap, object), Some(112));
    assert_eq!(usable(heap, large), Some(25 * PAGE));
    assert_eq!(usable(heap, interior(object, 4)), None);
    assert_eq!(usable(heap, interior(large, PAGE)), None);
    assert_eq!(usable(heap, interior(large, 8)), None);
    assert_eq!(usable(heap, NonNull::dangling()), None);
    let pages_ptr = NonNull::new(std::ptr::with_exposed_provenance_mut(pages)).expect("not null");
    assert_eq!(usable(heap, pages_ptr), None, "pages are no object");
    free_objects(heap, layout(100, 4), &[object]);
    free_objects(heap, layout(100_000, 8), &[large]);
    assert_eq!(usable(heap, object), None);
    assert_eq!(usable(heap, large), None);
    heap.dealloc_pages(pages, 2);
    common::check_all_free(heap);
}

#[test]
fn realloc_stays_in_place_where_class_block_or_neighbours_allow() {
    let heap = heap(8 * MIB);
    let object = heap.alloc(layout(100, 8)).expect("an object");
    // SAFETY: live, with the layout of the time, throughout.
    unsafe {
        assert_eq!(heap.realloc(object, layout(100, 8), 112), Ok(object), "the same class");
        assert_eq!(heap.realloc(object, layout(112, 8), 97), Ok(object), "the same class");
        fill(object, 97, 0x61);
        let moved = heap.realloc(object, layout(97, 8), 113).expect("memory");
        assert_ne!(moved, object, "another class");
        assert!(holds(moved, 97, 0x61));
        heap.dealloc(moved, layout(113, 8));

        // Made smaller, so that free pages follow wherever it was put.
        let large = heap.alloc(layout(30 * PAGE, 8)).expect("memory");
        assert_eq!(heap.realloc(large, layout(30 * PAGE, 8), 10 * PAGE), Ok(large), "shrinks");
        fill(large, 10 * PAGE, 0x62);
        assert_eq!(heap.realloc(large, layout(10 * PAGE, 8), 10 * PAGE - 100), Ok(large));
        assert_eq!(
            heap.realloc(large, layout(10 * PAGE - 100, 8), 30 * PAGE),
            Ok(large),
            "free pages follow"
        );
        assert_eq!(usable(heap, large), Some(30 * PAGE));
        assert!(holds(large, 10 * PAGE - 100, 0x62));
        assert_eq!(heap.realloc(large, layout(30 * PAGE, 8), 9 * PAGE), Ok(large), "shrinks");
        assert_eq!(heap.allocated_bytes() % PAGE, 0);
        let wall = heap.alloc_pages_at(large.addr().get() + 9 * PAGE, 1).expect("free again");
        let moved = heap.realloc(large, layout(9 * PAGE, 8), 10 * PAGE).expect("memory");
        assert_ne!(moved, large, "a wall");
        assert!(holds(moved, 9 * PAGE, 0x62));
        heap.dealloc_pages(wall, 1);
        // From pages to a class and back.
        let small = heap.realloc(moved, layout(10 * PAGE, 8), 300).expect("memory");
        assert!(holds(small, 300, 0x62));
        let large = heap.realloc(small, layout(300, 8), 20 * PAGE).expect("memory");
        assert!(holds(large, 300, 0x62));
        heap.dealloc(large, layout(20 * PAGE, 8));
    }
    common::check_all_free(heap);
}

#[test]
fn realloc_keeps_contents_and_alignment_whatever_the_sizes() {
    let heap = heap(32 * MIB);
    let mut random = Random(0x2EA1);
    for shift in [0, 3, 6, 9, 12, 14, 17] {
        let align = 1usize << shift;
        let mut size = 1 + random.below(100);
        let mut object = heap.alloc(layout(size, align)).expect("memory");
        fill(object, size, 0x99);
        for _ in 0..200 {
            let scale = 1 << (4 + random.below(15));
            let new = 1 + random.below(scale);
            // SAFETY: live, with its layout; then only the new one is used.
            object = unsafe { heap.realloc(object, layout(size, align), new) }.expect("memory");
            assert_eq!(object.addr().get() % align, 0);
            assert!(holds(object, size.min(new), 0x99), "{size} to {new}");
            size = new;
            fill(object, size, 0x99);
        }
        free_objects(heap, layout(size, align), &[object]);
    }
    common::check_all_free(heap);
}

#[test]
fn realloc_refuses_what_cannot_be_and_leaves_the_object() {
    let heap = heap(MIB);
    for size in [50, 60_000] {
        let object = heap.alloc(layout(size, 8)).expect("memory");
        fill(object, size, 0x13);
        // SAFETY: live, with its layout; each attempt fails.
        unsafe {
            assert_eq!(
                heap.realloc(object, layout(size, 8), usize::MAX),
                Err(AllocError::InvalidParam)
            );
            assert!(heap.realloc(object, layout(size, 8), isize::MAX as usize - 7).is_err());
            assert_eq!(heap.realloc(object, layout(size, 8), 2 * MIB), Err(AllocError::NoMemory));
        }
        assert!(holds(object, size, 0x13));
        heap.check_invariants();
        free_objects(heap, layout(size, 8), &[object]);
    }
    common::check_all_free(heap);
}

#[test]
fn zero_size_layouts_are_served_with_every_alignment() {
    let heap = heap(16 * MIB);
    for shift in 0..=20 {
        let nothing = layout(0, 1 << shift);
        let object = heap.alloc(nothing).expect("an address");
        assert_eq!(object.addr().get() % (1 << shift), 0, "2^{shift}");
        let other = heap.alloc_zeroed(nothing).expect("an address");
        assert_ne!(object, other);
        assert!(usable(heap, object).is_some());
        // To something and back to nothing.
        // SAFETY: live, with its layout; then only the new one is used.
        let some = unsafe { heap.realloc(object, nothing, 5000) }.expect("memory");
        assert_eq!(some.addr().get() % (1 << shift), 0);
        fill(some, 5000, 1);
        // SAFETY: as above.
        let object =
            unsafe { heap.realloc(some, layout(5000, 1 << shift), 0) }.expect("an address");
        free_objects(heap, nothing, &[object, other]);
    }
    common::check_all_free(heap);
}

/// Up to 2^20 pages, which is 4 GiB of address space here: reserved, not touched.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn every_alignment_up_to_two_to_the_twenty_pages_is_served() {
    let Some(region) = testkit::Reservation::new(9 << 30, 4 << 30) else {
        println!("skipped: no 9 GiB of address space to be had");
        return;
    };
    let region = Box::leak(Box::new(region));
    let heap: &Pinned = Box::leak(Box::new(GlobalAllocator::with_platform(PinnedSim::default())));
    // SAFETY: the reservation is leaked.
    unsafe { heap.init_raw(region.as_mut_ptr(), region.size_bytes(), 1) }.expect("init");
    let off = heap.alloc_pages(1, 0).expect("so that nothing is aligned by chance");
    for order in 0..=20 {
        let align = PAGE << order;
        for count in [1, 3, 1 << order] {
            let at = heap.alloc_pages(count, align).expect("pages");
            assert_eq!(at % align, 0, "{count} pages aligned to 2^{order}");
            heap.dealloc_pages(at, count);
        }
        for size in [0, 1, 5000, 100_000] {
            let object = heap.alloc(layout(size, align)).expect("memory");
            assert_eq!(object.addr().get() % align, 0, "{size} bytes aligned to 2^{order} pages");
            free_objects(heap, layout(size, align), &[object]);
        }
    }
    assert_eq!(heap.alloc_pages(1, PAGE << 21), Err(AllocError::InvalidParam));
    assert_eq!(heap.alloc(layout(1, PAGE << 21)), Err(AllocError::InvalidParam));
    assert_eq!(heap.alloc_pages((1 << 20) + 1, 0), Err(AllocError::InvalidParam));
    heap.dealloc_pages(off, 1);
    common::check_all_free_of(heap, 1 << 20);
}

#[test]
fn every_alignment_below_a_page_is_served_with_every_size() {
    let heap = heap(16 * MIB);
    for shift in 0..=12 {
        let mut live = Vec::new();
        for size in (1..300).chain([500, 1000, 3000, 4095, 4096, 4097, 9000, 32_768, 40_000]) {
            let layout = layout(size, 1 << shift);
            let object = heap.alloc(layout).expect("memory");
            assert_eq!(object.addr().get() % (1 << shift), 0, "{layout:?}");
            fill(object, size, size as u8);
            live.push((object, layout));
        }
        for (object, layout) in live {
            assert!(holds(object, layout.size(), layout.size() as u8));
            free_objects(heap, layout, &[object]);
        }
    }
    common::check_all_free(heap);
}

#[test]
fn objects_are_freed_without_their_layout() {
    let heap = heap(8 * MIB);
    for size in [1, 64, 1000, 32_768, 32_769, 200_000] {
        let some = objects(heap, layout(size, 8), 20);
        for (number, object) in some.into_iter().enumerate() {
            // SAFETY: live.
            on(number % 2, || unsafe { heap.dealloc_unsized(object) });
        }
    }
    on(1, || heap.cpu_offline(1)).expect("a CPU");
    common::check_all_free(heap);
}

/// Faults that the metadata at hand shows are reported, with the address, and change nothing.
#[test]
fn misuse_at_the_edge_is_reported_and_changes_nothing() {
    let heap = common::heap_on(LockedSim::default(), 2 * MIB, 2);
    heap.set_misuse_handler(Some(testkit::misuse::record));
    let small = layout(64, 8);
    let [kept, object] = [(); 2].map(|()| heap.alloc(small).expect("an object"));
    let at = |ptr: NonNull<u8>| ptr.addr().get();
    let large = heap.alloc(layout(100_000, 8)).expect("a large object");
    // SAFETY: wrong on purpose: each is refused.
    unsafe {
        heap.dealloc(object, layout(200, 8));
        testkit::misuse::expect_one(at(object), &[Misuse::WrongSize]);
        heap.dealloc(object.add(8), small);
        testkit::misuse::expect_one(at(object) + 8, &[Misuse::Interior, Misuse::WrongAlign]);
        heap.dealloc_pages(at(object) & !(PAGE - 1), 1);
        testkit::misuse::expect_one(at(object) & !(PAGE - 1), &[Misuse::WrongKind]);
        heap.dealloc(large, layout(50_000, 8));
        testkit::misuse::expect_one(at(large), &[Misuse::WrongSize]);
        heap.dealloc(large, small);
        assert_eq!(testkit::misuse::take().len(), 1);
        heap.dealloc_pages(at(large), 25);
        testkit::misuse::expect_one(at(large), &[Misuse::WrongKind]);
        assert!(heap.realloc(large, layout(50_000, 8), 200_000).is_err());
        testkit::misuse::expect_one(at(large), &[Misuse::WrongSize]);
        let mut foreign = 0u64;
        let foreign = NonNull::from(&mut foreign).cast::<u8>();
        heap.dealloc(foreign, small);
        testkit::misuse::expect_one(at(foreign), &[Misuse::Foreign]);
        heap.dealloc_unsized(foreign);
        testkit::misuse::expect_one(at(foreign), &[Misuse::Foreign]);
        heap.dealloc(object, small);
        heap.dealloc(object, small);
        testkit::misuse::expect_one(at(object), &[Misuse::DoubleFree]);
        heap.dealloc(large, layout(100_000, 8));
        heap.dealloc(large, layout(100_000, 8));
        testkit::misuse::expect_one(
            at(large),
            &[Misuse::DoubleFree, Misuse::NotAllocated, Misuse::Interior],
        );
        // A double free by another CPU.
        let other = heap.alloc(small).expect("an object");
        on(1, || heap.dealloc(other, small));
        on(1, || heap.dealloc(other, small));
        testkit::misuse::expect_one(at(other), &[Misuse::DoubleFree]);
        heap.dealloc(kept, small);
    }
    testkit::misuse::expect_none();
    assert!(heap.misuse_count() >= 12);
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0);
}

// ---- Locks of other crates

#[cfg(any(feature = "lock_api", feature = "critical-section"))]
mod locks {
    use super::*;
    use buddy_slab_allocator::{Access, ContextSlot, Platform, RawLock};

    /// *Locked*, with any lock; the index is the thread's own.
    struct With<L>(std::marker::PhantomData<L>);

    // SAFETY: the token is the thread's own, and no signal interrupts it.
    unsafe impl<L: RawLock + 'static> Platform for With<L> {
        type Lock = L;
        type Pin = ();
        const ACCESS: Access = Access::Locked;
        fn pin(&self) -> ((), Option<usize>) {
            ((), common::cpu())
        }
        fn unpin(&self, (): ()) {}
        fn context(&self) -> Option<&ContextSlot> {
            Some(common::own_slot())
        }
    }

    /// Threads with two CPUs between them free what they and their neighbour allocated.
    fn work<L: RawLock + 'static>() {
        let heap = common::heap_on(With::<L>(std::marker::PhantomData), 8 * MIB, 2);
        std::thread::scope(|scope| {
            for number in 0..4 {
                scope.spawn(move || {
                    let mut random = Random(number as u64 + 3);
                    for _ in 0..200 {
                        let layout = layout(1 + random.below(3000), 8);
                        common::set_cpu(Some(number % 2));
                        let some = objects(heap, layout, 1 + random.below(30));
                        let page = heap.alloc_pages(1 + number, 0).expect("pages");
                        some.iter().for_each(|object| fill(*object, layout.size(), number as u8));
                        common::set_cpu(Some((number + 1) % 2));
                        assert!(some.iter().all(|one| holds(*one, layout.size(), number as u8)));
                        free_objects(heap, layout, &some);
                        heap.dealloc_pages(page, 1 + number);
                    }
                });
            }
        });
        common::check_all_free(heap);
    }

    /// A second holder is refused, nested or not, until the first lets go.
    fn excludes<L: RawLock>() {
        let lock = L::NEW;
        for _ in 0..3 {
            assert!(lock.try_lock());
            assert!(!lock.try_lock(), "a nested holder is refused");
            // SAFETY: held, by this thread.
            unsafe { lock.unlock() };
            lock.lock();
            // SAFETY: held, by this thread.
            unsafe { lock.unlock() };
        }
    }

    #[cfg(feature = "lock_api")]
    #[test]
    fn a_lock_of_lock_api_guards_the_heap() {
        type Lock = buddy_slab_allocator::LockApi<spin::mutex::SpinMutex<()>>;
        excludes::<Lock>();
        work::<Lock>();
    }

    #[cfg(feature = "critical-section")]
    #[test]
    fn a_critical_section_guards_the_heap() {
        excludes::<buddy_slab_allocator::CriticalSectionLock>();
        work::<buddy_slab_allocator::CriticalSectionLock>();
    }
}

/// `Layout` of what the tests above leave out: pages of other sizes.
#[test]
fn other_page_sizes_serve_the_same_layouts() {
    fn serve<const SIZE: usize>(region_bytes: usize) {
        let heap = GlobalAllocator::<SIZE>::new();
        let region = testkit::Region::aligned(region_bytes, 1 << 16).leak();
        // SAFETY: the region is leaked.
        unsafe { heap.init(region, 2, &testkit::platform::IDENTITY) }.expect("init");
        for shift in 0..=13 {
            let mut live = Vec::new();
            for size in [0, 1, 8, 24, 100, 256, 1000, 2048, 3000, 5000] {
                let layout = Layout::from_size_align(size, 1 << shift).expect("a layout");
                let object = heap.alloc(layout);
                let object = object.unwrap_or_else(|error| panic!("{SIZE}: {layout:?}: {error}"));
                assert_eq!(object.addr().get() % (1 << shift), 0, "{SIZE}: {layout:?}");
                fill(object, size, size as u8);
                live.push((object, layout));
            }
            for (object, layout) in live {
                assert!(holds(object, layout.size(), layout.size() as u8));
                // SAFETY: live, with its layout.
                unsafe { heap.dealloc(object, layout) };
            }
        }
        heap.shrink();
        heap.check_invariants();
        assert_eq!(heap.allocated_bytes(), 0, "{SIZE}");
    }
    serve::<256>(256 << 10);
    serve::<512>(256 << 10);
    serve::<1024>(512 << 10);
    serve::<16384>(8 * MIB);
    serve::<65536>(32 * MIB);
}

/// What an allocation can hold.
fn usable<const PAGE_BYTES: usize, P: buddy_slab_allocator::Platform>(
    heap: &GlobalAllocator<PAGE_BYTES, P>,
    ptr: NonNull<u8>,
) -> Option<usize> {
    // SAFETY: these tests free nothing at the same time.
    unsafe { heap.usable_size(ptr) }
}
