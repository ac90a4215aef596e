//! Page tables made of the heap's pages, by every CPU.

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::Arch;
use crate::pattern::{self, Pages, Random};
use crate::{PAGE_SIZE, say, thread};

/// A zeroed page for a table.
///
/// # Panics
/// If there is none.
pub fn frame<A: Arch>() -> usize {
    let Ok(addr) = A::heap().alloc_pages(1, 0) else { panic!("no page for a table") };
    // SAFETY: just allocated.
    unsafe { ptr::with_exposed_provenance_mut::<u8>(addr).write_bytes(0, PAGE_SIZE) };
    addr
}

/// Gives a table's page back.
pub fn free_frame<A: Arch>(addr: usize) {
    A::heap().dealloc_pages(addr, 1);
}

const PAGES: usize = 8;

/// Maps scattered pages one after the other, in tables of their own, writes through the mapping, and
/// verifies by the direct one.
pub(super) fn run<A: Arch>(percent: usize) {
    let rounds = 20 * percent / 100;
    let tables = AtomicUsize::new(0);
    thread::on_each_cpu::<A>(&|index| {
        let mut random = Random::new(index as u64 + 600);
        for _ in 0..rounds {
            let mut pages = [const { None }; PAGES];
            for page in &mut pages {
                match Pages::alloc::<A>(1, 0) {
                    Ok(new) => *page = Some(new),
                    Err(error) => panic!("a page: {error}"),
                }
            }
            let addrs = pages.each_ref().map(|page| page.as_ref().map_or(0, |page| page.addr));
            let tag = random.next_number();
            let enabled = A::mask();
            let used = A::with_mapping(&addrs, &mut |base| {
                for i in 0..PAGES * PAGE_SIZE / 8 {
                    // SAFETY: the mapping is as long, and the pages are this thread's.
                    unsafe {
                        base.cast::<u64>().add(i).write_volatile(tag.wrapping_mul(i as u64 + 1))
                    };
                }
            });
            // SAFETY: from the `mask` above.
            unsafe { A::restore(enabled) };
            tables.fetch_add(used, Ordering::Relaxed);
            for (number, addr) in addrs.iter().enumerate() {
                let words = PAGE_SIZE / 8;
                for i in 0..words {
                    let word: *const u64 = ptr::with_exposed_provenance(addr + i * 8);
                    // SAFETY: the page is this thread's.
                    let found = unsafe { word.read_volatile() };
                    let expected = tag.wrapping_mul((number * words + i) as u64 + 1);
                    assert!(found == expected, "page {number} was mapped elsewhere");
                }
                // SAFETY: the same; restored for the page's own check.
                unsafe { pattern::fill(*addr, PAGE_SIZE, 1) };
            }
            pages.into_iter().flatten().for_each(Pages::free::<A>);
        }
    });
    say!(
        A,
        "{} pages of tables, written through {rounds} times a CPU",
        tables.load(Ordering::Relaxed)
    );
    assert!(tables.load(Ordering::Relaxed) != 0, "no tables were made");
}
