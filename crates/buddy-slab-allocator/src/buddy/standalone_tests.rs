//! The published allocator: what its users rely on.

extern crate std;

use std::vec::Vec;

use super::*;

const PAGE: usize = 0x1000;
type Pages = BuddyAllocator<PAGE>;

struct LowOs;

impl OsImpl for LowOs {
    fn current_cpu_idx(&self) -> usize {
        0
    }
    fn virt_to_phys(&self, vaddr: usize) -> usize {
        vaddr & 0x0FFF_FFFF
    }
}

static LOW: LowOs = LowOs;

fn region(bytes: usize, align: usize) -> &'static mut [u8] {
    let leaked = std::vec![0xA5u8; bytes + align].leak();
    let skip = leaked.as_ptr().addr().next_multiple_of(align) - leaked.as_ptr().addr();
    &mut leaked[skip..skip + bytes]
}

fn region_for(heap_bytes: usize) -> usize {
    heap_bytes + Pages::required_meta_size(heap_bytes) + 4 * PAGE
}

fn pages_of(heap_pages: usize, align: usize, os: Option<&'static dyn OsImpl>) -> Pages {
    let mut pages = Pages::new();
    // SAFETY: leaked.
    unsafe { pages.init(region(region_for(heap_pages * PAGE), align), os) }.unwrap();
    pages
}

#[test]
fn the_published_size_formula_holds_the_heap_it_promises() {
    for heap_pages in 1..400 {
        for align in [PAGE, 16 * PAGE] {
            let pages = pages_of(heap_pages, align, None);
            assert!(pages.total_pages() >= heap_pages, "{heap_pages} pages");
            assert_eq!(pages.free_pages(), pages.total_pages());
            assert_eq!(pages.allocated_bytes(), 0);
        }
    }
}

#[test]
fn counts_are_exact_and_return_to_zero() {
    let mut pages = pages_of(256, PAGE, None);
    let mut held = Vec::new();
    for (count, align) in [(1, 0), (3, PAGE), (5, 4 * PAGE), (16, 16 * PAGE), (1, 8 * PAGE)] {
        let addr = pages.alloc_pages(count, align).unwrap();
        assert_eq!(addr % align.max(PAGE), 0);
        held.push((addr, count));
        let sum: usize = held.iter().map(|(_, count)| count).sum();
        assert_eq!(pages.allocated_bytes(), sum * PAGE);
    }
    for (addr, count) in held {
        pages.dealloc_pages(addr, count);
    }
    assert_eq!((pages.allocated_bytes(), pages.misuse_count()), (0, 0));
    pages.check_invariants();
}

#[test]
fn parameters_are_checked() {
    let mut pages = pages_of(64, PAGE, None);
    for (count, align) in [(0, 0), (1, 3), (1, PAGE / 2), (1, 3 * PAGE), (usize::MAX, 0)] {
        assert_eq!(pages.alloc_pages(count, align), Err(AllocError::InvalidParam));
    }
    // More than the largest order, where addresses are that wide.
    let top = pages.alloc_pages(1, 1 << (usize::BITS - 1));
    assert!(matches!(top, Err(AllocError::InvalidParam)) || usize::BITS == 32 && top.is_err());
    assert_eq!(pages.alloc_pages_lowmem(1, 0), Err(AllocError::InvalidParam));
    assert_eq!(pages.alloc_pages(1 << 20, 0), Err(AllocError::NoMemory));
    assert_eq!(pages.page_flags(64), Err(AllocError::NotFound));
}

#[test]
fn init_is_once_and_may_be_retried_after_a_failure() {
    let mut pages = Pages::new();
    let memory = region(64 * PAGE, PAGE);
    // SAFETY: leaked memory throughout.
    unsafe {
        let unready = pages.add_region(region(64 * PAGE, PAGE));
        assert_eq!(unready, Err(AllocError::NotInitialized));
        assert_eq!(pages.init(region(100, PAGE), None), Err(AllocError::InvalidParam));
        assert_eq!(pages.init(&mut [], None), Err(AllocError::InvalidParam));
        assert_eq!(pages.section_count(), 0);
        pages.init(memory, None).unwrap();
        assert_eq!(pages.init(region(64 * PAGE, PAGE), None), Err(AllocError::InvalidParam));
    }
    assert_eq!(pages.section_count(), 1);
}

