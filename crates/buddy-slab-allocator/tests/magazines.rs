//! A platform that wants magazines: what is freed is served again, and comes back when it is asked for;
//! what was freed wrongly is found when it leaves its magazine, and the heap stays whole.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::mpsc;

use buddy_slab_allocator::{
    Access, GlobalAllocator, Misuse, Platform, RawLock, SpinLock, Watermarks, Zone,
};
use proptest::prelude::*;
use testkit::op::{self, Op};
use testkit::platform::{MagazineCpus, on_cpu, set_cpu};
use testkit::region::Region;
use testkit::runner::Runner;
use testkit::watchdog::within;
use testkit::{GlobalHeap, Heap, misuse, oracle};

const PAGE: usize = 0x1000;
const MIB: usize = 1 << 20;

type Magazines = GlobalHeap<PAGE, MagazineCpus>;
type Allocator = GlobalAllocator<PAGE, MagazineCpus>;

fn heap(mib: usize, cpus: usize) -> Magazines {
    Magazines::with_platform(Region::new(mib * MIB), cpus, MagazineCpus)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn free(heap: &Magazines, object: NonNull<u8>, layout: Layout) {
    // SAFETY: tests pass live objects, or those whose wrong free is what is tested.
    unsafe { heap.dealloc(object, layout) }
}

fn objects(heap: &Magazines, layout: Layout, count: usize) -> Vec<NonNull<u8>> {
    (0..count).map(|_| heap.alloc(layout).expect("an object")).collect()
}

/// Runs `ops`, then wants every page back.
fn run<const P: usize>(region: Region, cpus: usize, ops: &[Op]) {
    let heap = GlobalHeap::<P, MagazineCpus>::with_platform(region, cpus, MagazineCpus);
    let mut runner = Runner::new(&heap);
    for (step, op) in ops.iter().enumerate() {
        runner.step(op);
        if step % 16 == 0 {
            heap.check_invariants();
        }
    }
    runner.oracle().verify_all();
    runner.free_all();
    expect_every_page(&heap);
}

/// All CPUs rest; then every page can be had.
fn expect_every_page<const P: usize>(heap: &GlobalHeap<P, MagazineCpus>) {
    for cpu in 0..heap.cpu_count() {
        heap.idle(cpu);
    }
    set_cpu(0);
    heap.check_invariants();
    let pages: Vec<_> = std::iter::from_fn(|| heap.alloc_pages(1, 0)).collect();
    assert_eq!(pages.len() * P, heap.allocator().managed_bytes());
    pages.iter().for_each(|page| heap.dealloc_pages(*page, 1));
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), Some(0));
    heap.check_guards();
}

/// How many objects of a size are live, by the snapshot.
fn live(heap: &Magazines, size: usize) -> usize {
    let snapshot = heap.allocator().snapshot();
    snapshot.classes.iter().find(|class| class.size == size).expect("a class").objects_live
}

#[test]
fn what_was_freed_last_is_served_first_whoever_asks_for_the_class() {
    let heap = heap(16, 1);
    let held = objects(&heap, layout(64), 10);
    held.iter().for_each(|object| free(&heap, *object, layout(64)));
    assert_eq!(live(&heap, 64), 0, "what lies in a magazine is not in use");
    for object in held.iter().rev() {
        assert_eq!(heap.alloc(layout(60)), Some(*object));
    }
    // SAFETY: live, and freed as C does.
    held.iter().for_each(|object| unsafe { heap.dealloc_unsized(*object, layout(64)) });
    assert_eq!(heap.alloc(layout(64)), held.last().copied());
    free(&heap, held[9], layout(64));
    expect_every_page(&heap);
}

#[test]
fn no_more_is_kept_than_is_stated() {
    let heap = heap(64, 1);
    for size in [64, 2048, 30 << 10] {
        let held = objects(&heap, layout(size), 8 * MIB / size);
        held.iter().for_each(|object| free(&heap, *object, layout(size)));
        let snapshot = heap.allocator().snapshot();
        let class = snapshot.classes.iter().find(|class| class.size >= size).unwrap();
        // 64 KiB of neighbours, 512 KiB of empty slabs, and one or two more.
        assert!(class.pages * PAGE < MIB, "{size}: {} pages", class.pages);
    }
    assert_eq!(Allocator::MAX_MAGAZINE_BYTES, 4_068_736);
    assert_eq!(GlobalAllocator::<PAGE>::MAX_MAGAZINE_BYTES, 0, "without they keep nothing");
    expect_every_page(&heap);
}

