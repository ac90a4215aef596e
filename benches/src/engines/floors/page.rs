//! Stacks of pages.

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use buddy_slab_allocator::Platform;

use crate::engines::pages::Pages;
use crate::platforms::Pinned;

const ORDERS: usize = 10;
/// Blocks of each order that a CPU gets when it has none left.
const BLOCKS: usize = 1 << 18;
/// How often one may be without, all together.
const TIMES: usize = 32;

/// Metadata as large as the published one, of which one word is written.
struct Meta {
    state: AtomicU32,
    _links: [AtomicU32; 2],
}

static META: [Meta; BLOCKS * TIMES] =
    [const { Meta { state: AtomicU32::new(0), _links: [const { AtomicU32::new(0) }; 2] } };
        BLOCKS * TIMES];
static NEXT: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone, Copy)]
struct Stack {
    blocks: *mut usize,
    count: usize,
}

thread_local! {
    static STACKS: UnsafeCell<[Stack; ORDERS]> =
        const { UnsafeCell::new([Stack { blocks: ptr::null_mut(), count: 0 }; ORDERS]) };
}

#[inline(always)]
fn stack(order: usize) -> *mut Stack {
    assert!(order < ORDERS);
    // SAFETY: the order is in range.
    STACKS.with(|stacks| unsafe { stacks.get().cast::<Stack>().add(order) })
}

/// Room for four times as many blocks as it gets, since threads free what others allocated.
#[cold]
#[inline(never)]
fn refill(stack: &mut Stack) {
    let first = NEXT.fetch_add(BLOCKS, Relaxed);
    assert!(first < BLOCKS * TIMES, "a prototype gives nothing back");
    if stack.blocks.is_null() {
        stack.blocks = ManuallyDrop::new(Vec::with_capacity(4 * BLOCKS)).as_mut_ptr();
    }
    for index in 0..BLOCKS {
        // SAFETY: within its room.
        unsafe { stack.blocks.add(index).write((first + BLOCKS - 1 - index) << 12) };
    }
    stack.count = BLOCKS;
}

#[inline(always)]
fn set_state(block: usize, state: u32) {
    debug_assert!(block >> 12 < META.len());
    // SAFETY: a block that `refill` made.
    unsafe { META.get_unchecked(block >> 12) }.state.store(state, Relaxed);
}

/// A stack a CPU and order, and one store of metadata each way. The blocks are numbers: nothing is
/// behind them.
pub struct PageStack;

impl Pages for PageStack {
    type Block = usize;

    fn start() {}

    #[inline(always)]
    fn alloc(order: usize) -> Option<usize> {
        // SAFETY: the calling thread's own.
        let stack = unsafe { &mut *stack(order) };
        if stack.count == 0 {
            refill(stack);
        }
        stack.count -= 1;
        // SAFETY: below what was the count.
        let block = unsafe { *stack.blocks.add(stack.count) };
        set_state(block, 1);
        Some(block)
    }

    #[inline(always)]
    fn free(block: usize, order: usize) {
        // SAFETY: the calling thread's own.
        let stack = unsafe { &mut *stack(order) };
        set_state(block, 2);
        // SAFETY: blocks were allocated before they are freed, so there is room.
        unsafe { stack.blocks.add(stack.count).write(block) };
        stack.count += 1;
    }
}

/// The same between an increment and a decrement of a preempt count.
pub struct PinnedPageStack;

impl Pages for PinnedPageStack {
    type Block = usize;

    fn start() {}

    #[inline(always)]
    fn alloc(order: usize) -> Option<usize> {
        let (pin, _) = Pinned.pin();
        let block = PageStack::alloc(order);
        Pinned.unpin(pin);
        block
    }

    #[inline(always)]
    fn free(block: usize, order: usize) {
        let (pin, _) = Pinned.pin();
        PageStack::free(block, order);
        Pinned.unpin(pin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_distinct_and_the_last_freed_comes_first() {
        let pages: Vec<_> = (0..1000).filter_map(|_| PageStack::alloc(0)).collect();
        let distinct: std::collections::HashSet<_> = pages.iter().collect();
        assert_eq!(distinct.len(), 1000);
        PageStack::free(pages[7], 0);
        assert_eq!(PinnedPageStack::alloc(0), Some(pages[7]));
    }
}
