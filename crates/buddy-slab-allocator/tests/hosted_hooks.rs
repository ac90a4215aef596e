//! What hosted platforms build on: heaps that are built as threads come, heaps of running threads
//! that can be claimed, everybody kept out for a copy of the address space, and free memory given
//! up to whoever backs it.
#![cfg(not(loom))]

mod common;

use std::alloc::Layout;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
#[cfg(target_os = "linux")]
use std::time::{Duration, Instant};

use buddy_slab_allocator::{Access, AllocError, GlobalAllocator, Platform, SpinLock};
use common::{MIB, PAGE, PinnedSim, WithMagazines, layout, objects, on};

/// *Thread*, with a barrier where the system has one.
struct Claimable;

/// `MEMBARRIER_CMD_PRIVATE_EXPEDITED`, and the command that a process registers for it with.
#[cfg(target_os = "linux")]
const EXPEDITED: [libc::c_long; 2] = [8, 16];

// SAFETY: each worker has an index of its own, and no signal is involved; `barrier` says `true`
// only if the system did what it was asked.
unsafe impl Platform for Claimable {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    const CLAIMS: bool = true;
    fn pin(&self) -> ((), Option<usize>) {
        ((), common::cpu())
    }
    fn unpin(&self, (): ()) {}
    #[cfg(target_os = "linux")]
    fn barrier(&self) -> bool {
        // SAFETY: the call touches no memory of ours.
        unsafe {
            libc::syscall(libc::SYS_membarrier, EXPEDITED[1], 0, 0) == 0
                && libc::syscall(libc::SYS_membarrier, EXPEDITED[0], 0, 0) == 0
        }
    }
    fn relax(&self) {
        std::thread::yield_now();
    }
}

fn region(bytes: usize) -> &'static mut [u8] {
    vec![0xA5; bytes].leak()
}

#[test]
fn heaps_are_built_as_cpus_come() {
    let heap = GlobalAllocator::<PAGE, _>::with_platform(PinnedSim::default());
    assert_eq!(heap.bring_up_cpus(1), Err(AllocError::NotInitialized));
    let memory = region(8 * MIB);
    // SAFETY: leaked memory, ours alone.
    unsafe { heap.init_raw(memory.as_mut_ptr(), memory.len(), 0) }.expect("a region");
    heap.reserve_cpus(64).expect("room");
    assert_eq!(heap.reserve_cpus(64), Err(AllocError::InvalidParam), "once");
    assert_eq!(heap.attach_cpus(2), Err(AllocError::InvalidParam), "or the other way");
    assert_eq!(heap.cpu_count(), 0);
    let early = on(5, || objects(&heap, layout(64, 8), 10));
    for count in [1, 6, 3, 64] {
        heap.bring_up_cpus(count).expect("room for them");
        assert!(heap.cpu_count() >= count);
    }
    assert_eq!(heap.bring_up_cpus(65), Err(AllocError::InvalidParam));
    let later = on(63, || objects(&heap, layout(64, 8), 1000));
    on(63, || common::free_objects(&heap, layout(64, 8), &early));
    on(5, || common::free_objects(&heap, layout(64, 8), &later));
    heap.check_invariants();
}

