//! The section directory: from an address to the section that manages it, for any reader at
//! any moment, a handler that interrupted the writer included.
//!
//! # Protocol
//! A section's header lies inside its region, so the header pointer itself is the search key: of
//! all sections only that of the first header above an address can hold it or, if its header lies
//! before some of its pages (it had to make way for a reserved range), that of the last header at
//! or below it. The sorted keys exist in two copies. `seq & 1` names the copy that readers use.
//! The writer (one at a time, which the caller's topology lock ensures) rewrites the *other*
//! copy and then adds one to `seq`; it therefore never edits what a reader is sent to. A reader
//! searches, then looks at `seq` again: unchanged means that nobody began to edit its copy,
//! since an edit of copy `s & 1` starts only after `s + 1` is published. Otherwise it repeats.
//! A reader never waits, and a reader that stops the writer in the middle of an edit finds the
//! old state whole.
//!
//! What a torn search may see is harmless: every array it can reach stays allocated for ever
//! (growth doubles, so all old arrays together are smaller than the present one), the width of
//! a leaf travels in the low bits of the array's pointer so that the two always belong
//! together, and a key is dereferenced only after the second look at `seq`.
//!
//! # Cost
//! At most three dependent loads: `seq`, the inline upper level (or, up to [`FANOUT`] sections,
//! the answer), the leaf. The keys of one level are compared independently of each other.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};

/// Entries of the inline upper level.
pub(super) const FANOUT: usize = usize::BITS as usize;

/// Alignment that key arrays need: it frees the pointer's low bits for the leaf width.
pub(super) const ARRAY_ALIGN: usize = 64;

/// Keys between the probes of a search in one level: as many as share a cache line.
const STRIDE: usize = 8;

type Key<T> = AtomicPtr<T>;

/// One of the two sorted arrays.
struct SortedCopy<T> {
    /// Null while the keys fit in `top`; otherwise the leaf array, with log2 of the leaf width
    /// in the low six bits.
    leaves: AtomicPtr<Key<T>>,
    /// The keys themselves, or the last key of every leaf. Unused entries are null.
    top: [Key<T>; FANOUT],
}

/// Maps addresses to sections. `T` is the section header; a header's own address is its key.
///
/// # Invariants
/// - Both copies are sorted, without duplicates, nulls at the end.
/// - `len` is the number of keys in the copy that `seq` names.
pub(super) struct Directory<T> {
    seq: AtomicUsize,
    copies: [SortedCopy<T>; 2],
    len: AtomicUsize,
    /// The arrays that the next edit of either copy uses; only the writer looks.
    storage: [AtomicPtr<Key<T>>; 2],
    _headers: PhantomData<*const T>,
}

// SAFETY: the directory hands out raw pointers only and never touches what they point to.
unsafe impl<T> Send for Directory<T> {}
// SAFETY: as above; all fields are atomics.
unsafe impl<T> Sync for Directory<T> {}

/// First index whose key lies above `addr`, or whose key is null; `keys.len()` if none.
#[inline]
fn first_above<T>(keys: &[Key<T>], addr: usize) -> usize {
    // A null key counts as the highest address: 0 - 1 wraps to the top.
    let above = |key: &Key<T>| key.load(Ordering::Relaxed).addr().wrapping_sub(1) >= addr;
    let mut base = 0;
    while base + STRIDE < keys.len() && !above(&keys[base + STRIDE - 1]) {
        base += STRIDE;
    }
    while base < keys.len() && !above(&keys[base]) {
        base += 1;
    }
    base
}

impl<T> SortedCopy<T> {
    /// Splits the tagged pointer into the array and log2 of its leaf width.
    #[inline]
    fn leaf_array(&self) -> Option<(NonNull<Key<T>>, u32)> {
        // Acquire pairs with the release store in `rewrite`: the array's entries are
        // initialised before its pointer can be seen.
        let tagged = self.leaves.load(Ordering::Acquire);
        let shift = (tagged.addr() & (ARRAY_ALIGN - 1)) as u32;
        NonNull::new(tagged.map_addr(|a| a & !(ARRAY_ALIGN - 1))).map(|array| (array, shift))
    }

