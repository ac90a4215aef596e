//! Fake platforms: CPUs that are a number in a thread-local, and physical maps that are a formula.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::{Access, OsImpl, Platform, SpinLock};

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// Puts the calling thread on CPU `index`.
pub fn set_cpu(index: usize) {
    CPU.with(|cpu| cpu.set(index));
}

/// The CPU that the calling thread pretends to run on.
pub fn current_cpu() -> usize {
    CPU.with(Cell::get)
}

/// Runs `body` on CPU `index` and returns to the CPU of before.
pub fn on_cpu<T>(index: usize, body: impl FnOnce() -> T) -> T {
    let before = current_cpu();
    set_cpu(index);
    let value = body();
    set_cpu(before);
    value
}

/// From a virtual address to a physical one. Each is linear within aligned 4 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhysMap {
    /// The address itself.
    Identity,
    /// Everything below 1 GiB.
    Low,
    /// Everything at 1 TiB and above (32-bit hosts: at 3 GiB and above).
    High,
    /// `virt` lies at `phys`, all else at the same distance.
    At {
        /// A virtual address.
        virt: usize,
        /// Where it lies.
        phys: usize,
    },
}

impl PhysMap {
    /// The physical address of `vaddr`.
    pub fn phys(self, vaddr: usize) -> usize {
        match self {
            Self::Identity => vaddr,
            Self::Low => vaddr & 0x3FFF_FFFF,
            Self::High if usize::BITS > 32 => (vaddr & 0x3FFF_FFFF) | 1usize.rotate_left(40),
            Self::High => (vaddr & 0x3FFF_FFFF) | 0xC000_0000,
            Self::At { virt, phys } => vaddr.wrapping_sub(virt).wrapping_add(phys),
        }
    }
}

/// A platform whose current CPU is what [`set_cpu`] said on the calling thread.
#[derive(Debug)]
pub struct FakeCpus {
    map: PhysMap,
    asked: AtomicUsize,
}

/// Physical addresses equal virtual ones.
pub static IDENTITY: FakeCpus = FakeCpus::new(PhysMap::Identity);
/// All memory is below 1 GiB.
pub static LOW: FakeCpus = FakeCpus::new(PhysMap::Low);
/// No memory is below 4 GiB (on 64-bit hosts).
pub static HIGH: FakeCpus = FakeCpus::new(PhysMap::High);

impl FakeCpus {
    /// Fake CPUs over `map`.
    pub const fn new(map: PhysMap) -> Self {
        Self { map, asked: AtomicUsize::new(0) }
    }

    /// The same, for as long as an allocator wants it.
    pub fn leaked(map: PhysMap) -> &'static Self {
        Box::leak(Box::new(Self::new(map)))
    }

    /// How often a physical address was asked for.
    pub fn phys_questions(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl OsImpl for FakeCpus {
    fn current_cpu_idx(&self) -> usize {
        current_cpu()
    }

    fn virt_to_phys(&self, vaddr: usize) -> usize {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.map.phys(vaddr)
    }
}

/// A platform whose CPU index changes at every question and is often out of range.
#[derive(Debug)]
pub struct LyingCpus {
    turn: AtomicUsize,
    honest_below: usize,
}

impl LyingCpus {
    /// Indices around `cpu_count`, and absurd ones.
    pub const fn new(cpu_count: usize) -> Self {
        Self { turn: AtomicUsize::new(0), honest_below: cpu_count }
    }
}

impl OsImpl for LyingCpus {
    fn current_cpu_idx(&self) -> usize {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match turn % 8 {
            5 => usize::MAX,
            6 => self.honest_below,
            7 => 0x1_0000 + turn % 3,
            other => (other + turn / 8) % self.honest_below.max(1),
        }
    }

    fn virt_to_phys(&self, vaddr: usize) -> usize {
        vaddr
    }
}

/// Fake CPUs that have their heaps to themselves, and keep what they free in magazines: each is
/// played by one thread at a time.
#[derive(Debug)]
pub struct MagazineCpus;

// SAFETY: whoever plays a CPU is alone on it (see above); there are no handlers.
unsafe impl Platform for MagazineCpus {
    type Lock = SpinLock;
    type Pin = ();
    const ACCESS: Access = Access::Exclusive;
    const MAGAZINES: bool = true;

    fn pin(&self) -> ((), Option<usize>) {
        ((), Some(current_cpu()))
    }

    fn unpin(&self, (): ()) {}
}
