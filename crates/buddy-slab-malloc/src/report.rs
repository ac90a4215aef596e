//! What happened: how much is in use, by size class and by page order, and what it cost.
//!
//! A [`Report`] is taken and written without allocating, at exit if `BSA_REPORT` asks for it.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::inspect::Snapshot;

use crate::options::{Format, OPTIONS};
use crate::process::{self, ALLOCATOR};
use crate::{PAGE_SIZE, huge, misuse, sys, threads};

/// Bytes that were in use at most, as far as somebody looked.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// What there is to say.
#[derive(Debug, Clone)]
pub struct Report {
    /// The allocator's own counts.
    pub heap: Snapshot,
    /// Bytes in pages that hold something, and in huge mappings, now.
    pub current_bytes: usize,
    /// The most of that which was seen. It is looked at before each free of 1 MiB and more, and at
    /// every 32nd end of a slow path; so it may be too low by what was freed in smaller blocks
    /// between the peak and the next look: less than 32 MiB, and in most programs less than one.
    pub peak_bytes: usize,
    /// The most memory that the process had, in bytes, as the system counts it.
    pub peak_resident_bytes: usize,
    /// Bytes in mappings of their own, above 4 GiB each.
    pub huge_bytes: usize,
    /// Threads that have a heap.
    pub threads: usize,
    /// Heaps that were built.
    pub heaps: usize,
    /// Calls of handlers that had interrupted the allocator.
    pub reentries: usize,
    /// Bad frees.
    pub misuses: usize,
    /// What the system did.
    pub kernel: Kernel,
}

/// What the system did.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Mappings that the heap asked for.
    pub maps: u64,
    /// Times that memory was given back.
    pub purges: u64,
    /// Bytes of that.
    pub purged_bytes: u64,
    /// Allocations that were moved without copying.
    pub moves: u64,
    /// Nanoseconds in these calls.
    pub nanos: u64,
    /// Pages that the process touched first (or again), whoever asked for them.
    pub page_faults: u64,
    /// Nanoseconds that the process spent in the system, on whatever.
    pub system_nanos: u64,
}

impl Report {
    /// Looks at everything.
    pub fn take() -> Self {
        let heap = ALLOCATOR.snapshot();
        let huge_bytes = huge::bytes();
        let current_bytes = heap.allocated_bytes + huge_bytes;
        // SAFETY: plain numbers, for which zero is a value.
        let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
        // SAFETY: the structure is ours to write.
        sys::quietly(|| unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) });
        let load = |count: &core::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let system = usage.ru_stime;
        Self {
            current_bytes,
            peak_bytes: PEAK.load(Ordering::Relaxed).max(current_bytes),
            peak_resident_bytes: usage.ru_maxrss as usize * 1024,
            huge_bytes,
            threads: threads::count(),
            heaps: ALLOCATOR.cpu_count(),
            reentries: ALLOCATOR.reentry_count(),
            misuses: misuse::COUNT.load(Ordering::Relaxed),
            kernel: Kernel {
                maps: load(&sys::KERNEL.maps),
                purges: load(&sys::KERNEL.purges),
                purged_bytes: load(&sys::KERNEL.purged_bytes),
                moves: load(&sys::KERNEL.moves),
                nanos: load(&sys::KERNEL.nanos),
                page_faults: usage.ru_minflt as u64 + usage.ru_majflt as u64,
                system_nanos: system.tv_sec as u64 * 1_000_000_000 + system.tv_usec as u64 * 1000,
            },
            heap,
        }
    }

    /// The report as one JSON object.
    pub fn json(&self) -> impl fmt::Display {
        Json(self)
    }
}

/// Remembers how much is in use.
pub(crate) fn sample() {
    PEAK.fetch_max(ALLOCATOR.allocated_bytes() + huge::bytes(), Ordering::Relaxed);
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let Self { heap, kernel, .. } = self;
        writeln!(
            f,
            "heap       {:.1} MiB in use, at most {:.1} MiB; resident at most {:.1} MiB",
            mib(self.current_bytes),
            mib(self.peak_bytes),
            mib(self.peak_resident_bytes)
        )?;
        writeln!(
            f,
            "threads    {} with a heap, {} heaps built; {} frees of other threads' objects, \
             {} calls from handlers inside the allocator, {} bad frees",
            self.threads, self.heaps, heap.remote_frees, self.reentries, self.misuses
        )?;
        writeln!(
            f,
            "kernel     {} mappings, {} purges of {:.1} MiB, {} moves: {:.2} ms; {} page faults; \
             {:.1} ms in the system altogether",
            kernel.maps,
            kernel.purges,
            kernel.purged_bytes as f64 / f64::from(1 << 20),
            kernel.moves,
            kernel.nanos as f64 / 1e6,
            kernel.page_faults,
            kernel.system_nanos as f64 / 1e6
        )?;
        writeln!(f, "\n{}\n\n{}", heap.slabinfo(), heap.buddyinfo())
    }
}

