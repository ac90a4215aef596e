//! Host memory shaped like what a kernel finds at boot: anywhere, any length, full of garbage.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;

/// Bytes on each side of a region that nobody may write.
const GUARD: usize = 256;
/// What the guards hold.
const GUARD_BYTE: u8 = 0xC3;

/// A stretch of host memory with guard bytes on both sides.
///
/// The content is noise from the start, never zeros, so that an allocator which believes fresh
/// memory is found out. Dropping the region checks the guards and frees it; [`Region::leak`] gives
/// it away for good.
#[derive(Debug)]
pub struct Region {
    block: NonNull<u8>,
    layout: Layout,
    front: usize,
    len: usize,
}

// SAFETY: a region owns its memory alone, as a `Vec<u8>` does.
unsafe impl Send for Region {}
// SAFETY: shared access only reads the guards and the addresses.
unsafe impl Sync for Region {}

impl Region {
    /// `len` bytes that begin at a 4 KiB boundary.
    pub fn new(len: usize) -> Self {
        Self::with_offset(len, 4096, 0)
    }

    /// `pages` pages of `page_size` bytes, aligned to one.
    pub fn pages(pages: usize, page_size: usize) -> Self {
        Self::with_offset(pages * page_size, page_size, 0)
    }

    /// `len` bytes that begin at a multiple of `align` (a power of two).
    pub fn aligned(len: usize, align: usize) -> Self {
        Self::with_offset(len, align, 0)
    }

    /// `len` bytes that begin `offset` bytes past a multiple of `align` (a power of two).
    pub fn with_offset(len: usize, align: usize, offset: usize) -> Self {
        Self::seeded(len, align, offset, 0x9E37_79B9_7F4A_7C15)
    }

    /// The same with a seed for the noise.
    pub fn seeded(len: usize, align: usize, offset: usize, seed: u64) -> Self {
        let align = align.max(16);
        let front = GUARD.next_multiple_of(align) + offset;
        let layout = Layout::from_size_align(front + len + GUARD, align).expect("region too large");
        // SAFETY: the layout holds at least the guard, so it is not zero-sized.
        let block =
            NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        let region = Self { block, layout, front, len };
        // SAFETY: both guards lie inside the block: `front >= GUARD`, and `GUARD` bytes follow `len`.
        unsafe {
            block.as_ptr().add(front - GUARD).write_bytes(GUARD_BYTE, GUARD);
            block.as_ptr().add(front + len).write_bytes(GUARD_BYTE, GUARD);
        }
        // SAFETY: `len` bytes from `front` on lie inside the block, and nobody else has them yet.
        unsafe { fill_with_noise(region.as_mut_ptr(), len, seed) };
        region
    }

    /// Where the region begins.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        // SAFETY: `front` is inside the block.
        unsafe { self.block.as_ptr().add(self.front) }
    }

    /// Its length in bytes.
    pub fn size_bytes(&self) -> usize {
        self.len
    }

    /// Its addresses.
    pub fn range(&self) -> Range<usize> {
        let start = self.as_mut_ptr().addr();
        start..start + self.len
    }

    /// The region as the allocator wants it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes are initialised, owned by `self`, and borrowed with it.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }

    /// Gives the memory away for the rest of the process.
    pub fn leak(self) -> &'static mut [u8] {
        let region = std::mem::ManuallyDrop::new(self);
        // SAFETY: the bytes are initialised and nobody frees them any more.
        unsafe { std::slice::from_raw_parts_mut(region.as_mut_ptr(), region.len) }
    }

    /// Fails if a byte beside the region was written.
    ///
    /// # Panics
    /// If a guard byte has changed.
    pub fn check_guards(&self) {
        // SAFETY: both guards lie inside the block and were written at construction.
        let (before, after) = unsafe {
            let at = self.as_mut_ptr();
            (
                std::slice::from_raw_parts(at.sub(GUARD), GUARD),
                std::slice::from_raw_parts(at.add(self.len), GUARD),
            )
        };
        assert!(before.iter().all(|&b| b == GUARD_BYTE), "bytes before the region were written");
        assert!(after.iter().all(|&b| b == GUARD_BYTE), "bytes after the region were written");
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_guards();
        }
        // SAFETY: allocated by `seeded` with this layout and not leaked.
        unsafe { dealloc(self.block.as_ptr(), self.layout) }
    }
}

