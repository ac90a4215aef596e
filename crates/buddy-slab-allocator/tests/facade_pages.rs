//! Pages through the facade: handles, exact places, physical limits, NUMA nodes, watermarks,
//! memory maps, regions that come and go, memory that is known to be zero.
#![cfg(not(loom))]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::{
    AllocError, GlobalAllocator, MemoryKind, MemoryRange, Misuse, PageBlock, PageOptions, Platform,
    Watermarks, Zone,
};
use common::{
    LockedSim, MIB, PAGE, PinnedSim, Random, free_objects, free_pages, layout, managed_pages,
    objects, on, take_all_pages,
};
use testkit::Region;

type Pinned = GlobalAllocator<PAGE, PinnedSim>;

const PLAIN: PageOptions = PageOptions {
    align_bytes: 0,
    physical_limit: None,
    node: None,
    reclaim: true,
    use_reserve: false,
};

/// A heap without memory.
fn empty() -> &'static Pinned {
    let heap: &Pinned = Box::leak(Box::new(GlobalAllocator::with_platform(PinnedSim::default())));
    heap.set_misuse_handler(Some(testkit::misuse::fail));
    heap
}

fn heap(bytes: usize) -> &'static Pinned {
    common::heap_on(PinnedSim::default(), bytes, 2)
}

// ---- Handles

#[test]
fn a_handle_owns_its_pages_and_frees_them_when_dropped() {
    let heap = heap(4 * MIB);
    for count in [1, 2, 3, 5, 8, 100] {
        let block = heap.alloc_block_of(count, &PLAIN).expect("a block");
        assert_eq!((block.page_count(), block.len_bytes()), (count, count * PAGE));
        assert!(format!("{block:?}").contains(&format!("{count} pages")));
        // SAFETY: the block is owned, and of this length.
        unsafe { block.as_ptr().as_ptr().write_bytes(0xEE, block.len_bytes()) };
        assert_eq!(heap.allocated_bytes(), count * PAGE);
        drop(block);
        assert_eq!(heap.allocated_bytes(), 0);
    }
    let block = heap.alloc_page().expect("a page");
    assert_eq!(block.page_count(), 1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            common::set_cpu(Some(1));
            drop(block);
            heap.cpu_offline(1).expect("a CPU");
        });
    });
    common::check_all_free(heap);
}

#[test]
fn a_handle_goes_to_an_address_and_back() {
    let heap = heap(MIB);
    let addr = heap.alloc_block_of(3, &PLAIN).expect("a block").into_addr();
    assert_eq!(heap.allocated_bytes(), 3 * PAGE, "nobody owns it, and it stays");
    // SAFETY: only one of these addresses came from `into_addr`; the others are refused.
    unsafe {
        assert!(PageBlock::from_addr(heap, addr + PAGE).is_none(), "the middle");
        assert!(PageBlock::from_addr(heap, addr + 8).is_none(), "unaligned");
        assert!(PageBlock::from_addr(heap, 0x1000).is_none(), "foreign");
    }
    let page = heap.alloc_pages(2, 0).expect("pages");
    let object = heap.alloc(layout(64, 8)).expect("an object");
    let large = heap.alloc(layout(100_000, 8)).expect("a large object");
    for other in [page, object.addr().get(), large.addr().get()] {
        // SAFETY: not from `into_addr`: refused.
        assert!(unsafe { PageBlock::from_addr(heap, other) }.is_none());
    }
    // SAFETY: from `into_addr`, taken back once.
    let block = unsafe { PageBlock::from_addr(heap, addr) }.expect("the block");
    assert_eq!(block.page_count(), 3);
    drop(block);
    // SAFETY: refused, since it was freed.
    assert!(unsafe { PageBlock::from_addr(heap, addr) }.is_none());
    heap.dealloc_pages(page, 2);
    free_objects(heap, layout(64, 8), &[object]);
    free_objects(heap, layout(100_000, 8), &[large]);
    common::check_all_free(heap);
}

/// Not by address, not as an object, not by another heap; and the handle stays good.
#[test]
fn pages_behind_a_handle_are_not_freed_by_address() {
    let heap = heap(MIB);
    let other = common::heap_on(PinnedSim::default(), MIB, 1);
    heap.set_misuse_handler(Some(testkit::misuse::record));
    other.set_misuse_handler(Some(testkit::misuse::record));
    for count in [1, 2, 3, 20] {
        let block = heap.alloc_block_of(count, &PLAIN).expect("a block");
        let addr = block.as_ptr().addr().get();
        heap.dealloc_pages(addr, count);
        testkit::misuse::expect_one(addr, &[Misuse::WrongKind]);
        // SAFETY: wrong on purpose: it is refused.
        unsafe { heap.dealloc(block.as_ptr(), layout(count * PAGE, PAGE)) };
        testkit::misuse::expect_one(addr, &[Misuse::WrongKind]);
        // SAFETY: as above.
        unsafe { heap.dealloc_unsized(block.as_ptr()) };
        testkit::misuse::expect_one(addr, &[Misuse::WrongKind]);
        other.dealloc_pages(addr, count);
        testkit::misuse::expect_one(addr, &[Misuse::Foreign]);
        // SAFETY: refused: it is a handle's.
        let resized = unsafe { heap.resize_pages(addr, count, count + 1) };
        assert_eq!(resized, Err(AllocError::NotAllocated));
        assert_eq!(usable(heap, block.as_ptr()), None, "no object");
        assert_eq!(heap.allocated_bytes(), count * PAGE);
        drop(block);
        testkit::misuse::expect_none();
        heap.dealloc_pages(addr, count);
        testkit::misuse::expect_one(
            addr,
            &[Misuse::DoubleFree, Misuse::NotAllocated, Misuse::Interior],
        );
    }
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0);
}

