//! The one allocator of the process: where it starts, grows, and fails.
//!
//! It starts with the first allocation of the first thread, which may be long before `main`: the
//! dynamic loader's. Nothing here allocates. A request that cannot be served is repeated after the
//! allocator was started or given more address space.

use core::alloc::Layout;
use core::ptr;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use buddy_slab_allocator::{GlobalAllocator, RawLock};

use crate::lock::YieldingLock;
use crate::options::OPTIONS;
use crate::threads::{self, THREAD_LIMIT, Threads};
use crate::{PAGE_SIZE, fork, huge, misuse, purge, region, report, sys};

/// The allocator, as everything in this crate has it.
pub(crate) type Allocator = GlobalAllocator<PAGE_SIZE, Threads>;

/// The one of this process.
pub(crate) static ALLOCATOR: Allocator = GlobalAllocator::with_platform(Threads);

const ABSENT: u8 = 0;
const STARTING: u8 = 1;
const READY: u8 = 2;
/// No address space is to be had: nothing will ever be served.
const FAILED: u8 = 3;

static STATE: AtomicU8 = AtomicU8::new(ABSENT);

/// Who adds a region, so that a handler above it does not wait for it; 0 for nobody.
static GROWER: AtomicUsize = AtomicUsize::new(0);
static GROWING: YieldingLock = YieldingLock::NEW;

/// The largest allocation that a section holds.
const SECTION_LIMIT: usize = PAGE_SIZE << 20;

/// How often a thread asks again where others are in its way: for seconds, so that a fork of a large
/// process has time to end. Refusing for want of time is worse than waiting.
const PATIENCE: usize = 1 << 15;
/// For how long, about, where the clock counts, not the times asked.
const PATIENCE_MILLIS: u64 = 3000;
/// How often it only lets others run, and does not sleep.
const YIELDS: usize = 64;

/// Starts the allocator, once; `false` if that has failed, or the caller interrupted it.
pub(crate) fn start() -> bool {
    if STATE.load(Ordering::Acquire) == READY {
        return true;
    }
    let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
    if STATE.compare_exchange(ABSENT, STARTING, acquire, relaxed).is_err() {
        return wait_for_start();
    }
    GROWER.store(me(), Ordering::Relaxed);
    OPTIONS.read();
    let started = start_once();
    GROWER.store(0, Ordering::Relaxed);
    STATE.store(if started { READY } else { FAILED }, Ordering::Release);
    if started {
        fork::register();
        report::register();
    }
    started
}

fn start_once() -> bool {
    let Some(region) = region::reserve(0, 0) else { return false };
    // SAFETY: mapped for this alone, zero, and there for as long as the process.
    let outcome = unsafe { ALLOCATOR.init_zeroed(region.base, region.bytes, 0) };
    if outcome.is_err() {
        return false;
    }
    ALLOCATOR.set_misuse_handler(Some(misuse::handle));
    // A small region has room for few: the rest of the threads share.
    let mut capacity = THREAD_LIMIT;
    while ALLOCATOR.reserve_cpus(capacity.min(region.bytes >> 16).max(1)).is_err() && capacity > 1 {
        capacity /= 2;
    }
    true
}

#[cold]
fn wait_for_start() -> bool {
    loop {
        match STATE.load(Ordering::Acquire) {
            READY => return true,
            STARTING if GROWER.load(Ordering::Relaxed) != me() => sys::yield_now(),
            _ => return false,
        }
    }
}

/// Whether the allocator has started.
pub(crate) fn is_started() -> bool {
    STATE.load(Ordering::Acquire) == READY
}

/// Sees to it that the heap with this index is built.
pub(crate) fn bring_up(index: usize) -> bool {
    for round in 0..PATIENCE {
        if ALLOCATOR.bring_up_cpus(index + 1).is_ok() {
            return true;
        }
        if ALLOCATOR.cpu_count() > index {
            return true;
        }
        // Another thread may be at it, or forks; or there is no room for so many.
        if index >= ALLOCATOR.cpu_capacity() {
            return false;
        }
        wait(round);
    }
    false
}

/// Hands on the heap of the calling thread, which ends.
pub(crate) fn thread_ends(index: usize) {
    // It fails only for an index that is not the caller's.
    let _ = ALLOCATOR.cpu_offline(index);
}

