//! Mistakes known from elsewhere that concern pages and sections, each named after the mistake.
//!
//! What fails slowly elsewhere is counted here (pages touched, addresses moved) or held against a
//! second measurement of the same run with a wide margin; nothing is gated on a bare time.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ptr::{NonNull, with_exposed_provenance_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::{
    AllocError, BuddyAllocator, GlobalAllocator, Misuse, OsImpl, PageOptions,
};
use testkit::misuse;
use testkit::platform::{FakeCpus, IDENTITY, PhysMap, on_cpu, set_cpu};
use testkit::region::Region;
use testkit::watchdog::within;
use testkit::{GlobalHeap, Heap};

const PAGE: usize = 0x1000;

fn heap(pages: usize) -> GlobalHeap {
    GlobalHeap::new(Region::new(pages * PAGE), 2, PhysMap::Identity).recording()
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Takes all pages one by one.
fn drain<const P: usize>(heap: &GlobalAllocator<P>) -> BTreeSet<usize> {
    let mut taken = BTreeSet::new();
    while let Ok(page) = heap.alloc_pages(1, P) {
        assert!(taken.insert(page), "{page:#x} handed out twice");
    }
    taken
}

// ---- alignment --------------------------------------------------------------------------------

#[test]
fn alignment_relative_to_the_heaps_start() {
    for offset in [0, PAGE, 3 * PAGE, 7 * PAGE + 123, (1 << 20) - PAGE] {
        let region = Region::with_offset(1 << 25, 1 << 22, offset);
        let heap = GlobalHeap::<PAGE>::new(region, 1, PhysMap::Identity);
        for shift in 0..=10 {
            let align = PAGE << shift;
            let addr = heap.alloc_pages(1, align).unwrap();
            assert_eq!(addr % align, 0, "one page aligned to {align:#x}, region at +{offset:#x}");
            let object = heap.alloc(layout(3 * PAGE + 1, align)).unwrap();
            assert_eq!(object.addr().get() % align, 0, "an object aligned to {align:#x}");
            let power = heap.alloc_pages(1 << shift, 1 << shift << 12).unwrap();
            assert_eq!(power % align, 0);
            heap.dealloc_pages(addr, 1);
            heap.dealloc_pages(power, 1 << shift);
            // SAFETY: allocated above with this layout.
            unsafe { heap.dealloc(object, layout(3 * PAGE + 1, align)) };
        }
        heap.check_invariants();
    }
}

// ---- misuse of pages --------------------------------------------------------------------------

#[test]
fn double_free_of_a_page() {
    for pages in [1, 2, 5, 8, 40] {
        let heap = heap(256);
        let neighbour = heap.alloc_pages(pages, PAGE).unwrap();
        let addr = heap.alloc_pages(pages, PAGE).unwrap();
        heap.dealloc_pages(addr, pages);
        misuse::expect_none();
        heap.dealloc_pages(addr, pages);
        misuse::expect_one(addr, &[Misuse::DoubleFree, Misuse::NotAllocated, Misuse::Interior]);
        heap.check_invariants();
        let taken = drain(heap.allocator());
        assert!((0..pages).all(|i| !taken.contains(&(neighbour + i * PAGE))));
        assert_eq!((taken.len() + pages) * PAGE, heap.allocator().managed_bytes());
    }
}

#[test]
fn double_free_of_a_block_that_has_merged() {
    let heap = heap(256);
    let a = heap.alloc_pages(2, 2 * PAGE).unwrap();
    let b = heap.alloc_pages(2, 2 * PAGE).unwrap();
    let (low, high) = (a.min(b), a.max(b));
    heap.dealloc_pages(high, 2);
    heap.dealloc_pages(low, 2);
    misuse::expect_none();
    // `high` is now the middle of a larger free block, `low` perhaps its head: both are free.
    for addr in [high, low] {
        heap.dealloc_pages(addr, 2);
        misuse::expect_one(addr, &[Misuse::DoubleFree, Misuse::NotAllocated, Misuse::Interior]);
    }
    heap.check_invariants();
    assert_eq!(drain(heap.allocator()).len() * PAGE, heap.allocator().managed_bytes());
}

#[test]
fn double_free_by_another_cpu() {
    let heap = heap(256);
    let addr = heap.alloc_pages(1, PAGE).unwrap();
    heap.dealloc_pages(addr, 1);
    on_cpu(1, || heap.dealloc_pages(addr, 1));
    misuse::expect_one(addr, &[Misuse::DoubleFree, Misuse::NotAllocated, Misuse::Interior]);
    heap.check_invariants();
}

#[test]
fn free_of_a_blocks_middle() {
    let heap = heap(256);
    let addr = heap.alloc_pages(8, PAGE).unwrap();
    for i in 1..8 {
        for count in [1, 8 - i, 8] {
            heap.dealloc_pages(addr + i * PAGE, count);
            misuse::expect_one(
                addr + i * PAGE,
                &[Misuse::Interior, Misuse::NotAllocated, Misuse::WrongSize],
            );
        }
    }
    heap.dealloc_pages(addr + 17, 8);
    misuse::expect_one(addr + 17, &[Misuse::WrongAlign, Misuse::Interior]);
    assert_eq!(heap.allocated_bytes(), Some(8 * PAGE));
    heap.dealloc_pages(addr, 8);
    misuse::expect_none();
    assert_eq!(heap.allocated_bytes(), Some(0));
}

#[test]
fn free_of_a_middle_against_stale_tail_flags() {
    // Freed and merged single pages leave their metadata behind; a block over them must not show it.
    let heap = heap(256);
    let singles: Vec<usize> = (0..16).map(|_| heap.alloc_pages(1, PAGE).unwrap()).collect();
    let slab = heap.alloc(layout(64, 8)).unwrap();
    for page in singles {
        heap.dealloc_pages(page, 1);
    }
    // SAFETY: allocated above with this layout.
    unsafe { heap.dealloc(slab, layout(64, 8)) };
    heap.shrink();
    let block = heap.alloc_pages(128, PAGE).unwrap();
    misuse::expect_none();
    for i in 1..128 {
        heap.dealloc_pages(block + i * PAGE, 1);
        misuse::expect_one(block + i * PAGE, &[Misuse::Interior, Misuse::NotAllocated]);
    }
    heap.dealloc_pages(block, 128);
    misuse::expect_none();
    heap.check_invariants();
}

#[test]
fn free_with_a_wrong_count() {
    let heap = heap(256);
    for pages in [1, 3, 4, 8] {
        let addr = heap.alloc_pages(pages, PAGE).unwrap();
        for wrong in [0, 1, 2, 3, 4, 5, 8, 16, 1 << 20, usize::MAX / PAGE, usize::MAX] {
            if wrong != pages {
                heap.dealloc_pages(addr, wrong);
                misuse::expect_one(addr, &[Misuse::WrongSize]);
            }
        }
        assert_eq!(heap.allocated_bytes(), Some(pages * PAGE));
        heap.dealloc_pages(addr, pages);
        misuse::expect_none();
    }
    heap.check_invariants();
}

#[test]
fn safe_functions_that_trust_a_raw_address() {
    let heap = heap(256);
    let local = 0u64;
    let section = heap.sections()[0].clone();
    let on_stack = (&raw const local).addr() & !(PAGE - 1);
    let foreign = [0, PAGE, usize::MAX & !(PAGE - 1), on_stack, section.start - PAGE, section.end];
    for addr in foreign {
        for count in [1, 7, usize::MAX] {
            heap.dealloc_pages(addr, count);
            misuse::expect_one(addr, &[Misuse::Foreign, Misuse::NotAllocated, Misuse::WrongSize]);
        }
    }
    for addr in [1, usize::MAX, section.start + 1] {
        heap.dealloc_pages(addr, 1);
        misuse::expect_one(
            addr,
            &[Misuse::Foreign, Misuse::WrongAlign, Misuse::NotAllocated, Misuse::Interior],
        );
    }
    for page in (section.start..section.end).step_by(PAGE) {
        heap.dealloc_pages(page, 1);
        let reports = misuse::take();
        assert_eq!(reports.len(), 1, "a page never handed out");
    }
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), Some(0));
}

