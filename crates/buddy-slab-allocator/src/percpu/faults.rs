//! Faults that are noticed deep inside, where nothing foreign may be called: kept until the
//! session has ended, then reported.

use crate::units::Misuse;

/// Fewer on 32 bits, where memory may be small.
const KEPT: usize = if usize::BITS >= 64 { 4 } else { 2 };

/// The first few faults of a session, and how many more there were.
#[derive(Clone, Copy)]
pub(crate) struct FaultLog {
    faults: [(usize, Misuse); KEPT],
    noted: usize,
}

impl FaultLog {
    pub(crate) const fn new() -> Self {
        Self { faults: [(0, Misuse::NotAllocated); KEPT], noted: 0 }
    }

    /// Notes that `addr` was misused. Beyond the first few only the last one is kept.
    pub(crate) fn note(&mut self, addr: usize, kind: Misuse) {
        self.faults[self.noted.min(KEPT - 1)] = (addr, kind);
        self.noted += 1;
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.noted == 0
    }

    /// Empties the log, and returns what it held.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Misuse)> + '_ {
        self.faults[..self.noted.min(KEPT)].iter().copied()
    }
}