// ---- Exact places

#[test]
fn pages_at_an_address_are_those_pages() {
    let heap = heap(4 * MIB);
    let start = heap.managed_section(0).expect("a section").start;
    // Some are kept by CPUs: they are brought back first.
    for cpu in 0..2 {
        let some = on(cpu, || (0..50).map(|_| heap.alloc_pages(1, 0)).collect::<Vec<_>>());
        on(cpu, || some.into_iter().flatten().for_each(|page| heap.dealloc_pages(page, 1)));
        on(cpu, || heap.idle(cpu)).expect("a CPU");
    }
    let at = start + 5 * PAGE;
    assert_eq!(heap.alloc_pages_at(at, 7), Ok(at));
    let no_memory = Err(AllocError::NoMemory);
    assert_eq!(heap.alloc_pages_at(at + 6 * PAGE, 2), no_memory, "one is taken");
    assert_eq!(heap.alloc_pages_at(start, 6), no_memory, "one is taken");
    assert_eq!(heap.alloc_pages_at(at + 7 * PAGE, 1), Ok(at + 7 * PAGE));
    assert_eq!(heap.alloc_pages_at(at + 1, 1), Err(AllocError::InvalidParam), "unaligned");
    assert_eq!(heap.alloc_pages_at(start, 0), Err(AllocError::InvalidParam), "no pages");
    assert_eq!(heap.alloc_pages_at(PAGE, 1), Err(AllocError::NotFound), "not managed");
    let pages = managed_pages(heap);
    assert!(heap.alloc_pages_at(start + (pages - 1) * PAGE, 2).is_err(), "past the end");
    assert!(heap.alloc_pages_at(start, usize::MAX).is_err());
    assert!(heap.alloc_pages_at(usize::MAX - PAGE + 1, 2).is_err());
    heap.check_invariants();
    heap.dealloc_pages(at, 7);
    heap.dealloc_pages(at + 7 * PAGE, 1);
    common::check_all_free(heap);
}

#[test]
fn reserved_ranges_are_never_handed_out() {
    let heap = heap(2 * MIB);
    let section = heap.managed_section(0).expect("a section");
    let managed = managed_pages(heap);
    // Outwards to whole pages: two bytes across a page limit take two pages.
    let at = section.start + 9 * PAGE;
    heap.reserve_range(at + PAGE - 1, 2).expect("free");
    assert_eq!(managed_pages(heap), managed - 2);
    heap.reserve_range(at + 20 * PAGE, 10 * PAGE).expect("free");
    assert_eq!(managed_pages(heap), managed - 12);
    let page = heap.alloc_pages_at(at + 40 * PAGE, 1).expect("free");
    assert_eq!(heap.reserve_range(at + 39 * PAGE, 3 * PAGE), Err(AllocError::NoMemory), "in use");
    assert_eq!(managed_pages(heap), managed - 12, "nothing was taken");
    assert!(heap.reserve_range(at, PAGE).is_err(), "reserved already");
    assert_eq!(heap.reserve_range(PAGE, PAGE), Err(AllocError::NotFound));
    assert_eq!(heap.reserve_range(at, 0), Err(AllocError::InvalidParam));
    assert!(heap.reserve_range(at, usize::MAX).is_err());
    heap.dealloc_pages(page, 1);
    let all = take_all_pages(heap);
    assert_eq!(all.len(), managed - 12);
    let reserved = |page: &&usize| {
        let number = page.wrapping_sub(at) / PAGE;
        number < 2 || (20..30).contains(&number)
    };
    assert_eq!(all.iter().filter(reserved).count(), 0);
    free_pages(heap, &all);
    heap.set_misuse_handler(Some(testkit::misuse::record));
    heap.dealloc_pages(at, 2);
    testkit::misuse::expect_one(at, &[Misuse::NotAllocated]);
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0);
}

#[test]
fn pages_grow_and_shrink_in_place() {
    let heap = heap(4 * MIB);
    let start = heap.managed_section(0).expect("a section").start;
    let at = heap.alloc_pages_at(start + 16 * PAGE, 3).expect("free");
    let wall = heap.alloc_pages_at(start + 40 * PAGE, 1).expect("free");
    // SAFETY: the block is the test's alone throughout.
    unsafe {
        heap.resize_pages(at, 3, 3).expect("the same");
        heap.resize_pages(at, 3, 24).expect("free up to the wall");
        assert_eq!(heap.resize_pages(at, 24, 25), Err(AllocError::NoMemory), "the wall");
        assert_eq!(heap.resize_pages(at, 3, 5), Err(AllocError::NotAllocated), "wrong count");
        assert_eq!(heap.resize_pages(at, 24, 0), Err(AllocError::InvalidParam));
        assert_eq!(heap.resize_pages(at + PAGE, 24, 2), Err(AllocError::NotAllocated), "middle");
        assert_eq!(heap.resize_pages(PAGE, 1, 2), Err(AllocError::NotFound));
        assert!(heap.resize_pages(at, 24, usize::MAX).is_err());
        heap.resize_pages(at, 24, 2).expect("smaller");
        assert_eq!(heap.alloc_pages_at(at + 2 * PAGE, 22), Ok(at + 2 * PAGE), "they are free");
        heap.check_invariants();
        heap.dealloc_pages(at + 2 * PAGE, 22);
        heap.resize_pages(at, 2, 7).expect("larger");
    }
    heap.dealloc_pages(at, 7);
    heap.dealloc_pages(wall, 1);
    common::check_all_free(heap);
}

// ---- Physical limits

