//! The ways of reaching a CPU's heap, each with real threads that allocate, free, and free what
//! others allocated: what they hold stays theirs, and in the end everything is free.
#![cfg(not(loom))]

mod common;

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use buddy_slab_allocator::{
    Access, AllocError, ContextSlot, GlobalAllocator, OsImpl, PageBlock, PageOptions, Platform,
    SpinLock,
};
use common::{MIB, PAGE, Random, WithMagazines, own_slot, set_cpu};

const REGION_BYTES: usize = 64 * MIB;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// *Pinned* as a kernel does it: threads move between fewer CPUs, except while their preemption
/// count is above zero. A CPU runs one thread at a time.
struct Preemptible<const CPUS: usize> {
    busy: [AtomicBool; CPUS],
    heaps: [AtomicPtr<()>; CPUS],
    next: AtomicUsize,
}

impl<const CPUS: usize> Preemptible<CPUS> {
    const fn new() -> Self {
        Self {
            busy: [const { AtomicBool::new(false) }; CPUS],
            heaps: [const { AtomicPtr::new(std::ptr::null_mut()) }; CPUS],
            next: AtomicUsize::new(0),
        }
    }
}

// SAFETY: from the first `pin` to the last `unpin` the thread has its CPU to itself, by the CPU's
// `busy` flag (acquire and release); no signal is involved.
unsafe impl<const CPUS: usize> Platform for Preemptible<CPUS> {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    const KEEPS_HEAP: bool = true;

    fn heap(&self) -> *mut () {
        self.heaps[HERE.get()].load(Ordering::Relaxed)
    }

    fn set_heap(&self, heap: *mut ()) {
        self.heaps[HERE.get()].store(heap, Ordering::Relaxed);
    }

    fn pin(&self) -> ((), Option<usize>) {
        let depth = DEPTH.replace(DEPTH.get() + 1);
        if depth == 0 {
            // The thread was perhaps preempted: it goes on wherever there is room. A thread that
            // has asked for a CPU of its own (to speak for it) gets that.
            let wanted = common::cpu();
            let mut at = wanted.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed) % CPUS);
            while self.busy[at].swap(true, Ordering::Acquire) {
                if wanted.is_none() {
                    at = (at + 1) % CPUS;
                }
                std::thread::yield_now();
            }
            HERE.set(at);
        }
        ((), Some(HERE.get()))
    }

    fn unpin(&self, (): ()) {
        let depth = DEPTH.get() - 1;
        DEPTH.set(depth);
        if depth == 0 {
            self.busy[HERE.get()].store(false, Ordering::Release);
        }
    }
}

/// *Thread*: the index is the thread's own.
struct ThreadWay;
// SAFETY: each worker has an index of its own; no signal is involved.
unsafe impl Platform for ThreadWay {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    fn pin(&self) -> ((), Option<usize>) {
        ((), common::cpu())
    }
    fn unpin(&self, (): ()) {}
}

/// What a platform says of the CPU index.
#[derive(Clone, Copy)]
enum Index {
    /// The truth.
    Own,
    /// Another at every question, sometimes none, sometimes absurd.
    Lies,
    /// There is none yet.
    None,
    /// One that does not exist.
    Beyond,
}

/// *Locked* with a context token, on any kind of index.
struct TokenWay(Index, AtomicUsize);
// SAFETY: the token is the thread's own; of the index this way promises nothing.
unsafe impl Platform for TokenWay {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Locked;
    fn pin(&self) -> ((), Option<usize>) {
        ((), self.0.tell(&self.1))
    }
    fn unpin(&self, (): ()) {}
    fn context(&self) -> Option<&ContextSlot> {
        Some(own_slot())
    }
}

/// *Pinned* or *thread*, for code that has no CPU of its own.
struct OutsideWay(Index);
// SAFETY: no two callers get the same existing index: none of them gets one.
unsafe impl Platform for OutsideWay {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    fn pin(&self) -> ((), Option<usize>) {
        ((), self.0.tell(&AtomicUsize::new(0)))
    }
    fn unpin(&self, (): ()) {}
}

impl Index {
    fn tell(self, turn: &AtomicUsize) -> Option<usize> {
        match self {
            Self::Own => common::cpu(),
            Self::None => None,
            Self::Beyond => Some(usize::MAX),
            Self::Lies => match turn.fetch_add(1, Ordering::Relaxed) % 7 {
                0 => None,
                1 => Some(usize::MAX),
                2 => Some(1 << 16),
                other => Some(other - 3),
            },
        }
    }
}

