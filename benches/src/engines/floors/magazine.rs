//! Magazines of 64 objects, exchanged at a depot (Bonwick and Adams, 2001).

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;

use spin::Mutex;

use super::{CLASSES, Ground, SIZES, class_of, piece_bytes};
use crate::engines::Engine;

const ROUNDS: usize = 64;

static GROUND: Ground = Ground::new();

/// Full magazines and empty ones of each class, and of all threads.
static DEPOTS: [Mutex<Depot>; CLASSES] =
    [const { Mutex::new(Depot(Vec::new(), Vec::new())) }; CLASSES];

struct Depot(Vec<Magazine>, Vec<Magazine>);

type Magazine = Box<[*mut u8; ROUNDS]>;

/// What a thread has of a class.
struct Rack {
    /// The magazine in use: null or one of `ROUNDS`.
    loaded: *mut *mut u8,
    count: u32,
    /// `ROUNDS`, or zero if there is no magazine.
    room: u32,
    /// Another one, full or empty.
    spare: Option<Magazine>,
    spare_is_full: bool,
}

// SAFETY: it owns its magazines; objects may be freed by any thread.
unsafe impl Send for Depot {}

thread_local! {
    static RACKS: UnsafeCell<[Rack; CLASSES]> = const {
        UnsafeCell::new([const {
            Rack { loaded: ptr::null_mut(), count: 0, room: 0, spare: None, spare_is_full: false }
        }; CLASSES])
    };
}

/// Two magazines a thread and class; one lock of the depot for each 64 objects that go one way.
#[derive(Clone, Copy, Default)]
pub struct Magazines;

impl Engine for Magazines {
    fn leave_thread() {
        for (class, depot) in DEPOTS.iter().enumerate() {
            // SAFETY: the calling thread's own.
            let rack = unsafe { &mut *rack(class) };
            if let Some(spare) = rack.spare.take().filter(|_| rack.spare_is_full) {
                depot.lock().0.push(spare);
            }
        }
    }
}

#[inline(always)]
fn rack(class: usize) -> *mut Rack {
    debug_assert!(class < CLASSES);
    // SAFETY: the class is in range.
    RACKS.with(|racks| unsafe { racks.get().cast::<Rack>().add(class) })
}

impl Rack {
    /// The magazine in use, taken out.
    fn unload(&mut self) -> Option<Magazine> {
        let loaded = std::mem::replace(&mut self.loaded, ptr::null_mut());
        // SAFETY: one that `load` put there.
        (!loaded.is_null()).then(|| unsafe { Box::from_raw(loaded.cast()) })
    }

    fn load(&mut self, magazine: Magazine, count: usize) {
        self.loaded = Box::into_raw(magazine).cast();
        self.count = count as u32;
        self.room = ROUNDS as u32;
    }

    /// The magazine in use is empty: another one, with objects.
    #[cold]
    #[inline(never)]
    fn reload(&mut self, class: usize) {
        let empty = self.unload();
        if self.spare_is_full {
            self.spare_is_full = false;
            let full = std::mem::replace(&mut self.spare, empty).expect("it is full");
            return self.load(full, ROUNDS);
        }
        let mut depot = DEPOTS[class].lock();
        if let Some(full) = depot.0.pop() {
            depot.1.extend(empty);
            return self.load(full, ROUNDS);
        }
        drop(depot);
        let mut magazine = empty.unwrap_or_else(|| Box::new([ptr::null_mut(); ROUNDS]));
        let (size, piece) = (SIZES[class] as usize, piece_bytes(class));
        let count = (piece / size).min(ROUNDS);
        let first = GROUND.take_ptr(count * size);
        for (index, place) in magazine[..count].iter_mut().rev().enumerate() {
            *place = first.wrapping_add(index * size);
        }
        self.load(magazine, count);
    }

    /// The magazine in use is full: another one, with room.
    #[cold]
    #[inline(never)]
    fn exchange(&mut self, class: usize) {
        let full = self.unload();
        let mut empty = None;
        if self.spare_is_full {
            let mut depot = DEPOTS[class].lock();
            depot.0.extend(self.spare.take());
            empty = depot.1.pop();
        } else {
            std::mem::swap(&mut empty, &mut self.spare);
        }
        self.spare_is_full = full.is_some();
        self.spare = full;
        self.load(empty.unwrap_or_else(|| Box::new([ptr::null_mut(); ROUNDS])), 0);
    }
}

// SAFETY: objects of a magazine are free, distinct and as large as their class; sizes stay below
// the largest class and alignments at a word, or at what the size is a multiple of.
unsafe impl GlobalAlloc for Magazines {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class_of(layout.size());
        let rack = rack(class);
        // SAFETY: the calling thread's own rack; a count above zero is that of a magazine.
        unsafe {
            if (*rack).count == 0 {
                (*rack).reload(class);
            }
            (*rack).count -= 1;
            *(*rack).loaded.add((*rack).count as usize)
        }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        let class = class_of(layout.size());
        let rack = rack(class);
        // SAFETY: the calling thread's own rack, whose magazine has room.
        unsafe {
            if (*rack).count == (*rack).room {
                (*rack).exchange(class);
            }
            *(*rack).loaded.add((*rack).count as usize) = object;
            (*rack).count += 1;
        }
    }
}
