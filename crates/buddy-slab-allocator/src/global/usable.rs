//! How much an allocation can hold, from its address alone.

use core::ptr::NonNull;

use super::GlobalAllocator;
use crate::buddy::PageMark;
use crate::percpu::Found;
use crate::platform::Platform;
use crate::slab::{Slab, SlabLabel};

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// How many bytes the allocation at `ptr` can hold: its class's size, or its pages. `None` if
    /// `ptr` is not the start of a live allocation, as far as the metadata tells.
    ///
    /// O(1), no lock.
    ///
    /// # Safety
    /// - If `ptr` points into memory of this allocator, nobody frees what lies there meanwhile.
    pub unsafe fn usable_size(&self, ptr: NonNull<u8>) -> Option<usize> {
        let addr = ptr.addr().get();
        let Some(mark) = self.core.slab_at(addr) else {
            return self.large_pages(addr).map(|pages| pages * PAGE_SIZE);
        };
        let found = Found::by_mark::<PAGE_SIZE>(addr, mark, None).ok()?;
        // SAFETY: named by the page metadata, and kept alive by the caller's condition.
        let free = unsafe { Slab::is_free_hint(Slab::of_group(found.groups), found.index) };
        (!free).then(|| found.label.class().size())
    }

    /// [`usable_size`](Self::usable_size) of what is known to be live: looks at the metadata of
    /// its page alone, not at its slab. `None` if it is nothing of this allocator's.
    ///
    /// O(1), no lock.
    ///
    /// # Safety
    /// - If `ptr` points into memory of this allocator, it is the start of a live allocation,
    ///   which nobody frees meanwhile.
    #[inline(always)]
    pub unsafe fn usable_size_of_live(&self, ptr: NonNull<u8>) -> Option<usize> {
        match self.core.slab_at_fast(ptr.addr().get()) {
            Some(mark) => Some(Self::object_size(mark)),
            None => self.usable_size_elsewhere(ptr),
        }
    }

    /// Of pages, and of objects in smaller sections.
    #[inline(never)]
    fn usable_size_elsewhere(&self, ptr: NonNull<u8>) -> Option<usize> {
        let addr = ptr.addr().get();
        match self.core.slab_at(addr) {
            Some(mark) => Some(Self::object_size(mark)),
            None => self.large_pages(addr).map(|pages| pages * PAGE_SIZE),
        }
    }

    #[inline(always)]
    fn object_size(mark: PageMark) -> usize {
        // SAFETY: slabs are marked with labels.
        unsafe { SlabLabel::from_raw(mark.label) }.class().size()
    }
}
