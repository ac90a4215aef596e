//! A bit for each object: the least that finds every double free.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use super::{CLASSES, Ground, PAGE_BYTES, SIZES, class_of, piece_bytes};
use crate::engines::Engine;
use crate::platforms::{CPU_COUNT, current_cpu};

const PAGES: usize = Ground::BYTES / PAGE_BYTES;
const WORDS: usize = 1 << 20;
/// No word: the end of an inbox, an empty place of a batch.
const NONE: u32 = u32::MAX;
/// How many words a thread gathers others' objects in.
const BATCH: usize = 32;

static GROUND: Ground = Ground::new();
static BASE: AtomicUsize = AtomicUsize::new(0);

/// What is to be known of a page. Written before the first object of it is handed out.
struct Label {
    /// The owner's CPU and the class.
    key: AtomicU32,
    /// The slab's first word.
    word: AtomicU32,
    /// Where the slab begins.
    slab: AtomicUsize,
}

static LABELS: [Label; PAGES] = [const {
    Label { key: AtomicU32::new(0), word: AtomicU32::new(0), slab: AtomicUsize::new(0) }
}; PAGES];

/// A bit for each of 64 objects: set if it is in use. Written by the owner alone.
static IN_USE: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
static NEXT_WORD: AtomicUsize = AtomicUsize::new(0);

/// What others have freed of the 64 objects, and what it takes to find these.
struct Remote {
    bits: AtomicU64,
    /// The next word in the owner's inbox.
    next: AtomicU32,
    key: AtomicU32,
    /// The address of the first object.
    first: AtomicUsize,
}

static REMOTE: [Remote; WORDS] = [const {
    Remote {
        bits: AtomicU64::new(0),
        next: AtomicU32::new(NONE),
        key: AtomicU32::new(0),
        first: AtomicUsize::new(0),
    }
}; WORDS];

/// The first word of each CPU's inbox.
static INBOX: [AtomicU32; CPU_COUNT] = [const { AtomicU32::new(NONE) }; CPU_COUNT];

/// What a size is divided by with, so that no division is left.
static RECIPROCALS: [u64; CLASSES] = {
    let mut table = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        table[class] = (1u64 << SHIFT).div_ceil(SIZES[class] as u64);
        class += 1;
    }
    table
};
const SHIFT: u32 = 40;

/// A free object, and its bit.
#[derive(Clone, Copy)]
struct Entry {
    object: *mut u8,
    word: u32,
    bit: u32,
}

/// Free objects of a class, the last freed first. The lowest entry is no object.
#[derive(Clone, Copy)]
struct Stack {
    top: *mut Entry,
    last: *mut Entry,
}

struct Nothing(Entry);
// SAFETY: nobody writes it.
unsafe impl Sync for Nothing {}
static NOTHING: Nothing = Nothing(Entry { object: ptr::null_mut(), word: 0, bit: 0 });

struct Local {
    stacks: [Stack; CLASSES],
    /// Objects of others, by the word modulo the number of places.
    batch: [(u32, u64); BATCH],
}

thread_local! {
    static LOCAL: UnsafeCell<Local> = const {
        let nothing = (&raw const NOTHING.0).cast_mut();
        UnsafeCell::new(Local {
            stacks: [Stack { top: nothing, last: nothing }; CLASSES],
            batch: [(NONE, 0); BATCH],
        })
    };
}

/// A stack of free objects a thread and class, each with its bit; a free finds the bit by the
/// page's label and a multiplication, and takes it back. Others' objects are gathered by word.
#[derive(Clone, Copy, Default)]
pub struct Bits;

impl Engine for Bits {
    fn start() {
        BASE.store(GROUND.base(), Relaxed);
    }

    fn leave_thread() {
        for index in 0..BATCH {
            // SAFETY: the calling thread's own.
            let place = unsafe { &mut (*local()).batch[index] };
            publish(*place);
            *place = (NONE, 0);
        }
    }
}

