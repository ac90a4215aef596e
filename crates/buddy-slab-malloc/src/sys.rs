//! What is asked of the system. Nothing here allocates, and nothing changes `errno`.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How often memory was mapped or given back, and how long the system took for it.
pub(crate) struct Kernel {
    pub(crate) maps: AtomicU64,
    pub(crate) purges: AtomicU64,
    pub(crate) purged_bytes: AtomicU64,
    pub(crate) moves: AtomicU64,
    pub(crate) nanos: AtomicU64,
}

/// The counts of this process.
pub(crate) static KERNEL: Kernel = Kernel {
    maps: AtomicU64::new(0),
    purges: AtomicU64::new(0),
    purged_bytes: AtomicU64::new(0),
    moves: AtomicU64::new(0),
    nanos: AtomicU64::new(0),
};

/// Runs `body` and leaves `errno` as it was.
pub(crate) fn quietly<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: the calling thread's own `errno`.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let result = body();
    // SAFETY: as above.
    unsafe { *errno = before };
    result
}

/// The same, and its time counts as the kernel's.
fn timed<R>(body: impl FnOnce() -> R) -> R {
    quietly(|| {
        let start = nanos(libc::CLOCK_MONOTONIC);
        let result = body();
        let took = nanos(libc::CLOCK_MONOTONIC).wrapping_sub(start);
        KERNEL.nanos.fetch_add(took, Ordering::Relaxed);
        result
    })
}

fn nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours to write.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// Milliseconds since some moment; steps of a few. A handful of instructions.
pub(crate) fn coarse_millis() -> u64 {
    nanos(libc::CLOCK_MONOTONIC_COARSE) / 1_000_000
}

/// Reserves address space, readable and writable, which is backed where it is touched. Near `hint`
/// if that is free.
pub(crate) fn map(hint: usize, bytes: usize) -> Option<*mut u8> {
    KERNEL.maps.fetch_add(1, Ordering::Relaxed);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, where nothing is mapped yet.
    let at = timed(|| unsafe {
        libc::mmap(core::ptr::without_provenance_mut(hint), bytes, access, flags, -1, 0)
    });
    (at != libc::MAP_FAILED).then_some(at.cast())
}

/// Gives a mapping back.
///
/// # Safety
/// - `map` returned these bytes, and nothing uses them any more.
pub(crate) unsafe fn unmap(at: *mut u8, bytes: usize) {
    // SAFETY: the caller's conditions.
    timed(|| unsafe { libc::munmap(at.cast(), bytes) });
}

/// Lets the system have what backs these bytes; they are zero when they are read next, if this
/// returns `true`.
///
/// # Safety
/// - The bytes are whole pages of a private mapping of ours, and nobody needs what they hold.
pub(crate) unsafe fn give_up(at: *mut u8, bytes: usize) -> bool {
    KERNEL.purges.fetch_add(1, Ordering::Relaxed);
    KERNEL.purged_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    // SAFETY: the caller's conditions.
    timed(|| unsafe { libc::madvise(at.cast(), bytes, libc::MADV_DONTNEED) }) == 0
}

/// Gives the system advice on a mapping.
///
/// # Safety
/// - The bytes are whole pages of a mapping of ours, and the advice changes no content.
pub(crate) unsafe fn advise(at: *mut u8, bytes: usize, advice: libc::c_int) {
    // SAFETY: the caller's conditions.
    timed(|| unsafe { libc::madvise(at.cast(), bytes, advice) });
}

/// Moves the pages behind `from` to `to` without copying; what was at `to` is gone, and `from` is
/// zero afterwards. `false` (and nothing has changed) where the system cannot.
///
/// # Safety
/// - Both are `bytes` of whole pages in private mappings of ours, and do not overlap.
pub(crate) unsafe fn move_pages(from: *mut u8, to: *mut u8, bytes: usize) -> bool {
    const DONT_UNMAP: libc::c_int = 4;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | DONT_UNMAP;
    // SAFETY: the caller's conditions.
    let at = timed(|| unsafe {
        libc::mremap(from.cast(), bytes, bytes, flags, to.cast::<libc::c_void>())
    });
    let moved = at != libc::MAP_FAILED;
    KERNEL.moves.fetch_add(u64::from(moved), Ordering::Relaxed);
    moved
}

