//! Last words: text to standard error from places where nothing may be allocated.

use core::fmt::{self, Write};

/// Exit code for memory that ran out, or never was there.
pub const EXIT_NO_MEMORY: i32 = 3;

/// A line of text in a fixed buffer; what does not fit is cut off.
struct Line {
    bytes: [u8; 1024],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let rest = &mut self.bytes[self.len..];
        let count = text.len().min(rest.len());
        rest[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        Ok(())
    }
}

/// Writes `text` to standard error and ends the process with [`EXIT_NO_MEMORY`].
///
/// Allocates nothing and runs no exit handlers, since they might allocate.
pub fn die(text: fmt::Arguments<'_>) -> ! {
    let mut line = Line { bytes: [0; 1024], len: 0 };
    // Writing into a `Line` never fails.
    let _ = line.write_fmt(text);
    put(&line.bytes[..line.len]);
    end()
}

#[cfg(unix)]
fn put(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the slice is readable for its whole length.
        let count = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(count) {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes = &bytes[count..],
        }
    }
}

#[cfg(unix)]
fn end() -> ! {
    // SAFETY: it ends the process and runs nothing of it any more.
    unsafe { libc::_exit(EXIT_NO_MEMORY) }
}

#[cfg(not(unix))]
fn put(bytes: &[u8]) {
    // Standard error is not buffered.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), bytes);
}

#[cfg(not(unix))]
fn end() -> ! {
    std::process::abort()
}