#[test]
fn snapshots_tell_what_lies_in_magazines_from_what_is_in_use() {
    let heap = heap(16, 1);
    let live_ones = objects(&heap, layout(9000), 5);
    let grown: Vec<_> =
        (0..5).map(|_| heap.allocator().alloc_to_grow(layout(9000)).unwrap()).collect();
    let pages = heap.allocator().alloc_pages(3, 0).unwrap();
    assert_eq!(heap.allocator().snapshot().large_pages, 3 + 5 * 3);
    grown.iter().for_each(|object| free(&heap, *object, layout(9000)));
    free(&heap, live_ones[0], layout(9000));
    assert_eq!(live(&heap, 9216), 4);
    assert_eq!(heap.allocator().snapshot().large_pages, 3, "nor are the magazines themselves");
    heap.dealloc_pages(pages, 3);
    live_ones[1..].iter().for_each(|object| free(&heap, *object, layout(9000)));
    expect_every_page(&heap);
}

#[test]
fn a_heap_that_is_small_goes_without() {
    let heap = Magazines::with_platform(Region::new(64 * PAGE), 2, MagazineCpus);
    let held = objects(&heap, layout(64), 100);
    held.iter().for_each(|object| free(&heap, *object, layout(64)));
    assert!(heap.allocated_bytes().unwrap() < 8 * PAGE, "no magazines were bought");
    expect_every_page(&heap);
}

#[test]
fn a_request_that_would_fail_gets_what_lies_in_magazines() {
    /// How CPU 1 lets go of what it keeps.
    #[derive(Clone, Copy, PartialEq)]
    enum Way {
        /// It asks for the memory itself.
        Asks,
        /// It has stopped without a word.
        Stopped,
        /// It was told to drain.
        Drains,
    }
    for way in [Way::Asks, Way::Stopped, Way::Drains] {
        let heap = heap(16, 2);
        let before = heap.allocator().managed_bytes() / PAGE;
        on_cpu(1, || {
            for size in (1..=64).map(|size| size * 256) {
                let held = objects(&heap, layout(size), 64 * 1024 / size);
                held.iter().for_each(|object| free(&heap, *object, layout(size)));
            }
            assert!(heap.allocated_bytes().unwrap() > 2 * MIB, "magazines keep their slabs");
            match way {
                Way::Asks => {}
                // SAFETY: nobody plays it any more, and it was not inside.
                Way::Stopped => unsafe { heap.allocator().cpu_dead(1) }.unwrap(),
                Way::Drains => assert!(heap.allocator().drain_current()),
            }
        });
        on_cpu(usize::from(way == Way::Asks), || {
            let got: Vec<_> = std::iter::from_fn(|| heap.alloc_pages(1, 0)).collect();
            assert_eq!(got.len(), before);
            got.iter().for_each(|page| heap.dealloc_pages(*page, 1));
        });
        expect_every_page(&heap);
    }
}

/// Magazines are bought when there is an object, and given up for one.
#[test]
fn the_last_room_is_for_objects_and_not_for_magazines() {
    for (hole, size) in [(28, 512), (28, 30_000)] {
        let heap = heap(64, 1);
        let all: Vec<_> = std::iter::from_fn(|| heap.alloc_pages(1, 0)).collect();
        let mut all: Vec<_> = all.into_iter().map(|page| page / PAGE).collect();
        all.sort_unstable();
        // One hole that magazines fit into, and every other page elsewhere: 64 times as much is free.
        let first = all.iter().position(|page| page % 64 == 0 && page / 64 > all[0] / 64).unwrap();
        for (index, page) in all.iter().enumerate() {
            let in_hole = (first..first + hole).contains(&index);
            let beside = index + 1 == first || index == first + hole;
            if in_hole || !beside && index % 2 == 0 {
                heap.dealloc_pages(page * PAGE, 1);
            }
        }
        heap.idle(0);
        assert!(heap.alloc(layout(size)).is_some(), "{size} bytes");
        assert!(heap.alloc(layout(size)).is_some(), "{size} bytes, with magazines");
        heap.check_invariants();
    }
}

