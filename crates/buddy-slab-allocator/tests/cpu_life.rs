//! CPUs come, tick, sleep and go; what they keep or are owed serves others before a request
//! fails; and the allocator works before there are any.
#![cfg(not(loom))]

mod common;

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::{AllocError, GlobalAllocator, OsImpl, Platform, SizeClass, SpinLock};
use common::{
    LockedSim, MIB, PAGE, PinnedSim, free_objects, free_pages, layout, managed_pages, objects, on,
    take_all_pages,
};

type Pinned = GlobalAllocator<PAGE, PinnedSim>;

/// What the two CPUs of a story do before a third needs their memory.
#[derive(Debug, Clone, Copy)]
enum Rest {
    Idle,
    Offline,
    Dead,
}

fn rest<P: Platform>(heap: &GlobalAllocator<PAGE, P>, cpu: usize, how: Rest) {
    match how {
        Rest::Idle => on(cpu, || heap.idle(cpu)).expect("a CPU that sleeps"),
        Rest::Offline => on(cpu, || heap.cpu_offline(cpu)).expect("a CPU that stops"),
        // SAFETY: the CPU was outside the allocator, and runs again only after `cpu_online`.
        Rest::Dead => on(2, || unsafe { heap.cpu_dead(cpu) }).expect("a CPU that stopped"),
    }
}

/// CPU 0 fills all memory with objects, CPU 1 frees them all, and keeps pages of its own; then
/// both rest. What CPU 0 is owed, what CPU 1 has not published, and what both keep.
fn strand<P: Platform>(heap: &GlobalAllocator<PAGE, P>, how: Rest) {
    let small = layout(64, 8);
    let owed: Vec<NonNull<u8>> = on(0, || std::iter::from_fn(|| heap.alloc(small).ok()).collect());
    assert!(owed.len() * 64 > heap.managed_bytes() / 10 * 9, "the objects fill memory");
    on(1, || free_objects(heap, small, &owed));
    let kept = on(1, || (0..8).map(|_| heap.alloc_pages(2, 0)).collect::<Vec<_>>());
    on(1, || kept.into_iter().flatten().for_each(|pages| heap.dealloc_pages(pages, 2)));
    rest(heap, 1, how);
    rest(heap, 0, how);
}

fn everything_serves_pages<P: Platform>(heap: &GlobalAllocator<PAGE, P>, how: Rest) {
    for round in 0..3 {
        strand(heap, how);
        on(2, || {
            let all = take_all_pages(heap);
            assert_eq!(all.len(), managed_pages(heap), "{how:?}, round {round}");
            free_pages(heap, &all);
            heap.cpu_offline(2).expect("a CPU");
        });
        heap.cpu_online(0).and(heap.cpu_online(1)).expect("CPUs");
    }
    on(2, || common::check_all_free(heap));
}

fn everything_serves_objects<P: Platform>(heap: &GlobalAllocator<PAGE, P>, how: Rest) {
    let other = layout(1000, 8);
    let fresh: Vec<_> = on(2, || std::iter::from_fn(|| heap.alloc(other).ok()).collect());
    on(2, || free_objects(heap, other, &fresh));
    on(2, || heap.cpu_offline(2)).expect("a CPU");
    for round in 0..3 {
        strand(heap, how);
        on(2, || {
            let again: Vec<_> = std::iter::from_fn(|| heap.alloc(other).ok()).collect();
            // One fewer where a single page was left for a slab, none for its descriptor.
            assert!(again.len() + 1 >= fresh.len(), "{how:?}, round {round}: {}", again.len());
            free_objects(heap, other, &again);
            heap.cpu_offline(2).expect("a CPU");
        });
    }
    on(2, || common::check_all_free(heap));
}

#[test]
fn what_resting_pinned_cpus_keep_or_are_owed_serves_page_requests_of_another() {
    for how in [Rest::Idle, Rest::Offline, Rest::Dead] {
        everything_serves_pages(common::heap_on(PinnedSim::default(), MIB, 3), how);
    }
}

