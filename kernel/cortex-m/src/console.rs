//! The board's first serial line (CMSDK APB UART), and semihosting: command line and exit code.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::ptr;

use cortex_m_semihosting::{debug, syscall1};

const UART: *mut u32 = ptr::without_provenance_mut(0x4000_4000);
/// Word offsets of the registers.
const DATA: usize = 0;
const STATE: usize = 1;
const CONTROL: usize = 2;
const DIVISOR: usize = 4;

const STATE_FULL: u32 = 1;
const CONTROL_SEND: u32 = 1;
/// The least that the hardware takes.
const FASTEST: u32 = 16;

/// The serial line.
pub struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the UART's registers, which are at this address on this board.
            unsafe {
                while UART.add(STATE).read_volatile() & STATE_FULL != 0 {}
                UART.add(DATA).write_volatile(byte.into());
            }
        }
        Ok(())
    }
}

/// Switches the serial line on.
pub fn start() {
    // SAFETY: as in `write_str`.
    unsafe {
        UART.add(DIVISOR).write_volatile(FASTEST);
        UART.add(CONTROL).write_volatile(CONTROL_SEND);
    }
}

/// Writes one line to the serial line. Not from a handler.
macro_rules! say {
    ($($text:tt)*) => {{
        use core::fmt::Write as _;
        // The serial line itself cannot fail.
        let _ = writeln!($crate::console::Serial, $($text)*);
    }};
}
pub(crate) use say;

/// The command line as the debugger (here QEMU) tells it: the image's path first.
pub fn command_line(buffer: &mut [u8]) -> &str {
    let mut block = [buffer.as_mut_ptr().expose_provenance(), buffer.len()];
    // SAFETY: the block names a buffer that may be written to, with its length.
    let failed = unsafe { syscall1!(GET_CMDLINE, block.as_mut_ptr()) };
    assert!(failed == 0, "no command line: is semihosting on?");
    let line = buffer.get(..block[1]).unwrap_or_default();
    core::str::from_utf8(line).unwrap_or_default().trim_end_matches('\0')
}

/// Ends the run.
pub fn exit(success: bool) -> ! {
    debug::exit(if success { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi();
    }
}

/// Prints the verdict of a failed run, and ends it.
pub fn fail(info: &PanicInfo<'_>) -> ! {
    cortex_m::interrupt::disable();
    say!("\nFAIL on CPU 0: {}", info.message());
    if let Some(place) = info.location() {
        say!("  at {}:{}", place.file(), place.line());
    }
    exit(false)
}
