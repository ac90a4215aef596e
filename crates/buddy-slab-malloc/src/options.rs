//! What the environment asks for: `BSA_…`.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `BSA_LIMIT` | the most bytes that the heap manages, its own tables included; `K`, `M`, `G`, `T` may follow | none |
//! | `BSA_RESERVE` | address space that is reserved at a time | as much as the machine has memory |
//! | `BSA_PURGE_DELAY` | after how many milliseconds free memory goes back to the system; `0` at once, `never` | `500` |
//! | `BSA_HUGE_PAGES` | `never`, `system` (as the system does by itself), `always` (asked for in the whole heap) | `never` |
//! | `BSA_CHECK` | on a bad free: `abort`, `report` and go on, `ignore` | `abort` |
//! | `BSA_REPORT` | at exit a report goes to `stderr` or to this file; `%p` stands for the process | none |
//! | `BSA_REPORT_FORMAT` | `text` or `json` | `text` |
//!
//! A value that cannot be understood is said on the standard error output, once, and the default
//! holds. Where a program runs with more rights than its caller all of them are ignored.
//!
//! The environment is read once, when the heap starts; nothing is allocated for it.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use crate::sys;

/// `BSA_PURGE_DELAY=never`.
pub(crate) const NEVER: usize = usize::MAX;

/// What is done about a bad free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Check {
    /// It is said, and the process ends.
    Abort,
    /// It is said, and has no effect.
    Report,
    /// It has no effect.
    Ignore,
}

/// When huge pages are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HugePages {
    /// Never; and the system is asked to make none.
    Never,
    /// The system decides.
    System,
    /// In the whole heap: fewer page faults, more memory.
    Always,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What the environment said.
pub(crate) struct Options {
    limit: AtomicUsize,
    reserve: AtomicUsize,
    purge_delay: AtomicUsize,
    huge: AtomicU8,
    check: AtomicU8,
    format: AtomicU8,
    /// A string of the environment, which stays as long as nobody changes the variable.
    report: AtomicPtr<c_char>,
    report_len: AtomicUsize,
}

/// The options of this process.
pub(crate) static OPTIONS: Options = Options {
    limit: AtomicUsize::new(usize::MAX),
    reserve: AtomicUsize::new(0),
    purge_delay: AtomicUsize::new(500),
    huge: AtomicU8::new(HugePages::Never as u8),
    check: AtomicU8::new(Check::Abort as u8),
    format: AtomicU8::new(Format::Text as u8),
    report: AtomicPtr::new(core::ptr::null_mut()),
    report_len: AtomicUsize::new(0),
};

impl Options {
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Bytes to reserve at a time, if anybody has said so.
    pub(crate) fn reserve(&self) -> Option<usize> {
        Some(self.reserve.load(Ordering::Relaxed)).filter(|bytes| *bytes != 0)
    }

    /// In milliseconds, or [`NEVER`].
    #[inline]
    pub(crate) fn purge_delay(&self) -> usize {
        self.purge_delay.load(Ordering::Relaxed)
    }

    pub(crate) fn huge_pages(&self) -> HugePages {
        match self.huge.load(Ordering::Relaxed) {
            0 => HugePages::Never,
            1 => HugePages::System,
            _ => HugePages::Always,
        }
    }

    pub(crate) fn check(&self) -> Check {
        match self.check.load(Ordering::Relaxed) {
            0 => Check::Abort,
            1 => Check::Report,
            _ => Check::Ignore,
        }
    }

    pub(crate) fn format(&self) -> Format {
        if self.format.load(Ordering::Relaxed) == 0 { Format::Text } else { Format::Json }
    }

    /// Where a report goes at exit, if one is wanted.
    pub(crate) fn report(&self) -> Option<&[u8]> {
        let at = self.report.load(Ordering::Acquire);
        if at.is_null() {
            return None;
        }
        let len = self.report_len.load(Ordering::Relaxed);
        // SAFETY: set below, of this length, from a string of the environment that stays.
        Some(unsafe { core::slice::from_raw_parts(at.cast(), len) })
    }

