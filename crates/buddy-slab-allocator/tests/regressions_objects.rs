//! Mistakes known from elsewhere that concern objects, each named after the mistake.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use buddy_slab_allocator::{GlobalAllocator, Misuse, SizeClass};
use testkit::misuse;
use testkit::oracle;
use testkit::platform::{LyingCpus, PhysMap, on_cpu, set_cpu};
use testkit::region::Region;
use testkit::watchdog::within;
use testkit::{GlobalHeap, Heap};

const PAGE: usize = 0x1000;

fn heap(pages: usize, cpus: usize) -> GlobalHeap {
    GlobalHeap::new(Region::new(pages * PAGE), cpus, PhysMap::Identity).recording()
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn free<const P: usize>(heap: &GlobalHeap<P>, ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the tests pass what `alloc` gave for this layout, or are about the answer to a
    // wrong free, which must be refused.
    unsafe { heap.dealloc(ptr, layout) }
}

/// Allocates objects until one is refused.
fn exhaust<const P: usize>(heap: &GlobalHeap<P>, layout: Layout) -> Vec<NonNull<u8>> {
    std::iter::from_fn(|| heap.alloc(layout)).collect()
}

/// With nothing live: every page can be allocated, and goes back.
#[track_caller]
fn expect_every_page<const P: usize>(heap: &GlobalHeap<P>) {
    let pages: BTreeSet<usize> = std::iter::from_fn(|| heap.alloc_pages(1, P)).collect();
    assert_eq!(pages.len() * P, heap.allocator().managed_bytes(), "pages are kept back");
    for page in pages {
        heap.dealloc_pages(page, 1);
    }
    heap.check_invariants();
}

const FREED: [Misuse; 2] = [Misuse::DoubleFree, Misuse::NotAllocated];

// ---- lists and remote frees -------------------------------------------------------------------

#[test]
fn list_of_a_slab_inferred_from_counters_others_change() {
    // Full slabs become partial through remote frees while the owner frees and allocates.
    within(60, || {
        let heap = heap(512, 4);
        let small = layout(256, 8);
        for round in 0..20usize {
            let mut live: Vec<_> =
                (0..400).filter_map(|_| on_cpu(0, || heap.alloc(small))).collect();
            for (i, ptr) in live.drain(..).enumerate().collect::<Vec<_>>() {
                on_cpu((i * 7 + round) % 4, || free(&heap, ptr, small));
                if i % 5 == 0 {
                    let again = on_cpu(0, || heap.alloc(small)).unwrap();
                    on_cpu(0, || free(&heap, again, small));
                    heap.check_invariants();
                }
            }
        }
        misuse::expect_none();
        expect_every_page(&heap);
    });
}

#[test]
fn remote_count_reset_apart_from_the_list() {
    let heap = heap(64, 3);
    for size in [8, 48, 200, 1000, 3000] {
        let small = layout(size, 8);
        let mut live = exhaust(&heap, small);
        for round in 0..6 {
            // Every other object goes, so that each slab stays where it is.
            let (gone, kept): (Vec<_>, Vec<_>) =
                live.iter().enumerate().partition(|(i, _)| i % 2 == round % 2);
            for (i, ptr) in &gone {
                on_cpu(1 + i % 2, || free(&heap, **ptr, small));
            }
            // Nothing may be forgotten, and nothing invented: the same ones come back.
            let again = exhaust(&heap, small);
            assert_eq!(again.len(), gone.len(), "objects of {size} bytes, round {round}");
            assert_eq!(
                again.iter().collect::<BTreeSet<_>>(),
                gone.iter().map(|(_, ptr)| *ptr).collect::<BTreeSet<_>>(),
                "objects of {size} bytes, round {round}"
            );
            live = kept.into_iter().map(|(_, ptr)| *ptr).chain(again).collect();
            live.sort();
            heap.check_invariants();
        }
        for ptr in live {
            free(&heap, ptr, small);
        }
        heap.check_invariants();
    }
    misuse::expect_none();
    expect_every_page(&heap);
}

#[test]
fn remotely_freed_memory_returns_only_through_its_owner() {
    for size in [16, 64, 500, 2048, 9000] {
        let heap = heap(256, 4);
        let small = layout(size, 8);
        let live = on_cpu(3, || exhaust(&heap, small));
        // CPU 3 idles for ever now.
        for ptr in &live {
            free(&heap, *ptr, small);
        }
        let again = exhaust(&heap, small);
        // Descriptors and the like may be placed a little differently.
        assert!(again.len() * 50 >= live.len() * 49, "{} of {} came back", again.len(), live.len());
        for ptr in again {
            on_cpu(1, || free(&heap, ptr, small));
        }
        on_cpu(2, || expect_every_page(&heap));
        misuse::expect_none();
    }
}

#[test]
fn batched_remote_frees_stranded_on_a_cpu_that_left() {
    for leave in [Heap::cpu_offline, Heap::idle, Heap::tick] as [fn(&GlobalHeap, usize); 3] {
        let heap = heap(128, 3);
        let small = layout(128, 8);
        let live = exhaust(&heap, small);
        for ptr in &live {
            on_cpu(1, || free(&heap, *ptr, small));
        }
        leave(&heap, 1);
        assert!(exhaust(&heap, small).len() * 50 >= live.len() * 49);
        heap.check_invariants();
    }
}

#[test]
fn objects_of_a_cpu_that_went_offline() {
    let heap = heap(256, 4);
    let small = layout(96, 8);
    let live: Vec<_> = on_cpu(2, || (0..500).map(|_| heap.alloc(small).unwrap()).collect());
    heap.cpu_offline(2);
    heap.check_invariants();
    for (i, ptr) in live.into_iter().enumerate() {
        on_cpu([0, 1, 3][i % 3], || free(&heap, ptr, small));
        heap.check_invariants();
    }
    misuse::expect_none();
    expect_every_page(&heap);
    heap.cpu_online(2);
    let ptr = on_cpu(2, || heap.alloc(small)).unwrap();
    on_cpu(2, || free(&heap, ptr, small));
}

#[test]
fn empty_slabs_kept_per_cpu_and_class_never_reclaimed() {
    let heap = heap(512, 8);
    for class in SizeClass::ALL {
        for cpu in 0..8 {
            on_cpu(cpu, || {
                let one = layout(class.size(), 1);
                let ptr = heap.alloc(one).unwrap();
                free(&heap, ptr, one);
            });
        }
    }
    heap.check_invariants();
    expect_every_page(&heap);
    misuse::expect_none();
}

#[test]
fn kept_memory_is_given_back_on_request() {
    let heap = heap(512, 4);
    for cpu in 0..4 {
        on_cpu(cpu, || {
            let live: Vec<_> = SizeClass::ALL
                .iter()
                .filter_map(|c| {
                    let one = layout(c.size(), 1);
                    Some((heap.alloc(one)?, one))
                })
                .collect();
            for (ptr, one) in live {
                free(&heap, ptr, one);
            }
        });
    }
    let before = heap.allocated_bytes().unwrap();
    let back = heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), Some(0));
    assert!(back >= before, "{back} bytes reported, {before} came back");
    assert_eq!(heap.shrink(), 0, "nothing is left to give back");
}

