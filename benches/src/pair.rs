//! One allocation and its free, on one thread.
//!
//! - *pair*: 64 bytes, the layout a constant; *unknown*: the layout hidden from the compiler;
//! - *burst*: 1000 objects of 64 bytes, then their frees in the same order;
//! - *page*: one page of 4 KiB.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

use mimalloc::MiMalloc;

use crate::engines::{self, LOCKED, OLD, OursLocked, OursPinned, OursThread, PINNED, Predecessor};
use crate::handover;
use crate::rounds::{Contender, interleave, print_table, time_per};

/// Rounds are short, so that most of them end before the scheduler puts another process in: a long
/// round would meet one every time, a short one of a fast engine never, and the ratios would lie.
const ROUNDS: usize = 201;
const PAIRS: usize = 10_000;
const BURST: usize = 1000;
const BURSTS: usize = 10;
const LAYOUT: Layout = Layout::new::<[u64; 8]>();

/// Prints the tables.
pub fn print() {
    engines::start();
    let mut contenders = vec![
        objects("ours, pinned", OursPinned),
        objects("ours, thread", OursThread),
        objects("ours, locked", OursLocked),
        objects("0.3.0", Predecessor),
        objects("mimalloc", MiMalloc),
        objects("system", System),
    ];
    let title = format!("pair: ns per 64 B alloc and free (ratio to mimalloc), median of {ROUNDS}");
    print_compared(&title, &["engine", "pair", "unknown", "burst"], 4, &mut contenders);

    let mut contenders = vec![
        pages("ours, pinned, PageBlock", || {
            black_box(&PINNED.alloc_page().expect("a page"));
        }),
        pages("ours, pinned, address", || {
            PINNED.dealloc_pages(black_box(PINNED.alloc_pages(1, 0).expect("a page")), 1);
        }),
        pages("ours, locked, address", || {
            LOCKED.dealloc_pages(black_box(LOCKED.alloc_pages(1, 0).expect("a page")), 1);
        }),
        pages("0.3.0, address", || {
            OLD.dealloc_pages(black_box(OLD.alloc_pages(1, 0x1000).expect("a page")), 1);
        }),
    ];
    let title = format!("page: ns per order-0 alloc and free (ratio to 0.3.0), median of {ROUNDS}");
    print_compared(&title, &["engine", "page"], 3, &mut contenders);

    handover::print();
}

/// Measures, and prints each figure with its ratio to that of contender number `base`.
pub fn print_compared<const N: usize>(
    title: &str,
    header: &[&str],
    base: usize,
    contenders: &mut [Contender<N>],
) {
    let medians = interleave(ROUNDS, contenders);
    let rows: Vec<Vec<String>> = contenders
        .iter()
        .zip(&medians)
        .map(|(contender, figures)| {
            let mut row = vec![contender.name.clone()];
            let figures = figures.iter().zip(&medians[base]);
            row.extend(figures.map(|(ns, base)| format!("{ns:.2} ({:.2}x)", ns / base)));
            row
        })
        .collect();
    print_table(title, header, &rows);
}

fn objects<E: GlobalAlloc + 'static>(name: &str, engine: E) -> Contender<3> {
    let mut held = vec![std::ptr::null_mut(); BURST];
    Contender::new(name, move || {
        [pair(&engine), pair_of_unknown(&engine), burst(&engine, &mut held)]
    })
}

#[inline(never)]
fn pair<E: GlobalAlloc>(engine: &E) -> f64 {
    time_per(PAIRS, || {
        for _ in 0..PAIRS {
            // SAFETY: freed once, with its layout; not used. (A free of null would show as a
            // crash: no engine runs out here.)
            unsafe { engine.dealloc(black_box(engine.alloc(LAYOUT)), LAYOUT) };
        }
    })
}

#[inline(never)]
fn pair_of_unknown<E: GlobalAlloc>(engine: &E) -> f64 {
    time_per(PAIRS, || {
        for _ in 0..PAIRS {
            // SAFETY: as in `pair`; both black boxes give the same layout.
            unsafe {
                let object = black_box(engine.alloc(black_box(LAYOUT)));
                engine.dealloc(object, black_box(LAYOUT));
            }
        }
    })
}

#[inline(never)]
fn burst<E: GlobalAlloc>(engine: &E, held: &mut [*mut u8]) -> f64 {
    time_per(BURSTS * BURST, || {
        for _ in 0..BURSTS {
            for object in held.iter_mut() {
                // SAFETY: the size is not zero.
                *object = unsafe { engine.alloc(LAYOUT) };
            }
            black_box(&mut *held);
            for &object in held.iter() {
                // SAFETY: allocated just above with this layout, and not used again.
                unsafe { engine.dealloc(object, LAYOUT) };
            }
        }
    })
}

fn pages(name: &str, work: impl Fn() + 'static) -> Contender<1> {
    Contender::new(name, move || [time_per(PAIRS, || (0..PAIRS).for_each(|_| work()))])
}