#[test]
fn safe_functions_before_init() {
    let heap = GlobalAllocator::<PAGE>::new();
    heap.set_misuse_handler(Some(misuse::record));
    heap.dealloc_pages(PAGE, 1);
    misuse::expect_one(PAGE, &[Misuse::Foreign, Misuse::NotAllocated]);
    assert!(heap.alloc_pages_lowmem(1, PAGE).is_err());
    assert_eq!(heap.shrink(), 0);
    heap.check_invariants();
}

#[test]
fn an_object_freed_as_pages() {
    let heap = heap(256);
    for (size, pages) in [(64, 1), (2048, 1), (5 * PAGE, 5), (40 * PAGE, 40)] {
        let ptr = heap.alloc(layout(size, 64)).unwrap();
        let page = ptr.addr().get() & !(PAGE - 1);
        heap.dealloc_pages(page, pages);
        misuse::expect_one(page, &[Misuse::WrongKind, Misuse::Interior, Misuse::WrongSize]);
        // SAFETY: allocated above with this layout; the bad free was ignored.
        unsafe { heap.dealloc(ptr, layout(size, 64)) };
        misuse::expect_none();
    }
    heap.check_invariants();
}

#[test]
fn a_block_held_by_a_handle_freed_by_address() {
    let heap = heap(256);
    let heap = heap.allocator();
    for pages in [1, 5] {
        let block = heap.alloc_block_of(pages, &PageOptions::default()).unwrap();
        let addr = block.as_ptr().addr().get();
        heap.dealloc_pages(addr, pages);
        misuse::expect_one(addr, &[Misuse::WrongKind]);
        let object = layout(pages * PAGE, PAGE);
        // SAFETY: not sound in a program; it must be refused.
        unsafe { heap.dealloc(block.as_ptr(), object) };
        misuse::expect_one(addr, &[Misuse::WrongKind]);
        assert_eq!(heap.allocated_bytes(), pages * PAGE);
        drop(block);
        misuse::expect_none();
        heap.dealloc_pages(addr, pages);
        assert_eq!(misuse::take().len(), 1, "free already");
        assert_eq!(heap.allocated_bytes(), 0);
    }
    heap.check_invariants();
}