// ---- trust in what users write ----------------------------------------------------------------

#[test]
fn slab_base_found_by_a_magic_word() {
    // 0.3.0 looked for this word, and believed what stood behind it.
    const MAGIC: u64 = 0x534C_4142_534C_4142;
    let heap = heap(256, 2);
    for size in [64, 512, 1024, 2048, 6000] {
        let small = layout(size, 8);
        let live = (0..200).filter_map(|_| heap.alloc(small)).collect::<Vec<_>>();
        for ptr in &live {
            for at in 0..size / 8 {
                // SAFETY: inside a live object of `size` bytes, 8-aligned.
                unsafe { ptr.cast::<u64>().add(at).write(MAGIC) };
            }
        }
        for (i, ptr) in live.iter().enumerate() {
            on_cpu(i % 2, || free(&heap, *ptr, small));
        }
        misuse::expect_none();
        heap.check_invariants();
    }
    expect_every_page(&heap);
}

#[test]
fn metadata_within_reach_of_freed_objects() {
    // A write after free may ruin the freed object, nothing else.
    let heap = heap(256, 1);
    let small = layout(64, 8);
    let live: Vec<_> = (0..100).map(|_| heap.alloc(small).unwrap()).collect();
    for ptr in &live {
        free(&heap, *ptr, small);
        // SAFETY: not sound in a program; the memory is the test's own region, and nobody runs.
        unsafe { ptr.write_bytes(0xFF, 64) };
    }
    let again: BTreeSet<_> = (0..100).map(|_| heap.alloc(small).unwrap()).collect();
    assert_eq!(again.len(), 100);
    heap.check_invariants();
    misuse::expect_none();
}

