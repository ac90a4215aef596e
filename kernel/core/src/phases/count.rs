//! Instructions per allocation and free, inside the kernel, under QEMU's `-icount shift=0`.

use core::alloc::Layout;
use core::hint::black_box;

use crate::arch::Arch;
use crate::say;

const PAIRS: u64 = 2000;

/// Counts pairs of allocation and free: least of many, since interrupts may hit some.
pub fn run<A: Arch>() {
    say!(A, "\n== instructions for an allocation and its free ==");
    for size in [16usize, 64, 256, 1024, 4096] {
        let Ok(layout) = Layout::from_size_align(size, 8) else { continue };
        let (mut least_alloc, mut least_free) = (u64::MAX, u64::MAX);
        // One more lives, so that the slab does not become empty each time.
        let Ok(other) = A::heap().alloc(layout) else { panic!("{size} bytes: refused") };
        for _ in 0..PAIRS {
            let start = A::instructions();
            let object = A::heap().alloc(black_box(layout));
            let middle = A::instructions();
            let Ok(object) = object else { panic!("{size} bytes: refused") };
            let between = A::instructions();
            // SAFETY: just allocated with this layout.
            unsafe { A::heap().dealloc(black_box(object), black_box(layout)) };
            let end = A::instructions();
            least_alloc = least_alloc.min(middle - start);
            least_free = least_free.min(end - between);
        }
        // SAFETY: allocated above with this layout.
        unsafe { A::heap().dealloc(other, layout) };
        say!(A, "count object {size:>5} bytes: alloc {least_alloc}, free {least_free}");
    }
    let (mut least_alloc, mut least_free) = (u64::MAX, u64::MAX);
    for _ in 0..PAIRS {
        let start = A::instructions();
        let page = A::heap().alloc_pages(black_box(1), 0);
        let middle = A::instructions();
        let Ok(page) = page else { panic!("no page") };
        let between = A::instructions();
        A::heap().dealloc_pages(black_box(page), black_box(1));
        let end = A::instructions();
        least_alloc = least_alloc.min(middle - start);
        least_free = least_free.min(end - between);
    }
    say!(A, "count page: alloc {least_alloc}, free {least_free}");
    let (start, end) = (A::instructions(), A::instructions());
    say!(A, "count reading the counter: {}", end - start);
}