/// A heap that `threads` threads use until told to stop, each checking what it holds.
fn under_load<P: Platform>(
    platform: P,
    threads: usize,
    disturb: impl Fn(&'static GlobalAllocator<PAGE, P>),
) {
    let heap: &'static _ = Box::leak(Box::new(GlobalAllocator::with_platform(platform)));
    let memory = region(64 * MIB);
    // SAFETY: leaked memory, ours alone.
    unsafe { heap.init_raw(memory.as_mut_ptr(), memory.len(), threads + 1) }.expect("a region");
    let stop = Arc::new(AtomicBool::new(false));
    let start = Arc::new(Barrier::new(threads + 1));
    let workers: Vec<_> = (0..threads)
        .map(|cpu| {
            let (stop, start) = (stop.clone(), start.clone());
            std::thread::spawn(move || {
                common::set_cpu(Some(cpu));
                start.wait();
                let mut random = common::Random(cpu as u64 + 1);
                let mut held: Vec<(std::ptr::NonNull<u8>, Layout)> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if held.len() < 200 {
                        let layout = layout(1 + random.below(3000), 8);
                        let object = heap.alloc(layout).expect("there is plenty");
                        // SAFETY: just allocated.
                        unsafe { object.as_ptr().write_bytes(cpu as u8, layout.size()) };
                        held.push((object, layout));
                    } else {
                        let (object, layout) = held.swap_remove(random.below(held.len()));
                        // SAFETY: held, and filled above; freed once.
                        unsafe {
                            assert_eq!(object.as_ptr().read(), cpu as u8);
                            assert_eq!(object.as_ptr().add(layout.size() - 1).read(), cpu as u8);
                            heap.dealloc(object, layout);
                        }
                    }
                }
                for (object, layout) in held {
                    // SAFETY: held, freed once.
                    unsafe { heap.dealloc(object, layout) };
                }
            })
        })
        .collect();
    common::set_cpu(Some(threads));
    start.wait();
    disturb(heap);
    stop.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().expect("a worker that saw its memory whole");
    }
    heap.shrink();
    heap.check_invariants();
    assert_eq!(heap.allocated_bytes(), 0, "the heaps of threads that ended unparked are drained");
}

