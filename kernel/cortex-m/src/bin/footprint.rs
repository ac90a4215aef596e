//! A firmware that does next to nothing but allocate: what its image is larger by than the same with a
//! bump pointer (feature `no-heap`) is the heap's code. It is measured, not run.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::black_box;

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::{entry, exception};
use kernel_cortex_m as _;

#[cfg(not(feature = "no-heap"))]
mod heap {
    use kernel_cortex_m::{Board, Heap, Memory};

    #[global_allocator]
    static HEAP: Heap = Heap::with_platform(Board);
    static MEMORY: Memory = Memory::new();

    pub fn start() {
        if MEMORY.give_to(&HEAP).is_err() {
            cortex_m::asm::udf();
        }
    }
}

#[cfg(feature = "no-heap")]
mod heap {
    use core::alloc::{GlobalAlloc, Layout};
    use core::cell::UnsafeCell;
    use core::sync::atomic::{AtomicUsize, Ordering};

    use kernel_cortex_m::HEAP_BYTES;

    /// Hands out, and takes nothing back.
    struct Bump {
        bytes: UnsafeCell<[u8; HEAP_BYTES]>,
        next: AtomicUsize,
    }

    // SAFETY: every byte is handed out at most once.
    unsafe impl Sync for Bump {}

    // SAFETY: what is handed out lies in the array, aligned, and is handed out once.
    unsafe impl GlobalAlloc for Bump {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            critical_section::with(|_| {
                let base: *mut u8 = self.bytes.get().cast();
                let at = (base.addr() + self.next.load(Ordering::Relaxed))
                    .next_multiple_of(layout.align())
                    - base.addr();
                if at + layout.size() > HEAP_BYTES {
                    return core::ptr::null_mut();
                }
                self.next.store(at + layout.size(), Ordering::Relaxed);
                base.wrapping_add(at)
            })
        }

        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }

    #[global_allocator]
    static HEAP: Bump = Bump { bytes: UnsafeCell::new([0; HEAP_BYTES]), next: AtomicUsize::new(0) };

    pub fn start() {}
}

#[entry]
fn main() -> ! {
    heap::start();
    if let Some(mut core) = cortex_m::Peripherals::take() {
        core.SYST.set_clock_source(SystClkSource::Core);
        core.SYST.set_reload(25_000 - 1);
        core.SYST.clear_current();
        core.SYST.enable_interrupt();
        core.SYST.enable_counter();
    }
    let mut numbers = Vec::new();
    loop {
        numbers.push(black_box(1u32));
        if numbers.len() == 100 {
            numbers = Vec::new();
        }
    }
}

#[exception]
fn SysTick() {
    drop(black_box(Box::new([1u32; 8])));
}

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    cortex_m::asm::udf()
}
