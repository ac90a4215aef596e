//! The error type of the published interface.

use core::fmt;

/// Why a request was refused.
// A word, like what the calls return: a result is then two registers, where a byte that shares its
// place with a word makes it be put together in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum AllocError {
    /// A size, count, alignment or address that can never be served: mend the call.
    InvalidParam,
    /// The region overlaps one that is managed already.
    MemoryOverlap,
    /// Nothing left that would serve the request; it may succeed once memory is freed.
    NoMemory,
    /// The address is not the start of anything that is allocated, or not of this kind.
    NotAllocated,
    /// The allocator has no region yet: call `init` first.
    NotInitialized,
    /// The address lies in no managed region.
    NotFound,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidParam => "invalid parameter",
            Self::MemoryOverlap => "memory regions overlap",
            Self::NoMemory => "out of memory",
            Self::NotAllocated => "memory not allocated",
            Self::NotInitialized => "allocator not initialized",
            Self::NotFound => "not found",
        })
    }
}

impl core::error::Error for AllocError {}

/// [`Result`] with [`AllocError`].
pub type AllocResult<T = ()> = Result<T, AllocError>;