#[test]
fn what_resting_pinned_cpus_keep_or_are_owed_serves_object_requests_of_another() {
    for how in [Rest::Idle, Rest::Offline, Rest::Dead] {
        everything_serves_objects(common::heap_on(PinnedSim::default(), MIB, 3), how);
    }
}

#[test]
fn what_locked_cpus_keep_or_are_owed_serves_requests_of_another() {
    for how in [Rest::Idle, Rest::Offline, Rest::Dead] {
        everything_serves_pages(common::heap_on(LockedSim::default(), MIB, 3), how);
        everything_serves_objects(common::heap_on(LockedSim::default(), MIB, 3), how);
    }
}

/// In the *locked* way no CPU has to rest: its lock can be taken.
#[test]
fn what_running_locked_cpus_keep_or_are_owed_serves_requests_of_another() {
    let heap = common::heap_on(LockedSim::default(), MIB, 3);
    let small = layout(64, 8);
    for _ in 0..3 {
        let owed: Vec<_> = on(0, || std::iter::from_fn(|| heap.alloc(small).ok()).collect());
        on(1, || free_objects(heap, small, &owed));
        let all = on(2, || take_all_pages(heap));
        assert_eq!(all.len(), managed_pages(heap));
        on(2, || free_pages(heap, &all));
    }
    common::check_all_free(heap);
}

/// Traffic on `cpu` in every class and page count, all of it freed: the most that stays behind.
fn traffic<P: Platform>(heap: &GlobalAllocator<PAGE, P>, cpu: usize) {
    on(cpu, || {
        for class in SizeClass::ALL {
            let layout = layout(class.size(), 8);
            let many = objects(heap, layout, 40);
            free_objects(heap, layout, &many);
        }
        for count in [1, 2, 4, 8, 512] {
            let many: Vec<_> = (0..if count == 512 { 6 } else { 200 })
                .map(|_| heap.alloc_pages(count, 0))
                .collect();
            many.into_iter().flatten().for_each(|pages| heap.dealloc_pages(pages, count));
        }
    });
}

/// The stated bound on pages: page lists, an empty slab for each class, and idle slabs.
fn withheld_bound() -> usize {
    let slabs: usize = SizeClass::ALL.iter().map(|class| class.slab_pages(PAGE).max(32)).sum();
    Pinned::MAX_KEPT_PAGES + slabs + (512 << 10) / PAGE
}

#[cfg(target_pointer_width = "64")]
#[test]
fn slabs_that_come_back_whole_are_kept_for_their_class_up_to_a_bound_until_ticks_release_them() {
    let heap = common::pinned(64 * MIB, 2);
    let small = layout(64, 8);
    let pages = || on(0, || heap.snapshot().classes[SizeClass::Bytes64.index()].pages);
    // Two empty slabs in the chain, the idle ones, and no room for one more.
    let (bound, slab) = ((512 << 10) / PAGE, 16);
    for count in [1000, 20_000] {
        let many = on(0, || objects(heap, small, count));
        let made = pages();
        on(1, || free_objects(heap, small, &many));
        on(1, || heap.tick(1)).expect("the running CPU");
        // (A snapshot takes in what has come back.)
        pages();
        let kept = pages();
        println!("{count} objects: {made} pages, {kept} kept");
        assert!(kept >= made.min(bound - slab) && kept <= bound + 2 * slab, "{kept} of {made}");
        on(0, || heap.check_invariants());
        for _ in 0..8 {
            on(0, || heap.tick(0)).expect("the running CPU");
        }
        assert!(pages() <= 2 * slab, "ticks release them");
    }
    common::check_all_free(heap);
}