// ---- misuse -----------------------------------------------------------------------------------

#[test]
fn double_free_of_an_object_by_its_owner() {
    for size in [8, 100, 2048, 10_000, 40_000, 200_000] {
        let heap = heap(512, 2);
        let small = layout(size, 8);
        let keep = heap.alloc(small).unwrap();
        // SAFETY: live, of this size.
        unsafe { oracle::fill(keep.addr().get(), size) };
        let twice = heap.alloc(small).unwrap();
        free(&heap, twice, small);
        misuse::expect_none();
        free(&heap, twice, small);
        misuse::expect_one(twice.addr().get(), &FREED);
        heap.check_invariants();
        let rest = exhaust(&heap, small);
        assert!(!rest.contains(&keep));
        assert_eq!(rest.iter().collect::<BTreeSet<_>>().len(), rest.len());
        // SAFETY: live, filled above.
        unsafe { oracle::verify(keep.addr().get(), size, keep.addr().get()) };
        for ptr in rest {
            free(&heap, ptr, small);
        }
        free(&heap, keep, small);
        misuse::expect_none();
        expect_every_page(&heap);
    }
}

#[test]
fn double_free_of_an_object_by_other_cpus() {
    // Every pair of CPUs; frees may be batched, so a report may come later, but it comes, the
    // heap stays whole, and a neighbour stays live.
    for (one, two) in [(1, 1), (1, 2), (0, 1), (1, 0)] {
        let heap = heap(128, 3);
        let small = layout(64, 8);
        let keep = heap.alloc(small).unwrap();
        let twice = heap.alloc(small).unwrap();
        on_cpu(one, || free(&heap, twice, small));
        on_cpu(two, || free(&heap, twice, small));
        // Others publish what they gathered, then the owner looks, before the object is in use again.
        for cpu in [2, 1, 0] {
            heap.idle(cpu);
        }
        heap.check_invariants();
        let rest = exhaust(&heap, small);
        assert!(!rest.contains(&keep), "{one}, {two}");
        assert_eq!(rest.iter().collect::<BTreeSet<_>>().len(), rest.len(), "{one}, {two}");
        let reports = misuse::take();
        assert_eq!(reports.len(), 1, "freed by CPU {one}, then {two}: {reports:x?}");
        assert_eq!(reports[0].0, twice.addr().get());
        assert!(FREED.contains(&reports[0].1));
        heap.check_invariants();
        for ptr in rest {
            free(&heap, ptr, small);
        }
        free(&heap, keep, small);
        misuse::expect_none();
        expect_every_page(&heap);
    }
}

/// Frees that go to one group after another are told apart by their addresses alone: what is wrong
/// among them has to be found all the same, whoever frees.
#[test]
fn misuse_amid_a_run_of_frees() {
    for (cpu, size) in [(0, 64), (0, 48), (0, 2048), (1, 64), (1, 48), (1, 2048)] {
        let heap = heap(512, 2);
        let small = layout(size, 8);
        let objects: Vec<_> = (0..200).map(|_| heap.alloc(small).unwrap()).collect();
        // Some of every slab stay live.
        let (wrong, run): (Vec<_>, Vec<_>) = (0..200).partition(|number| number % 4 == 0);
        let (wrong, run) = (wrong.iter().map(|&i| objects[i]), run.iter().map(|&i| objects[i]));
        on_cpu(cpu, || {
            for (ptr, kept) in run.clone().zip(wrong.clone().cycle()) {
                free(&heap, ptr, small);
                free(&heap, ptr, small);
                // SAFETY: inside the object; the free must be refused.
                free(&heap, unsafe { kept.add(8) }, small);
                // SAFETY: as above.
                free(&heap, unsafe { ptr.add(8) }, small);
                free(&heap, kept, layout(size / 2, 8));
            }
        });
        // A double free may be found when what was gathered goes out.
        for cpu in [1, 0] {
            heap.idle(cpu);
        }
        heap.check_invariants();
        let reports = misuse::take();
        let of = |kind| reports.iter().filter(|(_, found)| *found == kind).count();
        assert_eq!(of(Misuse::WrongSize), run.len(), "CPU {cpu}, {size} bytes");
        assert_eq!(of(Misuse::Interior), 2 * run.len(), "CPU {cpu}, {size} bytes");
        assert_eq!(of(Misuse::DoubleFree), run.len(), "CPU {cpu}, {size} bytes");
        for ptr in wrong {
            free(&heap, ptr, small);
        }
        misuse::expect_none();
        expect_every_page(&heap);
    }
}

