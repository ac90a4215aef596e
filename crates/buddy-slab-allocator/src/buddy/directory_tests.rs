//! Directory: agreement with a sorted list, growth, and readers during edits.

extern crate std;

use core::ptr::NonNull;
use std::boxed::Box;
use std::vec::Vec;

use super::{ARRAY_ALIGN, Directory};
#[cfg(not(loom))]
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A stand-in for a section header: it "manages" the `RANGE` bytes before itself.
#[repr(C, align(64))]
struct Header {
    _body: [u8; 64],
}

const RANGE: usize = 32;

fn headers(count: usize) -> Vec<Header> {
    (0..count).map(|_| Header { _body: [0; 64] }).collect()
}

fn holds(header: NonNull<Header>, addr: usize) -> bool {
    let end = header.addr().get();
    (end - RANGE..end).contains(&addr)
}

/// Storage that is never given back, as growth demands.
fn leak(bytes: usize) -> NonNull<u8> {
    let words = bytes.div_ceil(8) + ARRAY_ALIGN / 8;
    let raw = Box::leak(std::vec![0u64; words].into_boxed_slice()).as_mut_ptr();
    NonNull::new(raw.cast::<u8>().map_addr(|a| a.next_multiple_of(ARRAY_ALIGN))).unwrap()
}

fn insert(directory: &Directory<Header>, header: NonNull<Header>) {
    if let Some(need) = directory.growth_needed(0) {
        // SAFETY: single-threaded writer; leaked storage of the asked size and alignment.
        unsafe { directory.grow(leak(need.size_bytes), need) };
    }
    // SAFETY: single writer, growth done, ranges are disjoint and before their headers.
    unsafe { directory.insert(header) };
}

/// A small generator, so that the order is the same in every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[cfg(not(loom))]
#[test]
fn four_thousand_sections_are_found_at_every_boundary() {
    let count = if cfg!(miri) { 150 } else { 4096 };
    let mut pool = headers(count);
    let base = NonNull::new(pool.as_mut_ptr()).unwrap();
    let mut rng = Rng(0x9E37_79B9_7F4A_7C15);
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let directory = Directory::new();
    // SAFETY: indices stay inside the pool.
    let header = |i: usize| unsafe { base.add(i) };
    let lookup = |addr: usize| directory.candidate(addr).filter(|h| holds(*h, addr));
    for (n, &i) in order.iter().enumerate() {
        insert(&directory, header(i));
        assert_eq!(directory.len(), n + 1);
        let probe = header(order[rng.below(n + 1)]).addr().get() - 1 - rng.below(RANGE);
        assert!(lookup(probe).is_some());
    }
    for i in 0..count {
        let end = header(i).addr().get();
        assert_eq!(directory.by_address(i), Some(header(i)));
        assert_eq!(lookup(end - 1), Some(header(i)));
        assert_eq!(lookup(end - RANGE), Some(header(i)));
        assert_eq!(lookup(end), None);
        assert_eq!(directory.candidate_below(end), Some(header(i)));
        assert_eq!(directory.candidate_below(end - 1), i.checked_sub(1).map(header));
        assert_eq!(lookup(end - RANGE - 1), None);
    }
    assert_eq!(directory.candidate_below(usize::MAX), Some(header(count - 1)));
    assert_eq!(directory.candidate_below(0), None);
    assert_eq!(lookup(0), None);
    assert_eq!(lookup(usize::MAX), None);
    assert_eq!(directory.by_address(count), None);
    // Remove every other one; the rest stays.
    for &i in order.iter().filter(|&&i| i % 2 == 0) {
        // SAFETY: single writer.
        assert!(unsafe { directory.remove(header(i)) });
        // SAFETY: single writer.
        assert!(!unsafe { directory.remove(header(i)) });
    }
    for i in 0..count {
        let found = lookup(header(i).addr().get() - 1);
        assert_eq!(found, (i % 2 == 1).then(|| header(i)));
    }
}

#[cfg(not(loom))]
#[test]
fn readers_never_miss_a_section_while_others_come_and_go() {
    let count = if cfg!(miri) { 80 } else { 700 };
    let mut pool = headers(count);
    let base = NonNull::new(pool.as_mut_ptr()).unwrap();
    let directory = Directory::new();
    struct Shared(NonNull<Header>);
    // SAFETY: only addresses are computed from it.
    unsafe impl Sync for Shared {}
    let base = Shared(base);
    let base = &base;
    // SAFETY: indices stay inside the pool.
    let header = move |i: usize| unsafe { base.0.add(i) };
    // Odd ones are always there.
    for i in (1..count / 4).step_by(2) {
        insert(&directory, header(i));
    }
    let done = AtomicBool::new(false);
    let lookups = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 1..4u64 {
            let (directory, done, lookups) = (&directory, &done, &lookups);
            scope.spawn(move || {
                let mut rng = Rng(seed * 0x1234_5678_9ABC);
                while !done.load(Ordering::Relaxed) {
                    let i = rng.below(count / 8) * 2 + 1;
                    if i >= count / 4 {
                        continue;
                    }
                    let addr = header(i).addr().get() - 1 - rng.below(RANGE);
                    assert_eq!(directory.candidate(addr), Some(header(i)));
                    lookups.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let rounds = if cfg!(miri) { 1 } else { 6 };
        for _ in 0..rounds {
            for i in (0..count).filter(|&i| i % 2 == 0 || i >= count / 4) {
                insert(&directory, header(i));
            }
            for i in (0..count).filter(|&i| i % 2 == 0 || i >= count / 4) {
                // SAFETY: this thread is the only writer.
                assert!(unsafe { directory.remove(header(i)) });
            }
        }
        while lookups.load(Ordering::Relaxed) < 100 {
            std::thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[cfg(loom)]
#[test]
fn loom_directory_reader_sees_old_or_new_never_torn() {
    loom::model(|| {
        let mut pool = headers(3);
        let base = NonNull::new(pool.as_mut_ptr()).unwrap();
        let directory = loom::sync::Arc::new(Directory::new());
        insert(&directory, base);
        // The header is only an address to the directory.
        let addr = base.addr().get() - 1;
        let writer = {
            let directory = loom::sync::Arc::clone(&directory);
            let second = base.addr().get() + 64;
            loom::thread::spawn(move || {
                let second = NonNull::new(core::ptr::without_provenance_mut(second)).unwrap();
                insert(&directory, second);
                // SAFETY: the only writer.
                assert!(unsafe { directory.remove(second) });
            })
        };
        assert_eq!(directory.candidate(addr).map(|h| h.addr()), Some(base.addr()));
        writer.join().unwrap();
        drop(pool);
    });
}
