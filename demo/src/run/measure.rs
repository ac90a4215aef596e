//! One run of a program: its time, its memory, and, on our library, its report.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::library::Allocator;
use super::program::Program;

/// What happens to the program's output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// It goes where ours goes, and the library writes a report.
    Shown,
    /// It goes nowhere, and nothing is to be read.
    Hidden,
}

/// What a run was like.
pub struct Run {
    /// From start to end.
    pub wall: Duration,
    /// In the program and in the system on its behalf, its children included.
    pub cpu: Duration,
    /// The most memory that it, or one of its children, had.
    pub peak_bytes: u64,
    /// How it ended.
    pub status: ExitStatus,
    /// What our library wrote, if it came to that.
    pub report: Option<serde_json::Value>,
}

impl Run {
    /// The same end, for ours.
    pub fn exit_code(&self) -> ExitCode {
        let code = self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal));
        ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }
}

/// Runs the program to its end.
///
/// # Errors
/// It cannot be started.
pub fn run(
    program: &Program,
    arguments: &[OsString],
    allocator: &Allocator,
    output: Output,
) -> io::Result<Run> {
    let mut command = Command::new(&program.path);
    command.args(arguments);
    let mut preload = allocator.library.clone().into_os_string();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
        preload.push(":");
        preload.push(others);
    }
    command.env("LD_PRELOAD", preload);
    // Each process writes its own; that of the program is read.
    let reports = Directory::new()?;
    match output {
        Output::Hidden => {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        Output::Shown => {
            command.env("BSA_REPORT", reports.0.join("%p")).env("BSA_REPORT_FORMAT", "json");
        }
    }
    let start = Instant::now();
    let child = command.spawn().map_err(|error| {
        io::Error::new(error.kind(), format!("{}: {error}", program.path.display()))
    })?;
    let (status, usage) = wait(child.id())?;
    let wall = start.elapsed();
    let text = std::fs::read(reports.0.join(child.id().to_string()));
    Ok(Run {
        wall,
        cpu: duration(usage.ru_utime) + duration(usage.ru_stime),
        peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        status,
        report: text.ok().and_then(|text| serde_json::from_slice(&text).ok()),
    })
}

/// A directory of our own, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("buddy-slab-run-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for a child, and learns what it used.
fn wait(child: u32) -> io::Result<(ExitStatus, libc::rusage)> {
    let mut status = 0;
    // SAFETY: plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    loop {
        // SAFETY: both are ours to write; the child was not waited for before.
        let waited =
            unsafe { libc::wait4(child as libc::pid_t, &raw mut status, 0, &raw mut usage) };
        if waited >= 0 {
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64)
}
