//! The serial port that the device tree names.

use core::ptr::{self, NonNull};

use uart_16550::backend::MmioBackend;
use uart_16550::{Config, Uart16550};

use kernel_core::mutex::Mutex;

use crate::machine::Machine;

static PORT: Mutex<Option<Port>> = Mutex::new(None);

struct Port(Uart16550<MmioBackend>);
// SAFETY: the registers are the same from every hart.
unsafe impl Send for Port {}

/// Sets up the port whose registers begin at `base`, a byte each.
pub fn start(base: usize) {
    let Some(base) = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(base)) else { return };
    // SAFETY: the device tree says that a 16550 is there; it is used here only.
    if let Ok(mut port) = unsafe { Uart16550::new_mmio(base, 1) }
        && port.init(Config::default()).is_ok()
    {
        PORT.with::<Machine, _>(|place| *place = Some(Port(port)));
    }
}

/// Writes bytes, or nothing before `start`.
pub fn write(bytes: &[u8]) {
    PORT.with::<Machine, _>(|port| {
        if let Some(port) = port {
            port.0.send_bytes_exact(bytes);
        }
    });
}
