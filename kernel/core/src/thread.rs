//! Threads: a stack from the heap, an entry, and a place in the queue.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use buddy_slab_allocator::ContextSlot;

use crate::arch::Arch;
use crate::{PAGE_SIZE, pattern, scheduler};

/// Pages of a thread's stack.
pub const STACK_PAGES: usize = 8;
/// Bytes at the end of a stack that nobody may have reached when the thread ends.
const GUARD_BYTES: usize = 256;

/// May run on any CPU.
pub const ANY_CPU: usize = usize::MAX;

/// A thread, as the scheduler and the allocator's platform see it.
pub struct Thread {
    /// The allocator's token for this context.
    pub slot: ContextSlot,
    /// Above 0 the scheduler leaves the thread where it is. Written by the thread and by handlers
    /// that interrupted it, which leave it as it was: plain loads and stores suffice.
    preempt_count: AtomicU32,
    /// The stack pointer while it does not run.
    pub(crate) stack_pointer: AtomicUsize,
    /// The next in the queue; the queue's lock guards it.
    pub(crate) next: AtomicPtr<Thread>,
    /// The CPU that it must run on, or [`ANY_CPU`].
    pub(crate) bound_to: AtomicUsize,
    /// Set when it will never run again, before its stack is left.
    pub(crate) ending: AtomicBool,
    /// Set when its stack is nobody's any more.
    pub(crate) ended: AtomicBool,
    /// Idle threads are on no queue.
    pub(crate) is_idle: AtomicBool,
    stack: AtomicUsize,
    entry: AtomicPtr<Entry>,
}

/// What a thread does, as a thin pointer's target.
struct Entry(Box<dyn FnOnce() + Send>);

