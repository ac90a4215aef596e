//! Empty slabs that a heap keeps beyond those whose groups are on its lists: for the next objects of
//! the class.
//!
//! Where one CPU allocates and another frees, slabs come back many at a time, and are wanted again
//! one by one. To release them and to make them anew would take the node's lock twice for each,
//! and would write the metadata of pages that the other CPU reads at every free. So a bounded
//! number of pages stays in slabs; they go back some on every tick, all when the CPU idles and
//! under pressure.

use super::Env;
use crate::slab::{SizeClass, Slab, SlabList};
use crate::sync::RawLock;
use core::ptr::NonNull;

/// Among the idle slabs of its heap: none of its groups on a list, nothing of it in use.
pub(super) const IDLE: u8 = 3;

/// How many bytes of empty slabs are kept at most: none on 32 bits, where memory may be small.
pub(crate) const MAX_IDLE_BYTES: usize = if usize::BITS >= 64 { 512 << 10 } else { 0 };
/// And which part of all memory: one page in so many.
const SHARE: usize = 64;

/// How many lists there are: several classes share one.
const LISTS: usize = if MAX_IDLE_BYTES == 0 { 0 } else { 4 };

/// The idle slabs of one heap.
///
/// # Invariants
/// - They are the heap's, `IDLE`, each on the list of its class; `pages` is what they have.
pub(super) struct IdleSlabs {
    lists: [SlabList; LISTS],
    pages: usize,
}

impl IdleSlabs {
    pub(super) const fn new() -> Self {
        Self { lists: [const { SlabList::new() }; LISTS], pages: 0 }
    }

    /// Keeps a slab; `false` (and it is still the caller's) if there is no room. O(1).
    ///
    /// # Safety
    /// - The slab is this heap's and empty, and none of its groups is on a list.
    pub(super) unsafe fn push<const PAGE_SIZE: usize, L: RawLock>(
        &mut self,
        slab: NonNull<Slab>,
        env: &Env<'_, PAGE_SIZE, L>,
    ) -> bool {
        let limit = (MAX_IDLE_BYTES / PAGE_SIZE).min(env.core.total_pages() / SHARE);
        // SAFETY: alive and ours (condition).
        unsafe {
            let pages = self.pages + usize::from(Slab::place(slab).page_count);
            let class = Slab::class(slab).index();
            let Some(list) = self.lists.get_mut(class % LISTS.max(1)) else { return false };
            if pages > limit {
                return false;
            }
            Slab::set_state(slab, IDLE);
            list.push_front(slab);
            self.pages = pages;
        }
        true
    }

    /// Takes a slab of a class, which is on no list then. O(slabs on its list).
    pub(super) fn pop(&mut self, class: usize) -> Option<NonNull<Slab>> {
        let slab = self.of_class(class).next()?;
        let list = self.lists.get_mut(class % LISTS.max(1))?;
        // SAFETY: on this list, so alive and ours (invariant).
        unsafe {
            list.remove(slab);
            self.pages -= usize::from(Slab::place(slab).page_count);
        }
        Some(slab)
    }

    /// The slabs of a class.
    pub(super) fn of_class(&self, class: usize) -> impl Iterator<Item = NonNull<Slab>> {
        let first = self.lists.get(class % LISTS.max(1)).and_then(SlabList::front);
        // SAFETY: on the list, so alive and ours (invariant).
        unsafe {
            core::iter::successors(first, |slab| Slab::next(*slab))
                .filter(move |slab| Slab::class(*slab).index() == class)
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// I: every slab is where its state says, empty and this heap's.
    pub(super) fn check(&self, owner: u16) {
        let mut pages = 0;
        for class in SizeClass::ALL {
            for slab in self.of_class(class.index()) {
                // SAFETY: on the list, so alive and ours (invariant).
                unsafe {
                    assert_eq!(Slab::state(slab), IDLE, "idle slab: state names its place");
                    assert_eq!(Slab::owner(slab), owner, "idle slab: owned by this heap");
                    assert_eq!(Slab::class(slab), class, "idle slab: class");
                    assert!(Slab::is_empty(slab), "idle slab: empty");
                    pages += usize::from(Slab::place(slab).page_count);
                }
            }
        }
        assert_eq!(pages, self.pages, "idle slab: pages kept");
    }
}
