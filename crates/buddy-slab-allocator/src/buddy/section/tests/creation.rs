//! What a fresh section looks like, whatever its region.

use super::*;

const MIB: usize = 1 << 20;

#[test]
fn a_region_of_garbage_and_odd_alignment_becomes_a_section_inside_it() {
    let arena = Arena::new(16 * MIB);
    for (offset, len) in
        [(0, 12 * MIB), (1, 9 * MIB + 13), (4095, 64 << 10), (5 * MIB + 77, 5 * MIB), (64, 12_000)]
    {
        arena.fill(0, 16 * MIB, 0xA5);
        let (section, extra) = make_with_extra::<4096>(
            &arena,
            Make { offset, len, extra_bytes: 100, ..Make::default() },
        )
        .unwrap();
        assert_eq!(extra.addr() % 64, 0);
        // SAFETY: the extra bytes are the caller's.
        assert!((0..100).all(|at| unsafe { extra.add(at).read() } == 0));
        let before = shape(section);
        let mut taken = Vec::new();
        while let Some(page) = take(section, 1, 0) {
            assert!(!page.clean);
            // SAFETY: the page is ours.
            unsafe { section.ptr_of(page.pfn).as_ptr().write_bytes(0xFF, 4096) };
            taken.push(page.pfn);
        }
        assert_eq!(taken.len(), section.total_pages());
        check(section);
        for page in taken {
            give(section, page, 1);
        }
        check(section);
        assert_eq!(shape(section), before);
        // Nothing outside the region was written.
        for at in (0..offset).chain(offset + len..16 * MIB) {
            // SAFETY: inside the arena.
            assert_eq!(unsafe { arena.at(at).read() }, 0xA5, "byte {at}");
        }
    }
}

#[test]
fn the_heap_of_an_aligned_region_begins_with_its_largest_blocks() {
    let arena = Arena::new(32 * MIB);
    let section = make::<4096>(&arena, Make { len: 32 * MIB, ..Make::default() }).unwrap();
    assert_eq!(section.start(), arena.at(0).addr());
    let block = take(section, 512, 9).unwrap();
    assert_eq!(section.addr_of(block.pfn) % (2 * MIB), 0);
    while shape(section).iter().any(|(_, order, _)| *order < 10) {
        take(section, 1, 0).unwrap();
    }
    let pages: Vec<_> = (0..100).map(|_| take(section, 1, 0).unwrap().pfn.index()).collect();
    assert!(pages.windows(2).all(|pair| pair[0] < pair[1]), "single pages ascend: {pages:?}");
}

#[test]
fn alignment_is_that_of_the_address_not_of_the_distance() {
    let arena = Arena::new(32 * MIB);
    for offset in [4096, 3 * 4096, MIB + 4096] {
        let section = make::<4096>(&arena, Make { offset, len: 20 * MIB, ..Make::default() });
        let section = section.unwrap();
        for align in 0..=11 {
            for count in [1, 3, 1 << align] {
                let taken = take(section, count, align).unwrap();
                assert_eq!(section.addr_of(taken.pfn) % (4096 << align), 0);
                give(section, taken.pfn, count);
            }
        }
        check(section);
    }
}

#[test]
fn too_small_a_region_is_refused_and_nothing_written() {
    let arena = Arena::new(MIB);
    arena.fill(0, MIB, 0x5A);
    for len in [0, 1, 4096, 4100] {
        let made = make::<4096>(&arena, Make { len, ..Make::default() });
        assert_eq!(made.err(), Some(AllocError::InvalidParam));
    }
    // SAFETY: inside the arena.
    assert!((0..MIB).all(|at| unsafe { arena.at(at).read() } == 0x5A));
}

#[test]
fn a_huge_region_touches_little_metadata() {
    const GIB: usize = 1 << 30;
    let len = 64 * GIB;
    let arena = Arena::aligned(len, GIB);
    let phys = |addr: usize| addr;
    let section = make::<4096>(&arena, Make { len, phys: Some(&phys), ..Make::default() }).unwrap();
    assert!(arena.resident(0, len) < MIB, "touched {}", arena.resident(0, len));
    assert_eq!(section.max_free_order(Zone::Normal), Some(Order::MAX));
    let huge = take(section, 1 << 20, 20).unwrap();
    assert_eq!(section.addr_of(huge.pfn) % (4 * GIB), 0);
    // More than the largest block: neighbours together.
    let giant = take(section, 3 << 20, 0).unwrap();
    check(section);
    give(section, huge.pfn, 1 << 20);
    give(section, giant.pfn, 3 << 20);
    let single = take(section, 1, 0).unwrap();
    give(section, single.pfn, 1);
    check(section);
    assert!(arena.resident(0, len) < MIB, "touched {}", arena.resident(0, len));
}

#[test]
fn reserved_ranges_win_over_pages_and_metadata() {
    let arena = Arena::new(32 * MIB);
    let len = 24 * MIB;
    // A kernel image, one carve block and a half, a byte, the region's end, and one elsewhere.
    let reserved =
        [(100, 50_000), (6 * MIB, 7 * MIB), (15 * MIB, 1), (len - 9000, 8000), (40 * MIB, MIB)];
    arena.fill(0, 32 * MIB, 0xC3);
    let section =
        make::<4096>(&arena, Make { len, reserved: &reserved, ..Make::default() }).unwrap();
    let is_reserved = |page: usize| {
        reserved
            .iter()
            .any(|(start, bytes)| *start < (page + 1) * 4096 && start + bytes > page * 4096)
    };
    let mut seen = 0;
    while let Some(taken) = take(section, 1, 0) {
        assert!(!is_reserved(taken.pfn.index()), "{taken:?}");
        // SAFETY: the page is ours.
        unsafe { section.ptr_of(taken.pfn).as_ptr().write_bytes(0, 4096) };
        seen += 1;
    }
    assert_eq!(seen, section.total_pages());
    check(section);
    for (start, bytes) in &reserved[..4] {
        for at in *start..start + bytes {
            // SAFETY: inside the arena.
            assert_eq!(unsafe { arena.at(at).read() }, 0xC3, "byte {at} is untouched");
        }
    }
    let all = [(0, len)];
    let made = make::<4096>(&arena, Make { len, reserved: &all, ..Make::default() });
    assert_eq!(made.err(), Some(AllocError::InvalidParam));
}

#[test]
fn physical_addresses_are_asked_once_for_each_carve_block() {
    let arena = Arena::new(64 * MIB);
    let asked = core::cell::Cell::new(0);
    let phys = |addr: usize| {
        asked.set(asked.get() + 1);
        addr
    };
    let how = Make { offset: MIB, len: 63 * MIB, phys: Some(&phys), ..Make::default() };
    make::<4096>(&arena, how).unwrap();
    assert_eq!(asked.get(), 16);
}

#[test]
fn zeroed_memory_is_clean_until_used() {
    let arena = Arena::new(16 * MIB);
    let how = Make { len: 16 * MIB, zeroed: true, ..Make::default() };
    let section = make::<4096>(&arena, how).unwrap();
    let one = take(section, 3, 0).unwrap();
    let two = take(section, 1025, 0).unwrap();
    assert!(one.clean && two.clean);
    give(section, one.pfn, 3);
    // SAFETY: one thread.
    let again = unsafe { section.alloc_at(one.pfn, 3, Kind::Pages) };
    assert!(!again.unwrap().clean, "freed pages are dirty");
    // SAFETY: one thread.
    let at = unsafe { section.alloc_at(pfn(two.pfn.index() + 1025), 7, Kind::Handle) };
    assert!(at.unwrap().clean);
    check(section);
}
