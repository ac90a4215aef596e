//! Indices of pages and nodes.

use core::fmt;

/// The number of a page inside its section. Holding one proves that it is not the "no page"
/// value of the lists; whether a section has that page is the section's to say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(u32);

impl Pfn {
    /// The first page.
    pub const ZERO: Self = Self(0);

    /// Page number `pfn`; `None` for the value that means "no page".
    #[inline]
    pub const fn new(pfn: u32) -> Option<Self> {
        if pfn == u32::MAX { None } else { Some(Self(pfn)) }
    }

    /// Page number `index`; `None` if no section can have so many pages.
    #[inline]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index < u32::MAX as usize { Some(Self(index as u32)) } else { None }
    }

    /// The number, as the page lists store it.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number as an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn:{}", self.0)
    }
}

/// The number of a NUMA node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(u8);

impl NodeId {
    /// Node number `id`.
    #[inline]
    pub const fn new(id: u8) -> Self {
        Self(id)
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number as an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_is_not_a_page_number() {
        assert_eq!(Pfn::new(u32::MAX), None);
        assert_eq!(Pfn::from_index(u32::MAX as usize), None);
        assert_eq!(Pfn::from_index(usize::MAX), None);
        assert_eq!(Pfn::from_index(u32::MAX as usize - 1), Pfn::new(u32::MAX - 1));
    }
}
