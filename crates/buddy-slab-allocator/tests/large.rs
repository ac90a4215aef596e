//! Blocks of several pages: how full they leave a region after a long churn, that what a CPU keeps
//! of them serves before a request fails, and that what grows stays where it is.
#![cfg(not(loom))]

mod common;

use std::ptr::NonNull;

use buddy_slab_allocator::{GlobalAllocator, Platform};
use common::{
    LockedSim, MIB, PAGE, PinnedSim, Random, check_all_free, free_objects, layout, objects,
};
#[cfg(target_pointer_width = "64")]
use common::{free_pages, managed_pages, on, take_all_pages};

type Live = Vec<(NonNull<u8>, usize)>;

/// Log-uniform, roughly: 8 bytes to 128 KiB.
fn mixed_size(random: &mut Random) -> usize {
    let doubling = 3 + random.below(14);
    (1 << doubling) + random.below(1 << doubling)
}

/// Allocates up to `limit` bytes, or until one request fails; how many bytes there are.
fn fill<P: Platform>(
    heap: &GlobalAllocator<PAGE, P>,
    random: &mut Random,
    live: &mut Live,
    limit: usize,
) -> usize {
    let mut total: usize = live.iter().map(|(_, size)| size).sum();
    while total < limit {
        let size = mixed_size(random);
        let Ok(object) = heap.alloc(layout(size, 8)) else { break };
        live.push((object, size));
        total += size;
    }
    total
}

/// The measured figures for 256 MiB are in `docs/design.md`.
#[test]
fn churn_near_the_limit_is_seldom_refused_and_leaves_the_region_full() {
    let heap = common::heap_on(LockedSim::default(), 64 * MIB, 1);
    let (mut random, mut live) = (Random(0x0DD5), Live::new());
    let full = fill(heap, &mut random, &mut live, usize::MAX);
    for (object, size) in live.drain(..) {
        free_objects(heap, layout(size, 8), &[object]);
    }
    check_all_free(heap);
    fill(heap, &mut random, &mut live, full / 5 * 4);
    let mut refused = 0;
    for _ in 0..100_000 {
        let which = random.below(live.len());
        let (object, size) = live.swap_remove(which);
        free_objects(heap, layout(size, 8), &[object]);
        let size = mixed_size(&mut random);
        match heap.alloc(layout(size, 8)) {
            Ok(object) => live.push((object, size)),
            Err(_) => refused += 1,
        }
    }
    let churned = fill(heap, &mut random, &mut live, usize::MAX);
    let permille = |bytes: usize| bytes as u64 * 1000 / (64 * MIB as u64);
    println!("permille: fresh {}, after churn {}", permille(full), permille(churned));
    assert!(refused <= 10, "{refused} requests refused, with a fifth of the region free");
    assert!(permille(full) >= 900, "fresh: {}", permille(full));
    assert!(permille(churned) >= 850, "after churn: {}", permille(churned));
    for (object, size) in live.drain(..) {
        free_objects(heap, layout(size, 8), &[object]);
    }
    check_all_free(heap);
}

/// Blocks of ten pages kept by CPU 0, as many as it may keep. (On 32 bits only blocks are kept that
/// slabs are made of.)
#[cfg(target_pointer_width = "64")]
fn keep_some<P: Platform>(heap: &GlobalAllocator<PAGE, P>) {
    on(0, || {
        let some = objects(heap, layout(10 * PAGE, 8), 40);
        free_objects(heap, layout(10 * PAGE, 8), &some);
    });
    let kept = heap.snapshot().cached_pages;
    assert!(kept >= 100, "{kept} pages kept");
    assert_eq!(heap.allocated_bytes(), 0, "and they count as free");
}

#[cfg(target_pointer_width = "64")]
#[test]
fn kept_blocks_serve_every_request_before_it_fails() {
    let heap = common::heap_on(LockedSim::default(), 16 * MIB, 2);
    for cpu in [0, 1] {
        keep_some(heap);
        on(cpu, || {
            let all = take_all_pages(heap);
            assert_eq!(all.len(), managed_pages(heap), "as pages of CPU {cpu}");
            free_pages(heap, &all);
            heap.shrink();
        });
        keep_some(heap);
        on(cpu, || {
            let pages = managed_pages(heap) - 64;
            let block = heap.alloc(layout(pages * PAGE, 8)).expect("as one block");
            free_objects(heap, layout(pages * PAGE, 8), &[block]);
        });
    }
    let heap = common::heap_on(PinnedSim::default(), 16 * MIB, 2);
    keep_some(heap);
    on(0, || heap.idle(0)).expect("a CPU");
    on(1, || {
        let all = take_all_pages(heap);
        assert_eq!(all.len(), managed_pages(heap), "of a CPU that sleeps");
        free_pages(heap, &all);
    });
}

