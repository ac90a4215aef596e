//! Requests whose physical limit is no zone's: each part of a free block is judged by its own
//! address, not the block by its end.

use super::alloc::{TakeRequest, Taken};
use super::{Phys, PhysFn, Section};
use crate::units::{Order, Pfn, PhysLimit, Zone};

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Takes pages that lie wholly below the limit, which cuts through the zone.
    ///
    /// Complexity: O(free blocks of the zone, and carve blocks in them).
    ///
    /// # Safety
    /// - Lock held.
    #[cold]
    pub(super) unsafe fn alloc_limited(
        &self,
        zone: Zone,
        request: &TakeRequest,
        phys: PhysFn<'_>,
    ) -> Option<Taken> {
        let mut order = Order::for_pages(request.count)?;
        loop {
            // SAFETY: lock held.
            let mut next = unsafe { self.lists(zone).first(order) };
            while let Some(block) = next {
                if let Some(start) = self.admitted_part(block, order, request, phys) {
                    // SAFETY: lock held; the block is on this list; the part lies in it.
                    return unsafe {
                        self.unlink_block(self, block, order, zone);
                        Some(self.cut(block, order, zone, start, request))
                    };
                }
                // SAFETY: a block on a list has metadata.
                next = Pfn::new(unsafe { self.page_unchecked(block) }.next());
            }
            order = order.parent()?;
        }
    }

    /// Where in a free block the request's pages fit below its limit.
    fn admitted_part(
        &self,
        block: Pfn,
        order: Order,
        request: &TakeRequest,
        phys: PhysFn<'_>,
    ) -> Option<Pfn> {
        let block_end = block.index() + order.pages();
        let mask = request.align_order.pages() - 1;
        let mut at = block.index();
        let mut run_from = at;
        while at < block_end {
            let end = self.carve_range(self.carve_of(Self::nth(at))).1.min(block_end);
            let admitted = self.pages_below(at, end, request.limit, phys);
            let start = ((self.start_page + run_from).checked_add(mask)? & !mask) - self.start_page;
            if start.checked_add(request.count)? <= at + admitted {
                return self.page_at(start);
            }
            if at + admitted < end {
                run_from = end;
            }
            at = end;
        }
        None
    }

    /// How many pages of `[from, to)`, part of one carve block, lie below the limit. Physical
    /// addresses rise with virtual ones within it, so they are its first pages.
    fn pages_below(&self, from: usize, to: usize, limit: PhysLimit, phys: PhysFn<'_>) -> usize {
        let Some(first) = self.phys_of(Self::nth(from), phys) else { return 0 };
        let bytes = limit.get().saturating_sub(first as u64);
        let pages = bytes >> Self::PAGE_SHIFT;
        pages.min((to - from) as u64) as usize
    }

    /// Physical address of a page; at the top of the range where it is not known.
    fn phys_of(&self, pfn: Pfn, phys: PhysFn<'_>) -> Option<usize> {
        let offset = |pages: usize| pages << Self::PAGE_SHIFT;
        match self.phys {
            Phys::Unknown => None,
            Phys::Linear(first) => Some(first.saturating_add(offset(pfn.index()))),
            Phys::PerBlock => {
                let first = self.carve_range(self.carve_of(pfn)).0;
                let base = phys?(self.addr_of(Self::nth(first)));
                Some(base.saturating_add(offset(pfn.index() - first)))
            }
        }
    }
}
