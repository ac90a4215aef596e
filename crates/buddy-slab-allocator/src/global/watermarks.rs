//! The reserve: pages that ordinary requests leave to handlers and to reclaim itself.

use super::GlobalAllocator;
use crate::buddy::Watermarks;
use crate::platform::Platform;
use crate::units::{NodeId, Zone};

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Sets the watermarks of a zone of a NUMA node (both are 0 unless set). Ordinary requests
    /// leave `min_pages` to handlers and to requests with
    /// [`PageOptions::use_reserve`](crate::PageOptions::use_reserve); below `low_pages`,
    /// [`tick`](GlobalAllocator::tick) gives everything back that its CPU keeps but does not use.
    pub fn set_watermarks(&self, node: u8, zone: Zone, marks: Watermarks) {
        self.core.set_watermarks(NodeId::new(node), zone, marks);
    }

    /// The watermarks of a zone.
    pub fn watermarks(&self, node: u8, zone: Zone) -> Watermarks {
        self.core.watermarks(NodeId::new(node), zone)
    }

    /// Free pages of a zone, without those that CPUs keep at hand.
    pub fn zone_free_pages(&self, node: u8, zone: Zone) -> usize {
        self.core.zone_free_pages(NodeId::new(node), zone)
    }

    /// Whether any zone of a node is below its low watermark.
    pub(super) fn is_scarce(&self, node: NodeId) -> bool {
        Zone::ALL.into_iter().any(|zone| self.core.below_low(node, zone))
    }
}
