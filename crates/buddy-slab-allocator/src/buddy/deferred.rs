//! Frees that could not take the node's lock: a lock-free stack of claimed blocks.
//!
//! # Protocol
//! Whoever pushes owns the block (it was claimed by a compare-and-swap on its head word, so of
//! two racing frees exactly one gets here) and links it through the block's own metadata. A push
//! is one compare-and-swap with release; the whole chain is taken by one swap with acquire.
//! Since nobody ever pops a single element, the ABA problem cannot arise, and a push interrupted
//! at any point by another push or by a drain loses nothing. The page count is raised before the
//! block becomes reachable and lowered by whoever took it, so that it never falls below zero.
//!
//! This type knows tokens only; what a token means and where its link lives is the caller's.

use core::num::NonZeroUsize;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// A stack of non-zero tokens with an exact count of the pages behind them.
pub(super) struct DeferredStack {
    /// The newest token; 0 when empty.
    head: AtomicUsize,
    pages: AtomicUsize,
}

impl DeferredStack {
    /// An empty stack.
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Self { head: AtomicUsize::new(0), pages: AtomicUsize::new(0) }
    }

    /// An empty stack.
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self { head: AtomicUsize::new(0), pages: AtomicUsize::new(0) }
    }

    /// Whether a drain would find nothing, at this moment.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == 0
    }

    /// Pages in the stack, or taken from it and not yet reported as [`settled`](Self::settled).
    pub(super) fn pages(&self) -> usize {
        self.pages.load(Ordering::Relaxed)
    }

    /// Pushes a token. `link` stores the token below it (`None` at the bottom) where
    /// [`take_all`](Self::take_all)'s caller will look; it may run several times.
    ///
    /// Lock-free; never waits for a drain.
    pub(super) fn push(
        &self,
        token: NonZeroUsize,
        page_count: usize,
        mut link: impl FnMut(Option<NonZeroUsize>),
    ) {
        self.pages.fetch_add(page_count, Ordering::Relaxed);
        let mut below = self.head.load(Ordering::Relaxed);
        loop {
            link(NonZeroUsize::new(below));
            match self.head.compare_exchange_weak(
                below,
                token.get(),
                // Publishes the link and everything the owner wrote before.
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => below = now,
            }
        }
    }

    /// Takes the whole chain: its newest token. The taker owns every block in it.
    pub(super) fn take_all(&self) -> Option<NonZeroUsize> {
        if self.is_empty() {
            return None;
        }
        NonZeroUsize::new(self.head.swap(0, Ordering::Acquire))
    }

    /// Reports that a taken block of `page_count` pages is accounted for elsewhere now.
    pub(super) fn settled(&self, page_count: usize) {
        let before = self.pages.fetch_sub(page_count, Ordering::Relaxed);
        debug_assert!(before >= page_count, "F1: settled pages were pushed before");
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    #[cfg(loom)]
    use loom::{sync::Arc, thread};
    use std::vec::Vec;
    #[cfg(not(loom))]
    use std::{sync::Arc, thread};

    struct Links {
        stack: DeferredStack,
        below: Vec<AtomicUsize>,
    }

    impl Links {
        fn new(count: usize) -> Self {
            Self {
                stack: DeferredStack::new(),
                below: (0..=count).map(|_| AtomicUsize::new(usize::MAX)).collect(),
            }
        }

        fn push(&self, token: usize) {
            let place = &self.below[token];
            self.stack.push(NonZeroUsize::new(token).unwrap(), token, |below| {
                place.store(below.map_or(0, NonZeroUsize::get), Ordering::Relaxed);
            });
        }

        fn drain(&self) -> Vec<usize> {
            let mut out = Vec::new();
            let mut next = self.stack.take_all().map_or(0, NonZeroUsize::get);
            while next != 0 {
                out.push(next);
                let below = self.below[next].load(Ordering::Relaxed);
                self.stack.settled(next);
                next = below;
            }
            out
        }
    }

    #[cfg(not(loom))]
    #[test]
    fn what_is_pushed_comes_back_once_and_is_counted() {
        let count = if cfg!(miri) { 60 } else { 6000 };
        let links = Arc::new(Links::new(count));
        let pushers: Vec<_> = (0..3)
            .map(|t| {
                let links = Arc::clone(&links);
                thread::spawn(move || {
                    for token in (1..=count).filter(|n| n % 3 == t) {
                        links.push(token);
                    }
                })
            })
            .collect();
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.extend(links.drain());
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(1..=count));
        assert_eq!(links.stack.pages(), 0);
        assert!(links.stack.is_empty());
    }

    #[cfg(loom)]
    #[test]
    fn loom_deferred_frees_are_neither_lost_nor_doubled() {
        loom::model(|| {
            let links = Arc::new(Links::new(3));
            let other = Arc::clone(&links);
            let pusher = thread::spawn(move || {
                other.push(1);
                other.push(2);
            });
            links.push(3);
            let mut seen = links.drain();
            pusher.join().unwrap();
            seen.extend(links.drain());
            seen.sort_unstable();
            assert_eq!(seen, [1, 2, 3]);
            assert_eq!(links.stack.pages(), 0);
        });
    }
}