struct Json<'a>(&'a Report);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { heap, kernel, .. } = self.0;
        write!(f, "{{")?;
        for (name, value) in [
            ("current_bytes", self.0.current_bytes),
            ("peak_bytes", self.0.peak_bytes),
            ("peak_resident_bytes", self.0.peak_resident_bytes),
            ("managed_bytes", heap.managed_bytes),
            ("huge_bytes", self.0.huge_bytes),
            ("page_bytes", PAGE_SIZE),
            ("large_pages", heap.large_pages),
            ("cached_pages", heap.cached_pages),
            ("threads", self.0.threads),
            ("heaps", self.0.heaps),
            ("remote_frees", heap.remote_frees),
            ("reentries", self.0.reentries),
            ("misuses", self.0.misuses),
        ] {
            write!(f, "\"{name}\":{value},")?;
        }
        write!(f, "\"classes\":[")?;
        let used = heap.classes.iter().filter(|class| class.slabs != 0);
        for (i, class) in used.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(
                f,
                "{comma}{{\"size\":{},\"live\":{},\"total\":{},\"slabs\":{},\"pages\":{}}}",
                class.size, class.objects_live, class.objects_total, class.slabs, class.pages
            )?;
        }
        write!(f, "],\"free_blocks\":[")?;
        for order in 0..heap.free_blocks[0].len() {
            let count: usize = heap.free_blocks.iter().map(|zone| zone[order]).sum();
            write!(f, "{}{count}", if order == 0 { "" } else { "," })?;
        }
        write!(
            f,
            "],\"kernel\":{{\"maps\":{},\"purges\":{},\"purged_bytes\":{},\"moves\":{},\
             \"nanos\":{},\"page_faults\":{},\"system_nanos\":{}}}}}",
            kernel.maps,
            kernel.purges,
            kernel.purged_bytes,
            kernel.moves,
            kernel.nanos,
            kernel.page_faults,
            kernel.system_nanos
        )
    }
}

/// Writes to a file descriptor, a buffer at a time.
struct Writer {
    file: libc::c_int,
    line: sys::Line<1024>,
}

impl Writer {
    fn new(file: libc::c_int) -> Self {
        Self { file, line: sys::Line::new() }
    }

    fn flush(&mut self) {
        sys::write_all(self.file, self.line.as_bytes());
        self.line = sys::Line::new();
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(512) {
            if self.line.as_bytes().len() + part.len() > 1024 {
                self.flush();
            }
            self.line.push(part);
        }
        Ok(())
    }
}

/// Writes a report to a file descriptor.
pub fn write_to(file: libc::c_int) {
    write_as(file, Format::Text);
}

fn write_as(file: libc::c_int, format: Format) {
    let report = Report::take();
    let mut writer = Writer::new(file);
    // The writer does not fail.
    let _ = match format {
        Format::Text => writeln!(writer, "buddy-slab-malloc\n{report}"),
        Format::Json => writeln!(writer, "{}", report.json()),
    };
    writer.flush();
}

/// Has the report written at exit, if one is wanted. Once, by whoever starts the heap.
pub(crate) fn register() {
    if OPTIONS.report().is_some() {
        // SAFETY: the function is there for as long as the process.
        sys::quietly(|| unsafe { libc::atexit(at_exit) });
    }
}

extern "C" fn at_exit() {
    let Some(place) = OPTIONS.report() else { return };
    if !process::is_started() {
        return;
    }
    if place == b"1" || place == b"stderr" {
        return write_as(libc::STDERR_FILENO, OPTIONS.format());
    }
    let mut path = sys::Line::<4096>::new();
    let mut rest = place;
    while let Some(at) = rest.windows(2).position(|two| two == b"%p") {
        path.push(&rest[..at]);
        // SAFETY: no condition.
        let _ = write!(path, "{}", unsafe { libc::getpid() });
        rest = &rest[at + 2..];
    }
    path.push(rest);
    path.push(b"\0");
    let Ok(path) = CStr::from_bytes_until_nul(path.as_bytes()) else { return };
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
    // SAFETY: the path is a C string.
    let file = sys::quietly(|| unsafe { libc::open(path.as_ptr(), flags, 0o644) });
    if file < 0 {
        return sys::say(format_args!(
            "buddy-slab-malloc: cannot write a report to {}\n",
            path.to_str().unwrap_or("the file named by BSA_REPORT")
        ));
    }
    write_as(file, OPTIONS.format());
    // SAFETY: opened above, and not used again.
    sys::quietly(|| unsafe { libc::close(file) });
}