/// A run goes on in an entry of the batch; when that goes out, is filled by another group, or its
/// slab goes and another takes its place, the run must not.
#[test]
fn run_of_remote_frees_in_an_entry_that_is_gone() {
    let heap = heap(256, 2);
    let sizes = [64, 192, 64, 320];
    for round in 0..200 {
        let small = layout(sizes[round % sizes.len()], 8);
        let objects: Vec<_> = (0..300).map(|_| heap.alloc(small).unwrap()).collect();
        on_cpu(1, || {
            for (number, &ptr) in objects.iter().enumerate() {
                free(&heap, ptr, small);
                if number % (round + 2) == 0 {
                    heap.tick(1);
                }
            }
        });
        on_cpu(1, || heap.idle(1));
        heap.idle(0);
        misuse::expect_none();
        heap.check_invariants();
    }
    // More groups than there are entries: each gets a run, and goes out for others; then their
    // addresses come again.
    let small = layout(64, 8);
    let objects: Vec<_> = (0..64 * 64).map(|_| heap.alloc(small).unwrap()).collect();
    on_cpu(1, || {
        for part in 0..8 {
            for group in objects.chunks(64) {
                for &ptr in &group[part * 8..][..8] {
                    free(&heap, ptr, small);
                }
                heap.check_invariants();
            }
        }
        heap.idle(1);
    });
    heap.idle(0);
    misuse::expect_none();
    expect_every_page(&heap);
}

#[test]
fn free_of_an_interior_or_unaligned_pointer() {
    let heap = heap(512, 2);
    for size in [24, 64, 1000, 3000, 20_000, 100_000] {
        let small = layout(size, 8);
        let ptr = heap.alloc(small).unwrap();
        for step in [1, 8, size / 2 / 8 * 8, size - 1] {
            for cpu in 0..2 {
                // SAFETY: inside the object; the free must be refused.
                let inside = unsafe { ptr.add(step) };
                on_cpu(cpu, || free(&heap, inside, small));
                let at = inside.addr().get();
                misuse::expect_one(
                    at,
                    &[Misuse::Interior, Misuse::WrongAlign, Misuse::NotAllocated],
                );
            }
        }
        free(&heap, ptr, small);
        misuse::expect_none();
        heap.check_invariants();
    }
}

#[test]
fn free_of_what_was_never_an_object() {
    let heap = heap(256, 1);
    let local = 0u64;
    let foreign = NonNull::from(&local).cast::<u8>();
    for one in [layout(8, 8), layout(64, 8), layout(5000, 8), layout(100_000, 64)] {
        free(&heap, foreign, one);
        misuse::expect_one(foreign.addr().get(), &[Misuse::Foreign, Misuse::WrongAlign]);
        // SAFETY: must be refused.
        unsafe { heap.dealloc_unsized(foreign, one) };
        misuse::expect_one(foreign.addr().get(), &[Misuse::Foreign, Misuse::WrongAlign]);
    }
    assert_eq!(heap.usable_size(foreign), None);
    let page = heap.alloc_pages(2, PAGE).unwrap();
    let as_object = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(page)).unwrap();
    for one in [layout(64, 8), layout(PAGE, PAGE), layout(2 * PAGE, PAGE), layout(100_000, 8)] {
        free(&heap, as_object, one);
        misuse::expect_one(page, &[Misuse::WrongKind, Misuse::WrongSize, Misuse::NotAllocated]);
    }
    heap.dealloc_pages(page, 2);
    misuse::expect_none();
    free(&heap, as_object, layout(64, 8));
    assert_eq!(misuse::take().len(), 1, "a free page is no object");
    heap.check_invariants();
}