// ---- init -------------------------------------------------------------------------------------

#[test]
fn init_twice_forgets_the_first_heap() {
    let mut first = Region::new(64 * PAGE);
    let mut second = Region::new(64 * PAGE);
    let heap = GlobalAllocator::<PAGE>::new();
    // SAFETY: both regions outlive the heap's last use.
    unsafe {
        heap.init(first.bytes_mut(), 1, &IDENTITY).unwrap();
        let page = heap.alloc_pages(1, PAGE).unwrap();
        assert_eq!(heap.init(second.bytes_mut(), 1, &IDENTITY), Err(AllocError::InvalidParam));
        assert_eq!(heap.allocated_bytes(), PAGE);
        heap.dealloc_pages(page, 1);
        assert_eq!(heap.managed_section_count(), 1);
    }
    heap.check_invariants();
}

#[test]
fn init_by_several_threads_at_once() {
    let heap = GlobalAllocator::<PAGE>::new();
    let mut regions: Vec<Region> = (0..4).map(|_| Region::new(64 * PAGE)).collect();
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = regions
            .iter_mut()
            .map(|region| {
                let heap = &heap;
                // SAFETY: the regions outlive the heap's last use.
                scope.spawn(move || unsafe { heap.init(region.bytes_mut(), 2, &IDENTITY) })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(done.iter().filter(|r| r.is_ok()).count(), 1, "{done:?}");
    assert_eq!(heap.managed_section_count(), 1);
    heap.check_invariants();
}

#[test]
fn region_full_of_garbage_believed() {
    for seed in 1..20 {
        let region = Region::seeded(200 * PAGE + 77, PAGE, seed as usize * 8, seed);
        let heap = GlobalHeap::<PAGE>::new(region, 3, PhysMap::Identity).recording();
        for page in (heap.sections()[0].clone()).step_by(PAGE) {
            heap.dealloc_pages(page, 1);
            assert_eq!(misuse::take().len(), 1);
        }
        assert_eq!(drain(heap.allocator()).len() * PAGE, heap.allocator().managed_bytes());
        heap.check_guards();
    }
}

#[test]
fn init_raw_with_takes_a_pointer_and_a_length() {
    let region = Region::new(64 * PAGE);
    let heap = GlobalAllocator::<PAGE>::new();
    // SAFETY: the region outlives the heap's last use.
    unsafe { heap.init_raw_with(region.as_mut_ptr(), region.size_bytes(), 1, &IDENTITY) }.unwrap();
    assert_eq!(drain(&heap).len() * PAGE, heap.managed_bytes());
}

#[test]
fn align_up_wraps_at_the_top_of_the_address_space() {
    let heap = GlobalAllocator::<PAGE>::new();
    for (addr, len) in [
        (usize::MAX - 99, 100),
        (usize::MAX - 99, 99),
        (usize::MAX - 8000, 100),
        (usize::MAX - PAGE, 8 * PAGE),
        (usize::MAX, 1),
        (PAGE, usize::MAX),
        (0, 64),
    ] {
        let ptr = std::ptr::without_provenance_mut(addr);
        // SAFETY: too small or wrapping, so it must be refused before anything is touched.
        let answer = unsafe { heap.init_raw_with(ptr, len, 1, &IDENTITY) };
        assert_eq!(answer, Err(AllocError::InvalidParam), "{addr:#x}+{len:#x}");
    }
    let mut region = Region::new(64 * PAGE);
    // SAFETY: the region outlives the heap's last use.
    unsafe { heap.init(region.bytes_mut(), 1, &IDENTITY) }.unwrap();
    for count in [usize::MAX, usize::MAX / PAGE, usize::MAX / PAGE + 1, 1 << 31, (1 << 20) + 1] {
        for align in [PAGE, 1 << (usize::BITS - 1)] {
            assert!(heap.alloc_pages(count, align).is_err());
            assert!(heap.alloc_pages_lowmem(count, align).is_err());
        }
    }
    assert!(heap.alloc_pages(1, 1 << (usize::BITS - 1)).is_err());
    heap.check_invariants();
}

#[test]
fn a_cpu_count_that_no_region_can_hold() {
    let mut region = Region::new(16 * PAGE);
    let heap = GlobalAllocator::<PAGE>::new();
    for cpus in [usize::MAX, usize::MAX / 64, 1 << 20] {
        // SAFETY: must be refused; the region outlives the heap in any case.
        let answer = unsafe { heap.init(region.bytes_mut(), cpus, &IDENTITY) };
        assert!(answer.is_err(), "{cpus} CPUs in 64 KiB");
    }
    // SAFETY: the region outlives the heap's last use.
    unsafe { heap.init(region.bytes_mut(), 1, &IDENTITY) }.unwrap();
    assert!(heap.alloc_pages(1, PAGE).is_ok());
}

// ---- low memory -------------------------------------------------------------------------------

#[test]
fn low_memory_judged_by_the_whole_free_block() {
    // A fresh machine: one huge free block that crosses the 4 GiB line.
    const LINE: u64 = 1 << 32;
    let Ok(line) = usize::try_from(LINE) else {
        return;
    };
    for shift in [0, 5 * PAGE, 1 << 22, (1 << 22) + PAGE] {
        let region = Region::aligned(1 << 25, 1 << 22);
        let start = region.range().start;
        let boundary = start + (1 << 24) + shift;
        let map = PhysMap::At { virt: boundary, phys: line };
        let heap = GlobalHeap::<PAGE>::new(region, 1, map);
        let ordinary = heap.alloc_pages(1, PAGE).unwrap();
        assert!(ordinary >= boundary, "ordinary requests spare low memory");
        let mut low = 0;
        while let Some(addr) = heap.alloc_pages_lowmem(4, PAGE) {
            assert!(addr + 4 * PAGE <= boundary, "{addr:#x} is not low");
            low += 4;
        }
        let pages = (boundary - start) / PAGE;
        assert!(low + 3 >= pages - pages % 4, "{low} of {pages} low pages served");
        assert!(heap.alloc_pages(1, PAGE).unwrap() >= boundary);
        heap.check_invariants();
    }
}

#[test]
fn ordinary_requests_fall_back_to_low_memory() {
    let heap = GlobalHeap::<PAGE>::new(Region::new(64 * PAGE), 1, PhysMap::Low);
    assert_eq!(drain(heap.allocator()).len() * PAGE, heap.allocator().managed_bytes());
}

#[test]
fn a_physical_sum_that_wraps_accepted_as_low() {
    // Physical addresses end at the top of `usize`: sums with a length must not wrap to "low".
    let region = Region::aligned(1 << 24, 1 << 22);
    let start = region.range().start;
    let map = PhysMap::At { virt: start, phys: 0usize.wrapping_sub(1 << 22) };
    let heap = GlobalHeap::<PAGE>::new(region, 1, map);
    if usize::BITS == 64 {
        while let Some(addr) = heap.alloc_pages_lowmem(1, PAGE) {
            assert!(addr >= start + (1 << 22), "the top of the address space is not low memory");
        }
    }
    heap.check_invariants();
}

#[test]
fn four_gib_as_a_usize() {
    // On 32-bit targets this must build, and all memory is low; on 64-bit ones high memory is not.
    let low = GlobalHeap::<PAGE>::new(Region::new(64 * PAGE), 1, PhysMap::Low);
    assert!(low.alloc_pages_lowmem(3, PAGE).is_some());
    let high = GlobalHeap::<PAGE>::new(Region::new(64 * PAGE), 1, PhysMap::High);
    assert_eq!(high.alloc_pages_lowmem(1, PAGE).is_some(), usize::BITS == 32);
    assert!(high.alloc_pages(1, PAGE).is_some());
}

// ---- scale ------------------------------------------------------------------------------------

#[cfg(all(unix, target_pointer_width = "64"))]
mod reserved {
    use std::time::{Duration, Instant};

    use super::*;
    use testkit::Reservation;
    use testkit::platform::HIGH;

    const GIB: usize = 1 << 30;

    /// Inits a heap over all of `map`.
    fn over(map: &Reservation) -> GlobalAllocator<PAGE> {
        let heap = GlobalAllocator::new();
        // SAFETY: the mapping outlives the heap in each test.
        unsafe { heap.init_raw_with(map.as_mut_ptr(), map.size_bytes(), 2, &HIGH) }.unwrap();
        heap
    }

    #[test]
    fn all_page_metadata_written_at_init() {
        for (len, limit) in [(64 * GIB, 512 << 10), (1024 * GIB, 2 << 20)] {
            let Some(map) = Reservation::new(len, 1 << 22) else {
                continue;
            };
            let heap = over(&map);
            let touched = map.touched_bytes();
            assert!(touched < limit, "{len:#x} bytes of region: {touched} bytes touched");
            assert!(heap.managed_bytes() > len - len / 64);
            // A little use touches a little more.
            let page = heap.alloc_pages(1, PAGE).unwrap();
            let object = heap.alloc(layout(64, 8)).unwrap();
            let huge = heap.alloc_pages(512, 1 << 21).unwrap();
            assert!(map.touched_bytes() < limit + (1 << 20));
            heap.dealloc_pages(huge, 512);
            heap.dealloc_pages(page, 1);
            // SAFETY: allocated above with this layout.
            unsafe { heap.dealloc(object, layout(64, 8)) };
        }
    }

    #[test]
    fn region_of_two_to_the_32_pages_truncated() {
        const LEN: usize = (1 << 32) * PAGE + 64 * PAGE;
        let Some(map) = Reservation::new(LEN, 1 << 22) else {
            return;
        };
        let heap = over(&map);
        let section = heap.managed_section(0).unwrap();
        assert!(section.total_pages < u32::MAX as usize, "page numbers end there");
        assert!(section.total_pages > (u32::MAX - u32::MAX / 64) as usize, "and not much earlier");
        assert!(map.range().start <= section.start);
        assert!(section.start + section.size <= map.range().end);
        let mut taken = Vec::new();
        while let Ok(addr) = heap.alloc_pages(1 << 20, PAGE) {
            assert!(section.start <= addr && addr + (PAGE << 20) <= section.start + section.size);
            taken.push(addr);
            assert!(taken.len() <= 4096, "more than there is");
        }
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len());
        assert!(taken.len() > 4000, "{} blocks of 4 GiB", taken.len());
        for addr in taken {
            heap.dealloc_pages(addr, 1 << 20);
        }
        assert_eq!(heap.allocated_bytes(), 0);
        heap.alloc_pages(1, PAGE).unwrap();
    }

    /// Length of the first section of [`pieces`].
    const FIRST: usize = 1 << 20;

    /// A heap of one section of [`FIRST`] bytes and `sections - 1` pieces of eight pages.
    ///
    /// The first is that large because the directory of all sections, about 32 bytes each, has to find contiguous pages.
    fn pieces(map: &mut Reservation, sections: usize) -> GlobalAllocator<PAGE> {
        let heap = GlobalAllocator::new();
        // SAFETY: the mapping outlives the heap, and the pieces do not overlap.
        unsafe {
            heap.init(map.part_mut(0, FIRST), 1, &HIGH).unwrap();
            for i in 1..sections {
                heap.add_region(map.part_mut(FIRST + 16 * i * PAGE, 8 * PAGE))
                    .unwrap_or_else(|e| panic!("section {i}: {e}"));
            }
        }
        heap
    }

    #[test]
    fn sections_in_a_linear_list() {
        let mut one = Reservation::new(FIRST + 32 * PAGE, PAGE).unwrap();
        let mut many = Reservation::new(FIRST + 4096 * 16 * PAGE, PAGE).unwrap();
        let few = pieces(&mut one, 2);
        let heap = pieces(&mut many, 4096);
        heap.check_invariants();
        assert_eq!(heap.managed_section_count(), 4096);

        // All pages serve, are found again, and come back.
        let taken = drain(&heap);
        assert!(taken.len() >= 4096 * 7 - 4096 / 4, "{} pages", taken.len());
        for &page in &taken {
            assert!(many.range().contains(&page));
            heap.dealloc_pages(page, 1);
        }
        assert_eq!(heap.allocated_bytes(), 0);
        heap.check_invariants();

        // Runs of three are never cached by a CPU and never merge: they walk the shared lists.
        let all: Vec<usize> = std::iter::from_fn(|| heap.alloc_pages(3, PAGE).ok()).collect();
        let last = *all.iter().max().unwrap();
        let near = few.alloc_pages(3, PAGE).unwrap();
        let slow = best_pair(&heap, last);
        let fast = best_pair(&few, near);
        assert!(slow < 40 * fast + Duration::from_micros(2), "1 section: {fast:?}, 4096: {slow:?}");
    }

    /// The best of several runs of freeing and allocating three pages.
    fn best_pair(heap: &GlobalAllocator<PAGE>, addr: usize) -> Duration {
        let mut addr = addr;
        let run = |addr: &mut usize| {
            let start = Instant::now();
            for _ in 0..50 {
                heap.dealloc_pages(*addr, 3);
                *addr = heap.alloc_pages(3, PAGE).unwrap();
            }
            start.elapsed() / 50
        };
        (0..20).map(|_| run(&mut addr)).min().unwrap()
    }
}

#[test]
fn one_lock_around_pages() {
    // What a CPU frees stays with it: other CPUs, who would have to lock, do not see it first.
    let heap = heap(1024);
    let warm: Vec<usize> = (0..2)
        .flat_map(|cpu| {
            on_cpu(cpu, || (0..8).map(|_| heap.alloc_pages(1, PAGE).unwrap()).collect::<Vec<_>>())
        })
        .collect();
    let (mine, theirs) = (warm[0], warm[8]);
    on_cpu(0, || heap.dealloc_pages(mine, 1));
    on_cpu(1, || heap.dealloc_pages(theirs, 1));
    assert_eq!(on_cpu(0, || heap.alloc_pages(1, PAGE)), Some(mine));
    assert_eq!(on_cpu(1, || heap.alloc_pages(1, PAGE)), Some(theirs));
    assert_eq!(heap.allocated_bytes(), Some(16 * PAGE));
    heap.check_invariants();
}

#[test]
fn page_counts_rounded_to_powers_of_two() {
    for count in [3, 5, 9, 17, 33, 65] {
        let heap = heap(512);
        let total = heap.allocator().managed_bytes() / PAGE;
        let first = heap.alloc_pages(count, PAGE).unwrap();
        assert_eq!(heap.allocated_bytes(), Some(count * PAGE));
        let mut runs = vec![first];
        runs.extend(std::iter::from_fn(|| heap.alloc_pages(count, PAGE)));
        // The tails of the blocks serve others, down to the last page.
        let singles = drain(heap.allocator());
        assert_eq!(runs.len() * count + singles.len(), total);
        assert!(runs.len() * count * 2 > total);
        for page in singles {
            heap.dealloc_pages(page, 1);
        }
        for run in runs {
            heap.dealloc_pages(run, count);
        }
        assert_eq!(heap.allocated_bytes(), Some(0));
        heap.check_invariants();
    }
}

#[test]
fn metadata_at_the_front_costs_the_alignment() {
    let region = Region::aligned(4 << 20, 4 << 20);
    let start = region.range().start;
    let heap = GlobalHeap::<PAGE>::new(region, 1, PhysMap::Identity);
    assert_eq!(heap.alloc_pages(512, 1 << 21), Some(start));
}

#[test]
fn platform_asked_for_every_page() {
    // Physical addresses are linear within 4 MiB: one question each, plus the edges.
    static OS: FakeCpus = FakeCpus::new(PhysMap::Low);
    let heap = GlobalHeap::<PAGE>::on(Region::with_offset(64 << 20, 1 << 22, 5 * PAGE), 1, &OS);
    let at_init = OS.phys_questions();
    assert!((1..=2 * 18).contains(&at_init), "{at_init} questions about 17 blocks");
    let pages: Vec<usize> = (0..200).filter_map(|_| heap.alloc_pages_lowmem(1, PAGE)).collect();
    for page in pages {
        heap.dealloc_pages(page, 1);
    }
    let later = OS.phys_questions() - at_init;
    assert!(later <= 400, "{later} questions for 200 requests for low memory");
}

// ---- calls out of the allocator ---------------------------------------------------------------

/// A platform that uses the heap whenever it is asked something.
struct Reentrant {
    heap: &'static GlobalAllocator,
    depth: AtomicUsize,
}

impl OsImpl for Reentrant {
    fn current_cpu_idx(&self) -> usize {
        0
    }

    fn virt_to_phys(&self, vaddr: usize) -> usize {
        if self.depth.fetch_add(1, Ordering::Relaxed) == 0 {
            let small = layout(100, 8);
            if let Ok(ptr) = self.heap.alloc(small) {
                // SAFETY: just allocated with this layout.
                unsafe { self.heap.dealloc(ptr, small) };
            }
            if let Ok(page) = self.heap.alloc_pages(1, PAGE) {
                self.heap.dealloc_pages(page, 1);
            }
        }
        self.depth.fetch_sub(1, Ordering::Relaxed);
        vaddr
    }
}

#[test]
fn logger_or_platform_called_under_the_lock() {
    within(20, || {
        static HEAP: GlobalAllocator = GlobalAllocator::new();
        let os = Box::leak(Box::new(Reentrant { heap: &HEAP, depth: AtomicUsize::new(0) }));
        // SAFETY: leaked regions stay for good.
        unsafe {
            HEAP.init(Region::new(1 << 20).leak(), 1, os).unwrap();
            HEAP.add_region(Region::new(1 << 24).leak()).unwrap();
        }
        HEAP.alloc_pages_lowmem(1, PAGE).ok();
        HEAP.check_invariants();
    });
}

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}
static RECLAIMING: OnceLock<&'static GlobalAllocator> = OnceLock::new();

