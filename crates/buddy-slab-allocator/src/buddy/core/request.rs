//! What is asked of the page core, and what may go wrong.

use core::fmt;

use super::super::section::{Kind, PhysFn, Placement};
use crate::sync::{self, Rank, RawLock};
use crate::units::{Misuse, NodeId, Order, PhysLimit};

/// How long a caller waits for a node's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until it has it.
    Spin,
    /// That many attempts.
    Bounded(u32),
    /// Not at all: what a context uses that may have interrupted the holder.
    Try,
}

impl Wait {
    /// Takes `lock` if that is possible within this patience. The caller unlocks it.
    pub(crate) fn acquire<L: RawLock>(self, lock: &L, rank: Rank) -> bool {
        match self {
            Self::Spin => {
                sync::lock(lock, rank);
                true
            }
            Self::Bounded(attempts) => sync::lock_bounded(lock, rank, attempts),
            Self::Try => sync::try_lock(lock, rank),
        }
    }
}

/// Why the page core did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageError {
    /// No free pages fit.
    Exhausted,
    /// A lock was not to be had; try again, or defer.
    Busy,
    /// Nothing fits now, but another caller is about to give deferred frees back.
    InFlight,
    /// The request can never be served.
    Invalid,
    /// The address is in no section.
    NotFound,
    /// The address does not name what the caller says it does.
    NotAllocated(Misuse),
}

/// A request for contiguous pages.
#[derive(Clone, Copy)]
pub(crate) struct PageRequest<'a> {
    /// How many, exactly: 1 to 2^20.
    pub(crate) count: usize,
    /// The first page's number is a multiple of 2^this, in the absolute address.
    pub(crate) align_order: Order,
    /// Every byte lies physically below it.
    pub(crate) limit: PhysLimit,
    /// The preferred node; the others follow by distance.
    pub(crate) node: NodeId,
    /// What to do about a lock that is held.
    pub(crate) wait: Wait,
    /// May take a zone below its `min` watermark.
    pub(crate) use_reserve: bool,
    /// What the block will be.
    pub(crate) kind: Kind,
    /// Where a block of this kind is placed, if there is a choice.
    pub(crate) placement: Placement,
    /// Virtual to physical. Asked only for a limit *inside* a zone, and then with the node's
    /// lock held: it must not enter the allocator.
    pub(crate) phys: PhysFn<'a>,
}

impl PageRequest<'_> {
    /// `count` pages from anywhere, waiting for locks, sparing the reserve.
    #[inline]
    pub(crate) const fn new(count: usize, kind: Kind) -> Self {
        Self {
            count,
            align_order: Order::ZERO,
            limit: PhysLimit::NONE,
            node: NodeId::new(0),
            wait: Wait::Spin,
            use_reserve: false,
            kind,
            placement: Placement::Snug,
            phys: None,
        }
    }
}

impl fmt::Debug for PageRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRequest")
            .field("count", &self.count)
            .field("align_order", &self.align_order)
            .field("limit", &self.limit)
            .field("node", &self.node)
            .field("wait", &self.wait)
            .field("use_reserve", &self.use_reserve)
            .finish_non_exhaustive()
    }
}