#[test]
fn free_to_the_wrong_heap() {
    let (one, two) = (heap(64, 1), heap(64, 1));
    for size in [64, 20_000] {
        let small = layout(size, 8);
        let ptr = one.alloc(small).unwrap();
        free(&two, ptr, small);
        misuse::expect_one(ptr.addr().get(), &[Misuse::Foreign]);
        free(&one, ptr, small);
        misuse::expect_none();
    }
}

#[test]
fn free_with_a_wrong_size() {
    // Where the size leads to another class or page count.
    let heap = heap(512, 2);
    let sizes = [8, 64, 700, 2048, 10_000, 50_000, 200_000];
    for size in sizes {
        let ptr = heap.alloc(layout(size, 8)).unwrap();
        for wrong in sizes.into_iter().filter(|w| *w != size) {
            for cpu in 0..2 {
                on_cpu(cpu, || free(&heap, ptr, layout(wrong, 8)));
                let at = ptr.addr().get();
                misuse::expect_one(at, &[Misuse::WrongSize, Misuse::WrongKind, Misuse::WrongAlign]);
            }
        }
        free(&heap, ptr, layout(size, 8));
        misuse::expect_none();
    }
    heap.check_invariants();
}

// ---- CPU indices ------------------------------------------------------------------------------

#[test]
fn cpu_index_out_of_range() {
    let heap = heap(256, 2);
    let small = layout(64, 8);
    let mut live = Vec::new();
    for cpu in [0, 1, 2, 3, 63, 64, 65_535, 65_536, usize::MAX] {
        on_cpu(cpu, || {
            for _ in 0..50 {
                live.extend(heap.alloc(small));
            }
            let page = heap.alloc_pages(1, PAGE);
            page.into_iter().for_each(|p| heap.dealloc_pages(p, 1));
        });
        heap.check_invariants();
    }
    assert_eq!(live.iter().collect::<BTreeSet<_>>().len(), live.len());
    for (i, ptr) in live.into_iter().enumerate() {
        on_cpu([1, usize::MAX, 0, 2][i % 4], || free(&heap, ptr, small));
    }
    for cpu in [2, usize::MAX] {
        heap.idle(cpu);
        heap.tick(cpu);
        heap.cpu_offline(cpu);
        heap.cpu_online(cpu);
    }
    misuse::expect_none();
    heap.check_guards();
    expect_every_page(&heap);
}

#[test]
fn cpu_index_that_changes_at_every_question() {
    static OS: LyingCpus = LyingCpus::new(3);
    let heap = GlobalHeap::<PAGE>::on(Region::new(256 * PAGE), 3, &OS).recording();
    let mut live = Vec::new();
    for i in 0..3000usize {
        let one = layout(1 + i * 31 % 700, 8);
        if i % 3 != 0 {
            live.extend(heap.alloc(one).map(|ptr| (ptr, one)));
        } else if let Some((ptr, one)) = live.pop() {
            free(&heap, ptr, one);
        }
    }
    for (ptr, one) in live {
        free(&heap, ptr, one);
    }
    misuse::expect_none();
    heap.check_invariants();
    expect_every_page(&heap);
}

// ---- sizes ------------------------------------------------------------------------------------

#[test]
fn alignment_of_objects_beyond_their_size() {
    let heap = GlobalHeap::<PAGE>::new(
        Region::with_offset(1 << 24, 1 << 21, 9 * PAGE),
        1,
        PhysMap::Identity,
    );
    let mut live = Vec::new();
    for shift in 0..20 {
        for size in [0, 1, 24, 100, 640, 3000, 5000, 40_000] {
            let one = layout(size, 1 << shift);
            let ptr = heap.alloc(one).unwrap_or_else(|| panic!("{one:?}"));
            assert_eq!(ptr.addr().get() % one.align(), 0, "{one:?}");
            live.push((ptr, one));
        }
        if shift % 4 == 3 {
            live.drain(..).for_each(|(ptr, one)| free(&heap, ptr, one));
        }
    }
    heap.check_invariants();
}

