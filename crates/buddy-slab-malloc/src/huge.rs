//! Allocations that no section holds (above 4 GiB): each a mapping of its own.
//!
//! They are rare and large, so a table of a few hundred of them is searched from end to end. A free
//! finds its way here when the allocator has no such address.

use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::RawLock;

use crate::lock::YieldingLock;
use crate::{PAGE_SIZE, process, sys};

/// How many there can be at a time.
const LIMIT: usize = 512;

#[derive(Clone, Copy)]
struct Mapping {
    at: *mut u8,
    bytes: usize,
    /// What was mapped: more, if the alignment wanted that.
    mapped_at: *mut u8,
    mapped_bytes: usize,
}

struct Table {
    lock: YieldingLock,
    mappings: UnsafeCell<[Option<Mapping>; LIMIT]>,
}

// SAFETY: the mappings are only touched with the lock held.
unsafe impl Sync for Table {}

static TABLE: Table = Table { lock: YieldingLock::NEW, mappings: UnsafeCell::new([None; LIMIT]) };

/// Bytes in all of them, for whoever reads without the lock; changed with it held.
static BYTES: AtomicUsize = AtomicUsize::new(0);

impl Table {
    /// Works on the table; `None` if somebody has it for long: what a handler interrupted, perhaps.
    fn with<R>(&self, body: impl FnOnce(&mut [Option<Mapping>; LIMIT]) -> R) -> Option<R> {
        let taken = process::patiently(|| self.lock.try_lock());
        taken.then(|| {
            // SAFETY: the lock is held, and this is the only reference.
            let result = body(unsafe { &mut *self.mappings.get() });
            // SAFETY: taken above.
            unsafe { self.lock.unlock() };
            result
        })
    }
}

/// Maps `size` bytes at a multiple of `align`. All of them are zero.
pub(crate) fn allocate(size: usize, align: usize) -> Option<NonNull<u8>> {
    let bytes = size.checked_next_multiple_of(PAGE_SIZE)?;
    let slack = if align > PAGE_SIZE { align } else { 0 };
    let mapped_bytes = bytes.checked_add(slack)?;
    let mapped_at = sys::map(0, mapped_bytes)?;
    let at = mapped_at.wrapping_add(mapped_at.addr().wrapping_neg() & (align - 1));
    let mapping = Mapping { at, bytes, mapped_at, mapped_bytes };
    let kept = TABLE.with(|table| {
        let free = table.iter_mut().find(|place| place.is_none());
        let kept = free.map(|place| *place = Some(mapping)).is_some();
        if kept {
            BYTES.fetch_add(bytes, Ordering::Relaxed);
        }
        kept
    });
    if kept != Some(true) {
        // SAFETY: mapped above, and nobody knows of it.
        unsafe { sys::unmap(mapped_at, mapped_bytes) };
        return None;
    }
    NonNull::new(at)
}

/// Bytes of the allocation at `addr`, if it is one of these.
pub(crate) fn usable_size(addr: usize) -> Option<usize> {
    let of = |table: &mut [Option<Mapping>; LIMIT]| {
        table.iter().flatten().find(|mapping| mapping.at.addr() == addr).map(|found| found.bytes)
    };
    TABLE.with(of).flatten()
}

/// Frees the allocation at `addr`; `false` if it is none of these.
pub(crate) fn release(addr: usize) -> bool {
    let taken = TABLE.with(|table| {
        let holds = |place: &&mut Option<Mapping>| place.is_some_and(|of| of.at.addr() == addr);
        let taken = table.iter_mut().find(holds).and_then(Option::take);
        BYTES.fetch_sub(taken.map_or(0, |mapping| mapping.bytes), Ordering::Relaxed);
        taken
    });
    let Some(mapping) = taken.flatten() else { return false };
    // SAFETY: out of the table, so this call's alone.
    unsafe { sys::unmap(mapping.mapped_at, mapping.mapped_bytes) };
    true
}

/// Before a fork: nobody changes the table. `false` if somebody has it for seconds.
pub(crate) fn freeze() -> bool {
    process::patiently(|| TABLE.lock.try_lock())
}

/// # Safety
/// - `freeze` has succeeded in this context.
pub(crate) unsafe fn thaw() {
    // SAFETY: held (condition).
    unsafe { TABLE.lock.unlock() };
}

/// Bytes in such allocations.
pub(crate) fn bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}

/// Moves an allocation to a larger or smaller mapping; null if that fails, and it is as it was.
///
/// # Safety
/// - The caller owns the allocation at `addr`.
pub(crate) unsafe fn resize(ptr: NonNull<u8>, new_size: usize) -> *mut u8 {
    let Some(old) = usable_size(ptr.addr().get()) else { return ptr::null_mut() };
    if new_size <= old && new_size > old / 2 {
        return ptr.as_ptr();
    }
    let Some(new) = NonNull::new(crate::heap::allocate(new_size, 16)) else {
        return ptr::null_mut();
    };
    let bytes = old.min(new_size);
    let pages = bytes / PAGE_SIZE * PAGE_SIZE;
    // SAFETY: both are live and hold so many bytes; what is left of whole pages is copied; the old
    // one is freed once, and not used any more.
    unsafe {
        let moved = usable_size(new.addr().get()).is_some()
            && sys::move_pages(ptr.as_ptr(), new.as_ptr(), pages);
        let from = if moved { pages } else { 0 };
        let source = ptr.as_ptr().add(from);
        new.as_ptr().add(from).copy_from_nonoverlapping(source, bytes - from);
        release(ptr.addr().get());
    }
    new.as_ptr()
}
