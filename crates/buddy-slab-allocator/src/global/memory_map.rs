//! Firmware's memory map in: ranges by kind, and reserved ranges that win over free ones.

use super::GlobalAllocator;
use super::init::NewRegion;
use crate::error::{AllocError, AllocResult};
use crate::platform::Platform;

/// What firmware says of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// Free to be used.
    Usable,
    /// Free to be used, and known to be zero.
    UsableZeroed,
    /// Anything else. It wins over a usable range that it overlaps.
    Reserved,
}

/// One entry of a memory map.
#[derive(Debug, Clone, Copy)]
pub struct MemoryRange {
    /// The first byte, as the allocator is to reach it.
    pub base: *mut u8,
    /// Length in bytes.
    pub len_bytes: usize,
    /// What it is.
    pub kind: MemoryKind,
    /// Its NUMA node.
    pub node: u8,
}

impl MemoryRange {
    fn end(&self) -> usize {
        self.base.addr().saturating_add(self.len_bytes)
    }
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Manages all usable memory of a map, less what is reserved in the map or by `reserved`
    /// (address and length of the kernel image, the initial ramdisk, device ranges). The first
    /// piece that is large enough also gets the heaps of `cpu_count` CPUs (0: attached later), if
    /// the allocator is not initialised yet. Pieces too small for metadata and a page are left
    /// out. Returns how many sections were added.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if no piece was large enough; [`AllocError::MemoryOverlap`] if
    /// a piece is managed already (the pieces before it stay managed).
    ///
    /// # Complexity
    /// O(usable × reserved ranges), plus [`add_region`](Self::add_region) for each piece. Nothing
    /// is sorted or copied.
    ///
    /// # Safety
    /// - The usable pieces that are not reserved are writable through their `base`, stay valid for
    ///   as long as the allocator is used, and are used by nobody else; the zeroed ones are zero.
    pub unsafe fn add_memory_map<M, R>(
        &self,
        map: M,
        reserved: R,
        cpu_count: usize,
    ) -> AllocResult<usize>
    where
        M: Iterator<Item = MemoryRange> + Clone,
        R: Iterator<Item = (usize, usize)> + Clone,
    {
        let mut added = 0;
        let in_map = map.clone().filter(|range| range.kind == MemoryKind::Reserved);
        let in_map = in_map.map(|range| (range.base.addr(), range.end()));
        let others = reserved.map(|(addr, len)| (addr, addr.saturating_add(len)));
        let holes = in_map.chain(others).filter(|(start, end)| start < end);
        for range in map.filter(|range| range.kind != MemoryKind::Reserved) {
            let (mut at, end) = (range.base.addr(), range.end());
            while at < end {
                // What lies on `at` is skipped; then the piece ends where the next hole begins.
                if let Some(past) = holes
                    .clone()
                    .filter(|hole| hole.0 <= at && at < hole.1)
                    .map(|hole| hole.1)
                    .max()
                {
                    at = past;
                    continue;
                }
                let next = holes.clone().map(|hole| hole.0).filter(|start| *start > at).min();
                let piece_end = next.unwrap_or(end).min(end);
                let region = NewRegion {
                    base: range.base.with_addr(at),
                    len: piece_end - at,
                    node: range.node,
                    zeroed: range.kind == MemoryKind::UsableZeroed,
                };
                // SAFETY: a usable piece that is not reserved (condition).
                match unsafe { self.add_piece(&region, cpu_count) } {
                    Ok(()) => added += 1,
                    Err(AllocError::InvalidParam) => {} // too small
                    Err(error) => return Err(error),
                }
                at = piece_end;
            }
        }
        if added == 0 { Err(AllocError::InvalidParam) } else { Ok(added) }
    }

    /// # Safety
    /// - The region is as `add_memory_map` asks for.
    unsafe fn add_piece(&self, region: &NewRegion, cpu_count: usize) -> AllocResult {
        // SAFETY: the same conditions.
        unsafe {
            if self.is_ready() {
                self.add_new_region(region)
            } else {
                self.init_region(region, cpu_count)
            }
        }
    }
}