const GIB: u64 = 1 << 30;
/// Where the region of the running story lies; stories with a map run one at a time.
static VIRT: AtomicUsize = AtomicUsize::new(0);
static ONE_MAP: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn across_four_gib(vaddr: usize) -> Option<u64> {
    Some(
        (vaddr as u64)
            .wrapping_sub(VIRT.load(Ordering::Relaxed) as u64)
            .wrapping_add(4 * GIB - 4 * MIB as u64),
    )
}

fn at_one_gib(vaddr: usize) -> Option<u64> {
    Some((vaddr as u64).wrapping_sub(VIRT.load(Ordering::Relaxed) as u64).wrapping_add(GIB))
}

/// Every 4 MiB lies elsewhere: forwards and backwards between 1 GiB and 2 GiB.
fn scattered(vaddr: usize) -> Option<u64> {
    let offset = vaddr.wrapping_sub(VIRT.load(Ordering::Relaxed));
    let (block, inside) = (offset / (4 * MIB), offset % (4 * MIB));
    Some(GIB + ((block * 37 % 64) * 4 * MIB + inside) as u64)
}

/// A heap over `bytes` aligned to 4 MiB, which lies physically where `phys` says.
fn mapped(bytes: usize, phys: fn(usize) -> Option<u64>) -> &'static Pinned {
    let heap = empty();
    let region = Region::aligned(bytes, 4 * MIB).leak();
    VIRT.store(region.as_ptr().addr(), Ordering::Relaxed);
    heap.platform().0.phys.set(phys).expect("once");
    // SAFETY: the region is leaked.
    unsafe { heap.init_raw(region.as_mut_ptr(), region.len(), 1) }.expect("init");
    common::forget_stock(heap);
    heap
}

fn take_below(heap: &Pinned, limit: u64, count: usize) -> Vec<usize> {
    let options = PageOptions { physical_limit: Some(limit), ..PLAIN };
    std::iter::from_fn(|| heap.alloc_pages_with(count, &options).ok()).collect()
}

#[test]
fn a_limit_within_a_zone_admits_every_page_below_it_and_no_other() {
    let _one = ONE_MAP.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let heap = mapped(16 * MIB, at_one_gib);
    let start = heap.managed_section(0).expect("a section").start;
    let phys = |vaddr| at_one_gib(vaddr).expect("known");
    for limit in [phys(start) + 5 * MIB as u64 + 1234, phys(start) + 4095, phys(start) + 4096] {
        let pages = take_below(heap, limit, 1);
        assert_eq!(pages.len() as u64, (limit - phys(start)) / PAGE as u64, "limit {limit:#x}");
        assert!(pages.iter().all(|page| phys(*page) + PAGE as u64 <= limit));
        assert!(take_below(heap, limit, 1).is_empty());
        free_pages(heap, &pages);
        let runs = take_below(heap, limit, 3);
        assert!(runs.iter().all(|run| phys(*run) + 3 * PAGE as u64 <= limit));
        let whole = (limit - phys(start)) as usize / PAGE;
        assert!(runs.len() >= whole / 4, "{} runs of 3 in {whole} pages", runs.len());
        for first in 0..whole.saturating_sub(2) {
            let run = heap.alloc_pages_at(start + first * PAGE, 3);
            assert_eq!(run, Err(AllocError::NoMemory), "page {first} and the next two are free");
        }
        runs.iter().for_each(|run| heap.dealloc_pages(*run, 3));
    }
    // Aligned too, and with the whole of memory below the limit.
    let options = PageOptions {
        align_bytes: 64 * PAGE,
        physical_limit: Some(phys(start) + 8 * MIB as u64 + 1),
        ..PLAIN
    };
    let block = heap.alloc_pages_with(10, &options).expect("a block");
    assert!(
        block.is_multiple_of(64 * PAGE)
            && phys(block) + 10 * PAGE as u64 <= phys(start) + 8 * MIB as u64
    );
    heap.dealloc_pages(block, 10);
    assert_eq!(take_below(heap, GIB, 1), [], "nothing lies that low");
    assert_eq!(take_below(heap, 0, 1), []);
    assert!(heap.alloc_pages_lowmem(5, 0).map(|at| heap.dealloc_pages(at, 5)).is_ok());
    common::check_all_free(heap);
}

/// The platform's promise is linearity within 4 MiB, no more.
#[test]
fn a_limit_holds_where_memory_is_scattered() {
    let _one = ONE_MAP.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let heap = mapped(32 * MIB, scattered);
    let section = heap.managed_section(0).expect("a section");
    for limit in [GIB + 10 * MIB as u64 + 77, GIB + 100 * MIB as u64 + 4096] {
        let admitted = (0..section.size / PAGE)
            .map(|number| scattered(section.start + number * PAGE).expect("known"))
            .filter(|phys| phys + PAGE as u64 <= limit)
            .count();
        let pages = take_below(heap, limit, 1);
        assert_eq!(pages.len(), admitted, "limit {limit:#x}");
        assert!(pages.iter().all(|page| scattered(*page).expect("known") + PAGE as u64 <= limit));
        free_pages(heap, &pages);
    }
    common::check_all_free(heap);
}