/// *Locked* as published, on any kind of index.
struct Published(Index, AtomicUsize);
impl OsImpl for Published {
    fn current_cpu_idx(&self) -> usize {
        self.0.tell(&self.1).unwrap_or(usize::MAX)
    }
    fn virt_to_phys(&self, vaddr: usize) -> usize {
        vaddr
    }
}

/// Something that a thread holds, filled with a pattern that only it knows.
enum Held<P: Platform> {
    Object(NonNull<u8>, Layout, u8),
    Pages(usize, usize, u8),
    Block(PageBlock<'static, PAGE, P>, u8),
}

// SAFETY: what is held belongs to whoever holds it.
unsafe impl<P: Platform> Send for Held<P> {}

impl<P: Platform> Held<P> {
    /// The bytes, whole at the ends and sampled in between.
    fn bytes(&self) -> (*mut u8, usize, u8) {
        match self {
            Self::Object(ptr, layout, mark) => (ptr.as_ptr(), layout.size(), *mark),
            Self::Pages(addr, count, mark) => {
                (std::ptr::with_exposed_provenance_mut(*addr), count * PAGE, *mark)
            }
            Self::Block(block, mark) => (block.as_ptr().as_ptr(), block.len_bytes(), *mark),
        }
    }

    fn fill(self) -> Self {
        let (at, len, mark) = self.bytes();
        // SAFETY: allocated with this length, and held.
        unsafe { at.write_bytes(mark, len) };
        self
    }

    fn check(&self) {
        let (at, len, mark) = self.bytes();
        // SAFETY: held, and filled by `fill`.
        let bytes = unsafe { std::slice::from_raw_parts(at, len) };
        assert!(bytes.iter().all(|byte| *byte == mark), "{at:p} was overwritten");
    }

    fn free(self, heap: &GlobalAllocator<PAGE, P>) {
        self.check();
        match self {
            // SAFETY: held, with its layout; gone afterwards.
            Self::Object(ptr, layout, _) => unsafe { heap.dealloc(ptr, layout) },
            Self::Pages(addr, count, _) => heap.dealloc_pages(addr, count),
            Self::Block(block, _) => drop(block),
        }
    }
}

/// Something new, of a random kind and size; `None` if the heap had nothing.
fn get<P: Platform>(
    heap: &'static GlobalAllocator<PAGE, P>,
    random: &mut Random,
) -> Option<Held<P>> {
    let mark = random.next() as u8;
    let held = match random.below(16) {
        0 => {
            let count = 1 + random.below(9);
            Held::Pages(heap.alloc_pages(count, 0).ok()?, count, mark)
        }
        1 => {
            let count = 1 + random.below(4);
            Held::Block(heap.alloc_block_of(count, &PageOptions::default()).ok()?, mark)
        }
        2 => Held::Block(heap.alloc_page().ok()?, mark),
        3 => {
            let layout = common::layout(1 + random.below(9000), 8);
            let object = heap.alloc_zeroed(layout).ok()?;
            // SAFETY: allocated just above.
            let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == 0), "zeroed memory is zero");
            Held::Object(object, layout, mark)
        }
        _ => {
            let scale = 8 << random.below(10);
            let size = 1 + random.below(scale);
            let layout = common::layout(size, 1 << random.below(7));
            Held::Object(heap.alloc(layout).ok()?, layout, mark)
        }
    };
    Some(held.fill())
}

/// Changes the size of an object.
fn resize<P: Platform>(heap: &GlobalAllocator<PAGE, P>, held: Held<P>, new: usize) -> Held<P> {
    let Held::Object(ptr, layout, mark) = held else { return held };
    // SAFETY: held, with its layout; on success only the new pointer is used.
    let Ok(moved) = (unsafe { heap.realloc(ptr, layout, new) }) else { return held };
    let kept =
        Held::<P>::Object(moved, common::layout(new.min(layout.size()), layout.align()), mark);
    kept.check();
    Held::Object(moved, common::layout(new, layout.align()), mark).fill()
}

