//! A region that comes while the heap is in use, and serves.

use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::arch::Arch;
use crate::boot::HotRegion;
use crate::pattern::Pages;
use crate::{cpu, say, thread};

/// Adds the region while threads allocate, then fills the heap until the region serves.
pub(super) fn run<A: Arch>(hot: HotRegion) {
    let heap = A::heap();
    let before = heap.managed_bytes();
    let added = AtomicBool::new(false);
    let inside = AtomicUsize::new(0);
    thread::crowd::<A>(cpu::count() + 1, &|index| {
        if index == 0 {
            // SAFETY: firmware's free memory, held back at boot, used by nobody.
            let result = unsafe {
                heap.add_region_raw(ptr::with_exposed_provenance_mut(hot.base), hot.len_bytes, 0)
            };
            if let Err(error) = result {
                panic!("the region cannot be added: {error}");
            }
            added.store(true, Ordering::Release);
            return;
        }
        let mut held = Vec::new();
        while !added.load(Ordering::Acquire) {
            match Pages::alloc::<A>(3, 0) {
                Ok(pages) => pages.free::<A>(),
                Err(error) => panic!("3 pages: {error}"),
            }
        }
        while let Ok(pages) = Pages::alloc::<A>(64, 0) {
            let is_new = (hot.base..hot.base + hot.len_bytes).contains(&pages.addr);
            held.push(pages);
            if is_new {
                inside.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        held.into_iter().for_each(Pages::free::<A>);
    });
    let grown = heap.managed_bytes() - before;
    say!(
        A,
        "{} KiB more; {} threads got blocks from there",
        grown / 1024,
        inside.load(Ordering::Relaxed)
    );
    assert!(grown > hot.len_bytes * 9 / 10, "only {grown} bytes of {} came", hot.len_bytes);
    assert!(inside.load(Ordering::Relaxed) != 0, "the new region serves nobody");
}