#[inline(always)]
fn local() -> *mut Local {
    LOCAL.with(UnsafeCell::get)
}

#[inline(always)]
fn stack(class: usize) -> *mut Stack {
    debug_assert!(class < CLASSES);
    // SAFETY: the class is in range.
    unsafe { (&raw mut (*local()).stacks).cast::<Stack>().add(class) }
}

const fn key(cpu: usize, class: usize) -> u32 {
    (cpu << 16 | class) as u32
}

impl Stack {
    #[inline(always)]
    fn push(&mut self, entry: Entry) {
        if self.top == self.last {
            self.grow();
        }
        // SAFETY: there is room.
        unsafe {
            self.top = self.top.add(1);
            *self.top = entry;
        }
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<Entry> {
        // SAFETY: an entry, or the lowest one.
        let entry = unsafe { *self.top };
        if entry.object.is_null() {
            return None;
        }
        self.top = self.top.wrapping_sub(1);
        Some(entry)
    }

    /// Twice the room; the old one is left behind.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let mut entries = Vec::new();
        while let Some(entry) = self.pop() {
            entries.push(entry);
        }
        entries.push(NOTHING.0);
        entries.reverse();
        let count = entries.len();
        entries.resize((2 * count).max(256), NOTHING.0);
        let room = entries.leak();
        self.top = &raw mut room[count - 1];
        self.last = &raw mut room[room.len() - 1];
    }
}

/// What others have freed, or else a new slab; then an object.
#[cold]
#[inline(never)]
fn refill(class: usize) -> *mut u8 {
    collect();
    // SAFETY: the calling thread's own.
    let stack = unsafe { &mut *stack(class) };
    let entry = stack.pop().or_else(|| {
        new_slab(class, stack);
        stack.pop()
    });
    mark(entry.expect("a slab has an object"))
}

fn new_slab(class: usize, stack: &mut Stack) {
    let (size, piece) = (SIZES[class] as usize, piece_bytes(class));
    let (count, offset) = (piece / size, GROUND.take(piece));
    let base = GROUND.base() + offset;
    let words = NEXT_WORD.fetch_add(count.div_ceil(64), Relaxed);
    let key = key(current_cpu(), class);
    for label in &LABELS[offset / PAGE_BYTES..(offset + piece) / PAGE_BYTES] {
        label.key.store(key, Relaxed);
        label.word.store(words as u32, Relaxed);
        label.slab.store(base, Relaxed);
    }
    for (index, remote) in REMOTE[words..words + count.div_ceil(64)].iter().enumerate() {
        remote.key.store(key, Relaxed);
        remote.first.store(base + index * 64 * size, Relaxed);
    }
    for index in (0..count).rev() {
        let object = ptr::with_exposed_provenance_mut(base + index * size);
        stack.push(Entry { object, word: (words + index / 64) as u32, bit: index as u32 % 64 });
    }
}

/// Takes in what others have freed of the caller's.
fn collect() {
    let mut word = INBOX[current_cpu()].swap(NONE, Acquire);
    while word != NONE {
        let remote = &REMOTE[word as usize];
        let next = remote.next.load(Relaxed);
        let mut bits = remote.bits.swap(0, Acquire);
        let class = (remote.key.load(Relaxed) & 0xFFFF) as usize;
        // SAFETY: the calling thread's own.
        let stack = unsafe { &mut *stack(class) };
        let in_use = IN_USE[word as usize].load(Relaxed);
        if bits & !in_use != 0 {
            double_free();
        }
        IN_USE[word as usize].store(in_use & !bits, Relaxed);
        while bits != 0 {
            let bit = bits.trailing_zeros();
            let address = remote.first.load(Relaxed) + bit as usize * SIZES[class] as usize;
            let object = ptr::with_exposed_provenance_mut(address);
            stack.push(Entry { object, word, bit });
            bits &= bits - 1;
        }
        word = next;
    }
}

