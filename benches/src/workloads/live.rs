//! Objects in use, and the sizes that are asked for.

use std::alloc::Layout;
use std::hint::black_box;

use fastrand::Rng;

use crate::engines::Engine;

/// The layout of most objects: as strict as a pointer's.
#[inline(always)]
pub fn layout(size_bytes: usize) -> Layout {
    debug_assert!(size_bytes <= 1 << 30);
    // SAFETY: 8 is a power of two, and no workload comes near `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(size_bytes, 8) }
}

/// Allocates, and writes the first word as every program does.
///
/// # Panics
/// If there is no memory left: every engine has more than any workload takes.
#[inline(always)]
pub fn alloc<E: Engine>(engine: &E, layout: Layout) -> *mut u8 {
    debug_assert!(layout.size() >= size_of::<usize>());
    // SAFETY: no layout of a workload is empty.
    let object = unsafe { engine.alloc(layout) };
    if object.is_null() {
        out_of_memory();
    }
    // SAFETY: fresh, of at least one word, and aligned for it.
    unsafe { object.cast::<usize>().write(layout.size()) };
    black_box(object)
}

#[cold]
#[inline(never)]
fn out_of_memory() -> ! {
    panic!("out of memory")
}

/// One slot of a table of live objects; empty if null.
#[derive(Clone, Copy)]
struct Slot {
    object: *mut u8,
    size_bytes: usize,
}

/// Sizes at random: as many below 64 bytes as between 64 and 512.
pub struct Sizes([u32; Self::COUNT]);

impl Sizes {
    const COUNT: usize = 4096;

    /// Log-uniform from `least` to `most` bytes, drawn once: a timed loop only looks them up.
    pub fn log_uniform(least: usize, most: usize, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self(std::array::from_fn(|_| draw(least, most, &mut rng) as u32))
    }

    /// A size, by a random word.
    #[inline(always)]
    pub fn pick(&self, random: u64) -> usize {
        self.0[random as usize % Self::COUNT] as usize
    }
}

/// A size between `least` and `most` bytes, whose logarithm is equally likely anywhere.
pub fn draw(least: usize, most: usize, rng: &mut Rng) -> usize {
    let (low, high) = ((least as f64).ln(), (most as f64).ln());
    (low + (high - low) * rng.f64()).exp().round() as usize
}

/// A table of live objects that are replaced at random. On cache lines of its own: the state of one
/// thread's random numbers must not lie beside what another thread reads.
#[repr(align(128))]
pub struct Table<E: Engine> {
    engine: E,
    slots: Vec<Slot>,
    sizes: Sizes,
    rng: Rng,
}

// SAFETY: it owns its objects, and any thread may free them.
unsafe impl<E: Engine> Send for Table<E> {}

impl<E: Engine> Table<E> {
    /// A table of `count` objects of the given sizes.
    pub fn new(count: usize, least: usize, most: usize, seed: u64) -> Self {
        let engine = E::default();
        let sizes = Sizes::log_uniform(least, most, seed);
        let mut rng = Rng::with_seed(seed);
        let slots = (0..count)
            .map(|_| {
                let size_bytes = sizes.pick(rng.u64(..));
                Slot { object: alloc(&engine, layout(size_bytes)), size_bytes }
            })
            .collect();
        Self { engine, slots, sizes, rng }
    }

    /// Frees one object at random and allocates another in its place, `times` over.
    #[inline(always)]
    pub fn replace(&mut self, times: usize) {
        for _ in 0..times {
            let random = self.rng.u64(..);
            let index = ((random >> 32) * self.slots.len() as u64) >> 32;
            let slot = &mut self.slots[index as usize];
            // SAFETY: a live object of this engine, with its layout, replaced just below.
            unsafe { self.engine.dealloc(slot.object, layout(slot.size_bytes)) };
            let size_bytes = self.sizes.pick(random);
            *slot = Slot { object: alloc(&self.engine, layout(size_bytes)), size_bytes };
        }
    }
}

impl<E: Engine> Drop for Table<E> {
    fn drop(&mut self) {
        for slot in &self.slots {
            // SAFETY: a live object of this engine, with its layout, not used again.
            unsafe { self.engine.dealloc(slot.object, layout(slot.size_bytes)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_within_their_bounds_and_reach_for_both() {
        let sizes = Sizes::log_uniform(8, 2048, 1);
        assert!(sizes.0.iter().all(|&size| (8..=2048).contains(&size)));
        assert!(sizes.0.iter().any(|&size| size < 10));
        assert!(sizes.0.iter().any(|&size| size > 1900));
        let small = sizes.0.iter().filter(|&&size| size < 128).count();
        assert!((1800..2300).contains(&small), "half the logarithms, half the sizes: {small}");
    }
}