fn reclaim_by_allocating() -> bool {
    CALLS.with(|calls| calls.set(calls.get() + 1));
    let heap = RECLAIMING.get().unwrap();
    // Nothing is left, so this enters the same slow path: it must be refused, not recurse or hang.
    let page = heap.alloc_pages(1, PAGE);
    if let Ok(page) = page {
        heap.dealloc_pages(page, 1);
    }
    true
}

#[test]
fn out_of_memory_callback_under_the_lock() {
    within(20, || {
        let heap: &'static GlobalAllocator = Box::leak(Box::new(GlobalAllocator::new()));
        // SAFETY: leaked regions stay for good.
        unsafe { heap.init(Region::new(64 * PAGE).leak(), 1, &IDENTITY) }.unwrap();
        RECLAIMING.set(heap).ok().unwrap();
        heap.set_reclaim(Some(reclaim_by_allocating));
        let taken = drain(heap);
        assert_eq!(taken.len() * PAGE, heap.managed_bytes());
        let calls = CALLS.with(Cell::get);
        assert!(calls > 0, "the callback was never asked");
        assert!(calls < 100, "the retries are bounded, not {calls}");
        heap.set_reclaim(None);
        assert_eq!(heap.alloc_pages(1, PAGE), Err(AllocError::NoMemory));
        assert_eq!(CALLS.with(Cell::get), calls);
    });
}