/// As its documentation says: only for an odd limit where addresses jump.
#[test]
#[cfg(target_pointer_width = "64")] // no four gigabytes on 32 bits
fn virt_to_phys_is_asked_with_a_lock_held_only_for_odd_limits_in_scattered_memory() {
    let _one = ONE_MAP.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for phys in [scattered as fn(usize) -> Option<u64>, at_one_gib, across_four_gib] {
        let heap = mapped(16 * MIB, phys);
        let odd = [GIB + 1, GIB + 9 * MIB as u64 + 77, 4 * GIB + 5];
        let jumps = std::ptr::fn_addr_eq(phys, scattered as fn(usize) -> Option<u64>);
        for limit in [16 << 20, 4 * GIB].into_iter().chain(odd.into_iter().filter(|_| !jumps)) {
            for count in [1, 3, 40] {
                let pages = take_below(heap, limit, count);
                pages.iter().for_each(|page| heap.dealloc_pages(*page, count));
            }
        }
        assert_eq!(heap.platform().0.phys_under_lock.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_region_across_four_gib_is_one_section_whose_low_part_is_spared() {
    let _one = ONE_MAP.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let heap = mapped(12 * MIB, across_four_gib);
    assert_eq!(heap.managed_section_count(), 1);
    let start = heap.managed_section(0).expect("a section").start;
    let low = |page: &usize| across_four_gib(*page).expect("known") < 4 * GIB;
    let low_pages = 4 * MIB / PAGE;
    assert_eq!(heap.zone_free_pages(0, Zone::Dma32), low_pages);
    let high_pages = managed_pages(heap) - low_pages;
    let all = take_all_pages(heap);
    assert_eq!(all.len(), managed_pages(heap));
    // But for the pages that are kept for handlers, which go last of all.
    let kept = 2 * (high_pages / 16 + 1);
    let early = all[..high_pages - kept].iter().filter(|page| low(page)).count();
    assert_eq!(early, 0, "ordinary requests take high memory first");
    let late = all[high_pages..].iter().filter(|page| !low(page)).count();
    assert!(late <= kept, "and low memory in the end");
    free_pages(heap, &all);
    heap.shrink();
    let pages: Vec<_> = std::iter::from_fn(|| heap.alloc_pages_lowmem(1, 0).ok()).collect();
    assert_eq!(pages.len(), low_pages);
    assert!(pages.iter().all(low));
    free_pages(heap, &pages);
    heap.shrink();
    // No block lies on both sides.
    let block = heap.alloc_pages_lowmem(low_pages, 0).expect("all low memory");
    assert_eq!(block, start);
    heap.dealloc_pages(block, low_pages);
    let objects = objects(heap, layout(1000, 8), 1000);
    assert!(!objects.iter().any(|object| low(&object.addr().get())), "objects are high");
    free_objects(heap, layout(1000, 8), &objects);
    common::check_all_free(heap);
}

#[test]
fn a_limit_is_refused_where_nobody_knows_physical_addresses() {
    let heap = heap(MIB);
    assert_eq!(heap.alloc_pages_lowmem(1, 0), Err(AllocError::InvalidParam));
    let options = PageOptions { physical_limit: Some(u64::MAX - 1), ..PLAIN };
    assert_eq!(heap.alloc_pages_with(1, &options), Err(AllocError::InvalidParam));
}

#[test]
fn alignment_options_hold_and_bad_ones_are_refused() {
    let heap = heap(16 * MIB);
    for order in 0..10 {
        for count in [1, 3, 8] {
            let options = PageOptions { align_bytes: PAGE << order, ..PLAIN };
            let at = heap.alloc_pages_with(count, &options).expect("pages");
            assert_eq!(at % (PAGE << order), 0);
            heap.dealloc_pages(at, count);
        }
    }
    // Beyond the largest order: 32 bits have no such alignment.
    let beyond = [PAGE << 21, 1 << (usize::BITS - 1)].into_iter().filter(|_| usize::BITS == 64);
    for align_bytes in [1, PAGE / 2, PAGE + 1, 3 * PAGE].into_iter().chain(beyond) {
        let options = PageOptions { align_bytes, ..PLAIN };
        assert_eq!(heap.alloc_pages_with(1, &options), Err(AllocError::InvalidParam));
    }
    common::check_all_free(heap);
}

// ---- NUMA nodes

// 32-bit targets have two nodes.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_node_is_preferred_and_the_others_follow_by_distance() {
    let heap = empty();
    heap.platform().0.node.set(|cpu| cpu as u8 + 1).expect("once");
    let mut ranges = Vec::new();
    for node in 0..4u8 {
        let region = Region::aligned(MIB, 4 * MIB).leak();
        ranges.push(region.as_ptr().addr()..region.as_ptr().addr() + MIB);
        // SAFETY: the region is leaked.
        unsafe {
            if node == 0 {
                heap.init_raw(region.as_mut_ptr(), region.len(), 3).expect("init");
            } else {
                heap.add_region_raw(region.as_mut_ptr(), region.len(), node).expect("a region");
            }
        }
    }
    let node_of =
        |page: usize| ranges.iter().position(|range| range.contains(&page)).expect("a node");
    let order_of = |pages: &[usize]| {
        // By first page. (What a heap keeps comes last, wherever it is.)
        let mut order = Vec::new();
        for node in pages.iter().map(|page| node_of(*page)) {
            if !order.contains(&node) {
                order.push(node);
            }
        }
        order
    };
    let expected = [(0, [0, 1, 2, 3]), (1, [1, 0, 2, 3]), (2, [2, 1, 3, 0]), (3, [3, 2, 1, 0])];
    for (node, order) in expected {
        let options = PageOptions { node: Some(node), ..PLAIN };
        let pages: Vec<_> =
            std::iter::from_fn(|| heap.alloc_pages_with(1, &options).ok()).collect();
        assert_eq!(order_of(&pages), order, "node {node}");
        assert_eq!(pages.len(), managed_pages(heap));
        free_pages(heap, &pages);
        heap.shrink();
    }
    // Without an option the CPU's own node is preferred: for pages, handles and objects.
    for cpu in 0..3 {
        on(cpu, || {
            let page = heap.alloc_pages(1, 0).expect("a page");
            let block = heap.alloc_page().expect("a page");
            let large = heap.alloc_pages(40, 0).expect("pages");
            let object = heap.alloc(layout(64, 8)).expect("an object");
            let places = [page, block.as_ptr().addr().get(), large, object.addr().get()];
            assert_eq!(places.map(node_of), [cpu + 1; 4]);
            heap.dealloc_pages(page, 1);
            heap.dealloc_pages(large, 40);
            free_objects(heap, layout(64, 8), &[object]);
            drop(block);
            let all = take_all_pages(heap);
            assert_eq!(order_of(&all)[0], cpu + 1);
            free_pages(heap, &all);
            heap.cpu_offline(cpu).expect("a CPU");
        });
    }
    let beyond = PageOptions { node: Some(200), ..PLAIN };
    let page = heap.alloc_pages_with(1, &beyond).expect("a node that does not exist is a hint");
    heap.dealloc_pages(page, 1);
    let region = Region::new(MIB).leak();
    // SAFETY: the region is leaked.
    let added = unsafe { heap.add_region_raw(region.as_mut_ptr(), region.len(), 8) };
    assert_eq!(added, Err(AllocError::InvalidParam), "there are eight nodes");
    common::check_all_free(heap);
}

// ---- Watermarks

#[test]
fn the_reserve_is_for_those_who_may_use_it() {
    let heap = heap(2 * MIB);
    let zone = Zone::ALL.into_iter().find(|zone| heap.zone_free_pages(0, *zone) > 0).expect("one");
    let marks = Watermarks { min_pages: 50, low_pages: 80 };
    heap.set_watermarks(0, zone, marks);
    assert_eq!(heap.watermarks(0, zone), marks);
    let mut ordinary = take_all_pages(heap);
    assert_eq!(ordinary.len(), managed_pages(heap) - 50, "the reserve stays, to the page");
    assert_eq!(heap.zone_free_pages(0, zone), 50);
    assert!(heap.alloc_block_of(1, &PLAIN).is_err());
    let reserve = PageOptions { use_reserve: true, ..PLAIN };
    let some: Vec<_> = (0..30).map(|_| heap.alloc_pages_with(1, &reserve).expect("one")).collect();
    let more = heap.alloc_pages_with(17, &reserve);
    assert_eq!(heap.zone_free_pages(0, zone), 20 - more.map_or(0, |_| 17));
    more.into_iter().for_each(|at| heap.dealloc_pages(at, 17));
    // Freed pages fill the reserve first.
    free_pages(heap, &ordinary.split_off(ordinary.len() - 20));
    heap.shrink();
    assert_eq!(heap.alloc_pages(1, 0), Err(AllocError::NoMemory));
    free_pages(heap, &some);
    free_pages(heap, &ordinary);
    heap.set_watermarks(0, zone, Watermarks { min_pages: 0, low_pages: 0 });
    common::check_all_free(heap);
}

// ---- Bulk

#[test]
fn bulk_requests_get_distinct_pages_and_give_them_back() {
    let heap = heap(4 * MIB);
    for count in [0, 1, 63, 64, 65, 500] {
        let mut pages = vec![0; count];
        assert_eq!(heap.alloc_pages_bulk(&mut pages), Ok(count));
        let mut sorted = pages.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), count);
        assert_eq!(heap.allocated_bytes(), count * PAGE);
        heap.dealloc_pages_bulk(&pages);
        assert_eq!(heap.allocated_bytes(), 0);
    }
    common::check_all_free(heap);
}

