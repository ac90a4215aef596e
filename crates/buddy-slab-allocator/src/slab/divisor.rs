//! Which object begins at an offset, without a division.
//!
//! With `c = ceil(2^w / size)`, and `e = c * size - 2^w` (less than the size), an offset of `k`
//! whole objects and `r` bytes gives `offset * c = k * 2^w + k * e + r * c`. As long as
//! `(k + 1) * e < c`, the upper half of the product is `k`, and the lower half is below `c` exactly
//! if `r` is zero: one multiplication finds the index and tells whether an object begins there.
//! (Lemire, Kaser, Kurz: "Faster remainder by direct computation", 2019.)
//!
//! With `w = 64`, offsets below 2^32 and sizes up to 2^15 that holds: `k * e` stays below 2^32, and
//! `c` is at least 2^49. Where a word has 32 bits `w = 32`, which finds the index of every object
//! below 2^16 (`k * e < 2^32`), but not what lies between two: that takes a second multiplication.

#![forbid(unsafe_code)]

use super::size_class::SizeClass;

/// Divides offsets by the size of a class.
#[derive(Debug, Clone, Copy)]
pub(super) struct Divisor {
    #[cfg(target_pointer_width = "64")]
    reciprocal: u64,
    #[cfg(not(target_pointer_width = "64"))]
    reciprocal: u32,
    #[cfg(not(target_pointer_width = "64"))]
    size: u32,
}

/// The divisor of every class, by index.
const DIVISORS: &[Divisor; SizeClass::COUNT] = &{
    let mut divisors = [Divisor::new(8); SizeClass::COUNT];
    let mut i = 0;
    while i < SizeClass::COUNT {
        divisors[i] = Divisor::new(SizeClass::ALL[i].size());
        i += 1;
    }
    divisors
};

impl Divisor {
    /// The divisor of a class.
    #[inline(always)]
    pub(super) const fn of(class: SizeClass) -> &'static Self {
        &DIVISORS[class.index()]
    }

    #[cfg(target_pointer_width = "64")]
    const fn new(size: usize) -> Self {
        Self { reciprocal: (1u128 << 64).div_ceil(size as u128) as u64 }
    }

    #[cfg(not(target_pointer_width = "64"))]
    const fn new(size: usize) -> Self {
        Self { reciprocal: (1u64 << 32).div_ceil(size as u64) as u32, size: size as u32 }
    }

    /// The number of the object that begins at `offset`; `None` if none begins there, or if the
    /// offset has more than 32 bits. O(1): one multiplication, two on 32 bits.
    #[inline(always)]
    pub(super) const fn index_of(&self, offset: usize) -> Option<u32> {
        if offset > u32::MAX as usize {
            return None;
        }
        #[cfg(target_pointer_width = "64")]
        {
            let product = offset as u128 * self.reciprocal as u128;
            let begins = (product as u64) < self.reciprocal;
            if begins { Some((product >> 64) as u32) } else { None }
        }
        #[cfg(not(target_pointer_width = "64"))]
        {
            let index = ((offset as u64 * self.reciprocal as u64) >> 32) as u32;
            if index as usize * self.size as usize == offset { Some(index) } else { None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_every_class_has_its_index() {
        for class in SizeClass::ALL {
            let (divisor, size) = (Divisor::of(class), class.size() as u64);
            // What begins below 4 GiB, as far as indices of objects go.
            for index in 0..u32::from(u16::MAX).min(u32::MAX / class.size() as u32) {
                let offset = u64::from(index) * size;
                assert_eq!(divisor.index_of(offset as usize), Some(index), "{class:?}");
            }
        }
    }

    #[test]
    fn every_other_offset_is_refused() {
        for class in SizeClass::ALL {
            let (divisor, size) = (Divisor::of(class), class.size());
            // The largest slabs: 32 pages of 64 KiB.
            let mut next = 0;
            for offset in 0..32 * 65536 {
                assert_eq!(
                    divisor.index_of(offset).is_some(),
                    offset == next,
                    "{class:?} {offset}"
                );
                next += if offset == next { size } else { 0 };
            }
            for last in [u32::MAX as usize, u32::MAX as usize - 1] {
                assert_eq!(divisor.index_of(last).is_some(), last.is_multiple_of(size));
            }
            #[cfg(target_pointer_width = "64")]
            assert_eq!(divisor.index_of(size << 32), None, "beyond 32 bits");
        }
    }
}
