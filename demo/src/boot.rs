//! What the program must know before its first allocation: how large the region is.
//!
//! The runtime allocates before `main`, so `--region-mib` is read here a first time, straight
//! from the operating system and into a buffer on the stack. `clap` reads and checks it again
//! later, in the open; a value that it will refuse counts as absent here.

/// Size of the region when nothing is asked, in MiB.
pub const DEFAULT_REGION_MIB: u32 = 1024;

const FLAG: &[u8] = b"--region-mib";

/// The size of the region in bytes; `None` if it does not fit the address space.
pub fn region_bytes() -> Option<usize> {
    let mib = requested_mib().unwrap_or(DEFAULT_REGION_MIB);
    usize::try_from(mib).ok()?.checked_mul(1 << 20)
}

/// Finds the flag in the NUL-separated argument list that the kernel keeps for the process.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn requested_mib() -> Option<u32> {
    const PATH: &core::ffi::CStr = c"/proc/self/cmdline";
    let mut buffer = [0_u8; 4096];
    let mut filled = 0;
    // SAFETY: the path is a C string.
    let file = unsafe { libc::open(PATH.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    while filled < buffer.len() {
        let rest = &mut buffer[filled..];
        // SAFETY: `file` is open, and `rest` is writable for its whole length.
        let count = unsafe { libc::read(file, rest.as_mut_ptr().cast(), rest.len()) };
        match usize::try_from(count) {
            Ok(0) | Err(_) => break,
            Ok(count) => filled += count,
        }
    }
    // SAFETY: `file` was opened above and is not used again.
    unsafe { libc::close(file) };
    find(buffer[..filled].split(|&byte| byte == 0))
}

/// Finds the flag in the argument vector that the loader keeps.
#[cfg(target_os = "macos")]
fn requested_mib() -> Option<u32> {
    // SAFETY: both functions return pointers to what the loader set before any code ran.
    let (count, vector) = unsafe { (*libc::_NSGetArgc(), *libc::_NSGetArgv()) };
    let count = usize::try_from(count).ok()?;
    find((0..count).map(|i| {
        // SAFETY: `i` is below the argument count, and every argument is a C string.
        unsafe { core::ffi::CStr::from_ptr(*vector.add(i)) }.to_bytes()
    }))
}

/// Elsewhere the argument list cannot be had without allocating.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos")))]
fn requested_mib() -> Option<u32> {
    None
}

/// The last well-formed `--region-mib N` or `--region-mib=N` before a `--`.
#[cfg_attr(
    not(any(target_os = "linux", target_os = "android", target_os = "macos", test)),
    expect(dead_code, reason = "no argument list to search on this system")
)]
fn find<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Option<u32> {
    let mut found = None;
    while let Some(word) = words.next() {
        let value = match word.strip_prefix(FLAG) {
            Some(b"") => words.next(),
            Some([b'=', value @ ..]) => Some(value),
            _ if word == b"--" => break,
            _ => None,
        };
        found = value.and_then(number).or(found);
    }
    found
}

/// A positive decimal number.
fn number(digits: &[u8]) -> Option<u32> {
    core::str::from_utf8(digits).ok()?.parse().ok().filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::find;

    fn found(line: &str) -> Option<u32> {
        find(line.split(' ').map(str::as_bytes))
    }

    #[test]
    fn the_flag_is_found_in_both_spellings() {
        assert_eq!(found("buddy-slab --region-mib 64"), Some(64));
        assert_eq!(found("buddy-slab some/path --region-mib=8 --top 3"), Some(8));
    }

    #[test]
    fn what_clap_would_refuse_counts_as_absent() {
        assert_eq!(found("buddy-slab"), None);
        assert_eq!(found("buddy-slab --region-mib"), None);
        assert_eq!(found("buddy-slab --region-mib=0"), None);
        assert_eq!(found("buddy-slab --region-mib x"), None);
        assert_eq!(found("buddy-slab --region-mibs 7"), None);
        assert_eq!(found("buddy-slab -- --region-mib=8"), None);
    }
}
