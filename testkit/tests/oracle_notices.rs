//! The kit itself: a good heap passes, and each way of lying is noticed.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::cell::Cell;
use std::ops::Range;
use std::ptr::NonNull;

use testkit::op::Op;
use testkit::runner::Runner;
use testkit::watchdog::within;
use testkit::{Heap, Region};

/// How a heap breaks its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    Overlap,
    Outside,
    Misaligned,
    DirtyZeros,
    Scribbles,
}

/// Hands out ascending addresses and never takes one back.
struct Bump {
    region: Region,
    next: Cell<usize>,
    lie: Lie,
}

impl Bump {
    fn new(lie: Lie) -> Self {
        let region = Region::new(1 << 20);
        let next = Cell::new(region.range().start);
        Self { region, next, lie }
    }

    fn bump(&self, size: usize, align: usize) -> Option<NonNull<u8>> {
        let range = self.region.range();
        let mut at = self.next.get().next_multiple_of(align);
        match self.lie {
            Lie::Overlap if at > range.start + 64 => at = (at - 64).next_multiple_of(align),
            Lie::Misaligned => at += align / 2,
            Lie::Outside => at = range.end - (size / 2).next_multiple_of(align),
            _ => {}
        }
        if self.lie != Lie::Outside && at + size > range.end {
            return None;
        }
        self.next.set(self.next.get().max(at + size.max(1)));
        NonNull::new(self.region.as_mut_ptr().wrapping_add(at - range.start))
    }
}

impl Heap for Bump {
    fn page_size(&self) -> usize {
        4096
    }

    fn alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        let ptr = self.bump(layout.size(), layout.align());
        if self.lie == Lie::Scribbles {
            // SAFETY: the start of the region, which is the first allocation's.
            unsafe { self.region.as_mut_ptr().write(0) };
        }
        ptr
    }

    fn alloc_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        let ptr = self.alloc(layout)?;
        if self.lie != Lie::DirtyZeros {
            // SAFETY: fresh memory of this size.
            unsafe { ptr.write_bytes(0, layout.size()) };
        }
        Some(ptr)
    }

    unsafe fn dealloc(&self, _: NonNull<u8>, _: Layout) {}

    fn alloc_pages(&self, count: usize, align: usize) -> Option<usize> {
        Some(self.bump(count * 4096, align)?.as_ptr().expose_provenance())
    }

    fn dealloc_pages(&self, _: usize, _: usize) {}

    fn sections(&self) -> Vec<Range<usize>> {
        vec![self.region.range()]
    }
}

fn drive(lie: Lie) {
    let heap = Bump::new(lie);
    heap.region.as_mut_ptr().expose_provenance();
    let ops = [
        Op::Alloc { size: 100, align: 8, zeroed: false },
        Op::Alloc { size: 200, align: 64, zeroed: true },
        Op::AllocPages { count: 3, align_shift: 1 },
        Op::Realloc { nth: 0, size: 900 },
        Op::Free { nth: 1 },
        Op::FreePages { nth: 7 },
        Op::Exhaust { size: 4000 },
        Op::FreeAll,
    ];
    Runner::new(&heap).run(&ops);
}

#[test]
fn an_honest_heap_passes() {
    drive(Lie::None);
}

#[test]
#[should_panic(expected = "overlaps the live")]
fn an_overlap_is_noticed() {
    drive(Lie::Overlap);
}

#[test]
#[should_panic(expected = "not inside one managed section")]
fn an_address_outside_is_noticed() {
    drive(Lie::Outside);
}

#[test]
#[should_panic(expected = "not aligned")]
fn a_misaligned_address_is_noticed() {
    drive(Lie::Misaligned);
}

#[test]
#[should_panic(expected = "is not zero")]
fn dirty_zeros_are_noticed() {
    drive(Lie::DirtyZeros);
}

#[test]
#[should_panic(expected = "was overwritten")]
fn a_scribble_is_noticed() {
    drive(Lie::Scribbles);
}

#[test]
#[should_panic(expected = "after the region")]
fn a_write_beyond_a_region_is_noticed() {
    let region = Region::with_offset(5000, 64, 3);
    assert_eq!(region.range().start % 64, 3);
    // SAFETY: the byte after the region is a guard inside the same block.
    unsafe { region.as_mut_ptr().add(5000).write(0) };
}

#[test]
#[should_panic(expected = "it hangs")]
fn a_hang_is_noticed() {
    within(1, || std::thread::sleep(std::time::Duration::from_secs(3)));
}

#[test]
#[cfg(unix)]
fn a_reservation_costs_only_what_is_touched() {
    let len = 1 << if usize::BITS == 64 { 36 } else { 29 };
    let mut map = testkit::Reservation::new(len, 1 << 22).expect("address space");
    assert_eq!(map.range().start % (1 << 22), 0);
    assert_eq!(map.touched_bytes(), 0);
    map.part_mut(len / 2, 4096)[7] = 1;
    assert!((4096..=65_536).contains(&map.touched_bytes()));
}