/// Does something again and again until it says that this is enough; it is told how often it was done
/// before. A heap cannot be claimed while the thread that uses it waits for a core inside it: how long,
/// says the machine.
#[cfg(target_os = "linux")]
fn until(mut enough: impl FnMut(usize) -> bool) {
    let start = Instant::now();
    for rounds in 0.. {
        if enough(rounds) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "not in {rounds} rounds");
        if rounds > 200 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_heaps_of_running_threads_are_claimed_and_drained() {
    claim_and_drain(Claimable);
    claim_and_drain(WithMagazines(Claimable));
}

#[cfg(target_os = "linux")]
fn claim_and_drain<P: Platform>(platform: P) {
    under_load(platform, 3, |heap| {
        let mut seen = 0;
        until(|rounds| {
            heap.shrink();
            seen += usize::from(heap.snapshot().heaps_not_seen == 0);
            rounds >= 200 && seen > 0
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn while_frozen_nobody_else_gets_anything() {
    freeze_and_thaw(Claimable);
    freeze_and_thaw(WithMagazines(Claimable));
}

#[cfg(target_os = "linux")]
fn freeze_and_thaw<P: Platform>(platform: P) {
    under_load(platform, 3, |heap| {
        let mut frozen = 0;
        until(|_| {
            // SAFETY: this thread's own index; thawed below, in the same context.
            if unsafe { heap.freeze(common::cpu()) } {
                frozen += 1;
                let before = heap.allocated_bytes();
                std::thread::sleep(Duration::from_micros(200));
                assert_eq!(heap.allocated_bytes(), before);
                // SAFETY: frozen above.
                unsafe { heap.thaw(common::cpu()) };
            }
            frozen > 50
        });
    });
}

#[test]
fn a_copy_in_which_one_thread_runs_has_what_the_others_kept() {
    let heap = GlobalAllocator::<PAGE, _>::with_platform(Claimable);
    let memory = region(8 * MIB);
    // SAFETY: leaked memory, ours alone.
    unsafe { heap.init_raw(memory.as_mut_ptr(), memory.len(), 3) }.expect("a region");
    let objects = on(1, || objects(&heap, layout(512, 8), 1000));
    on(1, || common::free_objects(&heap, layout(512, 8), &objects));
    on(1, || heap.idle(1)).expect("a CPU");
    on(0, || {
        // SAFETY: one thread plays all; nothing else runs.
        unsafe {
            assert!(heap.freeze(Some(0)));
            heap.thaw_alone(Some(0));
        }
        heap.shrink();
    });
    assert_eq!(heap.allocated_bytes(), 0);
    heap.check_invariants();
}

/// Fills pages, frees every other run, and returns the runs that stay.
fn checkered(heap: &GlobalAllocator<PAGE, PinnedSim>, pages: usize) -> Vec<usize> {
    let runs: Vec<usize> =
        std::iter::from_fn(|| heap.alloc_pages(pages, pages * PAGE).ok()).collect();
    for run in &runs {
        // SAFETY: just allocated, of this length.
        unsafe {
            std::ptr::with_exposed_provenance_mut::<u8>(*run).write_bytes(0xEE, pages * PAGE);
        }
    }
    let (stay, go): (Vec<_>, Vec<_>) = runs.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    go.into_iter().for_each(|(_, run)| heap.dealloc_pages(*run, pages));
    stay.into_iter().map(|(_, run)| *run).collect()
}

#[test]
fn free_memory_is_given_up_once_and_known_to_be_zero_then() {
    let heap = GlobalAllocator::<PAGE, _>::with_platform(PinnedSim::default());
    let memory = region(16 * MIB);
    // SAFETY: leaked memory, ours alone.
    unsafe { heap.init_raw(memory.as_mut_ptr(), memory.len(), 1) }.expect("a region");
    let stay = checkered(&heap, 32);
    let free = heap.managed_bytes() - heap.allocated_bytes();
    let given = AtomicUsize::new(0);
    let purge = |smallest| {
        // SAFETY: the blocks are cleared before the answer.
        unsafe {
            heap.purge(smallest, |block, bytes| {
                block.as_ptr().write_bytes(0, bytes);
                given.fetch_add(bytes, Ordering::Relaxed);
                true
            })
        }
    };
    assert_eq!(purge(64), 0, "no block is as large as that");
    let purged = purge(32);
    assert_eq!(purged, given.load(Ordering::Relaxed));
    assert!(purged > free / 2, "{purged} of {free}");
    assert_eq!(purge(32), 0, "nothing twice");
    heap.check_invariants();
    for run in &stay {
        // SAFETY: held, and filled above.
        let byte = unsafe { std::ptr::with_exposed_provenance::<u8>(*run).read() };
        assert_eq!(byte, 0xEE, "what is in use is not touched");
    }
    let large = layout(32 * PAGE, 8);
    let zeroed = heap.alloc_zeroed(large).expect("a run that was purged");
    // SAFETY: just allocated.
    let bytes = unsafe { std::slice::from_raw_parts(zeroed.as_ptr(), large.size()) };
    assert!(bytes.iter().all(|byte| *byte == 0));
    // A dirty neighbour makes the whole dirty again.
    stay.into_iter().for_each(|run| heap.dealloc_pages(run, 32));
    // SAFETY: allocated above.
    unsafe { heap.dealloc(zeroed, large) };
    heap.shrink();
    let again = heap.alloc_zeroed(layout(8 * MIB, 8)).expect("half of the region");
    // SAFETY: just allocated.
    let bytes = unsafe { std::slice::from_raw_parts(again.as_ptr(), 8 * MIB) };
    assert!(bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn what_large_objects_leave_between_them_is_given_up() {
    let heap = GlobalAllocator::<PAGE, _>::with_platform(PinnedSim::default());
    let memory = region(16 * MIB);
    // SAFETY: leaked memory, ours alone.
    unsafe { heap.init_raw(memory.as_mut_ptr(), memory.len(), 1) }.expect("a region");
    let large = layout(40 * PAGE, 8);
    let objects: Vec<_> = std::iter::from_fn(|| heap.alloc(large).ok()).collect();
    assert!(objects.len() > 60, "{}", objects.len());
    let stays = |index: usize| index.is_multiple_of(10);
    for (index, object) in objects.iter().enumerate() {
        // SAFETY: live, of this size; those that go are freed once.
        unsafe {
            object.as_ptr().write_bytes(0xEE, large.size());
            if !stays(index) {
                heap.dealloc(*object, large);
            }
        }
    }
    heap.shrink();
    let free = heap.managed_bytes() - heap.allocated_bytes();
    let purge = || {
        // SAFETY: the blocks are cleared before the answer.
        unsafe {
            heap.purge(16, |block, bytes| {
                block.as_ptr().write_bytes(0, bytes);
                true
            })
        }
    };
    let purged = purge();
    assert!(purged > free / 10 * 9, "{purged} of {free}");
    assert_eq!(purge(), 0, "nothing twice");
    assert_eq!(heap.managed_bytes() - heap.allocated_bytes(), free, "all of it came back");
    heap.check_invariants();
    let zeroed = heap.alloc_zeroed(large).expect("what was given up");
    // SAFETY: live, of this size; freed once.
    unsafe {
        let bytes = std::slice::from_raw_parts(zeroed.as_ptr(), large.size());
        assert!(bytes.iter().all(|byte| *byte == 0));
        heap.dealloc(zeroed, large);
        for (index, object) in objects.iter().enumerate().filter(|(index, _)| stays(*index)) {
            let bytes = std::slice::from_raw_parts(object.as_ptr(), large.size());
            assert!(bytes.iter().all(|byte| *byte == 0xEE), "{index} is in use");
            heap.dealloc(*object, large);
        }
    }
    heap.shrink();
    assert_eq!(heap.allocated_bytes(), 0);
    heap.check_invariants();
}

#[test]
fn who_does_not_want_a_block_ends_the_purge() {
    let heap = GlobalAllocator::<PAGE, _>::with_platform(PinnedSim::default());
    let memory = region(16 * MIB);
    // SAFETY: leaked memory, ours alone.
    unsafe { heap.init_raw(memory.as_mut_ptr(), memory.len(), 1) }.expect("a region");
    let _stay = checkered(&heap, 16);
    let free = heap.managed_bytes() - heap.allocated_bytes();
    let asked = Cell::new(0);
    // SAFETY: nothing is promised.
    let purged = unsafe {
        heap.purge(1, |_, _| {
            asked.set(asked.get() + 1);
            false
        })
    };
    assert_eq!(purged, 0);
    assert!((1..=64).contains(&asked.get()), "asked {} times", asked.get());
    assert_eq!(heap.managed_bytes() - heap.allocated_bytes(), free, "all of it came back");
    heap.check_invariants();
}

#[test]
fn what_can_be_resized_in_place_is_and_the_rest_is_as_it_was() {
    let heap = GlobalAllocator::<PAGE, _>::with_platform(PinnedSim::default());
    let memory = region(16 * MIB);
    // SAFETY: leaked memory, ours alone.
    unsafe { heap.init_raw(memory.as_mut_ptr(), memory.len(), 1) }.expect("a region");
    let small = layout(100, 8);
    let object = heap.alloc(small).expect("an object");
    let large = layout(64 * PAGE, 8);
    let block = heap.alloc(large).expect("a block");
    // SAFETY: both are live, with these layouts.
    unsafe {
        assert!(heap.resize_in_place(object, small, 112), "the same class");
        assert!(!heap.resize_in_place(object, small, 200));
        assert!(!heap.resize_in_place(object, small, MIB));
        assert!(heap.resize_in_place(block, large, 32 * PAGE));
        assert_eq!(heap.usable_size(block), Some(32 * PAGE));
        assert!(!heap.resize_in_place(block, layout(32 * PAGE, 8), 64 * MIB));
        assert_eq!(heap.usable_size(block), Some(32 * PAGE));
        heap.dealloc(object, small);
        heap.dealloc(block, layout(32 * PAGE, 8));
    }
    heap.shrink();
    assert_eq!(heap.allocated_bytes(), 0);
}
