//! Paths that every program takes all the time: what a count says is for [`TIMES`] operations.

use std::alloc::Layout;
use std::hint::black_box;

use figures::engines::Engine;
use figures::engines::pages::{LockedAddress, Pages, PinnedAddress, PinnedBlock, ThreadBlock};
use figures::platforms::become_cpu;
use gungraun::{library_benchmark, library_benchmark_group};

use super::{floor, locked, pinned, pinned_mag, thread, thread_mag};

/// Operations in a benchmark.
pub const TIMES: usize = 1000;

const LAYOUT: Layout = Layout::new::<[u64; 8]>();

#[inline(always)]
fn alloc<E: Engine>(engine: &E, layout: Layout) -> *mut u8 {
    // SAFETY: no layout here is empty.
    black_box(unsafe { engine.alloc(layout) })
}

#[inline(always)]
fn free<E: Engine>(engine: &E, object: *mut u8, layout: Layout) {
    // SAFETY: every object here is live, has this layout and is freed once.
    unsafe { engine.dealloc(object, layout) }
}

#[inline(always)]
fn pairs<E: Engine>(engine: &E, layout: impl Fn() -> Layout) {
    for _ in 0..TIMES {
        let object = alloc(engine, layout());
        free(engine, object, layout());
    }
}

/// An engine that has served `pairs` before.
fn warm<E: Engine>(engine: E) -> E {
    pairs(&engine, || LAYOUT);
    engine
}

#[library_benchmark(setup = warm)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::pinned_mag(pinned_mag())]
#[bench::thread_mag(thread_mag())]
#[bench::locked(locked())]
#[bench::floor(floor())]
fn pair_constant<E: Engine>(engine: E) {
    pairs(&engine, || LAYOUT);
}

#[library_benchmark(setup = warm)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::pinned_mag(pinned_mag())]
#[bench::thread_mag(thread_mag())]
#[bench::locked(locked())]
#[bench::floor(floor())]
fn pair_variable<E: Engine>(engine: E) {
    pairs(&engine, || black_box(LAYOUT));
}

/// An engine, and room for what it hands out.
fn with_room<E: Engine>(engine: E) -> (E, Vec<*mut u8>) {
    let mut held = vec![std::ptr::null_mut(); TIMES];
    burst_of(&engine, &mut held);
    (engine, held)
}

#[inline(always)]
fn burst_of<E: Engine>(engine: &E, held: &mut [*mut u8]) {
    for object in held.iter_mut() {
        *object = alloc(engine, LAYOUT);
    }
    for &object in held.iter() {
        free(engine, object, LAYOUT);
    }
}

#[library_benchmark(setup = with_room)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::pinned_mag(pinned_mag())]
#[bench::thread_mag(thread_mag())]
#[bench::locked(locked())]
#[bench::floor(floor())]
fn burst<E: Engine>((engine, mut held): (E, Vec<*mut u8>)) {
    burst_of(&engine, &mut held);
}

/// The same; what it hands out is freed in an order that has nothing to do with that of the allocations.
fn with_room_and_order<E: Engine>(engine: E) -> (E, Vec<*mut u8>, Vec<usize>) {
    let (engine, held) = with_room(engine);
    let mut order: Vec<usize> = (0..TIMES).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    (engine, held, order)
}

#[library_benchmark(setup = with_room_and_order)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::pinned_mag(pinned_mag())]
#[bench::thread_mag(thread_mag())]
#[bench::locked(locked())]
#[bench::floor(floor())]
fn burst_shuffled<E: Engine>((engine, mut held, order): (E, Vec<*mut u8>, Vec<usize>)) {
    for object in held.iter_mut() {
        *object = alloc(&engine, LAYOUT);
    }
    for index in order {
        free(&engine, held[index], LAYOUT);
    }
}

/// Objects of CPU 0 for CPU 1 to free, after it has freed as many before.
fn for_another<E: Engine>(engine: E) -> (E, Vec<*mut u8>) {
    let mut objects: Vec<*mut u8> = (0..2 * TIMES).map(|_| alloc(&engine, LAYOUT)).collect();
    // SAFETY: there is one thread.
    unsafe { become_cpu(1) };
    objects.drain(TIMES..).for_each(|object| free(&engine, object, LAYOUT));
    (engine, objects)
}

