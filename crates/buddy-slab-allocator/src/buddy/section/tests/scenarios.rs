//! Deterministic scenarios of taking and giving back.

use super::*;

const MIB: usize = 1 << 20;

fn small(arena: &Arena) -> &Section<4096> {
    make(arena, Make { len: 16 * MIB, ..Make::default() }).unwrap()
}

#[test]
fn a_request_occupies_exactly_its_pages() {
    let arena = Arena::new(16 * MIB);
    let section = small(&arena);
    let fresh = shape(section);
    let free = section.summary().free_pages;
    for count in [1, 2, 3, 5, 7, 20, 100, 1000, 1025, 2049] {
        let taken = take(section, count, 0).unwrap();
        assert_eq!(section.summary().free_pages, free - count);
        let page = section.page(taken.pfn).unwrap();
        assert_eq!(page.prev() as usize, count);
        assert_eq!(page.head().order(), Order::for_pages(count));
        assert_eq!(page.head().kind(), Kind::Pages);
        check(section);
        give(section, taken.pfn, count);
        check(section);
        assert_eq!(shape(section), fresh);
    }
    assert_eq!(take(section, 0, 0), None);
    assert_eq!(take(section, usize::MAX, 0), None);
    // None, unless the memory happens to lie across a multiple of 4 GiB.
    let first = section.addr_of(pfn(0)) as u64;
    let aligned = first.next_multiple_of(1 << 32);
    let is_there = aligned - first < (section.total_pages() * 4096) as u64;
    assert_eq!(take(section, 1, 20).is_some(), is_there);
}

#[test]
fn neighbouring_holes_serve_what_no_block_can() {
    let arena = Arena::new(MIB);
    let section = make::<4096>(&arena, Make { len: MIB, ..Make::default() }).unwrap();
    let mut pages = Vec::new();
    while let Some(taken) = take(section, 1, 0) {
        pages.push(taken.pfn.index());
    }
    pages.sort_unstable();
    // Free pages 50..70: blocks 50 (2), 52 (4), 56 (8), 64 (4), 68 (2).
    for index in 50..70 {
        give(section, pfn(index), 1);
    }
    assert_eq!(shape(section).len(), 3);
    assert_eq!(take(section, 21, 0), None);
    assert_eq!(take(section, 9, 5), None);
    let aligned = take(section, 6, 5).unwrap();
    assert_eq!(aligned.pfn.index(), 64);
    give(section, aligned.pfn, 6);
    let single = take(section, 1, 5).unwrap();
    assert_eq!(single.pfn.index(), 64, "one page, where so few are free that no block is aligned");
    give(section, single.pfn, 1);
    let run = take(section, 20, 0).unwrap();
    assert_eq!(run.pfn.index(), 50);
    check(section);
    give(section, run.pfn, 20);
    check(section);
    assert_eq!(section.summary().free_pages, 20);
}

#[test]
fn pages_by_address_are_exactly_those_or_none() {
    let arena = Arena::new(16 * MIB);
    let section = small(&arena);
    let fresh = shape(section);
    // SAFETY: one thread; what is freed was taken.
    unsafe {
        for (start, count) in
            [(0, 1), (777, 1), (1000, 2000), (1024, 1024), (0, section.page_span())]
        {
            let taken = section.alloc_at(pfn(start), count, Kind::Handle).unwrap();
            assert_eq!(taken.pfn.index(), start);
            check(section);
            assert_eq!(section.alloc_at(pfn(start), count, Kind::Pages), None);
            assert_eq!(section.alloc_at(pfn(start + count - 1), 2, Kind::Pages), None);
            section.free(pfn(start), count);
            check(section);
            assert_eq!(shape(section), fresh);
        }
        assert_eq!(section.alloc_at(pfn(0), 0, Kind::Pages), None);
        assert_eq!(section.alloc_at(pfn(0), usize::MAX, Kind::Pages), None);
        assert_eq!(section.alloc_at(pfn(1), usize::MAX, Kind::Pages), None);
        assert_eq!(section.alloc_at(pfn(section.page_span()), 1, Kind::Pages), None);
    }
}

#[test]
fn a_late_reservation_is_for_good() {
    let arena = Arena::new(16 * MIB);
    let section = small(&arena);
    let total = section.total_pages();
    // SAFETY: one thread.
    unsafe {
        assert!(section.reserve(pfn(500), 2000));
        check(section);
        assert!(!section.reserve(pfn(2499), 2));
        assert!(!section.reserve(pfn(3000), 0));
        assert!(section.reserve(pfn(0), 1));
    }
    check(section);
    assert_eq!(section.total_pages(), total - 2001);
    let mut seen = 0;
    while let Some(taken) = take(section, 1, 0) {
        assert!(taken.pfn.index() != 0 && !(500..2500).contains(&taken.pfn.index()));
        seen += 1;
    }
    assert_eq!(seen, total - 2001);
    check(section);
}

