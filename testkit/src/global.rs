//! [`Heap`] over `GlobalAllocator`, on fake CPUs.

use std::alloc::Layout;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;

use buddy_slab_allocator::{Access, GlobalAllocator, OsImpl, OsPlatform, Platform};

use crate::heap::Heap;
use crate::misuse;
use crate::platform::{FakeCpus, PhysMap, on_cpu, set_cpu};
use crate::region::Region;

/// A `GlobalAllocator` with the regions it lives in and the platform it runs on.
///
/// Its misuse handler fails the test: the runner makes legal calls only.
pub struct GlobalHeap<const PAGE_SIZE: usize = 0x1000, P: Platform = OsPlatform> {
    inner: Box<GlobalAllocator<PAGE_SIZE, P>>,
    regions: Mutex<Vec<Region>>,
    cpu_count: usize,
    map: PhysMap,
}

impl<const PAGE_SIZE: usize> GlobalHeap<PAGE_SIZE> {
    /// A heap over `region` for `cpu_count` CPUs, with physical addresses by `map`.
    ///
    /// # Panics
    /// If the region is refused.
    pub fn new(mut region: Region, cpu_count: usize, map: PhysMap) -> Self {
        set_cpu(0);
        let inner = Box::new(GlobalAllocator::new());
        // SAFETY: the region is kept, untouched, until after the allocator's last use.
        unsafe { inner.init(region.bytes_mut(), cpu_count, FakeCpus::leaked(map)) }
            .expect("init refused the region");
        inner.set_misuse_handler(Some(misuse::fail));
        Self { inner, regions: Mutex::new(vec![region]), cpu_count, map }
    }

    /// The same on a platform of the caller's.
    ///
    /// # Panics
    /// If the region is refused.
    pub fn on(mut region: Region, cpu_count: usize, os: &'static dyn OsImpl) -> Self {
        let inner = Box::new(GlobalAllocator::new());
        // SAFETY: the region is kept, untouched, until after the allocator's last use.
        unsafe { inner.init(region.bytes_mut(), cpu_count, os) }.expect("init refused the region");
        inner.set_misuse_handler(Some(misuse::fail));
        Self { inner, regions: Mutex::new(vec![region]), cpu_count, map: PhysMap::Identity }
    }
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalHeap<PAGE_SIZE, P> {
    /// A heap on a platform that knows no physical addresses.
    ///
    /// # Panics
    /// If the region is refused.
    pub fn with_platform(mut region: Region, cpu_count: usize, platform: P) -> Self {
        set_cpu(0);
        let inner = Box::new(GlobalAllocator::with_platform(platform));
        let bytes = region.bytes_mut();
        // SAFETY: the region is kept, untouched, until after the allocator's last use.
        unsafe { inner.init_raw(bytes.as_mut_ptr(), bytes.len(), cpu_count) }
            .expect("init refused the region");
        inner.set_misuse_handler(Some(misuse::fail));
        Self { inner, regions: Mutex::new(vec![region]), cpu_count, map: PhysMap::High }
    }

    /// Runs `call` where a CPU's own calls have to be made: on that one, if it has the heap to itself.
    fn for_cpu<T>(&self, cpu: usize, call: impl FnOnce() -> T) -> T {
        match P::ACCESS {
            Access::Exclusive if cpu < self.cpu_count => on_cpu(cpu, call),
            _ => call(),
        }
    }

    /// The same heap with a misuse handler that records (see [`misuse::take`]) and returns.
    #[must_use]
    pub fn recording(self) -> Self {
        self.inner.set_misuse_handler(Some(misuse::record));
        self
    }

    /// The allocator itself.
    pub fn allocator(&self) -> &GlobalAllocator<PAGE_SIZE, P> {
        &self.inner
    }

    /// Fails if a byte outside the regions was written.
    pub fn check_guards(&self) {
        for region in self.regions.lock().unwrap().iter() {
            region.check_guards();
        }
    }
}

impl<const PAGE_SIZE: usize, P: Platform> Heap for GlobalHeap<PAGE_SIZE, P> {
    fn page_size(&self) -> usize {
        PAGE_SIZE
    }

    fn alloc(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.inner.alloc(layout).ok()
    }

    fn alloc_zeroed(&self, layout: Layout) -> Option<NonNull<u8>> {
        self.inner.alloc_zeroed(layout).ok()
    }

    unsafe fn dealloc(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller answers for the same conditions.
        unsafe { self.inner.dealloc(ptr, layout) }
    }

    unsafe fn dealloc_unsized(&self, ptr: NonNull<u8>, _: Layout) {
        // SAFETY: the caller answers for the same conditions.
        unsafe { self.inner.dealloc_unsized(ptr) }
    }

    unsafe fn realloc(
        &self,
        ptr: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> Option<NonNull<u8>> {
        // SAFETY: the caller answers for the same conditions.
        unsafe { self.inner.realloc(ptr, layout, new_size) }.ok()
    }

    fn usable_size(&self, ptr: NonNull<u8>) -> Option<usize> {
        // SAFETY: the runner frees nothing meanwhile.
        unsafe { self.inner.usable_size(ptr) }
    }

    fn alloc_pages(&self, count: usize, align: usize) -> Option<usize> {
        self.inner.alloc_pages(count, align).ok()
    }

    fn alloc_pages_lowmem(&self, count: usize, align: usize) -> Option<usize> {
        self.inner.alloc_pages_lowmem(count, align).ok()
    }

    fn dealloc_pages(&self, addr: usize, count: usize) {
        self.inner.dealloc_pages(addr, count);
    }

    fn cpu_count(&self) -> usize {
        self.cpu_count
    }

    fn switch_cpu(&self, cpu: usize) {
        set_cpu(cpu);
    }

    fn cpu_online(&self, cpu: usize) {
        let done = self.for_cpu(cpu, || self.inner.cpu_online(cpu));
        assert_eq!(done.is_ok(), cpu < self.cpu_count);
    }

    fn cpu_offline(&self, cpu: usize) {
        let done = self.for_cpu(cpu, || self.inner.cpu_offline(cpu));
        assert_eq!(done.is_ok(), cpu < self.cpu_count);
    }

    fn idle(&self, cpu: usize) {
        let done = self.for_cpu(cpu, || self.inner.idle(cpu));
        assert_eq!(done.is_ok(), cpu < self.cpu_count);
    }

    fn tick(&self, cpu: usize) {
        let done = self.for_cpu(cpu, || self.inner.tick(cpu));
        assert_eq!(done.is_ok(), cpu < self.cpu_count);
    }

    fn shrink(&self) -> usize {
        self.inner.shrink()
    }

    fn add_region(&self, bytes: usize) -> bool {
        let mut region = Region::with_offset(bytes, 4096, bytes % 97);
        // SAFETY: the region is kept, untouched, until after the allocator's last use.
        let added = unsafe { self.inner.add_region(region.bytes_mut()) }.is_ok();
        self.regions.lock().unwrap().push(region);
        added
    }

    fn sections(&self) -> Vec<Range<usize>> {
        (0..self.inner.managed_section_count())
            .filter_map(|i| self.inner.managed_section(i))
            .map(|s| s.start..s.start + s.size)
            .collect()
    }

    fn allocated_bytes(&self) -> Option<usize> {
        Some(self.inner.allocated_bytes())
    }

    fn is_low(&self, addr: usize) -> bool {
        self.map.phys(addr) >> 16 < 0x1_0000
    }

    fn check_invariants(&self) {
        self.inner.check_invariants();
    }
}
