//! The sections of one NUMA node and, per zone, which of them serves a request.
//!
//! Sections serve in the order in which they were added. To find the first that has a block of
//! order k without asking each, the table keeps one byte per section and zone (largest free
//! order plus one; 0 for nothing free) and the maximum of these over every group of 64.

use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use crate::sync::RawLock;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::units::{Order, Zone};

/// Sections that a node holds before its table needs pages.
const INLINE: usize = 8;
/// Sections under one group maximum.
const GROUP: usize = 64;

/// A zone's reserve: `min` pages are kept from ordinary requests, below `low` it is time to
/// reclaim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// Pages that only requests with access to the reserve may take.
    pub min_pages: usize,
    /// Free pages below which the zone asks for reclaim.
    pub low_pages: usize,
}

/// What can be read of a zone without the lock.
pub(super) struct ZoneCounters {
    /// Pages on the zone's lists, in all sections of the node.
    pub(super) free: AtomicUsize,
    pub(super) min: AtomicUsize,
    pub(super) low: AtomicUsize,
}

/// A node: its lock, its counters, and the table behind the lock.
pub(super) struct Node<T, L> {
    pub(super) lock: L,
    pub(super) zones: [ZoneCounters; Zone::COUNT],
    table: UnsafeCell<Table<T>>,
}

impl<T, L: RawLock> Node<T, L> {
    pub(super) const fn new() -> Self {
        Self {
            lock: L::NEW,
            zones: [const {
                ZoneCounters {
                    free: AtomicUsize::new(0),
                    min: AtomicUsize::new(0),
                    low: AtomicUsize::new(0),
                }
            }; Zone::COUNT],
            table: UnsafeCell::new(Table::new()),
        }
    }

    /// The table of sections.
    ///
    /// # Safety
    /// - The caller holds `self.lock` for as long as it uses the reference, and has no other.
    #[expect(clippy::mut_from_ref, reason = "the node's lock makes the reference unique")]
    pub(super) unsafe fn table(&self) -> &mut Table<T> {
        // SAFETY: unique while the lock is held (condition).
        unsafe { &mut *self.table.get() }
    }

    /// Whether a request for `page_count` pages may be served from `zone` as it stands.
    #[inline]
    pub(super) fn admits(&self, zone: Zone, page_count: usize, use_reserve: bool) -> bool {
        self.spare(zone, use_reserve) >= page_count
    }

    /// How many pages of `zone` may be handed out as it stands.
    #[inline]
    pub(super) fn spare(&self, zone: Zone, use_reserve: bool) -> usize {
        let counters = &self.zones[zone.index()];
        let free = counters.free.load(Ordering::Relaxed);
        let kept = if use_reserve { 0 } else { counters.min.load(Ordering::Relaxed) };
        free.saturating_sub(kept)
    }

    /// Moves a zone's counter of free pages from `before` to `after` of one section.
    ///
    /// Called with the lock held; readers look without it.
    #[inline]
    pub(super) fn account(&self, zone: Zone, before: usize, after: usize) {
        if before != after {
            let free = &self.zones[zone.index()].free;
            let now = free.load(Ordering::Relaxed).wrapping_sub(before).wrapping_add(after);
            free.store(now, Ordering::Relaxed);
        }
    }
}

/// The byte for a section whose largest free block has this order.
#[inline]
pub(super) fn rank(order: Option<Order>) -> u8 {
    order.map_or(0, |order| order.get() + 1)
}

/// The sections in the order of adding, and what each can serve.
///
/// # Invariants
/// - N1: entries `0..len` are sections; the rest of the bytes are 0.
/// - N2: each group byte is the maximum of its 64 section bytes.
pub(super) struct Table<T> {
    len: usize,
    capacity: usize,
    /// Null while the inline arrays suffice.
    heads: *mut *const T,
    /// `COUNT` runs of `capacity` bytes, then `COUNT` runs of `capacity / GROUP`.
    bytes: *mut u8,
    inline_heads: [*const T; INLINE],
    inline_bytes: [[u8; INLINE]; Zone::COUNT],
    inline_groups: [[u8; 1]; Zone::COUNT],
}