#[test]
fn zero_size_served_or_refused_depending_on_its_alignment() {
    let heap = heap(256, 1);
    let mut live = Vec::new();
    for shift in 0..=16 {
        let none = layout(0, 1 << shift);
        let ptr = heap.alloc(none).unwrap_or_else(|| panic!("refused {none:?}"));
        assert_eq!(ptr.addr().get() % none.align(), 0);
        live.push((ptr, none));
    }
    assert_eq!(live.iter().map(|l| l.0).collect::<BTreeSet<_>>().len(), live.len());
    for (ptr, none) in live {
        free(&heap, ptr, none);
    }
    misuse::expect_none();
    expect_every_page(&heap);
}

/// Bytes taken for `count` objects of `size` bytes, content checked.
fn cost<const P: usize>(region: Region, size: usize, count: usize) -> usize {
    let heap = GlobalHeap::<P>::new(region, 1, PhysMap::Identity).recording();
    let one = layout(size, 8);
    let live: Vec<_> = (0..count).map(|_| heap.alloc(one).unwrap()).collect();
    for ptr in &live {
        // SAFETY: live, of this size.
        unsafe { oracle::fill(ptr.as_ptr().expose_provenance(), size) };
    }
    let bytes = heap.allocated_bytes().unwrap();
    heap.check_invariants();
    for ptr in live {
        // SAFETY: live, filled above.
        unsafe { oracle::verify(ptr.addr().get(), size, ptr.addr().get()) };
        free(&heap, ptr, one);
    }
    misuse::expect_none();
    heap.check_guards();
    expect_every_page(&heap);
    bytes
}

#[test]
fn object_cap_wastes_large_pages() {
    // A page of 64 KiB holds at most 3,584 objects, and half as many on 32 bits: the smallest ones leave room.
    let word = 64 / usize::BITS as usize;
    for (size, count, percent) in
        [(8, 100_000, 250 * word), (16, 50_000, 130 * word), (64, 20_000, 120), (1024, 2000, 120)]
    {
        let bytes = cost::<0x1_0000>(Region::pages(64, 0x1_0000), size, count);
        assert!(
            bytes * 100 < percent * size * count,
            "{count} objects of {size}: {bytes} bytes on 64 KiB pages"
        );
    }
}

#[test]
fn header_larger_than_a_small_page() {
    for size in [8, 16, 24, 64, 128, 200] {
        cost::<256>(Region::pages(2048, 256), size, 500);
        cost::<512>(Region::pages(1024, 512), size, 500);
        cost::<1024>(Region::pages(512, 1024), size, 500);
    }
}

#[test]
fn powers_of_two_only() {
    // The mix of a kernel: many small objects, few large, no size a power of two.
    let heap = heap(4096, 1);
    let (mut asked, mut live) = (0, Vec::new());
    let mut state = 1usize;
    for _ in 0..20_000 {
        state = state.wrapping_mul(0x5DEE_CE66_D1CE_4E6D_u64 as usize).wrapping_add(11);
        let octave = 4 + (state >> 20) % 7;
        let size = (1 << octave) + (state >> 8) % (1 << octave);
        let one = layout(size, 8);
        let Some(ptr) = heap.alloc(one) else { break };
        asked += size;
        live.push((ptr, one));
    }
    let taken = heap.allocated_bytes().unwrap();
    assert!(taken * 100 < asked * 122, "{taken} bytes for {asked}");
    live.into_iter().for_each(|(ptr, one)| free(&heap, ptr, one));
    heap.check_invariants();
}

#[test]
fn realloc_always_copies() {
    const STEP: usize = 64 << 10;
    let heap = GlobalHeap::<PAGE>::new(Region::new(80 << 20), 1, PhysMap::Identity).recording();
    let (mut size, mut moves) = (STEP, 0);
    let mut ptr = heap.alloc(layout(size, 8)).unwrap();
    while size < 32 << 20 {
        // SAFETY: live with this layout; the old pointer is given up.
        let new = unsafe { heap.realloc(ptr, layout(size, 8), size + STEP) }.unwrap();
        moves += usize::from(new != ptr);
        (ptr, size) = (new, size + STEP);
    }
    assert!(moves <= 16, "moved {moves} times in {} steps", (32 << 20) / STEP);
    // Shrinking stays where it is, and gives the tail back.
    // SAFETY: as above.
    let small = unsafe { heap.realloc(ptr, layout(size, 8), STEP) }.unwrap();
    assert!(heap.allocated_bytes().unwrap() <= 2 * STEP);
    free(&heap, small, layout(STEP, 8));
    misuse::expect_none();
    expect_every_page(&heap);
}