#[test]
fn pages_above_a_reserve_are_for_objects_and_not_for_magazines() {
    let heap = heap(64, 1);
    let allocator = heap.allocator();
    let reserve = Watermarks { min_pages: 4000, low_pages: 0 };
    allocator.set_watermarks(0, Zone::Normal, reserve);
    let all: Vec<_> = std::iter::from_fn(|| heap.alloc_pages(1, 0)).collect();
    assert!(allocator.zone_free_pages(0, Zone::Normal) >= 4000, "64 times as much is free");
    let mut sorted = all;
    sorted.sort_unstable();
    let side_by_side =
        |hole: &&[usize]| hole[27] - hole[0] == 27 * PAGE && hole[0].is_multiple_of(32 * PAGE);
    let hole = sorted.windows(28).find(side_by_side).expect("neighbours");
    hole.iter().for_each(|page| heap.dealloc_pages(*page, 1));
    heap.idle(0);
    assert!(heap.alloc(layout(512)).is_some());
}

#[test]
fn objects_of_other_cpus_go_home_by_tick_and_by_rest() {
    for rests in [false, true] {
        let heap = heap(32, 2);
        let held = on_cpu(0, || objects(&heap, layout(512), 4000));
        on_cpu(1, || {
            // So that it has magazines.
            let own = objects(&heap, layout(64), 1);
            free(&heap, own[0], layout(64));
            held.iter().for_each(|object| free(&heap, *object, layout(512)));
            let before = heap.alloc(layout(512)).unwrap();
            assert!(held.contains(&before), "it serves what it freed");
            free(&heap, before, layout(512));
            if rests {
                heap.idle(1);
            } else {
                (0..64).for_each(|_| heap.tick(1));
            }
        });
        on_cpu(0, || {
            heap.tick(0);
            assert_eq!(live(&heap, 512), 0);
            let snapshot = heap.allocator().snapshot();
            let class = snapshot.classes.iter().find(|class| class.size == 512).unwrap();
            assert!(class.pages < 300, "of 500 pages {} are still slabs", class.pages);
        });
        expect_every_page(&heap);
    }
}

/// A lock that is had now and then only.
struct Contended(SpinLock);

