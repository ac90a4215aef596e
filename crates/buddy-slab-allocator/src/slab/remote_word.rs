//! The remote word of a group: how a CPU that does not own the slab gives objects back.
//!
//! # Protocol
//! - A [`RemoteWord`] holds one bit for each object of a machine word's worth of them. Any CPU
//!   that frees objects remotely sets their bits by *one* `fetch_or` (**publish**).
//! - Whoever turns the word from zero to non-zero must push it on the inbox of the slab's
//!   owner, once. So `remote != 0` means: it is queued, or about to be by exactly one CPU.
//! - Only whoever has popped it off the inbox clears the word, by a swap with zero, after
//!   it has read the link to the next one. From that swap on, the next publisher may push it
//!   again. That is the owner, who collects, or a CPU out of memory that acts on a running
//!   owner's inbox (`percpu::steal`), and pushes back what it does not take.
//! - Unless the publisher has to push, the `fetch_or` is its last access to the slab. A pusher
//!   may still read the slab: its bits are not collected, so the object counts as used, and a
//!   slab with a used object or a pending bit is not released. The compare-and-swap that
//!   completes the push is its last access.
//! - A slab stays with the heap that made it; inboxes live forever.
//!
//! # Orderings
//! Publish is a release (the freeing CPU's last accesses to the object come first) and take an
//! acquire; both are read-modify-writes, so a take synchronises with every publish whose bit it
//! sees. Both are also the other half, which orders the release of the slab's memory after the
//! last access of every publisher.
//!
//! # Line tag
//! The low bits of `next`, free because remote words are aligned to their size, hold which line of the
//! descriptor it lies in. Only the CPU that may write `next` touches them, and it keeps
//! them; so the slab is found from it without any other word.

use crate::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Bytes and alignment of a remote word with its link.
pub(super) const REMOTE_BYTES: usize = 2 * size_of::<usize>();

/// The low bits of a link, which hold the line tag.
const TAG_MASK: usize = REMOTE_BYTES - 1;

/// One word of remote frees, and the link that queues it on an inbox.
#[cfg_attr(target_pointer_width = "64", repr(C, align(16)))]
#[cfg_attr(not(target_pointer_width = "64"), repr(C, align(8)))]
pub(crate) struct RemoteWord {
    /// Bits of objects that were freed remotely and not collected.
    remote: AtomicUsize,
    /// The next word on the inbox, and the line tag.
    next: AtomicPtr<RemoteWord>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<RemoteWord>() == REMOTE_BYTES);
#[cfg(not(loom))]
const _: () = assert!(align_of::<RemoteWord>() == REMOTE_BYTES);

impl RemoteWord {
    /// A word with nothing pending, in the line that `tag` names.
    pub(super) fn new(tag: usize) -> Self {
        debug_assert!(tag <= TAG_MASK);
        Self {
            remote: AtomicUsize::new(0),
            next: AtomicPtr::new(core::ptr::without_provenance_mut(tag & TAG_MASK)),
        }
    }

    /// Sets the bits of `mask` and returns which bits were set before: if none, the caller must
    /// push the word; those in `mask` are double frees.
    #[inline(always)]
    pub(super) fn publish(&self, mask: usize) -> usize {
        self.remote.fetch_or(mask, Ordering::AcqRel)
    }

    /// Takes all bits. For the owner, on a word popped off its inbox.
    #[inline(always)]
    pub(super) fn take(&self) -> usize {
        self.remote.swap(0, Ordering::AcqRel)
    }

    /// The bits that wait to be collected.
    #[inline]
    pub(super) fn pending(&self) -> usize {
        self.remote.load(Ordering::Acquire)
    }

    /// The line tag given at construction.
    #[inline]
    pub(super) fn tag(&self) -> usize {
        self.next.load(Ordering::Relaxed).addr() & TAG_MASK
    }

    /// The next word on the inbox.
    #[inline]
    pub(super) fn link(&self) -> *mut RemoteWord {
        self.next.load(Ordering::Relaxed).map_addr(|addr| addr & !TAG_MASK)
    }

    /// Sets the next word on the inbox. For the one CPU that pushes it.
    #[inline]
    pub(super) fn set_link(&self, successor: *mut RemoteWord) {
        let tag = self.tag();
        debug_assert!(successor.addr() & TAG_MASK == 0);
        self.next.store(successor.map_addr(|addr| addr | tag), Ordering::Relaxed);
    }

    /// What releasing the memory does to the word: fails the model if any access to it is not
    /// ordered before.
    #[cfg(all(test, loom))]
    pub(super) fn release_memory(&mut self) {
        self.remote.with_mut(|word| assert_eq!(*word, 0, "released with a free pending"));
        self.next.with_mut(|next| *next = core::ptr::null_mut());
    }
}