/// A full memory barrier on every running thread of this process.
pub(crate) fn barrier() -> bool {
    const PRIVATE_EXPEDITED: libc::c_long = 1 << 3;
    const REGISTER: libc::c_long = 1 << 4;
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    let call = |command: libc::c_long| {
        // SAFETY: the call touches no memory of ours.
        quietly(|| unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }) == 0
    };
    if !REGISTERED.load(Ordering::Relaxed) {
        if !call(REGISTER) {
            return false;
        }
        REGISTERED.store(true, Ordering::Relaxed);
    }
    call(PRIVATE_EXPEDITED)
}

/// Lets another thread run.
pub(crate) fn yield_now() {
    // SAFETY: no condition.
    quietly(|| unsafe { libc::sched_yield() });
}

/// Sleeps for a very short while.
pub(crate) fn nap() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
    // SAFETY: the structure is ours to read; nothing is written.
    quietly(|| unsafe { libc::nanosleep(&raw const time, core::ptr::null_mut()) });
}

/// Bytes of memory that the machine has.
pub(crate) fn memory_bytes() -> usize {
    // SAFETY: plain numbers, for which zero is a value.
    let mut info: libc::sysinfo = unsafe { core::mem::zeroed() };
    // SAFETY: the structure is ours to write.
    let told = quietly(|| unsafe { libc::sysinfo(&raw mut info) }) == 0;
    if told { (info.totalram as usize).saturating_mul(info.mem_unit as usize) } else { 0 }
}

/// How much address space the process may have; `None` if there is no limit.
pub(crate) fn address_space_limit() -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours to write.
    let told = quietly(|| unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) }) == 0;
    (told && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as usize)
}

/// Some bits that differ from process to process.
pub(crate) fn random_bits() -> u64 {
    // SAFETY: asks for a number.
    let at = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    if at == 0 {
        return 0;
    }
    // SAFETY: the kernel put 16 random bytes there, which stay.
    unsafe { core::ptr::with_exposed_provenance::<u64>(at).read_unaligned() }
}

/// Whether the process has more rights than who started it: then the environment is not trusted.
pub(crate) fn is_privileged() -> bool {
    // SAFETY: asks for a number.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether the calling thread is the one that the process began with.
pub(crate) fn is_first_thread() -> bool {
    // SAFETY: no condition.
    quietly(|| unsafe { libc::syscall(libc::SYS_gettid) == libc::c_long::from(libc::getpid()) })
}

/// Writes all of `bytes` to a file descriptor, as far as that goes.
pub(crate) fn write_all(file: libc::c_int, mut bytes: &[u8]) {
    quietly(|| {
        while !bytes.is_empty() {
            // SAFETY: the bytes are ours to read.
            let written = unsafe { libc::write(file, bytes.as_ptr().cast(), bytes.len()) };
            match usize::try_from(written) {
                Ok(written) if written > 0 => bytes = bytes.get(written..).unwrap_or(&[]),
                _ => break,
            }
        }
    });
}

/// A sentence that is put together without allocating, and cut off when it is full.
pub(crate) struct Line<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Line<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Adds as much of `bytes` as there is room for; whether that was all.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> bool {
        let count = bytes.len().min(N - self.len);
        self.bytes[self.len..self.len + count].copy_from_slice(&bytes[..count]);
        self.len += count;
        count == bytes.len()
    }
}

impl<const N: usize> core::fmt::Write for Line<N> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        if self.push(text.as_bytes()) { Ok(()) } else { Err(core::fmt::Error) }
    }
}

/// Says something on the standard error output.
pub(crate) fn say(message: core::fmt::Arguments<'_>) {
    let mut line = Line::<512>::new();
    // What does not fit is cut off.
    let _ = core::fmt::Write::write_fmt(&mut line, message);
    write_all(libc::STDERR_FILENO, line.as_bytes());
}