// ---- Memory maps

fn entry(base: *mut u8, len_bytes: usize, kind: MemoryKind) -> MemoryRange {
    MemoryRange { base, len_bytes, kind, node: 0 }
}

#[test]
fn reserved_ranges_of_a_map_win_over_usable_ones() {
    let heap = empty();
    let region = Region::aligned(8 * MIB, 4 * MIB).leak();
    let (base, start) = (region.as_mut_ptr(), region.as_ptr().addr());
    let at = |offset: usize| base.wrapping_add(offset);
    let map = [
        entry(at(0), 3 * MIB, MemoryKind::Usable),
        // Overlaps the end of the first and the start of the next, at odd addresses.
        entry(at(3 * MIB - 5000), 10_001, MemoryKind::Reserved),
        entry(at(3 * MIB), 5 * MIB, MemoryKind::Usable),
        entry(at(5 * MIB), 0, MemoryKind::Reserved),
        // One inside another.
        entry(at(6 * MIB), MIB / 2, MemoryKind::Reserved),
        entry(at(6 * MIB + 4096), 4096, MemoryKind::Reserved),
        // Too small for anything, between two reserved ones.
        entry(at(6 * MIB + MIB / 2 + 100), 4 * PAGE, MemoryKind::Reserved),
        // Past all usable memory.
        entry(at(100 * MIB), usize::MAX, MemoryKind::Reserved),
    ];
    // The kernel's image, inside the first.
    let kernel = [(start + MIB, 12_345), (start + MIB + 12_000, 50)];
    // SAFETY: the usable parts lie in the leaked region.
    let added = unsafe { heap.add_memory_map(map.into_iter(), kernel.into_iter(), 2) };
    assert_eq!(added, Ok(heap.managed_section_count()));
    let holes: Vec<_> = map
        .iter()
        .filter(|range| range.kind == MemoryKind::Reserved)
        .map(|range| (range.base.addr(), range.base.addr().saturating_add(range.len_bytes)))
        .chain(kernel.iter().map(|(at, len)| (*at, at + len)))
        .collect();
    let all = take_all_pages(heap);
    assert_eq!(all.len(), managed_pages(heap));
    for page in &all {
        assert!((start..start + 8 * MIB).contains(page));
        let hit = holes.iter().find(|hole| hole.0 < page + PAGE && *page < hole.1);
        assert_eq!(hit, None, "{page:#x}");
    }
    // Little is lost: metadata, the heaps, and the ends of pieces.
    assert!(all.len() * PAGE > 7 * MIB, "{} pages", all.len());
    free_pages(heap, &all);
    common::check_all_free(heap);
}

