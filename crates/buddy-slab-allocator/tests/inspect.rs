//! What is seen from outside: the numbers of a snapshot add up, and what is printed is there.
#![cfg(not(loom))]

mod common;

use buddy_slab_allocator::inspect::Snapshot;
use buddy_slab_allocator::{GlobalAllocator, Platform, SizeClass};
use common::{LockedSim, MIB, PAGE, PinnedSim, Random, free_objects, layout, objects, on};

/// The counting equations of a snapshot at rest.
fn add_up(snapshot: &Snapshot) {
    let Snapshot { managed_bytes, allocated_bytes, cached_pages, deferred_pages, .. } = *snapshot;
    let allocated = allocated_bytes / PAGE;
    assert_eq!(snapshot.page_bytes, PAGE);
    assert_eq!(
        managed_bytes / PAGE,
        snapshot.listed_free_pages()
            + cached_pages
            + snapshot.stock_pages
            + deferred_pages
            + allocated,
        "managed = free on lists + kept + deferred + allocated"
    );
    let slabs: usize = snapshot.classes.iter().map(|class| class.pages).sum();
    let own = slabs + snapshot.descriptor_pages;
    assert_eq!(allocated, own + snapshot.large_pages, "allocated = slabs + descriptors + pages");
    for class in &snapshot.classes {
        assert!(class.objects_live <= class.objects_total);
        assert!(class.objects_total * class.size <= class.pages * PAGE, "objects lie in pages");
        assert_eq!(class.slabs == 0, class.pages == 0);
        assert_eq!(class.slabs == 0, class.objects_total == 0);
    }
    assert_eq!(snapshot.classes.len(), SizeClass::COUNT);
}

fn churn<P: Platform>(heap: &GlobalAllocator<PAGE, P>, cpus: usize) {
    let mut random = Random(0x5EE);
    let mut live = vec![Vec::new(); SizeClass::COUNT];
    let mut pages: Vec<(usize, usize)> = Vec::new();
    add_up(&heap.snapshot());
    for round in 0..4000 {
        common::set_cpu(Some(random.below(cpus)));
        let class = SizeClass::ALL[random.below(SizeClass::COUNT)];
        let layout = layout(class.size(), 8);
        match random.below(10) {
            0 => {
                let count = 1 + random.below(20);
                pages.push((heap.alloc_pages(count, 0).expect("pages"), count));
            }
            1 => {
                if let Some((at, count)) = pages.pop() {
                    heap.dealloc_pages(at, count);
                }
            }
            2..=6 => live[class.index()].push(heap.alloc(layout).expect("an object")),
            _ => {
                if let Some(object) = live[class.index()].pop() {
                    free_objects(heap, layout, &[object]);
                }
            }
        }
        if round % 250 == 0 {
            // At rest: every CPU publishes what it has gathered.
            for cpu in 0..cpus {
                on(cpu, || heap.idle(cpu)).expect("a CPU");
            }
            let snapshot = heap.snapshot();
            assert_eq!(snapshot.heaps_not_seen, 0);
            add_up(&snapshot);
            let mut held: usize = pages.iter().map(|(_, count)| count).sum();
            for (class, live) in snapshot.classes.iter().zip(&live) {
                // What takes just eight pages is no object of a slab.
                let whole = if class.size == SizeClass::MAX_SIZE { live.len() } else { 0 };
                assert_eq!(class.objects_live, live.len() - whole, "size {}", class.size);
                held += whole * class.size / PAGE;
            }
            assert_eq!(snapshot.large_pages, held);
            assert_eq!(snapshot.sections, heap.managed_section_count());
        }
    }
    for (class, objects) in SizeClass::ALL.iter().zip(live) {
        free_objects(heap, layout(class.size(), 8), &objects);
    }
    pages.into_iter().for_each(|(at, count)| heap.dealloc_pages(at, count));
    for cpu in 0..cpus {
        on(cpu, || heap.cpu_offline(cpu)).expect("a CPU");
    }
    common::set_cpu(Some(0));
    heap.shrink();
    let snapshot = heap.snapshot();
    add_up(&snapshot);
    assert_eq!((snapshot.allocated_bytes, snapshot.cached_pages), (0, 0));
    assert_eq!(snapshot.descriptor_pages, 0);
    assert!(snapshot.classes.iter().all(|class| class.slabs == 0));
}

#[test]
fn snapshot_numbers_add_up_and_match_what_is_live() {
    churn(common::heap_on(PinnedSim::default(), 32 * MIB, 3), 3);
    churn(common::heap_on(LockedSim::default(), 32 * MIB, 3), 3);
}

#[test]
fn several_sections_are_counted_together() {
    let heap = common::heap_on(PinnedSim::default(), MIB, 1);
    for _ in 0..3 {
        // SAFETY: the region is leaked.
        unsafe { heap.add_region(testkit::Region::new(MIB).leak()) }.expect("a region");
    }
    let snapshot = heap.snapshot();
    add_up(&snapshot);
    assert_eq!(snapshot.sections, 4);
    let sections = (0..4).map(|index| heap.managed_section(index).expect("a section"));
    assert_eq!(
        sections.map(|section| section.free_pages).sum::<usize>(),
        snapshot.listed_free_pages()
    );
    assert_eq!(snapshot.managed_bytes, heap.managed_bytes());
}

