//! What a call costs beside little and beside sixteen times as much: live slabs, memory, sections.
//! Each case exists as `x1` and as `x16`, and `cargo xtask instructions` holds the second to the
//! first. A count is for one call, or for one pair.
//!
//! Everything here is *pinned*; two CPUs, one thread.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

use buddy_slab_allocator::buddy::MAX_ORDER;
use buddy_slab_allocator::inspect::ClassInfo;
use buddy_slab_allocator::{GlobalAllocator, SizeClass};
use figures::engines::region;
use figures::platforms::{Pinned, become_cpu};
use gungraun::{library_benchmark, library_benchmark_group};
use testkit::Reservation;

static HEAP: GlobalAllocator<0x1000, Pinned> = GlobalAllocator::with_platform(Pinned);

const MIB: usize = 1 << 20;
/// Few to a slab, so that there are many slabs.
const OBJECT: Layout = Layout::new::<[u64; 256]>();
/// Slabs, in the small case.
const SLABS: usize = 64;

fn heap_of(bytes: usize) {
    let memory = region(bytes);
    // SAFETY: leaked memory, this heap's alone.
    unsafe { HEAP.init_raw(memory.as_mut_ptr(), memory.len(), 2) }.expect("a region");
}

fn alloc() -> *mut u8 {
    // SAFETY: the layout is not empty.
    unsafe { GlobalAlloc::alloc(&HEAP, black_box(OBJECT)) }
}

fn free(object: *mut u8) {
    // SAFETY: every object here is live and freed once.
    unsafe { GlobalAlloc::dealloc(&HEAP, object, black_box(OBJECT)) }
}

fn of_class() -> ClassInfo {
    let class = SizeClass::from_layout(OBJECT).expect("small");
    HEAP.snapshot().classes[class.index()]
}

/// Objects of `times` × 64 slabs, in the order of allocation: all that there is in these slabs.
struct Full {
    objects: Vec<*mut u8>,
    /// How many of them each slab has, but for the first few slabs.
    each: usize,
}

fn full_slabs(times: usize) -> Full {
    heap_of(64 * MIB);
    let (mut objects, mut each, mut total) = (Vec::new(), 0, 0);
    loop {
        objects.push(alloc());
        let info = of_class();
        if info.objects_total != total {
            each = info.objects_total - total;
            total = info.objects_total;
        }
        // What is left in the slab, and in a new one all but the object that shows it.
        objects.extend((info.objects_live..total).map(|_| alloc()));
        if info.slabs == times * SLABS {
            return Full { objects, each };
        }
    }
}

#[library_benchmark(setup = full_slabs)]
#[bench::x1(1)]
#[bench::x16(16)]
fn slabs_make_one(_: Full) -> *mut u8 {
    alloc()
}

/// One object of every slab is free, and one of those has been allocated again.
fn partial_slabs(times: usize) {
    let Full { objects, each } = full_slabs(times);
    // From the last slab on, so that the objects freed are as far apart as the slabs are long.
    objects.into_iter().rev().step_by(each).for_each(free);
    alloc();
}

#[library_benchmark(setup = partial_slabs)]
#[bench::x1(1)]
#[bench::x16(16)]
fn slabs_next_partial(_: ()) -> *mut u8 {
    alloc()
}

/// An object in the middle.
fn one_of_full_slabs(times: usize) -> *mut u8 {
    let objects = full_slabs(times).objects;
    objects[objects.len() / 2]
}

#[library_benchmark(setup = one_of_full_slabs)]
#[bench::x1(1)]
#[bench::x16(16)]
fn slabs_free_of_full(object: *mut u8) {
    free(object);
}

/// The last object of a slab in the middle, while another empty one is kept already.
fn last_of_a_slab(times: usize) -> *mut u8 {
    let Full { objects, each } = full_slabs(times);
    // Two slabs at the end, counted from there: one is the current one, the other is kept.
    let (rest, end) = objects.split_at(objects.len() - 2 * each);
    end.iter().copied().for_each(free);
    // A slab in the middle, counted from there too.
    let (_, middle) = rest.split_at(rest.len() - rest.len() / 2 / each * each);
    let before = of_class().slabs;
    middle[..each - 1].iter().copied().for_each(free);
    // Elsewhere a run of frees begins: what is left in the slab is no part of one.
    middle[each..each + 2].iter().copied().for_each(free);
    assert_eq!(of_class().slabs, before, "not yet");
    middle[each - 1]
}

