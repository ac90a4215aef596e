//! Cases with a name.

use std::boxed::Box;
use std::vec::Vec;

use super::super::super::section::{KeptPage, Kind};
use super::super::{MAX_NODES, PageError, PageRequest, RemovalError, Wait, Watermarks};
use super::{Core, PAGE, Region};
use crate::error::AllocError;
use crate::sync::{Guard, Rank};
use crate::units::{Misuse, NodeId, Order, PhysLimit, Zone};

fn one() -> PageRequest<'static> {
    PageRequest::new(1, Kind::Pages)
}

#[test]
fn a_claim_names_every_fault_and_changes_nothing() {
    let region = Region::new(600 * PAGE, PAGE);
    let core = Core::new();
    assert_eq!(core.claim(region.addr(), 1, Kind::Pages).unwrap_err(), Misuse::Foreign);
    region.add_to(&core, 0, None).unwrap();
    let block = core.alloc(&PageRequest::new(5, Kind::Pages)).unwrap();
    let addr = block.addr();
    let fault = |addr, count, kind| core.claim(addr, count, kind).unwrap_err();
    assert_eq!(fault(addr + 8, 5, Kind::Pages), Misuse::WrongAlign);
    assert_eq!(fault(addr + PAGE, 4, Kind::Pages), Misuse::Interior);
    assert_eq!(fault(addr, 4, Kind::Pages), Misuse::WrongSize);
    assert_eq!(fault(addr, 8, Kind::Pages), Misuse::WrongSize);
    assert_eq!(fault(addr, 5, Kind::Handle), Misuse::WrongKind);
    assert_eq!(fault(region.addr() + region.len() + PAGE, 5, Kind::Pages), Misuse::Foreign);
    assert_eq!(core.allocated_pages(), 5);
    let claimed = core.claim(addr, 5, Kind::Pages).unwrap();
    assert_eq!(fault(addr, 5, Kind::Pages), Misuse::DoubleFree);
    // SAFETY: claimed.
    unsafe { core.free(claimed, 5, Wait::Spin) }.unwrap();
    assert!(matches!(
        core.claim(addr, 5, Kind::Pages).unwrap_err(),
        Misuse::DoubleFree | Misuse::Interior
    ));
    assert_eq!(core.allocated_pages(), 0);
    core.check_invariants();
}

#[test]
fn of_racing_frees_exactly_one_wins() {
    let region = Region::new(300 * PAGE, PAGE);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    let rounds = if cfg!(miri) { 20 } else { 3000 };
    for round in 0..rounds {
        let count = 1 + round % 7;
        let addr = core.alloc(&PageRequest::new(count, Kind::Pages)).unwrap().addr();
        let wins: usize = std::thread::scope(|scope| {
            let claim = || usize::from(core.claim(addr, count, Kind::Pages).is_ok());
            let other = scope.spawn(claim);
            claim() + other.join().unwrap()
        });
        assert_eq!(wins, 1);
        let page = core.lookup(addr).unwrap();
        // SAFETY: claimed by one of the two, which stopped there.
        unsafe { core.free(page, count, Wait::Spin) }.unwrap();
    }
    core.check_invariants();
}

#[test]
fn an_overlap_is_refused_metadata_included_and_leaves_no_trace() {
    let region = Region::new(400 * PAGE, PAGE);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    let pages = core.total_pages();
    let spec = |offset: usize, len| crate::buddy::RegionSpec {
        base: region.base().wrapping_byte_add(offset),
        len,
        node: NodeId::new(0),
        zeroed: false,
        phys: None,
        extra_bytes: 0,
    };
    for (offset, len) in [(0, 400 * PAGE), (PAGE, PAGE), (399 * PAGE, PAGE), (400 * PAGE - 1, 1)] {
        // SAFETY: refused before anything is written.
        let result = unsafe { core.add_region(&spec(offset, len), core::iter::empty()) };
        assert_eq!(result.unwrap_err(), AllocError::MemoryOverlap);
    }
    for (offset, len) in [(400 * PAGE, 0), (400 * PAGE, usize::MAX)] {
        // SAFETY: refused before anything is written.
        let result = unsafe { core.add_region(&spec(offset, len), core::iter::empty()) };
        assert_eq!(result.unwrap_err(), AllocError::InvalidParam);
    }
    let tiny = Region::new(PAGE, PAGE);
    assert_eq!(tiny.add_to(&core, 0, None).unwrap_err(), AllocError::InvalidParam);
    assert_eq!(tiny.add_to(&core, MAX_NODES as u8, None).unwrap_err(), AllocError::InvalidParam);
    assert_eq!((core.section_count(), core.total_pages()), (1, pages));
    core.check_invariants();
}