    /// The first key above `addr`, or null. Never reads outside its arrays, even in mid-edit.
    #[inline]
    fn search(&self, addr: usize) -> *mut T {
        let index = first_above(&self.top, addr);
        let Some(entry) = self.top.get(index) else { return ptr::null_mut() };
        let Some((array, shift)) = self.leaf_array() else {
            return entry.load(Ordering::Relaxed);
        };
        let width = 1usize << shift;
        // SAFETY: the array holds `FANOUT << shift` initialised atomics (`grow`'s condition; the
        // shift came with the pointer), and `index < FANOUT`.
        let leaf = unsafe {
            core::slice::from_raw_parts(array.as_ptr().add(index << shift).cast_const(), width)
        };
        match leaf.get(first_above(leaf, addr)) {
            Some(key) => key.load(Ordering::Relaxed),
            None => ptr::null_mut(),
        }
    }

    /// How many keys lie at or below `addr`. Never reads outside its arrays.
    fn rank(&self, addr: usize) -> usize {
        let index = first_above(&self.top, addr);
        match self.leaf_array() {
            Some((array, shift)) if index < FANOUT => {
                // SAFETY: as in `search`.
                let leaf = unsafe {
                    core::slice::from_raw_parts(
                        array.as_ptr().add(index << shift).cast_const(),
                        1 << shift,
                    )
                };
                (index << shift) + first_above(leaf, addr)
            }
            Some((_, shift)) => FANOUT << shift,
            None => index,
        }
    }

    /// Key number `index` in ascending order; null beyond the last.
    fn get(&self, index: usize) -> *mut T {
        match self.leaf_array() {
            None => self.top.get(index).map_or(ptr::null_mut(), |k| k.load(Ordering::Relaxed)),
            Some((array, shift)) if index < FANOUT << shift => {
                // SAFETY: inside the `FANOUT << shift` initialised entries.
                unsafe { array.add(index).as_ref() }.load(Ordering::Relaxed)
            }
            Some(_) => ptr::null_mut(),
        }
    }

    /// Replaces all keys, with `storage` (tagged, or null for inline) as the leaf array.
    fn rewrite(&self, storage: *mut Key<T>, len: usize, mut keys: impl FnMut(usize) -> *mut T) {
        self.leaves.store(storage, Ordering::Release);
        let Some((array, shift)) = self.leaf_array() else {
            for (i, entry) in self.top.iter().enumerate() {
                entry.store(if i < len { keys(i) } else { ptr::null_mut() }, Ordering::Relaxed);
            }
            return;
        };
        for (j, entry) in self.top.iter().enumerate() {
            let mut last = ptr::null_mut();
            for i in j << shift..(j + 1) << shift {
                let key = if i < len { keys(i) } else { ptr::null_mut() };
                if i < len {
                    last = key;
                }
                // SAFETY: `i < FANOUT << shift`, the array's length.
                unsafe { array.add(i).as_ref() }.store(key, Ordering::Relaxed);
            }
            entry.store(last, Ordering::Relaxed);
        }
    }
}

/// Storage that [`Directory::insert`] needs first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GrowthNeeded {
    /// Bytes for both copies together, aligned to [`ARRAY_ALIGN`].
    pub(super) size_bytes: usize,
    shift: u32,
}

