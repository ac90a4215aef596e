//! The size classes: which object sizes exist, and which of them serves a request.
//!
//! Sizes are multiples of 8 up to 64, then four per doubling up to 512 bytes (gaps of at most a
//! quarter), then eight per doubling up to 32 KiB (gaps of at most an eighth). The size of a
//! class is `(4 | m) << e` or `(8 | m) << e`, so the index follows from the leading bits of the
//! size, and every size between two powers of two is a multiple of one *grid* step.
//!
//! # Alignment
//! A request is rounded up to a multiple of its alignment first. The result lies on the grid (or
//! the grid step is a multiple of the alignment), so the class found for it is the smallest one
//! whose size is a multiple of the alignment: no search. Objects lie at multiples of their size
//! from a base that is aligned at least as well, so each of them is aligned too.

use core::alloc::Layout;

/// Requests up to this size are looked up in a table of one byte per 8 bytes: where words have 64 bits
/// all that objects of 4 KiB pages serve, so that no branch depends on the size.
const TABLE_LIMIT: usize = if usize::BITS == 64 { 30 * 1024 } else { 4096 };

/// Class index by the size in units of 8 bytes, rounded up.
const BY_UNITS: &[u8; TABLE_LIMIT / 8 + 1] = &{
    let mut table = [0; TABLE_LIMIT / 8 + 1];
    let mut units = 1;
    while units < table.len() {
        table[units] = index_by_formula(units * 8 - 1) as u8;
        units += 1;
    }
    table
};

/// Object size by class index.
const SIZES: &[u32; SizeClass::COUNT] = &{
    let mut sizes = [0; SizeClass::COUNT];
    let mut i = 0;
    while i < sizes.len() {
        sizes[i] = size_by_formula(i) as u32;
        i += 1;
    }
    sizes
};

/// The class index of the size whose largest byte offset is `last` (its size less one). Above
/// the largest class the result is `COUNT` or more.
const fn index_by_formula(last: usize) -> usize {
    if last < 64 {
        return last >> 3;
    }
    let log = (usize::BITS - 1 - last.leading_zeros()) as usize;
    if log < 9 {
        8 + (log - 6) * 4 + ((last >> (log - 2)) & 3)
    } else {
        20 + (log - 9) * 8 + ((last >> (log - 3)) & 7)
    }
}

/// The object size of class `index`: the inverse of [`index_by_formula`].
const fn size_by_formula(index: usize) -> usize {
    if index < 8 {
        (index + 1) << 3
    } else if index < 20 {
        let step = index - 8;
        (5 + step % 4) << (4 + step / 4)
    } else {
        let step = index - 20;
        (9 + step % 8) << (6 + step / 8)
    }
}

