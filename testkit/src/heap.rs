//! The face that every engine shows to the runner.

use std::alloc::Layout;
use std::ops::Range;
use std::ptr::NonNull;

/// A heap under test. All calls take `&self`: a heap is shared.
///
/// What an engine lacks it leaves at the default, and the runner sees the plain equivalent.
pub trait Heap {
    /// Bytes in a page.
    fn page_size(&self) -> usize;

    /// Memory for `layout`, or `None` when there is none.
    fn alloc(&self, layout: Layout) -> Option<NonNull<u8>>;

    /// Zeroed memory for `layout`.
    fn alloc_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        let ptr = self.alloc(layout)?;
        // SAFETY: fresh memory of `layout.size()` bytes.
        unsafe { ptr.write_bytes(0, layout.size()) };
        Some(ptr)
    }

    /// Frees an object.
    ///
    /// # Safety
    /// - `ptr` must be live, from this heap, allocated with `layout`, and not used afterwards.
    unsafe fn dealloc(&self, ptr: NonNull<u8>, layout: Layout);

    /// Frees an object whose layout the engine need not be told.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc).
    unsafe fn dealloc_unsized(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller answers for the same conditions.
        unsafe { self.dealloc(ptr, layout) }
    }

    /// Resizes an object; on `None` the old one stays as it was.
    ///
    /// # Safety
    /// - As for [`dealloc`](Self::dealloc); afterwards the old pointer is dead unless `None` came back.
    unsafe fn realloc(
        &self,
        ptr: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        let new_layout = Layout::from_size_align(new_size, layout.align()).ok()?;
        let new = self.alloc(new_layout)?;
        // SAFETY: two distinct live objects, each at least this long; the old one is the caller's.
        unsafe {
            new.copy_from_nonoverlapping(ptr, layout.size().min(new_size));
            self.dealloc(ptr, layout);
        }
        Some(new)
    }

    /// How many bytes of a live object may be used.
    fn usable_size(&self, ptr: NonNull<u8>) -> Option<usize> {
        let _ = ptr;
        None
    }

    /// Consecutive pages.
    fn alloc_pages(&self, count: usize, align: usize) -> Option<usize>;

    /// Consecutive pages wholly below 4 GiB physical.
    fn alloc_pages_lowmem(&self, count: usize, align: usize) -> Option<usize> {
        let _ = (count, align);
        None
    }

    /// Frees pages.
    fn dealloc_pages(&self, addr: usize, count: usize);

    /// How many CPUs there are.
    fn cpu_count(&self) -> usize {
        1
    }

    /// Moves the calling thread to a CPU.
    fn switch_cpu(&self, cpu: usize) {
        let _ = cpu;
    }

    /// A CPU comes up.
    fn cpu_online(&self, cpu: usize) {
        let _ = cpu;
    }

    /// A CPU goes down: it runs nothing until [`cpu_online`](Self::cpu_online).
    fn cpu_offline(&self, cpu: usize) {
        let _ = cpu;
    }

    /// A CPU is about to idle.
    fn idle(&self, cpu: usize) {
        let _ = cpu;
    }

    /// A timer tick on a CPU.
    fn tick(&self, cpu: usize) {
        let _ = cpu;
    }

    /// Gives back what is kept; how many bytes that was.
    fn shrink(&self) -> usize {
        0
    }

    /// Manages `bytes` more of memory; whether that was possible.
    fn add_region(&self, bytes: usize) -> bool {
        let _ = bytes;
        false
    }

    /// The managed ranges, without metadata.
    fn sections(&self) -> Vec<Range<usize>>;

    /// Bytes counted as allocated, where the engine counts.
    fn allocated_bytes(&self) -> Option<usize> {
        None
    }

    /// Whether an address has a physical one below 4 GiB.
    fn is_low(&self, addr: usize) -> bool {
        let _ = addr;
        true
    }

    /// Fails if the engine's own equations do not hold.
    fn check_invariants(&self) {}
}
