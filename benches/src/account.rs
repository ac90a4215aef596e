//! Where a region went: the bytes that were requested, and six ways to lose the others.

use std::alloc::Layout;

use buddy_slab_allocator::{GlobalAllocator, SizeClass};

const PAGE_BYTES: usize = 0x1000;
const PARTS: [&str; 9] = [
    "requested",
    "rounding to the class",
    "free objects in slabs",
    "slab tails",
    "rounding to pages (large)",
    "free pages",
    "tables of sections",
    "page metadata, heaps",
    "slab descriptors (the rest)",
];

/// Bytes of a region by use, in the order of `PARTS`.
///
/// # Invariants
/// - They add up to the region, as far as the last part, a remainder, does not go below zero.
pub struct Account([f64; PARTS.len()]);

impl Account {
    /// The account of a heap over a region of that length, whose live allocations are `live`.
    pub fn of(heap: &GlobalAllocator, region: usize, live: impl Iterator<Item = Layout>) -> Self {
        let snapshot = heap.snapshot();
        let (mut small, mut large, mut large_pages) = (0, 0, 0);
        for layout in live {
            if SizeClass::from_layout(layout).is_some() {
                small += layout.size();
            } else {
                large += layout.size();
                large_pages += layout.size().div_ceil(PAGE_BYTES);
            }
        }
        let sum = |of: &dyn Fn(&buddy_slab_allocator::inspect::ClassInfo) -> usize| -> usize {
            snapshot.classes.iter().map(of).sum()
        };
        let live_bytes = sum(&|class| class.objects_live * class.size);
        let object_bytes = sum(&|class| class.objects_total * class.size);
        let slab_bytes = sum(&|class| class.pages) * PAGE_BYTES;
        let internal = snapshot.internal_pages * PAGE_BYTES;
        let known = slab_bytes + large_pages * PAGE_BYTES;
        // INVARIANT: region = (region - managed) + (managed - allocated) + allocated, and
        // allocated = slabs + large + the rest.
        Self([
            (small + large) as f64,
            live_bytes as f64 - small as f64,
            (object_bytes - live_bytes) as f64,
            (slab_bytes - object_bytes) as f64,
            (large_pages * PAGE_BYTES - large) as f64,
            (snapshot.managed_bytes - snapshot.allocated_bytes) as f64,
            internal as f64,
            (region - snapshot.managed_bytes - internal) as f64,
            snapshot.allocated_bytes as f64 - known as f64,
        ])
    }

    /// The rows of a table: the mean of each part, in per cent of the region, of both columns.
    pub fn rows(accounts: &[[Self; 2]], region: usize) -> Vec<Vec<String>> {
        let row = |(part, name): (usize, &&str)| {
            let mut row = vec![(*name).to_owned()];
            row.extend((0..2).map(|column| {
                let bytes: f64 = accounts.iter().map(|account| account[column].0[part]).sum();
                format!("{:.2} %", bytes / accounts.len() as f64 / region as f64 * 100.0)
            }));
            row
        };
        PARTS.iter().enumerate().map(row).collect()
    }
}