#[test]
fn the_same_block_comes_back_and_a_second_free_of_a_kept_one_is_found() {
    let heap = common::heap_on(PinnedSim::default(), 16 * MIB, 1);
    let large = layout(12 * PAGE, 8);
    let block = heap.alloc(large).expect("a block");
    free_objects(heap, large, &[block]);
    assert_eq!(heap.alloc(large), Ok(block), "last in, first out");
    // SAFETY: fresh memory of that size.
    unsafe { block.write_bytes(0xA5, 12 * PAGE) };
    free_objects(heap, large, &[block]);
    let zeroed = heap.alloc_zeroed(large).expect("a block");
    // SAFETY: allocated just now, all of it written.
    let bytes = unsafe { std::slice::from_raw_parts(zeroed.as_ptr(), 12 * PAGE) };
    assert!(bytes.iter().all(|byte| *byte == 0), "a block that was used is cleared");
    free_objects(heap, large, &[zeroed]);
    heap.tick(0).expect("a CPU");
    check_all_free(heap);
}

#[test]
fn what_grows_moves_seldom_keeps_its_bytes_and_may_shrink_again() {
    let heap = common::heap_on(PinnedSim::default(), 64 * MIB, 1);
    // Neighbours that come and go, so that the runs are not all of a piece.
    let others = objects(heap, layout(50_000, 8), 100);
    let (even, odd): (Vec<_>, Vec<_>) = others.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    even.iter().for_each(|(_, object)| free_objects(heap, layout(50_000, 8), &[**object]));
    let mut size = 64;
    let mut at = heap.alloc(layout(size, 8)).expect("an object");
    let mut moves = 0;
    // SAFETY: one owner, who writes and reads what it has, and reallocates with the size it has.
    unsafe {
        at.write_bytes(7, size);
        while size < MIB {
            let new = size + size / 2;
            let grown = heap.realloc(at, layout(size, 8), new).expect("room");
            let kept = std::slice::from_raw_parts(grown.as_ptr(), size);
            assert!(kept.iter().all(|byte| *byte == 7), "{size} to {new}");
            moves += usize::from(grown != at && size > PAGE);
            grown.write_bytes(7, new);
            (at, size) = (grown, new);
            assert!(heap.usable_size(at).is_some_and(|usable| usable >= size));
        }
        assert!(moves <= 1, "{moves} moves beyond a page");
        for new in [100_000, 20_000, 19_000, 5_000, 4_200, 300] {
            at = heap.realloc(at, layout(size, 8), new).expect("less room");
            let kept = std::slice::from_raw_parts(at.as_ptr(), new);
            assert!(kept.iter().all(|byte| *byte == 7), "{size} to {new}");
            size = new;
            heap.check_invariants();
        }
        heap.dealloc(at, layout(size, 8));
    }
    odd.iter().for_each(|(_, object)| free_objects(heap, layout(50_000, 8), &[**object]));
    check_all_free(heap);
}

/// A block that grows from 32 KiB to 1 MiB; how often it moved.
fn grow_to_a_mebibyte<P: Platform>(heap: &GlobalAllocator<PAGE, P>) -> (NonNull<u8>, usize) {
    let (mut size, mut moves) = (32 << 10, 0);
    let mut at = heap.alloc(layout(size, 8)).expect("a block");
    while size < MIB {
        let new = (size + size / 2).min(MIB);
        // SAFETY: one owner, who reallocates with the size it has.
        let grown = unsafe { heap.realloc(at, layout(size, 8), new) }.expect("room");
        moves += usize::from(grown != at);
        (at, size) = (grown, new);
        assert_eq!(heap.allocated_bytes(), size.next_multiple_of(PAGE), "what it has, exactly");
        // SAFETY: live.
        assert_eq!(unsafe { heap.usable_size(at) }, Some(size.next_multiple_of(PAGE)));
        heap.check_invariants();
    }
    (at, moves)
}

#[test]
fn what_grows_again_and_again_finds_its_room() {
    let heap = common::heap_on(PinnedSim::default(), 64 * MIB, 1);
    let (first, moves) = grow_to_a_mebibyte(heap);
    assert_eq!(moves, 0, "nobody is behind it");
    free_objects(heap, layout(MIB, 8), &[first]);
    for _ in 0..4 {
        let (at, moves) = grow_to_a_mebibyte(heap);
        assert_eq!((at, moves), (first, 0));
        // SAFETY: live; what is given up is not used.
        unsafe {
            assert!(heap.resize_in_place(at, layout(MIB, 8), MIB / 2));
            heap.check_invariants();
            assert!(heap.resize_in_place(at, layout(MIB / 2, 8), MIB));
        }
        free_objects(heap, layout(MIB, 8), &[at]);
        heap.check_invariants();
    }
    check_all_free(heap);
}

