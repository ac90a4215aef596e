//! A CPU's page lists, seen from outside: batches in every order of address, many pages at once,
//! and frees that are wrong or that race.
#![cfg(not(loom))]

mod common;

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::{AllocError, GlobalAllocator, Misuse};
use common::{MIB, PAGE, PinnedSim, Random, check_all_free, free_pages, on, take_all_pages};
use testkit::misuse;

type Pinned = GlobalAllocator<PAGE, PinnedSim>;

fn heap(bytes: usize) -> &'static Pinned {
    common::heap_on(PinnedSim::default(), bytes, 2)
}

/// Whatever the order in which pages come back, they merge to what they were.
#[test]
fn pages_freed_in_any_order_merge_whole() {
    let heap = heap(8 * MIB);
    heap.shrink();
    let whole = heap.alloc_pages(1024, 4 * MIB).expect("4 MiB of a fresh heap");
    heap.dealloc_pages(whole, 1024);
    let mut random = Random(0x0DE5);
    for round in 0..6 {
        for count in [1, 2, 4, 8] {
            let mut blocks: Vec<usize> =
                std::iter::from_fn(|| heap.alloc_pages(count, 0).ok()).collect();
            match round {
                0 => {}
                1 => blocks.reverse(),
                // Neighbours in both directions, and gaps.
                2 => blocks.chunks_mut(7).for_each(<[usize]>::reverse),
                3 => blocks.rotate_left(37),
                _ => {
                    for at in (1..blocks.len()).rev() {
                        blocks.swap(at, random.below(at + 1));
                    }
                }
            }
            for block in blocks {
                heap.dealloc_pages(block, count);
            }
            heap.check_invariants();
            heap.shrink();
            heap.check_invariants();
            assert_eq!(heap.alloc_pages(1024, 4 * MIB), Ok(whole), "round {round}, {count} pages");
            heap.dealloc_pages(whole, 1024);
        }
    }
    check_all_free(heap);
}

#[test]
fn many_pages_at_once_are_distinct_and_as_many_as_there_are() {
    let heap = heap(4 * MIB);
    let mut room = [0; 300];
    assert_eq!(heap.alloc_pages_bulk(&mut room), Ok(300));
    let distinct: BTreeSet<usize> = room.iter().copied().collect();
    assert_eq!(distinct.len(), 300);
    assert!(room.iter().all(|page| page % PAGE == 0));
    assert_eq!(heap.allocated_bytes(), 300 * PAGE);
    on(1, || heap.dealloc_pages_bulk(&room[..150]));
    heap.dealloc_pages_bulk(&room[150..]);
    assert_eq!(heap.allocated_bytes(), 0);
    assert_eq!(heap.alloc_pages_bulk(&mut []), Ok(0));
    // To the end of memory: what there is, then the error. (CPU 1 runs on, and would keep some.)
    on(1, || heap.drain_current());
    heap.shrink();
    let all = take_all_pages(heap);
    free_pages(heap, &all);
    let mut more = vec![0; all.len() + 10];
    assert_eq!(heap.alloc_pages_bulk(&mut more), Ok(all.len()));
    assert_eq!(heap.alloc_pages_bulk(&mut [0]), Err(AllocError::NoMemory));
    heap.dealloc_pages_bulk(&more[..all.len()]);
    check_all_free(heap);
}

#[test]
fn a_wrong_address_among_many_is_reported_alone() {
    let heap = heap(4 * MIB);
    heap.set_misuse_handler(Some(misuse::record));
    let mut room = [0; 100];
    assert_eq!(heap.alloc_pages_bulk(&mut room), Ok(100));
    let pair = heap.alloc_pages(2, 0).expect("two pages");
    let block = heap.alloc_page().expect("a page");
    let held = block.as_ptr().addr().get();
    for (place, wrong, kind) in [
        (0, room[50], Misuse::DoubleFree),
        (40, room[39] + 1, Misuse::WrongAlign),
        (70, pair, Misuse::WrongSize),
        (99, held, Misuse::WrongKind),
    ] {
        let mut given = room.to_vec();
        given[place] = wrong;
        heap.dealloc_pages_bulk(&given);
        misuse::expect_one(wrong, &[kind]);
        heap.dealloc_pages(room[place], 1);
        misuse::expect_none();
        assert_eq!(heap.alloc_pages_bulk(&mut room), Ok(100));
    }
    drop(block);
    heap.dealloc_pages(pair, 2);
    heap.dealloc_pages_bulk(&room);
    misuse::expect_none();
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0);
}

static REPORTS: AtomicUsize = AtomicUsize::new(0);

/// Two CPUs that free the same pages at the same moment: each page is freed once, each other try
/// is reported, and no page is handed out twice afterwards.
#[test]
fn of_two_racing_frees_one_wins() {
    let heap = heap(2 * MIB);
    heap.set_misuse_handler(Some(|_| {
        REPORTS.fetch_add(1, Ordering::Relaxed);
    }));
    let rounds = if cfg!(miri) { 3 } else { 400 };
    let mut pages = [0; 48];
    for round in 0..rounds {
        assert_eq!(heap.alloc_pages_bulk(&mut pages), Ok(48));
        let distinct: BTreeSet<usize> = pages.iter().copied().collect();
        assert_eq!(distinct.len(), 48, "a page was handed out twice");
        let (start, pages) = (&Barrier::new(2), &pages);
        std::thread::scope(|scope| {
            for cpu in 0..2 {
                scope.spawn(move || {
                    common::set_cpu(Some(cpu));
                    start.wait();
                    if round % 2 == 0 {
                        heap.dealloc_pages_bulk(pages);
                    } else {
                        free_pages(heap, pages);
                    }
                });
            }
        });
        assert_eq!(REPORTS.swap(0, Ordering::Relaxed), 48);
        assert_eq!(heap.allocated_bytes(), 0);
    }
    heap.check_invariants();
}
