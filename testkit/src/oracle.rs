//! The slow, obvious shadow: what is live, where, and what it must hold.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ops::Range;

/// What a live range was asked for as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An object of this layout.
    Object(Layout),
    /// This many pages.
    Pages(usize),
}

/// One live allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Where it begins.
    pub addr: usize,
    /// Bytes that may be used; all of them carry the pattern.
    pub len: usize,
    /// What was asked for.
    pub kind: Kind,
}

/// Shadow of a heap. Every method panics when the heap has broken its word.
#[derive(Debug, Default)]
pub struct Oracle {
    live: BTreeMap<usize, Live>,
    objects: Vec<usize>,
    pages: Vec<usize>,
    sections: Vec<Range<usize>>,
}

impl Oracle {
    /// Nothing live, `sections` managed.
    pub fn new(sections: Vec<Range<usize>>) -> Self {
        Self { sections, ..Self::default() }
    }

    /// The managed ranges have changed.
    ///
    /// # Panics
    /// If two sections overlap.
    pub fn set_sections(&mut self, sections: Vec<Range<usize>>) {
        let mut sorted = sections.clone();
        sorted.sort_by_key(|s| s.start);
        for pair in sorted.windows(2) {
            assert!(pair[0].end <= pair[1].start, "sections overlap: {pair:x?}");
        }
        self.sections = sections;
    }

    /// Everything live, by address.
    pub fn live(&self) -> impl Iterator<Item = &Live> {
        self.live.values()
    }

    /// Number of live objects.
    pub fn object_count(&self) -> usize {
        self.objects.len()
    }

    /// Number of live page runs.
    pub fn page_run_count(&self) -> usize {
        self.pages.len()
    }

    /// Bytes handed out, as asked for.
    pub fn live_bytes(&self) -> usize {
        self.live.values().map(|l| l.len).sum()
    }

    /// Takes note of a new allocation and fills it.
    ///
    /// # Panics
    /// If it overlaps a live one, lies outside the sections or is misaligned.
    ///
    /// # Safety
    /// - If the heap kept its word, `addr..addr + len` must be writable through exposed provenance.
    pub unsafe fn insert(&mut self, live: Live, align: usize) {
        let Live { addr, len, kind } = live;
        let end = addr.checked_add(len.max(1)).expect("the range wraps around");
        assert_eq!(addr % align, 0, "{kind:?} at {addr:#x} is not aligned to {align:#x}");
        assert!(
            self.sections.iter().any(|s| s.start <= addr && end <= s.end),
            "{kind:?} at {addr:#x}..{end:#x} is not inside one managed section"
        );
        if let Some((_, before)) = self.live.range(..end).next_back() {
            assert!(
                before.addr + before.len.max(1) <= addr,
                "{kind:?} at {addr:#x}..{end:#x} overlaps the live {before:x?}"
            );
        }
        // SAFETY: inside a section and not handed out to anyone else: by the heap's word it is ours.
        unsafe { fill(addr, len) };
        self.live.insert(addr, live);
        match kind {
            Kind::Object(_) => self.objects.push(addr),
            Kind::Pages(_) => self.pages.push(addr),
        }
    }

    /// Forgets the `nth` live object after checking what it holds.
    pub fn remove_object(&mut self, nth: usize) -> Option<Live> {
        let addr = take_nth(&mut self.objects, nth)?;
        Some(self.remove(addr))
    }

    /// Forgets the `nth` live page run after checking what it holds.
    pub fn remove_pages(&mut self, nth: usize) -> Option<Live> {
        let addr = take_nth(&mut self.pages, nth)?;
        Some(self.remove(addr))
    }

    fn remove(&mut self, addr: usize) -> Live {
        let live = self.live.remove(&addr).expect("the index and the map agree");
        // SAFETY: it was live until now.
        unsafe { verify(live.addr, live.len, live.addr) };
        live
    }

    /// Checks what everything live holds.
    ///
    /// # Panics
    /// If a byte has changed.
    pub fn verify_all(&self) {
        for live in self.live.values() {
            // SAFETY: it is live.
            unsafe { verify(live.addr, live.len, live.addr) };
        }
    }
}

fn take_nth(list: &mut Vec<usize>, nth: usize) -> Option<usize> {
    let at = nth.checked_rem(list.len())?;
    Some(list.swap_remove(at))
}

/// The byte that belongs at `offset` in an allocation that began at `origin`.
fn pattern(origin: usize, offset: usize) -> u8 {
    let word = (origin / 8).wrapping_add(offset / 8).wrapping_mul(0x9E37_79B1).wrapping_add(0x5F);
    // The high part is the better mixed one.
    word.to_le_bytes()[2].wrapping_add((offset % 8) as u8) | 1
}

/// Fills an allocation with the pattern of its own address. No byte of it is zero.
///
/// # Safety
/// - `addr..addr + len` must be writable through exposed provenance.
pub unsafe fn fill(addr: usize, len: usize) {
    let ptr = std::ptr::with_exposed_provenance_mut::<u8>(addr);
    for offset in 0..len {
        // SAFETY: inside the range that the caller vouches for.
        unsafe { ptr.add(offset).write(pattern(addr, offset)) };
    }
}

/// Checks that `len` bytes at `addr` hold what was filled in when they began at `origin`.
///
/// # Panics
/// At the first byte that differs.
///
/// # Safety
/// - `addr..addr + len` must be readable through exposed provenance.
pub unsafe fn verify(addr: usize, len: usize, origin: usize) {
    let ptr = std::ptr::with_exposed_provenance::<u8>(addr);
    for offset in 0..len {
        // SAFETY: inside the range that the caller vouches for.
        let byte = unsafe { ptr.add(offset).read() };
        let due = pattern(origin, offset);
        assert!(
            byte == due,
            "byte {offset} of the allocation at {addr:#x} ({len} bytes) was overwritten: {byte:#x}, not {due:#x}"
        );
    }
}
