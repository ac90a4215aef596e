//! Threads that allocate, check contents, pass blocks on and free what others allocated.

use std::sync::Mutex;
use std::vec::Vec;

use super::super::super::section::{KeptPage, Kind};
use super::super::{PageRequest, Wait};
use super::{Core, PAGE, Region};
use crate::units::{NodeId, Order};

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Writes a stamp at the first and last word of every page.
fn stamp(core: &Core, addr: usize, count: usize, value: usize) {
    let page = core.lookup(addr).unwrap();
    for i in 0..count {
        // SAFETY: the block is the caller's.
        unsafe {
            let at = page.ptr().byte_add(i * PAGE).cast::<usize>();
            at.write(value);
            at.byte_add(PAGE - size_of::<usize>()).write(value ^ i);
        }
    }
}

fn check(core: &Core, addr: usize, count: usize, value: usize) {
    let page = core.lookup(addr).unwrap();
    for i in 0..count {
        // SAFETY: the block is the caller's.
        unsafe {
            let at = page.ptr().byte_add(i * PAGE).cast::<usize>();
            assert_eq!(at.read(), value);
            assert_eq!(at.byte_add(PAGE - size_of::<usize>()).read(), value ^ i);
        }
    }
}

fn run(threads: usize, steps: usize) {
    let core = Core::new();
    let regions: Vec<Region> = (0..4).map(|i| Region::new((200 + i * 90) * PAGE, PAGE)).collect();
    for (i, region) in regions.iter().enumerate() {
        region.add_to(&core, (i % 2) as u8, None).unwrap();
    }
    let spare = Region::new(64 * PAGE, PAGE);
    let pool: Mutex<Vec<(usize, usize, usize)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (core, pool) = (&core, &pool);
            scope.spawn(move || {
                let mut rng = Rng(0x9E37_79B9 + thread as u64 * 77);
                for step in 0..steps {
                    let wait = [Wait::Spin, Wait::Try, Wait::Bounded(3)][rng.below(3)];
                    if rng.below(2) == 0 {
                        let request = PageRequest {
                            align_order: Order::new([0, 0, 0, 2, 4][rng.below(5)]).unwrap(),
                            node: NodeId::new(rng.below(2) as u8),
                            wait,
                            ..PageRequest::new(1 + rng.below(9), Kind::Pages)
                        };
                        if let Ok(page) = core.alloc(&request) {
                            let value = thread << 24 ^ step;
                            stamp(core, page.addr(), request.count, value);
                            pool.lock().unwrap().push((page.addr(), request.count, value));
                        }
                    } else if rng.below(20) == 0 {
                        let mut batch = [KeptPage::NOTHING; 8];
                        let order = Order::new(rng.below(3) as u8).unwrap();
                        let got = core.alloc_batch(order, NodeId::new(0), wait, false, &mut batch);
                        // SAFETY: ours, once each.
                        unsafe { core.free_batch(&batch[8 - got..], order, wait) };
                    } else {
                        let taken = {
                            let mut pool = pool.lock().unwrap();
                            let len = pool.len();
                            (len > 0).then(|| pool.swap_remove(rng.below(len.max(1))))
                        };
                        let Some((addr, count, value)) = taken else { continue };
                        check(core, addr, count, value);
                        assert!(core.claim(addr, count + 1, Kind::Pages).is_err());
                        let page = core.claim(addr, count, Kind::Pages).unwrap();
                        assert!(core.claim(addr, count, Kind::Pages).is_err());
                        // SAFETY: claimed.
                        unsafe {
                            if core.free(page, count, wait).is_err() {
                                core.push_deferred(page, count);
                            }
                        }
                    }
                }
            });
        }
        // Sections come meanwhile.
        spare.add_to(&core, 1, None).unwrap();
    });
    for (addr, count, value) in pool.into_inner().unwrap() {
        check(&core, addr, count, value);
        let page = core.claim(addr, count, Kind::Pages).unwrap();
        // SAFETY: claimed.
        unsafe { core.free(page, count, Wait::Spin) }.unwrap();
    }
    core.drain_deferred(Wait::Spin);
    assert_eq!(core.allocated_pages(), 0);
    core.check_invariants();
}

#[test]
fn two_threads_lose_nothing() {
    run(2, if cfg!(miri) { 60 } else { 40_000 });
}

#[test]
fn eight_threads_lose_nothing() {
    run(8, if cfg!(miri) { 15 } else { 8_000 });
}