/// What to do about a request that the allocator refused: makes it possible and repeats it, or
/// returns null.
#[cold]
#[inline(never)]
pub(crate) fn refused(layout: Layout) -> *mut u8 {
    if !start() {
        return ptr::null_mut();
    }
    if layout.size() > SECTION_LIMIT {
        return huge_block(layout);
    }
    for round in 0..PATIENCE {
        let sections = ALLOCATOR.managed_section_count();
        if let Ok(object) = ALLOCATOR.alloc(layout) {
            return object.as_ptr();
        }
        if purge::is_running() {
            // What it has taken off the lists comes back.
            wait(round);
            continue;
        }
        // Without a heap of its own a thread may have met with every shared one in use: that is no
        // want of memory.
        let has_heap = threads::index().is_some();
        if has_heap || round > YIELDS {
            if grow(sections, layout) {
                continue;
            }
            // What another thread had in hand may be back by now.
            if round > YIELDS * if has_heap { 1 } else { 16 } {
                break;
            }
        }
        wait(round);
    }
    ptr::null_mut()
}

/// Attempts it until it succeeds, or for some seconds: on a loaded machine whoever is in the way may
/// not run for a long time, however often a processor is offered to it.
pub(crate) fn patiently(mut attempt: impl FnMut() -> bool) -> bool {
    let mut end = None;
    for round in 0.. {
        if attempt() {
            return true;
        }
        // The clock is not read before the first yields were in vain.
        if round >= YIELDS {
            let now = sys::coarse_millis();
            if now >= *end.get_or_insert(now + PATIENCE_MILLIS) {
                break;
            }
        }
        wait(round);
    }
    false
}

/// Lets others go on.
fn wait(round: usize) {
    if round < YIELDS { sys::yield_now() } else { sys::nap() }
}

fn huge_block(layout: Layout) -> *mut u8 {
    let used = ALLOCATOR.managed_bytes().saturating_add(huge::bytes());
    if OPTIONS.limit() != usize::MAX && OPTIONS.limit().saturating_sub(used) < layout.size() {
        return ptr::null_mut();
    }
    huge::allocate(layout.size(), layout.align()).map_or(ptr::null_mut(), ptr::NonNull::as_ptr)
}

/// Adds a region in which `layout` fits, unless others have added one since there were `sections`;
/// `false` if there is none to be had, or the caller interrupted who is at it.
fn grow(sections: usize, layout: Layout) -> bool {
    if GROWER.load(Ordering::Relaxed) == me() {
        return false;
    }
    GROWING.with(|| {
        if ALLOCATOR.managed_section_count() != sections {
            return true;
        }
        let free = ALLOCATOR.managed_bytes().saturating_sub(ALLOCATOR.allocated_bytes());
        if threads::index().is_none() && free / 16 > layout.size() {
            return false; // plenty, and others in the way
        }
        GROWER.store(me(), Ordering::Relaxed);
        let grown = add_region(layout);
        GROWER.store(0, Ordering::Relaxed);
        grown
    })
}

fn add_region(layout: Layout) -> bool {
    // Aligned, and with room for the region's own tables (a 256th, at most).
    let wanted = layout.size().saturating_add(layout.align());
    let wanted = wanted.saturating_add(wanted / 128).saturating_add(1 << 20);
    let managed = ALLOCATOR.managed_bytes().saturating_add(huge::bytes());
    let Some(region) = region::reserve(managed, wanted) else { return false };
    // SAFETY: mapped for this alone, zero, and there for as long as the process.
    let added = unsafe { ALLOCATOR.add_zeroed_region(region.base, region.bytes, 0) };
    if added.is_err() {
        // SAFETY: refused, so nobody uses it.
        unsafe { sys::unmap(region.base, region.bytes) };
    }
    added.is_ok()
}

/// Before a fork: nobody adds a region. `false` if somebody is at it for seconds, or the caller
/// interrupted itself at it.
pub(crate) fn freeze() -> bool {
    GROWER.load(Ordering::Relaxed) != me() && patiently(|| GROWING.try_lock())
}

/// # Safety
/// - `freeze` has succeeded in this context.
pub(crate) unsafe fn thaw() {
    // SAFETY: held (condition).
    unsafe { GROWING.unlock() };
}

/// A number for the calling thread, not 0.
pub(crate) fn me() -> usize {
    // SAFETY: no condition.
    unsafe { libc::pthread_self() as usize }
}
