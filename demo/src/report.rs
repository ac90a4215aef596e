//! Where the memory went: free blocks, slabs, a map, fragmentation, and what is still held.

use std::fmt::Display;
use std::io::{self, Write};

use buddy_slab_allocator::inspect::Snapshot;

use crate::heap::{self, PAGE_SIZE};
use crate::text::{Bytes, Share};

/// Order of the largest free block; `None` if nothing is free. Allocates nothing.
pub fn largest_free_order(snapshot: &Snapshot) -> Option<usize> {
    let orders = 0..snapshot.free_blocks[0].len();
    orders.rev().find(|&order| snapshot.free_blocks.iter().any(|zone| zone[order] > 0))
}

/// Free pages: on the lists, at hand in CPUs' heaps, and on their way back.
pub fn free_pages(snapshot: &Snapshot) -> usize {
    snapshot.listed_free_pages()
        + snapshot.cached_pages
        + snapshot.stock_pages
        + snapshot.deferred_pages
}

/// Whether the figures of a snapshot at rest add up: every page is free, in use or the
/// allocator's own, and no class holds more objects than it has room for.
pub fn adds_up(snapshot: &Snapshot) -> bool {
    let pages = free_pages(snapshot) + snapshot.allocated_bytes / PAGE_SIZE;
    pages * PAGE_SIZE == snapshot.managed_bytes
        && snapshot.heaps_not_seen == 0
        && snapshot.classes.iter().all(|class| class.objects_live <= class.objects_total)
}

/// Prints one state of the heap: lists, slabs, map and fragmentation.
pub fn describe(out: &mut dyn Write, title: &str, snapshot: &Snapshot) -> io::Result<()> {
    writeln!(out, "\n== Memory {title} ==")?;
    writeln!(
        out,
        "{} of {} in use",
        Bytes::of(snapshot.allocated_bytes),
        Bytes::of(snapshot.managed_bytes)
    )?;
    writeln!(out, "\nFree blocks by order (of 2^order pages)\n{}", snapshot.buddyinfo())?;
    writeln!(out, "\nSlabs by size class\n{}", snapshot.slabinfo())?;
    writeln!(out, "\nMap of the heap\n{}", heap::map(64, 12))?;
    fragmentation(out, snapshot)
}

fn fragmentation(out: &mut dyn Write, snapshot: &Snapshot) -> io::Result<()> {
    const HUGE_ORDER: usize = (2_usize << 20).ilog2() as usize - PAGE_SIZE.ilog2() as usize;
    let live: usize = snapshot.classes.iter().map(|c| c.objects_live * c.size).sum();
    let slabs: usize = snapshot.classes.iter().map(|c| c.pages * PAGE_SIZE).sum();
    let free = free_pages(snapshot);
    let unusable = snapshot.fragmentation_permille(HUGE_ORDER);
    let largest = largest_free_order(snapshot).map_or(0, |order| PAGE_SIZE << order);
    writeln!(out, "\nFragmentation")?;
    writeln!(
        out,
        "  inside slabs: {} of objects in {} of pages ({} used)",
        Bytes::of(live),
        Bytes::of(slabs),
        Share { part: live, whole: slabs }
    )?;
    writeln!(
        out,
        "  among pages:  {} free, {}.{} % of it in blocks below 2 MiB; the largest block is {}",
        Bytes::of(free * PAGE_SIZE),
        unusable / 10,
        unusable % 10,
        Bytes::of(largest)
    )
}

/// Prints what is held, class by class, next to what was held before the index existed.
///
/// Returns whether nothing was added.
pub fn compare(out: &mut dyn Write, before: &Snapshot, after: &Snapshot) -> io::Result<bool> {
    writeln!(out, "\n== Objects held: before the index, and after it was dropped ==")?;
    writeln!(out, "{:>10} {:>10} {:>10} {:>12}", "class", "before", "after", "of the index")?;
    let mut clean = true;
    let mut row = |name: &dyn Display, was: usize, is: usize| {
        clean &= is <= was;
        if was == 0 && is == 0 {
            return Ok(());
        }
        writeln!(out, "{name:>10} {was:>10} {is:>10} {:>12}", is.saturating_sub(was))
    };
    for (was, is) in before.classes.iter().zip(&after.classes) {
        row(&is.size, was.objects_live, is.objects_live)?;
    }
    row(&"pages", before.large_pages, after.large_pages)?;
    let objects: usize = after.classes.iter().map(|c| c.objects_live * c.size).sum();
    let held = Bytes::of(objects + after.large_pages * PAGE_SIZE);
    if clean {
        writeln!(out, "Nothing of the index is left. What remains, {held}, is the runtime's,")?;
        writeln!(out, "the command line's and the list of files'.")?;
    } else {
        writeln!(out, "Something of the index is LEFT: see the last column.")?;
    }
    Ok(clean)
}