#[library_benchmark(setup = last_of_a_slab)]
#[bench::x1(1)]
#[bench::x16(16)]
fn slabs_release_one(object: *mut u8) {
    free(object);
}

/// A slab in the middle freed in order, while another empty one is kept already, and one object of
/// another: the next free there begins a run, and ends the one that left the slab empty.
fn second_elsewhere(times: usize) -> *mut u8 {
    let Full { objects, each } = full_slabs(times);
    let (rest, end) = objects.split_at(objects.len() - 2 * each);
    end.iter().copied().for_each(free);
    let (_, middle) = rest.split_at(rest.len() - rest.len() / 2 / each * each);
    middle[..each + 1].iter().copied().for_each(free);
    middle[each + 1]
}

#[library_benchmark(setup = second_elsewhere)]
#[bench::x1(1)]
#[bench::x16(16)]
fn slabs_release_of_run(object: *mut u8) {
    free(object);
}

/// Objects of CPU 0 in the hands of CPU 1, which has freed one of another slab before.
fn for_another(times: usize) -> *mut u8 {
    let objects = full_slabs(times).objects;
    // SAFETY: one thread.
    unsafe { become_cpu(1) };
    free(alloc());
    free(objects[0]);
    objects[objects.len() / 2]
}

#[library_benchmark(setup = for_another)]
#[bench::x1(1)]
#[bench::x16(16)]
fn slabs_free_remote(object: *mut u8) {
    free(object);
}

fn freed_for_another(times: usize) {
    let object = for_another(times);
    free(object);
}

#[library_benchmark(setup = freed_for_another)]
#[bench::x1(1)]
#[bench::x16(16)]
fn slabs_tick(_: ()) {
    let _ = HEAP.tick(1);
}

/// CPU 0 has no word left, and CPU 1 has freed one in each of `times` × 128 groups.
fn full_inbox(times: usize) {
    heap_of(64 * MIB);
    // SAFETY: the layout is not empty.
    let alloc = || unsafe { GlobalAlloc::alloc(&HEAP, Layout::new::<u64>()) };
    let words: Vec<_> = (0..times * 128 * 64).map(|_| alloc()).collect();
    // SAFETY: one thread.
    unsafe { become_cpu(1) };
    for &word in words.iter().step_by(64) {
        // SAFETY: live, and freed once.
        unsafe { GlobalAlloc::dealloc(&HEAP, word, Layout::new::<u64>()) };
    }
    let _ = HEAP.tick(1);
    // SAFETY: one thread.
    unsafe { become_cpu(0) };
}

// The allocation that finds all that in the inbox.
#[library_benchmark(setup = full_inbox)]
#[bench::x1(1)]
#[bench::x16(16)]
fn slabs_collect(_: ()) -> *mut u8 {
    // SAFETY: the layout is not empty.
    unsafe { GlobalAlloc::alloc(&HEAP, black_box(Layout::new::<u64>())) }
}

/// A region with nothing left in it.
fn used_up(times: usize) {
    heap_of(times * 4 * MIB);
    while !alloc().is_null() {}
}

// The request that fails: all of reclaim, in vain.
#[library_benchmark(setup = used_up)]
#[bench::x1(1)]
#[bench::x16(16)]
fn memory_refusal(_: ()) -> *mut u8 {
    alloc()
}

/// The same, but that of every slab one object is free: of no use to a larger one.
fn used_up_but_for_one_a_slab(times: usize) {
    heap_of(times * 4 * MIB);
    let objects: Vec<_> =
        std::iter::repeat_with(alloc).take_while(|object| !object.is_null()).collect();
    let info = of_class();
    objects.into_iter().step_by(info.objects_total / info.slabs).for_each(free);
}

