//! Where a region went: the bytes that were requested, and six ways to lose the others.

use std::alloc::Layout;

use buddy_slab_allocator::{GlobalAllocator, SizeClass};

use crate::table;
use crate::workloads::Scale;
use crate::workloads::space::{Filling, REGION_BYTES, REPLACEMENTS, When, fill_region};

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

const SEEDS: [u64; 3] = [1, 2, 3];

/// Prints the tables.
pub fn print() {
    for (name, most) in [("8 B to 2 KiB", 2 << 10), ("8 B to 128 KiB", 128 << 10)] {
        let account = |when: When, seed: u64| {
            let look = |heap: &GlobalAllocator, live: &[_]| {
                let layouts = live.iter().map(crate::workloads::space::Live::layout);
                Account::of(heap, REGION_BYTES, layouts)
            };
            fill_region(Filling { most, when }, seed, Scale::Full, look).1
        };
        let accounts = SEEDS.map(|seed| [account(When::Fresh, seed), account(When::Churned, seed)]);
        let title = format!(
            "account: {name}, {} MiB, {REPLACEMENTS} replacements, mean of {} seeds",
            REGION_BYTES >> 20,
            SEEDS.len()
        );
        table::print(&title, &["", "fill", "churn"], &Account::rows(&accounts, REGION_BYTES));
    }
}

/// Bytes of a region by use, in the order of `PARTS`.
///
/// # Invariants
/// - They add up to the region, as far as the last part, a remainder, does not go below zero.
struct Account([f64; PARTS.len()]);

impl Account {
    /// The account of a heap over a region of that length, whose live allocations are `live`.
    fn of(heap: &GlobalAllocator, region: usize, live: impl Iterator<Item = Layout>) -> Self {
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
    fn rows(accounts: &[[Self; 2]], region: usize) -> Vec<Vec<String>> {
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
