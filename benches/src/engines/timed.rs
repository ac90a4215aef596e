//! An engine whose every call is timed on its own, for histograms.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::RefCell;
use std::sync::Mutex;

use hdrhistogram::Histogram;

use super::Engine;
use crate::cycles;

/// Cycles of each call, of all threads that have left, and of those that have not yet in `CALLS`.
static GATHERED: Mutex<Option<Histogram<u64>>> = Mutex::new(None);

thread_local! {
    static CALLS: RefCell<OfThread> = RefCell::new(OfThread(new_histogram()));
}

/// The calls of one thread, which go to [`GATHERED`] when it ends.
struct OfThread(Histogram<u64>);

impl Drop for OfThread {
    fn drop(&mut self) {
        gather(&mut self.0);
    }
}

/// An empty histogram, of up to 2^36 cycles, three digits.
///
/// # Panics
/// Never: the bounds are sound.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1 << 36, 3).expect("sound bounds")
}

fn gather(calls: &mut Histogram<u64>) {
    let mut gathered = GATHERED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    gathered.get_or_insert_with(new_histogram).add(&*calls).expect("the same bounds");
    calls.reset();
}

/// Forgets the calls so far, of threads that have left and of the caller.
pub fn clear_calls() {
    let _ = calls_since();
}

/// The calls since the last call of this or of [`clear_calls`]: of threads that have left
/// meanwhile, and of the caller.
pub fn calls_since() -> Histogram<u64> {
    CALLS.with_borrow_mut(|calls| gather(&mut calls.0));
    let mut gathered = GATHERED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    gathered.take().unwrap_or_else(new_histogram)
}

/// `E`, every call of which is timed; what a clock costs is in each figure.
#[derive(Clone, Copy, Default)]
pub struct Timed<E>(E);

impl<E: Engine> Engine for Timed<E> {
    fn start() {
        E::start();
    }

    fn enter_thread() {
        E::enter_thread();
    }

    fn leave_thread() {
        E::leave_thread();
    }

    fn tick() {
        E::tick();
    }
}

#[inline(always)]
pub(crate) fn timed<R>(call: impl FnOnce() -> R) -> R {
    let start = cycles::now();
    let result = call();
    let took = cycles::now().saturating_sub(start);
    CALLS.with_borrow_mut(|calls| calls.0.saturating_record(took));
    result
}

// SAFETY: passes every call on.
unsafe impl<E: Engine> GlobalAlloc for Timed<E> {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same conditions.
        timed(|| unsafe { self.0.alloc(layout) })
    }

    #[inline(always)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same conditions.
        timed(|| unsafe { self.0.alloc_zeroed(layout) })
    }

    #[inline(always)]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the same conditions.
        timed(|| unsafe { self.0.dealloc(ptr, layout) })
    }

    #[inline(always)]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the same conditions.
        timed(|| unsafe { self.0.realloc(ptr, layout, new_size) })
    }
}
