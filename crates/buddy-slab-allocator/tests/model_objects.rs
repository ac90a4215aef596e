//! Model tests: a heap for one to eight CPUs against the oracle, step by step and by real threads.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::ptr::{NonNull, with_exposed_provenance_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use buddy_slab_allocator::{AllocError, GlobalAllocator};
use proptest::prelude::*;
use testkit::op::{self, Op};
use testkit::oracle;
use testkit::platform::{LOW, LyingCpus, PhysMap, set_cpu};
use testkit::region::Region;
use testkit::runner::Runner;
use testkit::watchdog::within;
use testkit::{GlobalHeap, Heap};

/// `PROPTEST_CASES` scales all of them.
fn config(cases: u32) -> ProptestConfig {
    let scaled = std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok());
    ProptestConfig {
        cases: scaled.unwrap_or(cases),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Runs `ops`, then wants every page back.
fn run<const P: usize>(region: Region, cpus: usize, map: PhysMap, ops: &[Op]) {
    let heap = GlobalHeap::<P>::new(region, cpus, map);
    let mut runner = Runner::new(&heap);
    for op in ops {
        runner.step(op);
        heap.check_invariants();
    }
    runner.oracle().verify_all();
    runner.free_all();
    heap.check_invariants();
    let pages = runner.count_pages_one_by_one();
    heap.check_invariants();
    heap.shrink();
    assert_eq!(
        pages * P,
        heap.allocator().managed_bytes(),
        "pages are kept back with nothing live; after a shrink {:?} bytes count as allocated, of {:?}",
        heap.allocated_bytes(),
        (0..heap.sections().len()).map(|i| heap.allocator().managed_section(i)).collect::<Vec<_>>()
    );
    assert_eq!(heap.allocated_bytes(), Some(0));
    heap.check_invariants();
    heap.check_guards();
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn any_sequence_on_any_number_of_cpus(
        ops in op::ops(250),
        cpus in 1usize..=8,
        pages in 96usize..400,
        offset in 0usize..8192,
    ) {
        let region = Region::with_offset(pages * 0x1000, 0x1000, offset);
        run::<0x1000>(region, cpus, PhysMap::Low, &ops);
    }

    #[test]
    fn memory_too_small_for_the_work(ops in op::ops(250), cpus in 1usize..=4, pages in 12usize..40) {
        run::<0x1000>(Region::pages(pages, 0x1000), cpus, PhysMap::Identity, &ops);
    }

    #[test]
    fn pages_only(ops in op::page_ops(400), offset in 0usize..16, pages in 40usize..1200) {
        let region = Region::with_offset(pages * 0x1000, 1 << 22, offset * 0x1000);
        let map = PhysMap::At { virt: region.range().start + pages / 2 * 0x1000, phys: 1usize.rotate_left(32) };
        run::<0x1000>(region, 2, map, &ops);
    }
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn any_sequence_with_large_pages(ops in op::ops(150), cpus in 1usize..=3) {
        run::<0x1_0000>(Region::pages(40, 0x1_0000), cpus, PhysMap::Low, &ops);
    }

    #[test]
    fn any_sequence_with_small_pages(ops in op::ops(150), cpus in 1usize..=3) {
        run::<0x200>(Region::pages(1200, 0x200), cpus, PhysMap::Low, &ops);
    }

    #[test]
    fn exhaustion_and_recovery(sizes in prop::collection::vec(op::wide_sizes(), 3..8), cpus in 1usize..=4) {
        let heap = GlobalHeap::<0x1000>::new(Region::new(128 * 0x1000), cpus, PhysMap::Low);
        let mut runner = Runner::new(&heap);
        for (i, size) in sizes.into_iter().enumerate() {
            runner.step(&Op::SwitchCpu { cpu: i });
            while runner.alloc(size.max(64), 8, false) {}
            heap.check_invariants();
            let full = runner.oracle().object_count();
            let live = runner.oracle().live_bytes();
            prop_assert!(live * 2 >= heap.allocator().managed_bytes() || size > 20 << 10, "{size}: only {live} bytes");
            runner.free_all();
            heap.check_invariants();
            while runner.alloc(size.max(64), 8, false) {}
            prop_assert!(// Slabs may come to lie a little differently; nothing more.
                (runner.oracle().object_count() + 1) * 10 >= full * 9, "{size}: {full} before");
            runner.free_all();
        }
        prop_assert_eq!(runner.count_pages_one_by_one() * 0x1000, heap.allocator().managed_bytes());
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn any_region_is_refused_or_used_inside_its_bounds(
        len in prop_oneof![0usize..9000, 9000usize..200_000],
        offset in 0usize..9000,
        cpus in 0usize..20,
        seed in 1u64..u64::MAX,
    ) {
        let mut region = Region::seeded(len, 4096, offset, seed);
        let range = region.range();
        let heap = GlobalAllocator::<0x400>::new();
        set_cpu(0);
        // SAFETY: the region outlives the heap's last use.
        match unsafe { heap.init(region.bytes_mut(), cpus, &LOW) } {
            Err(error) => {
                prop_assert_eq!(error, AllocError::InvalidParam);
                // Each CPU's heap takes less than 8 KiB, and so do the two shared ones.
                let enough = (cpus + 6) * (8 << 10);
                prop_assert!(len < enough || cpus == 0, "{} bytes for {} CPUs refused", len, cpus);
            }
            Ok(()) => {
                let section = heap.managed_section(0).unwrap();
                prop_assert!(range.start <= section.start && section.start + section.size <= range.end);
                let mut pages = 0;
                while let Ok(page) = heap.alloc_pages(1, 0x400) {
                    // SAFETY: just handed out; the guards tell if it lies outside.
                    unsafe { oracle::fill(page, 0x400) };
                    pages += 1;
                }
                prop_assert_eq!(pages * 0x400, section.size);
                heap.check_invariants();
            }
        }
        region.check_guards();
    }
}

#[test]
fn utilisation_at_the_first_refusal() {
    // Log-uniform 8 B to 128 KiB, a third freed again: most of the memory must have been put to use.
    let (mut live, mut all) = (0, 0);
    for seed in 1..5usize {
        let heap = GlobalHeap::<0x1000>::new(Region::new(32 << 20), 1, PhysMap::Low);
        let mut runner = Runner::new(&heap);
        let mut state = seed.wrapping_mul(0x9E37_79B9);
        loop {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D_u64 as usize).wrapping_add(1);
            let octave = 3 + (state >> 12) % 14;
            let size = (1 << octave) + (state >> 16) % (1 << octave);
            if state >> 9 & 3 == 0 {
                runner.step(&Op::Free { nth: state >> 5 });
            }
            if !runner.alloc(size, 8, false) {
                break;
            }
        }
        live += runner.oracle().live_bytes();
        all += heap.allocator().managed_bytes();
        runner.free_all();
    }
    assert!(live * 10 >= all * 8, "{live} of {all} bytes in use at the first refusal");
}

// ---- threads ----------------------------------------------------------------------------------

/// An object on its way: address, layout, and that its content is of that address.
type Parcel = (usize, Layout);

/// Each thread allocates, checks, frees, and sends a third of its objects to the next one.
fn threads(
    heap: &GlobalHeap,
    threads: usize,
    rounds: usize,
    cpus: impl Fn(usize, usize) -> usize + Sync,
) {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..threads).map(|_| mpsc::channel::<Parcel>()).unzip();
    std::thread::scope(|scope| {
        for (me, mail) in receivers.into_iter().enumerate() {
            let next = senders[(me + 1) % threads].clone();
            let cpus = &cpus;
            scope.spawn(move || {
                let mut held: Vec<Parcel> = Vec::new();
                let mut state = me.wrapping_mul(77).wrapping_add(5);
                for round in 0..rounds {
                    set_cpu(cpus(me, round));
                    state = state.wrapping_mul(0x5851_F42D_4C95_7F2D_u64 as usize).wrapping_add(1);
                    let octave = 3 + (state >> 12) % 9 + usize::from(state >> 20 & 31 == 0) * 4;
                    let one =
                        Layout::from_size_align((1 << octave) + (state >> 16) % (1 << octave), 8)
                            .unwrap();
                    if let Some(ptr) = heap.alloc(one) {
                        let addr = ptr.as_ptr().expose_provenance();
                        // SAFETY: a fresh object of this size.
                        unsafe { oracle::fill(addr, one.size()) };
                        held.push((addr, one));
                    }
                    if let Some(at) = (state >> 7).checked_rem(held.len()) {
                        let parcel = held.swap_remove(at);
                        match state >> 5 & 3 {
                            0 => held.push(parcel),
                            1 => take_apart(heap, parcel),
                            // The last thread alive may find nobody to write to.
                            _ => next.send(parcel).unwrap_or_else(|back| take_apart(heap, back.0)),
                        }
                    }
                    while let Ok(parcel) = mail.try_recv() {
                        take_apart(heap, parcel);
                    }
                    if round % 64 == 0 {
                        heap.tick(cpus(me, round));
                    }
                }
                drop(next);
                held.into_iter().for_each(|parcel| take_apart(heap, parcel));
                // Until all senders are gone; the spawner's are dropped below.
                for parcel in mail {
                    take_apart(heap, parcel);
                }
            });
        }
        drop(senders);
    });
    heap.check_guards();
}