#[inline(always)]
fn mark(entry: Entry) -> *mut u8 {
    // SAFETY: a word of the table.
    let in_use = unsafe { IN_USE.get_unchecked(entry.word as usize) };
    in_use.store(in_use.load(Relaxed) | 1 << entry.bit, Relaxed);
    entry.object
}

/// An object of another CPU's: gathered with others of its word.
#[inline(never)]
fn free_remote(word: u32, bit: u32) {
    // SAFETY: the calling thread's own.
    let place = unsafe { &mut (*local()).batch[word as usize % BATCH] };
    if place.0 != word {
        publish(*place);
        *place = (word, 0);
    }
    place.1 |= 1 << bit;
}

fn publish((word, bits): (u32, u64)) {
    if word == NONE {
        return;
    }
    let remote = &REMOTE[word as usize];
    match remote.bits.fetch_or(bits, AcqRel) {
        0 => {
            let inbox = &INBOX[(remote.key.load(Relaxed) >> 16) as usize];
            let mut first = inbox.load(Relaxed);
            loop {
                remote.next.store(first, Relaxed);
                match inbox.compare_exchange_weak(first, word, Release, Relaxed) {
                    Ok(_) => break,
                    Err(now) => first = now,
                }
            }
        }
        old if old & bits != 0 => double_free(),
        _ => {}
    }
}

#[cold]
#[inline(never)]
fn double_free() -> ! {
    panic!("double free")
}

// SAFETY: objects on a stack are free, distinct and as large as their class; sizes stay below the
// largest class and alignments at a word, or at what the size is a multiple of. What unwinds is a
// broken workload.
unsafe impl GlobalAlloc for Bits {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class_of(layout.size());
        // SAFETY: the calling thread's own.
        match unsafe { (*stack(class)).pop() } {
            Some(entry) => mark(entry),
            None => refill(class),
        }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        let class = class_of(layout.size());
        let page = object.addr().wrapping_sub(BASE.load(Relaxed)) / PAGE_BYTES;
        debug_assert!(page < PAGES);
        // SAFETY: an object lies in the region.
        let label = unsafe { LABELS.get_unchecked(page) };
        let offset = (object.addr() - label.slab.load(Relaxed)) as u64;
        // SAFETY: the class is in range.
        let index = (offset * unsafe { *RECIPROCALS.get_unchecked(class) }) >> SHIFT;
        let (word, bit) = (label.word.load(Relaxed) + (index / 64) as u32, index as u32 % 64);
        if label.key.load(Relaxed) != key(current_cpu(), class) {
            return free_remote(word, bit);
        }
        // SAFETY: a word of the table.
        let in_use = unsafe { IN_USE.get_unchecked(word as usize) };
        let bits = in_use.load(Relaxed);
        if bits >> bit & 1 == 0 {
            double_free();
        }
        in_use.store(bits ^ 1 << bit, Relaxed);
        // SAFETY: the calling thread's own.
        unsafe { (*stack(class)).push(Entry { object, word, bit }) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "double free")]
    fn a_second_free_is_found() {
        Bits::start();
        let layout = Layout::new::<[u64; 7]>();
        // SAFETY: the first free is sound, and the second is what is tested: it writes nothing.
        unsafe {
            let objects = [Bits.alloc(layout), Bits.alloc(layout)];
            Bits.dealloc(objects[0], layout);
            Bits.dealloc(objects[1], layout);
            Bits.dealloc(objects[0], layout);
        }
    }

    #[test]
    fn every_object_of_a_slab_has_its_own_bit() {
        for class in 0..CLASSES {
            let size = u64::from(SIZES[class]);
            for index in 0..piece_bytes(class) as u64 / size {
                assert_eq!((index * size * RECIPROCALS[class]) >> SHIFT, index, "class {class}");
            }
        }
    }
}
