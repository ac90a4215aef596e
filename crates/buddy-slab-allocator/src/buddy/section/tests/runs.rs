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