#[test]
fn what_a_running_pinned_cpu_withholds_is_bounded_and_the_hook_gets_it_back() {
    let heap = common::pinned(64 * MIB, 3);
    let (listed, cached) = if usize::BITS >= 64 {
        (2 * (3 * 64 + 48 + 128 + 224 + 256 + 4 * 512), (8 << 20) / PAGE)
    } else {
        (2 * (2 + 2 + 4 + 512), (256 << 10) / PAGE)
    };
    assert_eq!(Pinned::MAX_KEPT_PAGES, listed + cached, "the stated constant");
    traffic(heap, 0);
    traffic(heap, 1);
    let got = on(2, || take_all_pages(heap));
    let withheld = managed_pages(heap) - got.len();
    println!("{withheld} pages withheld by two CPUs");
    assert!(withheld > 0, "the story keeps something back");
    assert!(withheld <= 2 * withheld_bound(), "{withheld} pages are withheld");
    common::enable_hook(heap);
    let rest = on(2, || take_all_pages(heap));
    assert_eq!(got.len() + rest.len(), managed_pages(heap), "the hook brings all of it");
    assert!(heap.platform().0.drains.load(Ordering::Relaxed) > 0);
    on(2, || free_pages(heap, &got));
    on(2, || free_pages(heap, &rest));
    common::check_all_free(heap);
}

#[test]
fn what_a_running_pinned_cpu_has_not_published_is_bounded() {
    for size in [8, 64, 1024, 8192] {
        let heap = common::pinned(32 * MIB, 2);
        let layout = layout(size, 8);
        let count = 8 * MIB / size.max(64);
        let class = SizeClass::from_layout(layout).expect("a class");
        let many = on(0, || objects(heap, layout, count));
        // From both ends, so that many slabs are touched at once.
        let (front, back) = many.split_at(count / 2);
        on(1, || {
            for (one, other) in front.iter().zip(back.iter().rev()) {
                free_objects(heap, layout, &[*one, *other]);
            }
        });
        let snapshot = on(0, || heap.snapshot());
        assert_eq!(snapshot.heaps_not_seen, 1, "the other CPU runs");
        let waiting = snapshot.classes[class.index()].objects_live * class.size();
        println!("{size}: {waiting} bytes wait");
        assert!(waiting <= Pinned::MAX_UNPUBLISHED_BYTES, "{size}: {waiting} bytes wait");
        // A tick publishes the rest.
        on(1, || heap.tick(1)).expect("the running CPU");
        let snapshot = on(0, || heap.snapshot());
        assert_eq!(snapshot.classes[class.index()].objects_live, 0, "{size}");
        on(1, || heap.cpu_offline(1)).expect("the running CPU");
        common::check_all_free(heap);
    }
}

/// CPU 1 has room in a slab that cannot go away, and everything else is taken.
fn only_cpu_1_has_objects(heap: &Pinned) -> (NonNull<u8>, Vec<usize>) {
    let layout = layout(64, 8);
    let last = on(1, || {
        let some = objects(heap, layout, 10);
        free_objects(heap, layout, &some[1..]);
        some[0]
    });
    on(1, || heap.drain_current());
    (last, on(0, || take_all_pages(heap)))
}

#[test]
fn a_running_cpu_gives_an_object_of_the_wanted_class_when_the_hook_asks() {
    let heap = common::pinned(MIB, 2);
    let wanted = layout(64, 8);
    let (last, pages) = only_cpu_1_has_objects(heap);
    assert_eq!(on(0, || heap.alloc(wanted)), Err(AllocError::NoMemory), "without the hook");
    common::enable_hook(heap);
    let gift = on(0, || heap.alloc(wanted)).expect("a gift");
    assert_ne!(gift, last);
    assert!(on(0, || heap.alloc(layout(1024, 8))).is_err(), "CPU 1 has no such object");
    on(0, || free_objects(heap, wanted, &[gift, last]));
    on(0, || free_pages(heap, &pages));
    common::check_all_free(heap);
}

#[test]
fn an_object_at_hand_on_a_parked_cpu_serves_another() {
    let heap = common::pinned(MIB, 2);
    let wanted = layout(64, 8);
    let (last, pages) = only_cpu_1_has_objects(heap);
    on(1, || heap.idle(1)).expect("CPU 1");
    let served = on(0, || heap.alloc(wanted)).expect("an object of the parked CPU");
    on(0, || free_objects(heap, wanted, &[served, last]));
    on(0, || free_pages(heap, &pages));
    common::check_all_free(heap);
}