#[test]
fn realloc_within_a_class_moves() {
    let heap = heap(256, 1);
    let ptr = heap.alloc(layout(33, 8)).unwrap();
    let usable = heap.usable_size(ptr).unwrap();
    assert!((33..=48).contains(&usable));
    for size in [34, usable, 33] {
        // SAFETY: live; the object keeps its class, so the layout of 33 bytes still describes it.
        assert_eq!(unsafe { heap.realloc(ptr, layout(33, 8), size) }, Some(ptr));
    }
    free(&heap, ptr, layout(33, 8));
    misuse::expect_none();
}

#[test]
fn usable_size_and_free_without_a_layout() {
    let heap = heap(512, 2);
    for size in [1, 8, 100, 1000, 5000, 33_000, 200_000] {
        let one = layout(size, 8);
        let ptr = heap.alloc(one).unwrap();
        let usable = heap.usable_size(ptr).unwrap();
        assert!(usable >= size && usable <= size.max(8) * 3 / 2 + PAGE, "{size}: {usable}");
        // SAFETY: inside the object.
        let inside = unsafe { ptr.add(size.min(8) / 2 + 1) };
        let _ = heap.usable_size(inside);
        // SAFETY: live, freed once.
        on_cpu(size % 2, || unsafe { heap.dealloc_unsized(ptr, one) });
        misuse::expect_none();
    }
    heap.shrink();
    assert_eq!(heap.allocated_bytes(), Some(0));
}

// ---- cost -------------------------------------------------------------------------------------

/// The best time for `count` allocations, several tries, all freed again.
fn best_allocation(heap: &GlobalHeap, one: Layout, count: usize) -> Duration {
    let run = || {
        let start = Instant::now();
        let live: Vec<_> = (0..count).map(|_| heap.alloc(one).unwrap()).collect();
        let time = start.elapsed();
        live.into_iter().for_each(|ptr| free(heap, ptr, one));
        time
    };
    (0..15).map(|_| run()).min().unwrap()
}

#[test]
fn all_full_slabs_walked_on_refill() {
    let one = layout(1024, 8);
    let heap = GlobalHeap::<PAGE>::new(Region::new(160 << 20), 1, PhysMap::Identity);
    let before = best_allocation(&heap, one, 500);
    let live: Vec<_> = (0..100_000).map(|_| heap.alloc(one).unwrap()).collect();
    let after = best_allocation(&heap, one, 500);
    assert!(
        after < 10 * before + Duration::from_micros(200),
        "500 allocations: {before:?} with nothing live, {after:?} with {} objects live",
        live.len()
    );
    live.into_iter().for_each(|ptr| free(&heap, ptr, one));
}

#[test]
fn one_lock_around_a_scalable_heap() {
    // What one CPU frees it gets again; another CPU is served from slabs of its own.
    let heap = heap(256, 2);
    let one = layout(64, 8);
    let mine = on_cpu(0, || heap.alloc(one)).unwrap();
    let theirs = on_cpu(1, || heap.alloc(one)).unwrap();
    assert_ne!(mine.addr().get() / PAGE, theirs.addr().get() / PAGE, "one slab for two CPUs");
    on_cpu(0, || free(&heap, mine, one));
    assert_ne!(on_cpu(1, || heap.alloc(one)), Some(mine));
    heap.check_invariants();
}

// ---- handlers ---------------------------------------------------------------------------------

#[cfg(unix)]
mod handlers {
    use super::*;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    static HEAP: OnceLock<GlobalHeap> = OnceLock::new();
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    /// Steps of the interrupted loop, so that it is interrupted again only once it has moved on.
    static PROGRESS: AtomicUsize = AtomicUsize::new(0);
    static REFUSED: AtomicUsize = AtomicUsize::new(0);
    static REPORTED: AtomicUsize = AtomicUsize::new(0);
    /// Objects that the handler and what it interrupts hand to each other.
    static SHARED: [AtomicPtr<u8>; 16] = [const { AtomicPtr::new(std::ptr::null_mut()) }; 16];
    const PARCEL: usize = 200;

