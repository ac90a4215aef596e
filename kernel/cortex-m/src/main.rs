//! The demo kernel on QEMU's mps2-an386, a Cortex-M4: one core, a heap of 64 KiB, `SysTick` that
//! allocates and frees.
//!
//! It has no threads, so it is a crate of its own; patterns and options are `kernel-core`'s.
//!
//! - [`arch`]: the heap as the patterns see it
//! - [`console`]: serial line, command line, exit
//! - [`tick`]: the handler, and what it exchanges with the main program
//! - [`phases`]: the loads

#![no_std]
#![no_main]

extern crate alloc;

use cortex_m_rt::{ExceptionFrame, entry, exception};
use kernel_cortex_m::{Board, HEAP_BYTES, Heap, Memory, PAGE_SIZE};

mod arch;
mod console;
#[expect(dead_code, reason = "not all of it fits one core")]
#[path = "../../core/src/options.rs"]
mod options;
#[expect(dead_code, reason = "not all of it fits one core")]
#[path = "../../core/src/pattern.rs"]
mod pattern;
mod phases;
mod report;
mod tick;

use console::say;
use options::Options;

#[global_allocator]
static HEAP: Heap = Heap::with_platform(Board);

static MEMORY: Memory = Memory::new();

#[entry]
fn main() -> ! {
    console::start();
    let mut line = [0; 256];
    let line = console::command_line(&mut line);
    // The first word is the image.
    let words = line.split_once(' ').map_or("", |(_, words)| words);
    let options = Options::parse(words);
    say!("buddy-slab-allocator's demo kernel on a Cortex-M4; options: `{words}`");
    if let Err(error) = MEMORY.give_to(&HEAP) {
        panic!("the heap does not start: {error}");
    }
    HEAP.set_misuse_handler(Some(report::on_misuse));
    say!("{HEAP_BYTES} bytes in pages of {PAGE_SIZE}: {} can be allocated", HEAP.managed_bytes());
    say!(
        "the heap's variables: {} bytes, and {} for the CPU",
        size_of::<Heap>(),
        Heap::BYTES_PER_CPU
    );
    phases::run(&options);
    report::nothing_is_left();
    say!("PASS: nothing is left allocated");
    console::exit(true)
}

#[exception]
fn SysTick() {
    tick::on_tick();
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    panic!("hard fault: {frame:?}")
}

#[panic_handler]
fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::fail(info)
}