/// Writes noise that is nowhere zero for long.
///
/// # Safety
/// - `at` must be valid for writes of `len` bytes.
pub unsafe fn fill_with_noise(at: *mut u8, len: usize, seed: u64) {
    let mut tile = [0u8; 4096];
    let mut state = seed | 1;
    for word in tile.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut done = 0;
    while done < len {
        let part = tile.len().min(len - done);
        // SAFETY: `done + part <= len`, and the tile is a local that cannot overlap `at`.
        unsafe { at.add(done).copy_from_nonoverlapping(tile.as_ptr(), part) };
        done += part;
    }
}

#[cfg(unix)]
pub use reservation::Reservation;

#[cfg(unix)]
mod reservation {
    use std::ops::Range;

    /// Address space that costs memory only where it is touched; unreadable pages lie on both sides.
    #[derive(Debug)]
    pub struct Reservation {
        map: *mut u8,
        map_len: usize,
        base: *mut u8,
        len: usize,
    }

    // SAFETY: a reservation owns its mapping alone.
    unsafe impl Send for Reservation {}
    // SAFETY: shared access only asks the system about it.
    unsafe impl Sync for Reservation {}

    impl Reservation {
        /// Reserves `len` bytes aligned to `align`; `None` where the system refuses.
        pub fn new(len: usize, align: usize) -> Option<Self> {
            let page = host_page();
            let align = align.max(page);
            let len = len.next_multiple_of(page);
            let map_len = len.checked_add(align)?.checked_add(2 * page)?;
            // SAFETY: an anonymous mapping at an address of the system's choice touches nothing.
            let map = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    map_len,
                    libc::PROT_NONE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if map == libc::MAP_FAILED {
                return None;
            }
            let map = map.cast::<u8>();
            let front = (map.addr() + page).next_multiple_of(align) - map.addr();
            let base = map.wrapping_add(front);
            let made = Self { map, map_len, base, len };
            // SAFETY: `front + len <= map_len - page`: inside the mapping made above, which is ours.
            let opened = unsafe {
                libc::mprotect(base.cast(), len, libc::PROT_READ | libc::PROT_WRITE) == 0
            };
            #[cfg(target_os = "linux")]
            // SAFETY: the same range. Huge pages would hide how much is touched; refusal is harmless.
            unsafe {
                libc::madvise(base.cast(), len, libc::MADV_NOHUGEPAGE);
            }
            opened.then_some(made)
        }

        /// Where it begins.
        pub fn as_mut_ptr(&self) -> *mut u8 {
            self.base
        }

        /// Its length in bytes.
        pub fn size_bytes(&self) -> usize {
            self.len
        }

        /// Its addresses.
        pub fn range(&self) -> Range<usize> {
            self.base.addr()..self.base.addr() + self.len
        }

        /// The whole of it as a slice.
        pub fn bytes_mut(&mut self) -> &mut [u8] {
            let len = self.len;
            self.part_mut(0, len)
        }

        /// `len` bytes from `offset` on.
        pub fn part_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
            assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
            // SAFETY: inside the readable part of the mapping, whose pages read as zeros, and
            // borrowed with `self`.
            unsafe { std::slice::from_raw_parts_mut(self.base.add(offset), len) }
        }

        /// Bytes of host memory that have been touched so far, whole host pages.
        pub fn touched_bytes(&self) -> usize {
            const WINDOW: usize = 1 << 30;
            let page = host_page();
            let mut state = vec![0; WINDOW / page];
            let (mut offset, mut pages) = (0, 0);
            while offset < self.len {
                let part = WINDOW.min(self.len - offset);
                // SAFETY: the window lies inside the mapping and `state` has a byte for each page.
                let answer = unsafe {
                    libc::mincore(self.base.add(offset).cast(), part, state.as_mut_ptr())
                };
                assert_eq!(answer, 0, "mincore: {}", std::io::Error::last_os_error());
                pages += state[..part / page].iter().filter(|&&s| s & 1 != 0).count();
                offset += part;
            }
            pages * page
        }
    }

    impl Drop for Reservation {
        fn drop(&mut self) {
            // SAFETY: the mapping made by `new`, whole.
            unsafe { libc::munmap(self.map.cast(), self.map_len) };
        }
    }

    fn host_page() -> usize {
        // SAFETY: asks for a constant.
        usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
    }
}
