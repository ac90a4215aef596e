//! One object, allocated and freed over and over.

use std::hint::black_box;

use super::live::{alloc, layout};
use super::{ObjectWorkload, Round, Scale};
use crate::engines::Engine;
use crate::stats::time_per;

const PAIRS: usize = 20_000;

/// `SIZE` bytes; the layout is a constant, as in a program whose type is known.
pub struct Constant<const SIZE: usize>;

impl<const SIZE: usize> ObjectWorkload for Constant<SIZE> {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let pairs = scale.of(PAIRS);
        Box::new(move || {
            constant::<E, SIZE>(pairs / 8);
            time_per(pairs, || constant::<E, SIZE>(pairs))
        })
    }
}

#[inline(never)]
fn constant<E: Engine, const SIZE: usize>(pairs: usize) {
    let engine = E::default();
    let layout = layout(SIZE);
    for _ in 0..pairs {
        let object = alloc(&engine, layout);
        // SAFETY: allocated just above with this layout, and not used again.
        unsafe { engine.dealloc(object, layout) };
    }
}

/// `SIZE` bytes; the compiler does not know it, as in a program that grows a vector.
pub struct Variable<const SIZE: usize>;

impl<const SIZE: usize> ObjectWorkload for Variable<SIZE> {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let pairs = scale.of(PAIRS);
        Box::new(move || {
            variable::<E>(black_box(SIZE), pairs / 8);
            time_per(pairs, || variable::<E>(black_box(SIZE), pairs))
        })
    }
}

#[inline(never)]
fn variable<E: Engine>(size_bytes: usize, pairs: usize) {
    let engine = E::default();
    for _ in 0..pairs {
        let object = alloc(&engine, layout(black_box(size_bytes)));
        // SAFETY: allocated just above with this layout, and not used again.
        unsafe { engine.dealloc(object, layout(black_box(size_bytes))) };
    }
}

/// `SIZE` bytes that are zero.
pub struct Zeroed<const SIZE: usize>;

impl<const SIZE: usize> ObjectWorkload for Zeroed<SIZE> {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let pairs = scale.of((PAIRS * 512 / SIZE).clamp(1000, PAIRS));
        Box::new(move || {
            zeroed::<E, SIZE>(pairs / 8);
            time_per(pairs, || zeroed::<E, SIZE>(pairs))
        })
    }
}

#[inline(never)]
fn zeroed<E: Engine, const SIZE: usize>(pairs: usize) {
    let engine = E::default();
    for _ in 0..pairs {
        // SAFETY: the size is not zero; the object is fresh and of at least one word; it is freed
        // once, with its layout.
        unsafe {
            let object = engine.alloc_zeroed(layout(SIZE));
            object.cast::<usize>().write(SIZE);
            engine.dealloc(black_box(object), layout(SIZE));
        }
    }
}
