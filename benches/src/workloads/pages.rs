//! Pages.

use fastrand::Rng;

use super::{PageWorkload, Round, Scale};
use crate::engines::pages::Pages;
use crate::stats::time_per;
use crate::team::Team;

const PAIRS: usize = 20_000;
/// Pages of the large workloads: 1 GiB.
const BULK: usize = 1 << 18;

/// (Inlined, so that an order that is a constant stays one.)
#[inline(always)]
fn alloc<P: Pages>(order: usize) -> P::Block {
    match P::alloc(order) {
        Some(block) => P::opaque(block),
        None => panic!("out of pages"),
    }
}

/// One block of 2^`ORDER` pages, allocated and freed over and over. (Order 9 is 2 MiB.)
pub struct Pair<const ORDER: usize>;

impl<const ORDER: usize> PageWorkload for Pair<ORDER> {
    fn prepare<P: Pages>(scale: Scale) -> Round {
        let pairs = scale.of(PAIRS);
        Box::new(move || {
            pair::<P>(ORDER, pairs / 8);
            time_per(pairs, || pair::<P>(ORDER, pairs))
        })
    }
}

#[inline(always)]
fn pair<P: Pages>(order: usize, pairs: usize) {
    for _ in 0..pairs {
        P::free(alloc::<P>(order), order);
    }
}

/// 262,144 single pages allocated, then freed in the same order. Per page, both.
pub struct Bulk;

impl PageWorkload for Bulk {
    fn prepare<P: Pages>(scale: Scale) -> Round {
        let count = scale.of(BULK);
        let mut held = Vec::with_capacity(count);
        Box::new(move || {
            time_per(count, || {
                held.extend((0..count).map(|_| alloc::<P>(0)));
                held.drain(..).for_each(|page| P::free(page, 0));
            })
        })
    }
}

/// 262,144 single pages allocated (not timed), then freed in random order (timed).
pub struct RandomFrees;

impl PageWorkload for RandomFrees {
    fn prepare<P: Pages>(scale: Scale) -> Round {
        let count = scale.of(BULK);
        let mut held = Vec::with_capacity(count);
        let mut rng = Rng::with_seed(1);
        Box::new(move || {
            held.extend((0..count).map(|_| alloc::<P>(0)));
            rng.shuffle(&mut held);
            time_per(count, || held.drain(..).for_each(|page| P::free(page, 0)))
        })
    }
}

/// 1,000 blocks of orders 0 to 9, each as likely, replaced at random.
pub struct Churn;

/// Blocks in use.
struct Blocks<P: Pages> {
    slots: Vec<Option<(P::Block, usize)>>,
    rng: Rng,
}

impl<P: Pages> Blocks<P> {
    #[inline(never)]
    fn replace(&mut self, times: usize) {
        for _ in 0..times {
            let random = self.rng.u64(..);
            let index = ((random >> 32) * self.slots.len() as u64) >> 32;
            let slot = &mut self.slots[index as usize];
            if let Some((block, order)) = slot.take() {
                P::free(block, order);
            }
            let order = (((random & 0xFFFF) * 10) >> 16) as usize;
            *slot = Some((alloc::<P>(order), order));
        }
    }
}

impl<P: Pages> Drop for Blocks<P> {
    fn drop(&mut self) {
        for (block, order) in self.slots.drain(..).flatten() {
            P::free(block, order);
        }
    }
}

impl PageWorkload for Churn {
    fn prepare<P: Pages>(scale: Scale) -> Round {
        let times = scale.of(PAIRS);
        let slots = (0..scale.of(1000)).map(|_| None).collect();
        let mut blocks = Blocks::<P> { slots, rng: Rng::with_seed(1) };
        // Every slot is filled before the first round.
        blocks.replace(scale.of(10_000));
        Box::new(move || {
            blocks.replace(times / 8);
            time_per(times, || blocks.replace(times))
        })
    }
}

/// `MEMBERS` threads that allocate 64 single pages and free them, over and over. Nanoseconds per
/// pair of all of them together, so that two threads that do not hinder each other give half of one.
pub struct Threads<const MEMBERS: usize>;

impl<const MEMBERS: usize> PageWorkload for Threads<MEMBERS> {
    fn prepare<P: Pages>(scale: Scale) -> Round {
        const HELD: usize = 64;
        let times = scale.of(4 * PAIRS / HELD);
        let team = Team::of(MEMBERS, || (), || ());
        Box::new(move || {
            let round = |times: usize| {
                team.round(move |_| {
                    let mut held = Vec::with_capacity(HELD);
                    for _ in 0..times {
                        held.extend((0..HELD).map(|_| alloc::<P>(0)));
                        held.drain(..).for_each(|page| P::free(page, 0));
                    }
                })
            };
            round(times.div_ceil(8));
            round(times) / (times * HELD * MEMBERS) as f64
        })
    }
}
