//! Allocations that carry a pattern: filled when they are made, verified before they are freed.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use buddy_slab_allocator::AllocResult;

use crate::PAGE_SIZE;
use crate::arch::Arch;

/// Small, seedable random numbers (splitmix64).
pub struct Random(u64);

impl Random {
    /// Numbers from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_number() % bound as u64) as usize
    }

    /// A size up to `1 << max_log2`, every order of magnitude as often as any other.
    pub fn size(&mut self, max_log2: usize) -> usize {
        let top = 1 << self.below(max_log2 + 1);
        top / 2 + self.below(top / 2 + 1) + 1
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// The byte at offset `i` of a block at `addr` tagged `tag`: of a sequence that no other block has.
fn seed(addr: usize, tag: u64) -> u64 {
    mix(addr as u64 ^ tag.rotate_left(32))
}

/// The parts of a block that carry the pattern: all of up to a page, else both ends of each page.
fn parts(len: usize) -> impl Iterator<Item = (usize, usize)> {
    const END: usize = 64;
    let whole = (len <= PAGE_SIZE).then_some((0, len));
    let ends =
        (0..if len <= PAGE_SIZE { 0 } else { len }).step_by(PAGE_SIZE).flat_map(move |start| {
            let page = (len - start).min(PAGE_SIZE);
            if page < 2 * END {
                return [(start, page), (start, 0)];
            }
            [(start, END), (start + page - END, END)]
        });
    whole.into_iter().chain(ends)
}

/// Fills the block.
///
/// # Safety
/// - The `len` bytes at `addr` are the caller's to write.
pub unsafe fn fill(addr: usize, len: usize, tag: u64) {
    let seed = seed(addr, tag);
    for (start, count) in parts(len) {
        let base: *mut u8 = ptr::with_exposed_provenance_mut(addr + start);
        for i in 0..count / 8 {
            // SAFETY: inside the block (condition).
            unsafe {
                base.add(i * 8).cast::<u64>().write_unaligned(seed.wrapping_add((start + i) as u64))
            };
        }
        for i in count / 8 * 8..count {
            // SAFETY: the same.
            unsafe { base.add(i).write(seed as u8 ^ i as u8) };
        }
    }
}

/// Verifies what `fill` wrote.
///
/// # Panics
/// If a byte differs: somebody else wrote to memory that was handed out.
///
/// # Safety
/// - `fill` wrote to the block, which is the caller's.
pub unsafe fn verify(addr: usize, len: usize, tag: u64) {
    let seed = seed(addr, tag);
    for (start, count) in parts(len) {
        let base: *const u8 = ptr::with_exposed_provenance(addr + start);
        for i in 0..count / 8 {
            // SAFETY: inside the block (condition).
            let word = unsafe { base.add(i * 8).cast::<u64>().read_unaligned() };
            assert!(
                word == seed.wrapping_add((start + i) as u64),
                "the pattern at {addr:#x}+{:#x} of {len} bytes is broken: {word:#x}",
                start + i * 8,
            );
        }
        for i in count / 8 * 8..count {
            // SAFETY: the same.
            let byte = unsafe { base.add(i).read() };
            assert!(
                byte == seed as u8 ^ i as u8,
                "the pattern at {addr:#x}+{:#x} of {len} bytes is broken: {byte:#x}",
                start + i,
            );
        }
    }
}

/// An object that carries a pattern.
#[must_use = "an object that is dropped is left allocated"]
pub struct Object {
    ptr: NonNull<u8>,
    layout: Layout,
    /// The CPU that allocated it.
    pub cpu: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for Object {}

impl Object {
    /// Allocates an object of `layout`.
    ///
    /// # Errors
    /// The heap's.
    pub fn alloc<A: Arch>(layout: Layout) -> AllocResult<Self> {
        let ptr = A::heap().alloc(layout)?;
        let addr = ptr.as_ptr().expose_provenance();
        assert!(addr % layout.align() == 0, "{addr:#x} is not aligned to {}", layout.align());
        // SAFETY: just allocated.
        unsafe { fill(addr, layout.size(), layout.size() as u64) };
        Ok(Self { ptr, layout, cpu: A::cpu() })
    }

    /// Verifies the pattern.
    pub fn verify(&self) {
        // SAFETY: `alloc` filled it.
        unsafe { verify(self.ptr.as_ptr().addr(), self.layout.size(), self.layout.size() as u64) };
    }

    /// Verifies the pattern and frees the object.
    pub fn free<A: Arch>(self) {
        self.verify();
        // SAFETY: from `alloc`, with this layout, once: this takes the object.
        unsafe { A::heap().dealloc(self.ptr, self.layout) };
    }
}

/// Pages that carry a pattern.
#[must_use = "pages that are dropped are left allocated"]
pub struct Pages {
    /// Their address.
    pub addr: usize,
    /// How many.
    pub count: usize,
}

impl Pages {
    /// Allocates `count` pages aligned to `align_bytes`.
    ///
    /// # Errors
    /// The heap's.
    pub fn alloc<A: Arch>(count: usize, align_bytes: usize) -> AllocResult<Self> {
        let addr = A::heap().alloc_pages(count, align_bytes)?;
        assert!(
            addr % align_bytes.max(PAGE_SIZE) == 0,
            "{addr:#x} is not aligned to {align_bytes}"
        );
        // SAFETY: just allocated.
        unsafe { fill(addr, count * PAGE_SIZE, count as u64) };
        Ok(Self { addr, count })
    }

    /// Verifies the pattern.
    pub fn verify(&self) {
        // SAFETY: `alloc` filled it.
        unsafe { verify(self.addr, self.count * PAGE_SIZE, self.count as u64) };
    }

    /// Verifies the pattern and frees the pages.
    pub fn free<A: Arch>(self) {
        self.verify();
        A::heap().dealloc_pages(self.addr, self.count);
    }
}
