//! A small preemptive scheduler: one queue for all CPUs, first come, first served, so that threads
//! migrate all the time. It allocates nothing: it runs in timer handlers.
//!
//! # Protocol
//! A thread is on the queue, or running on one CPU, or has ended. A thread that is left stays off
//! the queue until the one after it runs (`after_switch`): only then its stack is free to be
//! switched to by another CPU.

use core::ptr;
use core::sync::atomic::Ordering;

use crate::arch::Arch;
use crate::cpu::CpuLocal;
use crate::mutex::Mutex;
use crate::thread::{ANY_CPU, Thread};

/// Threads that are ready, linked through themselves.
struct Queue {
    first: *mut Thread,
    last: *mut Thread,
}

// SAFETY: the threads that it points to are shared, and reached under the queue's lock.
unsafe impl Send for Queue {}

static READY: Mutex<Queue> = Mutex::new(Queue { first: ptr::null_mut(), last: ptr::null_mut() });

impl Queue {
    fn push(&mut self, thread: *mut Thread) {
        // SAFETY: threads on the queue, and the one that comes, live until they have ended.
        unsafe {
            (*thread).next.store(ptr::null_mut(), Ordering::Relaxed);
            match self.last.as_ref() {
                Some(last) => last.next.store(thread, Ordering::Relaxed),
                None => self.first = thread,
            }
        }
        self.last = thread;
    }

    /// The first thread that may run on CPU `index`.
    fn pop(&mut self, index: usize) -> Option<&'static Thread> {
        let mut before: *mut Thread = ptr::null_mut();
        let mut at = self.first;
        // SAFETY: as in `push`.
        while let Some(thread) = unsafe { at.as_ref() } {
            let next = thread.next.load(Ordering::Relaxed);
            let bound_to = thread.bound_to.load(Ordering::Relaxed);
            if bound_to == ANY_CPU || bound_to == index {
                // SAFETY: as in `push`.
                match unsafe { before.as_ref() } {
                    Some(before) => before.next.store(next, Ordering::Relaxed),
                    None => self.first = next,
                }
                if next.is_null() {
                    self.last = before;
                }
                return Some(thread);
            }
            before = at;
            at = next;
        }
        None
    }
}

/// Puts a thread on the queue.
pub(crate) fn make_ready<A: Arch>(thread: &'static Thread) {
    READY.with::<A, _>(|queue| queue.push(ptr::from_ref(thread).cast_mut()));
}

/// Lets another thread run, if one is ready.
pub fn yield_now<A: Arch>() {
    let enabled = A::mask();
    switch_to_next::<A>(A::local());
    // SAFETY: from the `mask` above.
    unsafe { A::restore(enabled) };
}

/// Called by the timer's handler at its end, with interrupts masked: takes the CPU from the thread,
/// unless it said that it stays.
pub(crate) fn preempt<A: Arch>(local: &'static CpuLocal) {
    let thread = A::thread();
    if thread.is_preemptible()
        && !thread.is_idle.load(Ordering::Relaxed)
        && switch_to_next::<A>(local)
    {
        local.preemptions.fetch_add(1, Ordering::Relaxed);
    }
}

/// Switches to the next ready thread, if there is one; to the idle thread, if the running one has to
/// go on elsewhere. Interrupts are masked.
fn switch_to_next<A: Arch>(local: &'static CpuLocal) -> bool {
    let next = READY.with::<A, _>(|queue| queue.pop(local.index()));
    let bound_to = A::thread().bound_to.load(Ordering::Relaxed);
    let next = match next {
        Some(next) => next,
        None if bound_to == ANY_CPU || bound_to == local.index() => return false,
        // SAFETY: each CPU has an idle thread, which lives as long as there are others.
        None => unsafe { &*local.idle.load(Ordering::Relaxed) },
    };
    switch::<A>(local, next);
    true
}

/// Leaves the running thread for `next`. Interrupts are masked; when this returns, the CPU may be
/// another.
fn switch<A: Arch>(local: &'static CpuLocal, next: &'static Thread) {
    let thread = A::thread();
    assert!(thread.is_preemptible(), "a thread that keeps its CPU gave it up");
    local.previous.store(ptr::from_ref(thread).cast_mut(), Ordering::Relaxed);
    // SAFETY: interrupts are masked; `next` came off the queue (or is this CPU's idle thread), where
    // threads are whose stack pointer was saved; it goes back only through `after_switch`.
    unsafe {
        A::set_thread(next);
        let to = next.stack_pointer.load(Ordering::Relaxed);
        A::switch(thread.stack_pointer.as_ptr(), to);
    }
    after_switch::<A>();
}

/// On the new stack: the thread that was left may run elsewhere, or has ended.
pub(crate) fn after_switch<A: Arch>() {
    let local = A::local();
    let previous = local.previous.swap(ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: `switch` stored a thread that lives, on this CPU.
    let previous = unsafe { &*previous };
    if previous.ending.load(Ordering::Relaxed) {
        // Release: who joins may free the stack.
        previous.ended.store(true, Ordering::Release);
    } else if !previous.is_idle.load(Ordering::Relaxed) {
        make_ready::<A>(previous);
    }
}

/// Ends the running thread.
pub(crate) fn end_thread<A: Arch>() -> ! {
    A::mask();
    A::thread().ending.store(true, Ordering::Relaxed);
    let local = A::local();
    if !switch_to_next::<A>(local) {
        // SAFETY: each CPU has an idle thread before it runs any that ends.
        switch::<A>(local, unsafe { &*local.idle.load(Ordering::Relaxed) });
    }
    unreachable!("a thread that has ended runs");
}

/// What an idle thread does, with interrupts masked: runs whoever is ready, or sleeps. Returns when
/// `stop` says so and nobody is ready.
pub(crate) fn idle_until<A: Arch>(stop: impl Fn() -> bool) {
    A::mask();
    loop {
        let local = A::local();
        if switch_to_next::<A>(local) {
            continue;
        }
        if stop() {
            return;
        }
        // Others may drain this CPU's heap while it sleeps.
        if let Err(error) = A::heap().idle(local.index()) {
            panic!("idle: {error}");
        }
        A::wait();
    }
}
