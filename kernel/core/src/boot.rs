//! From the memory map to a heap on all CPUs, and back.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use buddy_slab_allocator::{MemoryKind, MemoryRange};

use crate::arch::{Arch, BootInfo};
use crate::cpu::{self, BOOT_CPU, CpuLocal};
use crate::options::{Extra, Options};
use crate::thread::{self, BOOT_THREAD, Thread};
use crate::{MAX_CPUS, PAGE_SIZE, handlers, pattern, phases, platform, report, say, scheduler};

/// Timer interrupts a second, on each CPU, in ordinary phases.
pub const TICK_HZ: u32 = 250;

static STOPPING: AtomicBool = AtomicBool::new(false);

/// A piece of memory that is kept back, to be added while the system runs.
#[derive(Debug, Clone, Copy)]
pub struct HotRegion {
    /// Its address.
    pub base: usize,
    /// Its length.
    pub len_bytes: usize,
}

/// Makes the boot CPU's `static` data its own, before anything else: from here on `Arch::cpu` and
/// `Arch::thread` work.
pub fn first_steps<A: Arch>() {
    BOOT_CPU.this.store(ptr::from_ref(&BOOT_CPU).cast_mut(), Ordering::Relaxed);
    // SAFETY: this CPU alone runs, with interrupts masked, and is on the boot thread's stack.
    unsafe {
        A::set_local(&BOOT_CPU);
        A::set_thread(&BOOT_THREAD);
    }
}

/// What the boot CPU runs, after `first_steps`, with interrupts masked.
pub fn kernel_main<A: Arch>(boot: &BootInfo) -> ! {
    let options = Options::parse(boot.command_line());
    let cpu_count = boot.cpu_count.clamp(1, MAX_CPUS);
    say!(A, "\nbuddy-slab-allocator demo kernel on {}, {cpu_count} CPU(s)", A::NAME);
    say!(A, "heap: {}; its locks {}", platform::WAY, platform::LOCKS);
    let hot = start_heap::<A>(boot);
    early::<A>();
    start_cpus::<A>(cpu_count);
    if options.extra == Extra::Count {
        phases::count::run::<A>();
    } else {
        phases::run::<A>(&options, hot);
    }
    stop_cpus::<A>();
    say!(A, "\n== the end: every CPU but this is down ==");
    report::nothing_is_left::<A>();
    say!(A, "\nPASS: every allocation kept its pattern, and nothing is left");
    A::exit(true)
}

/// Gives the memory map to the heap, but for a piece that is kept for later.
fn start_heap<A: Arch>(boot: &BootInfo) -> HotRegion {
    for range in boot.ranges() {
        say!(A, "memory   {:#012x} + {:>8} KiB", range.base.addr(), range.len_bytes / 1024);
    }
    for (base, len) in boot.reserved() {
        say!(A, "reserved {base:#012x} + {:>8} KiB", len / 1024);
    }
    // The largest piece first: it becomes the first section, in which addresses are found by one
    // compare. A sixteenth of it, from the end, is kept back.
    let (base, end) = largest_piece(boot);
    let hot_len = (end - base) / 16 / PAGE_SIZE * PAGE_SIZE;
    let hot = HotRegion { base: end - hot_len, len_bytes: hot_len };
    say!(A, "for later {:#011x} + {:>8} KiB", hot.base, hot.len_bytes / 1024);
    let first = MemoryRange {
        base: ptr::with_exposed_provenance_mut(base),
        len_bytes: hot.base - base,
        kind: MemoryKind::Usable,
        node: 0,
    };
    let reserved = boot.reserved().iter().copied();
    let taken = reserved.clone().chain([(base, end - base)]);
    // SAFETY: firmware says that this memory is free; the image and what firmware keeps is reserved,
    // and in the second call what the first gave.
    let sections = unsafe {
        A::heap()
            .add_memory_map([first].into_iter(), reserved, 0)
            .and_then(|_| A::heap().add_memory_map(boot.ranges().iter().copied(), taken, 0))
    };
    match sections {
        Ok(_) => say!(
            A,
            "{} section(s), {} KiB",
            A::heap().managed_section_count(),
            A::heap().managed_bytes() / 1024
        ),
        Err(error) => panic!("the heap cannot start: {error}"),
    }
    A::heap().set_misuse_handler(Some(report::on_misuse));
    hot
}

/// Start and end of the largest piece of memory that nobody has reserved.
fn largest_piece(boot: &BootInfo) -> (usize, usize) {
    let reserved_end = |&(base, len): &(usize, usize)| base + len;
    let mut largest = (0, 0);
    for range in boot.ranges() {
        let (start, end) = (range.base.addr(), range.base.addr() + range.len_bytes);
        let starts =
            boot.reserved().iter().map(reserved_end).filter(|at| (start..end).contains(at));
        for from in [start].into_iter().chain(starts) {
            let inside = |reserved: &&(usize, usize)| reserved_end(reserved) > from;
            let next = boot.reserved().iter().filter(inside).map(|(base, _)| *base).min();
            let to = next.unwrap_or(end).clamp(from, end);
            if to - from > largest.1 - largest.0 {
                largest = (from, to);
            }
        }
    }
    assert!(largest.0 < largest.1, "no usable memory");
    largest
}