    /// Reads the environment.
    pub(crate) fn read(&self) {
        unsafe extern "C" {
            static environ: *const *const c_char;
        }
        if sys::is_privileged() {
            return;
        }
        // SAFETY: the C library's variable; only looked at while one thread runs or none changes it.
        let mut at = unsafe { environ };
        if at.is_null() {
            return;
        }
        loop {
            // SAFETY: within the array, which ends with a null pointer.
            let entry = unsafe { *at };
            if entry.is_null() {
                return;
            }
            // SAFETY: an entry is a C string; the prefix is compared byte by byte up to its end.
            if unsafe { starts_with(entry, b"BSA_") } {
                // SAFETY: as above.
                self.take(unsafe { CStr::from_ptr(entry) });
            }
            // SAFETY: that was not the last.
            at = unsafe { at.add(1) };
        }
    }

    fn take(&self, entry: &'static CStr) {
        let bytes = entry.to_bytes();
        let Some(equals) = bytes.iter().position(|byte| *byte == b'=') else { return };
        let (name, value) = (&bytes[..equals], &bytes[equals + 1..]);
        let understood = match name {
            b"BSA_LIMIT" => store(&self.limit, size(value)),
            b"BSA_RESERVE" => store(&self.reserve, size(value)),
            b"BSA_PURGE_DELAY" if value == b"never" => store(&self.purge_delay, Some(NEVER)),
            b"BSA_PURGE_DELAY" => store(&self.purge_delay, number(value)),
            b"BSA_HUGE_PAGES" => choose(&self.huge, value, &[b"never", b"system", b"always"]),
            b"BSA_CHECK" => choose(&self.check, value, &[b"abort", b"report", b"ignore"]),
            b"BSA_REPORT_FORMAT" => choose(&self.format, value, &[b"text", b"json"]),
            b"BSA_REPORT" => {
                self.report_len.store(value.len(), Ordering::Relaxed);
                let at = if value.is_empty() { core::ptr::null() } else { value.as_ptr() };
                self.report.store(at.cast::<c_char>().cast_mut(), Ordering::Release);
                true
            }
            _ => true,
        };
        if !understood && let Some(text) = core::str::from_utf8(bytes).ok() {
            sys::say(format_args!("buddy-slab-malloc: not understood: {text}\n"));
        }
    }
}

/// # Safety
/// - `text` is a C string.
unsafe fn starts_with(text: *const c_char, prefix: &[u8]) -> bool {
    // SAFETY: stops at the first byte that differs, the end of the string among them.
    prefix.iter().enumerate().all(|(i, byte)| unsafe { *text.add(i) } as u8 == *byte)
}

fn store(place: &AtomicUsize, value: Option<usize>) -> bool {
    if let Some(value) = value {
        place.store(value, Ordering::Relaxed);
    }
    value.is_some()
}

fn choose(place: &AtomicU8, value: &[u8], names: &[&[u8]]) -> bool {
    let found = names.iter().position(|name| *name == value);
    if let Some(index) = found {
        place.store(index as u8, Ordering::Relaxed);
    }
    found.is_some()
}

/// A decimal number.
fn number(digits: &[u8]) -> Option<usize> {
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// A number of bytes, with a suffix for powers of 1024 or without.
fn size(text: &[u8]) -> Option<usize> {
    let (last, rest) = text.split_last()?;
    let shift = match last.to_ascii_uppercase() {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        _ => return number(text).filter(|bytes| *bytes != 0),
    };
    number(rest)?.checked_mul(1 << shift).filter(|bytes| *bytes != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!(size(b"4096"), Some(4096));
        assert_eq!(size(b"3k"), Some(3072));
        assert_eq!(size(b"2G"), Some(2 << 30));
        for bad in [&b""[..], b"0", b"M", b"-1", b"1X", b"99999999999999999999", b"99999999T"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_understood_changes_nothing() {
        let options = &OPTIONS;
        options.take(c"BSA_CHECK=sometimes");
        assert_eq!(options.check(), Check::Abort);
        options.take(c"BSA_CHECK=report");
        assert_eq!(options.check(), Check::Report);
        options.take(c"BSA_CHECK=abort");
        options.take(c"BSA_PURGE_DELAY=never");
        assert_eq!(options.purge_delay(), NEVER);
        options.take(c"BSA_PURGE_DELAY=500");
        assert_eq!(options.purge_delay(), 500);
    }
}
