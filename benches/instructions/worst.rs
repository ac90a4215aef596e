//! The longest ways that one call can take: what a count says is for one call.

use std::alloc::Layout;
use std::hint::black_box;

use figures::engines::Engine;
use figures::engines::pages::{Pages, PinnedAddress};
use figures::platforms::become_cpu;
use gungraun::{library_benchmark, library_benchmark_group};

use super::{locked, pinned, thread};

const SMALL: Layout = Layout::new::<u64>();
const LARGE: Layout = Layout::new::<[u64; 3840]>();

// The first object of a fresh heap: no slab, no pages at hand, the first 4 MiB not carved yet.
#[library_benchmark]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::locked(locked())]
fn first_object<E: Engine>(engine: E) -> *mut u8 {
    // SAFETY: the layout is not empty.
    unsafe { engine.alloc(black_box(SMALL)) }
}

// The same of the largest class.
#[library_benchmark]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::locked(locked())]
fn first_large_object<E: Engine>(engine: E) -> *mut u8 {
    // SAFETY: the layout is not empty.
    unsafe { engine.alloc(black_box(LARGE)) }
}

/// All but one object of several slabs freed.
fn with_last_of_slab<E: Engine>(engine: E) -> (E, *mut u8) {
    // SAFETY: the layout is not empty.
    let objects: Vec<_> = (0..4096).map(|_| unsafe { engine.alloc(SMALL) }).collect();
    for (index, &object) in objects.iter().enumerate() {
        if index != 2048 {
            // SAFETY: live, of this layout, freed once.
            unsafe { engine.dealloc(object, SMALL) };
        }
    }
    (engine, objects[2048])
}

// The last object of a slab that is not kept.
#[library_benchmark(setup = with_last_of_slab)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::locked(locked())]
fn slab_release<E: Engine>((engine, object): (E, *mut u8)) {
    // SAFETY: live, of this layout, freed once.
    unsafe { engine.dealloc(object, SMALL) };
}

/// Objects of many slabs of CPU 0 that CPU 1 has freed and not published.
fn gathered<E: Engine>(engine: E) -> E {
    // SAFETY: the layout is not empty.
    let objects: Vec<_> = (0..4096).map(|_| unsafe { engine.alloc(LARGE) }).collect();
    // SAFETY: there is one thread.
    unsafe { become_cpu(1) };
    for &object in objects.iter().step_by(7) {
        // SAFETY: live, of this layout, freed once.
        unsafe { engine.dealloc(object, LARGE) };
    }
    engine
}

// The timer's call that publishes what a CPU has gathered for others.
#[library_benchmark(setup = gathered)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::locked(locked())]
fn flush<E: Engine>(_: E) {
    E::tick();
}

/// Objects of CPU 0, one in each of 32 places that have nothing to do with one another, that CPU 1
/// has freed and not published: its batch is full.
fn gathered_apart<E: Engine>(engine: E) -> E {
    // SAFETY: the layout is not empty.
    let objects: Vec<_> = (0..32 * 64).map(|_| unsafe { engine.alloc(SMALL) }).collect();
    // SAFETY: there is one thread.
    unsafe { become_cpu(1) };
    for &object in objects.iter().step_by(64) {
        // SAFETY: live, of this layout, freed once.
        unsafe { engine.dealloc(object, SMALL) };
    }
    engine
}

// The timer's call with as much to publish as there can be.
#[library_benchmark(setup = gathered_apart)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::locked(locked())]
fn flush_full<E: Engine>(_: E) {
    E::tick();
}

fn fresh_pages() {
    PinnedAddress::start();
}

// The first page of a fresh heap: its 4 MiB are carved, and a batch of pages is taken.
#[library_benchmark(setup = fresh_pages)]
#[bench::pinned()]
fn first_page(_: ()) -> Option<usize> {
    PinnedAddress::alloc(0)
}

/// A page list that is as full as it gets, of pages that lie anywhere; and one page more.
fn full_page_list() -> usize {
    PinnedAddress::start();
    let mut pages: Vec<_> = (0..4096).filter_map(|_| PinnedAddress::alloc(0)).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut pages);
    let kept = || PinnedAddress::heap().snapshot().cached_pages;
    let mut before = kept();
    for index in 1..pages.len() {
        PinnedAddress::free(pages[index], 0);
        let now = kept();
        if now < before {
            // That one gave a batch back. As many more fill the list again, and it is the next.
            let batch = before + 1 - now;
            pages[index + 1..index + batch].iter().for_each(|page| PinnedAddress::free(*page, 0));
            assert_eq!(kept(), before, "the list is full again");
            return pages[index + batch];
        }
        before = now;
    }
    panic!("no batch was given back")
}

// A page comes back, and with it a batch of pages goes back that merge with nothing in order.
#[library_benchmark(setup = full_page_list)]
#[bench::pinned()]
fn page_batch_back(page: usize) {
    PinnedAddress::free(black_box(page), 0);
}

/// One page, the only one in use.
fn one_page() -> usize {
    PinnedAddress::start();
    // More than a CPU keeps, so that the list is full when the last page comes back.
    let pages: Vec<_> = (0..4096).filter_map(|_| PinnedAddress::alloc(0)).collect();
    for &page in &pages[1..] {
        PinnedAddress::free(page, 0);
    }
    pages[0]
}

// The last page in use comes back.
#[library_benchmark(setup = one_page)]
#[bench::pinned()]
fn last_page(page: usize) {
    PinnedAddress::free(black_box(page), 0);
}

library_benchmark_group!(
    name = worst_cases;
    benchmarks = first_object, first_large_object, slab_release, flush, flush_full, first_page,
        last_page, page_batch_back
);