#[test]
fn reclaim_serves_the_request() {
    static HEAP: GlobalAllocator = GlobalAllocator::new();
    static HOARD: AtomicUsize = AtomicUsize::new(0);
    fn give_back() -> bool {
        match HOARD.swap(0, Ordering::Relaxed) {
            0 => false,
            page => {
                HEAP.dealloc_pages(page, 4);
                true
            }
        }
    }
    // SAFETY: leaked regions stay for good.
    unsafe { HEAP.init(Region::new(64 * PAGE).leak(), 1, &IDENTITY) }.unwrap();
    HOARD.store(HEAP.alloc_pages(4, PAGE).unwrap(), Ordering::Relaxed);
    HEAP.set_reclaim(Some(give_back));
    assert_eq!(drain(&HEAP).len() * PAGE, HEAP.managed_bytes());
    assert_eq!(HOARD.load(Ordering::Relaxed), 0);
}

#[test]
fn the_frame_allocator_allocating_from_the_heap_it_feeds() {
    // A heap without a free byte still takes a region: adding needs nothing but the region itself.
    let heap = heap(16);
    let full = drain(heap.allocator());
    for _ in 0..40 {
        assert!(heap.add_region(6 * PAGE + 100), "a region must bring its own metadata");
    }
    let more = drain(heap.allocator()).len();
    assert!(more >= 3 * 40, "{more} pages");
    for page in full {
        heap.dealloc_pages(page, 1);
    }
    heap.check_invariants();
}

