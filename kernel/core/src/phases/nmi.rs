//! NMIs from CPU to CPU: their handlers allocate and free, wherever they hit.

use core::alloc::Layout;
use core::sync::atomic::Ordering;

use crate::arch::Arch;
use crate::pattern::{Object, Pages, Random};
use crate::{cpu, say, scheduler, thread};

/// How many NMIs have to interrupt the allocator.
const MIN_NESTED: usize = 50;
const TIME_LIMIT_NS: u64 = 60_000_000_000;

/// Each CPU works, and sends NMIs to the next one (alone: to itself) meanwhile.
pub(super) fn run<A: Arch>(percent: usize) {
    assert!(A::HAS_NMI, "this machine has no NMIs");
    let cpus = cpu::count();
    let wanted = MIN_NESTED * percent / 100;
    let heap = A::heap();
    let before = heap.reentry_count();
    thread::on_each_cpu::<A>(&|index| {
        let mut random = Random::new(index as u64 + 700);
        let start = A::now_ns();
        while heap.reentry_count() - before < wanted {
            assert!(A::now_ns() - start < TIME_LIMIT_NS, "too few NMIs interrupted the allocator");
            A::send_nmi((index + 1) % cpus);
            for _ in 0..1 + random.below(8) {
                let Ok(layout) = Layout::from_size_align(random.size(12), 8) else { continue };
                match Object::alloc::<A>(layout) {
                    Ok(object) => object.free::<A>(),
                    Err(error) => panic!("{layout:?}: {error}"),
                }
            }
            match Pages::alloc::<A>(1 + random.below(5), 0) {
                Ok(pages) => pages.free::<A>(),
                Err(error) => panic!("pages: {error}"),
            }
            scheduler::yield_now::<A>();
        }
    });
    let nested = heap.reentry_count() - before;
    let work: usize = cpu::all().map(|local| local.nmi_work.load(Ordering::Relaxed)).sum();
    say!(A, "{work} allocations and frees in NMIs; {nested} interrupted the allocator");
    assert!(work > 0, "no NMI came");
    super::interrupts::refusals();
}
