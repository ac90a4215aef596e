//! Where in a region the pages and the metadata lie: pure arithmetic on addresses.
//!
//! ```text
//! base      heap                                  header                      end
//!  │ < page │ page 0 │ page 1 │ …      │ < page   │ Section │ extra │ PageMeta[] │ state[] │
//! ```
//!
//! The metadata goes to the end, so that the heap begins as well aligned as the region allows.
//! Where a reserved range is in the way, it goes below that range, and the pages that it covers
//! count as reserved.

use crate::buddy::page_meta::{PFN_NONE, PageMeta};
use crate::error::AllocError;

/// Bytes of a carve block: the unit in which metadata is initialised and `virt_to_phys` asked.
pub(super) const CARVE_BYTES: usize = 4 << 20;
/// Alignment of the header and of the extra bytes.
pub(super) const META_ALIGN: usize = 64;
/// Largest number of pages in a section: page numbers stay below "no page".
const MAX_PAGES: usize = PFN_NONE as usize - 1;

/// What has to fit into the region.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    pub page_size: usize,
    pub header_bytes: usize,
    pub extra_bytes: usize,
}

/// Addresses of the parts of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// First page.
    pub heap: usize,
    /// Pages from there, reserved ones included.
    pub pages: usize,
    /// Header; the extra bytes follow it.
    pub header: usize,
    pub extra: usize,
    pub metas: usize,
    pub states: usize,
    /// One past the metadata.
    pub meta_end: usize,
    /// Number of carve blocks that the pages touch.
    pub carve_blocks: usize,
}

impl Needs {
    const fn align_up(value: usize, align: usize) -> Option<usize> {
        match value.checked_add(align - 1) {
            Some(sum) => Some(sum & !(align - 1)),
            None => None,
        }
    }

    /// Carve blocks touched by `pages` pages from address `heap`.
    const fn carve_blocks(self, heap: usize, pages: usize) -> usize {
        if pages == 0 {
            return 0;
        }
        let unit = if self.page_size > CARVE_BYTES { self.page_size } else { CARVE_BYTES };
        let last = heap + (pages * self.page_size - 1);
        last / unit - heap / unit + 1
    }

    /// Bytes before the page metadata.
    const fn fixed(self) -> Option<usize> {
        let Some(sum) = self.header_bytes.checked_add(self.extra_bytes) else { return None };
        Self::align_up(sum, META_ALIGN)
    }

    /// Bytes of metadata for `pages` pages in `carve_blocks` blocks.
    pub(super) const fn metadata_bytes(self, pages: usize, carve_blocks: usize) -> Option<usize> {
        let Some(fixed) = self.fixed() else { return None };
        let Some(metas) = pages.checked_mul(size_of::<PageMeta>()) else { return None };
        let Some(sum) = fixed.checked_add(metas) else { return None };
        let Some(sum) = sum.checked_add(carve_blocks) else { return None };
        Self::align_up(sum, META_ALIGN)
    }

    /// Plans a section in the `len` bytes from address `base`.
    ///
    /// # Errors
    /// `InvalidParam` if the range wraps, or does not hold the metadata and one page.
    pub(super) fn plan<I>(self, base: usize, len: usize, reserved: I) -> Result<Plan, AllocError>
    where
        I: Iterator<Item = (usize, usize)> + Clone,
    {
        let last = len
            .checked_sub(1)
            .and_then(|rest| base.checked_add(rest))
            .ok_or(AllocError::InvalidParam)?;
        // The last byte of the address space has no address after it: leave it out.
        let end = last.saturating_add(1);
        // The page at address 0 is never handed out: its address means "nothing".
        let heap = Self::align_up(base, self.page_size)
            .map(|start| start.max(self.page_size))
            .filter(|start| *start < end)
            .ok_or(AllocError::InvalidParam)?;
        let plan = self.plan_at_end(heap, end).ok_or(AllocError::InvalidParam)?;
        if !reserved.clone().any(|range| overlaps(range, plan.header, plan.meta_end)) {
            return Ok(plan);
        }
        self.plan_below_reserved(heap, end, reserved).ok_or(AllocError::InvalidParam)
    }