/// All the objects at hand, one after another, not just the first.
#[test]
fn every_object_at_hand_elsewhere_is_handed_over_before_a_request_fails() {
    for hook in [false, true] {
        let heap = common::pinned(MIB, 2);
        let wanted = layout(64, 8);
        let (last, pages) = only_cpu_1_has_objects(heap);
        if hook {
            common::enable_hook(heap);
        } else {
            on(1, || heap.idle(1)).expect("CPU 1");
        }
        let class = SizeClass::from_layout(wanted).expect("a class");
        let total = on(1, || heap.snapshot()).classes[class.index()].objects_total;
        if !hook {
            on(1, || heap.idle(1)).expect("CPU 1"); // the snapshot woke it
        }
        let served: Vec<_> = on(0, || std::iter::from_fn(|| heap.alloc(wanted).ok()).collect());
        assert_eq!(served.len() + 1, total, "hook: {hook}");
        on(0, || free_objects(heap, wanted, &served));
        on(0, || free_objects(heap, wanted, &[last]));
        on(0, || free_pages(heap, &pages));
        common::check_all_free(heap);
    }
}

#[test]
fn tick_publishes_remote_frees_and_returns_surplus_pages() {
    let heap = common::pinned(16 * MIB, 2);
    let small = layout(64, 8);
    let many = on(0, || objects(heap, small, 20));
    on(1, || free_objects(heap, small, &many));
    let pages = on(1, || (0..120).map(|_| heap.alloc_pages(1, 0)).collect::<Vec<_>>());
    // All but some: a full list would have given a batch back by itself.
    let freed = pages.into_iter().flatten().take(110);
    on(1, || freed.for_each(|page| heap.dealloc_pages(page, 1)));
    let before = on(0, || heap.snapshot());
    on(1, || heap.tick(1)).expect("the running CPU");
    let after = on(0, || heap.snapshot());
    let class = SizeClass::from_layout(small).expect("a class").index();
    assert_eq!(after.classes[class].objects_live, 0, "published");
    assert!(before.classes[class].objects_live > 0, "batched until then");
    assert!(after.cached_pages < before.cached_pages, "surplus pages went back");
    assert!(after.cached_pages > 0, "but not what is at hand");
}

#[test]
fn tick_below_the_low_watermark_returns_everything() {
    use buddy_slab_allocator::{Watermarks, Zone};
    let heap = common::pinned(16 * MIB, 1);
    let pages = (0..8).map(|_| heap.alloc_pages(1, 0)).collect::<Vec<_>>();
    pages.into_iter().flatten().for_each(|page| heap.dealloc_pages(page, 1));
    heap.tick(0).expect("the running CPU");
    assert!(heap.snapshot().cached_pages > 0);
    let marks = Watermarks { min_pages: 0, low_pages: usize::MAX };
    for zone in Zone::ALL {
        heap.set_watermarks(0, zone, marks);
    }
    heap.tick(0).expect("the running CPU");
    assert_eq!(heap.snapshot().cached_pages, 0);
}

#[test]
fn a_cpu_wakes_and_comes_back_by_itself() {
    let heap = common::pinned(4 * MIB, 2);
    for round in 0..50 {
        let layout = layout(100, 4);
        let some = on(1, || objects(heap, layout, 30));
        let page = on(1, || heap.alloc_pages(1, 0)).expect("a page");
        match round % 3 {
            0 => on(1, || heap.idle(1)).expect("idle"),
            1 => on(1, || heap.cpu_offline(1)).expect("offline"),
            // SAFETY: it is outside the allocator and comes back below.
            _ => on(0, || unsafe { heap.cpu_dead(1) }).expect("dead"),
        }
        // Others free what it had, while it is away and afterwards.
        on(0, || free_objects(heap, layout, &some[..15]));
        on(0, || heap.dealloc_pages(page, 1));
        if round % 2 == 0 {
            heap.cpu_online(1).expect("online");
        }
        on(1, || free_objects(heap, layout, &some[15..]));
        heap.check_invariants();
    }
    on(1, || heap.cpu_offline(1)).expect("offline");
    common::check_all_free(heap);
}