impl<T> Directory<T> {
    /// An empty directory.
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Self {
            seq: AtomicUsize::new(0),
            copies: [const {
                SortedCopy {
                    leaves: AtomicPtr::new(ptr::null_mut()),
                    top: [const { AtomicPtr::new(ptr::null_mut()) }; FANOUT],
                }
            }; 2],
            len: AtomicUsize::new(0),
            storage: [const { AtomicPtr::new(ptr::null_mut()) }; 2],
            _headers: PhantomData,
        }
    }

    /// An empty directory.
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self {
            seq: AtomicUsize::new(0),
            copies: core::array::from_fn(|_| SortedCopy {
                leaves: AtomicPtr::new(ptr::null_mut()),
                top: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            }),
            len: AtomicUsize::new(0),
            storage: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            _headers: PhantomData,
        }
    }

    /// The section with the first header above `addr`, which holds `addr` if any does whose
    /// header lies behind its pages: the caller compares with its range.
    ///
    /// Lock-free; three dependent loads.
    #[inline]
    pub(super) fn candidate(&self, addr: usize) -> Option<NonNull<T>> {
        self.read(|copy| copy.search(addr))
    }

    /// The section with the last header at or below `addr`: the other candidate.
    ///
    /// Lock-free.
    #[cold]
    pub(super) fn candidate_below(&self, addr: usize) -> Option<NonNull<T>> {
        self.read(|copy| match copy.rank(addr).checked_sub(1) {
            Some(index) => copy.get(index),
            None => ptr::null_mut(),
        })
    }

    /// Section number `index` in ascending address order.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn by_address(&self, index: usize) -> Option<NonNull<T>> {
        self.read(|copy| copy.get(index))
    }

    /// Runs a search on the copy that `seq` names until nobody can have edited it meanwhile.
    #[inline]
    fn read(&self, search: impl Fn(&SortedCopy<T>) -> *mut T) -> Option<NonNull<T>> {
        loop {
            let seq = self.seq.load(Ordering::Acquire);
            let found = search(&self.copies[seq & 1]);
            // Pairs with the release fence that begins an edit: whoever read an edited key
            // reads a later `seq` here.
            fence(Ordering::Acquire);
            if self.seq.load(Ordering::Relaxed) == seq {
                return NonNull::new(found);
            }
        }
    }

    /// Number of sections.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    fn capacity(&self) -> usize {
        let tag = self.storage[0].load(Ordering::Relaxed).addr() & (ARRAY_ALIGN - 1);
        FANOUT << tag
    }

    /// What [`grow`](Self::grow) must be given before the next insertion, if anything.
    /// `spare` further insertions must find room after it.
    pub(super) fn growth_needed(&self, spare: usize) -> Option<GrowthNeeded> {
        let capacity = self.capacity();
        if self.len() + spare < capacity {
            return None;
        }
        // From inline to leaves of eight at once, then doubling.
        let shift = if capacity == FANOUT { 3 } else { (2 * capacity / FANOUT).trailing_zeros() };
        let size_bytes = (FANOUT << shift).checked_mul(2 * size_of::<Key<T>>())?;
        Some(GrowthNeeded { size_bytes, shift })
    }

    /// Takes the storage that [`growth_needed`](Self::growth_needed) asked for.
    ///
    /// # Safety
    /// - The caller is the only writer (holds the topology lock).
    /// - `at` points to `need.size_bytes` writable bytes aligned to [`ARRAY_ALIGN`], given up for
    ///   good: they are never unmapped, moved or reused.
    pub(super) unsafe fn grow(&self, at: NonNull<u8>, need: GrowthNeeded) {
        let entries = FANOUT << need.shift;
        let base: NonNull<Key<T>> = at.cast();
        for (copy, storage) in self.storage.iter().enumerate() {
            // SAFETY: two arrays of `entries` keys fit into `size_bytes`.
            let array = unsafe { base.add(copy * entries) };
            for i in 0..entries {
                // SAFETY: inside the array, writable and unshared.
                unsafe { array.add(i).write(AtomicPtr::new(ptr::null_mut())) };
            }
            let tag = need.shift as usize;
            storage.store(array.as_ptr().map_addr(|a| a | tag), Ordering::Relaxed);
        }
    }

    /// Publishes a section.
    ///
    /// # Safety
    /// - The caller is the only writer; `growth_needed(0)` is `None`.
    /// - `header` is new here, lies in the region it describes, which overlaps no other's, and
    ///   outlives its presence.
    pub(super) unsafe fn insert(&self, header: NonNull<T>) {
        let old = &self.copies[self.seq.load(Ordering::Relaxed) & 1];
        let len = self.len();
        debug_assert!(len < self.capacity(), "D1: an insertion finds room");
        let mut at = 0;
        while at < len && old.get(at).addr() < header.addr().get() {
            at += 1;
        }
        self.publish(len + 1, |i| match i.cmp(&at) {
            core::cmp::Ordering::Less => old.get(i),
            core::cmp::Ordering::Equal => header.as_ptr(),
            core::cmp::Ordering::Greater => old.get(i - 1),
        });
    }

    /// Withdraws a section; `false` if it is not there.
    ///
    /// Readers that found it before may go on using it: the caller waits for them before the
    /// header's memory goes.
    ///
    /// # Safety
    /// - The caller is the only writer.
    pub(super) unsafe fn remove(&self, header: NonNull<T>) -> bool {
        let old = &self.copies[self.seq.load(Ordering::Relaxed) & 1];
        let len = self.len();
        let Some(at) = (0..len).find(|&i| old.get(i) == header.as_ptr()) else { return false };
        self.publish(len - 1, |i| old.get(if i < at { i } else { i + 1 }));
        true
    }

    /// Rewrites the copy that readers do not use, then sends them there.
    fn publish(&self, len: usize, keys: impl FnMut(usize) -> *mut T) {
        let seq = self.seq.load(Ordering::Relaxed);
        let idle = seq.wrapping_add(1) & 1;
        // Pairs with the readers' acquire fence (see `candidate`).
        fence(Ordering::Release);
        self.copies[idle].rewrite(self.storage[idle].load(Ordering::Relaxed), len, keys);
        self.len.store(len, Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
