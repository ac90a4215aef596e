//! The one region of memory that everything in this program is allocated from.
//!
//! On Unix it is one anonymous mapping that reserves address space only: a page costs memory
//! from the moment it is first touched. Elsewhere it is a static.

/// Where the region begins, and its length in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// First byte; derived from the mapping itself.
    pub base: *mut u8,
    /// Length in bytes.
    pub len: usize,
}

/// Maps `len` bytes, read and write, private, without reserving memory for them.
///
/// Returns `None` if the system refuses. Allocates nothing.
#[cfg(unix)]
pub fn map(len: usize) -> Option<Region> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const NO_RESERVE: libc::c_int = libc::MAP_NORESERVE;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const NO_RESERVE: libc::c_int = 0;

    // SAFETY: a fresh anonymous mapping at an address of the system's choosing touches no
    // memory that exists already.
    let base = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANON | NO_RESERVE,
            -1,
            0,
        )
    };
    (base != libc::MAP_FAILED).then_some(Region { base: base.cast(), len })
}

/// Hands out a static of fixed size, whatever length is asked.
///
/// It must be called once only.
#[cfg(not(unix))]
pub fn map(_len: usize) -> Option<Region> {
    use core::cell::UnsafeCell;

    const LEN: usize = crate::boot::DEFAULT_REGION_MIB as usize * (1 << 20);
    #[repr(C, align(4096))]
    struct Memory(UnsafeCell<[u8; LEN]>);
    // SAFETY: the program reaches the bytes only through the allocator that they are given to.
    unsafe impl Sync for Memory {}
    static MEMORY: Memory = Memory(UnsafeCell::new([0; LEN]));

    Some(Region { base: MEMORY.0.get().cast(), len: LEN })
}
