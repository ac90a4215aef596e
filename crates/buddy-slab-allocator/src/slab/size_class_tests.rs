//! Class lookup against a search through all classes.

use core::alloc::Layout;

use super::size_class::SizeClass;

#[test]
fn every_size_gets_the_smallest_class_that_holds_it() {
    for size in 0..=SizeClass::MAX_SIZE {
        let index = SizeClass::index_for(size);
        let slow = SizeClass::ALL.iter().position(|class| class.size() >= size);
        assert_eq!(Some(index), slow, "size {size}");
    }
}

#[test]
fn every_layout_gets_the_smallest_class_that_is_aligned() {
    for shift in 0..=16 {
        let align = 1 << shift;
        for size in (0..=SizeClass::MAX_SIZE + 8).step_by(if shift < 4 { 1 } else { 7 }) {
            let layout = Layout::from_size_align(size, align).unwrap();
            let slow = SizeClass::ALL
                .into_iter()
                .find(|class| class.size() >= size && class.size() % align == 0);
            assert_eq!(SizeClass::from_layout(layout), slow, "{layout:?}");
        }
    }
}

#[test]
fn page_size_bounds_size_and_alignment() {
    assert_eq!(SizeClass::for_request(1, 8192, 4096), None);
    assert_eq!(SizeClass::for_request(0, 4096, 4096), Some(SizeClass::Bytes4096));
    assert_eq!(SizeClass::for_request(1920, 8, 256), Some(SizeClass::Bytes1920));
    assert_eq!(SizeClass::for_request(1921, 8, 256), None);
    assert_eq!(SizeClass::for_request(30720, 8, 4096), Some(SizeClass::Bytes30720));
    assert_eq!(SizeClass::for_request(30721, 8, 4096), None);
    assert_eq!(SizeClass::for_request(32768, 8, 8192), Some(SizeClass::Bytes32768));
    assert_eq!(SizeClass::for_request(usize::MAX, 1, 65536), None);
}

#[test]
fn every_request_is_served_as_its_layout_up_to_the_limit() {
    for page_size in [64, 256, 1024, 2048, 4096, 16 << 10, 64 << 10] {
        let limit = SizeClass::object_limit(page_size);
        assert!(limit.is_multiple_of(16));
        for align in [1, 8, 16, 32, 64, 512, 4096].into_iter().filter(|align| *align <= page_size) {
            for size in 0..=limit + 16 {
                let served = SizeClass::from_layout(Layout::from_size_align(size, align).unwrap())
                    .filter(|class| class.size() <= limit);
                let got = SizeClass::for_request(size, align, page_size);
                assert_eq!(got, served, "{size} bytes aligned to {align}, pages of {page_size}");
            }
        }
    }
}

/// So that `realloc` within a class leaves the page count of what grew into pages as it is.
#[test]
fn all_sizes_of_a_class_above_a_page_take_as_many_pages() {
    for page_size in [64, 256, 1024, 4096, 16 << 10, 64 << 10] {
        for pair in SizeClass::ALL.windows(2) {
            let (least, most) = (pair[0].size() + 1, pair[1].size());
            if most > page_size && most <= SizeClass::object_limit(page_size) {
                assert_eq!(least.div_ceil(page_size), most.div_ceil(page_size), "{most} bytes");
            }
        }
    }
}
