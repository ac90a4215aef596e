//! Address space: how much is reserved at a time, and where.
//!
//! A reservation costs the system next to nothing until it is touched, so the first is as large as
//! the machine's memory: all of the heap then lies in one section, where a lookup by address is one
//! comparison. Where the process may not have so much (`ulimit -v`, strict overcommit) less is
//! reserved, and more when it is used up.

use crate::options::{HugePages, OPTIONS};
use crate::sys;

/// Bytes that a reservation starts at a multiple of: whole large blocks, so that as little
/// metadata as possible is touched.
const ALIGN: usize = 4 << 20;

/// The least worth reserving.
const SMALLEST: usize = 1 << 20;
/// The most at a time.
const LARGEST: usize = if usize::BITS >= 64 { 1 << 40 } else { 1 << 28 };

/// Reserved address space.
pub(crate) struct Region {
    pub(crate) base: *mut u8,
    pub(crate) bytes: usize,
}

/// Reserves address space for the heap, which manages `managed` bytes already and wants at least
/// `wanted` more. `None` if there is none, or the limit is reached.
pub(crate) fn reserve(managed: usize, wanted: usize) -> Option<Region> {
    let allowed = OPTIONS.limit().saturating_sub(managed);
    let least = wanted.max(SMALLEST);
    let mut bytes = preferred().max(least.checked_next_multiple_of(SMALLEST)?).min(allowed);
    while bytes >= least {
        if let Some(region) = reserve_aligned(bytes) {
            return Some(region);
        }
        if bytes == least {
            break;
        }
        bytes = (bytes / 2).max(least);
    }
    None
}

fn preferred() -> usize {
    if let Some(bytes) = OPTIONS.reserve() {
        return bytes.clamp(SMALLEST, LARGEST);
    }
    let memory = sys::memory_bytes().checked_next_power_of_two().unwrap_or(LARGEST);
    match sys::address_space_limit() {
        // Others want some too: libraries, stacks, files.
        Some(limit) => (limit / 8).min(memory),
        None => memory,
    }
    .clamp(SMALLEST, LARGEST)
}

fn reserve_aligned(bytes: usize) -> Option<Region> {
    let slack = if bytes >= 64 * ALIGN { ALIGN } else { 0 };
    let at = sys::map(hint(), bytes.checked_add(slack)?)?;
    let skip = if slack == 0 { 0 } else { at.addr().wrapping_neg() & (ALIGN - 1) };
    let region = Region { base: at.wrapping_add(skip), bytes };
    match OPTIONS.huge_pages() {
        // A huge page for every first touch would cost more than it brings, and be charged.
        // SAFETY: just mapped.
        HugePages::Never => unsafe {
            sys::advise(region.base, region.bytes, libc::MADV_NOHUGEPAGE)
        },
        // SAFETY: just mapped.
        HugePages::Always => unsafe { sys::advise(region.base, region.bytes, libc::MADV_HUGEPAGE) },
        HugePages::System => {}
    }
    Some(region)
}

/// Where to ask first: aligned to the largest block, so that the whole lies in few of them.
fn hint() -> usize {
    if usize::BITS < 64 {
        return 0;
    }
    // 4 GiB steps in 8 TiB, from 16 TiB on: out of the way of everything, and not to be guessed.
    let random = (sys::random_bits() >> 8) as usize % (1 << 11);
    (16 << 40) + (random << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_as_large_as_wanted_and_aligned() {
        let region = reserve(0, 300 << 20).expect("address space");
        assert!(region.bytes >= 300 << 20);
        assert_eq!(region.base.addr() % ALIGN, 0);
        // SAFETY: just reserved; the first bytes are ours.
        unsafe {
            assert_eq!(region.base.read(), 0);
            region.base.write(1);
            sys::unmap(region.base, region.bytes);
        }
    }
}
