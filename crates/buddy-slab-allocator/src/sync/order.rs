//! The order of locks, written down, and checked where that is possible.
//!
//! A lock is waited for only while no lock of its rank or a later one is held, so no two contexts
//! can wait for each other. Attempts that do not wait are free. With the feature `lock-order`
//! (which needs `std`; the test-suite turns it on) and debug assertions every wait is checked
//! against what the running thread holds; otherwise nothing of this is left in the program.

/// Which lock it is; a later one may be waited for while an earlier one is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Rank {
    /// Whoever drains other CPUs' heaps.
    Pressure,
    /// One heap.
    Heap,
    /// Adding and removing regions.
    Topology,
    /// The sections of one NUMA node.
    Node,
}

#[cfg(all(feature = "lock-order", debug_assertions, not(loom)))]
mod held {
    extern crate std;

    use super::Rank;
    use core::cell::Cell;

    std::thread_local! {
        /// How many locks of each rank this thread holds.
        static HELD: [Cell<u8>; 4] = const { [const { Cell::new(0) }; 4] };
    }

    pub(in crate::sync) fn check_wait(rank: Rank) {
        let _ = HELD.try_with(|held| {
            for (number, count) in held.iter().enumerate().skip(rank as usize) {
                assert!(count.get() == 0, "lock order: waits for {rank:?}, holds rank {number}");
            }
        });
    }

    pub(in crate::sync) fn took(rank: Rank) {
        let _ = HELD.try_with(|held| held[rank as usize].update(|count| count + 1));
    }

    pub(in crate::sync) fn gave(rank: Rank) {
        let _ = HELD.try_with(|held| held[rank as usize].update(|count| count - 1));
    }
}

#[cfg(not(all(feature = "lock-order", debug_assertions, not(loom))))]
mod held {
    use super::Rank;

    #[inline(always)]
    pub(in crate::sync) fn check_wait(_: Rank) {}

    #[inline(always)]
    pub(in crate::sync) fn took(_: Rank) {}

    #[inline(always)]
    pub(in crate::sync) fn gave(_: Rank) {}
}

pub(super) use held::{check_wait, gave, took};

/// Asserts that the running thread holds nothing: before a foreign function is called that may
/// come back into the allocator.
#[inline(always)]
pub(crate) fn assert_nothing_held() {
    check_wait(Rank::Pressure);
}

#[cfg(all(test, feature = "lock-order", debug_assertions, not(loom)))]
mod tests {
    use super::Rank;
    use crate::sync::{Guard, SpinLock};

    #[test]
    fn locks_may_be_nested_in_order() {
        let (heap, node) = (SpinLock::new(), SpinLock::new());
        let _heap = Guard::lock(&heap, Rank::Heap);
        let _node = Guard::lock(&node, Rank::Node);
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn waiting_against_the_order_is_found() {
        let (heap, node) = (SpinLock::new(), SpinLock::new());
        let _node = Guard::lock(&node, Rank::Node);
        let _heap = Guard::lock(&heap, Rank::Heap);
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn waiting_for_a_second_lock_of_a_rank_is_found() {
        let (one, other) = (SpinLock::new(), SpinLock::new());
        let _one = Guard::lock(&one, Rank::Heap);
        let _other = Guard::lock(&other, Rank::Heap);
    }

    #[test]
    fn attempts_that_do_not_wait_are_free() {
        let (heap, node) = (SpinLock::new(), SpinLock::new());
        let _node = Guard::lock(&node, Rank::Node);
        assert!(Guard::try_lock(&heap, Rank::Heap).is_some());
    }
}
