//! Requests: over zones, then nodes, then sections in the order of adding.

use super::super::node::{Node, Table, rank};
use super::super::section::{Kind, Placement, Section, TakeRequest, Taken};
use super::{MAX_NODES, PageCore, PageError, PageRef, PageRequest, Wait};
use crate::sync::RawLock;
use crate::sync::atomic::Ordering;
use crate::units::{NodeId, Order, PhysLimit, Zone, ZoneReach};

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// Contiguous pages.
    ///
    /// The highest zone that the limit admits serves first, on every node in turn by distance
    /// from the preferred one, before a lower zone is touched: low memory is spared even at the
    /// price of distance. Within a zone and node the section added first serves.
    ///
    /// Complexity: O(sections / 64 + order) when a block fits; a limit inside a zone, an
    /// alignment above the size or a fragmented heap may look into every section. Locks: one
    /// node's at a time.
    ///
    /// # Errors
    /// [`PageError::Exhausted`]; [`PageError::Busy`] if a lock that `wait` could not get may hide
    /// what was asked for; [`PageError::InFlight`] if a deferred free that another caller is
    /// bringing home may; [`PageError::Invalid`] for a count of 0 or above 2^20, and for a limit
    /// where no section knows physical addresses.
    pub(crate) fn alloc(
        &self,
        request: &PageRequest<'_>,
    ) -> Result<PageRef<'_, PAGE_SIZE>, PageError> {
        let order = Order::for_pages(request.count).ok_or(PageError::Invalid)?;
        if !self.deferred.is_empty() {
            self.drain_deferred(request.wait);
        }
        let mut busy = false;
        for zone in Zone::FALLBACK {
            let reach = zone.reach(request.limit);
            if reach == ZoneReach::None {
                continue;
            }
            for node in self.by_distance(request.node) {
                if !node.admits(zone, request.count, request.use_reserve) {
                    continue;
                }
                let Some(_guard) = self.lock(&node.lock, request.wait) else {
                    busy = true;
                    continue;
                };
                // SAFETY: the node's lock is held.
                if let Some(page) = unsafe { self.take(node, zone, reach, order, request) } {
                    return Ok(page);
                }
            }
        }
        if !request.limit.is_none() && !self.knows_phys() {
            return Err(PageError::Invalid);
        }
        Err(if busy {
            PageError::Busy
        } else if self.deferred.pages() != 0 {
            PageError::InFlight
        } else {
            PageError::Exhausted
        })
    }

    /// The nodes, nearest to `preferred` first; of two at the same distance, the lower.
    pub(super) fn by_distance(
        &self,
        preferred: NodeId,
    ) -> impl Iterator<Item = &Node<Section<PAGE_SIZE>, L>> {
        let preferred = preferred.index() & (MAX_NODES - 1);
        (0..2 * MAX_NODES).filter_map(move |step| {
            let distance = step.div_ceil(2);
            let lower = step % 2 == 1;
            let index = if lower { preferred.checked_sub(distance)? } else { preferred + distance };
            self.nodes.get(index)
        })
    }

    fn knows_phys(&self) -> bool {
        self.sections().any(|section| section.phys_known())
    }

    /// Serves a request from one zone of one node.
    ///
    /// # Safety
    /// - The node's lock is held.
    #[inline]
    unsafe fn take(
        &self,
        node: &Node<Section<PAGE_SIZE>, L>,
        zone: Zone,
        reach: ZoneReach,
        order: Order,
        request: &PageRequest<'_>,
    ) -> Option<PageRef<'_, PAGE_SIZE>> {
        // Once more: the counter moved while we waited.
        if !node.admits(zone, request.count, request.use_reserve) {
            return None;
        }
        // SAFETY: the lock is held (condition); this is the only reference to the table.
        let table = unsafe { node.table() };
        if reach == ZoneReach::All {
            // A block of that order contains an aligned run of the size, whatever the two are.
            let fitting = order.max(request.align_order);
            if let Some(slot) = table.first_with(zone, fitting, 0) {
                // SAFETY: the lock is held, the table is the node's.
                let page = unsafe { self.take_from(node, table, slot, zone, order, request) };
                if page.is_some() {
                    return page;
                }
            }
            if request.count == 1 && request.align_order == Order::ZERO {
                return None;
            }
        }
        // A run of n pages contains a block of more than n / 4: others need no look.
        let smallest =
            Order::within_pages(request.count + 1).and_then(Order::half).unwrap_or(Order::ZERO);
        let mut from = 0;
        while let Some(slot) = table.first_with(zone, smallest, from) {
            // SAFETY: as above.
            let page = unsafe { self.take_from(node, table, slot, zone, order, request) };
            if page.is_some() {
                return page;
            }
            from = slot + 1;
        }
        None
    }

    /// Serves a request from one section.
    ///
    /// # Safety
    /// - The node's lock is held and `table` is the node's.
    #[inline]
    unsafe fn take_from(
        &self,
        node: &Node<Section<PAGE_SIZE>, L>,
        table: &mut Table<Section<PAGE_SIZE>>,
        slot: usize,
        zone: Zone,
        order: Order,
        request: &PageRequest<'_>,
    ) -> Option<PageRef<'_, PAGE_SIZE>> {
        let section = table.get(slot)?;
        // SAFETY: a section in the table stays while the lock is held; its lifetime beyond that is
        // the core's, since it is about to hold an allocated block.
        let section: &Section<PAGE_SIZE> = unsafe { section.as_ref() };
        let before = section.free_pages(zone);
        if before < request.count {
            return None;
        }
        let placement = match request.placement {
            Placement::Snug => Placement::Snug,
            Placement::Roomy { spare } => {
                let beyond = node.spare(zone, request.use_reserve).saturating_sub(request.count);
                Placement::Roomy { spare: spare.min(beyond) }
            }
        };
        let take = TakeRequest {
            count: request.count,
            align_order: request.align_order,
            limit: request.limit,
            kind: request.kind,
            placement,
        };
        let plain = request.count == order.pages()
            && request.align_order <= order
            && zone.reach(request.limit) == ZoneReach::All
            && !section.by_runs(zone, &take);
        // SAFETY: the section's node lock is held.
        let taken =
            unsafe { if plain { section.alloc_order(zone, order, request.kind) } else { None } };
        let taken = taken.or_else(|| {
            // SAFETY: as above.
            unsafe { section.alloc(zone, &take, request.phys) }
        });
        // A request that finds nothing may have joined what is free.
        table.set_rank(slot, zone, rank(section.max_free_order(zone)));
        let taken = taken?;
        node.account(zone, before, section.free_pages(zone));
        Some(PageRef::new(section, taken.pfn))
    }

    /// Exactly the `count` pages from `addr` on.
    ///
    /// Complexity: O(count) at worst. Locks: the node's.
    ///
    /// # Errors
    /// [`PageError::NotFound`] if no section manages `addr`; [`PageError::Invalid`] for an
    /// unaligned address or a count of 0 or above 2^20; [`PageError::Exhausted`] if not all of the
    /// pages are free, in one zone and one section; [`PageError::Busy`].
    pub(crate) fn alloc_at(
        &self,
        addr: usize,
        count: usize,
        kind: Kind,
        wait: Wait,
    ) -> Result<PageRef<'_, PAGE_SIZE>, PageError> {
        if Order::for_pages(count).is_none() || addr & (PAGE_SIZE - 1) != 0 {
            return Err(PageError::Invalid);
        }
        let taken = self.at_address(addr, wait, |section, pfn| {
            // SAFETY: `at_address` holds the section's node lock.
            unsafe { section.alloc_at(pfn, count, kind) }
        })?;
        let (section, Taken { pfn, .. }) = taken;
        Ok(PageRef::new(section, pfn))
    }

    /// Takes every page of `addr..addr + size_bytes` out of management for good.
    ///
    /// # Errors
    /// As [`alloc_at`](Self::alloc_at); the range is rounded out to whole pages.
    pub(crate) fn reserve(
        &self,
        addr: usize,
        size_bytes: usize,
        wait: Wait,
    ) -> Result<(), PageError> {
        let into = addr & (PAGE_SIZE - 1);
        let bytes = size_bytes.checked_add(into).ok_or(PageError::Invalid)?;
        let count = bytes.div_ceil(PAGE_SIZE);
        if size_bytes == 0 || addr.checked_add(size_bytes - 1).is_none() {
            return Err(PageError::Invalid);
        }
        let _ = self.at_address(addr - into, wait, |section, pfn| {
            // SAFETY: `at_address` holds the section's node lock.
            let done = unsafe { section.reserve(pfn, count) };
            if done {
                self.total.fetch_sub(count, Ordering::Relaxed);
            }
            done.then_some(())
        })?;
        Ok(())
    }

    /// Runs `operation` on the section and page of an address, under the node's lock.
    fn at_address<R>(
        &self,
        addr: usize,
        wait: Wait,
        operation: impl FnOnce(&Section<PAGE_SIZE>, crate::units::Pfn) -> Option<R>,
    ) -> Result<(&Section<PAGE_SIZE>, R), PageError> {
        if !self.deferred.is_empty() {
            self.drain_deferred(wait);
        }
        let section = self.lookup_section(addr).ok_or(PageError::NotFound)?;
        let pfn = section.pfn_of(addr).ok_or(PageError::NotFound)?;
        let result = self.edit_section(section, wait, || operation(section, pfn))?;
        result.map(|r| (section, r)).ok_or(PageError::Exhausted)
    }

    /// Counts an allocated block as the allocator's own from now on; its section stays for good.
    ///
    /// # Safety
    /// - The caller owns the block of `count` pages, whose kind is `Internal`, and never frees it.
    pub(crate) unsafe fn keep_internal(&self, page: PageRef<'_, PAGE_SIZE>, count: usize) {
        page.section().links().internal_pages.fetch_add(count, Ordering::Relaxed);
        self.internal.fetch_add(count, Ordering::Relaxed);
        self.total.fetch_sub(count, Ordering::Relaxed);
    }

    /// Pages for the allocator's own tables, for good: from the first section, which stays, or
    /// else from `fresh`, which nobody sees yet and which thereby stays too.
    ///
    /// # Safety
    /// - The topology lock is held, and no node's.
    /// - `fresh` is not published.
    pub(super) unsafe fn take_internal(
        &self,
        fresh: &Section<PAGE_SIZE>,
        size_bytes: usize,
    ) -> Option<core::ptr::NonNull<u8>> {
        let count = size_bytes.div_ceil(PAGE_SIZE);
        let take = TakeRequest {
            count,
            align_order: Order::ZERO,
            limit: PhysLimit::NONE,
            kind: Kind::Internal,
            placement: Placement::Snug,
        };
        let from = |section: &Section<PAGE_SIZE>| {
            let taken = Zone::FALLBACK.into_iter().find_map(|zone| {
                // SAFETY: the node's lock is held around the first section; nobody else sees
                // the fresh one (condition).
                unsafe { section.alloc(zone, &take, None) }
            })?;
            section.links().internal_pages.fetch_add(count, Ordering::Relaxed);
            self.internal.fetch_add(count, Ordering::Relaxed);
            Some(section.ptr_of(taken.pfn))
        };
        if let Some(first) = self.first_section() {
            let node = self.node_of(first);
            let _guard = self.lock(&node.lock, Wait::Spin)?;
            // SAFETY: the lock is held; this is the only reference to the table.
            let table = unsafe { node.table() };
            // SAFETY: the lock is held, and the first section is in the table for good.
            let taken = unsafe { Self::edit(node, table, first, || from(first)) };
            if taken.is_some() {
                self.total.fetch_sub(count, Ordering::Relaxed);
                return taken;
            }
        }
        from(fresh)
    }
}