#[test]
fn only_a_pinned_cpu_itself_speaks_for_it_while_it_runs() {
    let heap = common::pinned(4 * MIB, 2);
    let object = on(1, || heap.alloc(layout(8, 8))).expect("CPU 1 runs");
    let invalid = Err(AllocError::InvalidParam);
    on(0, || {
        assert_eq!(heap.cpu_offline(1), invalid);
        assert_eq!(heap.idle(1), invalid);
        assert_eq!(heap.tick(1), invalid);
        assert_eq!(heap.tick(2), invalid, "no such CPU");
        assert_eq!(heap.idle(usize::MAX), invalid, "no such CPU");
        assert_eq!(heap.cpu_online(2), invalid, "no such CPU");
        assert_eq!(heap.cpu_offline(2), invalid, "no such CPU");
        // SAFETY: there is no such CPU.
        assert_eq!(unsafe { heap.cpu_dead(2) }, invalid, "no such CPU");
    });
    on(1, || heap.idle(1)).expect("itself");
    on(0, || heap.cpu_offline(1)).expect("another, once it sleeps");
    on(0, || free_objects(heap, layout(8, 8), &[object]));
    common::check_all_free(heap);
}

#[test]
fn anybody_speaks_for_a_locked_cpu() {
    let heap = common::heap_on(LockedSim::default(), 4 * MIB, 2);
    let small = layout(8, 8);
    let some = on(1, || objects(heap, small, 10));
    on(0, || {
        heap.tick(1).expect("any CPU");
        heap.idle(1).expect("any CPU");
        free_objects(heap, small, &some);
        heap.cpu_offline(1).expect("any CPU");
        assert_eq!(heap.tick(2), Err(AllocError::InvalidParam), "no such CPU");
    });
    common::check_all_free(heap);
}

#[test]
fn drain_current_gives_back_all_that_this_cpu_keeps() {
    let heap = common::pinned(64 * MIB, 1);
    traffic(heap, 0);
    assert!(heap.allocated_bytes() > 0 && heap.snapshot().cached_pages > 0);
    assert!(heap.drain_current());
    assert_eq!((heap.allocated_bytes(), heap.snapshot().cached_pages), (0, 0));
}

/// Early boot: memory, but no CPUs; then CPUs. What was allocated before is freed after.
#[test]
fn memory_is_served_before_cpus_exist_and_per_cpu_afterwards() {
    fn boot<P: Platform>(platform: P) {
        common::set_cpu(None);
        let heap = common::heap_on(platform, 4 * MIB, 0);
        let small = layout(48, 16);
        let early = objects(heap, small, 500);
        let page = heap.alloc_pages(3, 0).expect("pages");
        let big = heap.alloc(layout(100_000, 8)).expect("a large object");
        free_objects(heap, small, &early[..250]);
        assert_eq!(heap.cpu_online(0), Err(AllocError::InvalidParam), "no CPU yet");
        for bad in [0, 32_768, usize::MAX] {
            assert_eq!(heap.attach_cpus(bad), Err(AllocError::InvalidParam));
        }
        heap.attach_cpus(3).expect("CPUs");
        assert_eq!(heap.attach_cpus(3), Err(AllocError::InvalidParam), "once only");
        // Still nowhere, with CPUs attached.
        free_objects(heap, small, &early[250..300]);
        for cpu in 0..3 {
            on(cpu, || {
                heap.cpu_online(cpu).expect("a CPU");
                let own = objects(heap, small, 100);
                free_objects(heap, small, &own);
            });
        }
        on(1, || free_objects(heap, small, &early[300..]));
        on(2, || heap.dealloc_pages(page, 3));
        // SAFETY: allocated above with this layout.
        on(0, || unsafe { heap.dealloc(big, layout(100_000, 8)) });
        for cpu in 0..3 {
            on(cpu, || heap.cpu_offline(cpu)).expect("a CPU");
        }
        heap.shrink();
        // The CPUs' heaps are the allocator's own, like its metadata: neither managed nor in use.
        assert!(heap.snapshot().internal_pages > 0, "the heaps are counted as what they are");
        on(0, || common::check_all_free(heap));
        common::set_cpu(Some(0));
    }
    boot(PinnedSim::default());
    boot(LockedSim::default());
}

