//! The loads: each phase says what it does, does it while `SysTick` allocates, and shows the heap.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::{self, NonNull};

use cortex_m::peripheral::SYST;

use crate::arch::Machine;
use crate::console::say;
use crate::options::{Extra, Options};
use crate::pattern::{self, Object, Pages, Random};
use crate::{HEAP, PAGE_SIZE, report, tick};

/// Objects that the main program keeps.
const SLOTS: usize = 96;
/// Blocks of pages that it keeps.
const PAGE_SLOTS: usize = 12;
/// Replacements of a phase at 100 percent.
const ROUNDS: usize = 400_000;

/// Runs what the options ask for.
pub fn run(options: &Options) {
    let Some(core) = cortex_m::Peripherals::take() else { panic!("the peripherals are taken") };
    let mut syst = core.SYST;
    let rounds = ROUNDS * options.work_percent / 100;
    match options.extra {
        Extra::None | Extra::Handlers => {
            phase(&mut syst, "objects, some handed over to the handler", || objects(rounds));
            phase(&mut syst, "page storm", || page_storm(rounds));
            phase(&mut syst, "collections of `alloc`", || collections(rounds / 1000));
            phase(&mut syst, "exhaustion and recovery", exhaustion);
        }
        Extra::Nmi | Extra::Count => panic!("this machine knows no such option"),
        Extra::DoubleFree | Extra::PageAsObject | Extra::Leak => fault(options.extra),
    }
}

/// One phase: a title, its work with the handler at work, the heap afterwards.
fn phase(syst: &mut SYST, title: &str, work: impl FnOnce()) {
    say!("\n== {title} ==");
    let ticks = tick::counts().ticks;
    tick::start(syst);
    work();
    let ticks = tick::counts().ticks - ticks;
    say!("{ticks} ticks");
    report::heap();
    assert!(ticks != 0, "the handler never ran");
    tick::stop(syst);
    HEAP.check_invariants();
}

/// Objects of all sizes and alignments at random places.
fn objects(rounds: usize) {
    let mut random = Random::new(1);
    let mut held = [const { None }; SLOTS];
    let mut refused = 0;
    for _ in 0..rounds {
        let slot = &mut held[random.below(SLOTS)];
        if let Some(object) = slot.take() {
            Object::free::<Machine>(object);
        } else {
            let align = 1 << random.below(7);
            match Layout::from_size_align(random.size(10), align).map(Object::alloc::<Machine>) {
                Ok(Ok(object)) => *slot = Some(object),
                _ => refused += 1,
            }
        }
        if random.below(8) == 0 {
            let given = held[random.below(SLOTS)].take();
            if let Some(object) = tick::exchange(given) {
                object.free::<Machine>();
            }
        }
    }
    held.into_iter().flatten().for_each(Object::free::<Machine>);
    say!("{rounds} allocations and frees, {refused} refused");
    assert!(refused * 1000 <= rounds, "the heap refused what it has room for");
}

/// Pages by count and alignment.
fn page_storm(rounds: usize) {
    let mut random = Random::new(2);
    let mut held = [const { None }; PAGE_SLOTS];
    let mut refused = 0;
    for _ in 0..rounds {
        let slot = &mut held[random.below(PAGE_SLOTS)];
        if let Some(pages) = slot.take() {
            Pages::free::<Machine>(pages);
            continue;
        }
        match Pages::alloc::<Machine>(1 + random.below(9), PAGE_SIZE << random.below(3)) {
            Ok(pages) => *slot = Some(pages),
            Err(_) => refused += 1,
        }
    }
    held.into_iter().flatten().for_each(Pages::free::<Machine>);
    say!("{rounds} allocations and frees, {refused} refused");
}

