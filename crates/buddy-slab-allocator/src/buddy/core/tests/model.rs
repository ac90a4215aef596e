//! Random operations against a map of what is held; every equation checked after each step.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::super::section::{KeptPage, Kind};
use super::super::{PageError, PageRequest, RemovalError, Wait, Watermarks};
use super::{Core, PAGE, Region};
use crate::units::{NodeId, Order, PhysLimit, Zone};

/// Where a region pretends to lie physically, relative to its own start; `None`: unknown.
#[derive(Clone, Copy)]
struct Shape {
    bytes: usize,
    align: usize,
    node: u8,
    phys: Option<u64>,
}

const MIB: u64 = 1 << 20;
/// 4 GiB, or less where no address reaches it.
const LINE: u64 = if usize::BITS == 64 { 4096 * MIB } else { 64 * MIB };
const SHAPES: [Shape; 6] = [
    // Across 16 MiB, with edge blocks.
    Shape { bytes: (9 << 20) + 5 * PAGE, align: PAGE, node: 0, phys: Some(12 * MIB) },
    Shape { bytes: 90 * PAGE, align: PAGE, node: 1, phys: Some(LINE) },
    Shape { bytes: 40 * PAGE + 123, align: 64, node: 0, phys: None },
    // Across 4 GiB, aligned.
    Shape { bytes: 12 << 20, align: 4 << 20, node: 1, phys: Some(LINE - 4 * MIB) },
    Shape { bytes: 200 * PAGE, align: 16 * PAGE, node: 0, phys: Some(8 * MIB) },
    Shape { bytes: 64 * PAGE, align: PAGE, node: 1, phys: Some(40 * MIB) },
];

const LIMITS: [PhysLimit; 6] = [
    PhysLimit::NONE,
    PhysLimit::NONE,
    PhysLimit::FOUR_GIB,
    PhysLimit::below(16 * MIB),
    PhysLimit::below(15 * MIB + 4096),
    PhysLimit::below(41 * MIB),
];

#[derive(Debug, Clone)]
enum Op {
    Alloc { count: usize, align: u8, limit: usize, node: u8, reserve: bool },
    Free { which: usize, defer: bool },
    FreeRun { which: usize, blocks: usize },
    Wrong { which: usize, offset: usize, count: usize },
    Batch { order: u8, max: usize },
    At { region: usize, page: usize, count: usize },
    Resize { which: usize, count: usize },
    Add { region: usize },
    Remove { region: usize, finish: bool },
    Marks { zone: usize, min: usize },
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    let count = prop_oneof![6 => 1usize..12, 2 => 12usize..300, 1 => 300usize..3000];
    let nth = 0usize..1000;
    prop_oneof![
        10 => (count.clone(), 0u8..7, 0..LIMITS.len(), 0u8..2, any::<bool>()).prop_map(
            |(count, align, limit, node, reserve)| {
                let align = align.saturating_sub(3) * 2;
                Op::Alloc { count, align, limit, node, reserve }
            }
        ),
        6 => (nth.clone(), any::<bool>()).prop_map(|(which, defer)| Op::Free { which, defer }),
        1 => (nth.clone(), 1usize..20).prop_map(|(which, blocks)| Op::FreeRun { which, blocks }),
        2 => (nth.clone(), 0usize..4, 1usize..9)
            .prop_map(|(which, offset, count)| Op::Wrong { which, offset, count }),
        2 => (0u8..5, 1usize..40).prop_map(|(order, max)| Op::Batch { order, max }),
        2 => (0usize..6, 0usize..2400, count.clone())
            .prop_map(|(region, page, count)| Op::At { region, page, count }),
        3 => (nth, count).prop_map(|(which, count)| Op::Resize { which, count }),
        2 => (0usize..6).prop_map(|region| Op::Add { region }),
        1 => (0usize..6, any::<bool>()).prop_map(|(region, finish)| Op::Remove { region, finish }),
        1 => (0usize..3, 0usize..50).prop_map(|(zone, min)| Op::Marks { zone, min }),
        1 => Just(Op::Drain),
    ]
}