struct BootOs;
thread_local! {
    static BOOT_CPU: Cell<usize> = const { Cell::new(0) };
}
impl OsImpl for BootOs {
    fn current_cpu_idx(&self) -> usize {
        BOOT_CPU.get()
    }
    fn virt_to_phys(&self, vaddr: usize) -> usize {
        vaddr
    }
}

#[test]
fn the_operating_system_is_attached_after_early_boot() {
    let heap: &'static GlobalAllocator = Box::leak(Box::new(GlobalAllocator::new()));
    // SAFETY: nobody else attaches.
    assert_eq!(unsafe { heap.attach_os(2, &BootOs) }, Err(AllocError::NotInitialized));
    let region = testkit::Region::new(2 * MIB).leak();
    // SAFETY: the region is leaked.
    unsafe { heap.init_raw(region.as_mut_ptr(), region.len(), 0) }.expect("init");
    let early = heap.alloc(layout(64, 8)).expect("early");
    // SAFETY: nobody else attaches.
    unsafe {
        assert_eq!(heap.attach_os(0, &BootOs), Err(AllocError::InvalidParam), "no CPUs");
        heap.attach_os(2, &BootOs).expect("attached");
        assert_eq!(heap.attach_os(2, &BootOs), Err(AllocError::InvalidParam), "once only");
        assert_eq!(
            heap.init(testkit::Region::new(MIB).leak(), 2, &BootOs),
            Err(AllocError::InvalidParam),
            "initialised already"
        );
    }
    for cpu in [0, 1, 5] {
        BOOT_CPU.set(cpu);
        let late = heap.alloc(layout(64, 8)).expect("late");
        // SAFETY: allocated just above.
        unsafe { heap.dealloc(late, layout(64, 8)) };
    }
    // SAFETY: allocated above, before there was an operating system.
    unsafe { heap.dealloc(early, layout(64, 8)) };
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.misuse_count(), 0);
}

/// Without memory for the heaps `attach_cpus` fails, and may be tried again.
#[test]
fn attaching_cpus_may_fail_and_be_tried_again() {
    common::set_cpu(None);
    let heap = common::heap_on(PinnedSim::default(), MIB / 4, 0);
    let pages = take_all_pages(heap);
    assert_eq!(heap.attach_cpus(2), Err(AllocError::NoMemory));
    free_pages(heap, &pages);
    heap.attach_cpus(2).expect("there is memory now");
    common::set_cpu(Some(1));
    heap.alloc(layout(64, 8)).expect("an object");
    heap.check_invariants();
}

/// Two callers race to attach CPUs: one wins, and nothing is attached twice.
#[test]
fn one_of_many_racing_inits_and_attachments_wins() {
    for _ in 0..20 {
        let heap: &'static GlobalAllocator = Box::leak(Box::new(GlobalAllocator::new()));
        let wins = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let region = testkit::Region::new(MIB / 4).leak();
                    // SAFETY: the region is leaked.
                    let won = unsafe { heap.init_raw(region.as_mut_ptr(), region.len(), 0) };
                    wins.fetch_add(usize::from(won.is_ok()), Ordering::Relaxed);
                });
            }
        });
        assert_eq!((wins.swap(0, Ordering::Relaxed), heap.managed_section_count()), (1, 1));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    wins.fetch_add(usize::from(heap.attach_cpus(2).is_ok()), Ordering::Relaxed);
                });
            }
        });
        assert_eq!(wins.load(Ordering::Relaxed), 1);
    }
}

