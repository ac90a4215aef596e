//! The context token: one word that says whether a context is inside the allocator.

use crate::sync::atomic::{AtomicUsize, Ordering, compiler_fence};

/// A word in a task, thread or CPU structure by which a nested call recognises itself.
///
/// # Protocol
/// Only the context itself and handlers that interrupted it touch the word, and a handler leaves
/// it as it found it. So a plain load and store suffice; compiler fences keep the order that one
/// CPU sees.
#[derive(Debug)]
pub struct ContextSlot {
    inside: AtomicUsize,
}

impl ContextSlot {
    /// A slot of a context that is outside.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { inside: AtomicUsize::new(0) }
    }

    /// Announces the context; `false` if it is inside already, that is, the caller is a handler.
    #[inline]
    pub(crate) fn announce(&self) -> bool {
        if self.inside.load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.inside.store(1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// Takes back what `announce` said.
    #[inline]
    pub(crate) fn leave(&self) {
        compiler_fence(Ordering::SeqCst);
        self.inside.store(0, Ordering::Relaxed);
    }
}

#[cfg(not(loom))]
impl Default for ContextSlot {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_announcement_is_refused_until_the_context_leaves() {
        let slot = ContextSlot::new();
        assert!(slot.announce());
        assert!(!slot.announce());
        slot.leave();
        assert!(slot.announce());
    }
}
