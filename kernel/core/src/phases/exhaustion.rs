//! Everything is allocated, by all CPUs at once; then it comes back.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use buddy_slab_allocator::AllocError;

use crate::arch::Arch;
use crate::pattern::{self, Pages, Random};
use crate::{PAGE_SIZE, cpu, handlers, say, scheduler, thread};

/// Blocks that this phase holds, linked through their first words: there is no memory for a list.
#[repr(C)]
struct Held {
    next: *mut Held,
    size: usize,
}

const HEADER: usize = size_of::<Held>();

/// Pages that the reclaim callback gives back when the heap asks: the kernel's cache.
static CACHE: [AtomicPtr<u8>; 64] = [const { AtomicPtr::new(ptr::null_mut()) }; 64];
static RECLAIMED: AtomicUsize = AtomicUsize::new(0);

/// Fills the heap from all CPUs, twice, and demands that it comes back, in large blocks.
pub(super) fn run<A: Arch>() {
    let (before, pieces_before) = at_rest::<A>();
    for place in &CACHE {
        let Ok(pages) = Pages::alloc::<A>(4, 0) else { panic!("no pages for the cache") };
        place.store(ptr::with_exposed_provenance_mut(pages.addr), Ordering::Release);
    }
    A::heap().set_reclaim(Some(reclaim::<A>));
    for round in 0..2 {
        let (objects, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (full, half) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let refused = [const { AtomicBool::new(false) }; 2];
        thread::on_each_cpu::<A>(&|index| {
            let mut random = Random::new((index + round * 100) as u64 + 500);
            let mut held = ptr::null_mut();
            // Large ones until a CPU is refused one, then small ones. (Not until each CPU is: at the
            // limit a request asks all CPUs for what they keep, and all at once that takes long.)
            let sizes = if round == 0 { [16, 13] } else { [21, 9] };
            for (max_log2, refused) in sizes.into_iter().zip(&refused) {
                while !refused.load(Ordering::Relaxed) {
                    let Some(block) = take::<A>(HEADER + random.size(max_log2), held) else {
                        refused.store(true, Ordering::Relaxed);
                        break;
                    };
                    held = block;
                    objects.fetch_add(1, Ordering::Relaxed);
                    // SAFETY: this thread's.
                    bytes.fetch_add(unsafe { (*block).size }, Ordering::Relaxed);
                }
            }
            meet::<A>(&full);
            held = give::<A>(held, |i| i % 2 == 0);
            meet::<A>(&half);
            // There is room again.
            match take::<A>(1000, held) {
                Some(block) => held = block,
                None => panic!("CPU {index}: refused after half came back"),
            }
            let rest = give::<A>(held, |_| true);
            assert!(rest.is_null(), "blocks are left");
        });
        say!(
            A,
            "{} blocks, {} MiB, until requests were refused; {} pages reclaimed from the cache",
            objects.load(Ordering::Relaxed),
            bytes.load(Ordering::Relaxed) >> 20,
            RECLAIMED.load(Ordering::Relaxed),
        );
    }
    assert!(RECLAIMED.load(Ordering::Relaxed) != 0, "the heap never asked for the cache");
    A::heap().set_reclaim(None);
    while reclaim::<A>() {}
    // What handlers were refused here does not count.
    for local in cpu::all() {
        local.refused.store(0, Ordering::Relaxed);
    }
    let (after, pieces) = at_rest::<A>();
    say!(
        A,
        "free: {before} pages before, {pieces_before}/1000 of them in pieces below 1 MiB; {after} \
         after, {pieces}/1000"
    );
    assert!(after * 100 >= before * 97, "pages did not come back");
    assert!(pieces <= pieces_before + 100, "the heap stays in pieces");
}

/// Free pages, and the share of them (in 1/1000) in pieces below 1 MiB, with nothing in the hands of
/// handlers, whose few objects would keep many blocks from merging.
fn at_rest<A: Arch>() -> (usize, usize) {
    handlers::set_work_per_tick(0);
    thread::on_each_cpu::<A>(&|_| {}); // a handler that had begun has ended
    handlers::empty::<A>();
    A::heap().shrink();
    let snapshot = A::heap().snapshot();
    let order = ((1 << 20) / PAGE_SIZE).trailing_zeros() as usize;
    handlers::set_work_per_tick(super::WORK_PER_TICK);
    let free = (snapshot.managed_bytes - snapshot.allocated_bytes) / PAGE_SIZE;
    (free, snapshot.fragmentation_permille(order))
}

/// Waits until all CPUs have come here.
fn meet<A: Arch>(here: &AtomicUsize) {
    here.fetch_add(1, Ordering::AcqRel);
    while here.load(Ordering::Acquire) < cpu::count() {
        scheduler::yield_now::<A>();
    }
}

fn layout_of(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, 16).ok()
}

/// Allocates a block of `size` bytes in front of `next`; `None` when memory is used up.
fn take<A: Arch>(size: usize, next: *mut Held) -> Option<*mut Held> {
    match A::heap().alloc(layout_of(size)?) {
        Ok(block) => {
            let block = block.cast::<Held>().as_ptr();
            // SAFETY: just allocated, aligned, at least as large as the header.
            unsafe {
                block.write(Held { next, size });
                pattern::fill(block.expose_provenance() + HEADER, size - HEADER, size as u64);
            }
            Some(block)
        }
        Err(AllocError::NoMemory) => None,
        Err(error) => panic!("{size} bytes: {error}"),
    }
}

/// Verifies and frees the blocks whose number is chosen; returns the rest.
fn give<A: Arch>(mut list: *mut Held, chosen: impl Fn(usize) -> bool) -> *mut Held {
    let mut kept = ptr::null_mut();
    for i in 0.. {
        let Some(block) = NonNull::new(list) else { break };
        // SAFETY: on the list are blocks that `take` made, of this thread; freed with their layout.
        unsafe {
            let Held { next, size } = block.read();
            list = next;
            if !chosen(i) {
                (*block.as_ptr()).next = kept;
                kept = block.as_ptr();
                continue;
            }
            pattern::verify(block.as_ptr().addr() + HEADER, size - HEADER, size as u64);
            if let Some(layout) = layout_of(size) {
                A::heap().dealloc(block.cast(), layout);
            }
        }
    }
    kept
}

/// The heap's reclaim callback: gives pages of the cache back.
fn reclaim<A: Arch>() -> bool {
    for place in &CACHE {
        let page = place.swap(ptr::null_mut(), Ordering::AcqRel);
        if !page.is_null() {
            Pages { addr: page.addr(), count: 4 }.free::<A>();
            RECLAIMED.fetch_add(4, Ordering::Relaxed);
            return true;
        }
    }
    false
}