struct Held {
    count: usize,
    kind: Kind,
}

struct World {
    core: Core,
    regions: Vec<Region>,
    present: Vec<bool>,
    held: BTreeMap<usize, Held>,
    marked: bool,
}

impl World {
    fn new() -> Self {
        let regions: Vec<Region> = SHAPES.iter().map(|s| Region::new(s.bytes, s.align)).collect();
        let world = Self {
            core: Core::new(),
            present: std::vec![false; regions.len()],
            regions,
            held: BTreeMap::new(),
            marked: false,
        };
        let mut world = world;
        world.add(0);
        world.add(1);
        world
    }

    fn add(&mut self, index: usize) {
        let (region, shape) = (&self.regions[index], SHAPES[index]);
        if !self.present[index] {
            region.scribble();
        }
        let base = region.addr();
        let ask = move |addr: usize| addr - base + shape.phys.unwrap_or(0) as usize;
        let phys = shape.phys.is_some().then_some(&ask as &dyn Fn(usize) -> usize);
        let result = region.add_to(&self.core, shape.node, phys);
        assert_eq!(result.is_err(), self.present[index], "{index}: added twice or not at all");
        self.present[index] = true;
    }

    fn region_of(&self, addr: usize) -> usize {
        self.regions
            .iter()
            .position(|r| (r.addr()..r.addr() + r.len()).contains(&addr))
            .expect("pages come from regions")
    }

    fn phys(&self, addr: usize) -> Option<u64> {
        let region = self.region_of(addr);
        SHAPES[region].phys.map(|base| base + (addr - self.regions[region].addr()) as u64)
    }

    /// Writes the address into every page of a block.
    fn fill(&self, addr: usize, from: usize, count: usize) {
        let page = self.core.lookup(addr).expect("an owned head has metadata");
        for i in from..count {
            // SAFETY: the block is held.
            unsafe { page.ptr().byte_add(i * PAGE).cast::<usize>().write(addr ^ i) };
        }
    }

    fn verify(&self, addr: usize, count: usize) {
        let page = self.core.lookup(addr).expect("an owned head has metadata");
        assert_eq!(page.count(), count);
        for i in 0..count {
            // SAFETY: the block is held.
            let seen = unsafe { page.ptr().byte_add(i * PAGE).cast::<usize>().read() };
            assert_eq!(seen, addr ^ i, "page {i} of a held block was written");
        }
    }

    fn hold(&mut self, addr: usize, count: usize, kind: Kind) {
        let bytes = count * PAGE;
        let region = &self.regions[self.region_of(addr)];
        assert!(addr >= region.addr() && addr + bytes <= region.addr() + region.len());
        if let Some((below, held)) = self.held.range(..addr + bytes).next_back() {
            assert!(below + held.count * PAGE <= addr, "a block was handed out twice");
        }
        self.fill(addr, 0, count);
        self.held.insert(addr, Held { count, kind });
    }