#[test]
fn pieces_too_small_are_left_out_and_a_map_of_nothing_else_is_refused() {
    let heap = empty();
    let region = Region::aligned(2 * MIB, 4 * MIB).leak();
    let base = region.as_mut_ptr();
    let none = std::iter::empty::<(usize, usize)>;
    let tiny = [
        entry(base, 100, MemoryKind::Usable),
        entry(base.wrapping_add(PAGE), PAGE, MemoryKind::Usable),
    ];
    // SAFETY: inside the leaked region.
    unsafe {
        assert_eq!(heap.add_memory_map(tiny.into_iter(), none(), 1), Err(AllocError::InvalidParam));
        assert_eq!(heap.add_memory_map([].into_iter(), none(), 1), Err(AllocError::InvalidParam));
        // The same heap starts from a later piece.
        let map = [
            entry(base, 100, MemoryKind::Usable),
            entry(base.wrapping_add(3 * PAGE), 2 * PAGE, MemoryKind::Usable),
            entry(base.wrapping_add(MIB), MIB, MemoryKind::Usable),
        ];
        let added = heap.add_memory_map(map.into_iter(), none(), 1).expect("one is large enough");
        assert!((1..=2).contains(&added), "{added}");
        // A second map, after the start; and one that overlaps.
        let more = Region::aligned(MIB, PAGE).leak();
        let more = [entry(more.as_mut_ptr(), MIB, MemoryKind::Usable)];
        assert_eq!(heap.add_memory_map(more.into_iter(), none(), 1), Ok(1));
        assert_eq!(
            heap.add_memory_map(more.into_iter(), none(), 1),
            Err(AllocError::MemoryOverlap)
        );
    }
    common::check_all_free(heap);
}

/// Random maps against a byte map of what is usable.
#[test]
fn any_map_manages_only_what_is_usable_and_not_reserved() {
    let mut random = Random(0x3A9);
    for _ in 0..60 {
        let region = Region::aligned(MIB, 2 * MIB).leak();
        let (base, start) = (region.as_mut_ptr(), region.as_ptr().addr());
        let mut map = Vec::new();
        let mut usable = vec![false; MIB];
        let mut at = 0;
        while at < MIB {
            let len = (1 + random.below(MIB / 3)).min(MIB - at);
            if random.below(4) != 0 {
                map.push(entry(base.wrapping_add(at), len, MemoryKind::Usable));
                usable[at..at + len].fill(true);
            }
            at += len;
        }
        let mut extra = Vec::new();
        for number in 0..random.below(6) {
            let at = random.below(MIB);
            let len = random.below(60_000).min(MIB - at);
            usable[at..at + len].fill(false);
            if number % 2 == 0 {
                map.push(entry(base.wrapping_add(at), len, MemoryKind::Reserved));
            } else {
                extra.push((start + at, len));
            }
        }
        let heap = empty();
        // SAFETY: the usable parts lie in the leaked region.
        let added = unsafe { heap.add_memory_map(map.iter().copied(), extra.into_iter(), 1) };
        let Ok(_) = added else { continue };
        for page in take_all_pages(heap) {
            let at = page - start;
            assert!(usable[at..at + PAGE].iter().all(|usable| *usable), "{page:#x}");
            // SAFETY: an allocated page.
            unsafe { base.add(at).write_bytes(0x77, PAGE) };
        }
        heap.check_invariants();
        // What is reserved was not written by anybody: it is still the region's noise.
        let fresh = Region::aligned(MIB, 2 * MIB);
        // SAFETY: both are a MiB long.
        let (now, before) = unsafe {
            (
                std::slice::from_raw_parts(base, MIB),
                std::slice::from_raw_parts(fresh.as_mut_ptr(), MIB),
            )
        };
        let touched = (0..MIB).find(|at| !usable[*at] && now[*at] != before[*at]);
        assert_eq!(touched, None, "a reserved byte was written");
    }
}

// ---- Hot remove

/// A heap with a second section; the region of that one.
fn with_second(cpus: usize) -> (&'static Pinned, *mut u8, usize) {
    let heap = common::pinned(2 * MIB, cpus);
    let region = Region::aligned(4 * MIB, 4 * MIB).leak();
    // SAFETY: the region is leaked.
    unsafe { heap.add_region(region) }.expect("a region");
    (heap, region.as_mut_ptr(), region.len())
}