impl Thread {
    /// A thread that is running already: a CPU's boot context.
    pub const fn new() -> Self {
        Self {
            slot: ContextSlot::new(),
            preempt_count: AtomicU32::new(0),
            stack_pointer: AtomicUsize::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
            bound_to: AtomicUsize::new(ANY_CPU),
            ending: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            is_idle: AtomicBool::new(false),
            stack: AtomicUsize::new(0),
            entry: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Keeps the thread on its CPU until `enable_preemption`; nests.
    #[inline(always)]
    pub fn disable_preemption(&self) {
        let count = self.preempt_count.load(Ordering::Relaxed);
        self.preempt_count.store(count + 1, Ordering::Relaxed);
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    /// Ends one `disable_preemption`.
    #[inline(always)]
    pub fn enable_preemption(&self) {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
        let count = self.preempt_count.load(Ordering::Relaxed);
        self.preempt_count.store(count - 1, Ordering::Relaxed);
    }

    /// Whether the scheduler may take the CPU from it.
    pub fn is_preemptible(&self) -> bool {
        self.preempt_count.load(Ordering::Relaxed) == 0
    }

    /// From now on (at its next turn) it runs on CPU `index` only, or on any.
    pub fn bind(&self, index: usize) {
        self.bound_to.store(index, Ordering::Relaxed);
    }
}

impl Default for Thread {
    fn default() -> Self {
        Self::new()
    }
}

/// The boot CPU's first thread: a `static`, since it runs before there is a heap.
pub static BOOT_THREAD: Thread = Thread::new();

/// A stack from the heap, patterned where nobody may come.
pub(crate) fn new_stack<A: Arch>() -> usize {
    let base = match A::heap().alloc_pages(STACK_PAGES, 0) {
        Ok(base) => base,
        Err(error) => panic!("no stack for a thread: {error}"),
    };
    // SAFETY: the pages are new.
    unsafe { pattern::fill(base, GUARD_BYTES, base as u64) };
    base
}

/// The end of a stack, where it begins to be used.
pub(crate) fn stack_top(base: usize) -> usize {
    base + STACK_PAGES * PAGE_SIZE
}

/// The stack of a thread that `create` made.
pub(crate) fn stack_of(thread: *const Thread) -> usize {
    // SAFETY: threads live until they are destroyed, by whoever made them.
    unsafe { &*thread }.stack.load(Ordering::Relaxed)
}

/// Gives a stack back that nobody uses any more.
pub(crate) fn free_stack<A: Arch>(base: usize) {
    // SAFETY: it was filled when it was made, and nobody uses it.
    unsafe { pattern::verify(base, GUARD_BYTES, base as u64) };
    A::heap().dealloc_pages(base, STACK_PAGES);
}

/// A thread that was started, to be waited for.
#[must_use = "a thread that nobody waits for is left allocated"]
pub struct Handle<A> {
    thread: *mut Thread,
    arch: PhantomData<A>,
}

/// Starts a thread that does `work`, on CPU `bound_to` or [`ANY_CPU`].
pub fn spawn<A: Arch>(bound_to: usize, work: impl FnOnce() + Send + 'static) -> Handle<A> {
    let thread = create::<A>(Box::new(work));
    // SAFETY: just made.
    let shared = unsafe { &*thread };
    shared.bind(bound_to);
    scheduler::make_ready::<A>(shared);
    Handle { thread, arch: PhantomData }
}

/// Makes a thread that is not on the queue yet.
pub(crate) fn create<A: Arch>(work: Box<dyn FnOnce() + Send>) -> *mut Thread {
    let thread = Box::into_raw(Box::new(Thread::new()));
    let stack = new_stack::<A>();
    // SAFETY: the thread is nobody else's yet, and so is its stack.
    unsafe {
        (*thread).stack.store(stack, Ordering::Relaxed);
        (*thread).entry.store(Box::into_raw(Box::new(Entry(work))), Ordering::Relaxed);
        let pointer = A::prepare_stack(stack_top(stack), start::<A>, thread.expose_provenance());
        (*thread).stack_pointer.store(pointer, Ordering::Relaxed);
    }
    thread
}

/// Gives back a thread that does not run and never will.
///
/// # Safety
/// - It came from `create`, is on no queue, and nobody uses it or its stack.
pub(crate) unsafe fn destroy<A: Arch>(thread: *mut Thread) {
    // SAFETY: from `create` (condition).
    let thread = unsafe { Box::from_raw(thread) };
    free_stack::<A>(thread.stack.load(Ordering::Relaxed));
    let entry = thread.entry.swap(ptr::null_mut(), Ordering::Relaxed);
    if !entry.is_null() {
        // SAFETY: from `create`, and not taken by the thread.
        drop(unsafe { Box::from_raw(entry) });
    }
}

impl<A: Arch> Handle<A> {
    /// Waits until the thread has ended, and gives its stack back.
    pub fn join(self) {
        // SAFETY: the thread lives until it is destroyed below.
        while !unsafe { &*self.thread }.ended.load(Ordering::Acquire) {
            scheduler::yield_now::<A>();
        }
        // SAFETY: it has ended: its stack was left, and it is on no queue.
        unsafe { destroy::<A>(self.thread) };
    }
}

/// Where a new thread begins, with interrupts masked.
extern "C" fn start<A: Arch>(thread: usize) -> ! {
    scheduler::after_switch::<A>();
    let thread = ptr::with_exposed_provenance_mut::<Thread>(thread);
    // SAFETY: this is the thread; it is destroyed only after it has ended.
    let entry = unsafe { &*thread }.entry.swap(ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: a new thread may be interrupted.
    unsafe { A::restore(true) };
    // SAFETY: from `create`, taken once.
    let Entry(work) = *unsafe { Box::from_raw(entry) };
    work();
    scheduler::end_thread::<A>()
}

/// Runs `work(0)`, `work(1)` … as `threads` threads on any CPU, and waits for all of them.
pub fn crowd<A: Arch>(threads: usize, work: &(dyn Fn(usize) + Sync)) {
    // SAFETY: no thread outlives this call: all of them are joined below, and a panic ends the run.
    let work: &'static (dyn Fn(usize) + Sync) = unsafe { core::mem::transmute(work) };
    let handles: alloc::vec::Vec<Handle<A>> =
        (0..threads).map(|index| spawn::<A>(ANY_CPU, move || work(index))).collect();
    handles.into_iter().for_each(Handle::join);
}

/// Runs `work(cpu)` on each CPU, on a thread that stays there, and waits for all of them.
pub fn on_each_cpu<A: Arch>(work: &(dyn Fn(usize) + Sync)) {
    // SAFETY: as in `crowd`.
    let work: &'static (dyn Fn(usize) + Sync) = unsafe { core::mem::transmute(work) };
    let handles: alloc::vec::Vec<Handle<A>> =
        (0..crate::cpu::count()).map(|index| spawn::<A>(index, move || work(index))).collect();
    handles.into_iter().for_each(Handle::join);
}