impl<T> Table<T> {
    const fn new() -> Self {
        Self {
            len: 0,
            capacity: INLINE,
            heads: ptr::null_mut(),
            bytes: ptr::null_mut(),
            inline_heads: [ptr::null(); INLINE],
            inline_bytes: [[0; INLINE]; Zone::COUNT],
            inline_groups: [[0]; Zone::COUNT],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn heads(&mut self) -> &mut [*const T] {
        if self.heads.is_null() {
            return &mut self.inline_heads;
        }
        // SAFETY: `grow` set up `capacity` initialised entries; `&mut self` makes us the only user.
        unsafe { core::slice::from_raw_parts_mut(self.heads, self.capacity) }
    }

    /// The section bytes and the group bytes of a zone.
    #[inline]
    fn ranks(&mut self, zone: Zone) -> (&mut [u8], &mut [u8]) {
        let z = zone.index();
        if self.bytes.is_null() {
            return (&mut self.inline_bytes[z], &mut self.inline_groups[z]);
        }
        let groups = self.capacity / GROUP;
        // SAFETY: `grow` set up `COUNT * (capacity + groups)` initialised bytes, which these two
        // disjoint runs lie in; `&mut self` makes us the only user.
        unsafe {
            let sections = self.bytes.add(z * self.capacity);
            let maxima = self.bytes.add(Zone::COUNT * self.capacity + z * groups);
            (
                core::slice::from_raw_parts_mut(sections, self.capacity),
                core::slice::from_raw_parts_mut(maxima, groups),
            )
        }
    }

    /// The section in `slot`.
    #[inline]
    pub(super) fn get(&mut self, slot: usize) -> Option<NonNull<T>> {
        if slot >= self.len {
            return None;
        }
        self.heads().get(slot).and_then(|head| NonNull::new(head.cast_mut()))
    }

    /// The first section from slot `from` on that has a free block of `order` or more in `zone`.
    ///
    /// Complexity: O(sections / 64 + 64).
    #[inline]
    pub(super) fn first_with(&mut self, zone: Zone, order: Order, from: usize) -> Option<usize> {
        let wanted = rank(Some(order));
        let (sections, groups) = self.ranks(zone);
        let mut slot = from;
        while slot < sections.len() {
            let group = slot / GROUP;
            let end = ((group + 1) * GROUP).min(sections.len());
            if groups[group] >= wanted
                && let Some(i) = sections[slot..end].iter().position(|&best| best >= wanted)
            {
                return Some(slot + i);
            }
            slot = end;
        }
        None
    }

    /// Records the largest free order of the section in `slot`.
    ///
    /// Complexity: O(1), O(64) when the group's maximum falls.
    #[inline]
    pub(super) fn set_rank(&mut self, slot: usize, zone: Zone, best: u8) {
        let (sections, groups) = self.ranks(zone);
        let Some(entry) = sections.get_mut(slot) else { return };
        let old = core::mem::replace(entry, best);
        if old == best {
            return;
        }
        let group = slot / GROUP;
        if best > groups[group] {
            groups[group] = best;
        } else if old == groups[group] {
            let end = ((group + 1) * GROUP).min(sections.len());
            groups[group] = sections[group * GROUP..end].iter().copied().max().unwrap_or(0);
        }
    }

    /// Bytes that [`grow`](Self::grow) needs before the next [`insert`](Self::insert) and `spare`
    /// further ones, if any.
    pub(super) fn growth_needed(&self, spare: usize) -> Option<usize> {
        (self.len + spare >= self.capacity).then(|| Self::storage_bytes(self.next_capacity()))
    }

    fn next_capacity(&self) -> usize {
        (2 * self.capacity).max(4 * GROUP)
    }

    fn storage_bytes(capacity: usize) -> usize {
        capacity * size_of::<*const T>() + Zone::COUNT * (capacity + capacity / GROUP)
    }

    /// Moves the table into new storage. The old storage stays behind: all of it together is
    /// smaller than the new one.
    ///
    /// # Safety
    /// - `at` points to `growth_needed(0)` writable bytes, aligned as a pointer, given up for good.
    pub(super) unsafe fn grow(&mut self, at: NonNull<u8>) {
        let capacity = self.next_capacity();
        let heads: *mut *const T = at.cast().as_ptr();
        // SAFETY: `capacity` pointers, then the bytes, fit into the storage (condition); nothing
        // else refers to it.
        unsafe {
            for slot in 0..capacity {
                heads.add(slot).write(ptr::null());
            }
            let bytes = heads.add(capacity).cast::<u8>();
            bytes.write_bytes(0, Zone::COUNT * (capacity + capacity / GROUP));
            for slot in 0..self.len {
                heads.add(slot).write(self.heads()[slot]);
                for zone in Zone::ALL {
                    bytes.add(zone.index() * capacity + slot).write(self.ranks(zone).0[slot]);
                }
            }
            self.bytes = bytes;
        }
        self.heads = heads;
        self.capacity = capacity;
        for zone in Zone::ALL {
            let (sections, groups) = self.ranks(zone);
            for (group, max) in sections.chunks(GROUP).zip(groups) {
                *max = group.iter().copied().max().unwrap_or(0);
            }
        }
    }

    /// Inserts a section at `slot`, moving the later ones up. `moved` hears of every section
    /// whose slot changed, the new one included. All its ranks start at 0.
    ///
    /// Needs `growth_needed(0)` to be `None` and `slot <= len()`.
    pub(super) fn insert(
        &mut self,
        slot: usize,
        section: NonNull<T>,
        mut moved: impl FnMut(NonNull<T>, usize),
    ) {
        debug_assert!(slot <= self.len && self.len < self.capacity, "N1: an insertion finds room");
        for i in (slot..self.len).rev() {
            self.shift(i, i + 1, &mut moved);
        }
        self.len += 1;
        self.heads()[slot] = section.as_ptr();
        for zone in Zone::ALL {
            self.set_rank(slot, zone, 0);
        }
        moved(section, slot);
    }

    /// Takes a section out, moving the later ones down.
    pub(super) fn remove(&mut self, slot: usize, mut moved: impl FnMut(NonNull<T>, usize)) {
        if slot >= self.len {
            return;
        }
        for i in slot + 1..self.len {
            self.shift(i, i - 1, &mut moved);
        }
        self.len -= 1;
        let last = self.len;
        self.heads()[last] = ptr::null();
        for zone in Zone::ALL {
            self.set_rank(last, zone, 0);
        }
    }

    fn shift(&mut self, from: usize, to: usize, moved: &mut impl FnMut(NonNull<T>, usize)) {
        let heads = self.heads();
        heads[to] = heads[from];
        if let Some(section) = NonNull::new(heads[to].cast_mut()) {
            moved(section, to);
        }
        for zone in Zone::ALL {
            let best = self.ranks(zone).0[from];
            self.set_rank(to, zone, best);
        }
    }

    /// The rank recorded for `slot`, for checks.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn rank_of(&mut self, slot: usize, zone: Zone) -> u8 {
        let (sections, groups) = self.ranks(zone);
        let group = slot / GROUP;
        let end = ((group + 1) * GROUP).min(sections.len());
        let max = sections[group * GROUP..end].iter().copied().max().unwrap_or(0);
        assert_eq!(groups[group], max, "N2: a group byte is the maximum of its sections");
        sections[slot]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn the_first_section_that_can_serve_is_found_through_growth_and_removal() {
        let values: Vec<usize> = (0..700).collect();
        let mut table = Table::<usize>::new();
        let mut model: Vec<(usize, [u8; 3])> = Vec::new();
        let mut state = 1u64;
        let mut random = |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        for step in 0..6000 {
            match random(4) {
                0 if model.len() < 700 => {
                    if let Some(bytes) = table.growth_needed(0) {
                        let words = Box::leak(std::vec![0u64; bytes / 8 + 1].into_boxed_slice());
                        let at = NonNull::from(&mut words[0]).cast();
                        // SAFETY: leaked, long enough, aligned.
                        unsafe { table.grow(at) };
                    }
                    let at = random(model.len() + 1);
                    table.insert(at, NonNull::from(&values[step % 700]), |_, _| {});
                    model.insert(at, (step % 700, [0; 3]));
                }
                1 if !model.is_empty() && random(3) == 0 => {
                    let at = random(model.len());
                    table.remove(at, |_, _| {});
                    model.remove(at);
                }
                _ if !model.is_empty() => {
                    let (at, zone) = (random(model.len()), Zone::ALL[random(3)]);
                    let best = random(22) as u8;
                    table.set_rank(at, zone, best);
                    model[at].1[zone.index()] = best;
                }
                _ => {}
            }
            let (zone, order) = (Zone::ALL[random(3)], Order::new(random(21) as u8).unwrap());
            let from = random(model.len() + 1);
            let expected = (from..model.len()).find(|&i| model[i].1[zone.index()] > order.get());
            assert_eq!(table.first_with(zone, order, from), expected);
            assert_eq!(table.len(), model.len());
            for (slot, (value, ranks)) in model.iter().enumerate() {
                assert_eq!(table.get(slot), Some(NonNull::from(&values[*value])));
                for zone in Zone::ALL {
                    assert_eq!(table.rank_of(slot, zone), ranks[zone.index()]);
                }
            }
        }
    }
}