fn work<P: Platform>(
    heap: &'static GlobalAllocator<PAGE, P>,
    number: usize,
    rounds: usize,
    inbox: &Receiver<Held<P>>,
    others: &[Sender<Held<P>>],
) -> usize {
    let mut random = Random(0x9E37_79B9 + number as u64 * 77);
    let mut held: Vec<Held<P>> = Vec::new();
    let mut refused = 0;
    for _ in 0..rounds {
        match random.below(8) {
            0..=3 if held.len() < 150 => match get(heap, &mut random) {
                Some(new) => held.push(new),
                None => refused += 1,
            },
            4 | 5 if !held.is_empty() => {
                let given = held.swap_remove(random.below(held.len()));
                let to = random.below(others.len());
                others[to].send(given).unwrap_or_else(|lost| lost.0.free(heap));
            }
            6 if !held.is_empty() => {
                let old = held.swap_remove(random.below(held.len()));
                held.push(resize(heap, old, 1 + random.below(6000)));
            }
            _ => {
                if let Some(own) = held.pop() {
                    own.free(heap);
                }
            }
        }
        while let Ok(foreign) = inbox.try_recv() {
            foreign.free(heap);
        }
    }
    held.into_iter().for_each(|own| own.free(heap));
    refused
}

/// Lets `threads` work at once; `enter` puts each where it runs. Returns how many requests failed.
fn run<P: Platform>(
    heap: &'static GlobalAllocator<PAGE, P>,
    threads: usize,
    enter: impl Fn(usize) + Sync,
) -> usize {
    heap.set_misuse_handler(Some(testkit::misuse::fail));
    let rounds = 60_000 / threads;
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel()).unzip();
    let enter = &enter;
    std::thread::scope(|scope| {
        let workers: Vec<_> = inboxes
            .into_iter()
            .enumerate()
            .map(|(number, inbox)| {
                let others = senders.clone();
                scope.spawn(move || {
                    enter(number);
                    let refused = work(heap, number, rounds, &inbox, &others);
                    drop(others);
                    // What the others still send, until they have all ended.
                    inbox.iter().for_each(|foreign| foreign.free(heap));
                    refused
                })
            })
            .collect();
        drop(senders);
        workers.into_iter().map(|worker| worker.join().expect("a worker")).sum()
    })
}

/// Every CPU goes offline; then everything is free.
fn settle<P: Platform>(heap: &GlobalAllocator<PAGE, P>, cpus: usize) {
    for cpu in 0..cpus {
        set_cpu(Some(cpu));
        heap.cpu_offline(cpu).expect("a CPU");
    }
    set_cpu(Some(0));
    common::check_all_free(heap);
}

fn region() -> &'static mut [u8] {
    testkit::Region::new(REGION_BYTES).leak()
}

#[test]
fn pinned_threads_that_migrate_between_cpus_share_a_heap() {
    for threads in [2, 3, 8] {
        let heap = common::heap_on(Preemptible::<2>::new(), REGION_BYTES, 2);
        assert_eq!(run(heap, threads, |_| set_cpu(None)), 0, "nothing failed");
        settle(heap, 2);
    }
}

#[test]
fn pinned_threads_on_more_cpus_than_the_machine_has_share_a_heap() {
    let heap = common::heap_on(Preemptible::<7>::new(), REGION_BYTES, 7);
    assert_eq!(run(heap, 8, |_| set_cpu(None)), 0, "nothing failed");
    settle(heap, 7);
}

#[test]
fn threads_share_heaps_with_magazines_in_every_way() {
    let heap = common::heap_on(WithMagazines(Preemptible::<3>::new()), REGION_BYTES, 3);
    assert_eq!(run(heap, 8, |_| set_cpu(None)), 0, "nothing failed, pinned");
    settle(heap, 3);
    let heap = common::heap_on(WithMagazines(ThreadWay), REGION_BYTES, 4);
    assert_eq!(run(heap, 4, |number| set_cpu(Some(number))), 0, "nothing failed, thread");
    settle(heap, 4);
    for index in [Index::Own, Index::Lies] {
        let token = WithMagazines(TokenWay(index, AtomicUsize::new(0)));
        let heap = common::heap_on(token, REGION_BYTES, 4);
        assert_eq!(run(heap, 6, |number| set_cpu(Some(number % 4))), 0, "nothing failed, locked");
        settle(heap, 4);
    }
}

#[test]
fn threads_with_an_index_of_their_own_share_a_heap() {
    for threads in [2, 5, 8] {
        let heap = common::heap_on(ThreadWay, REGION_BYTES, threads);
        assert_eq!(run(heap, threads, |number| set_cpu(Some(number))), 0, "nothing failed");
        settle(heap, threads);
    }
}

#[test]
fn locked_heaps_with_a_token_serve_threads() {
    for threads in [2, 8] {
        let heap =
            common::heap_on(TokenWay(Index::Own, AtomicUsize::new(0)), REGION_BYTES, threads);
        assert_eq!(run(heap, threads, |number| set_cpu(Some(number))), 0, "nothing failed");
        settle(heap, threads);
    }
}