    /// Metadata at the very end, after the last page.
    fn plan_at_end(self, heap: usize, end: usize) -> Option<Plan> {
        let room = (end - heap).checked_sub(self.fixed()?)?;
        let mut pages = (room / self.page_size.checked_add(size_of::<PageMeta>())?).min(MAX_PAGES);
        let header = loop {
            if pages == 0 {
                return None;
            }
            let bytes = self.metadata_bytes(pages, self.carve_blocks(heap, pages))?;
            let header = end.checked_sub(bytes)? & !(META_ALIGN - 1);
            let heap_end = heap + pages * self.page_size;
            if heap_end <= header {
                break header;
            }
            pages -=
                (heap_end - header).div_ceil(self.page_size + size_of::<PageMeta>()).min(pages);
        };
        self.place(heap, pages, header)
    }

    /// Metadata in the highest gap between reserved ranges that is large enough.
    fn plan_below_reserved<I>(self, heap: usize, end: usize, reserved: I) -> Option<Plan>
    where
        I: Iterator<Item = (usize, usize)> + Clone,
    {
        let pages = ((end - heap) / self.page_size).min(MAX_PAGES);
        let bytes = self.metadata_bytes(pages, self.carve_blocks(heap, pages))?;
        let mut ceiling = end;
        loop {
            let header = ceiling.checked_sub(bytes)? & !(META_ALIGN - 1);
            if header < heap {
                return None;
            }
            // Reserved ranges count in whole pages.
            let lowest = reserved
                .clone()
                .filter(|range| overlaps(*range, header & !(self.page_size - 1), ceiling))
                .map(|(start, _)| start & !(self.page_size - 1))
                .min();
            match lowest {
                None => return self.place(heap, pages, header),
                Some(start) => ceiling = start,
            }
        }
    }

    fn place(self, heap: usize, pages: usize, header: usize) -> Option<Plan> {
        let carve_blocks = self.carve_blocks(heap, pages);
        let metas = header + self.fixed()?;
        let states = metas + pages * size_of::<PageMeta>();
        Some(Plan {
            heap,
            pages,
            header,
            extra: header + self.header_bytes,
            metas,
            states,
            meta_end: states + carve_blocks,
            carve_blocks,
        })
    }
}

impl Plan {
    /// The page numbers that the reserved range (address, bytes) touches.
    pub(super) fn pages_touched(
        &self,
        (start, len): (usize, usize),
        page_size: usize,
    ) -> Option<(usize, usize)> {
        let last = start.saturating_add(len.checked_sub(1)?);
        let heap_last = self.heap + (self.pages * page_size - 1);
        if last < self.heap || start > heap_last {
            return None;
        }
        let first_page = (start.max(self.heap) - self.heap) / page_size;
        let last_page = (last.min(heap_last) - self.heap) / page_size;
        Some((first_page, last_page + 1))
    }
}

