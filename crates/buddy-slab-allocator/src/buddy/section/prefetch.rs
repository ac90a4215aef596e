//! Hints to the processor that memory will be written soon: where the next steps of a batch are
//! known, their cache misses overlap. A hint changes nothing but the time that passes.

/// Asks for the cache line at this address, to be written. The address may be any.
#[inline(always)]
pub(super) fn prefetch_for_write<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: reads and writes nothing, and faults nowhere; a processor that does not know the
    // instruction takes it for none.
    unsafe {
        core::arch::asm!("prefetchw byte ptr [{}]", in(reg) at,
            options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: reads and writes nothing, and faults nowhere.
    unsafe {
        core::arch::asm!("prfm pstl1keep, [{}]", in(reg) at,
            options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = at;
}
