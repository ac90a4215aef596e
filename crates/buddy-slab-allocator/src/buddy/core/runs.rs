//! What a run of pages is, for a map of the heap.

use super::super::section::Kind;
use super::PageCore;
use crate::sync::RawLock;
use crate::units::MAX_ORDER;

/// What most people want to tell apart on a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunKind {
    Free,
    Slab,
    Pages,
    Kept,
    Own,
}

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// What the page at `addr` is, and how many pages from there on are certainly the same.
    /// A hint: read without a lock. O(1).
    pub(crate) fn run_at(&self, addr: usize) -> (RunKind, usize) {
        let Some(page) = self.lookup(addr) else {
            // Inside a large block: its metadata is not valid up to the next 4 MiB.
            let block_bytes = (4usize << 20).max(PAGE_SIZE);
            return (RunKind::Pages, (block_bytes - addr % block_bytes) / PAGE_SIZE);
        };
        let head = page.head();
        let by_order = 1usize << head.order_byte().min(MAX_ORDER as u8);
        if head.zone().is_none() {
            (RunKind::Own, 1)
        } else if head.is_slab() {
            (RunKind::Slab, 1)
        } else if head.is_tail() {
            (RunKind::Pages, 1)
        } else if head.is_run() {
            (RunKind::Free, page.section().run_length(page.pfn()).unwrap_or(1))
        } else if head.is_free_block() {
            (RunKind::Free, by_order)
        } else {
            match head.kind() {
                // A link stands where the count was in a deferred single page.
                Kind::Deferred if by_order == 1 => (RunKind::Kept, 1),
                Kind::Cached | Kind::Deferred => (RunKind::Kept, page.count()),
                Kind::Internal => (RunKind::Own, page.count()),
                _ => (RunKind::Pages, page.count()),
            }
        }
    }
}
