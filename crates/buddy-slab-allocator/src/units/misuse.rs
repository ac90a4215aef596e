//! What can be wrong with an address that is given back.

use core::fmt;

/// The kind of fault found in a free, a resize or a query by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// It was given back already.
    DoubleFree,
    /// It was never handed out.
    NotAllocated,
    /// It points into the middle of something.
    Interior,
    /// It was handed out as something else: a page as an object, a block held by a handle.
    WrongKind,
    /// The size or page count differs from what was handed out.
    WrongSize,
    /// The alignment differs from what was handed out, or the address is not aligned.
    WrongAlign,
    /// It belongs to no region of this heap.
    Foreign,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DoubleFree => "double free",
            Self::NotAllocated => "not allocated",
            Self::Interior => "interior pointer",
            Self::WrongKind => "wrong kind of memory",
            Self::WrongSize => "wrong size",
            Self::WrongAlign => "wrong alignment",
            Self::Foreign => "foreign address",
        })
    }
}

impl core::error::Error for Misuse {}
