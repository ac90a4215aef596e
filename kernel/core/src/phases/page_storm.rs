//! Pages in all shapes from all CPUs at once.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::PageOptions;

use crate::arch::Arch;
use crate::pattern::{Pages, Random};
use crate::thread;
use crate::{PAGE_SIZE, cpu, say};

const HELD: usize = 32;

/// Threads hold blocks of random counts and alignments, and replace random ones.
pub(super) fn run<A: Arch>(percent: usize) {
    let rounds = 1500 * percent / 100;
    let (blocks, pages) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::crowd::<A>(2 * cpu::count(), &|index| {
        let mut random = Random::new(index as u64 + 100);
        let mut held: Vec<Pages> = Vec::with_capacity(HELD);
        for _ in 0..rounds {
            if held.len() == HELD {
                held.swap_remove(random.below(HELD)).free::<A>();
            }
            let count = if random.below(4) == 0 { 1 + random.below(40) } else { 1 };
            let align = PAGE_SIZE << if random.below(16) == 0 { random.below(9) } else { 0 };
            match Pages::alloc::<A>(count, align) {
                Ok(block) => held.push(block),
                Err(error) => panic!("{count} pages aligned to {align}: {error}"),
            }
            blocks.fetch_add(1, Ordering::Relaxed);
            pages.fetch_add(count, Ordering::Relaxed);
        }
        held.into_iter().for_each(Pages::free::<A>);

        // Many at once, and one that grows and shrinks in place.
        let mut many = [0; 100];
        let got = A::heap().alloc_pages_bulk(&mut many).unwrap_or_else(|error| panic!("{error}"));
        assert!(got == many.len(), "{got} pages of {}", many.len());
        A::heap().dealloc_pages_bulk(&many);
        let block = A::heap()
            .alloc_block_of(7, &PageOptions::default())
            .unwrap_or_else(|error| panic!("{error}"));
        assert!(block.page_count() == 7, "a block of {} pages", block.page_count());
        drop(block);
    });
    say!(A, "{} blocks, {} pages", blocks.load(Ordering::Relaxed), pages.load(Ordering::Relaxed));
}
