//! What the harness costs: an engine that does next to nothing.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;
use std::sync::Mutex;

use super::Engine;
use super::ours::region;

/// Objects come round again after this many bytes: more than any ring between threads holds.
const WINDOW_BYTES: usize = 1 << 20;
/// Room behind the window for one object that begins near its end.
const SLACK_BYTES: usize = 4 << 20;

thread_local! {
    static NEXT: Cell<(*mut u8, usize)> = const { Cell::new((ptr::null_mut(), 0)) };
}

/// Arrays of threads that have left, by exposed address.
static SPARE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Hands out the slots of a preallocated array in turn, and takes nothing back. The program must
/// not rely on what it writes: slots are in use several times over.
#[derive(Clone, Copy, Default)]
pub struct Floor;

impl Engine for Floor {
    fn start() {
        Self::enter_thread();
    }

    fn enter_thread() {
        if NEXT.get().0.is_null() {
            let spare = SPARE.lock().expect("nobody panics with it").pop();
            let base = spare.map_or_else(new_array, ptr::with_exposed_provenance_mut);
            NEXT.set((base, 0));
        }
    }

    fn leave_thread() {
        let (base, _) = NEXT.replace((ptr::null_mut(), 0));
        SPARE.lock().expect("nobody panics with it").push(base.expose_provenance());
    }
}

/// An array that is in memory already.
fn new_array() -> *mut u8 {
    let array = region(WINDOW_BYTES + SLACK_BYTES);
    array.fill(1);
    array.as_mut_ptr()
}

// SAFETY: a double for the harness, whose workloads write the first or last word of an object and
// never rely on what they wrote; sizes stay below the slack and alignments at a page.
unsafe impl GlobalAlloc for Floor {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (base, offset) = NEXT.get();
        NEXT.set((base, (offset + layout.size().next_multiple_of(64)) % WINDOW_BYTES));
        base.wrapping_add(offset)
    }

    #[inline(always)]
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    #[inline(always)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the same conditions.
        let object = unsafe { self.alloc(layout) };
        // SAFETY: within the window and its slack.
        unsafe { object.write_bytes(0, layout.size()) };
        object
    }

    #[inline(always)]
    unsafe fn realloc(&self, ptr: *mut u8, _: Layout, _: usize) -> *mut u8 {
        ptr
    }
}
