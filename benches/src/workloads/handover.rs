//! Objects of 64 bytes that one thread allocates and another frees.

use std::sync::Arc;

use super::live::{alloc, layout};
use super::{ObjectWorkload, Round, Scale};
use crate::engines::Engine;
use crate::ring::{BATCH, Ring};
use crate::team::{Team, Wait};

const OBJECTS: usize = 100_000;
const SIZE: usize = 64;

/// Puts `batches` into `to` and takes as many from `from`, whichever can be done; what is taken is
/// read before it is freed if `READ`.
fn pass_on<E: Engine, const READ: bool>(to: Option<&Ring>, from: Option<&Ring>, batches: usize) {
    let engine = E::default();
    let mut left_to_put = to.map_or(0, |_| batches);
    let mut left_to_take = from.map_or(0, |_| batches);
    let mut wait = Wait::new();
    let mut sum = 0;
    while left_to_put + left_to_take != 0 {
        let mut moved = false;
        if let Some(ring) = to
            && left_to_put != 0
            // SAFETY: this member is the one that puts.
            && unsafe { ring.put_batch(|| alloc(&engine, layout(SIZE))) }
        {
            left_to_put -= 1;
            moved = true;
        }
        if let Some(ring) = from
            && left_to_take != 0
            // SAFETY: this member is the one that takes.
            && unsafe {
                ring.take_batch(|object| {
                    if READ {
                        sum += object.cast::<usize>().read();
                    }
                    engine.dealloc(object, layout(SIZE));
                })
            }
        {
            left_to_take -= 1;
            moved = true;
        }
        if !moved {
            wait.turn();
        }
    }
    std::hint::black_box(sum);
}

/// One thread allocates and writes; the other frees, and reads before if `READ`. (To read means to
/// fetch a cache line from the other core, which costs more than any engine: without it, the
/// engines show.)
pub struct OneWay<const READ: bool>;

impl<const READ: bool> ObjectWorkload for OneWay<READ> {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let batches = scale.of(OBJECTS / BATCH);
        let team = Team::new::<E>(2);
        let ring = Arc::new(Ring::new());
        Box::new(move || {
            let round = |batches: usize| {
                let ring = ring.clone();
                team.round(move |member| match member {
                    0 => pass_on::<E, READ>(Some(&ring), None, batches),
                    _ => pass_on::<E, READ>(None, Some(&ring), batches),
                })
            };
            round(batches.div_ceil(4));
            round(batches) / (batches * BATCH) as f64
        })
    }
}

/// `MEMBERS` threads: each allocates for the next, and frees what it gets from the one before.
/// With two, that is both directions at a time.
pub struct Circle<const MEMBERS: usize>;

impl<const MEMBERS: usize> ObjectWorkload for Circle<MEMBERS> {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let batches = scale.of(OBJECTS / BATCH);
        let team = Team::new::<E>(MEMBERS);
        let rings: Arc<[Ring; MEMBERS]> = Arc::new(std::array::from_fn(|_| Ring::new()));
        Box::new(move || {
            let round = |batches: usize| {
                let rings = rings.clone();
                team.round(move |member| {
                    let before = (member + MEMBERS - 1) % MEMBERS;
                    pass_on::<E, false>(Some(&rings[member]), Some(&rings[before]), batches);
                })
            };
            round(batches.div_ceil(4));
            round(batches) / (batches * BATCH * MEMBERS) as f64
        })
    }
}
