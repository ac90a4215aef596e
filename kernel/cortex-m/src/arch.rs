//! The heap as `kernel-core`'s patterns see it.

use kernel_cortex_m::Heap;

/// What the patterns ask of a machine.
pub trait Arch {
    /// The heap.
    fn heap() -> &'static Heap;

    /// The running CPU.
    fn cpu() -> usize;
}

/// This board.
pub struct Machine;

impl Arch for Machine {
    fn heap() -> &'static Heap {
        &crate::HEAP
    }

    fn cpu() -> usize {
        0
    }
}
