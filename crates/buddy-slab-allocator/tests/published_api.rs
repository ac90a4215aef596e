//! The contract of the published interface (0.3.0), sentence by sentence, with the declared breaks.
//!
//! Only names that 0.3.0 published are used, in the way its users write them. Sentences that 0.3.0
//! itself does not keep are marked `// stricter than 0.3.0`.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};
use std::ptr::{NonNull, with_exposed_provenance_mut};

use buddy_slab_allocator::buddy::page_meta::{free_list_pop, free_list_push, free_list_remove};
use buddy_slab_allocator::buddy::{self, MAX_ORDER, PFN_NONE, PageFlags, PageMeta};
use buddy_slab_allocator::{
    AllocError, AllocResult, BuddyAllocator, GlobalAllocator, ManagedSection, OsImpl, SizeClass,
    SlabAllocResult, SlabAllocator, SlabDeallocResult,
};
use testkit::platform::{IDENTITY, LOW, set_cpu};
use testkit::region::Region;

const PAGE: usize = 0x1000;

/// A heap over `region`, which the test keeps until it is done.
fn global(region: &mut Region, cpus: usize, os: &'static dyn OsImpl) -> Box<GlobalAllocator> {
    let heap = Box::new(GlobalAllocator::new());
    // SAFETY: each test declares the region before the heap and lets nothing else touch it.
    unsafe { heap.init(region.bytes_mut(), cpus, os) }.expect("init");
    heap
}

