//! Lists through free objects.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;

use super::{CLASSES, Ground, SIZES, class_of, piece_bytes};
use crate::engines::Engine;

static GROUND: Ground = Ground::new();

thread_local! {
    /// The free objects of each class: the last freed first, each begins with the next.
    static LISTS: UnsafeCell<[*mut u8; CLASSES]> =
        const { UnsafeCell::new([ptr::null_mut(); CLASSES]) };
}

/// One list a thread and class: a load and two stores a pair, and the table that says the class.
#[derive(Clone, Copy, Default)]
pub struct List;

impl Engine for List {}

#[inline(always)]
fn list(class: usize) -> *mut *mut u8 {
    debug_assert!(class < CLASSES);
    // SAFETY: the class is in range.
    LISTS.with(|lists| unsafe { lists.get().cast::<*mut u8>().add(class) })
}

/// Cuts more objects, lists all but the first, and returns that.
#[cold]
#[inline(never)]
fn cut(class: usize) -> *mut u8 {
    let (size, piece) = (SIZES[class] as usize, piece_bytes(class));
    let first = GROUND.take_ptr(piece);
    let mut next = ptr::null_mut();
    for index in (1..piece / size).rev() {
        // SAFETY: within the piece, which nobody else has; a word of an object.
        unsafe {
            let object = first.add(index * size);
            object.cast::<*mut u8>().write(next);
            next = object;
        }
    }
    // SAFETY: the calling thread's own.
    unsafe { *list(class) = next };
    first
}

// SAFETY: objects of a list are free, distinct and as large as their class; sizes stay below the
// largest class and alignments at a word, or at what the size is a multiple of.
unsafe impl GlobalAlloc for List {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class_of(layout.size());
        let list = list(class);
        // SAFETY: the calling thread's own list, whose objects begin with the next.
        unsafe {
            let object = *list;
            if object.is_null() {
                return cut(class);
            }
            *list = *object.cast();
            object
        }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        let list = list(class_of(layout.size()));
        // SAFETY: the caller gives the object up; the list is the thread's own.
        unsafe {
            *object.cast() = *list;
            *list = object;
        }
    }
}