/// CPUs take turns to rest and to run while others allocate: real threads, real parking.
#[test]
fn parking_and_stealing_race_without_loss() {
    let heap = common::heap_on(Threads, 2 * MIB, 4);
    std::thread::scope(|scope| {
        for cpu in 0..4 {
            scope.spawn(move || {
                common::set_cpu(Some(cpu));
                let mut random = common::Random(cpu as u64 + 1);
                let mut held: Vec<(NonNull<u8>, usize)> = Vec::new();
                for round in 0..12_000 {
                    let size = 1 + random.below(3000);
                    // Memory is scarce: the others' heaps are looked into all the time.
                    match heap.alloc(layout(size, 8)) {
                        Ok(object) if held.len() < 300 => {
                            // SAFETY: allocated just above.
                            unsafe { object.as_ptr().write_bytes(size as u8, size) };
                            held.push((object, size));
                        }
                        // SAFETY: allocated just above.
                        Ok(object) => unsafe { heap.dealloc(object, layout(size, 8)) },
                        Err(_) => {
                            for (object, size) in held.drain(..) {
                                // SAFETY: held, filled above.
                                unsafe {
                                    let last = object.as_ptr().add(size - 1);
                                    assert_eq!((*object.as_ptr(), *last), (size as u8, size as u8));
                                    heap.dealloc(object, layout(size, 8));
                                }
                            }
                        }
                    }
                    match round % 97 {
                        13 => heap.idle(cpu).expect("own"),
                        31 => heap.tick(cpu).expect("own"),
                        57 => heap.cpu_offline(cpu).expect("own"),
                        83 => drop(heap.drain_current()),
                        _ => {}
                    }
                }
                for (object, size) in held {
                    // SAFETY: held.
                    unsafe { heap.dealloc(object, layout(size, 8)) };
                }
                heap.cpu_offline(cpu).expect("own");
            });
        }
    });
    common::set_cpu(Some(0));
    common::check_all_free(heap);
}

/// *Thread*: an index for each thread.
struct Threads;
// SAFETY: each thread of the test has an index of its own; no signal is involved.
unsafe impl Platform for Threads {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: buddy_slab_allocator::Access = buddy_slab_allocator::Access::Exclusive;
    fn pin(&self) -> ((), Option<usize>) {
        ((), common::cpu())
    }
    fn unpin(&self, (): ()) {}
}

/// A `static` heap that is used by a constructor, before `main` and before any thread.
#[cfg(target_os = "linux")]
mod before_main {
    use super::*;

    static HEAP: GlobalAllocator = GlobalAllocator::new();
    static OBJECT: AtomicUsize = AtomicUsize::new(0);

    #[repr(align(4096))]
    struct Arena(std::cell::UnsafeCell<[u8; 256 << 10]>);
    // SAFETY: only the constructor takes a pointer to it, for the heap.
    unsafe impl Sync for Arena {}
    static ARENA: Arena = Arena(std::cell::UnsafeCell::new([0; 256 << 10]));

    // SAFETY: a function of the type that the loader calls before `main`.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static CONSTRUCTOR: extern "C" fn() = construct;

    extern "C" fn construct() {
        if HEAP.alloc(Layout::new::<u64>()) != Err(AllocError::NotInitialized) {
            return;
        }
        // SAFETY: the arena is the heap's from here on.
        if unsafe { HEAP.init_raw(ARENA.0.get().cast(), 256 << 10, 0) }.is_err() {
            return;
        }
        if let Ok(object) = HEAP.alloc(Layout::new::<u64>()) {
            // SAFETY: allocated just above.
            unsafe { object.cast::<u64>().write(0xB007) };
            OBJECT.store(object.as_ptr().expose_provenance(), Ordering::Release);
        }
    }

    use std::alloc::Layout;

    #[test]
    fn a_constructor_before_main_allocates() {
        let addr = OBJECT.load(Ordering::Acquire);
        let object = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(addr))
            .expect("the constructor had an object");
        // SAFETY: what the constructor allocated and wrote; freed once, here.
        unsafe {
            assert_eq!(object.cast::<u64>().read(), 0xB007);
            HEAP.attach_os(2, &BootOs).expect("attached");
            HEAP.dealloc(object, Layout::new::<u64>());
        }
        HEAP.shrink();
        HEAP.check_invariants();
    }
}