#[test]
fn of_two_concurrent_adds_of_one_region_one_succeeds() {
    for _ in 0..if cfg!(miri) { 2 } else { 100 } {
        let region = Region::new(64 * PAGE, PAGE);
        let core = Core::new();
        // Slow enough that both are in the middle of it.
        let phys = |addr: usize| {
            std::thread::yield_now();
            addr
        };
        let added: usize = std::thread::scope(|scope| {
            let add = || usize::from(region.add_to(&core, 0, Some(&phys)).is_ok());
            let other = scope.spawn(add);
            add() + other.join().unwrap()
        });
        assert_eq!((added, core.section_count()), (1, 1));
        core.check_invariants();
    }
}

#[test]
fn a_panicking_virt_to_phys_withdraws_the_announcement() {
    let region = Region::new(64 * PAGE, PAGE);
    let core = Core::new();
    let phys = |_: usize| -> usize { panic!("user's function") };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
        let _ = region.add_to(&core, 0, Some(&phys));
    }));
    std::panic::set_hook(hook);
    assert!(result.is_err());
    region.add_to(&core, 0, None).unwrap();
    core.check_invariants();
}

#[test]
fn a_thousand_sections_serve_in_the_order_of_adding() {
    let count = if cfg!(miri) { 90 } else { 1000 };
    let regions: Vec<Region> = (0..count).map(|_| Region::new(8 * PAGE, PAGE)).collect();
    let core = Core::new();
    let first = Region::new(128 * PAGE, PAGE);
    first.add_to(&core, 0, None).unwrap();
    for region in &regions {
        region.add_to(&core, 0, None).unwrap();
    }
    assert_eq!(core.section_count(), count + 1);
    assert!(core.internal_pages() > 0);
    core.check_invariants();
    for (i, region) in regions.iter().enumerate() {
        let section = core.section(i + 1).unwrap();
        assert!((region.addr()..region.addr() + region.len()).contains(&section.start));
        assert!(core.lookup_section(section.start).is_some());
        assert!(core.lookup_section(section.start + section.size - 1).is_some());
    }
    let mut last = 0;
    let mut pages = Vec::new();
    while let Ok(page) = core.alloc(&one()) {
        // SAFETY: ids only.
        let id = super::super::region::id_of(page.section());
        assert!(id >= last, "sections serve in order");
        last = id;
        pages.push(page);
    }
    assert_eq!(pages.len(), core.total_pages());
    assert_eq!(core.free_pages(), 0);
    for page in pages {
        // SAFETY: allocated above.
        unsafe { core.free(page, 1, Wait::Spin) }.unwrap();
    }
    assert_eq!(core.allocated_pages(), 0);
    core.check_invariants();
}

#[cfg(target_pointer_width = "64")]
#[test]
fn ordinary_requests_spare_low_memory_and_limits_take_the_highest_zone() {
    // 12 MiB that begin 6 MiB below 16 MiB, then 12 MiB around 4 GiB.
    let low = Region::new(12 << 20, 4 << 20);
    let high = Region::new(12 << 20, 4 << 20);
    let core = Core::new();
    let (low_base, high_base) = (low.addr(), high.addr());
    let low_phys = move |addr: usize| addr - low_base + (8 << 20);
    let high_phys = move |addr: usize| (addr - high_base).wrapping_add((4usize << 30) - (8 << 20));
    low.add_to(&core, 0, Some(&low_phys)).unwrap();
    high.add_to(&core, 0, Some(&high_phys)).unwrap();
    core.check_invariants();
    let phys = move |addr: usize| {
        if (low_base..low_base + (12 << 20)).contains(&addr) {
            low_phys(addr)
        } else {
            high_phys(addr)
        }
    };
    let zone =
        |request: &PageRequest<'_>| core.alloc(request).map(|page| page.head().zone().unwrap());
    assert_eq!(zone(&one()), Ok(Zone::Normal));
    let below = |end: u64| PageRequest { limit: PhysLimit::below(end), phys: Some(&phys), ..one() };
    assert_eq!(zone(&below(4 << 30)), Ok(Zone::Dma32));
    assert_eq!(zone(&below(16 << 20)), Ok(Zone::Dma));
    let page = core.alloc(&below(10 << 20)).unwrap();
    assert!(phys(page.addr()) + PAGE <= 10 << 20);
    let odd = core.alloc(&below((4 << 30) - (6 << 20))).unwrap();
    assert_eq!(odd.head().zone(), Some(Zone::Dma32));
    assert!(phys(odd.addr()) + PAGE <= (4 << 30) - (6 << 20));
    // Ordinary requests come to the low zones last.
    let mut seen = Vec::new();
    while let Ok(zone) = zone(&one()) {
        if seen.last() != Some(&zone) {
            seen.push(zone);
        }
    }
    assert_eq!(seen, [Zone::Normal, Zone::Dma32, Zone::Dma]);
    core.check_invariants();
}

