//! The first serial port.

use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

use kernel_core::mutex::Mutex;

use crate::machine::Machine;

static PORT: Mutex<Option<Uart16550<PioBackend>>> = Mutex::new(None);

/// Sets the port up.
pub fn start() {
    // SAFETY: COM1 is there on every machine of this kind, and is used here only.
    if let Ok(mut port) = unsafe { Uart16550::new_port(0x3F8) }
        && port.init(Config::default()).is_ok()
    {
        PORT.with::<Machine, _>(|place| *place = Some(port));
    }
}

/// Writes bytes, or nothing before `start`.
pub fn write(bytes: &[u8]) {
    PORT.with::<Machine, _>(|port| {
        if let Some(port) = port {
            port.send_bytes_exact(bytes);
        }
    });
}
