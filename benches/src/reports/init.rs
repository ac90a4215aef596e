//! What initialising a region touches, and how long it takes.
//!
//! The region is fresh address space, so that every touched page is one that the system had to
//! find and clear: the time is mostly that. Huge pages are off in it.

use std::time::Instant;

use buddy_slab_allocator::GlobalAllocator;
use testkit::Reservation;

use crate::platforms::{HOST, NO_WORD, Pinned};
use crate::stats::median;
use crate::table;

const GIB: usize = 1 << 30;
const TIMES: usize = 5;

/// Prints the table.
pub fn print() {
    let mut rows = Vec::new();
    for size_bytes in [1024 * GIB, 64 * GIB] {
        rows.push(row("ours, physical addresses known", size_bytes, |region| {
            let heap = Box::new(GlobalAllocator::<0x1000>::new());
            // SAFETY: the region is used by nobody else, and outlives the heap, which is
            // dropped here without having handed anything out.
            unsafe { heap.init(region, 1, &HOST) }.expect("init");
        }));
        rows.push(row("ours, pinned, not known", size_bytes, |region| {
            let heap = Box::new(GlobalAllocator::<0x1000, _>::with_platform(Pinned::<NO_WORD>));
            // SAFETY: as above.
            unsafe { heap.init_raw(region.as_mut_ptr(), region.len(), 1) }.expect("init");
        }));
    }
    rows.push(row("0.3.0", 64 * GIB, |region| {
        let heap = Box::new(predecessor::GlobalAllocator::<0x1000>::new());
        // SAFETY: as above.
        unsafe { heap.init(region, 1, &HOST) }.expect("init");
    }));
    let title = format!("init: fresh address space, median of {TIMES}");
    table::print(&title, &["engine", "region", "touched", "per GiB", "time"], &rows);
}

fn row(name: &str, size_bytes: usize, init: impl Fn(&mut [u8])) -> Vec<String> {
    let gib = size_bytes / GIB;
    let mut row = vec![name.to_owned(), format!("{gib} GiB")];
    let mut touched_bytes = 0;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let Some(mut region) = Reservation::new(size_bytes, 1 << 22) else {
            row.extend(["skipped: mmap refused".to_owned(), String::new(), String::new()]);
            return row;
        };
        let bytes = region.bytes_mut();
        let start = Instant::now();
        init(bytes);
        times.push(start.elapsed().as_secs_f64() * 1e3);
        touched_bytes = region.touched_bytes();
    }
    row.push(format!("{:.0} KiB", touched_bytes as f64 / 1024.0));
    row.push(format!("{:.2} KiB", touched_bytes as f64 / 1024.0 / gib as f64));
    row.push(format!("{:.2} ms", median(times.into_iter())));
    row
}