    /// Puts `ptr` in a place of its own and frees what was there.
    fn exchange(heap: &GlobalHeap, at: usize, ptr: *mut u8) {
        let old = SHARED[at % 16].swap(ptr, Ordering::AcqRel);
        if let Some(old) = NonNull::new(old) {
            // SAFETY: taken out of its place, so it is this context's alone; filled before it went in.
            unsafe { oracle::verify(old.as_ptr().expose_provenance(), PARCEL, old.addr().get()) };
            free(heap, old, layout(PARCEL, 8));
        }
    }

    /// A new parcel, or null.
    fn parcel(heap: &GlobalHeap) -> *mut u8 {
        let Some(ptr) = heap.alloc(layout(PARCEL, 8)) else {
            return std::ptr::null_mut();
        };
        // SAFETY: a fresh object of this size.
        unsafe { oracle::fill(ptr.as_ptr().expose_provenance(), PARCEL) };
        ptr.as_ptr()
    }

    /// Allocates and frees in the middle of whatever was interrupted.
    extern "C" fn handler(_: libc::c_int) {
        let Some(heap) = HEAP.get() else { return };
        let turn = HANDLED.fetch_add(1, Ordering::Relaxed);
        exchange(heap, turn, parcel(heap));
        for one in [layout(64, 8), layout(1000, 8), layout(3 * PAGE, 8)] {
            match heap.alloc(one) {
                Some(ptr) => free(heap, ptr, one),
                None => _ = REFUSED.fetch_add(1, Ordering::Relaxed),
            }
        }
        if let Some(page) = heap.alloc_pages(1, PAGE) {
            heap.dealloc_pages(page, 1);
        }
    }

    #[test]
    fn lock_not_masking_interrupts() {
        let heap =
            HEAP.get_or_init(|| GlobalHeap::new(Region::new(1024 * PAGE), 2, PhysMap::Identity));
        heap.allocator().set_misuse_handler(Some(|_| _ = REPORTED.fetch_add(1, Ordering::Relaxed)));
        // SAFETY: the handler touches atomics and the heap, which is what is under test.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
        }
        within(60, move || {
            let stop = AtomicBool::new(false);
            // SAFETY: asks for the calling thread's own name.
            let me = unsafe { libc::pthread_self() } as usize;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut seen = usize::MAX;
                    while !stop.load(Ordering::Relaxed) {
                        let now = PROGRESS.load(Ordering::Relaxed);
                        if now != seen {
                            seen = now;
                            // SAFETY: the target thread waits for this one before it ends.
                            unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR1) };
                        }
                        std::thread::sleep(Duration::from_micros(20));
                    }
                });
                set_cpu(0);
                let end = Instant::now() + Duration::from_secs(1);
                let done = || Instant::now() > end && HANDLED.load(Ordering::Relaxed) > 300;
                let mut live = Vec::with_capacity(512);
                while !done() {
                    for i in 0..400usize {
                        let one = layout(1 + i * 53 % 5000, 8);
                        live.extend(heap.alloc(one).map(|ptr| (ptr, one)));
                        PROGRESS.fetch_add(1, Ordering::Relaxed);
                        if done() {
                            break;
                        }
                        if i % 4 == 0 {
                            exchange(heap, i / 4, parcel(heap));
                        }
                        if i % 9 == 0
                            && let Some(run) = heap.alloc_pages(2, PAGE)
                        {
                            heap.dealloc_pages(run, 2);
                        }
                    }
                    for (ptr, one) in live.drain(..) {
                        free(heap, ptr, one);
                    }
                }
                stop.store(true, Ordering::Relaxed);
            });
        });
        assert_eq!(REPORTED.load(Ordering::Relaxed), 0);
        for at in 0..16 {
            exchange(heap, at, std::ptr::null_mut());
        }
        heap.check_invariants();
        heap.check_guards();
        expect_every_page(heap);
    }
}

#[test]
fn statics_need_no_drop() {
    // A heap and its types stay usable as plain statics: no destructor runs.
    const { assert!(!std::mem::needs_drop::<GlobalAllocator>()) }
}