#[library_benchmark(setup = for_another)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::pinned_mag(pinned_mag())]
#[bench::thread_mag(thread_mag())]
#[bench::locked(locked())]
fn free_remote<E: Engine>((engine, objects): (E, Vec<*mut u8>)) {
    for &object in &objects {
        free(&engine, object, LAYOUT);
    }
}

/// The same, in an order that has nothing to do with that of the allocations.
fn for_another_shuffled<E: Engine>(engine: E) -> (E, Vec<*mut u8>) {
    let (engine, mut objects) = for_another(engine);
    fastrand::Rng::with_seed(1).shuffle(&mut objects);
    (engine, objects)
}

#[library_benchmark(setup = for_another_shuffled)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::pinned_mag(pinned_mag())]
#[bench::thread_mag(thread_mag())]
#[bench::locked(locked())]
fn free_remote_shuffled<E: Engine>((engine, objects): (E, Vec<*mut u8>)) {
    for &object in &objects {
        free(&engine, object, LAYOUT);
    }
}

/// CPU 0, to which CPU 1 has returned what it had freed.
fn returned_by_another<E: Engine>(engine: E) -> (E, Vec<*mut u8>) {
    let (engine, mut objects) = for_another(engine);
    objects.iter().for_each(|&object| free(&engine, object, LAYOUT));
    E::tick();
    // SAFETY: there is one thread.
    unsafe { become_cpu(0) };
    objects.fill(std::ptr::null_mut());
    (engine, objects)
}

#[library_benchmark(setup = returned_by_another)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::locked(locked())]
fn alloc_returned<E: Engine>((engine, mut held): (E, Vec<*mut u8>)) {
    for object in held.iter_mut() {
        *object = alloc(&engine, LAYOUT);
    }
}

#[library_benchmark]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::pinned_mag(pinned_mag())]
#[bench::thread_mag(thread_mag())]
#[bench::locked(locked())]
fn refill<E: Engine>(engine: E) {
    // Objects of a page: every few of them want another slab, which a fresh heap has to make.
    for _ in 0..TIMES {
        alloc(&engine, Layout::new::<[u64; 512]>());
    }
}

/// The first size of a buffer: too large for a slab.
const BUFFER: Layout = Layout::new::<[u64; 9 << 9]>();

/// An engine, and a buffer.
fn with_buffer<E: Engine>(engine: E) -> (E, *mut u8) {
    let buffer = alloc(&engine, BUFFER);
    (engine, buffer)
}

#[library_benchmark(setup = with_buffer)]
#[bench::pinned(pinned())]
#[bench::thread(thread())]
#[bench::locked(locked())]
fn realloc_in_place<E: Engine>((engine, buffer): (E, *mut u8)) {
    let mut layout = BUFFER;
    let mut buffer = buffer;
    for step in 1..=TIMES {
        // A page more at every step, and now and then all of them back: nobody else is behind it.
        let new_size = (9 + step % 8) << 12;
        // SAFETY: live, with its layout, and the new size is not zero.
        buffer = black_box(unsafe { engine.realloc(buffer, layout, new_size) });
        // SAFETY: 8 is a power of two, and the size small.
        layout = unsafe { Layout::from_size_align_unchecked(new_size, 8) };
    }
}

/// Makes the engine ready, and warm.
fn pages<P: Pages>(_: P) {
    P::start();
    page_pairs::<P>();
}

fn page_pairs<P: Pages>() {
    for _ in 0..TIMES {
        if let Some(page) = P::alloc(0) {
            P::free(black_box(page), 0);
        }
    }
}

#[library_benchmark(setup = pages)]
#[bench::block(PinnedBlock)]
fn page_pair_pinned_block(_: ()) {
    page_pairs::<PinnedBlock>();
}

#[library_benchmark(setup = pages)]
#[bench::address(PinnedAddress)]
fn page_pair_pinned(_: ()) {
    page_pairs::<PinnedAddress>();
}

#[library_benchmark(setup = pages)]
#[bench::block(ThreadBlock)]
fn page_pair_thread_block(_: ()) {
    page_pairs::<ThreadBlock>();
}

#[library_benchmark(setup = pages)]
#[bench::address(LockedAddress)]
fn page_pair_locked(_: ()) {
    page_pairs::<LockedAddress>();
}

library_benchmark_group!(
    name = hot_paths;
    benchmarks = pair_constant, pair_variable, burst, burst_shuffled, free_remote,
        free_remote_shuffled, alloc_returned, refill, realloc_in_place,
        page_pair_pinned_block, page_pair_pinned, page_pair_thread_block, page_pair_locked
);
