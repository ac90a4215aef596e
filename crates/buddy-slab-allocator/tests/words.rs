//! The word in which a platform keeps where a CPU's heap is, and what is at hand there.
#![cfg(not(loom))]

mod common;

use std::sync::atomic::{AtomicPtr, Ordering};

use buddy_slab_allocator::{Access, GlobalAllocator, Platform, SpinLock};
use common::{MIB, PAGE, layout};

/// *Thread*, with the word that it is given.
struct Worded(&'static AtomicPtr<()>);
// SAFETY: one thread of the test uses a heap at a time. (That a word serves one heap, one test denies.)
unsafe impl Platform for Worded {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    const KEEPS_HEAP: bool = true;
    fn pin(&self) -> ((), Option<usize>) {
        ((), common::cpu())
    }
    fn unpin(&self, (): ()) {}
    fn heap(&self) -> *mut () {
        self.0.load(Ordering::Relaxed)
    }
    fn set_heap(&self, heap: *mut ()) {
        self.0.store(heap, Ordering::Relaxed);
    }
}

fn worded() -> (GlobalAllocator<PAGE, Worded>, &'static AtomicPtr<()>) {
    let word: &AtomicPtr<()> = Box::leak(Box::default());
    let heap = GlobalAllocator::with_platform(Worded(word));
    let memory = vec![0_u8; 4 * MIB].leak();
    // SAFETY: leaked memory, ours alone.
    unsafe { heap.init_raw(memory.as_mut_ptr(), memory.len(), 2) }.expect("a region");
    (heap, word)
}

#[test]
fn a_word_is_filled_by_the_first_call_and_emptied_when_the_index_goes_on() {
    let (heap, word) = worded();
    common::set_cpu(None);
    let early = heap.alloc(layout(64, 8)).expect("a shared heap");
    assert!(word.load(Ordering::Relaxed).is_null(), "there is no CPU yet");
    let mut kept = Vec::new();
    for cpu in [0, 1, 0] {
        common::set_cpu(Some(cpu));
        word.store(std::ptr::null_mut(), Ordering::Relaxed);
        let object = heap.alloc(layout(64, 8)).expect("room");
        kept.push(word.load(Ordering::Relaxed));
        // SAFETY: allocated just above.
        unsafe { heap.dealloc(object, layout(64, 8)) };
        heap.cpu_offline(cpu).expect("its own");
    }
    assert_eq!(kept[0], kept[2], "a CPU's heap stays where it is");
    assert_ne!(kept[0], kept[1]);
    assert!(!kept.contains(&std::ptr::null_mut()));
    // SAFETY: allocated above.
    unsafe { heap.dealloc(early, layout(64, 8)) };
    heap.shrink();
    heap.check_invariants();
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "another allocator's")]
fn a_word_of_two_heaps_is_found_out() {
    let (first, word) = worded();
    let (second, own) = worded();
    common::set_cpu(Some(0));
    let object = first.alloc(layout(64, 8)).expect("room");
    // SAFETY: allocated just above.
    unsafe { first.dealloc(object, layout(64, 8)) };
    own.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
    let _ = second.alloc(layout(64, 8));
}

#[test]
fn what_is_at_hand_is_had_without_more() {
    let (heap, _) = worded();
    common::set_cpu(Some(0));
    assert_eq!(heap.alloc_at_hand(layout(64, 8)), None, "there is no slab yet");
    let first = heap.alloc(layout(64, 8)).expect("room");
    let second = heap.alloc_at_hand(layout(64, 8)).expect("a slab has more than one");
    assert_ne!(first, second);
    assert_eq!(heap.alloc_at_hand(layout(64 << 10, 8)), None, "pages are not objects");
    for object in [first, second] {
        // SAFETY: allocated above.
        unsafe { heap.dealloc(object, layout(64, 8)) };
    }
    assert!(heap.alloc_at_hand(layout(0, 1)).is_none(), "another class");
    heap.check_invariants();
}
