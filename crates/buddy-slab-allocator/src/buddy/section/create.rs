//! Making a section of a region: the header and the state bytes are written, and the first free
//! blocks, touching no more metadata than their heads'.
//!
//! Whole carve blocks of one zone become the largest blocks that alignment allows. What is cut
//! short by the section's ends, touched by a reserved range or crossed by a zone's limit is
//! carved at once.

use core::iter;
use core::ptr::{self, NonNull};

use super::super::links::SectionLinks;
use super::head::{HeadWord, ZONE_NONE};
use super::lists::{ZoneLists, add};
use super::runs::RunBins;
use super::{Phys, PhysFn, Reach, Section};
use crate::error::AllocError;
use crate::sync::atomic::AtomicU8;
use crate::units::{NodeId, Zone};

/// What a section is made of.
pub(crate) struct RegionSpec<'a> {
    /// First byte; it may have address 0.
    pub base: *mut u8,
    /// Bytes.
    pub len: usize,
    /// The NUMA node that it belongs to.
    pub node: NodeId,
    /// Whether every byte that is not reserved holds zero.
    pub zeroed: bool,
    /// Physical addresses, if they are known.
    pub phys: PhysFn<'a>,
    /// Bytes that the caller wants for itself, aligned to 64, inside the region.
    pub extra_bytes: usize,
}

/// Whole carve blocks of one zone, not made into free blocks yet: pages `[from, to)`.
struct Whole {
    from: usize,
    to: usize,
    zone: Zone,
}

/// Walks the carve blocks downwards, so that low addresses end at the front of the lists.
struct Builder<'a, const PAGE_SIZE: usize, I> {
    section: &'a Section<PAGE_SIZE>,
    spec: &'a RegionSpec<'a>,
    /// Reserved ranges, those of the metadata included, as pages.
    reserved: I,
    /// No reserved page lies from here to the end of the carve block at hand.
    reserved_end: usize,
    whole: Option<Whole>,
    phys: Phys,
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Makes a section of a region; also gives the extra bytes, zeroed.
    ///
    /// Reserved ranges (address, bytes) need not lie in the region; they are rounded outwards to
    /// pages and nothing in them is written. `spec.phys` is asked once for each carve block.
    ///
    /// Complexity: O(carve blocks), and O(pages) of those that are carved. Locks: none may be
    /// held, for `spec.phys` and the iterator are foreign.
    ///
    /// # Errors
    /// `InvalidParam` if the range wraps, or has no room for the metadata and a free page.
    ///
    /// # Safety
    /// - The region is valid for reads and writes, but for its reserved ranges, and used by
    ///   nobody else as long as the section or anything allocated from it is in use.
    /// - `spec.zeroed` is true only if the region outside the reserved ranges is all zeros.
    pub(crate) unsafe fn create<I>(
        spec: &RegionSpec<'_>,
        reserved: I,
    ) -> Result<(NonNull<Self>, NonNull<u8>), AllocError>
    where
        I: Iterator<Item = (usize, usize)> + Clone,
    {
        // Exposed for magazines, which make pointers to its objects anew.
        let base = spec.base.expose_provenance();
        let plan = Self::needs(spec.extra_bytes).plan(base, spec.len, reserved.clone())?;
        let at = |addr: usize| spec.base.wrapping_byte_add(addr - base);
        let start_page = plan.heap >> Self::PAGE_SHIFT;
        let first_carve = start_page >> Self::CARVE_ORDER.get();
        // (No part of a plan begins at address 0.)
        let metas = NonNull::new(at(plan.metas).cast()).ok_or(AllocError::InvalidParam)?;
        let section = Self {
            reach: Reach {
                heap: at(plan.heap),
                metas,
                states: at(plan.states).cast::<AtomicU8>().wrapping_sub(first_carve),
                start_page,
                pages: plan.pages,
            },
            phys: Phys::Unknown,
            region: (base, spec.len),
            node: spec.node,
            links: SectionLinks::new(),
            zones: core::array::from_fn(|_| ZoneLists::new()),
            runs: RunBins::new(Zone::Normal),
        };
        let header = at(plan.header).cast::<Self>();
        let extra = at(plan.extra);
        // SAFETY: the plan's parts are disjoint, aligned, in the region and not reserved; the
        // region is the caller's to give. The reference is one of many shared ones to come.
        let section = unsafe {
            ptr::write_bytes(extra, 0, spec.extra_bytes);
            ptr::write_bytes(at(plan.states), 0, plan.carve_blocks);
            header.write(section);
            &*header
        };
        let own = (plan.header, plan.meta_end - plan.header);
        let mut builder = Builder {
            section,
            spec,
            reserved: reserved
                .chain(iter::once(own))
                .filter_map(move |range| plan.pages_touched(range, 1 << Self::PAGE_SHIFT)),
            reserved_end: usize::MAX,
            whole: None,
            phys: Phys::Unknown,
        };
        for carve in (first_carve..first_carve + plan.carve_blocks).rev() {
            // SAFETY: the section is not visible yet.
            unsafe { builder.add(carve) }
        }
        // SAFETY: as above.
        unsafe { builder.flush() }
        let phys = builder.phys;
        if section.summary().free_pages == 0 {
            return Err(AllocError::InvalidParam);
        }
        let most = Zone::ALL.into_iter().max_by_key(|zone| section.zone_pages(*zone));
        // SAFETY: nobody else knows of the section, and `section` is not used any more.
        unsafe {
            (&raw mut (*header).phys).write(phys);
            (&raw mut (*header).runs.zone).write(most.unwrap_or(Zone::Normal));
        }
        // SAFETY: neither part starts at address 0, where the plan has no page and no metadata.
        Ok(unsafe { (NonNull::new_unchecked(header), NonNull::new_unchecked(extra)) })
    }
}

