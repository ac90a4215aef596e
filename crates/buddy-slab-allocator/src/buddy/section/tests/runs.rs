//! Runs in sections smaller than an extent, and runs longer than one.

use std::vec::Vec;

use super::*;

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

#[test]
fn a_section_smaller_than_an_extent_is_one_run() {
    for offset in [0, 13 * PAGE, 3 * MIB + 5 * PAGE] {
        for pages in [64, 127, 128, 300, 900] {
            let arena = Arena::new(8 * MIB);
            let make = Make { offset, len: pages * PAGE, ..Make::default() };
            let section = super::make::<PAGE>(&arena, make).unwrap();
            let (fresh, total) = (shape(section), section.total_pages());
            for count in [3, 9, 17, 33, 50].into_iter().filter(|count| *count < total / 2) {
                let blocks: Vec<_> =
                    core::iter::from_fn(|| take_as(section, Kind::Object, count, 0)).collect();
                check(section);
                assert_eq!(blocks.len(), total / count, "{count} of {total} pages at {offset:#x}");
                for block in blocks {
                    give(section, block.pfn, count);
                }
                check(section);
                assert_eq!(shape(section), fresh, "all went back");
            }
        }
    }
}

#[test]
fn what_lies_deep_in_a_long_run_is_had_by_its_address() {
    let arena = Arena::new(64 * MIB);
    let section = make::<PAGE>(&arena, Make { len: 64 * MIB, ..Make::default() }).unwrap();
    // Eight blocks to an extent, so that nothing else is free in the runs; upwards.
    let mut blocks: Vec<_> =
        (0..96).map(|_| take_as(section, Kind::Object, 128, 0).unwrap().pfn).collect();
    blocks.sort();
    let (kept, freed) = blocks.split_last().unwrap();
    for block in freed {
        give(section, *block, 128);
    }
    check(section);
    for index in (0..section.total_pages()).rev().filter(|index| index % 500 == 3) {
        if (kept.index()..kept.index() + 128).contains(&index) {
            continue;
        }
        // SAFETY: one thread.
        let taken = unsafe { section.alloc_at(pfn(index), 2, Kind::Pages) };
        assert!(taken.is_some(), "pages {index} and {} are free", index + 1);
        check(section);
        give(section, pfn(index), 2);
    }
    give(section, *kept, 128);
    check(section);
}