thread_local! {
    static REFUSALS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: the spin lock keeps the promises; an attempt may fail for any reason.
unsafe impl RawLock for Contended {
    const NEW: Self = Self(SpinLock::NEW);
    fn try_lock(&self) -> bool {
        let refused = REFUSALS.get() != 0;
        REFUSALS.set(REFUSALS.get().saturating_sub(1));
        !refused && self.0.try_lock()
    }
    unsafe fn unlock(&self) {
        // SAFETY: the caller's condition is the same.
        unsafe { self.0.unlock() }
    }
}

/// *Locked*, without a token.
struct LockedCpus;

// SAFETY: of the index this way promises nothing.
unsafe impl Platform for LockedCpus {
    type Lock = Contended;
    type Pin = ();
    const ACCESS: Access = Access::Locked;
    const MAGAZINES: bool = true;
    fn pin(&self) -> ((), Option<usize>) {
        ((), Some(0))
    }
    fn unpin(&self, (): ()) {}
}

#[test]
fn a_heap_that_was_not_had_at_once_serves_from_its_magazines_too() {
    let heap = GlobalHeap::<PAGE, LockedCpus>::with_platform(Region::new(16 * MIB), 1, LockedCpus);
    let object = heap.alloc(layout(512)).unwrap();
    let last = heap.alloc(layout(512)).unwrap();
    // SAFETY: live.
    unsafe { heap.dealloc(last, layout(512)) };
    REFUSALS.set(1);
    assert_eq!(heap.alloc(layout(512)), Some(last));
    assert_eq!(REFUSALS.get(), 0);
    // SAFETY: live.
    unsafe { heap.allocator().dealloc_bulk(layout(512), &[object, last]) };
}

#[test]
fn a_cpu_that_goes_takes_nothing_along() {
    let heap = heap(16, 2);
    on_cpu(1, || {
        let held = objects(&heap, layout(64), 500);
        held.iter().for_each(|object| free(&heap, *object, layout(64)));
    });
    heap.cpu_offline(1);
    heap.shrink();
    assert_eq!(heap.allocated_bytes(), Some(0));
    expect_every_page(&heap);
}

#[test]
fn bulk_requests_are_served_from_magazines_too() {
    let heap = heap(16, 1);
    let held = objects(&heap, layout(128), 50);
    // SAFETY: live, of this layout.
    unsafe { heap.allocator().dealloc_bulk(layout(128), &held) };
    let mut places = [const { std::mem::MaybeUninit::uninit() }; 50];
    assert_eq!(heap.allocator().alloc_bulk(layout(128), &mut places), Ok(50));
    // SAFETY: all were filled.
    let again: Vec<NonNull<u8>> =
        places.iter().map(|place| unsafe { place.assume_init() }).collect();
    assert_eq!(again, held.iter().rev().copied().collect::<Vec<_>>());
    again.iter().for_each(|object| free(&heap, *object, layout(128)));
    expect_every_page(&heap);
}

#[test]
fn what_grew_into_pages_of_its_own_goes_back_as_pages() {
    let heap = heap(16, 1);
    let (small, grown) = (layout(100), layout(9000));
    let object = heap.alloc(small).unwrap();
    // SAFETY: live, of this layout; only the new pointer is used.
    let moved = unsafe { heap.realloc(object, small, 9000) }.unwrap();
    free(&heap, moved, grown);
    assert_eq!(heap.alloc(layout(8200)), Some(moved), "of the same class");
    // SAFETY: the same.
    let moved = unsafe { heap.realloc(moved, layout(8200), 12_000) }.unwrap();
    free(&heap, moved, layout(12_000));
    heap.check_invariants();
    expect_every_page(&heap);
}

// ---- misuse -----------------------------------------------------------------------------------

#[test]
fn an_object_freed_again_at_once_is_found_at_once() {
    let heap = heap(16, 1).recording();
    let object = objects(&heap, layout(64), 2)[0];
    free(&heap, object, layout(64));
    free(&heap, object, layout(64));
    assert_eq!(misuse::take(), [(object.addr().get(), Misuse::DoubleFree)]);
    // SAFETY: freed wrongly, which is what is tested.
    unsafe { heap.dealloc_unsized(object, layout(64)) };
    assert_eq!(misuse::take(), [(object.addr().get(), Misuse::DoubleFree)]);
    assert_eq!(heap.alloc(layout(64)), Some(object));
    assert_ne!(heap.alloc(layout(64)), Some(object), "it was kept once");
}

#[test]
fn an_object_freed_again_at_once_is_found_even_if_there_is_no_room() {
    let heap = heap(16, 1).recording();
    let held = objects(&heap, layout(30_000), 3);
    free(&heap, held[0], layout(30_000));
    free(&heap, held[1], layout(30_000));
    free(&heap, held[1], layout(30_000));
    assert_eq!(misuse::take(), [(held[1].addr().get(), Misuse::DoubleFree)]);
    free(&heap, held[2], layout(30_000));
    expect_every_page(&heap);
}

#[test]
fn what_was_freed_wrongly_is_found_when_it_leaves_and_changes_nothing() {
    type Leave = fn(&Magazines);
    // How many of the faults are found at once: by ticks half of what is there.
    let ways: [(Leave, &[usize]); 4] = [
        (|heap| heap.idle(0), &[6]),
        (|heap| (0..8).for_each(|_| heap.tick(0)), &[4, 1, 1]),
        (|heap| heap.cpu_offline(0), &[6]),
        (|heap| assert_ne!(heap.shrink(), 0), &[6]),
    ];
    /// Of more than so many the first ones and the last are reported.
    const REPORTED: usize = if usize::BITS >= 64 { 4 } else { 2 };
    for (leave, at_once) in ways {
        let heap = heap(16, 1).recording();
        let held = objects(&heap, layout(64), 6);
        let other = objects(&heap, layout(256), 1)[0];
        let large = objects(&heap, layout(100_000), 1)[0];
        let pages = heap.alloc_pages(1, 0).unwrap();
        let page = NonNull::new(std::ptr::with_exposed_provenance_mut(pages)).unwrap();
        let mut elsewhere = [0u64; 8];
        let elsewhere = NonNull::from(&mut elsewhere).cast::<u8>();
        // SAFETY: within the object.
        let inside = unsafe { held[0].add(8) };
        let wrong = [
            (held[1], Misuse::DoubleFree),
            (elsewhere, Misuse::Foreign),
            (large, Misuse::WrongSize),
            (page, Misuse::WrongKind),
            (inside, Misuse::Interior),
            (other, Misuse::WrongSize),
        ];
        free(&heap, held[1], layout(64));
        free(&heap, held[2], layout(64));
        wrong.iter().for_each(|(object, _)| free(&heap, *object, layout(64)));
        assert_eq!(misuse::take(), [], "nobody has looked yet");
        leave(&heap);
        // The last freed first.
        let mut faults = wrong.iter().rev().map(|(object, kind)| (object.addr().get(), *kind));
        let mut expected = Vec::new();
        for &count in at_once {
            let found: Vec<_> = faults.by_ref().take(count).collect();
            let first = count.min(REPORTED) - 1;
            expected.extend(&found[..first]);
            expected.extend(found.last());
        }
        assert_eq!(misuse::take(), expected);
        assert_eq!(heap.allocator().misuse_count(), expected.len());
        heap.check_invariants();
        // What is live is whole, and what is free is handed out once.
        free(&heap, other, layout(256));
        free(&heap, large, layout(100_000));
        heap.dealloc_pages(pages, 1);
        let mut distinct = objects(&heap, layout(64), 200);
        distinct.extend([held[0], held[3], held[4], held[5]]);
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 204);
        distinct.iter().for_each(|object| free(&heap, *object, layout(64)));
        expect_every_page(&heap);
        assert_eq!(misuse::take(), []);
    }
}