#[test]
fn a_limit_without_physical_knowledge_is_invalid() {
    let region = Region::new(64 * PAGE, PAGE);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    let request = PageRequest { limit: PhysLimit::FOUR_GIB, ..one() };
    assert_eq!(core.alloc(&request).unwrap_err(), PageError::Invalid);
    for count in [0, (1 << 20) + 1, usize::MAX] {
        let result = core.alloc(&PageRequest::new(count, Kind::Pages));
        assert_eq!(result.unwrap_err(), PageError::Invalid);
    }
}

#[test]
fn the_preferred_node_serves_first_then_the_nearest() {
    if MAX_NODES < 8 {
        return;
    }
    let regions: Vec<Region> = (0..3).map(|_| Region::new(16 * PAGE, PAGE)).collect();
    let core = Core::new();
    for (region, node) in regions.iter().zip([1, 4, 5]) {
        region.add_to(&core, node, None).unwrap();
    }
    let mut order = Vec::new();
    let request = PageRequest { node: NodeId::new(3), ..one() };
    while let Ok(page) = core.alloc(&request) {
        let node = page.section().node().get();
        if order.last() != Some(&node) {
            order.push(node);
        }
    }
    // Of 1 and 5, both at distance two, the lower.
    assert_eq!(order, [4, 1, 5]);
}

#[test]
fn the_reserve_is_for_those_who_may_use_it() {
    let region = Region::new(64 * PAGE, PAGE);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    let node = NodeId::new(0);
    let marks = Watermarks { min_pages: 10, low_pages: 20 };
    core.set_watermarks(node, Zone::Normal, marks);
    assert_eq!(core.watermarks(node, Zone::Normal), marks);
    let mut held = 0;
    while core.alloc(&one()).is_ok() {
        held += 1;
    }
    assert_eq!(core.free_pages(), 10);
    assert_eq!([3, 10, 11].map(|most| core.free_pages_up_to(most)), [3, 10, 10]);
    assert!(core.below_low(node, Zone::Normal));
    let reserve = PageRequest { use_reserve: true, ..one() };
    let mut dipped = 0;
    while core.alloc(&reserve).is_ok() {
        dipped += 1;
    }
    assert_eq!((dipped, held + dipped), (10, core.total_pages()));
}

#[test]
fn removal_waits_for_the_last_page_and_cancelling_restores_the_order() {
    let regions: Vec<Region> = (0..4).map(|_| Region::new(32 * PAGE, PAGE)).collect();
    let core = Core::new();
    for region in &regions {
        region.add_to(&core, 0, None).unwrap();
    }
    let starts: Vec<usize> = (0..4).map(|i| core.section(i).unwrap().start).collect();
    assert_eq!(core.isolate(starts[0]).unwrap_err(), RemovalError::Pinned);
    assert_eq!(core.isolate(64).unwrap_err(), RemovalError::NotFound);
    let page = core.alloc_at(starts[2], 3, Kind::Pages, Wait::Spin).unwrap();
    assert_eq!(core.isolate(starts[2]).unwrap_err(), RemovalError::Busy);
    // A deferred free is free, and does not keep the section.
    // SAFETY: allocated above.
    unsafe { core.push_deferred(page, 3) };
    let total = core.total_pages();
    let token = core.isolate(starts[2]).unwrap();
    core.check_invariants();
    assert!(core.total_pages() < total);
    assert_eq!(core.section_count(), 3);
    assert_eq!(core.section(2).unwrap().start, starts[3]);
    assert!(core.lookup_section(starts[2]).is_none());
    assert_eq!(
        core.alloc_at(starts[2], 1, Kind::Pages, Wait::Spin).unwrap_err(),
        PageError::NotFound
    );
    // Still not anybody else's.
    assert_eq!(regions[2].add_to(&core, 0, None).unwrap_err(), AllocError::MemoryOverlap);
    drop(token);
    core.check_invariants();
    assert_eq!((core.total_pages(), core.section(2).unwrap().start), (total, starts[2]));
    let token = core.isolate(starts[1]).unwrap();
    // SAFETY: no other thread is in the core.
    let region = unsafe { core.finish_removal(token) };
    assert_eq!(region, (regions[1].addr(), regions[1].len()));
    regions[1].scribble();
    core.check_invariants();
    // It comes back as the last.
    regions[1].add_to(&core, 0, None).unwrap();
    assert_eq!(core.section(3).unwrap().start, starts[1]);
    core.check_invariants();
}

