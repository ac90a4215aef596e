//! What handing out pages from arrays costs at the least: the platform's pin, a flag that says that
//! the CPU is inside, a stack for each order, and one word of metadata for each block. Nothing is
//! ever split, merged, refilled or shared, and nothing is checked but that a claim succeeds.

use std::cell::UnsafeCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, compiler_fence};

use buddy_slab_allocator::Platform;

use super::pages::Pages;
use crate::platforms::{CPU_COUNT, Pinned};

/// What pins.
const PLATFORM: Pinned = Pinned;

/// Orders that there are stacks for.
const ORDERS: usize = 10;
/// Blocks of each order that a CPU has.
const BLOCKS: [usize; ORDERS] = {
    let mut blocks = [1 << 11; ORDERS];
    blocks[0] = 1 << 18;
    blocks
};
/// Bytes of metadata a block, of which one word is used: as many as ours has.
type Meta = [AtomicU32; 3];

const HELD: u32 = 1;
const KEPT: u32 = 2;

/// The blocks of one order that a CPU has at hand.
struct Stack {
    count: AtomicUsize,
    places: UnsafeCell<Vec<usize>>,
    metas: Vec<Meta>,
}

/// What one CPU has, on cache lines of its own.
#[repr(align(128))]
struct Heap {
    inside: AtomicBool,
    stacks: [Stack; ORDERS],
}

// SAFETY: `places` is used by the CPU alone whose heap this is.
unsafe impl Sync for Heap {}

static HEAPS: OnceLock<Vec<Heap>> = OnceLock::new();

impl Heap {
    fn new() -> Self {
        let stack = |order: usize| Stack {
            count: AtomicUsize::new(BLOCKS[order]),
            places: UnsafeCell::new((0..BLOCKS[order]).rev().collect()),
            metas: (0..BLOCKS[order]).map(|_| [KEPT, 0, 0].map(AtomicU32::new)).collect(),
        };
        Self { inside: AtomicBool::new(false), stacks: std::array::from_fn(stack) }
    }

    /// Runs `f` on this CPU's stack of an order.
    #[inline(always)]
    fn with<R>(order: usize, f: impl FnOnce(&Stack) -> Option<R>) -> Option<R> {
        let ((), cpu) = PLATFORM.pin();
        let heap = HEAPS.get().and_then(|heaps| heaps.get(cpu?));
        let result = heap.filter(|heap| !heap.inside.load(Ordering::Relaxed)).and_then(|heap| {
            heap.inside.store(true, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            let result = heap.stacks.get(order).and_then(f);
            compiler_fence(Ordering::SeqCst);
            heap.inside.store(false, Ordering::Relaxed);
            result
        });
        PLATFORM.unpin(());
        result
    }
}

/// The arrays, *pinned*; with `CLAIM` a block is freed by a compare-and-swap of its word, without
/// by a store.
pub struct Arrays<const CLAIM: bool>;

impl<const CLAIM: bool> Pages for Arrays<CLAIM> {
    type Block = usize;

    fn start() {
        HEAPS.get_or_init(|| (0..CPU_COUNT).map(|_| Heap::new()).collect());
    }

    #[inline(always)]
    fn alloc(order: usize) -> Option<usize> {
        Heap::with(order, |stack| {
            let top = stack.count.load(Ordering::Relaxed).checked_sub(1)?;
            // SAFETY: the CPU is inside its own heap, and nobody else is.
            let block = *unsafe { &*stack.places.get() }.get(top)?;
            stack.count.store(top, Ordering::Relaxed);
            stack.metas.get(block)?[0].store(HELD, Ordering::Release);
            Some(block)
        })
    }

    #[inline(always)]
    fn free(block: usize, order: usize) {
        let freed = Heap::with(order, |stack| {
            let count = stack.count.load(Ordering::Relaxed);
            // SAFETY: the CPU is inside its own heap, and nobody else is.
            let place = unsafe { &mut *stack.places.get() }.get_mut(count)?;
            let word = &stack.metas.get(block)?[0];
            if CLAIM {
                let (from, to) = (Ordering::AcqRel, Ordering::Acquire);
                word.compare_exchange(HELD, KEPT, from, to).ok()?;
            } else {
                word.store(KEPT, Ordering::Release);
            }
            *place = block;
            stack.count.store(count + 1, Ordering::Relaxed);
            Some(())
        });
        assert!(freed.is_some(), "a block that was handed out");
    }
}