// ---- models -----------------------------------------------------------------------------------

fn config() -> ProptestConfig {
    let scaled = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: scaled.unwrap_or(16),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_sequence_on_any_number_of_cpus(
        ops in op::ops(250),
        cpus in 1usize..=8,
        pages in 2000usize..3000,
        offset in 0usize..8192,
    ) {
        run::<PAGE>(Region::with_offset(pages * PAGE, PAGE, offset), cpus, &ops);
    }

    #[test]
    fn any_sequence_with_other_pages(ops in op::ops(150), cpus in 1usize..=3) {
        run::<0x200>(Region::new(12 * MIB), cpus, &ops);
        run::<0x1_0000>(Region::new(16 * MIB), cpus, &ops);
    }

    /// Most objects of one class come and go on two CPUs, so that magazines run full and empty.
    #[test]
    fn magazines_that_run_full_and_empty(
        turns in proptest::collection::vec((0usize..2, 0usize..3000, any::<bool>()), 1..40),
        size in prop_oneof![Just(16usize), Just(64), Just(1000), Just(9000)],
    ) {
        let heap = heap(64, 2);
        let mut runner = Runner::new(&heap);
        for (cpu, count, frees) in turns {
            runner.step(&Op::SwitchCpu { cpu });
            for nth in 0..count.min(2_000_000 / size) {
                if frees {
                    runner.step(&Op::Free { nth: nth * 7919 });
                } else {
                    runner.alloc(size, 8, false);
                }
            }
            heap.check_invariants();
        }
        runner.oracle().verify_all();
        runner.free_all();
        expect_every_page(&heap);
    }
}

/// Threads that allocate, free, and send each other what they allocated.
#[test]
fn threads_with_a_cpu_each() {
    within(60, || {
        const THREADS: usize = 4;
        let heap = heap(64, THREADS);
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..THREADS).map(|_| mpsc::channel::<(usize, Layout)>()).unzip();
        let take_apart = |(addr, one): (usize, Layout)| {
            let object = NonNull::new(std::ptr::with_exposed_provenance_mut(addr)).unwrap();
            // SAFETY: live until now, and filled when it was allocated.
            unsafe { oracle::verify(addr, one.size(), addr) };
            free(&heap, object, one);
        };
        std::thread::scope(|scope| {
            for (me, mail) in receivers.into_iter().enumerate() {
                let next = senders[(me + 1) % THREADS].clone();
                let (heap, take_apart) = (&heap, &take_apart);
                scope.spawn(move || {
                    set_cpu(me);
                    let mut held = Vec::new();
                    let mut state = me.wrapping_mul(77).wrapping_add(5);
                    for round in 0..20_000 {
                        state =
                            state.wrapping_mul(0x5851_F42D_4C95_7F2D_u64 as usize).wrapping_add(1);
                        let one = layout((1 + (state >> 16) % 300) * (1 + (state >> 12) % 8));
                        let addr =
                            heap.alloc(one).expect("there is enough").as_ptr().expose_provenance();
                        // SAFETY: a fresh object of this size.
                        unsafe { oracle::fill(addr, one.size()) };
                        held.push((addr, one));
                        if held.len() > 200 {
                            let parcel = held.swap_remove((state >> 7) % held.len());
                            if state >> 5 & 1 == 0 {
                                take_apart(parcel);
                            } else {
                                next.send(parcel).unwrap_or_else(|back| take_apart(back.0));
                            }
                        }
                        mail.try_iter().for_each(take_apart);
                        if round % 1000 == 0 {
                            heap.tick(me);
                        }
                    }
                    drop(next);
                    held.into_iter().for_each(take_apart);
                    mail.into_iter().for_each(take_apart);
                });
            }
            drop(senders);
        });
        expect_every_page(&heap);
    });
}
