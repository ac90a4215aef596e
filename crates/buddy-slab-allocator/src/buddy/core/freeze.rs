//! All locks at once: for a copy of the whole address space, in which nobody will be there to give
//! back what others hold.

use super::PageCore;
use crate::sync::{self, Rank, RawLock};

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// Takes every lock, or none. Waits for none: the caller tries again.
    pub(crate) fn try_lock_all(&self) -> bool {
        if !sync::try_lock(&self.topology_lock, Rank::Topology) {
            return false;
        }
        for (taken, node) in self.nodes.iter().enumerate() {
            if !sync::try_lock(&node.lock, Rank::Node) {
                // SAFETY: those before it were taken above.
                unsafe { self.unlock_first(taken) };
                return false;
            }
        }
        true
    }

    /// Gives every lock back.
    ///
    /// # Safety
    /// - `try_lock_all` has succeeded in this context.
    pub(crate) unsafe fn unlock_all(&self) {
        // SAFETY: all of them are held (condition).
        unsafe { self.unlock_first(self.nodes.len()) }
    }

    /// # Safety
    /// - The topology lock and those of the first `count` nodes are held.
    unsafe fn unlock_first(&self, count: usize) {
        // SAFETY: held (condition).
        unsafe {
            for node in self.nodes[..count].iter().rev() {
                sync::unlock(&node.lock, Rank::Node);
            }
            sync::unlock(&self.topology_lock, Rank::Topology);
        }
    }
}
