//! Faults that are noticed deep inside, where nothing foreign may be called: kept until the
//! session has ended, then reported.

use crate::units::Misuse;

/// Fewer on 32 bits, where memory may be small.
const KEPT: usize = if usize::BITS >= 64 { 4 } else { 2 };

/// The first few faults of a session, and how many there were.
#[derive(Clone, Copy)]
pub(crate) struct FaultLog {
    addrs: [usize; KEPT],
    kinds: [Misuse; KEPT],
    /// How many there were, as far as a byte counts.
    noted: u8,
}

impl FaultLog {
    pub(crate) const fn new() -> Self {
        Self { addrs: [0; KEPT], kinds: [Misuse::NotAllocated; KEPT], noted: 0 }
    }

    /// Notes that `addr` was misused. Beyond the first few only the last one is kept.
    pub(crate) fn note(&mut self, addr: usize, kind: Misuse) {
        let place = usize::from(self.noted).min(KEPT - 1);
        (self.addrs[place], self.kinds[place]) = (addr, kind);
        self.noted = self.noted.saturating_add(1);
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
        let kept = self.addrs.iter().zip(&self.kinds).take(usize::from(self.noted));
        kept.map(|(addr, kind)| (*addr, *kind))
    }
}
