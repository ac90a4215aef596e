//! Many objects allocated, then all of them freed.

use fastrand::Rng;

use super::live::{Sizes, alloc, layout};
use super::{ObjectWorkload, Round, Scale};
use crate::engines::Engine;
use crate::stats::time_per;

/// Pairs in a round: one burst of the largest kind.
const PAIRS: usize = 20_000;
const SIZE: usize = 64;

/// Freed from the last to the first.
pub const LIFO: u8 = 0;
/// Freed from the first to the last.
pub const FIFO: u8 = 1;
/// Freed in an order that has nothing to do with that of the allocations.
pub const RANDOM: u8 = 2;

/// `COUNT` objects of 64 bytes, freed in `ORDER`.
pub struct Burst<const COUNT: usize, const ORDER: u8>;

impl<const COUNT: usize, const ORDER: u8> ObjectWorkload for Burst<COUNT, ORDER> {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let count = scale.of(COUNT);
        let times = (scale.of(PAIRS) / count).max(1);
        let mut held = vec![std::ptr::null_mut(); count];
        let mut order: Vec<u32> = (0..count as u32).collect();
        Rng::with_seed(COUNT as u64).shuffle(&mut order);
        // A burst of the largest kind is longer than what warms it up needs to be.
        let warm = count.min(PAIRS / 2);
        Box::new(move || {
            burst::<E, ORDER>(&mut held[..warm], &order, 1);
            time_per(times * count, || burst::<E, ORDER>(&mut held, &order, times))
        })
    }
}

#[inline(never)]
fn burst<E: Engine, const ORDER: u8>(held: &mut [*mut u8], order: &[u32], times: usize) {
    let engine = E::default();
    for _ in 0..times {
        for object in held.iter_mut() {
            *object = alloc(&engine, layout(SIZE));
        }
        // SAFETY: every object is live and freed once: an order names each index once, or, in a
        // warm-up with part of the objects, those that are not there are left out.
        let free = |object: &*mut u8| unsafe { engine.dealloc(*object, layout(SIZE)) };
        match ORDER {
            LIFO => held.iter().rev().for_each(free),
            FIFO => held.iter().for_each(free),
            _ => order.iter().filter_map(|&index| held.get(index as usize)).for_each(free),
        }
    }
}

/// 1,000 objects of mixed sizes, 8 B to 2 KiB, freed in random order.
pub struct Mixed;

impl ObjectWorkload for Mixed {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let count = scale.of(1000);
        let times = (scale.of(PAIRS) / count).max(1);
        let sizes = Sizes::log_uniform(8, 2048, 1);
        let mut rng = Rng::with_seed(2);
        let mut held = vec![(std::ptr::null_mut(), 0); count];
        let mut order: Vec<u32> = (0..count as u32).collect();
        rng.shuffle(&mut order);
        Box::new(move || {
            mixed::<E>(&mut held, &order, &sizes, &mut rng, 1);
            time_per(times * count, || mixed::<E>(&mut held, &order, &sizes, &mut rng, times))
        })
    }
}

#[inline(never)]
fn mixed<E: Engine>(
    held: &mut [(*mut u8, usize)],
    order: &[u32],
    sizes: &Sizes,
    rng: &mut Rng,
    times: usize,
) {
    let engine = E::default();
    for _ in 0..times {
        for object in held.iter_mut() {
            let size_bytes = sizes.pick(rng.u64(..));
            *object = (alloc(&engine, layout(size_bytes)), size_bytes);
        }
        for &index in order {
            let (object, size_bytes) = held[index as usize];
            // SAFETY: live, with its layout, and the order names each index once.
            unsafe { engine.dealloc(object, layout(size_bytes)) };
        }
    }
}
