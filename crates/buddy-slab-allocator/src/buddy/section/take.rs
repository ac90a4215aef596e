//! Taking exactly these pages, if all are free: allocation by address, late reservation, growth
//! in place; and shrinking, its reverse.

use super::Section;
use super::alloc::Taken;
use super::carve::CarveState;
use super::head::{HeadWord, Kind};
use super::lists::{add, sub};
use super::runs::Run;
use crate::units::{Order, Pfn, Zone};

/// What a run of free pages has in common.
#[derive(Clone, Copy)]
struct FreeRun {
    /// The zone of its first page.
    zone: Zone,
    /// Whether other pages are in another zone.
    spans_zones: bool,
    clean: bool,
}

/// A free block, and how many of the pages asked about lie in it.
#[derive(Clone, Copy)]
struct FreePart {
    start: Pfn,
    pages: usize,
    /// `None` for a run.
    order: Option<Order>,
    zone: Zone,
    inside: usize,
}

impl<const PAGE_SIZE: usize> Section<PAGE_SIZE> {
    /// Calls `each` for every free block that overlaps `[from, to)`, upwards; stops with `false`
    /// at the first page that is not free. `each` may change the block that it is called for.
    ///
    /// # Safety
    /// - Lock held.
    unsafe fn walk_free(&self, from: usize, to: usize, mut each: impl FnMut(FreePart)) -> bool {
        let mut at = from;
        while at < to {
            let Some(pfn) = self.page_at(at) else { return false };
            // Only the first block may begin before the range.
            let found = if at == from {
                self.free_block_around(pfn)
            } else {
                self.free_block_at(pfn).map(|(order, zone)| (pfn, order, zone))
            };
            let part = match found {
                Some((start, order, zone)) => {
                    FreePart { start, pages: order.pages(), order: Some(order), zone, inside: 0 }
                }
                None => {
                    let run = if at == from {
                        // SAFETY: passed on.
                        unsafe { self.run_containing(pfn) }
                    } else {
                        self.run_at(pfn)
                    };
                    let Some(run) = run else { return false };
                    let (start, zone) = (Self::nth(run.from), self.runs.zone);
                    FreePart { start, pages: run.len, order: None, zone, inside: 0 }
                }
            };
            let end = part.start.index() + part.pages;
            each(FreePart { inside: end.min(to) - at, ..part });
            at = end;
        }
        true
    }

    /// What `[from, to)` has in common, if all of it is free.
    ///
    /// # Safety
    /// - Lock held.
    unsafe fn free_range(&self, from: usize, to: usize) -> Option<FreeRun> {
        if from >= to || to > self.pages {
            return None;
        }
        let mut run: Option<FreeRun> = None;
        let each = |part: FreePart| {
            // SAFETY: the first page of a free block has metadata.
            let clean = unsafe { self.page_unchecked(part.start) }.head().is_clean();
            let run = run.get_or_insert(FreeRun { zone: part.zone, spans_zones: false, clean });
            run.spans_zones |= run.zone != part.zone;
            run.clean &= clean;
        };
        // SAFETY: passed on.
        let all = unsafe { self.walk_free(from, to, each) };
        run.filter(|_| all)
    }

    /// Takes `[from, to)`, all of it free, off the lists; no page of it starts a block then.
    ///
    /// # Safety
    /// - Lock held; `free_range` found the range free.
    unsafe fn detach(&self, from: usize, to: usize, mut each: impl FnMut(Zone, usize)) {
        let take = |FreePart { start, pages, order, zone, inside }: FreePart| {
            let end = start.index() + pages;
            // SAFETY: lock held; the block or run is on its list; its parts outside the range stay
            // free.
            unsafe {
                let clean = self.page_unchecked(start).head().is_clean();
                if let Some(order) = order {
                    self.unlink_block(self, start, order, zone);
                    self.demote(start, zone as u32);
                    if start.index() < from {
                        self.make_blocks(start.index(), from, zone, clean);
                    }
                    if end > to {
                        self.make_blocks(to, end, zone, clean);
                    }
                } else {
                    self.unlink_run(Run { from: start.index(), len: pages, clean });
                    if start.index() < from {
                        let len = from - start.index();
                        self.link_run(Run { from: start.index(), len, clean });
                    }
                    if end > to {
                        self.link_run(Run { from: to, len: end - to, clean });
                    }
                }
            }
            sub(&self.lists(zone).free_pages, inside);
            each(zone, inside);
        };
        // SAFETY: passed on.
        let all = unsafe { self.walk_free(from, to, take) };
        debug_assert!(all, "range was not free");
    }