#[library_benchmark(setup = used_up_but_for_one_a_slab)]
#[bench::x1(1)]
#[bench::x16(16)]
fn memory_refusal_beside_partial_slabs(_: ()) -> *mut u8 {
    // SAFETY: the layout is not empty.
    unsafe { GlobalAlloc::alloc(&HEAP, black_box(Layout::new::<[u64; 1 << 10]>())) }
}

/// A region of which every other page is free, and no two of them side by side.
fn every_other_page(times: usize) {
    heap_of(times * 4 * MIB);
    let pages: Vec<_> = std::iter::from_fn(|| HEAP.alloc_pages(1, 0).ok()).collect();
    pages.iter().filter(|page| *page >> 12 & 1 == 0).for_each(|page| HEAP.dealloc_pages(*page, 1));
    let _ = HEAP.idle(0);
    // Back from idleness.
    let _ = HEAP.alloc_pages(1, 0);
}

// The request that looks everywhere for ten pages side by side, in vain.
#[library_benchmark(setup = every_other_page)]
#[bench::x1(1)]
#[bench::x16(16)]
fn memory_refusal_in_pieces(_: ()) -> *mut u8 {
    // SAFETY: the layout is not empty.
    unsafe { GlobalAlloc::alloc(&HEAP, black_box(Layout::new::<[u64; 5 << 10]>())) }
}

/// Of small pages, 2^20 of which are 256 MiB.
static SMALL_PAGES: GlobalAllocator<0x100, Pinned> = GlobalAllocator::with_platform(Pinned);

/// A region of which nothing was used, with at least one of the largest blocks there can be.
fn fresh_region(times: usize) {
    let memory = region(times * 1024 * MIB);
    // SAFETY: leaked memory, this heap's alone.
    unsafe { SMALL_PAGES.init_raw(memory.as_mut_ptr(), memory.len(), 2) }.expect("a region");
    let most = SMALL_PAGES.snapshot().free_blocks[2].iter().rposition(|count| *count != 0);
    assert_eq!(most, Some(MAX_ORDER));
}

fn page_pair() -> Option<usize> {
    // Three, since single pages come from a list of the CPU's.
    let pages = HEAP.alloc_pages(3, 0).ok()?;
    HEAP.dealloc_pages(black_box(pages), 3);
    Some(pages)
}

// The first block of a region and the last: a block of order 20 is split all the way down, its first
// 4 MiB are carved, and it merges again.
#[library_benchmark(setup = fresh_region)]
#[bench::x1(1)]
#[bench::x16(16)]
fn memory_first_pages(_: ()) -> Option<usize> {
    let pages = SMALL_PAGES.alloc_pages(3, 0).ok()?;
    SMALL_PAGES.dealloc_pages(black_box(pages), 3);
    Some(pages)
}

/// Sections of 1 MiB, 64 of them or 1,024, in all of which together one block of 64 pages is free.
fn sections(times: usize) {
    heap_of(4 * MIB);
    let memory = Reservation::new(times * 64 * 2 * MIB, 4 * MIB).expect("address space");
    let memory = Box::leak(Box::new(memory)).bytes_mut();
    for section in memory.chunks_mut(2 * MIB) {
        // Not beside one another.
        // SAFETY: leaked memory, this heap's alone.
        unsafe { HEAP.add_region(&mut section[..MIB]) }.expect("a section");
    }
    let mut last = 0;
    for count in [64, 8, 1] {
        while let Ok(pages) = HEAP.alloc_pages(count, 0) {
            if count == 64 {
                last = pages;
            }
        }
    }
    HEAP.dealloc_pages(last, 64);
}

#[library_benchmark(setup = sections)]
#[bench::x1(1)]
#[bench::x16(16)]
fn sections_pages(_: ()) -> Option<usize> {
    page_pair()
}

library_benchmark_group!(
    name = at_scale;
    benchmarks = slabs_make_one, slabs_next_partial, slabs_free_of_full, slabs_release_one,
        slabs_release_of_run, slabs_free_remote,
        slabs_tick, slabs_collect, memory_refusal, memory_refusal_beside_partial_slabs, memory_refusal_in_pieces, memory_first_pages, sections_pages
);