/// A class of objects of one size, named after it.
///
/// # Invariants
/// The discriminant is the index of the class, classes ascend, and neighbouring sizes are at
/// most a quarter apart (an eighth above 512 bytes; 8 bytes below 64): held by constant
/// assertions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum SizeClass {
    /// Objects of 8 bytes.
    Bytes8,
    /// Objects of 16 bytes.
    Bytes16,
    /// Objects of 24 bytes.
    Bytes24,
    /// Objects of 32 bytes.
    Bytes32,
    /// Objects of 40 bytes.
    Bytes40,
    /// Objects of 48 bytes.
    Bytes48,
    /// Objects of 56 bytes.
    Bytes56,
    /// Objects of 64 bytes.
    Bytes64,
    /// Objects of 80 bytes.
    Bytes80,
    /// Objects of 96 bytes.
    Bytes96,
    /// Objects of 112 bytes.
    Bytes112,
    /// Objects of 128 bytes.
    Bytes128,
    /// Objects of 160 bytes.
    Bytes160,
    /// Objects of 192 bytes.
    Bytes192,
    /// Objects of 224 bytes.
    Bytes224,
    /// Objects of 256 bytes.
    Bytes256,
    /// Objects of 320 bytes.
    Bytes320,
    /// Objects of 384 bytes.
    Bytes384,
    /// Objects of 448 bytes.
    Bytes448,
    /// Objects of 512 bytes.
    Bytes512,
    /// Objects of 576 bytes.
    Bytes576,
    /// Objects of 640 bytes.
    Bytes640,
    /// Objects of 704 bytes.
    Bytes704,
    /// Objects of 768 bytes.
    Bytes768,
    /// Objects of 832 bytes.
    Bytes832,
    /// Objects of 896 bytes.
    Bytes896,
    /// Objects of 960 bytes.
    Bytes960,
    /// Objects of 1024 bytes.
    Bytes1024,
    /// Objects of 1152 bytes.
    Bytes1152,
    /// Objects of 1280 bytes.
    Bytes1280,
    /// Objects of 1408 bytes.
    Bytes1408,
    /// Objects of 1536 bytes.
    Bytes1536,
    /// Objects of 1664 bytes.
    Bytes1664,
    /// Objects of 1792 bytes.
    Bytes1792,
    /// Objects of 1920 bytes.
    Bytes1920,
    /// Objects of 2048 bytes.
    Bytes2048,
    /// Objects of 2304 bytes.
    Bytes2304,
    /// Objects of 2560 bytes.
    Bytes2560,
    /// Objects of 2816 bytes.
    Bytes2816,
    /// Objects of 3072 bytes.
    Bytes3072,
    /// Objects of 3328 bytes.
    Bytes3328,
    /// Objects of 3584 bytes.
    Bytes3584,
    /// Objects of 3840 bytes.
    Bytes3840,
    /// Objects of 4096 bytes.
    Bytes4096,
    /// Objects of 4608 bytes.
    Bytes4608,
    /// Objects of 5120 bytes.
    Bytes5120,
    /// Objects of 5632 bytes.
    Bytes5632,
    /// Objects of 6144 bytes.
    Bytes6144,
    /// Objects of 6656 bytes.
    Bytes6656,
    /// Objects of 7168 bytes.
    Bytes7168,
    /// Objects of 7680 bytes.
    Bytes7680,
    /// Objects of 8192 bytes.
    Bytes8192,
    /// Objects of 9216 bytes.
    Bytes9216,
    /// Objects of 10240 bytes.
    Bytes10240,
    /// Objects of 11264 bytes.
    Bytes11264,
    /// Objects of 12288 bytes.
    Bytes12288,
    /// Objects of 13312 bytes.
    Bytes13312,
    /// Objects of 14336 bytes.
    Bytes14336,
    /// Objects of 15360 bytes.
    Bytes15360,
    /// Objects of 16384 bytes.
    Bytes16384,
    /// Objects of 18432 bytes.
    Bytes18432,
    /// Objects of 20480 bytes.
    Bytes20480,
    /// Objects of 22528 bytes.
    Bytes22528,
    /// Objects of 24576 bytes.
    Bytes24576,
    /// Objects of 26624 bytes.
    Bytes26624,
    /// Objects of 28672 bytes.
    Bytes28672,
    /// Objects of 30720 bytes.
    Bytes30720,
    /// Objects of 32768 bytes.
    Bytes32768,
}

impl SizeClass {
    /// How many classes there are.
    pub const COUNT: usize = 68;

    /// The largest object size, in bytes.
    pub const MAX_SIZE: usize = 32 * 1024;