#[test]
fn a_panic_where_null_was_due() {
    let heap = heap(64);
    let edge: &dyn GlobalAlloc = heap.allocator();
    let top = isize::MAX as usize;
    for (size, align) in [
        (top, 1),
        (top & !0xFFF, 0x1000),
        (top / 2, 1 << 20),
        (1 << 30, 8),
        (1, 1 << (usize::BITS - 2)),
        (8 * PAGE, 1 << 32usize.min(usize::BITS as usize - 2)),
    ] {
        let Ok(layout) = Layout::from_size_align(size, align) else {
            continue;
        };
        assert!(heap.alloc(layout).is_none());
        assert!(heap.alloc_zeroed(layout).is_none());
        // SAFETY: the layouts are not zero-sized.
        assert!(unsafe { edge.alloc(layout) }.is_null());
    }
    let small = layout(24, 8);
    let ptr = heap.alloc(small).unwrap();
    // SAFETY: live with this layout; refused resizes leave it live.
    unsafe {
        assert!(heap.realloc(ptr, small, top & !7).is_none());
        assert!(edge.realloc(ptr.as_ptr(), small, top & !7).is_null());
        heap.dealloc(ptr, small);
    }
    misuse::expect_none();
}

#[test]
fn buddy_alone_stays_whole() {
    let mut region = Region::with_offset(300 * PAGE, PAGE, 24);
    let mut heap = BuddyAllocator::<PAGE>::new();
    // SAFETY: the region outlives the heap's last use.
    unsafe { heap.init(region.bytes_mut(), Some(FakeCpus::leaked(PhysMap::Low))) }.unwrap();
    assert!(heap.alloc_pages(usize::MAX, PAGE).is_err());
    assert!(heap.alloc_pages(1, 1 << (usize::BITS - 1)).is_err());
    let total = heap.free_pages();
    let block = heap.alloc_pages(7, 4 * PAGE).unwrap();
    assert_eq!((heap.free_pages(), block % (4 * PAGE)), (total - 7, 0));
    heap.dealloc_pages(block, 7);
    assert_eq!(heap.free_pages(), total);
}