#[test]
fn slots_are_distinct_and_their_pages_come_back() {
    let region = Region::new(64 * PAGE, PAGE);
    let core = Core::new();
    let section = region.add_to(&core, 0, None).unwrap();
    // SAFETY: stays in the core.
    let section = unsafe { section.as_ref() };
    let mut slots = Vec::new();
    for i in 0..200 {
        let size = if i % 5 == 0 { 100 } else { 256 };
        let slot = core.alloc_slot(section, size, Wait::Spin, false, |_| true).unwrap();
        assert_eq!(slot.addr().get() % 64, 0);
        // SAFETY: ours.
        unsafe { slot.write_bytes(i as u8, size) };
        slots.push((slot, size, i as u8));
        core.check_invariants();
    }
    for (slot, size, stamp) in &slots {
        for at in 0..*size {
            // SAFETY: ours.
            assert_eq!(unsafe { slot.add(at).read() }, *stamp);
        }
    }
    let too_large = core.alloc_slot(section, PAGE, Wait::Spin, false, |_| true);
    assert_eq!(too_large.unwrap_err(), PageError::Invalid);
    let refused = core.alloc_slot(section, 64, Wait::Spin, false, |_| false);
    assert_eq!(refused.unwrap_err(), PageError::Exhausted);
    let twice = slots[7].0;
    // SAFETY: ours.
    unsafe { core.free_slot(section, twice, Wait::Spin) }.unwrap();
    // SAFETY: reported, not believed.
    let again = unsafe { core.free_slot(section, twice, Wait::Spin) };
    assert_eq!(again, Err(PageError::NotAllocated(Misuse::DoubleFree)));
    slots.remove(7);
    for (i, (slot, ..)) in slots.iter().enumerate() {
        // SAFETY: ours.
        unsafe { core.free_slot(section, *slot, Wait::Spin) }
            .unwrap_or_else(|e| panic!("{i} {e:?}"));
    }
    assert_eq!(core.allocated_pages(), 0);
    core.check_invariants();
}

#[test]
fn a_held_lock_makes_others_busy_and_frees_deferred() {
    let region = Region::new(64 * PAGE, PAGE);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    let a = core.alloc(&one()).unwrap();
    let b = core.alloc(&PageRequest::new(6, Kind::Pages)).unwrap();
    let order = Order::ZERO;
    let mut kept = [KeptPage::NOTHING; 2];
    {
        // Held: as good as by what a handler has interrupted.
        let _guard = Guard::try_lock(&core.nodes[0].lock, Rank::Node).unwrap();
        let request = PageRequest { wait: Wait::Try, ..one() };
        assert_eq!(core.alloc(&request).unwrap_err(), PageError::Busy);
        let bounded = PageRequest { wait: Wait::Bounded(5), ..one() };
        assert_eq!(core.alloc(&bounded).unwrap_err(), PageError::Busy);
        assert_eq!(core.alloc_batch(order, NodeId::new(0), Wait::Try, false, &mut kept), 0);
        // SAFETY: ours.
        assert_eq!(unsafe { core.free(a, 1, Wait::Try) }, Err(PageError::Busy));
        // SAFETY: ours, once each.
        unsafe {
            core.free_batch(&[KeptPage::keep(a)], order, Wait::Try);
            core.push_deferred(b, 6);
        }
        assert_eq!(core.deferred_pages(), 7);
        let addr = b.addr();
        assert_eq!(core.claim(addr, 6, Kind::Pages).unwrap_err(), Misuse::DoubleFree);
    }
    assert_eq!(core.drain_deferred(Wait::Spin), 7);
    assert_eq!(core.alloc_batch(order, NodeId::new(0), Wait::Spin, false, &mut kept), 2);
    assert_eq!(core.allocated_pages(), 2);
    // SAFETY: ours.
    unsafe { core.free_batch(&kept, order, Wait::Spin) };
    assert_eq!(core.allocated_pages(), 0);
    core.check_invariants();
}