    /// Every class, in ascending order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Bytes8,
        Self::Bytes16,
        Self::Bytes24,
        Self::Bytes32,
        Self::Bytes40,
        Self::Bytes48,
        Self::Bytes56,
        Self::Bytes64,
        Self::Bytes80,
        Self::Bytes96,
        Self::Bytes112,
        Self::Bytes128,
        Self::Bytes160,
        Self::Bytes192,
        Self::Bytes224,
        Self::Bytes256,
        Self::Bytes320,
        Self::Bytes384,
        Self::Bytes448,
        Self::Bytes512,
        Self::Bytes576,
        Self::Bytes640,
        Self::Bytes704,
        Self::Bytes768,
        Self::Bytes832,
        Self::Bytes896,
        Self::Bytes960,
        Self::Bytes1024,
        Self::Bytes1152,
        Self::Bytes1280,
        Self::Bytes1408,
        Self::Bytes1536,
        Self::Bytes1664,
        Self::Bytes1792,
        Self::Bytes1920,
        Self::Bytes2048,
        Self::Bytes2304,
        Self::Bytes2560,
        Self::Bytes2816,
        Self::Bytes3072,
        Self::Bytes3328,
        Self::Bytes3584,
        Self::Bytes3840,
        Self::Bytes4096,
        Self::Bytes4608,
        Self::Bytes5120,
        Self::Bytes5632,
        Self::Bytes6144,
        Self::Bytes6656,
        Self::Bytes7168,
        Self::Bytes7680,
        Self::Bytes8192,
        Self::Bytes9216,
        Self::Bytes10240,
        Self::Bytes11264,
        Self::Bytes12288,
        Self::Bytes13312,
        Self::Bytes14336,
        Self::Bytes15360,
        Self::Bytes16384,
        Self::Bytes18432,
        Self::Bytes20480,
        Self::Bytes22528,
        Self::Bytes24576,
        Self::Bytes26624,
        Self::Bytes28672,
        Self::Bytes30720,
        Self::Bytes32768,
    ];

    /// Finds the smallest class whose objects are large enough and aligned well enough.
    ///
    /// `None` if no class serves the layout: its size, rounded up to its alignment, exceeds
    /// [`MAX_SIZE`](Self::MAX_SIZE). A size of zero takes the smallest class that honours the
    /// alignment.
    ///
    /// # Complexity
    /// O(1), and a constant for a constant layout.
    #[inline]
    pub const fn from_layout(layout: Layout) -> Option<Self> {
        Self::from_index(Self::index_by_last(last_offset(layout.size(), layout.align())))
    }

    /// The size of this class's objects, in bytes.
    #[inline]
    pub const fn size(self) -> usize {
        SIZES[self as usize] as usize
    }

    /// The position of this class in [`ALL`](Self::ALL).
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The class at a position of [`ALL`](Self::ALL).
    #[inline]
    pub(crate) const fn from_index(index: usize) -> Option<Self> {
        if index < Self::COUNT {
            // SAFETY: the index is in range.
            Some(unsafe { Self::from_index_unchecked(index) })
        } else {
            None
        }
    }

    /// The class at a position of [`ALL`](Self::ALL), unchecked.
    ///
    /// # Safety
    /// - `index` is below [`COUNT`](Self::COUNT).
    #[inline(always)]
    pub(crate) const unsafe fn from_index_unchecked(index: usize) -> Self {
        debug_assert!(index < Self::COUNT);
        // SAFETY: the discriminants are exactly 0..COUNT (asserted below), and the caller
        // vouches for the range.
        unsafe { core::mem::transmute::<u8, Self>(index as u8) }
    }

    /// The index of the smallest class of at least `size` bytes; [`COUNT`](Self::COUNT) or more
    /// if there is none.
    #[inline(always)]
    pub(crate) const fn index_for(size: usize) -> usize {
        Self::index_by_last(size.saturating_sub(1))
    }

    /// The class that serves a request in an allocator with pages of `page_size` bytes whose
    /// slabs begin at a page: `None` if `align` exceeds the page or the rounded size exceeds
    /// [`object_limit`](Self::object_limit). `align` is a power of two.
    #[inline(always)]
    pub(crate) const fn for_request(size: usize, align: usize, page_size: usize) -> Option<Self> {
        let limit = Self::object_limit(page_size);
        let in_table = size <= limit && size <= TABLE_LIMIT;
        // What Rust mostly asks for, and what C does. (Limits are multiples of 16.)
        if in_table && (align <= 8 || align == 16) {
            let units =
                if align <= 8 { (size + 7) >> 3 } else { (size.saturating_sub(1) >> 4 << 1) + 2 };
            // SAFETY: the table ascends to its last, which is the index of a class (asserted below).
            return Some(unsafe { Self::from_index_unchecked(BY_UNITS[units] as usize) });
        }
        let last = last_offset(size, align);
        if last >= limit || align > page_size {
            return None;
        }
        Self::from_index(Self::index_by_last(last))
    }

    /// The largest object that slabs of an allocator with such pages hold: that of the class below
    /// eight pages. (What takes just eight whole pages wastes nothing without a slab, and can grow
    /// in place.)
    #[inline]
    pub(crate) const fn object_limit(page_size: usize) -> usize {
        let limit = page_size.saturating_mul(8);
        if limit > Self::MAX_SIZE {
            return Self::MAX_SIZE;
        }
        // The class of `limit` bytes serves what is larger than that of the one below.
        SIZES[index_by_formula(limit - 1) - 1] as usize
    }

    /// The largest power of two that divides the size: what every object is aligned to.
    pub(crate) const fn natural_align(self) -> usize {
        1 << self.size().trailing_zeros()
    }

    #[inline(always)]
    const fn index_by_last(last: usize) -> usize {
        if last < TABLE_LIMIT { BY_UNITS[(last >> 3) + 1] as usize } else { index_by_formula(last) }
    }
}

/// The offset of the last byte of `size` rounded up to `align` (of one byte if it is zero).
#[inline(always)]
const fn last_offset(size: usize, align: usize) -> usize {
    size.saturating_sub(1) | align.wrapping_sub(1)
}

const _: () = {
    let mut i = 0;
    while i < SizeClass::COUNT {
        let size = SizeClass::ALL[i].size();
        assert!(SizeClass::ALL[i] as usize == i);
        assert!(index_by_formula(size - 1) == i && SizeClass::index_for(size) == i);
        if i > 0 {
            let below = SizeClass::ALL[i - 1].size();
            let gap = size - below;
            assert!(size > below && SizeClass::index_for(below + 1) == i);
            assert!(gap == 8 || gap * 4 <= below);
            assert!(size <= 512 || gap * 8 <= below);
        }
        i += 1;
    }
    assert!((BY_UNITS[BY_UNITS.len() - 1] as usize) < SizeClass::COUNT);
    assert!(usize::BITS != 64 || TABLE_LIMIT == SizeClass::object_limit(4096));
    assert!(SizeClass::ALL[SizeClass::COUNT - 1].size() == SizeClass::MAX_SIZE);
    assert!(SizeClass::index_for(SizeClass::MAX_SIZE + 1) >= SizeClass::COUNT);
    assert!(SizeClass::index_for(usize::MAX) >= SizeClass::COUNT);
};
