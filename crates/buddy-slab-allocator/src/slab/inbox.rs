//! The inbox of a heap: remote words in which other CPUs have left objects.
//!
//! A stack that any CPU pushes on and that its owner takes whole, so it has no ABA problem: a
//! word is pushed again only after it was taken. See `remote_word` for the protocol around it.
//!
//! However many words wait, one allocation must not pay for all of them. So what the owner takes
//! and does not come to it puts aside as the inbox's *rest*, and goes on with that next time. Only
//! the owner puts a rest there, and only while there is none; anybody who may take the inbox takes
//! the rest too.

use core::ptr::NonNull;

use super::remote_word::RemoteWord;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// The queue of remote words for one heap.
///
/// # Invariants
/// - Every word on it is not zero, or its owner is just about to take it.
/// - A word is on at most one inbox.
pub(crate) struct Inbox {
    head: AtomicPtr<RemoteWord>,
    rest: AtomicPtr<RemoteWord>,
}

impl Inbox {
    /// An empty inbox.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            head: AtomicPtr::new(core::ptr::null_mut()),
            rest: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// An empty inbox.
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            head: AtomicPtr::new(core::ptr::null_mut()),
            rest: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Queues a remote word. Lock-free; one compare-and-swap unless disturbed.
    ///
    /// # Safety
    /// - The caller is the one CPU that must push this word: its publish found the word zero, or
    ///   it has taken the word off another inbox without collecting it.
    /// - The caller does not touch the word or its slab afterwards.
    #[inline]
    pub(crate) unsafe fn push(&self, word: NonNull<RemoteWord>) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: a bit of the word is pending and only its pusher can hand it on, so its
            // slab is not released before the exchange below succeeds.
            unsafe { word.as_ref() }.set_link(head);
            // Release: whoever takes the stack sees the link. Pushes by others in between are
            // read-modify-writes, which continue the release sequence.
            match self.head.compare_exchange_weak(
                head,
                word.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(current) => head = current,
            }
        }
    }

    /// Takes everything queued. Every word of the chain must be collected, or pushed on the
    /// inbox of its slab's present owner.
    ///
    /// Meant for the owner; another CPU may act for it only while it keeps the owner out.
    #[inline]
    pub(crate) fn take_all(&self) -> Chain {
        Chain { next: take(&self.head), then: take(&self.rest) }
    }

    /// Takes up to `most` words, and has each of them collected; O(`most`).
    ///
    /// For the owner alone, or whoever keeps it out.
    pub(crate) fn take_some(&self, most: usize, collect: impl FnMut(NonNull<RemoteWord>)) {
        let rest = take(&self.rest);
        let next = if rest.is_null() { take(&self.head) } else { rest };
        let mut chain = Chain { next, then: core::ptr::null_mut() };
        chain.by_ref().take(most).for_each(collect);
        let left = core::mem::replace(&mut chain.next, core::ptr::null_mut());
        if !left.is_null() {
            // There is no rest now: it was taken above, and nobody else puts one there. Release:
            // whoever takes it sees the links.
            self.rest.store(left, Ordering::Release);
        }
    }

    /// Whether nothing is queued at this moment.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null() && self.rest.load(Ordering::Relaxed).is_null()
    }
}

/// Takes a stack whole; no read-modify-write if it looks empty.
#[inline]
fn take(stack: &AtomicPtr<RemoteWord>) -> *mut RemoteWord {
    if stack.load(Ordering::Relaxed).is_null() {
        return core::ptr::null_mut();
    }
    stack.swap(core::ptr::null_mut(), Ordering::Acquire)
}

/// Words taken off an inbox, yielded one by one. Must be run to its end: what it has not
/// yielded stays queued nowhere.
#[must_use = "words that are not yielded are lost"]
pub(crate) struct Chain {
    next: *mut RemoteWord,
    /// Another chain, which comes after this one.
    then: *mut RemoteWord,
}

impl Iterator for Chain {
    type Item = NonNull<RemoteWord>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next.is_null() {
            self.next = core::mem::replace(&mut self.then, core::ptr::null_mut());
        }
        let word = NonNull::new(self.next)?;
        // SAFETY: the word is queued and uncollected, so its slab lives. The link is read
        // before it is yielded: once it is collected, it may be pushed elsewhere.
        self.next = unsafe { word.as_ref() }.link();
        Some(word)
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        let done = self.next.is_null() && self.then.is_null();
        debug_assert!(done, "a chain of remote frees was dropped before its end");
    }
}
