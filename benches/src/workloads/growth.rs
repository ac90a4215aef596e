//! One buffer that grows by half at every step, as a vector does.

use super::live::layout;
use super::{ObjectWorkload, Round, Scale};
use crate::engines::Engine;
use crate::stats::time_per;

const MOST: usize = 1 << 20;
const TIMES: usize = 20;

/// From `LEAST` bytes to 1 MiB by `realloc`; the last word is written at every step. Per step.
pub struct Growth<const LEAST: usize>;

impl<const LEAST: usize> ObjectWorkload for Growth<LEAST> {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let times = scale.of(TIMES);
        let steps = steps(LEAST).count();
        Box::new(move || {
            grow::<E>(LEAST, 1);
            time_per(times * steps, || grow::<E>(LEAST, times))
        })
    }
}

/// The sizes after the first, each half as large again as the one before, up to [`MOST`].
fn steps(least: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(least), |&size| {
        (size < MOST).then(|| (size + size / 2).next_multiple_of(8).min(MOST))
    })
    .skip(1)
}

#[inline(never)]
fn grow<E: Engine>(least: usize, times: usize) {
    let engine = E::default();
    for _ in 0..times {
        let mut size_bytes = least;
        // SAFETY: the size is not zero.
        let mut buffer = unsafe { engine.alloc(layout(size_bytes)) };
        for new_size in steps(least) {
            // SAFETY: live, with its layout; if the answer is null, the write below crashes.
            unsafe {
                buffer = engine.realloc(buffer, layout(size_bytes), new_size);
                buffer.add(new_size - 8).cast::<u64>().write(new_size as u64);
            }
            size_bytes = new_size;
        }
        // SAFETY: live, with its layout, and not used again.
        unsafe { engine.dealloc(std::hint::black_box(buffer), layout(size_bytes)) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn steps_end_at_one_mebibyte() {
        let steps: Vec<usize> = super::steps(32 << 10).collect();
        assert_eq!(steps.first(), Some(&(48 << 10)));
        assert_eq!(steps.last(), Some(&(1 << 20)));
        assert_eq!(steps.len(), 9);
    }
}
