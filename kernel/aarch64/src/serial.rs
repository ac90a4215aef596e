//! The serial port that the device tree names.

use core::ptr::{self, NonNull};

use arm_pl011_uart::{DataBits, LineConfig, PL011Registers, Parity, StopBits, Uart};
use kernel_core::mutex::Mutex;
use safe_mmio::UniqueMmioPointer;

use crate::machine::Machine;

static PORT: Mutex<Option<Uart<'static>>> = Mutex::new(None);

const BAUD: u32 = 115_200;
/// The port's clock on QEMU's `virt`.
const CLOCK_HZ: u32 = 24_000_000;

/// Sets up the port whose registers begin at `base`.
pub fn start(base: usize) {
    let Some(base) = NonNull::new(ptr::with_exposed_provenance_mut::<PL011Registers>(base)) else {
        return;
    };
    // SAFETY: the device tree says that a PL011 is there, in the gigabyte that is mapped as devices;
    // it is used here only.
    let mut port = Uart::new(unsafe { UniqueMmioPointer::new(base) });
    let line =
        LineConfig { data_bits: DataBits::Bits8, parity: Parity::None, stop_bits: StopBits::One };
    if port.enable(line, BAUD, CLOCK_HZ).is_ok() {
        PORT.with::<Machine, _>(|place| *place = Some(port));
    }
}

/// Writes bytes, or nothing before `start`.
pub fn write(bytes: &[u8]) {
    PORT.with::<Machine, _>(|port| {
        let Some(port) = port else { return };
        for byte in bytes {
            while port.is_tx_fifo_full() {
                core::hint::spin_loop();
            }
            port.write_word(*byte);
        }
    });
}
