//! Objects that one thread allocates and writes, and another reads and frees.
//!
//! The ring between them is a row of pointers, null where empty. What it costs alone (the same
//! objects going round, nothing allocated) is in the table.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::{black_box, spin_loop};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use mimalloc::MiMalloc;

use crate::engines::{OursLocked, OursPinned, OursThread, Predecessor};
use crate::pair::print_compared;
use crate::platforms::as_second_cpu;
use crate::rounds::{Contender, time_per};

const OBJECTS: usize = 50_000;
const SLOTS: usize = 4096;
const LAYOUT: Layout = Layout::new::<[u64; 8]>();

/// Prints the table.
pub fn print() {
    let mut contenders = vec![
        contender("ours, pinned", OursPinned),
        contender("ours, thread", OursThread),
        contender("ours, locked", OursLocked),
        contender("0.3.0", Predecessor),
        contender("mimalloc", MiMalloc),
        contender("the ring alone", Recycled::new()),
    ];
    let title = "handover: ns per 64 B object from one thread to another (ratio to mimalloc)";
    print_compared(title, &["engine", "object"], 4, &mut contenders);
}

/// Hands out the same objects over and over: what the ring itself costs.
struct Recycled {
    pool: Vec<AtomicU64>,
    next: AtomicUsize,
}

impl Recycled {
    const WORDS: usize = LAYOUT.size() / size_of::<u64>();

    fn new() -> Self {
        let words = 2 * SLOTS * Self::WORDS;
        Self { pool: (0..words).map(|_| AtomicU64::new(0)).collect(), next: AtomicUsize::new(0) }
    }
}

// SAFETY: a double with one user, `round`, which allocates on one thread and uses the first word.
// An object comes round again after `2 * SLOTS` others. By then the slot of the object `SLOTS`
// places behind it was emptied, so the consumer, which goes in order, has done with this one.
unsafe impl GlobalAlloc for Recycled {
    #[inline(always)]
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        let index = self.next.load(Ordering::Relaxed);
        self.next.store((index + 1) % (2 * SLOTS), Ordering::Relaxed);
        self.pool[index * Self::WORDS].as_ptr().cast()
    }

    #[inline(always)]
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

fn contender<E: GlobalAlloc + Sync + 'static>(name: &str, engine: E) -> Contender<1> {
    let ring: Vec<AtomicPtr<u8>> = (0..SLOTS).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
    Contender::new(name, move || [round(&engine, &ring)])
}

/// One round: the main thread produces, a thread that lives for the round consumes.
fn round<E: GlobalAlloc + Sync>(engine: &E, ring: &[AtomicPtr<u8>]) -> f64 {
    let consume = || {
        let mut sum = 0u64;
        for slot in ring.iter().cycle().take(OBJECTS) {
            let object = wait_until(|| {
                let object = slot.load(Ordering::Acquire);
                (!object.is_null()).then_some(object)
            });
            slot.store(ptr::null_mut(), Ordering::Release);
            // SAFETY: the producer wrote the first word before its release store of the pointer,
            // allocated the object with this layout, and has done with it.
            unsafe {
                sum = sum.wrapping_add(object.cast::<u64>().read());
                engine.dealloc(object, LAYOUT);
            }
        }
        black_box(sum);
    };
    let produce = || {
        for (number, slot) in ring.iter().cycle().take(OBJECTS).enumerate() {
            // SAFETY: the size is not zero.
            let object = unsafe { engine.alloc(LAYOUT) };
            assert!(!object.is_null(), "out of memory");
            // SAFETY: fresh, and large and aligned enough for a word.
            unsafe { object.cast::<u64>().write(number as u64) };
            wait_until(|| slot.load(Ordering::Acquire).is_null().then_some(()));
            slot.store(object, Ordering::Release);
        }
    };
    thread::scope(|scope| {
        let consumer = scope.spawn(|| as_second_cpu(consume));
        time_per(OBJECTS, || {
            produce();
            consumer.join().expect("the consumer does not panic");
        })
    })
}

/// Spins until there is an answer; lets others run when it takes long.
#[inline(always)]
fn wait_until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let mut turns = 0u32;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        turns += 1;
        if turns.is_multiple_of(1 << 12) { thread::yield_now() } else { spin_loop() }
    }
}