/// The same for the page allocator alone.
fn pages(region: &mut Region, os: Option<&'static dyn OsImpl>) -> Box<BuddyAllocator> {
    let mut heap = Box::new(BuddyAllocator::new());
    // SAFETY: each test declares the region before the heap and lets nothing else touch it.
    unsafe { heap.init(region.bytes_mut(), os) }.expect("init");
    heap
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn free(heap: &GlobalAllocator, ptr: NonNull<u8>, layout: Layout) {
    // SAFETY: the tests pass what `alloc` gave for this layout, once.
    unsafe { heap.dealloc(ptr, layout) }
}

#[test]
fn signatures_are_those_published() {
    type Global = GlobalAllocator<PAGE>;
    type Buddy = BuddyAllocator<PAGE>;
    type Slab = SlabAllocator<PAGE>;
    let _: unsafe fn(&Global, &mut [u8], usize, &'static dyn OsImpl) -> AllocResult = Global::init;
    let _: unsafe fn(&Global, &mut [u8]) -> AllocResult = Global::add_region;
    let _: fn(&Global) -> usize = Global::managed_section_count;
    let _: fn(&Global, usize) -> Option<ManagedSection> = Global::managed_section;
    let _: fn(&Global) -> usize = Global::managed_bytes;
    let _: fn(&Global) -> usize = Global::allocated_bytes;
    let _: fn(&Global, usize, usize) -> AllocResult<usize> = Global::alloc_pages;
    let _: fn(&Global, usize, usize) -> AllocResult<usize> = Global::alloc_pages_lowmem;
    let _: fn(&Global, usize, usize) = Global::dealloc_pages;
    let _: fn(&Global, Layout) -> AllocResult<NonNull<u8>> = Global::alloc;
    let _: unsafe fn(&Global, NonNull<u8>, Layout) = Global::dealloc;

    let _: unsafe fn(&mut Buddy, &mut [u8], Option<&'static dyn OsImpl>) -> AllocResult =
        Buddy::init;
    let _: unsafe fn(&mut Buddy, &mut [u8]) -> AllocResult = Buddy::add_region;
    let _: fn(usize) -> usize = Buddy::required_meta_size;
    let _: fn(&Buddy) -> usize = Buddy::section_count;
    let _: fn(&Buddy, usize) -> Option<ManagedSection> = Buddy::section;
    let _: fn(&Buddy) -> usize = Buddy::total_pages;
    let _: fn(&Buddy) -> usize = Buddy::free_pages;
    let _: fn(&Buddy) -> usize = Buddy::managed_bytes;
    let _: fn(&Buddy) -> usize = Buddy::allocated_bytes;
    let _: fn(&mut Buddy, usize, usize) -> AllocResult<usize> = Buddy::alloc_pages;
    let _: fn(&mut Buddy, usize, usize) -> AllocResult<usize> = Buddy::alloc_pages_lowmem;
    let _: fn(&mut Buddy, usize, usize) = Buddy::dealloc_pages;
    let _: fn(&Buddy, usize) -> AllocResult<PageFlags> = Buddy::page_flags;
    let _: unsafe fn(&mut Buddy, usize, PageFlags) -> AllocResult = Buddy::set_page_flags;

    let _: fn(&mut Slab, Layout) -> AllocResult<SlabAllocResult> = Slab::alloc;
    // Declared break: these two trust an address, so they are `unsafe`.
    let _: unsafe fn(&mut Slab, NonNull<u8>, Layout) -> SlabDeallocResult = Slab::dealloc;
    let _: unsafe fn(&mut Slab, SizeClass, usize, usize, u16) = Slab::add_slab;

    let _: fn(Layout) -> Option<SizeClass> = SizeClass::from_layout;
    let _: fn(SizeClass, usize) -> usize = SizeClass::slab_pages;
}

#[test]
fn allocators_are_statics_from_the_first_instruction() {
    static GLOBAL: GlobalAllocator = GlobalAllocator::new();
    static LARGE_PAGES: GlobalAllocator<0x4000> = GlobalAllocator::<0x4000>::new();
    const _: BuddyAllocator = BuddyAllocator::new();
    const _: SlabAllocator<0x2000> = SlabAllocator::new();
    fn shared<T: Send + Sync + Default>(_: &T) {}
    fn sent<T: Send + Default>(_: T) {}
    shared(&GLOBAL);
    shared(&LARGE_PAGES);
    sent(BuddyAllocator::<PAGE>::default());
    let _ = SlabAllocator::<PAGE>::default();
    assert_eq!(GLOBAL.managed_bytes(), 0);
}

#[test]
fn modules_lead_to_the_same_items() {
    let _: buddy_slab_allocator::global::GlobalAllocator = GlobalAllocator::new();
    let _: buddy::BuddyAllocator = BuddyAllocator::new();
    let _: buddy_slab_allocator::slab::SlabAllocator = SlabAllocator::<PAGE>::new();
    let _: buddy_slab_allocator::slab::SizeClass = SizeClass::Bytes8;
    let _: buddy::page_meta::PageMeta = PageMeta::new();
    let _: Option<buddy::ManagedSection> = None::<ManagedSection>;
    assert_eq!((MAX_ORDER, PFN_NONE), (20, u32::MAX));
}

#[test]
fn errors_can_be_shown_compared_and_copied() {
    use AllocError::*;
    let all = [InvalidParam, MemoryOverlap, NoMemory, NotAllocated, NotInitialized, NotFound];
    let shown: BTreeSet<String> = all.iter().map(|e| format!("{e} {e:?}")).collect();
    assert_eq!(shown.len(), all.len());
    let copy = all[0];
    assert_eq!(copy, all[0]);
    assert_ne!(copy, all[1]);
}

#[test]
fn page_meta_is_twelve_bytes_in_the_published_order() {
    const FRESH: PageMeta = PageMeta::new();
    assert_eq!(size_of::<PageMeta>(), 12);
    assert_eq!(
        [
            offset_of!(PageMeta, flags),
            offset_of!(PageMeta, order),
            offset_of!(PageMeta, _pad),
            offset_of!(PageMeta, prev),
            offset_of!(PageMeta, next),
        ],
        [0, 1, 2, 4, 8]
    );
    assert_eq!(FRESH.flags, PageFlags::Free);
    assert_eq!((FRESH.order, FRESH.prev, FRESH.next), (0, PFN_NONE, PFN_NONE));
    assert_eq!(
        [PageFlags::Free as u8, PageFlags::Allocated as u8, PageFlags::Slab as u8],
        [0, 1, 2]
    );
}

#[test]
fn free_lists_push_pop_and_remove_anywhere() {
    let mut metas = [PageMeta::new(); 8];
    let mut lists = [PFN_NONE; MAX_ORDER + 1];
    let meta = metas.as_mut_ptr();
    // SAFETY: all page numbers are below 8, and each is on one list at most.
    unsafe {
        assert_eq!(free_list_pop(meta, &mut lists, 3), PFN_NONE);
        for pfn in [1, 4, 6] {
            free_list_push(meta, &mut lists, pfn, 3);
        }
        free_list_push(meta, &mut lists, 7, 0);
        free_list_remove(meta, &mut lists, 4, 3);
        assert_eq!(free_list_pop(meta, &mut lists, 3), 6);
        free_list_push(meta, &mut lists, 5, 3);
        free_list_remove(meta, &mut lists, 1, 3);
        assert_eq!(lists[3], 5);
        free_list_remove(meta, &mut lists, 5, 3);
        assert_eq!(free_list_pop(meta, &mut lists, 3), PFN_NONE);
        assert_eq!(free_list_pop(meta, &mut lists, 0), 7);
    }
    assert!(metas.iter().all(|m| m.prev == PFN_NONE && m.next == PFN_NONE));
}

#[test]
fn an_uninitialised_heap_refuses() {
    let heap = GlobalAllocator::<PAGE>::new();
    let mut region = Region::new(64 * PAGE);
    assert_eq!(heap.alloc(layout(8, 8)), Err(AllocError::NotInitialized));
    assert_eq!(heap.alloc(layout(100_000, 8)), Err(AllocError::NotInitialized));
    // SAFETY: refused, so nothing keeps the region.
    let added = unsafe { heap.add_region(region.bytes_mut()) };
    assert_eq!(added, Err(AllocError::NotInitialized));
    assert!(heap.alloc_pages(1, PAGE).is_err());
    assert!(heap.alloc_pages_lowmem(1, PAGE).is_err());
    assert_eq!((heap.managed_section_count(), heap.allocated_bytes()), (0, 0));
    assert_eq!(heap.managed_section(0), None);
    // SAFETY: allocation only.
    assert!(unsafe { GlobalAlloc::alloc(&heap, layout(8, 8)) }.is_null());
}

#[test]
fn a_refused_init_may_be_retried_and_a_second_one_is_refused() {
    let heap = GlobalAllocator::<PAGE>::new();
    let mut region = Region::new(64 * PAGE);
    // SAFETY: the region is kept until the end; refused calls keep nothing.
    unsafe {
        assert_eq!(heap.init(&mut [], 1, &IDENTITY), Err(AllocError::InvalidParam));
        assert_eq!(
            heap.init(&mut region.bytes_mut()[..40], 1, &IDENTITY),
            Err(AllocError::InvalidParam)
        );
        assert_eq!(heap.init(region.bytes_mut(), 0, &IDENTITY), Err(AllocError::InvalidParam));
        assert_eq!(heap.init(region.bytes_mut(), 1, &IDENTITY), Ok(()));
        let before = (heap.managed_bytes(), heap.alloc(layout(64, 8)).unwrap());
        // stricter than 0.3.0
        assert_eq!(heap.init(region.bytes_mut(), 1, &IDENTITY), Err(AllocError::InvalidParam));
        assert_eq!(heap.managed_bytes(), before.0);
        heap.dealloc(before.1, layout(64, 8));
    }
}

#[test]
fn a_refused_init_of_the_buddy_may_be_retried_and_a_second_one_is_refused() {
    let mut heap = BuddyAllocator::<PAGE>::new();
    let mut region = Region::new(64 * PAGE);
    // SAFETY: the region is kept until the end; refused calls keep nothing.
    unsafe {
        assert_eq!(heap.init(&mut region.bytes_mut()[..100], None), Err(AllocError::InvalidParam));
        assert_eq!(heap.init(region.bytes_mut(), None), Ok(()));
        // stricter than 0.3.0
        assert_eq!(heap.init(region.bytes_mut(), None), Err(AllocError::InvalidParam));
    }
    assert_eq!(heap.section_count(), 1);
}

#[test]
fn sections_are_reported_in_the_order_of_adding() {
    let mut regions = [Region::new(40 * PAGE), Region::new(70 * PAGE), Region::new(20 * PAGE)];
    let [first, rest @ ..] = &mut regions;
    let heap = global(first, 2, &IDENTITY);
    for region in rest {
        // SAFETY: the regions outlive the heap's last use.
        unsafe { heap.add_region(region.bytes_mut()) }.unwrap();
    }
    assert_eq!(heap.managed_section_count(), 3);
    assert_eq!(heap.managed_section(3), None);
    let mut bytes = 0;
    for (i, region) in regions.iter().enumerate() {
        let section: ManagedSection = heap.managed_section(i).unwrap();
        assert_eq!(section, heap.managed_section(i).unwrap());
        assert_eq!(section.size, section.total_pages * PAGE);
        assert_eq!(section.free_pages, section.total_pages);
        assert_eq!(section.start % PAGE, 0);
        assert!(region.range().start <= section.start);
        assert!(section.start + section.size <= region.range().end);
        bytes += section.size;
    }
    assert_eq!(heap.managed_bytes(), bytes, "managed bytes leave out metadata, and nothing else");
    assert!(bytes < 130 * PAGE);
}

#[test]
fn an_overlap_is_refused() {
    let mut region = Region::new(128 * PAGE);
    let bytes = region.bytes_mut();
    let heap = GlobalAllocator::<PAGE>::new();
    // SAFETY: the region outlives the heap's last use; refused calls must touch nothing.
    unsafe {
        heap.init(&mut bytes[32 * PAGE..64 * PAGE], 1, &IDENTITY).unwrap();
        for range in [0..33 * PAGE, 63 * PAGE..96 * PAGE, 40 * PAGE..50 * PAGE, 0..128 * PAGE] {
            assert_eq!(heap.add_region(&mut bytes[range]), Err(AllocError::MemoryOverlap));
        }
        heap.add_region(&mut bytes[64 * PAGE..96 * PAGE]).expect("a neighbour is no overlap");
    }
    assert_eq!(heap.managed_section_count(), 2);
}

#[test]
fn bad_page_requests_are_invalid_parameters() {
    let mut region = Region::new(256 * PAGE);
    let heap = global(&mut region, 1, &LOW);
    for (count, align) in [(0, PAGE), (0, 0), (1, PAGE / 2), (1, 1), (1, 3 * PAGE), (1, PAGE + 1)] {
        assert_eq!(
            heap.alloc_pages(count, align),
            Err(AllocError::InvalidParam),
            "{count} {align}"
        );
        assert_eq!(heap.alloc_pages_lowmem(count, align), Err(AllocError::InvalidParam));
    }
    // stricter than 0.3.0, which panics
    assert!(heap.alloc_pages(usize::MAX, PAGE).is_err());
    assert_eq!(heap.alloc_pages(257, PAGE), Err(AllocError::NoMemory));
    let page = heap.alloc_pages(1, 0).expect("an alignment of 0 means one page");
    assert_eq!(page % PAGE, 0);
    heap.dealloc_pages(page, 1);
}

#[test]
fn page_alignment_holds() {
    let mut region = Region::aligned(2048 * PAGE, 1 << 23);
    let heap = global(&mut region, 1, &IDENTITY);
    for shift in 0..10 {
        let align = PAGE << shift;
        let addr = heap.alloc_pages(3, align).unwrap();
        // stricter than 0.3.0, which aligns relative to the heap's start
        assert_eq!(addr % align, 0);
        heap.dealloc_pages(addr, 3);
    }
    assert_eq!(heap.allocated_bytes(), 0);
}

#[test]
fn an_aligned_region_gives_large_blocks_from_its_start() {
    let mut region = Region::aligned(1024 * PAGE, 1 << 21);
    let heap = global(&mut region, 1, &IDENTITY);
    // stricter than 0.3.0
    assert_eq!(heap.managed_section(0).unwrap().start, region.range().start);
    assert_eq!(heap.alloc_pages(512, 1 << 21), Ok(region.range().start));
}

#[test]
fn everything_of_an_unaligned_region_lies_inside_it() {
    for (offset, len) in
        [(1, 40 * PAGE), (4095, 33 * PAGE + 17), (8, 12 * PAGE - 9), (2047, 300_001)]
    {
        let mut region = Region::with_offset(len, PAGE, offset);
        let range = region.range();
        let heap = global(&mut region, 2, &IDENTITY);
        let section = heap.managed_section(0).unwrap();
        assert!(range.start <= section.start && section.start + section.size <= range.end);
        while let Ok(page) = heap.alloc_pages(1, PAGE) {
            assert!(range.contains(&page) && page + PAGE <= range.end);
            // SAFETY: the page was just handed out.
            unsafe { with_exposed_provenance_mut::<u8>(page).write_bytes(0xEE, PAGE) };
        }
        assert_eq!(heap.managed_section(0).unwrap().free_pages, 0);
        region.check_guards();
    }
}

#[test]
fn allocated_bytes_count_pages_and_slabs() {
    let mut region = Region::new(256 * PAGE);
    let heap = global(&mut region, 1, &IDENTITY);
    assert_eq!(heap.allocated_bytes(), 0);
    let four = heap.alloc_pages(4, PAGE).unwrap();
    assert_eq!(heap.allocated_bytes(), 4 * PAGE);
    let three = heap.alloc_pages(3, PAGE).unwrap();
    // stricter than 0.3.0: counts are exact (declared break)
    assert_eq!(heap.allocated_bytes(), 7 * PAGE);
    heap.dealloc_pages(three, 3);
    heap.dealloc_pages(four, 4);
    assert_eq!(heap.allocated_bytes(), 0);
    let small = heap.alloc(layout(64, 8)).unwrap();
    let with_slab = heap.allocated_bytes();
    assert!(with_slab >= PAGE);
    assert_eq!(with_slab % PAGE, 0);
    free(&heap, small, layout(64, 8));
    assert!(heap.allocated_bytes() <= with_slab);
}

#[test]
fn every_page_comes_back_after_everything_is_freed() {
    let mut region = Region::new(512 * PAGE);
    let heap = global(&mut region, 4, &IDENTITY);
    let mut live = Vec::new();
    for i in 0..4000usize {
        set_cpu(i % 4);
        let layout = layout(1 + i * 37 % 3000, 1 << (i % 7));
        if let Ok(ptr) = heap.alloc(layout) {
            live.push((ptr, layout));
        }
    }
    for (i, (ptr, layout)) in live.into_iter().enumerate() {
        set_cpu(i / 3 % 4);
        free(&heap, ptr, layout);
    }
    set_cpu(0);
    // stricter than 0.3.0: what empty slabs and other CPUs keep is there before a request fails
    let taken: BTreeSet<usize> = std::iter::from_fn(|| heap.alloc_pages(1, PAGE).ok()).collect();
    assert_eq!(taken.len() * PAGE, heap.managed_bytes());
    assert_eq!(heap.alloc_pages(1, PAGE), Err(AllocError::NoMemory));
    for page in taken {
        heap.dealloc_pages(page, 1);
    }
    heap.alloc_pages(256, PAGE).expect("merged again");
}

#[test]
fn pages_serve_sections_in_order() {
    let mut regions = [Region::new(20 * PAGE), Region::new(20 * PAGE)];
    let [first, second] = &mut regions;
    let heap = global(first, 1, &IDENTITY);
    // SAFETY: the regions outlive the heap's last use.
    unsafe { heap.add_region(second.bytes_mut()) }.unwrap();
    let total = heap.managed_section(0).unwrap().total_pages;
    for i in 0..total {
        let page = heap.alloc_pages(1, PAGE).unwrap();
        assert!(first.range().contains(&page), "page {i} is not of the first section");
    }
    assert!(second.range().contains(&heap.alloc_pages(1, PAGE).unwrap()));
}

#[test]
fn low_memory_is_below_four_gib() {
    let mut low = Region::new(64 * PAGE);
    let heap = global(&mut low, 1, &LOW);
    let addr = heap.alloc_pages_lowmem(5, PAGE).unwrap();
    assert!(low.range().contains(&addr));
    heap.dealloc_pages(addr, 5);
    assert_eq!(heap.allocated_bytes(), 0);
}

#[test]
#[cfg(target_pointer_width = "64")]
fn high_memory_is_never_low() {
    use testkit::platform::{FakeCpus, HIGH, PhysMap};

    let mut region = Region::new(64 * PAGE);
    let heap = global(&mut region, 1, &HIGH);
    assert_eq!(heap.alloc_pages_lowmem(1, PAGE), Err(AllocError::NoMemory));
    assert!(heap.alloc_pages(1, PAGE).is_ok());
    // A low region added later serves.
    let mut low = Region::new(64 * PAGE);
    let virt = low.range().start;
    let os = FakeCpus::leaked(PhysMap::At { virt, phys: (1 << 32) - 32 * PAGE });
    let heap = global(&mut low, 1, os);
    let mut taken = 0;
    while let Ok(addr) = heap.alloc_pages_lowmem(1, PAGE) {
        assert!(addr + PAGE <= virt + 32 * PAGE, "beyond the limit");
        taken += 1;
    }
    let start = heap.managed_section(0).unwrap().start;
    // stricter than 0.3.0: every page below the limit serves
    assert_eq!(taken, (virt + 32 * PAGE - start) / PAGE);
    assert!(heap.alloc_pages(1, PAGE).is_ok(), "and the rest serves other requests");
}

#[test]
fn objects_are_aligned_distinct_and_hold_what_is_written() {
    let mut region = Region::new(1024 * PAGE);
    let heap = global(&mut region, 1, &IDENTITY);
    let mut live = Vec::new();
    for size in [1, 7, 8, 9, 24, 48, 100, 513, 2048, 2049, 4096, 5000, 9000, 33_000, 130_000] {
        for align in [1, 8, 64, 512, 4096] {
            let layout = layout(size, align);
            let ptr = heap.alloc(layout).unwrap();
            assert_eq!(ptr.addr().get() % align, 0);
            // SAFETY: a fresh object of this size.
            unsafe { ptr.write_bytes(live.len() as u8, size) };
            live.push((ptr, layout));
        }
    }
    for (i, &(ptr, layout)) in live.iter().enumerate() {
        // SAFETY: live, initialised above.
        let bytes = unsafe { std::slice::from_raw_parts(ptr.as_ptr(), layout.size()) };
        assert!(bytes.iter().all(|&b| b == i as u8), "{layout:?} was overwritten");
    }
    for (ptr, layout) in live {
        free(&heap, ptr, layout);
    }
}

#[test]
fn global_alloc_serves_collections_and_answers_null() {
    let mut region = Region::new(256 * PAGE);
    let heap = global(&mut region, 1, &IDENTITY);
    let edge: &dyn GlobalAlloc = &*heap;
    let small = layout(40, 8);
    // SAFETY: layouts are not zero-sized, pointers are live and of these layouts.
    unsafe {
        let ptr = edge.alloc_zeroed(small);
        assert!((0..40).all(|i| *ptr.add(i) == 0));
        ptr.write_bytes(7, 40);
        let ptr = edge.realloc(ptr, small, 5000);
        assert!((0..40).all(|i| *ptr.add(i) == 7));
        let ptr = edge.realloc(ptr, layout(5000, 8), 24);
        assert!((0..24).all(|i| *ptr.add(i) == 7));
        let refused = edge.realloc(ptr, layout(24, 8), 1 << 30);
        assert!(refused.is_null());
        assert!((0..24).all(|i| *ptr.add(i) == 7), "the old object stays");
        edge.dealloc(ptr, layout(24, 8));
        assert!(edge.alloc(layout(1 << 30, 8)).is_null());
        assert!(edge.alloc(layout(isize::MAX as usize & !4095, 1)).is_null());
    }
}

#[test]
fn buddy_counts_flags_and_merges() {
    let mut region = Region::new(600 * PAGE);
    let mut heap = pages(&mut region, None);
    let total = heap.total_pages();
    assert_eq!((heap.free_pages(), heap.allocated_bytes()), (total, 0));
    assert_eq!(heap.managed_bytes(), total * PAGE);
    assert_eq!(heap.section(0).unwrap().total_pages, total);
    assert_eq!(heap.section(1), None);

    let addr = heap.alloc_pages(4, 0).unwrap();
    assert_eq!(heap.free_pages(), total - 4);
    assert_eq!(heap.page_flags(addr), Ok(PageFlags::Allocated));
    // SAFETY: the block is allocated and ours.
    unsafe { heap.set_page_flags(addr, PageFlags::Slab) }.unwrap();
    assert_eq!(heap.page_flags(addr), Ok(PageFlags::Slab));
    heap.dealloc_pages(addr, 4);
    assert_eq!(heap.free_pages(), total, "a head marked Slab by its owner is taken back");
    assert_eq!(heap.page_flags(addr), Ok(PageFlags::Free));

    assert_eq!(heap.page_flags(0x10), Err(AllocError::NotFound));
    // SAFETY: refused: the address is not managed.
    let set = unsafe { heap.set_page_flags(0x10, PageFlags::Slab) };
    assert_eq!(set, Err(AllocError::NotFound));

    let taken: Vec<usize> = std::iter::from_fn(|| heap.alloc_pages(1, PAGE).ok()).collect();
    assert_eq!(taken.len(), total);
    assert_eq!(heap.alloc_pages(1, PAGE), Err(AllocError::NoMemory));
    for page in taken.iter().rev() {
        heap.dealloc_pages(*page, 1);
    }
    assert_eq!(heap.free_pages(), total);
    assert!(heap.alloc_pages(256, PAGE).is_ok());
}

#[test]
fn buddy_low_memory_needs_a_platform() {
    let mut region = Region::new(64 * PAGE);
    let mut heap = pages(&mut region, None);
    assert_eq!(heap.alloc_pages_lowmem(1, PAGE), Err(AllocError::InvalidParam));
    let mut region = Region::new(64 * PAGE);
    let mut heap = pages(&mut region, Some(&LOW));
    assert!(heap.alloc_pages_lowmem(1, PAGE).is_ok());
}

#[test]
fn required_meta_size_suffices() {
    const META: usize = BuddyAllocator::<PAGE>::required_meta_size(1000 * PAGE);
    assert!(META >= 1000 * size_of::<PageMeta>());
    assert!(META <= 1000 * size_of::<PageMeta>() + 4 * PAGE);
    let mut region = Region::new(1000 * PAGE + META + 2 * PAGE);
    let heap = pages(&mut region, None);
    assert!(heap.total_pages() >= 1000, "{} pages", heap.total_pages());
}

#[test]
fn slab_asks_for_pages_and_gives_them_back() {
    let mut slab = SlabAllocator::<PAGE>::new();
    let small = layout(64, 8);
    let Ok(SlabAllocResult::NeedsSlab { size_class, pages }) = slab.alloc(small) else {
        panic!("a fresh slab allocator has no memory")
    };
    assert_eq!(size_class, SizeClass::Bytes64);
    assert_eq!(pages, size_class.slab_pages(PAGE));
    let bytes = pages * PAGE;
    let mut regions = [Region::aligned(bytes, bytes), Region::aligned(bytes, bytes)];
    let mut live = Vec::new();
    for region in &mut regions {
        let base = region.bytes_mut().as_mut_ptr().expose_provenance();
        // SAFETY: `bytes` fresh bytes, aligned to `bytes`, kept until the end.
        unsafe { slab.add_slab(size_class, base, bytes, 0) };
        while let Ok(SlabAllocResult::Allocated(ptr)) = slab.alloc(small) {
            let at = ptr.addr().get();
            assert_eq!(at % 64, 0);
            assert!(region.range().contains(&at) && at + 64 <= region.range().end);
            // SAFETY: a fresh object.
            unsafe { ptr.write_bytes(0xFF, 64) };
            live.push(ptr);
        }
    }
    assert!(live.len() >= 2 * (bytes / 64) * 3 / 4, "{} objects", live.len());
    assert_eq!(live.iter().collect::<BTreeSet<_>>().len(), live.len());
    let mut given_back = Vec::new();
    for ptr in live {
        // SAFETY: live and of this layout.
        match unsafe { slab.dealloc(ptr, small) } {
            SlabDeallocResult::Done => {}
            SlabDeallocResult::FreeSlab { base, pages } => given_back.push((base, pages)),
        }
    }
    let [(base, back)] = given_back[..] else {
        panic!("one empty slab is kept, the other given back: {given_back:x?}")
    };
    assert_eq!(back, pages);
    assert!(regions.iter().any(|r| r.range().start == base));
}

#[test]
fn slab_refuses_what_no_class_holds() {
    let mut slab = SlabAllocator::<PAGE>::new();
    assert!(matches!(slab.alloc(layout(1 << 20, 8)), Err(AllocError::InvalidParam)));
    assert!(matches!(slab.alloc(layout(8, 1 << 20)), Err(AllocError::InvalidParam)));
}

#[test]
fn size_classes_ascend_and_fit() {
    let names = [
        (SizeClass::Bytes8, 8),
        (SizeClass::Bytes16, 16),
        (SizeClass::Bytes32, 32),
        (SizeClass::Bytes64, 64),
        (SizeClass::Bytes128, 128),
        (SizeClass::Bytes256, 256),
        (SizeClass::Bytes512, 512),
        (SizeClass::Bytes1024, 1024),
        (SizeClass::Bytes2048, 2048),
    ];
    for (class, size) in names {
        assert_eq!(class.size(), size);
        assert_eq!(SizeClass::from_layout(layout(size, 1)), Some(class), "{class:?}");
        assert_eq!(SizeClass::from_layout(layout(1, size)), Some(class), "the alignment counts");
    }
    assert_eq!(SizeClass::ALL.len(), SizeClass::COUNT);
    for (i, class) in SizeClass::ALL.into_iter().enumerate() {
        assert_eq!(class.index(), i);
        assert!(i == 0 || SizeClass::ALL[i - 1].size() < class.size());
        for page_size in [0x1000, 0x4000, 0x1_0000] {
            assert!(class.slab_pages(page_size) * page_size > class.size());
        }
    }
    let largest = SizeClass::ALL[SizeClass::COUNT - 1].size();
    for size in 0..=largest + 9 {
        match SizeClass::from_layout(layout(size, 1)) {
            Some(class) => {
                assert!(class.size() >= size);
                assert!(class.index() == 0 || SizeClass::ALL[class.index() - 1].size() < size);
            }
            None => assert!(size > largest),
        }
    }
}
