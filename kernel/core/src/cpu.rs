//! What a CPU has for itself.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::MAX_CPUS;
use crate::handlers::Message;
use crate::thread::Thread;

/// A CPU's data. The architecture's CPU register points to it; the first three fields are read by
/// single instructions, so their places are fixed.
#[repr(C, align(64))]
pub struct CpuLocal {
    /// Its own address.
    pub this: AtomicPtr<CpuLocal>,
    /// The CPU's index; `usize::MAX` until the heap knows of CPUs.
    pub index: AtomicUsize,
    /// The running thread.
    pub thread: AtomicPtr<Thread>,
    /// For the architecture.
    pub arch: [AtomicUsize; 5],
    /// The thread that runs when no other can.
    pub idle: AtomicPtr<Thread>,
    /// The thread that was left last, until the one after it has put it back.
    pub previous: AtomicPtr<Thread>,
    /// Set when the CPU takes part, and again to 1 by `Arch::park` (a separate word) when it is gone.
    pub online: AtomicBool,
    /// Set by `Arch::park`.
    pub parked: AtomicUsize,
    /// Messages to this CPU, newest first.
    pub inbox: AtomicPtr<Message>,
    /// Answers to this CPU's messages.
    pub answers: AtomicPtr<Message>,
    /// Whether somebody wants this CPU to drain its heap.
    pub drain: AtomicBool,
    /// Timer interrupts so far.
    pub ticks: AtomicUsize,
    /// Threads that a timer interrupt took the CPU from.
    pub preemptions: AtomicUsize,
    /// Allocations and frees by handlers on this CPU.
    pub handler_work: AtomicUsize,
    /// Of those, by NMI handlers.
    pub nmi_work: AtomicUsize,
    /// Requests of handlers that were refused.
    pub refused: AtomicUsize,
    /// State of the handlers' random numbers.
    pub seed: AtomicU64,
    /// The heap's own word: where what it keeps for this CPU is.
    pub heap: AtomicPtr<()>,
}

impl CpuLocal {
    /// A CPU that does not run yet.
    pub const fn new() -> Self {
        Self {
            this: AtomicPtr::new(ptr::null_mut()),
            index: AtomicUsize::new(usize::MAX),
            thread: AtomicPtr::new(ptr::null_mut()),
            arch: [const { AtomicUsize::new(0) }; 5],
            idle: AtomicPtr::new(ptr::null_mut()),
            previous: AtomicPtr::new(ptr::null_mut()),
            online: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            inbox: AtomicPtr::new(ptr::null_mut()),
            answers: AtomicPtr::new(ptr::null_mut()),
            drain: AtomicBool::new(false),
            ticks: AtomicUsize::new(0),
            preemptions: AtomicUsize::new(0),
            handler_work: AtomicUsize::new(0),
            nmi_work: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            seed: AtomicU64::new(0x9E37_79B9_7F4A_7C15),
            heap: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The CPU's index.
    pub fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed)
    }
}

impl Default for CpuLocal {
    fn default() -> Self {
        Self::new()
    }
}

/// The boot CPU's data: a `static`, since it is wanted before there is a heap.
pub static BOOT_CPU: CpuLocal = CpuLocal::new();

static CPUS: [AtomicPtr<CpuLocal>; MAX_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];
static CPU_COUNT: AtomicUsize = AtomicUsize::new(1);

/// How many CPUs take part.
pub fn count() -> usize {
    CPU_COUNT.load(Ordering::Relaxed)
}

/// Sets how many CPUs take part.
pub(crate) fn set_count(cpus: usize) {
    CPU_COUNT.store(cpus, Ordering::Relaxed);
}

/// Enters a CPU in the table, or takes it out.
pub(crate) fn enter(index: usize, local: *const CpuLocal) {
    CPUS[index].store(local.cast_mut(), Ordering::Release);
}

/// CPU `index`, if it is in the table.
pub fn get(index: usize) -> Option<&'static CpuLocal> {
    let local = CPUS.get(index)?.load(Ordering::Acquire);
    // SAFETY: what is in the table is a `CpuLocal` that lives until its CPU was taken down, after the
    // last phase.
    unsafe { local.as_ref() }
}

/// The CPUs that take part.
pub fn all() -> impl Iterator<Item = &'static CpuLocal> {
    (0..count()).filter_map(get)
}
