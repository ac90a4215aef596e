//! Memory goes back to the system: large blocks when they are freed, the rest when it was free for
//! a while.
//!
//! Nothing runs in the background. The end of a slow path (a slab made or released, pages taken or
//! freed) looks at the clock now and then; when the delay has passed, one thread drains the heaps
//! that no thread has, and gives up every free block of 64 KiB or more that may hold something. A
//! block that was given up is known to be zero, so `calloc` need not clear it.
//!
//! A large block is given up as soon as it is freed, unless that happens so often that touching
//! new pages would take more than a twentieth of the time; then it waits like the rest.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::options::{NEVER, OPTIONS};
use crate::process::ALLOCATOR;
use crate::{PAGE_SIZE, sys};

/// From this size on a block is given up when it is freed.
const LARGE: usize = 4 << 20;
/// From this size on a block that is freed has it looked at first how much is in use.
const SAMPLED: usize = 1 << 20;
/// What is given up later, at least, in pages.
const SMALLEST_PAGES: usize = (64 << 10) / PAGE_SIZE;
/// How many ends of slow paths share one look at the clock.
pub(crate) const CHORES_PER_LOOK: u32 = 32;
/// Bytes whose pages are touched anew in a millisecond, about, and a twentieth of it.
const REFILL_PER_MILLI: u64 = (8 << 20) / 20;

static LAST: AtomicU64 = AtomicU64::new(0);
static LAST_LARGE: AtomicU64 = AtomicU64::new(0);
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Whether blocks may be off the free lists at the moment because they are given up.
pub(crate) fn is_running() -> bool {
    RUNNING.load(Ordering::Acquire)
}

/// A large allocation was freed.
#[inline]
pub(crate) fn retire(block: NonNull<u8>, bytes: usize) {
    if bytes >= SAMPLED {
        // While it still counts: what is in use was never more since the look before.
        crate::report::sample();
    }
    if bytes >= LARGE {
        retire_large(block, bytes);
    }
}

#[cold]
fn retire_large(block: NonNull<u8>, bytes: usize) {
    let delay = OPTIONS.purge_delay();
    if delay == NEVER {
        return;
    }
    let now = sys::coarse_millis();
    // Each block earns the next one so much time.
    let allowed = LAST_LARGE.load(Ordering::Relaxed);
    if delay != 0 && now < allowed {
        return;
    }
    LAST_LARGE.store(now + bytes as u64 / REFILL_PER_MILLI, Ordering::Relaxed);
    // SAFETY: freed, and nobody else's yet: whole pages of a region, whose content counts no more.
    unsafe { sys::give_up(block.as_ptr(), bytes) };
}

/// The end of a slow path.
#[inline]
pub(crate) fn chores() {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Not exact when threads meet, and need not be.
    let count = COUNT.load(Ordering::Relaxed).wrapping_add(1);
    COUNT.store(count, Ordering::Relaxed);
    if count.is_multiple_of(CHORES_PER_LOOK) {
        look();
    }
}

#[cold]
fn look() {
    crate::report::sample();
    let delay = OPTIONS.purge_delay();
    if delay == NEVER {
        return;
    }
    let now = sys::coarse_millis();
    let last = LAST.load(Ordering::Relaxed);
    if last == 0 {
        // The first look: nothing has been free for long.
        LAST.store(now.max(1), Ordering::Relaxed);
    } else if now.saturating_sub(last) >= delay as u64
        && LAST.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    {
        purge(SMALLEST_PAGES);
        // The time that it took does not count.
        LAST.store(sys::coarse_millis(), Ordering::Relaxed);
    }
}

/// Gives up free blocks of at least so many pages; returns how many bytes. One thread at a time.
pub(crate) fn purge(smallest_pages: usize) -> usize {
    if RUNNING.swap(true, Ordering::Acquire) {
        return 0;
    }
    drain_unused_heaps();
    // SAFETY: shown a free block of whole pages, which nobody else has meanwhile; `give_up` says
    // whether it is zero.
    let purged = unsafe {
        ALLOCATOR.purge(smallest_pages, |block, bytes| sys::give_up(block.as_ptr(), bytes))
    };
    RUNNING.store(false, Ordering::Release);
    purged
}

/// What threads that are gone left at hand.
fn drain_unused_heaps() {
    for index in 0..ALLOCATOR.cpu_count() {
        if Some(index) != crate::threads::index() {
            // Refused where a thread has it.
            let _ = ALLOCATOR.cpu_offline(index);
        }
    }
}

/// Gives everything back that is not in use.
pub(crate) fn trim() -> bool {
    // Both, whatever the first one finds.
    let kept = ALLOCATOR.shrink();
    kept + purge(1) != 0
}

/// In a child: nobody is at it.
pub(crate) fn forget() {
    RUNNING.store(false, Ordering::Relaxed);
}