/// What a firmware would use: boxes, vectors that grow, a tree, strings.
fn collections(rounds: usize) {
    for round in 0..rounds {
        let mut tree = BTreeMap::new();
        for key in 0..40usize {
            tree.insert(key * 7 % 40, format!("{key} of round {round}"));
        }
        let boxes: Vec<_> = (0..60usize).map(|i| Box::new(i * round)).collect();
        assert!(boxes.iter().enumerate().all(|(i, number)| **number == i * round), "a box changed");
        for (key, text) in &tree {
            let number = text.split(' ').next().and_then(|word| word.parse::<usize>().ok());
            assert!(number.is_some_and(|number| number * 7 % 40 == *key), "a string changed");
        }
    }
    say!("{rounds} rounds");
}

/// Blocks that a phase holds, linked through their first words: there is no memory for a list.
#[repr(C)]
struct Held {
    next: *mut Held,
    size: usize,
}

const HEADER: usize = size_of::<Held>();

/// What must be had at least, in percent of what can be allocated: the handler keeps up to 24 objects of
/// 256 bytes, each in a slab of its own at the worst.
const LEAST_PERCENT: usize = 15;

/// Fills the heap with blocks of each of some sizes, then with mixed ones; it must come back every time.
fn exhaustion() {
    for size in [16, 48, 100, 256, 700, 2048, 6000] {
        let share = fill_twice(|| size);
        say!("blocks of {size} bytes: {}, then {} percent", share[0], share[1]);
    }
    let mut random = Random::new(3);
    let share = fill_twice(|| HEADER + random.size(10));
    say!("blocks of 9 to 1032 bytes: {}, then {} percent", share[0], share[1]);
}

fn fill_twice(mut size: impl FnMut() -> usize) -> [usize; 2] {
    core::array::from_fn(|_| {
        let share = fill_and_drain(&mut size) * 100 / HEAP.managed_bytes();
        assert!(share >= LEAST_PERCENT, "blocks in {share} percent of the heap only");
        share
    })
}

/// Allocates until a request is refused; returns how many bytes it got.
fn fill_and_drain(size: &mut impl FnMut() -> usize) -> usize {
    let (mut top, mut bytes) = (ptr::null_mut(), 0);
    let align = align_of::<Held>();
    loop {
        let size = size();
        let Ok(layout) = Layout::from_size_align(size, align) else { panic!("no layout") };
        let Ok(block) = HEAP.alloc(layout) else { break };
        let held: NonNull<Held> = block.cast();
        // SAFETY: fresh, and large enough for the header and for the pattern behind it.
        unsafe {
            held.write(Held { next: top, size });
            pattern::fill(block.as_ptr().expose_provenance() + HEADER, size - HEADER, size as u64);
        }
        top = held.as_ptr();
        bytes += size;
    }
    while let Some(held) = NonNull::new(top) {
        // SAFETY: of the list made above; each is freed once, after its link was read.
        unsafe {
            top = held.read().next;
            let size = held.read().size;
            let Ok(layout) = Layout::from_size_align(size, align) else {
                panic!("a header changed")
            };
            pattern::verify(held.as_ptr().addr() + HEADER, size - HEADER, size as u64);
            HEAP.dealloc(held.cast(), layout);
        }
    }
    bytes
}

/// Commits a fault, which the heap has to find.
fn fault(extra: Extra) {
    let layout = Layout::new::<[u64; 8]>();
    let Ok(object) = HEAP.alloc(layout) else { panic!("no object") };
    // SAFETY: allocated above with this layout, once.
    unsafe { HEAP.dealloc(object, layout) };
    match extra {
        Extra::DoubleFree => {
            say!("\n== a fault on purpose: an object is freed twice ==");
            // SAFETY: not upheld: that is the fault, which the heap reports without effect.
            unsafe { HEAP.dealloc(object, layout) };
        }
        Extra::PageAsObject => {
            say!("\n== a fault on purpose: a page is freed as an object ==");
            let Ok(pages) = Pages::alloc::<Machine>(1, 0) else { panic!("no page") };
            let page = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(pages.addr));
            // SAFETY: not upheld: that is the fault, which the heap reports without effect.
            unsafe { HEAP.dealloc(page.unwrap_or(object), layout) };
        }
        _ => {
            say!("\n== a fault on purpose: an object is kept ==");
            // An object that goes out of scope is not freed.
            let _left = Object::alloc::<Machine>(layout);
        }
    }
}
