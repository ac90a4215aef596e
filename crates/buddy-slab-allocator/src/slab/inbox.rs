//! The inbox of a heap: groups in which other CPUs have left objects.
//!
//! A stack that any CPU pushes on and that its owner takes whole, so it has no ABA problem: a
//! group is pushed again only after it was taken. See `groups` for the protocol around it.

use core::ptr::NonNull;

use super::groups::RemoteGroup;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// The queue of groups with remote frees for one heap.
///
/// # Invariants
/// - Every group on it has a non-zero remote word, or its owner is just about to take it.
/// - A group is on at most one inbox.
pub(crate) struct Inbox {
    head: AtomicPtr<RemoteGroup>,
}

impl Inbox {
    /// An empty inbox.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self { head: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// An empty inbox.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self { head: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Queues a group. Lock-free; one compare-and-swap unless disturbed.
    ///
    /// # Safety
    /// - The caller is the one CPU that must push this group: its publish found the word zero, or
    ///   it has taken the group off another inbox without collecting it.
    /// - The caller does not touch the group or its slab afterwards.
    #[inline]
    pub(crate) unsafe fn push(&self, group: NonNull<RemoteGroup>) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: a bit of the group is pending and only its pusher can hand it on, so its
            // slab is not released before the exchange below succeeds.
            unsafe { group.as_ref() }.set_link(head);
            // Release: whoever takes the stack sees the link. Pushes by others in between are
            // read-modify-writes, which continue the release sequence.
            match self.head.compare_exchange_weak(
                head,
                group.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(current) => head = current,
            }
        }
    }

    /// Takes everything queued. Every group of the chain must be collected, or pushed on the
    /// inbox of its slab's present owner.
    ///
    /// Meant for the owner; another CPU may act for it only while it keeps the owner out.
    #[inline]
    pub(crate) fn take_all(&self) -> Chain {
        if self.is_empty() {
            return Chain { next: core::ptr::null_mut() };
        }
        Chain { next: self.head.swap(core::ptr::null_mut(), Ordering::Acquire) }
    }

    /// Whether nothing is queued at this moment.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null()
    }
}

/// Groups taken off an inbox, yielded one by one. Must be run to its end: what it has not
/// yielded stays queued nowhere.
#[must_use = "groups that are not yielded are lost"]
pub(crate) struct Chain {
    next: *mut RemoteGroup,
}

impl Iterator for Chain {
    type Item = NonNull<RemoteGroup>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let group = NonNull::new(self.next)?;
        // SAFETY: the group is queued and uncollected, so its slab lives. The link is read
        // before the group is yielded: once it is collected, it may be pushed elsewhere.
        self.next = unsafe { group.as_ref() }.link();
        Some(group)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        debug_assert!(self.next.is_null(), "a chain of remote frees was dropped before its end");
    }
}