#[test]
fn page_threads_share_without_loss() {
    let heap = heap(512);
    let total = heap.allocator().managed_bytes();
    std::thread::scope(|scope| {
        for cpu in 0..4usize {
            let heap = &heap;
            scope.spawn(move || {
                set_cpu(cpu % 2);
                let mut held: Vec<(usize, usize)> = Vec::new();
                for i in 0..4000usize {
                    let count = 1 + (i * 7 + cpu) % 5;
                    if i % 3 != 2
                        && let Some(addr) = heap.alloc_pages(count, PAGE)
                    {
                        let tag = with_exposed_provenance_mut::<usize>(addr);
                        // SAFETY: the pages are this thread's until it frees them.
                        unsafe { tag.write(addr ^ cpu) };
                        held.push((addr, count));
                    } else if let Some((addr, count)) = held.pop() {
                        let tag = NonNull::new(with_exposed_provenance_mut::<usize>(addr)).unwrap();
                        // SAFETY: still this thread's.
                        assert_eq!(unsafe { tag.read() }, addr ^ cpu, "someone else wrote here");
                        heap.dealloc_pages(addr, count);
                    }
                }
                for (addr, count) in held {
                    heap.dealloc_pages(addr, count);
                }
                assert!(misuse::take().is_empty());
            });
        }
    });
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), Some(0));
    assert_eq!(drain(heap.allocator()).len() * PAGE, total);
}
