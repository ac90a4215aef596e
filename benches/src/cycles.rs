//! The finest clock there is.

/// Cycles of the time-stamp counter, or nanoseconds where there is none; ordered against the
/// loads before it.
#[inline(always)]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut processor = 0;
        // SAFETY: every x86_64 processor that runs a hosted program here has `rdtscp`.
        unsafe { std::arch::x86_64::__rdtscp(&raw mut processor) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::LazyLock;
        use std::time::Instant;

        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed().as_nanos() as u64
    }
}

/// What [`now`] counts in.
pub const UNIT: &str = if cfg!(target_arch = "x86_64") { "cycles" } else { "ns" };

/// What two looks at the clock in a row give at least: part of every figure of a histogram.
pub fn cost() -> u64 {
    let gap = |_| {
        let start = now();
        now() - start
    };
    (0..1000).map(gap).min().unwrap_or(0)
}