#[test]
fn a_section_leaves_once_it_is_empty_and_may_come_back() {
    let (heap, base, len) = with_second(2);
    let range = base.addr()..base.addr() + len;
    let before = (heap.managed_bytes(), heap.managed_section_count());
    for _ in 0..3 {
        let inside = heap.managed_section(1).expect("the second").start;
        let page = heap.alloc_pages_at(inside, 1).expect("free");
        assert_eq!(heap.isolate_section(inside).err(), Some(AllocError::NoMemory), "in use");
        assert_eq!(heap.managed_section_count(), 2, "as it was");
        heap.dealloc_pages(page, 1);
        // It is kept by a CPU now, and drained. Dropping the token puts the section back.
        let token = heap.isolate_section(inside).expect("empty");
        assert_eq!(heap.managed_section_count(), 1);
        let all = take_all_pages(heap);
        assert!(!all.iter().any(|page| range.contains(page)), "nothing comes from there");
        free_pages(heap, &all);
        drop(token);
        assert_eq!((heap.managed_bytes(), heap.managed_section_count()), before);
        let all = take_all_pages(heap);
        assert_eq!(all.len(), managed_pages(heap));
        assert!(all.iter().any(|page| range.contains(page)));
        free_pages(heap, &all);
        let token = heap.isolate_section(inside).expect("empty");
        // SAFETY: the only thread is outside the allocator.
        assert_eq!(unsafe { heap.finish_removal(token) }, (base.addr(), len));
        assert_eq!(heap.isolate_section(inside).err(), Some(AllocError::NotFound), "gone");
        // The region is the caller's: it may be written over.
        // SAFETY: given back.
        unsafe { base.write_bytes(0xA5, len) };
        common::check_all_free(heap);
        // SAFETY: the leaked region, which nobody uses.
        unsafe { heap.add_region_raw(base, len, 0) }.expect("it comes back");
        assert_eq!((heap.managed_bytes(), heap.managed_section_count()), before);
        heap.check_invariants();
    }
    common::check_all_free(heap);
}

#[test]
fn the_section_that_holds_the_heaps_stays() {
    let (heap, _, _) = with_second(1);
    let first = heap.managed_section(0).expect("the first").start;
    assert_eq!(heap.isolate_section(first).err(), Some(AllocError::InvalidParam));
    assert_eq!(heap.isolate_section(PAGE).err(), Some(AllocError::NotFound));
    common::check_all_free(heap);
}

/// Objects, handles and large allocations keep a section; empty slabs and kept pages do not.
#[test]
fn what_is_in_use_keeps_a_section_and_what_is_kept_does_not() {
    let (heap, base, len) = with_second(2);
    let range = base.addr()..base.addr() + len;
    // Memory of the first section runs out, so that the rest lies in the second.
    let all = take_all_pages(heap).into_iter();
    let (second, first): (Vec<usize>, Vec<usize>) = all.partition(|page| range.contains(page));
    free_pages(heap, &second);
    let isolate = || heap.isolate_section(base.addr() + PAGE).map(drop);
    isolate().expect("only kept pages");
    for size in [64, 5000] {
        let many = on(1, || objects(heap, layout(size, 8), 100));
        assert!(many.iter().all(|object| range.contains(&object.addr().get())));
        assert_eq!(isolate(), Err(AllocError::NoMemory), "objects are live");
        // Freed by another CPU, and not published, and the owner does not sleep.
        common::enable_hook(heap);
        on(0, || free_objects(heap, layout(size, 8), &many));
        isolate().expect("only empty slabs, on a running CPU");
    }
    let block = heap.alloc_page().expect("a page");
    assert_eq!(isolate(), Err(AllocError::NoMemory), "a handle");
    drop(block);
    isolate().expect("empty");
    let large = heap.alloc(layout(100_000, 8)).expect("a large object");
    assert_eq!(isolate(), Err(AllocError::NoMemory), "a large object");
    free_objects(heap, layout(100_000, 8), &[large]);
    isolate().expect("empty");
    free_pages(heap, &first);
    common::check_all_free(heap);
}

// ---- Regions of every shape

#[test]
fn regions_at_odd_addresses_are_used_up_to_their_edges_and_not_beyond() {
    let mut random = Random(0x0DD);
    for round in 0..60 {
        let offset = random.below(3 * PAGE);
        let len = 60 * PAGE + random.below(40 * PAGE);
        let heap = empty();
        let mut region = Region::with_offset(len, 4096, offset);
        let range = region.range();
        let bytes = region.bytes_mut();
        // SAFETY: the region outlives the use of the heap in this round.
        unsafe { heap.init_raw(bytes.as_mut_ptr(), bytes.len(), 1) }.expect("init");
        let mut second = Region::with_offset(len / 2, 4096, offset / 2 + 1);
        let second_range = second.range();
        let bytes = second.bytes_mut();
        // SAFETY: as above.
        unsafe { heap.add_region_raw(bytes.as_mut_ptr(), bytes.len(), 0) }.expect("a region");
        // SAFETY: refused.
        unsafe {
            let again = heap.add_region_raw(bytes.as_mut_ptr().add(100), bytes.len() - 200, 0);
            assert_eq!(again, Err(AllocError::MemoryOverlap), "round {round}");
        }
        let all = take_all_pages(heap);
        assert_eq!(all.len(), managed_pages(heap));
        for &page in &all {
            let inside =
                |range: &std::ops::Range<usize>| range.start <= page && page + PAGE <= range.end;
            assert!(inside(&range) || inside(&second_range), "{page:#x}");
            // SAFETY: an allocated page.
            unsafe { std::ptr::with_exposed_provenance_mut::<u8>(page).write_bytes(0x11, PAGE) };
        }
        free_pages(heap, &all);
        common::check_all_free(heap);
        region.check_guards();
        second.check_guards();
    }
}