/// As large blocks leave it that came and went before.
#[cfg(target_pointer_width = "64")]
#[test]
fn what_grows_beside_a_full_cache_finds_its_room_too() {
    let heap = common::heap_on(PinnedSim::default(), 64 * MIB, 1);
    // Of some 510 pages that may be kept.
    let blocks = objects(heap, layout(30 * PAGE, 8), 16);
    free_objects(heap, layout(30 * PAGE, 8), &blocks);
    assert_eq!(heap.snapshot().cached_pages, 480);
    let (first, _) = grow_to_a_mebibyte(heap);
    free_objects(heap, layout(MIB, 8), &[first]);
    for _ in 0..4 {
        let (at, moves) = grow_to_a_mebibyte(heap);
        assert_eq!(moves, 0);
        free_objects(heap, layout(MIB, 8), &[at]);
        heap.check_invariants();
        let blocks = objects(heap, layout(30 * PAGE, 8), 16);
        free_objects(heap, layout(30 * PAGE, 8), &blocks);
    }
    check_all_free(heap);
}

/// The pages behind other blocks do not go back for one that has no room even so.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_cache_full_of_room_for_blocks_that_grow_keeps_it() {
    let heap = common::heap_on(PinnedSim::default(), 64 * MIB, 1);
    let grow = |(at, old): (NonNull<u8>, usize), new| {
        // SAFETY: one owner, who reallocates with the size it has.
        let grown = unsafe { heap.realloc(at, layout(old, 8), new) }.expect("room");
        (grown, new)
    };
    let grown: Vec<_> = (0..3)
        .map(|_| {
            let block = (heap.alloc(layout(32 << 10, 8)).expect("a block"), 32 << 10);
            grow(grow(block, 64 << 10), 600 << 10)
        })
        .collect();
    for (at, size) in grown {
        let kept = heap.snapshot().cached_pages;
        free_objects(heap, layout(size, 8), &[at]);
        heap.check_invariants();
        assert!(heap.snapshot().cached_pages >= kept, "nothing else went back");
    }
    check_all_free(heap);
}

#[cfg(target_pointer_width = "64")]
#[test]
fn the_pages_behind_what_grows_serve_every_request_before_it_fails() {
    let heap = common::heap_on(LockedSim::default(), 64 * MIB, 2);
    let (at, _) = on(0, || grow_to_a_mebibyte(heap));
    assert!(heap.snapshot().cached_pages > 0, "some are kept");
    for cpu in [1, 0] {
        on(cpu, || {
            let all = take_all_pages(heap);
            assert_eq!(all.len(), managed_pages(heap) - MIB / PAGE, "on CPU {cpu}");
            free_pages(heap, &all);
            heap.shrink();
        });
        // SAFETY: live; what is given up is not used. The room behind it is found anew.
        unsafe {
            on(0, || {
                assert!(heap.resize_in_place(at, layout(MIB, 8), MIB / 2));
                assert!(heap.resize_in_place(at, layout(MIB / 2, 8), MIB - PAGE));
                assert!(heap.resize_in_place(at, layout(MIB - PAGE, 8), MIB));
            });
        }
        heap.check_invariants();
    }
    // Freed elsewhere, its pages are nobody's, and those behind it still CPU 0's.
    on(1, || free_objects(heap, layout(MIB, 8), &[at]));
    heap.check_invariants();
    on(1, || {
        let all = take_all_pages(heap);
        assert_eq!(all.len(), managed_pages(heap));
        free_pages(heap, &all);
    });
    check_all_free(heap);
}

#[test]
fn misuse_of_what_grew_in_place_is_found() {
    let heap = common::heap_on(PinnedSim::default(), 64 * MIB, 1);
    heap.set_misuse_handler(Some(testkit::misuse::record));
    let (at, _) = grow_to_a_mebibyte(heap);
    let reports = heap.misuse_count();
    // SAFETY: (not: these are the mistakes that are found; nothing of the block is used.)
    unsafe {
        heap.dealloc(at, layout(MIB - PAGE, 8));
        assert_eq!(heap.misuse_count(), reports + 1, "the size that it had before");
        heap.dealloc(at.add(MIB), layout(PAGE, PAGE));
        assert_eq!(heap.misuse_count(), reports + 2, "a page behind it");
        assert!(heap.realloc(at, layout(MIB / 2, 8), MIB).is_err(), "the same");
        assert_eq!(heap.misuse_count(), reports + 3);
        heap.dealloc(at, layout(MIB, 8));
        heap.dealloc(at, layout(MIB, 8));
        assert_eq!(heap.misuse_count(), reports + 4, "a second free");
        assert!(heap.realloc(at, layout(MIB, 8), 2 * MIB).is_err(), "of what is free");
    }
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0);
}