    fn nth(&self, which: usize) -> Option<(usize, usize, Kind)> {
        let len = self.held.len();
        let (addr, held) = self.held.iter().nth(which.checked_rem(len)?)?;
        Some((*addr, held.count, held.kind))
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Alloc { count, align, limit, node, reserve } => {
                self.alloc(count, align, LIMITS[limit], node, reserve);
            }
            Op::Free { which, defer } => {
                let Some((addr, count, kind)) = self.nth(which) else { return };
                self.verify(addr, count);
                self.held.remove(&addr);
                let page = self.core.claim(addr, count, kind);
                let Ok(page) = page else {
                    assert_eq!(kind, Kind::Cached);
                    let page = self.core.lookup(addr).unwrap();
                    // SAFETY: a cached block is its keeper's.
                    unsafe { self.core.free(page, count, Wait::Spin) }.unwrap();
                    return;
                };
                // SAFETY: claimed.
                unsafe {
                    if defer {
                        self.core.push_deferred(page, count);
                    } else {
                        self.core.free(page, count, Wait::Try).unwrap();
                    }
                }
            }
            Op::FreeRun { which, blocks } => {
                let run: Vec<(usize, usize)> = self
                    .held
                    .iter()
                    .skip(which.checked_rem(self.held.len()).unwrap_or(0))
                    .take(blocks)
                    .map(|(addr, held)| (*addr, held.count))
                    .collect();
                // As batches, up or down: neighbours of one order that a list could keep.
                let listed = |&(addr, count): &(usize, usize)| {
                    Some(count).filter(|n| n.is_power_of_two() && addr % (n * PAGE) == 0)
                };
                for batch in run.chunk_by(|a, b| listed(a).is_some() && listed(a) == listed(b)) {
                    let pages = batch.iter().map(|&(addr, _)| self.core.lookup(addr).unwrap());
                    let (addr, count) = batch[0];
                    let Some(size) = listed(&batch[0]) else {
                        // SAFETY: held.
                        unsafe {
                            let page = self.core.lookup(addr).unwrap();
                            self.core.free(page, count, Wait::Spin).unwrap();
                        }
                        continue;
                    };
                    let mut kept: Vec<_> = pages.map(KeptPage::keep).collect();
                    if which % 2 == 0 {
                        kept.reverse();
                    }
                    let order = Order::for_pages(size).unwrap();
                    // SAFETY: all held, each there once.
                    unsafe { self.core.free_batch(&kept, order, Wait::Spin) };
                }
                for (addr, _) in run {
                    self.held.remove(&addr);
                }
            }
            Op::Wrong { which, offset, count } => {
                let Some((addr, held, kind)) = self.nth(which) else { return };
                let bad = addr.wrapping_add(offset * PAGE);
                let right = self.held.get(&bad).is_some_and(|h| h.count == count && h.kind == kind);
                if !right {
                    let claim = self.core.claim(bad, count, kind);
                    assert!(claim.is_err(), "{bad:#x} {count} claimed");
                }
                assert!(self.core.claim(addr + 1, held, kind).is_err());
                assert!(self.core.claim(addr, held, Kind::Object).is_err());
            }
            Op::Batch { order, max } => {
                let order = Order::new(order).unwrap();
                let mut kept = std::vec![KeptPage::NOTHING; max];
                let node = NodeId::new(0);
                let n = self.core.alloc_batch(order, node, Wait::Spin, false, &mut kept);
                for block in &kept[max - n..] {
                    let addr = block.addr();
                    assert_eq!(addr % (order.pages() * PAGE), 0);
                    self.hold(addr, order.pages(), Kind::Cached);
                }
            }
            Op::At { region, page, count } => {
                let addr = (self.regions[region].addr() + page * PAGE).next_multiple_of(PAGE);
                let end = addr + count * PAGE;
                let clear = self
                    .held
                    .range(..end)
                    .next_back()
                    .is_none_or(|(a, h)| a + h.count * PAGE <= addr);
                match self.core.alloc_at(addr, count, Kind::Pages, Wait::Spin) {
                    Ok(got) => {
                        assert!(clear);
                        assert_eq!(got.addr(), addr);
                        self.hold(addr, count, Kind::Pages);
                    }
                    Err(error) => {
                        assert!(matches!(error, PageError::Exhausted | PageError::NotFound));
                    }
                }
            }
            Op::Resize { which, count } => {
                let Some((addr, held, kind)) = self.nth(which) else { return };
                if kind == Kind::Cached {
                    return;
                }
                let page = self.core.lookup(addr).unwrap();
                if count < held {
                    // SAFETY: held.
                    unsafe { self.core.shrink(page, held, count, Wait::Spin) }.unwrap();
                } else if count > held {
                    // SAFETY: held.
                    let grown = unsafe { self.core.grow(page, held, count, 0, Wait::Spin) };
                    if grown.is_err() {
                        return;
                    }
                    let next = self.held.range(addr + 1..).next();
                    assert!(next.is_none_or(|(next, _)| addr + count * PAGE <= *next));
                    self.fill(addr, held, count);
                }
                self.held.get_mut(&addr).unwrap().count = count;
                self.verify(addr, count);
            }
            Op::Add { region } => self.add(region),
            Op::Remove { region, finish } => {
                let base = &self.regions[region];
                let range = base.addr()..base.addr() + base.len();
                let busy = self.held.range(range).next().is_some();
                let probe = base.addr().next_multiple_of(PAGE);
                match self.core.isolate(probe) {
                    Ok(token) => {
                        assert!(self.present[region] && !busy && region != 0);
                        self.core.check_invariants();
                        if finish {
                            // SAFETY: single-threaded.
                            unsafe { self.core.finish_removal(token) };
                            base.scribble();
                            self.present[region] = false;
                        }
                    }
                    Err(RemovalError::NotFound) => assert!(!self.present[region]),
                    Err(RemovalError::Busy) => assert!(busy),
                    Err(RemovalError::Pinned) => assert_eq!(region, 0),
                }
            }
            Op::Marks { zone, min } => {
                let marks = Watermarks { min_pages: min, low_pages: 2 * min };
                self.core.set_watermarks(NodeId::new(0), Zone::ALL[zone], marks);
                self.marked |= min > 0;
            }
            Op::Drain => {
                let deferred = self.core.deferred_pages();
                assert_eq!(self.core.drain_deferred(Wait::Spin), deferred);
            }
        }
    }

    fn alloc(&mut self, count: usize, align: u8, limit: PhysLimit, node: u8, reserve: bool) {
        let bases: Vec<(usize, usize, Option<u64>)> = self
            .regions
            .iter()
            .zip(SHAPES)
            .map(|(region, shape)| (region.addr(), region.len(), shape.phys))
            .collect();
        let ask = move |addr: usize| {
            bases
                .iter()
                .find(|(base, len, _)| (*base..base + len).contains(&addr))
                .map_or(0, |(base, _, phys)| addr - base + phys.unwrap_or(0) as usize)
        };
        let request = PageRequest {
            align_order: Order::new(align).unwrap(),
            limit,
            node: NodeId::new(node),
            use_reserve: reserve,
            phys: Some(&ask),
            ..PageRequest::new(count, Kind::Pages)
        };
        let result = self.core.alloc(&request).map(|page| page.addr());
        match result {
            Ok(addr) => {
                assert_eq!(addr % (PAGE << align), 0);
                if !limit.is_none() {
                    let phys = self.phys(addr).expect("a limit needs a known address");
                    assert!(phys + (count * PAGE) as u64 <= limit.get());
                }
                self.hold(addr, count, Kind::Pages);
            }
            Err(error) => {
                assert_eq!(error, PageError::Exhausted);
                // A single page fails only when there is none.
                if count == 1 && align == 0 && limit.is_none() && (reserve || !self.marked) {
                    assert_eq!(self.core.free_pages(), 0);
                }
            }
        }
    }

    fn check(&self) {
        self.core.check_invariants();
        let held: usize = self.held.values().map(|h| h.count).sum();
        assert_eq!(self.core.allocated_pages(), held);
        let present = self.present.iter().filter(|p| **p).count();
        assert_eq!(self.core.section_count(), present);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 60 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_core_agrees_with_a_map_after_every_step(
        ops in proptest::collection::vec(op(), 1..if cfg!(miri) { 30 } else { 120 }),
    ) {
        let mut world = World::new();
        world.check();
        for op in &ops {
            world.step(op);
            world.check();
        }
        // Everything comes back.
        for (addr, count) in world.held.iter().map(|(a, h)| (*a, h.count)).collect::<Vec<_>>() {
            world.verify(addr, count);
            let page = world.core.lookup(addr).unwrap();
            // SAFETY: held.
            unsafe { world.core.free(page, count, Wait::Spin) }.unwrap();
        }
        world.held.clear();
        world.core.drain_deferred(Wait::Spin);
        world.check();
        prop_assert_eq!(world.core.allocated_pages(), 0);
    }
}