#[test]
fn regions_that_cannot_be_used_are_refused_and_init_may_be_retried() {
    let heap = empty();
    let region = Region::new(MIB).leak();
    let base = region.as_mut_ptr();
    let invalid = Err(AllocError::InvalidParam);
    // SAFETY: what is accepted lies in the leaked region.
    unsafe {
        assert_eq!(heap.init_raw(base, 0, 1), invalid);
        assert_eq!(heap.init_raw(base, PAGE, 1), invalid, "no room for metadata and a page");
        assert_eq!(heap.init_raw(base, MIB, 20_000), invalid, "no room for the heaps");
        assert_eq!(heap.add_region_raw(base, MIB, 0), Err(AllocError::NotInitialized));
        heap.init_raw(base, MIB, 1).expect("init");
        assert_eq!(heap.init_raw(base, MIB, 1), invalid, "once only");
        assert_eq!(heap.add_region_raw(base, MIB, 0), Err(AllocError::MemoryOverlap));
        assert!(heap.add_region_raw(base.wrapping_sub(10 * PAGE), 10 * PAGE + 1, 0).is_err());
        let other = Region::new(10 * PAGE).leak();
        assert_eq!(heap.add_region_raw(other.as_mut_ptr(), 0, 0), invalid);
        assert_eq!(heap.add_region_raw(other.as_mut_ptr(), PAGE, 0), invalid);
        assert!(heap.add_region_raw(other.as_mut_ptr(), usize::MAX, 0).is_err(), "past the top");
    }
    common::check_all_free(heap);
}

// ---- Memory known to be zero

#[cfg(target_os = "linux")]
mod zeroed {
    use super::*;
    use testkit::Reservation;

    /// A heap whose bulk is a reservation that was declared zero.
    fn on_zeroed<P: Platform>(
        heap: &GlobalAllocator<PAGE, P>,
        bytes: usize,
    ) -> &'static Reservation {
        let region = Box::leak(Box::new(Reservation::new(bytes, 4 * MIB).expect("address space")));
        // SAFETY: an anonymous mapping reads as zeros; it is leaked.
        unsafe { heap.add_zeroed_region(region.as_mut_ptr(), bytes, 0) }.expect("a region");
        region
    }

    fn assert_zero(object: std::ptr::NonNull<u8>, len: usize) {
        // SAFETY: allocated with this length.
        let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), len) };
        assert!(bytes.iter().all(|byte| *byte == 0), "{object:p} is not zero");
    }

    #[test]
    fn known_zero_memory_is_not_cleared() {
        let heap = heap(MIB / 2);
        let region = on_zeroed(heap, 256 * MIB);
        let before = region.touched_bytes();
        let large = layout(100 * MIB, 8);
        let object = heap.alloc_zeroed(large).expect("memory");
        let touched = region.touched_bytes() - before;
        assert!(touched < 2 * MIB, "{touched} bytes were touched to serve 100 MiB of zeros");
        assert_zero(object, 4 * MIB);
        free_objects(heap, large, &[object]);
        common::check_all_free_of(heap, 16);
    }

    #[test]
    fn zeroed_memory_is_zero_whatever_lay_there_before() {
        for cpus in [false, true] {
            if cpus {
                churn(common::heap_on(LockedSim::default(), MIB / 2, 2));
            } else {
                churn(heap(MIB / 2));
            }
        }
    }

    fn churn<P: Platform>(heap: &GlobalAllocator<PAGE, P>) {
        on_zeroed(heap, 8 * MIB);
        let mut random = Random(0x2E80);
        let mut live = Vec::new();
        for _ in 0..3000 {
            if live.len() < 40 && random.below(3) != 0 {
                let size = 1 + random.below(40 * PAGE);
                let layout = layout(size, 1 << random.below(14));
                // Both kinds, dirty when they go.
                let object = if random.below(2) == 0 {
                    heap.alloc(layout)
                } else {
                    heap.alloc_zeroed(layout).inspect(|object| assert_zero(*object, size))
                };
                let Ok(object) = object else { continue };
                // SAFETY: just allocated.
                unsafe { object.as_ptr().write_bytes(0xD1, size) };
                live.push((object, layout));
            } else if !live.is_empty() {
                let (object, layout) = live.swap_remove(random.below(live.len()));
                free_objects(heap, layout, &[object]);
            }
        }
        for (object, layout) in live {
            free_objects(heap, layout, &[object]);
        }
        common::check_all_free(heap);
        // What was allocated as pages, written and freed.
        let pages = take_all_pages(heap);
        for page in &pages {
            // SAFETY: an allocated page.
            unsafe { std::ptr::with_exposed_provenance_mut::<u8>(*page).write_bytes(0xD2, PAGE) };
        }
        free_pages(heap, &pages);
        heap.shrink();
        for count in [300, 100, 9, 40] {
            let object = heap.alloc_zeroed(layout(count * PAGE, 8)).expect("memory");
            assert_zero(object, count * PAGE);
        }
    }

    /// Grown, shrunk and split blocks are as dirty as what they were made of.
    #[test]
    fn zeroed_memory_is_zero_after_blocks_were_resized() {
        let heap = heap(MIB / 2);
        on_zeroed(heap, 4 * MIB);
        let mut random = Random(5);
        for _ in 0..300 {
            let count = 9 + random.below(40);
            let Ok(at) = heap.alloc_pages(count, 0) else { break };
            let new = 9 + random.below(60);
            // SAFETY: the block is the test's alone.
            let now = unsafe { heap.resize_pages(at, count, new) }.map_or(count, |()| new);
            // SAFETY: an allocated block of that size.
            unsafe {
                std::ptr::with_exposed_provenance_mut::<u8>(at).write_bytes(0xD3, now * PAGE)
            };
            let object = heap.alloc_zeroed(layout(20 * PAGE, 8)).expect("memory");
            assert_zero(object, 20 * PAGE);
            heap.dealloc_pages(at, now);
            free_objects(heap, layout(20 * PAGE, 8), &[object]);
        }
        common::check_all_free(heap);
    }
}

/// What an allocation can hold.
fn usable<const PAGE_BYTES: usize, P: buddy_slab_allocator::Platform>(
    heap: &GlobalAllocator<PAGE_BYTES, P>,
    ptr: std::ptr::NonNull<u8>,
) -> Option<usize> {
    // SAFETY: these tests free nothing at the same time.
    unsafe { heap.usable_size(ptr) }
}