#[test]
fn what_is_free_on_a_running_pinned_cpu_is_not_seen_and_that_is_said() {
    let heap = common::heap_on(PinnedSim::default(), 4 * MIB, 3);
    let some = on(1, || objects(heap, layout(64, 8), 10));
    let class = SizeClass::from_layout(layout(64, 8)).expect("a class").index();
    let snapshot = on(0, || heap.snapshot());
    let info = &snapshot.classes[class];
    assert_eq!((snapshot.heaps_not_seen, info.slabs), (1, 1), "its slab is known all the same");
    assert_eq!(info.objects_live, info.objects_total, "what is free in it is not");
    on(1, || heap.idle(1)).expect("a CPU");
    let snapshot = on(0, || heap.snapshot());
    assert_eq!((snapshot.heaps_not_seen, snapshot.classes[class].objects_live), (0, 10));
    on(0, || free_objects(heap, layout(64, 8), &some));
    let snapshot = on(0, || heap.snapshot());
    assert_eq!(snapshot.classes[class].objects_live, 0, "remote frees are taken in first");
    common::check_all_free(heap);
}

#[test]
fn fragmentation_is_none_when_fresh_and_whole_when_every_other_page_is_taken() {
    let heap = common::heap_on(PinnedSim::default(), 4 * MIB, 1);
    let fresh = heap.snapshot();
    assert_eq!(fresh.fragmentation_permille(0), 0);
    assert!(fresh.fragmentation_permille(3) < 10, "only odd ends");
    let pages = common::take_all_pages(heap);
    assert_eq!(heap.snapshot().fragmentation_permille(5), 0, "nothing is free");
    let (even, odd): (Vec<usize>, Vec<usize>) =
        pages.into_iter().partition(|page| (page / PAGE).is_multiple_of(2));
    common::free_pages(heap, &even);
    heap.shrink();
    let snapshot = heap.snapshot();
    assert_eq!(snapshot.listed_free_pages(), even.len());
    assert_eq!((snapshot.fragmentation_permille(0), snapshot.fragmentation_permille(1)), (0, 1000));
    common::free_pages(heap, &odd);
    common::check_all_free(heap);
}

/// The numbers of a row of text.
fn numbers(row: &str) -> Vec<usize> {
    row.split_whitespace().filter_map(|word| word.trim_end_matches(',').parse().ok()).collect()
}

#[test]
fn buddyinfo_prints_every_free_block() {
    let heap = common::heap_on(PinnedSim::default(), 8 * MIB, 1);
    let some: Vec<_> = (1..30).map(|count| heap.alloc_pages(count, 0).expect("pages")).collect();
    let snapshot = heap.snapshot();
    let text = snapshot.buddyinfo().to_string();
    println!("{text}");
    let mut lines = text.lines();
    let orders = numbers(lines.next().expect("a header"));
    assert!(orders.iter().copied().eq(0..orders.len()));
    let mut free = 0;
    for zone in lines.clone().filter(|line| line.starts_with("zone")) {
        let blocks = numbers(zone);
        assert_eq!(blocks.len(), orders.len(), "a number under each order");
        free += blocks.iter().enumerate().map(|(order, count)| count << order).sum::<usize>();
    }
    assert_eq!(free, snapshot.listed_free_pages());
    let last = numbers(lines.next_back().expect("a last line"));
    let Snapshot { cached_pages, stock_pages, deferred_pages, .. } = snapshot;
    let Snapshot { descriptor_pages, internal_pages, .. } = snapshot;
    let kept = [cached_pages, stock_pages, deferred_pages];
    assert_eq!(last, [&kept[..], &[descriptor_pages, internal_pages]].concat());
    (1..).zip(some).for_each(|(count, at)| heap.dealloc_pages(at, count));
}

#[test]
fn slabinfo_prints_the_classes_in_use_and_no_other() {
    let heap = common::heap_on(PinnedSim::default(), 8 * MIB, 1);
    let sizes = [(16, 300), (64, 5), (1024, 40), (20_480, 3)];
    let live: Vec<_> =
        sizes.iter().map(|(size, count)| objects(heap, layout(*size, 8), *count)).collect();
    let pages = heap.alloc_pages(9, 0).expect("pages");
    let snapshot = heap.snapshot();
    let text = snapshot.slabinfo().to_string();
    println!("{text}");
    let rows: Vec<_> = text.lines().skip(1).map(numbers).collect();
    assert_eq!(rows.len(), sizes.len() + 1);
    for (row, (size, count)) in rows.iter().zip(sizes) {
        let class = SizeClass::from_layout(layout(size, 8)).expect("a class");
        let info = &snapshot.classes[class.index()];
        assert_eq!(row[..], [size, count, info.objects_total, info.slabs, info.pages]);
    }
    assert_eq!(rows[sizes.len()], [9], "pages");
    for ((size, _), objects) in sizes.iter().zip(live) {
        free_objects(heap, layout(*size, 8), &objects);
    }
    heap.dealloc_pages(pages, 9);
    heap.shrink();
    assert_eq!(heap.snapshot().slabinfo().to_string().lines().count(), 2, "no class is left");
}