/// The heap before there is any CPU index.
fn early<A: Arch>() {
    say!(A, "\n== before CPUs have indices ==");
    assert!(A::cpu() == usize::MAX, "the CPU has an index already");
    let mut words = Vec::new();
    for i in 0..1000u64 {
        words.push(Box::new(i));
    }
    assert!((0..).zip(&words).all(|(i, word)| **word == i), "a box lost its value");
    let Ok(pages) = pattern::Pages::alloc::<A>(5, 0) else { panic!("no pages") };
    pages.free::<A>();
    say!(A, "a thousand boxes, a vector that grew, five pages");
    report::heap::<A>();
}

/// Gives each CPU a heap, data, an idle thread, and starts it.
fn start_cpus<A: Arch>(cpu_count: usize) {
    if let Err(error) = A::heap().attach_cpus(cpu_count) {
        panic!("no heaps for {cpu_count} CPUs: {error}");
    }
    BOOT_CPU.index.store(0, Ordering::Relaxed);
    cpu::enter(0, &BOOT_CPU);
    cpu::set_count(cpu_count);
    BOOT_CPU.idle.store(new_idle::<A>(), Ordering::Relaxed);
    BOOT_CPU.online.store(true, Ordering::Release);
    for index in 1..cpu_count {
        let local: &'static CpuLocal = Box::leak(Box::new(CpuLocal::new()));
        local.this.store(ptr::from_ref(local).cast_mut(), Ordering::Relaxed);
        local.index.store(index, Ordering::Relaxed);
        local.seed.store(index as u64, Ordering::Relaxed);
        let idle = new_idle::<A>();
        local.idle.store(idle, Ordering::Relaxed);
        local.thread.store(idle, Ordering::Relaxed);
        cpu::enter(index, local);
        // SAFETY: both were just made for this CPU, which is started once. The idle thread's first
        // run is the CPU's boot: the stack pointer that `create` prepared is not used.
        unsafe { A::start_cpu(index, local, thread::stack_top(thread::stack_of(idle))) };
        let start = A::now_ns();
        while !local.online.load(Ordering::Acquire) {
            assert!(A::now_ns() - start < 10_000_000_000, "CPU {index} does not start");
            A::relax();
        }
    }
    say!(A, "{cpu_count} CPU(s) up");
    A::set_timer(TICK_HZ);
    // SAFETY: everything that handlers use is there.
    unsafe { A::restore(true) };
}

/// An idle thread: only the boot CPU's is ever switched to by its prepared stack.
fn new_idle<A: Arch>() -> *mut Thread {
    let thread = thread::create::<A>(Box::new(|| {
        scheduler::idle_until::<A>(|| false);
    }));
    // SAFETY: just made.
    unsafe { &*thread }.is_idle.store(true, Ordering::Relaxed);
    thread
}

/// What every other CPU runs: `Arch::start_cpu` leads here, on the idle thread's stack, with
/// interrupts masked.
pub fn secondary_main<A: Arch>(local: &'static CpuLocal) -> ! {
    // SAFETY: this CPU's data and thread, and interrupts are masked.
    unsafe {
        A::set_local(local);
        A::set_thread(&*local.idle.load(Ordering::Relaxed));
    }
    if let Err(error) = A::heap().cpu_online(local.index()) {
        panic!("CPU {}: {error}", local.index());
    }
    local.online.store(true, Ordering::Release);
    A::set_timer(TICK_HZ);
    scheduler::idle_until::<A>(|| STOPPING.load(Ordering::Acquire));
    A::set_timer(0);
    local.online.store(false, Ordering::Release);
    if let Err(error) = A::heap().cpu_offline(local.index()) {
        panic!("CPU {} cannot go: {error}", local.index());
    }
    A::park(&local.parked)
}

/// Takes the other CPUs down, and gives back what they had.
fn stop_cpus<A: Arch>() {
    A::thread().bind(0);
    while A::cpu() != 0 {
        scheduler::yield_now::<A>();
    }
    STOPPING.store(true, Ordering::Release);
    for index in 1..cpu::count() {
        let Some(local) = cpu::get(index) else { continue };
        A::notify(index);
        while local.parked.load(Ordering::Acquire) == 0 {
            A::relax();
        }
    }
    A::mask();
    A::set_timer(0);
    handlers::empty::<A>();
    // From here on the boot CPU is alone, on the boot thread.
    report::handlers::<A>();
    for index in 0..cpu::count() {
        let Some(local) = cpu::get(index) else { continue };
        let idle = local.idle.swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: the idle thread does not run (its CPU is parked, or this one, on the boot thread).
        unsafe { thread::destroy::<A>(idle) };
        if index != 0 {
            // SAFETY: the CPU is parked.
            unsafe { A::free_cpu(local) };
            cpu::enter(index, ptr::null());
            // SAFETY: from `start_cpus`; its CPU is parked and never looks again.
            drop(unsafe { Box::from_raw(ptr::from_ref(local).cast_mut()) });
        }
    }
}
