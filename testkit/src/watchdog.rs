//! A hang is a failure too: bodies that may never return run on a thread of their own.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `body` on a new thread and waits `seconds` for it.
///
/// # Panics
/// If the body panics, or has not returned in time (its thread is then left behind).
pub fn within<T: Send + 'static>(seconds: u64, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    let worker = thread::spawn(move || {
        let value = body();
        // The receiver is gone only when the test has failed already.
        let _ = done.send(());
        value
    });
    match wait.recv_timeout(Duration::from_secs(seconds)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running after {seconds} s: it hangs"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}