#[test]
fn blocks_grow_and_shrink_in_place() {
    let arena = Arena::new(16 * MIB);
    let section = small(&arena);
    let fresh = shape(section);
    let block = take(section, 1, 10).unwrap().pfn;
    section.page(block).unwrap().set_next(0xABCD);
    // SAFETY: one thread; the block is ours.
    unsafe {
        let mut count = 1;
        for new in [2, 3, 8, 500, 1024, 1025, 2000] {
            assert!(section.grow(block, count, new, 0), "{count} to {new}");
            count = new;
            check(section);
        }
        assert!(!section.grow(block, count, section.page_span() + 1, 0));
        assert!(!section.grow(block, count, usize::MAX, 0));
        assert!(!section.grow(block, count, count, 0));
        for new in [1999, 1025, 1024, 1000, 512, 5, 1] {
            section.shrink(block, count, new);
            count = new;
            check(section);
        }
        let page = section.page(block).unwrap();
        assert_eq!((page.next(), page.prev()), (0xABCD, 1));
        assert_eq!(page.head().kind(), Kind::Pages);
        let wall = section.alloc_at(pfn(block.index() + 2), 1, Kind::Pages).unwrap();
        assert!(!section.grow(block, 1, 3, 0));
        section.free(wall.pfn, 1);
        section.free(block, 1);
    }
    check(section);
    assert_eq!(shape(section), fresh);
}

#[test]
fn metadata_inside_a_large_block_is_not_there_to_be_read() {
    let arena = Arena::new(32 * MIB);
    arena.fill(0, 32 * MIB, 0xA5);
    let section = make::<4096>(&arena, Make { len: 32 * MIB, ..Make::default() }).unwrap();
    let block = take(section, 2048, 11).unwrap();
    assert!(section.page(block.pfn).is_some());
    assert!(section.page(pfn(block.pfn.index() + 1)).is_none());
    assert!(section.page(pfn(block.pfn.index() + 1024)).is_none());
    assert!(section.page(pfn(section.page_span())).is_none());
    let inner = section.addr_of(block.pfn) + 4097;
    assert_eq!(section.pfn_of(inner).unwrap().index(), block.pfn.index() + 1);
    assert!(section.contains(section.start()) && !section.contains(section.start() - 1));
    assert!(!section.contains(section.start() + section.page_span() * 4096));
    assert_eq!(section.pfn_of(usize::MAX), None);
}

#[test]
fn a_merged_block_has_one_head_so_that_no_half_merges_twice() {
    let arena = Arena::new(16 * MIB);
    let section = small(&arena);
    let fresh = shape(section);
    for size in [0, 3, 9, 10] {
        let parent = take(section, 2 << size, size + 1).unwrap().pfn;
        give(section, parent, 2 << size);
        let halves = [parent, pfn(parent.index() + (1 << size))];
        for [first, second] in [halves, [halves[1], halves[0]]] {
            // SAFETY: one thread; what is freed was taken.
            unsafe {
                section.alloc_at(first, 1 << size, Kind::Pages).unwrap();
                section.alloc_at(second, 1 << size, Kind::Pages).unwrap();
                section.free(first, 1 << size);
                assert!(section.free_block_at(second).is_none());
                section.free(second, 1 << size);
            }
            check(section);
            assert!(section.free_block_at(halves[1]).is_none(), "the upper half heads nothing");
            assert_eq!(shape(section), fresh);
        }
    }
}

#[test]
fn slab_pages_lead_to_their_descriptor() {
    let arena = Arena::new(64 * MIB);
    fn run<const P: usize>(arena: &Arena, count: usize) {
        let section = make::<P>(arena, Make { len: 64 * MIB, ..Make::default() }).unwrap();
        let fresh = shape(section);
        let block = take(section, count, 0).unwrap().pfn;
        let descriptor = section.ptr_of(block).map_addr(|addr| addr.saturating_add(192));
        assert_eq!(section.slab_mark(block), None);
        // SAFETY: one thread; the block is ours.
        unsafe { section.mark_slab(block, count, descriptor, 0xABCD_EF00) };
        check(section);
        for index in block.index()..block.index() + count {
            let label = 0xABCD_EF00 + (index - block.index()) as u32;
            assert_eq!(section.slab_mark(pfn(index)), Some(PageMark { descriptor, label }));
            assert_eq!(
                section.slab_at(section.addr_of(pfn(index)) + 7),
                section.slab_mark(pfn(index))
            );
        }
        assert_eq!(section.slab_mark(pfn(block.index() + count)), None);
        // SAFETY: one thread; the block is ours.
        unsafe { section.unmark_slab(block, count, Kind::Internal) };
        check(section);
        assert_eq!(section.slab_mark(block), None);
        assert_eq!(section.page(block).unwrap().head().kind(), Kind::Internal);
        give(section, block, count);
        check(section);
        assert_eq!(shape(section), fresh);
    }
    run::<4096>(&arena, 1);
    run::<4096>(&arena, 7);
    run::<{ 64 << 10 }>(&arena, 32);
    run::<{ 2 << 20 }>(&arena, 5);
    run::<{ 8 << 20 }>(&arena, 2);
}