#[test]
fn a_batch_merges_as_far_as_single_frees_whatever_its_order() {
    let region = Region::new(16 << 20, 4 << 20);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    let blocks = || {
        let free = |order| core.free_blocks(NodeId::new(0), Zone::Normal, order);
        (0..=20).filter_map(Order::new).map(free).collect::<Vec<_>>()
    };
    let fresh = blocks();
    for order in [0, 1, 3].map(|order| Order::new(order).unwrap()) {
        for odd in [1, 5, 27, 37, 63] {
            let mut kept = [KeptPage::NOTHING; 192];
            let got = core.alloc_batch(order, NodeId::new(0), Wait::Spin, false, &mut kept);
            assert_eq!(got, kept.len());
            // An order in which buddies are apart, and some of them in different batches.
            let mut mixed = kept;
            for (index, block) in kept.iter().enumerate() {
                let within = index % 64 * odd % 64;
                mixed[index / 64 + 3 * within] = *block;
            }
            let (first, last) = mixed.split_at(100);
            // SAFETY: ours, once each.
            unsafe { core.free_batch(first, order, Wait::Spin) };
            core.check_invariants();
            // SAFETY: the same.
            unsafe { core.free_batch(last, order, Wait::Spin) };
            core.check_invariants();
            assert_eq!(core.allocated_pages(), 0);
            assert_eq!(blocks(), fresh, "{order:?}, in steps of {odd}");
        }
    }
}

#[test]
fn batches_of_blocks_that_were_never_carved_join_in_either_order() {
    let region = Region::new((64 << 20) + (4 << 20), 4 << 20);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    for (order, most) in [(9, 24), (10, 12), (11, 6)] {
        let order = Order::new(order).unwrap();
        for backwards in [false, true] {
            let mut kept = [KeptPage::NOTHING; 24];
            let kept = &mut kept[..most];
            assert_eq!(core.alloc_batch(order, NodeId::new(0), Wait::Spin, false, kept), most);
            kept.sort_by_key(|block| block.addr());
            for block in &*kept {
                // SAFETY: ours.
                assert_eq!(unsafe { block.count() }, order.pages());
                assert_eq!(block.addr() % (order.pages() * PAGE), 0);
            }
            let nearest = kept.windows(2).map(|two| two[1].addr() - two[0].addr()).min();
            assert_eq!(
                nearest.unwrap(),
                order.pages() * PAGE,
                "some lie side by side, none overlap"
            );
            core.check_invariants();
            if backwards {
                kept.reverse();
            }
            // SAFETY: ours, once each.
            unsafe { core.free_batch(kept, order, Wait::Spin) };
            core.check_invariants();
            assert_eq!(core.allocated_pages(), 0);
        }
    }
}

#[test]
fn deferred_blocks_keep_their_count_even_when_never_carved() {
    let region = Region::new(40 << 20, 4 << 20);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    let counts = [1024, 2048, 1, 2, 3, 1025, 1500, 7];
    let blocks: Vec<_> = counts
        .iter()
        .map(|&count| (core.alloc(&PageRequest::new(count, Kind::Pages)).unwrap(), count))
        .collect();
    core.check_invariants();
    for (page, count) in blocks {
        // SAFETY: ours.
        unsafe { core.push_deferred(page, count) };
    }
    assert_eq!(core.deferred_pages(), counts.iter().sum::<usize>());
    assert_eq!(core.allocated_pages(), 0);
    assert_eq!(core.drain_deferred(Wait::Try), counts.iter().sum::<usize>());
    core.check_invariants();
}

#[test]
fn reserved_pages_leave_management() {
    let region = Region::new(64 * PAGE, PAGE);
    let core = Core::new();
    region.add_to(&core, 0, None).unwrap();
    let (start, total) = (core.section(0).unwrap().start, core.total_pages());
    core.reserve(start + 5 * PAGE + 100, 2 * PAGE, Wait::Spin).unwrap();
    assert_eq!((core.total_pages(), core.allocated_pages()), (total - 3, 0));
    assert_eq!(
        core.alloc_at(start + 7 * PAGE, 1, Kind::Pages, Wait::Spin).unwrap_err(),
        PageError::Exhausted
    );
    assert_eq!(core.claim(start + 6 * PAGE, 1, Kind::Pages).unwrap_err(), Misuse::NotAllocated);
    assert_eq!(core.reserve(start, 0, Wait::Spin), Err(PageError::Invalid));
    assert_eq!(core.reserve(start, usize::MAX, Wait::Spin), Err(PageError::Invalid));
    core.check_invariants();
}
