//! The serial console: one line at a time, from any CPU, and the last words of a failed run.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::Arch;
use crate::mutex::Mutex;

static LINE: Mutex<()> = Mutex::new(());
static FAILED: AtomicBool = AtomicBool::new(false);

/// The machine's serial line as a [`Write`].
struct Serial<A>(core::marker::PhantomData<A>);

impl<A: Arch> Write for Serial<A> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        A::write_serial(text.as_bytes());
        Ok(())
    }
}

/// Writes one line. Not from an NMI.
pub fn line<A: Arch>(text: fmt::Arguments<'_>) {
    LINE.with::<A, _>(|()| {
        // The serial line itself cannot fail.
        let _ = writeln!(Serial::<A>(core::marker::PhantomData), "{text}");
    });
}

/// Writes one line to the serial console.
#[macro_export]
macro_rules! say {
    ($arch:ty, $($text:tt)*) => { $crate::console::line::<$arch>(format_args!($($text)*)) };
}

/// What the architecture's `#[panic_handler]` calls: prints the verdict and ends the run.
pub fn on_panic<A: Arch>(info: &PanicInfo<'_>) -> ! {
    A::mask();
    if FAILED.swap(true, Ordering::Relaxed) {
        loop {
            A::relax(); // another CPU has said why, and ends the run
        }
    }
    // No lock: this CPU may hold it.
    let mut serial = Serial::<A>(core::marker::PhantomData);
    let _ = writeln!(serial, "\nFAIL on CPU {}: {}", A::cpu() as isize, info.message());
    if let Some(place) = info.location() {
        let _ = writeln!(serial, "  at {}:{}", place.file(), place.line());
    }
    A::exit(false)
}