#[test]
fn the_map_draws_each_page_as_what_it_is() {
    let heap = common::heap_on(PinnedSim::default(), 2 * MIB, 1);
    let some = objects(heap, layout(100, 8), 500);
    let large = heap.alloc(layout(100_000, 8)).expect("a large object");
    let pages = heap.alloc_pages(30, 0).expect("pages");
    let kept: Vec<_> = (0..20).map(|_| heap.alloc_pages(1, 0).expect("a page")).collect();
    common::free_pages(heap, &kept);
    let snapshot = heap.snapshot();
    // A cell for each page.
    let text = heap.heap_map(64, 1000).to_string();
    println!("{text}");
    let section = heap_section(heap);
    let rows: Vec<_> = text.lines().skip(1).take_while(|line| !line.contains("free")).collect();
    assert!(rows.iter().all(|row| row.chars().count() <= 64));
    let cells: String = rows.concat();
    assert_eq!(cells.len(), section.1 / PAGE, "a cell for each page");
    let count = |letter| cells.chars().filter(|cell| *cell == letter).count();
    let slab_pages: usize = snapshot.classes.iter().map(|class| class.pages).sum();
    assert_eq!(count('#'), slab_pages);
    assert_eq!(count('P'), snapshot.large_pages);
    assert_eq!(count(':'), snapshot.cached_pages + snapshot.stock_pages);
    assert_eq!(count('.'), snapshot.listed_free_pages());
    assert_eq!(count('x'), snapshot.descriptor_pages);
    // Where they are.
    let letter = |addr: usize| cells.as_bytes()[(addr - section.0) / PAGE] as char;
    assert_eq!(letter(some[0].addr().get()), '#');
    assert_eq!(letter(large.addr().get() + 60_000), 'P');
    assert_eq!(letter(pages + 29 * PAGE), 'P');
    // Coarser: fewer cells, and never more than asked for.
    let coarse = heap.heap_map(16, 2).to_string();
    let rows: Vec<_> = coarse.lines().skip(1).take_while(|line| !line.contains("free")).collect();
    assert!(rows.len() <= 2 && rows.iter().all(|row| row.len() <= 16), "{coarse}");
    let _ = heap.heap_map(0, 0).to_string();
    free_objects(heap, layout(100, 8), &some);
    free_objects(heap, layout(100_000, 8), &[large]);
    heap.dealloc_pages(pages, 30);
    common::check_all_free(heap);
}

/// Start and size of the first section, as they are without giving back what CPUs keep.
fn heap_section<P: Platform>(heap: &GlobalAllocator<PAGE, P>) -> (usize, usize) {
    let text = heap.heap_map(1, 1).to_string();
    let line = text.lines().next().expect("a header");
    let words: Vec<_> = line.split([' ', ',']).collect();
    let start = words.iter().find_map(|word| word.strip_prefix("0x")).expect("an address");
    let size = words.iter().position(|word| *word == "bytes").expect("a size");
    let start = usize::from_str_radix(start, 16).expect("a number");
    (start, words[size - 1].parse().expect("a number"))
}

#[test]
fn every_section_has_its_map() {
    let heap = common::heap_on(PinnedSim::default(), MIB, 1);
    // SAFETY: the region is leaked.
    unsafe { heap.add_region(testkit::Region::new(MIB).leak()) }.expect("a region");
    let text = heap.heap_map(32, 8).to_string();
    assert_eq!(text.lines().filter(|line| line.starts_with("section")).count(), 2);
    assert!(text.lines().next_back().expect("a legend").contains("slabs"));
}

/// From a reclaim callback, as a kernel would log its last moments.
#[test]
fn snapshots_may_be_taken_in_the_reclaim_callback() {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};
    static HEAP: OnceLock<&'static GlobalAllocator<PAGE, PinnedSim>> = OnceLock::new();
    static FREE: AtomicUsize = AtomicUsize::new(usize::MAX);
    let heap = *HEAP.get_or_init(|| common::heap_on(PinnedSim::default(), MIB, 1));
    heap.set_reclaim(Some(|| {
        let heap = HEAP.get().expect("the heap");
        let snapshot = heap.snapshot();
        add_up(&snapshot);
        let text =
            format!("{}{}{}", snapshot.buddyinfo(), snapshot.slabinfo(), heap.heap_map(8, 8));
        assert!(!text.is_empty());
        FREE.store(snapshot.listed_free_pages(), Ordering::Relaxed);
        false
    }));
    let pages = common::take_all_pages(heap);
    assert_eq!(FREE.load(Ordering::Relaxed), 0);
    heap.set_reclaim(None);
    common::free_pages(heap, &pages);
    common::check_all_free(heap);
}