#[test]
fn misuse_is_counted_and_changes_nothing() {
    let mut pages = pages_of(64, PAGE, None);
    let addr = pages.alloc_pages(4, 0).unwrap();
    pages.dealloc_pages(addr, 2);
    pages.dealloc_pages(addr + PAGE, 1);
    pages.dealloc_pages(addr + 1, 4);
    pages.dealloc_pages(64, 4);
    pages.dealloc_pages(usize::MAX & !(PAGE - 1), 4);
    assert_eq!((pages.misuse_count(), pages.allocated_bytes()), (5, 4 * PAGE));
    pages.dealloc_pages(addr, 4);
    pages.dealloc_pages(addr, 4);
    assert_eq!((pages.misuse_count(), pages.allocated_bytes()), (6, 0));
    pages.check_invariants();
}

#[test]
fn a_head_marked_slab_is_taken_back() {
    let mut pages = pages_of(64, PAGE, None);
    let addr = pages.alloc_pages(2, 0).unwrap();
    assert_eq!(pages.page_flags(addr), Ok(PageFlags::Allocated));
    // SAFETY: ours.
    unsafe { pages.set_page_flags(addr, PageFlags::Slab) }.unwrap();
    assert_eq!(pages.page_flags(addr), Ok(PageFlags::Slab));
    assert_eq!(pages.page_flags(addr + PAGE), Ok(PageFlags::Free));
    pages.dealloc_pages(addr, 2);
    assert_eq!((pages.page_flags(addr), pages.misuse_count()), (Ok(PageFlags::Free), 0));
    pages.check_invariants();
}

#[test]
fn every_second_page_free_serves_no_pair_and_all_free_serves_again() {
    let mut pages = pages_of(32, PAGE, None);
    let addrs: Vec<usize> = core::iter::from_fn(|| pages.alloc_pages(1, PAGE).ok()).collect();
    assert_eq!((addrs.len(), pages.free_pages()), (pages.total_pages(), 0));
    for addr in addrs.iter().step_by(2) {
        pages.dealloc_pages(*addr, 1);
    }
    assert!(pages.alloc_pages(2, PAGE).is_err());
    for addr in addrs.iter().skip(1).step_by(2) {
        pages.dealloc_pages(*addr, 1);
    }
    assert_eq!(pages.free_pages(), pages.total_pages());
    let block = pages.alloc_pages(8, PAGE).unwrap();
    pages.dealloc_pages(block, 8);
    pages.check_invariants();
}

#[test]
fn low_memory_is_served_across_sections() {
    let mut pages = pages_of(16, PAGE, Some(&LOW));
    while pages.alloc_pages_lowmem(1, PAGE).is_ok() {}
    assert_eq!(pages.free_pages(), 0);
    // SAFETY: leaked.
    unsafe { pages.add_region(region(region_for(32 * PAGE), PAGE)) }.unwrap();
    let second = pages.section(1).unwrap();
    let addr = pages.alloc_pages_lowmem(1, PAGE).unwrap();
    assert!((second.start..second.start + second.size).contains(&addr));
    let sum: usize = (0..2).map(|i| pages.section(i).unwrap().size).sum();
    assert_eq!(pages.managed_bytes(), sum);
}

#[test]
fn overlap_is_refused() {
    let mut pages = Pages::new();
    let memory = region(64 * PAGE, PAGE);
    let (base, len) = (memory.as_mut_ptr(), memory.len());
    // SAFETY: leaked; the second slice is refused before it is written.
    unsafe {
        pages.init(memory, None).unwrap();
        let again = core::slice::from_raw_parts_mut(base.add(1), len - 1);
        assert_eq!(pages.add_region(again), Err(AllocError::MemoryOverlap));
    }
}

#[test]
fn big_alignments_hold_in_the_absolute_address() {
    let mut pages = pages_of(4096, PAGE, None);
    for shift in 0..11 {
        let align = PAGE << shift;
        let addr = pages.alloc_pages(3, align).unwrap();
        assert_eq!(addr % align, 0);
    }
    pages.check_invariants();
}