#[test]
fn locked_heaps_with_a_token_serve_threads_that_share_one_cpu() {
    let heap = common::heap_on(TokenWay(Index::Own, AtomicUsize::new(0)), REGION_BYTES, 1);
    assert_eq!(run(heap, 6, |_| set_cpu(Some(0))), 0, "nothing failed");
    settle(heap, 1);
}

#[test]
fn locked_heaps_with_a_token_do_not_believe_the_index() {
    for index in [Index::Lies, Index::None, Index::Beyond] {
        let heap = common::heap_on(TokenWay(index, AtomicUsize::new(0)), REGION_BYTES, 4);
        assert_eq!(run(heap, 4, |_| ()), 0, "nothing failed");
        settle(heap, 4);
    }
}

/// Attempts are bounded in this way, so a request may fail where others are preempted while they
/// hold a lock; hardly ever, and nothing is lost.
#[test]
fn published_heaps_do_not_believe_the_index() {
    for index in [Index::Own, Index::Lies, Index::Beyond] {
        let os: &'static Published = Box::leak(Box::new(Published(index, AtomicUsize::new(0))));
        let heap: &'static GlobalAllocator = Box::leak(Box::new(GlobalAllocator::new()));
        // SAFETY: the region is leaked.
        unsafe { heap.init(region(), 4, os) }.expect("init");
        let refused = run(heap, 4, |number| set_cpu(Some(number)));
        assert!(refused < 100, "{refused} requests failed");
        settle(heap, 4);
    }
}

#[test]
fn exclusive_heaps_serve_code_without_a_cpu_index() {
    for index in [Index::None, Index::Beyond] {
        let heap = common::heap_on(OutsideWay(index), REGION_BYTES, 4);
        let refused = run(heap, 4, |_| ());
        assert!(refused < 100, "{refused} requests failed");
        set_cpu(None);
        common::check_all_free(heap);
    }
}

/// Threads that come before they have an index, or have lost it, next to others that have one.
#[test]
fn threads_with_and_without_an_index_mix() {
    let heap = common::heap_on(ThreadWay, REGION_BYTES, 3);
    let refused = run(heap, 6, |number| set_cpu(if number < 3 { Some(number) } else { None }));
    assert!(refused < 100, "{refused} requests failed");
    settle(heap, 3);
}

/// A pinned thread moves between two calls: what it allocated on one CPU it frees on another.
#[test]
fn a_thread_that_moves_after_every_call_loses_nothing() {
    let heap = common::pinned(REGION_BYTES, 4);
    let mut random = Random(7);
    let mut held = Vec::new();
    for round in 0..40_000 {
        set_cpu(Some(round % 4));
        if held.len() < 300 && random.below(5) < 3 {
            held.push(get(heap, &mut random).expect("memory"));
        } else if !held.is_empty() {
            let at = random.below(held.len());
            held.swap_remove(at).free(heap);
        }
    }
    held.into_iter().for_each(|own| own.free(heap));
    settle(heap, 4);
}

/// Before `init` there is no heap of any kind, and every request says so.
#[test]
fn requests_before_init_are_refused_in_every_way() {
    fn refused<P: Platform>(platform: P) {
        let heap = GlobalAllocator::<PAGE, P>::with_platform(platform);
        let layout = common::layout(64, 8);
        assert_eq!(heap.alloc(layout), Err(AllocError::NotInitialized));
        assert_eq!(heap.alloc(common::layout(1 << 20, 8)), Err(AllocError::NotInitialized));
        assert_eq!(heap.alloc_pages(1, 0), Err(AllocError::NotInitialized));
        assert_eq!(heap.alloc_page().err(), Some(AllocError::NotInitialized));
        assert_eq!(heap.reserve_range(PAGE, PAGE), Err(AllocError::NotInitialized));
        assert_eq!(heap.cpu_online(0), Err(AllocError::NotInitialized));
        assert_eq!(heap.attach_cpus(1), Err(AllocError::NotInitialized));
        assert_eq!(heap.isolate_section(PAGE).err(), Some(AllocError::NotInitialized));
        assert_eq!((heap.shrink(), heap.managed_bytes(), heap.allocated_bytes()), (0, 0, 0));
        assert!(!heap.drain_current());
        heap.check_invariants();
        assert_eq!(heap.snapshot().managed_bytes, 0);
    }
    refused(Preemptible::<1>::new());
    refused(ThreadWay);
    refused(TokenWay(Index::Own, AtomicUsize::new(0)));
    refused(buddy_slab_allocator::OsPlatform::new());
}