/// With nothing running: the equations hold, and every page can be had.
fn settle(heap: &GlobalHeap) {
    heap.check_invariants();
    set_cpu(0);
    let pages: BTreeSet<usize> = std::iter::from_fn(|| heap.alloc_pages(1, 0x1000)).collect();
    assert_eq!(pages.len() * 0x1000, heap.allocator().managed_bytes());
    for page in pages {
        heap.dealloc_pages(page, 1);
    }
    heap.check_invariants();
}

fn take_apart(heap: &GlobalHeap, (addr, one): Parcel) {
    let ptr = NonNull::new(with_exposed_provenance_mut(addr)).unwrap();
    // SAFETY: live until now, filled when it was allocated, and this thread's since it arrived.
    unsafe {
        oracle::verify(addr, one.size(), addr);
        heap.dealloc(ptr, one);
    }
}

#[test]
fn threads_with_a_cpu_each() {
    for count in [2, 4, 8] {
        within(60, move || {
            let heap = GlobalHeap::new(Region::new(16 << 20), count, PhysMap::Low);
            threads(&heap, count, 6000, |me, _| me);
            settle(&heap);
        });
    }
}

#[test]
fn threads_that_migrate_and_share_cpus() {
    within(60, || {
        let heap = GlobalHeap::new(Region::new(16 << 20), 3, PhysMap::Low);
        threads(&heap, 4, 6000, |me, round| (me + round / 10) % 3);
        settle(&heap);
    });
}

#[test]
fn threads_beside_hot_add_and_shrink() {
    within(60, || {
        let heap = GlobalHeap::new(Region::new(2 << 20), 4, PhysMap::Low);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0.. {
                    set_cpu(3);
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    if i < 200 {
                        assert!(heap.add_region((8 + i % 5) * 0x1000 + 300));
                    }
                    heap.shrink();
                    heap.idle(3);
                    std::thread::yield_now();
                }
            });
            threads(&heap, 3, 6000, |me, _| me);
            done.store(true, Ordering::Relaxed);
        });
        settle(&heap);
        heap.shrink();
        assert_eq!(heap.allocated_bytes(), Some(0));
    });
}

#[test]
fn threads_with_a_lying_index() {
    static OS: LyingCpus = LyingCpus::new(3);
    within(60, || {
        let heap = GlobalHeap::on(Region::new(16 << 20), 3, &OS);
        threads(&heap, 4, 6000, |me, round| me + round);
        settle(&heap);
    });
}

#[test]
fn threads_short_of_memory() {
    within(60, || {
        let heap = GlobalHeap::new(Region::new(80 * 0x1000), 4, PhysMap::Low);
        threads(&heap, 4, 5000, |me, _| me);
        settle(&heap);
    });
}
