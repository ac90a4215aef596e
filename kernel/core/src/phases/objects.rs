//! Objects allocated on one CPU and freed on another, in rings of threads.

use alloc::vec::Vec;
use core::alloc::Layout;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::Arch;
use crate::mutex::Mutex;
use crate::pattern::{Object, Random};
use crate::thread;
use crate::{cpu, say, scheduler};

const LANE_LEN: usize = 64;
const BATCH: usize = 48;

/// Each CPU makes objects for the next one, and frees what the one before made.
pub(super) fn run<A: Arch>(percent: usize) {
    let cpus = cpu::count();
    let rounds = 120 * percent / 100;
    let lanes: Vec<Mutex<Vec<Object>>> =
        (0..cpus).map(|_| Mutex::new(Vec::with_capacity(LANE_LEN))).collect();
    let producing = AtomicUsize::new(cpus);
    let (made, elsewhere) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let free = |object: Object| {
        made.fetch_add(1, Ordering::Relaxed);
        if object.cpu != A::cpu() {
            elsewhere.fetch_add(1, Ordering::Relaxed);
        }
        object.free::<A>();
    };
    thread::on_each_cpu::<A>(&|index| {
        let mut random = Random::new(index as u64);
        let next = &lanes[(index + 1) % cpus];
        for _ in 0..rounds {
            for _ in 0..BATCH {
                // Small ones often, up to 64 KiB; alignments beyond the size too.
                let max_log2 = if random.below(16) == 0 { 16 } else { 11 };
                let size = random.size(max_log2);
                let aligns = if random.below(32) == 0 { 13 } else { 6 };
                let align = 1 << random.below(aligns);
                let Ok(layout) = Layout::from_size_align(size, align) else { continue };
                let object = match Object::alloc::<A>(layout) {
                    Ok(object) => object,
                    Err(error) => panic!("{layout:?}: {error}"),
                };
                let mut object = Some(object);
                while let Some(one) = object.take() {
                    // Interrupts are masked in here: the vector has room, so nothing is allocated.
                    object = next.with::<A, _>(|lane| {
                        if lane.len() < LANE_LEN {
                            lane.push(one);
                            return None;
                        }
                        Some(one)
                    });
                    if object.is_some() {
                        take_one::<A>(&lanes[index], &free);
                        scheduler::yield_now::<A>();
                    }
                }
            }
            while take_one::<A>(&lanes[index], &free) {}
        }
        producing.fetch_sub(1, Ordering::Release);
        while producing.load(Ordering::Acquire) != 0 {
            take_one::<A>(&lanes[index], &free);
            scheduler::yield_now::<A>();
        }
    });
    for lane in &lanes {
        while take_one::<A>(lane, &free) {}
    }
    let (made, elsewhere) = (made.load(Ordering::Relaxed), elsewhere.load(Ordering::Relaxed));
    say!(A, "{made} objects, {elsewhere} of them freed on another CPU");
    assert!(cpus == 1 || elsewhere * 2 > made, "too few objects were freed on another CPU");
}

fn take_one<A: Arch>(lane: &Mutex<Vec<Object>>, free: &dyn Fn(Object)) -> bool {
    let object = lane.with::<A, _>(Vec::pop);
    object.map(free).is_some()
}
