//! Zones and physical limits.

use super::*;

const MIB: usize = 1 << 20;

/// Takes pages below a limit.
fn below<const P: usize>(
    section: &Section<P>,
    count: usize,
    align: u8,
    end: usize,
    phys: PhysFn<'_>,
) -> Option<Taken> {
    let request = TakeRequest { limit: PhysLimit::below(end as u64), ..request(count, align) };
    // SAFETY: one thread.
    Zone::FALLBACK.iter().find_map(|zone| unsafe { section.alloc(*zone, &request, phys) })
}

#[test]
fn blocks_never_merge_across_a_limit_inside_a_carve_block() {
    let arena = Arena::new(16 * MIB);
    let origin = arena.at(0).addr();
    // The 16 MiB limit lies 1 MiB + 3 pages into the second carve block.
    let border = 5 * MIB + 3 * 4096;
    let phys = |addr: usize| addr - origin + (16 * MIB - border);
    let how = Make { len: 12 * MIB, phys: Some(&phys), ..Make::default() };
    let section = make::<4096>(&arena, how).unwrap();
    assert_eq!(section.zone_pages(Zone::Dma), border / 4096);
    assert_eq!(section.zone_pages(Zone::Normal), 0);
    let fresh = shape(section);
    let mut pages = Vec::new();
    while let Some(taken) = take(section, 1, 0) {
        pages.push(taken.pfn);
    }
    assert_eq!(pages.len(), section.total_pages());
    for page in pages {
        give(section, page, 1);
    }
    check(section);
    assert_eq!(shape(section), fresh);

    // A block by address may cross; given back it falls apart at the limit.
    let first = pfn(border / 4096 - 2000 / 2);
    // SAFETY: one thread.
    unsafe {
        assert!(section.alloc_at(first, 2000, Kind::Pages).is_some());
        check(section);
        section.shrink(first, 2000, 1100);
        check(section);
        section.shrink(first, 1100, 900);
        check(section);
        assert!(section.grow(first, 900, 2000, 0));
        check(section);
        section.free(first, 2000);
    }
    check(section);
    assert_eq!(shape(section), fresh);
}

#[test]
fn a_limit_between_zones_judges_each_part_of_a_block() {
    let arena = Arena::new(64 * MIB);
    let origin = arena.at(0).addr();
    let linear = |addr: usize| addr - origin + 32 * MIB;
    let how = Make { len: 64 * MIB, phys: Some(&linear), ..Make::default() };
    let section = make::<4096>(&arena, how).unwrap();
    assert!(section.phys_known());
    // Asked for nothing but the section's own knowledge.
    for (count, align, end) in
        [(1, 0, 32 * MIB + 4096), (5, 0, 33 * MIB), (512, 9, 38 * MIB), (700, 0, 44 * MIB)]
    {
        let taken = below(section, count, align, end, None).unwrap();
        let last = linear(section.addr_of(taken.pfn)) + count * 4096;
        assert!(last <= end, "{taken:?} ends at {last:#x}");
        assert_eq!(section.addr_of(taken.pfn) % (4096 << align), 0);
        check(section);
    }
    assert_eq!(below(section, 1, 0, 32 * MIB, None), None);
    assert_eq!(below(section, 1, 0, 16 * MIB, None), None);
    assert_eq!(below(section, 5000, 0, 34 * MIB, None), None);
}

#[test]
fn a_limit_is_kept_where_physical_addresses_jump() {
    let arena = Arena::new(32 * MIB);
    let origin = arena.at(0).addr();
    // Carve blocks in reverse order, from 64 MiB.
    let reversed = |addr: usize| {
        let offset = addr - origin;
        (96 * MIB - 4 * MIB * (offset / (4 * MIB) + 1)) + offset % (4 * MIB)
    };
    let how = Make { len: 32 * MIB, phys: Some(&reversed), ..Make::default() };
    let section = make::<4096>(&arena, how).unwrap();
    let mut taken = 0;
    let end = 64 * MIB + 6 * MIB;
    while let Some(page) = below(section, 1, 0, end, Some(&reversed)) {
        assert!(reversed(section.addr_of(page.pfn)) < end);
        taken += 1;
    }
    // The last carve block but for metadata, and half of the one before.
    let expected = (0..section.page_span())
        .filter(|index| reversed(section.addr_of(pfn(*index))) < end)
        .count();
    assert_eq!(taken, expected);
    check(section);
}

#[test]
fn without_physical_addresses_everything_is_normal() {
    let arena = Arena::new(8 * MIB);
    let section = make::<4096>(&arena, Make { len: 8 * MIB, ..Make::default() }).unwrap();
    assert!(!section.phys_known());
    assert_eq!(section.zone_pages(Zone::Normal), section.page_span());
    assert_eq!(below(section, 1, 0, usize::MAX / 2, None), None);
}