impl<const PAGE_SIZE: usize, I> Builder<'_, PAGE_SIZE, I>
where
    I: Iterator<Item = (usize, usize)> + Clone,
{
    /// Brings a carve block under management.
    ///
    /// # Safety
    /// - The section is not visible yet; the carve block is the one below the last added.
    unsafe fn add(&mut self, carve: usize) {
        let (first, end) = self.section.carve_range(carve);
        let phys = self.ask_phys(first);
        let zone_of = |index: usize| match phys {
            None => Zone::Normal,
            Some(phys) => {
                let bytes_to_end = (index - first + 1) * (1 << Section::<PAGE_SIZE>::PAGE_SHIFT);
                Zone::of_last_byte((phys as u64).saturating_add(bytes_to_end as u64 - 1))
            }
        };
        let zone = zone_of(first);
        let uniform = (zone == zone_of(end - 1)).then_some(zone);
        let touched = self.touches_reserved(first, end);
        let full = end - first > Section::<PAGE_SIZE>::CARVE_MASK;
        match uniform {
            Some(zone) if full && !touched => {
                self.section.set_interior(carve, Some(zone));
                match &mut self.whole {
                    Some(whole) if whole.zone == zone && whole.from == end => whole.from = first,
                    _ => {
                        // SAFETY: passed on.
                        unsafe { self.flush() }
                        self.whole = Some(Whole { from: first, to: end, zone });
                    }
                }
            }
            _ => {
                // SAFETY: passed on.
                unsafe { self.flush() }
                self.section.set_interior(carve, uniform.filter(|_| !touched));
                if self.reserved.clone().any(|(from, to)| from <= first && to >= end) {
                    // All reserved: no page of it is ever asked about.
                    self.section.set_interior(carve, None);
                    return;
                }
                // SAFETY: passed on.
                unsafe {
                    self.section.carve_with(carve, |index| HeadWord::tail(zone_of(index) as u32));
                    self.mark_reserved(first, end);
                    self.free_runs(first, end);
                }
            }
        }
    }

    /// Physical address of page `first`, the first of a carve block; and whether it fits in with
    /// those asked about before.
    fn ask_phys(&mut self, first: usize) -> Option<usize> {
        let ask = self.spec.phys?;
        let page = Section::<PAGE_SIZE>::nth(first);
        let phys = ask(self.section.addr_of(page));
        let origin = phys.wrapping_sub(first << Section::<PAGE_SIZE>::PAGE_SHIFT);
        self.phys = match self.phys {
            Phys::Unknown => Phys::Linear(origin),
            Phys::Linear(known) if known == origin => self.phys,
            _ => Phys::PerBlock,
        };
        Some(phys)
    }

    /// Whether a reserved page lies in `[first, end)`.
    fn touches_reserved(&mut self, first: usize, end: usize) -> bool {
        if self.reserved_end > end {
            self.reserved_end = self
                .reserved
                .clone()
                .filter(|(from, _)| *from < end)
                .map(|(_, to)| to.min(end))
                .max()
                .unwrap_or(0);
        }
        self.reserved_end > first
    }

    /// Makes free blocks of the whole carve blocks gathered so far.
    ///
    /// # Safety
    /// - The section is not visible yet.
    unsafe fn flush(&mut self) {
        if let Some(Whole { from, to, zone }) = self.whole.take() {
            // SAFETY: pages of one zone, not reserved, on no list yet.
            unsafe { self.free(from, to, zone) }
        }
    }

    /// # Safety
    /// - The pages are in one zone, not reserved, on no list yet; the section is not visible.
    unsafe fn free(&self, from: usize, to: usize, zone: Zone) {
        let lists = self.section.lists(zone);
        add(&lists.total_pages, to - from);
        add(&lists.free_pages, to - from);
        // SAFETY: passed on; without other users no lock is needed.
        unsafe { self.section.make_blocks(from, to, zone, self.spec.zeroed) }
    }

    /// Marks the reserved pages of `[first, end)`, whose metadata exists.
    ///
    /// # Safety
    /// - The section is not visible yet.
    unsafe fn mark_reserved(&self, first: usize, end: usize) {
        for (from, to) in self.reserved.clone() {
            for index in from.max(first)..to.min(end) {
                // SAFETY: carved by the caller.
                let page = unsafe { self.section.page_unchecked(Section::<PAGE_SIZE>::nth(index)) };
                page.set_head(HeadWord::reserved());
            }
        }
    }

    /// Makes free blocks of the pages of `[first, end)` that are not reserved.
    ///
    /// # Safety
    /// - The section is not visible yet; all metadata of the range exists.
    unsafe fn free_runs(&self, first: usize, end: usize) {
        let field = |index: usize| {
            // SAFETY: carved by the caller.
            unsafe { self.section.page_unchecked(Section::<PAGE_SIZE>::nth(index)) }.head()
        };
        let mut to = end;
        while to > first {
            let word = field(to - 1);
            let mut from = to - 1;
            // Tails of one zone are one run; making blocks changes words above `to` only.
            while from > first && field(from - 1) == word {
                from -= 1;
            }
            if let Some(zone) = word.zone() {
                // SAFETY: pages of one zone, not reserved, on no list yet.
                unsafe { self.free(from, to, zone) }
            }
            to = from;
        }
    }
}

const _: () = assert!(ZONE_NONE > Zone::Normal as u32);