/// A xorshift generator: the same sequence every time.
fn random(seed: &mut u64, bound: usize) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed % bound as u64) as usize
}

/// Page counts whose logarithm is spread evenly: 1 to 32.
fn mixed_count(seed: &mut u64) -> usize {
    let magnitude = random(seed, 6);
    1 + random(seed, 1 << magnitude)
}

#[test]
fn a_mixed_load_fills_nearly_every_page() {
    let arena = Arena::new(64 * MIB);
    let section = make::<4096>(&arena, Make { len: 64 * MIB, ..Make::default() }).unwrap();
    let seed = &mut 0x9E37_79B9_7F4A_7C15;
    let total = section.total_pages();
    let mut live: Vec<(Pfn, usize)> = Vec::new();
    // Fill until the first failure, free a random half, fill again. Random frees leave holes
    // that no allocator which does not move blocks can fill with large ones.
    for wave in 0..6 {
        while let count = mixed_count(seed)
            && let Some(taken) = take(section, count, 0)
        {
            live.push((taken.pfn, count));
        }
        check(section);
        let used = total - section.summary().free_pages;
        let least = if wave == 0 { 98 } else { 70 };
        assert!(used * 100 >= total * least, "wave {wave}: {used} of {total} pages in use");
        for _ in 0..live.len() / 2 {
            let which = random(seed, live.len());
            let (block, count) = live.swap_remove(which);
            give(section, block, count);
        }
    }
}

/// Blocks for objects: they come from runs, which merge with both neighbours.
#[test]
fn churn_of_blocks_from_runs_leaves_few_pages_that_serve_nobody() {
    let arena = Arena::new(64 * MIB);
    let section = make::<4096>(&arena, Make { len: 64 * MIB, ..Make::default() }).unwrap();
    let fresh = shape(section);
    let seed = &mut 0x9E37_79B9_7F4A_7C15;
    let total = section.total_pages();
    let mut live: Vec<(Pfn, usize)> = Vec::new();
    let fill = |live: &mut Vec<(Pfn, usize)>, seed: &mut u64, most: usize| {
        while total - section.summary().free_pages < most
            && let count = mixed_count(seed)
            && let Some(taken) = take_as(section, Kind::Object, count, 0)
        {
            live.push((taken.pfn, count));
        }
        total - section.summary().free_pages
    };
    fill(&mut live, seed, total / 10 * 8);
    for _ in 0..100_000 {
        let which = random(seed, live.len());
        let (block, count) = live[which];
        give(section, block, count);
        let count = mixed_count(seed);
        let taken = take_as(section, Kind::Object, count, 0).expect("a fifth is free");
        live[which] = (taken.pfn, count);
    }
    check(section);
    let used = fill(&mut live, seed, total);
    std::println!("{used} of {total} pages in use");
    assert!(used * 100 >= total * 95, "{used} of {total} pages in use");
    for (block, count) in live {
        give(section, block, count);
    }
    check(section);
    assert_eq!(shape(section), fresh, "all extents went back");
}

#[test]
fn each_side_serves_requests_of_the_other_when_that_is_used_up() {
    let arena = Arena::new(8 * MIB);
    let section = make::<4096>(&arena, Make { len: 8 * MIB, ..Make::default() }).unwrap();
    let fresh = shape(section);
    // One block of an extent: its other pages serve as single ones, and the last pages as blocks.
    let block = take_as(section, Kind::Object, 20, 0).unwrap();
    let mut pages = Vec::new();
    while let Some(taken) = take(section, 1, 0) {
        pages.push(taken.pfn);
    }
    assert_eq!(section.summary().free_pages, 0);
    check(section);
    give(section, block.pfn, 20);
    let single = take(section, 1, 0).unwrap();
    assert_eq!(take_as(section, Kind::Slab, 19, 0).map(|taken| taken.pfn.index()), {
        Some(block.pfn.index() + usize::from(single.pfn == block.pfn))
    });
    check(section);
    assert_eq!(section.summary().free_pages, 0);
    // What is free in pieces of both sides together serves what neither could.
    let first = block.pfn.index() + usize::from(single.pfn == block.pfn);
    give(section, pfn(first), 19);
    give(section, single.pfn, 1);
    let all = take_as(section, Kind::Object, 20, 0).expect("twenty pages in a row");
    check(section);
    give(section, all.pfn, 20);
    for page in pages {
        give(section, page, 1);
    }
    check(section);
    // SAFETY: one thread.
    let _ = unsafe { section.give_runs_up(Zone::Normal) };
    check(section);
    assert_eq!(shape(section), fresh);
}
