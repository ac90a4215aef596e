//! Physical reach: the zones that pages belong to, and the limit that a request may set.

/// Exclusive physical end of the `Dma` zone.
const DMA_END: u64 = 16 << 20;
/// Exclusive physical end of the `Dma32` zone.
const DMA32_END: u64 = 4 << 30;

/// The physical reach of a page: which devices can address it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Zone {
    /// Below 16 MiB.
    Dma = 0,
    /// From 16 MiB, below 4 GiB.
    Dma32 = 1,
    /// From 4 GiB; and every page whose physical address is not known.
    Normal = 2,
}

/// How much of a zone lies below a physical limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneReach {
    /// All of it: the limit needs no further look.
    All,
    /// Some of it: each page's address decides.
    Part,
    /// Nothing.
    None,
}

impl Zone {
    /// How many zones there are.
    pub const COUNT: usize = 3;
    /// Every zone, lowest first.
    pub const ALL: [Self; Self::COUNT] = [Self::Dma, Self::Dma32, Self::Normal];
    /// The order in which ordinary requests try the zones, so that they spare low memory.
    pub const FALLBACK: [Self; Self::COUNT] = [Self::Normal, Self::Dma32, Self::Dma];

    /// The zone of memory whose last byte has physical address `last_byte`.
    #[inline]
    pub const fn of_last_byte(last_byte: u64) -> Self {
        if last_byte < DMA_END {
            Self::Dma
        } else if last_byte < DMA32_END {
            Self::Dma32
        } else {
            Self::Normal
        }
    }

    /// The zone as an index.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// How much of this zone lies below `limit`.
    #[inline]
    pub const fn reach(self, limit: PhysLimit) -> ZoneReach {
        let (start, end) = match self {
            Self::Dma => (0, DMA_END),
            Self::Dma32 => (DMA_END, DMA32_END),
            // No end: only "no limit" admits all of it.
            Self::Normal => (DMA32_END, u64::MAX),
        };
        if limit.0 >= end {
            ZoneReach::All
        } else if limit.0 <= start {
            ZoneReach::None
        } else {
            ZoneReach::Part
        }
    }
}

/// An exclusive upper bound on the physical addresses that a request accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysLimit(u64);

impl PhysLimit {
    /// Any address will do.
    pub const NONE: Self = Self(u64::MAX);
    /// Below 4 GiB: what a 32-bit device reaches.
    pub const FOUR_GIB: Self = Self(DMA32_END);

    /// Every byte below physical address `end`.
    #[inline]
    pub const fn below(end: u64) -> Self {
        Self(end)
    }

    /// The exclusive bound.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether any address will do.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_meet_at_their_limits() {
        assert_eq!(Zone::of_last_byte(0), Zone::Dma);
        assert_eq!(Zone::of_last_byte(DMA_END - 1), Zone::Dma);
        assert_eq!(Zone::of_last_byte(DMA_END), Zone::Dma32);
        assert_eq!(Zone::of_last_byte(DMA32_END - 1), Zone::Dma32);
        assert_eq!(Zone::of_last_byte(DMA32_END), Zone::Normal);
        assert_eq!(Zone::of_last_byte(u64::MAX), Zone::Normal);
    }

    #[test]
    fn a_limit_admits_all_part_or_none_of_a_zone() {
        let reach = |limit| Zone::ALL.map(|zone| zone.reach(limit));
        use ZoneReach::{All, None, Part};
        assert_eq!(reach(PhysLimit::NONE), [All, All, All]);
        assert_eq!(reach(PhysLimit::FOUR_GIB), [All, All, None]);
        assert_eq!(reach(PhysLimit::below(DMA_END)), [All, None, None]);
        assert_eq!(reach(PhysLimit::below(DMA_END - 1)), [Part, None, None]);
        assert_eq!(reach(PhysLimit::below(DMA_END + 1)), [All, Part, None]);
        assert_eq!(reach(PhysLimit::below(DMA32_END + 1)), [All, All, Part]);
        assert_eq!(reach(PhysLimit::below(0)), [None, None, None]);
    }
}
