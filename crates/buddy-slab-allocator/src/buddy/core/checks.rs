//! The counting equations of the page core, coded. Empty in a release build.

use super::PageCore;
#[cfg(any(test, debug_assertions))]
use crate::sync::Rank;
use crate::sync::RawLock;

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// Panics with the label of the first equation that does not hold. Needs quiescence: no
    /// other call runs. O(pages).
    #[cfg(not(any(test, debug_assertions)))]
    #[inline]
    pub(crate) fn check_invariants(&self) {}

    /// Panics with the label of the first equation that does not hold. Needs quiescence: no
    /// other call runs. O(pages).
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check_invariants(&self) {
        use super::super::node::rank;
        use super::region::{id_of, managed};
        use crate::sync::Guard;
        use crate::sync::atomic::Ordering;
        use crate::units::{NodeId, Zone};

        let _topology_guard = Guard::lock(&self.topology_lock, Rank::Topology);
        let mut tabled = 0;
        for (index, node) in self.nodes.iter().enumerate() {
            let _guard = Guard::lock(&node.lock, Rank::Node);
            // SAFETY: the node's lock is held.
            let table = unsafe { node.table() };
            let mut sums = [0; Zone::COUNT];
            let mut last_id = None;
            for slot in 0..table.len() {
                let section = table.get(slot).expect("N1: every slot below len has a section");
                // SAFETY: sections in the table are alive.
                let section = unsafe { section.as_ref() };
                tabled += 1;
                // SAFETY: the node's lock is held, and nothing else runs.
                unsafe { section.check_invariants() };
                assert_eq!(section.node(), NodeId::new(index as u8), "P1: in its own node");
                assert_eq!(
                    section.links().slot.load(Ordering::Relaxed),
                    slot,
                    "P1: knows its slot"
                );
                assert!(!section.links().isolated.load(Ordering::Relaxed), "P1: not withdrawn");
                assert!(last_id < Some(id_of(section)), "N1: slots follow the order of adding");
                last_id = Some(id_of(section));
                for zone in Zone::ALL {
                    sums[zone.index()] += section.free_pages(zone);
                    assert_eq!(
                        table.rank_of(slot, zone),
                        rank(section.max_free_order(zone)),
                        "N2: the rank is the largest free order"
                    );
                }
            }
            for zone in Zone::ALL {
                assert_eq!(
                    node.zones[zone.index()].free.load(Ordering::Relaxed),
                    sums[zone.index()],
                    "P2: a zone's free pages are its sections'"
                );
            }
        }
        let total: usize = self.sections().map(managed).sum();
        assert_eq!(self.total_pages(), total, "P3: total pages are the sections'");
        assert_eq!(self.sections().count(), tabled, "P4: the order of adding has all sections");
        assert_eq!(self.section_count(), tabled, "P4: the directory has all sections");
        let largest = self.largest.load(Ordering::Relaxed).cast_const();
        let mut sections = self.sections().map(|section| core::ptr::from_ref(section).cast());
        assert_eq!(
            sections.any(|section| section == largest),
            tabled != 0,
            "P9: the largest is one"
        );
        let mut last = 0;
        for index in 0..tabled {
            let section = self.directory.by_address(index).expect("D2: as many keys as sections");
            assert!(section.addr().get() > last, "D2: keys ascend");
            last = section.addr().get();
        }
        if self.deferred.is_empty() {
            assert_eq!(self.deferred.pages(), 0, "F2: nothing deferred counts nothing");
        }
    }
}