/// Whether the reserved range (address, bytes) touches `[from, to)`.
fn overlaps((start, len): (usize, usize), from: usize, to: usize) -> bool {
    match len.checked_sub(1) {
        None => false,
        Some(rest) => start < to && start.saturating_add(rest) >= from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::iter;

    const NEEDS: Needs = Needs { page_size: 4096, header_bytes: 1024, extra_bytes: 100 };

    fn hold_together(plan: Plan, base: usize, len: usize) {
        assert_eq!(plan.heap % 4096, 0);
        assert_eq!(plan.header % META_ALIGN, 0);
        assert_eq!(plan.metas % META_ALIGN, 0);
        assert!(plan.heap >= base.max(4096));
        assert!(plan.extra + NEEDS.extra_bytes <= plan.metas);
        assert!(plan.meta_end - 1 <= base + (len - 1));
        assert!(plan.pages >= 1);
    }

    #[test]
    fn pages_come_first_and_metadata_last_whatever_the_region() {
        for base in [0, 1, 63, 4095, 4096, 0x20_0000, 0x3F_F001, 0x40_0000] {
            for len in [16 << 10, 100_001, 1 << 20, (8 << 20) + 77, 1 << 30] {
                let plan = NEEDS.plan(base, len, iter::empty()).unwrap();
                hold_together(plan, base, len);
                let heap_end = plan.heap + plan.pages * 4096;
                assert!(heap_end <= plan.header);
                // One page more would not have fitted.
                let more = NEEDS.carve_blocks(plan.heap, plan.pages + 1);
                let bytes = NEEDS.metadata_bytes(plan.pages + 1, more).unwrap();
                assert!(heap_end + 4096 + bytes > base + len - 64);
            }
        }
    }

    #[test]
    fn a_region_at_the_top_of_the_address_space_does_not_wrap() {
        for len in [64 << 10, (64 << 10) + 1, 1 << 30] {
            let base = usize::MAX - (len - 1);
            let plan = NEEDS.plan(base, len, iter::empty()).unwrap();
            hold_together(plan, base, len);
        }
        assert_eq!(NEEDS.plan(usize::MAX - 100, 101, iter::empty()), Err(AllocError::InvalidParam));
        assert_eq!(NEEDS.plan(usize::MAX - 100, 200, iter::empty()), Err(AllocError::InvalidParam));
        assert_eq!(NEEDS.plan(usize::MAX, 1, iter::empty()), Err(AllocError::InvalidParam));
        assert_eq!(NEEDS.plan(1, usize::MAX, iter::empty()).unwrap().heap, 4096);
    }

    #[test]
    fn too_small_a_region_is_refused() {
        for len in [0, 1, 4096, 5000] {
            assert_eq!(NEEDS.plan(0x1000, len, iter::empty()), Err(AllocError::InvalidParam));
        }
        let greedy = Needs { extra_bytes: usize::MAX, ..NEEDS };
        assert_eq!(greedy.plan(0x1000, 1 << 20, iter::empty()), Err(AllocError::InvalidParam));
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_region_of_more_pages_than_numbers_is_managed_in_part() {
        let plan = NEEDS.plan(1 << 46, 1 << 46, iter::empty()).unwrap();
        assert_eq!(plan.pages, u32::MAX as usize - 1);
        hold_together(plan, 1 << 46, 1 << 46);
    }

    #[test]
    fn metadata_gives_way_to_reserved_ranges() {
        let (base, len) = (0x40_0000, 1 << 20);
        let tail = (base + len - 10_000, 9_000);
        let plan = NEEDS.plan(base, len, iter::once(tail)).unwrap();
        hold_together(plan, base, len);
        assert!(plan.meta_end <= tail.0);
        assert_eq!(plan.pages, 256);
        // Nothing fits between these two: it goes below both.
        let two = [(base + len - 100, 50), (base + len - 9_000, 1)];
        let plan = NEEDS.plan(base, len, two.into_iter()).unwrap();
        assert!(plan.meta_end <= two[1].0);
        // Everything reserved.
        let all = iter::once((0, usize::MAX));
        assert_eq!(NEEDS.plan(base, len, all), Err(AllocError::InvalidParam));
        // Empty ranges and ranges elsewhere do not matter.
        let idle = [(base + len - 1, 0), (base + len, 4096)];
        assert_eq!(NEEDS.plan(base, len, idle.into_iter()), NEEDS.plan(base, len, iter::empty()));
    }

    #[test]
    fn reserved_ranges_touch_whole_pages() {
        let plan = NEEDS.plan(0x40_0000, 1 << 20, iter::empty()).unwrap();
        let touched = |start, len| plan.pages_touched((start, len), 4096);
        assert_eq!(touched(0x40_0000, 1), Some((0, 1)));
        assert_eq!(touched(0x40_0FFF, 2), Some((0, 2)));
        assert_eq!(touched(0, usize::MAX), Some((0, plan.pages)));
        assert_eq!(touched(0x40_0000, 0), None);
        assert_eq!(touched(0x3F_F000, 0x1000), None);
        assert_eq!(touched(usize::MAX, usize::MAX), None);
    }
}