    /// Takes exactly the `count` pages from `pfn`; `None` if not all of them are free.
    ///
    /// Complexity: O(`MAX_ORDER`) for each free block that the range overlaps, and as `alloc`.
    /// Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    pub(crate) unsafe fn alloc_at(&self, pfn: Pfn, count: usize, kind: Kind) -> Option<Taken> {
        let end = pfn.index().checked_add(count)?;
        // SAFETY: passed on.
        let run = unsafe { self.free_range(pfn.index(), end) }?;
        let mut word = Self::allocated_word(count, kind, run.zone, run.clean);
        if run.spans_zones {
            word = word.spanning();
        }
        // SAFETY: passed on; the range was found free.
        unsafe {
            self.detach(pfn.index(), end, |_, _| {});
            self.write_head(pfn, count, word, count as u32);
        }
        Some(Taken { pfn, clean: run.clean })
    }

    /// Takes exactly the `count` pages from `pfn` out of management for good; `false`, and
    /// nothing happens, if not all of them are free.
    ///
    /// Complexity: O(count). Locks: the node's is held.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    pub(crate) unsafe fn reserve(&self, pfn: Pfn, count: usize) -> bool {
        let from = pfn.index();
        let Some(to) = from.checked_add(count) else { return false };
        // SAFETY: passed on.
        if unsafe { self.free_range(from, to) }.is_none() {
            return false;
        }
        // SAFETY: passed on; the range was found free.
        unsafe {
            self.detach(from, to, |zone, pages| sub(&self.lists(zone).total_pages, pages));
        }
        let mut at = from;
        while at < to {
            let carve = self.carve_of(Self::nth(at));
            let (first, last) = self.carve_range(carve);
            let end = last.min(to);
            let whole = at == first && end == last;
            if whole && self.state(carve) != CarveState::Carved {
                self.set_interior(carve, None);
            } else {
                // SAFETY: lock held; the pages were taken.
                unsafe {
                    self.ensure_carved(carve);
                    for index in at..end {
                        self.page_unchecked(Self::nth(index)).set_head(HeadWord::reserved());
                    }
                }
            }
            at = end;
        }
        true
    }

    /// Lets the block of `old` pages at `pfn` grow to `new` pages, and by up to `spare` more if it
    /// grows into a run: its metadata says how many it has then. `false`, and nothing happens, if
    /// the pages behind it are not all free.
    ///
    /// The block's kind and its word `next` stay. Complexity: as `alloc_at`. Locks: the node's
    /// is held.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    /// - The block is the caller's, of exactly `old` pages, and no slab.
    pub(crate) unsafe fn grow(&self, pfn: Pfn, old: usize, new: usize, spare: usize) -> bool {
        let from = pfn.index() + old;
        let Some(to) = pfn.index().checked_add(new) else { return false };
        // SAFETY: the caller's block: its first page has metadata, and only the caller writes it.
        let page = unsafe { self.page_unchecked(pfn) };
        let word = page.head();
        if word.is_from_run()
            && new > old
            // SAFETY: passed on; such a block is in the zone of the runs.
            && let Some((more, clean)) = unsafe { self.grow_into_run(from, new - old, spare) }
        {
            add(&self.runs.used, more);
            let new = old + more;
            let order = Order::for_pages(new).unwrap_or(Order::MAX);
            page.set_prev(new as u32);
            page.set_head(word.with_order(order).with_clean(word.is_clean() && clean));
            return true;
        }
        // SAFETY: passed on.
        let Some(run) = (unsafe { self.free_range(from, to) }) else { return false };
        let order = Order::for_pages(new).unwrap_or(Order::MAX);
        let mut word_now = word.with_order(order).with_clean(word.is_clean() && run.clean);
        if run.spans_zones || word.zone() != Some(run.zone) {
            word_now = word_now.spanning();
        }
        // SAFETY: passed on; the range was found free.
        unsafe { self.detach(from, to, |_, _| {}) };
        if word.is_from_run() {
            add(&self.runs.used, new - old);
        }
        page.set_prev(new as u32);
        page.set_head(word_now);
        true
    }

    /// Lets the block of `old` pages at `pfn` shrink to `new` pages and frees the rest.
    ///
    /// The block's kind and its word `next` stay. Complexity: as `free`. Locks: the node's is
    /// held.
    ///
    /// # Safety
    /// - The node's lock is held, or the section is not visible yet.
    /// - The block is the caller's, of exactly `old` pages, and no slab; `0 < new < old`; the
    ///   pages beyond `new` are not used any more.
    pub(crate) unsafe fn shrink(&self, pfn: Pfn, old: usize, new: usize) {
        debug_assert!(0 < new && new < old);
        // SAFETY: the caller's block: its first page has metadata, and only the caller writes it.
        let page = unsafe { self.page_unchecked(pfn) };
        let word = page.head();
        page.set_prev(new as u32);
        page.set_head(word.with_order(Order::for_pages(new).unwrap_or(Order::MAX)));
        // SAFETY: the caller gives these pages up.
        unsafe { self.free_pieces(pfn.index() + new, pfn.index() + old, word) }
    }
}
