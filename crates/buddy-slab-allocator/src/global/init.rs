//! Regions in: the first one, which also holds the heaps, and later ones.

use core::ptr::NonNull;

use super::GlobalAllocator;
use crate::buddy::{RegionSpec, Wait};
use crate::error::{AllocError, AllocResult};
use crate::percpu::HeapTable;
use crate::platform::{OsImpl, Platform};
use crate::sync::atomic::Ordering;
use crate::units::NodeId;

/// No region yet.
pub(super) const NEW: u8 = 0;
/// Somebody is at `init`.
pub(super) const STARTING: u8 = 1;
/// There is memory.
pub(super) const READY: u8 = 2;

/// A function that tells where memory lies physically, if anybody knows.
type Phys<'a> = Option<&'a dyn Fn(usize) -> usize>;

/// A region that is to be managed.
#[derive(Clone, Copy)]
pub(super) struct NewRegion {
    pub(super) base: *mut u8,
    pub(super) len: usize,
    pub(super) node: u8,
    pub(super) zeroed: bool,
}

impl NewRegion {
    pub(super) fn plain(base: *mut u8, len: usize) -> Self {
        Self { base, len, node: 0, zeroed: false }
    }
}

impl<const PAGE_SIZE: usize> GlobalAllocator<PAGE_SIZE> {
    /// Gives the allocator its first region, and attaches the operating system.
    ///
    /// The region may start and end anywhere; what cannot be used is left out, and
    /// [`managed_section`](Self::managed_section) says what is managed. Page metadata and the
    /// heaps of `cpu_count` CPUs lie at the end of the region.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`]: the region has no room for one page, `cpu_count` is 0 or
    /// beyond 32,767, or the allocator is initialised already (from whatever thread). A failed
    /// `init` may be retried.
    ///
    /// # Complexity
    /// O(region / 4 MiB): one call of `virt_to_phys` and one byte of state per 4 MiB.
    ///
    /// # Safety
    /// - `region` is writable, stays valid for as long as the allocator is used, and is used by
    ///   nobody else from now on, except through the allocator.
    pub unsafe fn init(
        &self,
        region: &mut [u8],
        cpu_count: usize,
        os: &'static dyn OsImpl,
    ) -> AllocResult {
        // SAFETY: the same conditions.
        unsafe { self.init_raw_with(region.as_mut_ptr(), region.len(), cpu_count, os) }
    }

    /// [`init`](Self::init) from a pointer and a length: a region may begin at address 0 (whose
    /// page is then left out).
    ///
    /// # Errors
    /// As [`init`](Self::init).
    ///
    /// # Safety
    /// - As for [`init`](Self::init), for the `len` bytes at `base`; `base` may be used to reach
    ///   all of them.
    pub unsafe fn init_raw_with(
        &self,
        base: *mut u8,
        len: usize,
        cpu_count: usize,
        os: &'static dyn OsImpl,
    ) -> AllocResult {
        let phys = |vaddr: usize| os.virt_to_phys(vaddr);
        self.claim_start()?;
        let region = NewRegion::plain(base, len);
        // SAFETY: the region's conditions are the caller's; `claim_start` makes this call the one
        // that starts.
        let result = unsafe { self.start(&region, cpu_count, Some(&phys)) };
        if result.is_ok() {
            // SAFETY: only the one call that starts gets here, and only once with success.
            unsafe { self.platform.attach(os) };
        }
        self.end_start(result)
    }

    /// Attaches the operating system to an allocator that was started early by
    /// [`init_raw`](Self::init_raw) with no CPU, and gives it `cpu_count` heaps.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if the allocator has its CPUs already, or the count is out of
    /// range; [`AllocError::NotInitialized`] before `init_raw`; [`AllocError::NoMemory`].
    ///
    /// # Safety
    /// - No other call of `attach_os` runs at the same time.
    pub unsafe fn attach_os(&self, cpu_count: usize, os: &'static dyn OsImpl) -> AllocResult {
        if self.heaps.cpu_count() != 0 {
            return Err(AllocError::InvalidParam);
        }
        self.attach_cpus(cpu_count)?;
        // SAFETY: once, since there were no CPUs before and there are now (condition: no race).
        unsafe { self.platform.attach(os) };
        Ok(())
    }
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Gives the allocator its first region, on a platform of one's own. With a `cpu_count` of 0
    /// it works before CPUs can be told apart; [`attach_cpus`](Self::attach_cpus) follows.
    ///
    /// # Errors
    /// As [`init`](GlobalAllocator::init), but for the count of 0.
    ///
    /// # Safety
    /// - The `len` bytes at `base` are writable through `base`, stay valid for as long as the
    ///   allocator is used, and are used by nobody else, except through the allocator.
    pub unsafe fn init_raw(&self, base: *mut u8, len: usize, cpu_count: usize) -> AllocResult {
        // SAFETY: the same conditions.
        unsafe { self.init_region(&NewRegion::plain(base, len), cpu_count) }
    }

    /// [`init_raw`](Self::init_raw) of memory that is known to be zero, which zeroed allocations
    /// then need not clear while it is fresh.
    ///
    /// # Errors
    /// As [`init_raw`](Self::init_raw).
    ///
    /// # Safety
    /// - As for [`init_raw`](Self::init_raw), and every byte of the region is zero.
    pub unsafe fn init_zeroed(&self, base: *mut u8, len: usize, cpu_count: usize) -> AllocResult {
        let region = NewRegion { zeroed: true, ..NewRegion::plain(base, len) };
        // SAFETY: the same conditions.
        unsafe { self.init_region(&region, cpu_count) }
    }

    /// # Safety
    /// - As for `init_raw`; if the region says zeroed, all of it is.
    pub(super) unsafe fn init_region(&self, region: &NewRegion, cpu_count: usize) -> AllocResult {
        self.claim_start()?;
        let phys = |vaddr: usize| self.phys(vaddr);
        let phys: Phys<'_> = if self.platform.virt_to_phys(region.base.addr()).is_some() {
            Some(&phys)
        } else {
            None
        };
        let result = if cpu_count == 0 {
            // SAFETY: as below.
            unsafe { self.start_without_cpus(region, phys) }
        } else {
            // SAFETY: the region's conditions are the caller's; `claim_start` makes this call the
            // one that starts.
            unsafe { self.start(region, cpu_count, phys) }
        };
        self.end_start(result)
    }

    /// Gives `cpu_count` CPUs a heap each, once they can be told apart: while no other CPU is inside
    /// the allocator, and no handler that uses it can interrupt this call.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if the CPUs have heaps already or the count is out of range;
    /// [`AllocError::NotInitialized`]; [`AllocError::NoMemory`].
    pub fn attach_cpus(&self, cpu_count: usize) -> AllocResult {
        if cpu_count == 0 || cpu_count > HeapTable::<PAGE_SIZE, P::Lock>::MAX_CPUS {
            return Err(AllocError::InvalidParam);
        }
        self.alone(|| self.attach_cpus_once(cpu_count))
    }

    /// Makes room for the heaps of `capacity` CPUs, of which none has one yet:
    /// [`bring_up_cpus`](Self::bring_up_cpus) builds them as they come. For a platform that may
    /// have very many CPUs (or threads) and mostly has few: a heap that is not built costs address
    /// space and no memory.
    ///
    /// # Errors
    /// As [`attach_cpus`](Self::attach_cpus).
    pub fn reserve_cpus(&self, capacity: usize) -> AllocResult {
        if capacity == 0 || capacity > HeapTable::<PAGE_SIZE, P::Lock>::MAX_CPUS {
            return Err(AllocError::InvalidParam);
        }
        self.alone(|| self.reserve_cpus_once(capacity))
    }

    /// Sees to it that the CPUs below `count` have heaps. Other CPUs may be inside the allocator
    /// meanwhile; a handler may not call this.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if there is no room for so many, or another caller is at it:
    /// try again; [`AllocError::NotInitialized`].
    ///
    /// # Complexity
    /// O(heaps that are built).
    pub fn bring_up_cpus(&self, count: usize) -> AllocResult {
        if count <= self.heaps.cpu_count() {
            return Ok(());
        }
        self.alone(|| {
            if count > self.heaps.capacity() {
                return Err(AllocError::InvalidParam);
            }
            // SAFETY: one caller at a time, by the state.
            unsafe { self.heaps.bring_up(count, |cpu| self.node_of(cpu)) };
            Ok(())
        })
    }

    /// For how many CPUs there is room.
    pub fn cpu_capacity(&self) -> usize {
        self.heaps.capacity()
    }

    /// How many CPUs have heaps.
    pub fn cpu_count(&self) -> usize {
        self.heaps.cpu_count()
    }

    /// One caller at a time: the state goes through `STARTING` again.
    fn alone(&self, change: impl FnOnce() -> AllocResult) -> AllocResult {
        let exchange =
            self.state.compare_exchange(READY, STARTING, Ordering::Acquire, Ordering::Relaxed);
        match exchange {
            Ok(_) => {}
            Err(NEW) => return Err(AllocError::NotInitialized),
            Err(_) => return Err(AllocError::InvalidParam),
        }
        let result = change();
        self.release_state();
        result
    }

    /// Keeps the heaps of CPUs as they are, unless another caller is changing them.
    pub(super) fn hold_state(&self) -> bool {
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        self.state.compare_exchange(READY, STARTING, acquire, relaxed).is_ok()
    }

    /// The end of what `hold_state` began.
    pub(super) fn release_state(&self) {
        self.state.store(READY, Ordering::Release);
    }

    fn attach_cpus_once(&self, cpu_count: usize) -> AllocResult {
        self.reserve_cpus_once(cpu_count)?;
        // SAFETY: one caller at a time, by the state.
        unsafe { self.heaps.bring_up(cpu_count, |cpu| self.node_of(cpu)) };
        Ok(())
    }

    fn reserve_cpus_once(&self, capacity: usize) -> AllocResult {
        if self.heaps.capacity() != 0 {
            return Err(AllocError::InvalidParam);
        }
        let bytes =
            HeapTable::<PAGE_SIZE, P::Lock>::bytes_for(capacity).ok_or(AllocError::InvalidParam)?;
        let page = self.internal_pages(bytes.div_ceil(PAGE_SIZE))?;
        // SAFETY: fresh pages of that size, page-aligned, kept for ever; once, as checked above.
        unsafe { self.heaps.reserve_cpus(page, capacity) };
        Ok(())
    }

    fn node_of(&self, cpu: usize) -> NodeId {
        NodeId::new(self.platform.node_of(cpu))
    }

    fn phys(&self, vaddr: usize) -> usize {
        let phys = self.platform.virt_to_phys(vaddr).unwrap_or(u64::MAX);
        usize::try_from(phys).unwrap_or(usize::MAX)
    }

    fn claim_start(&self) -> AllocResult {
        self.state
            .compare_exchange(NEW, STARTING, Ordering::Acquire, Ordering::Relaxed)
            .map_or(Err(AllocError::InvalidParam), |_| Ok(()))
    }

    fn end_start(&self, result: AllocResult) -> AllocResult {
        let state = if result.is_ok() { READY } else { NEW };
        if result.is_ok() {
            // Nobody else is here yet, so nothing has to be waited for.
            self.fill_stock(Wait::Try);
        }
        self.state.store(state, Ordering::Release);
        result
    }

    /// # Safety
    /// - The region is as `init` asks for, and this is the one call that starts.
    unsafe fn start(&self, region: &NewRegion, cpu_count: usize, phys: Phys<'_>) -> AllocResult {
        if cpu_count == 0 || cpu_count > HeapTable::<PAGE_SIZE, P::Lock>::MAX_CPUS {
            return Err(AllocError::InvalidParam);
        }
        let bytes_for = HeapTable::<PAGE_SIZE, P::Lock>::bytes_for;
        let (shared_bytes, cpu_bytes) =
            bytes_for(P::SHARED_HEAPS).zip(bytes_for(cpu_count)).ok_or(AllocError::InvalidParam)?;
        let bytes = shared_bytes.checked_add(cpu_bytes).ok_or(AllocError::InvalidParam)?;
        // SAFETY: the region's conditions; the extra bytes hold first the shared heaps, then the
        // CPUs', and both tables are attached once, by the one call that starts.
        unsafe {
            let extra = self.add_first(region, phys, bytes)?;
            self.heaps.attach_shared(extra, P::SHARED_HEAPS);
            self.heaps.attach_cpus(extra.add(shared_bytes), cpu_count, |cpu| self.node_of(cpu));
        }
        Ok(())
    }

    /// # Safety
    /// - As for `start`.
    unsafe fn start_without_cpus(&self, region: &NewRegion, phys: Phys<'_>) -> AllocResult {
        let bytes = HeapTable::<PAGE_SIZE, P::Lock>::bytes_for(P::SHARED_HEAPS)
            .ok_or(AllocError::InvalidParam)?;
        // SAFETY: the region's conditions; attached once, by the one call that starts.
        unsafe {
            let extra = self.add_first(region, phys, bytes)?;
            self.heaps.attach_shared(extra, P::SHARED_HEAPS);
        }
        Ok(())
    }

    /// # Safety
    /// - As for `start`.
    unsafe fn add_first(
        &self,
        region: &NewRegion,
        phys: Phys<'_>,
        extra_bytes: usize,
    ) -> AllocResult<NonNull<u8>> {
        let spec = region.spec(phys, extra_bytes);
        // SAFETY: the region's conditions.
        let (_, extra) = unsafe { self.core.add_region(&spec, core::iter::empty())? };
        Ok(extra)
    }

    /// Manages a further region. Not from a handler that may have interrupted the allocator.
    ///
    /// # Errors
    /// [`AllocError::NotInitialized`] before `init`; [`AllocError::NoMemory`] in a handler that is
    /// known to have interrupted the allocator, and if the tables of sections cannot grow; [`AllocError::MemoryOverlap`];
    /// [`AllocError::InvalidParam`] if it has no room for one page.
    ///
    /// # Complexity
    /// O(region / 4 MiB + sections); takes the node's lock, and calls `virt_to_phys` without it.
    ///
    /// # Safety
    /// - `region` is writable, stays valid for as long as the allocator is used, and is used by
    ///   nobody else, except through the allocator.
    pub unsafe fn add_region(&self, region: &mut [u8]) -> AllocResult {
        // SAFETY: the same conditions.
        unsafe { self.add_region_raw(region.as_mut_ptr(), region.len(), 0) }
    }

    /// [`add_region`](Self::add_region) from a pointer and a length, near NUMA node `node`.
    ///
    /// # Errors
    /// As [`add_region`](Self::add_region); [`AllocError::InvalidParam`] also for a node beyond
    /// the eighth (the second on 32-bit targets).
    ///
    /// # Safety
    /// - As for [`add_region`](Self::add_region), for the `len` bytes at `base`.
    pub unsafe fn add_region_raw(&self, base: *mut u8, len: usize, node: u8) -> AllocResult {
        // SAFETY: the same conditions.
        unsafe { self.add_new_region(&NewRegion { node, ..NewRegion::plain(base, len) }) }
    }

    /// [`add_region_raw`](Self::add_region_raw) of memory that is known to be zero, which zeroed
    /// allocations then need not clear while it is fresh.
    ///
    /// # Errors
    /// As [`add_region_raw`](Self::add_region_raw).
    ///
    /// # Safety
    /// - As for [`add_region_raw`](Self::add_region_raw), and every byte of the region is zero.
    pub unsafe fn add_zeroed_region(&self, base: *mut u8, len: usize, node: u8) -> AllocResult {
        // SAFETY: the same conditions.
        unsafe {
            self.add_new_region(&NewRegion { node, zeroed: true, ..NewRegion::plain(base, len) })
        }
    }

    /// # Safety
    /// - As for `add_region`; if the region says zeroed, all of it is.
    pub(super) unsafe fn add_new_region(&self, region: &NewRegion) -> AllocResult {
        if !self.is_ready() {
            return Err(AllocError::NotInitialized);
        }
        let phys = |vaddr: usize| self.phys(vaddr);
        let phys: Phys<'_> = if self.platform.virt_to_phys(region.base.addr()).is_some() {
            Some(&phys)
        } else {
            None
        };
        let spec = region.spec(phys, 0);
        self.announced(|wait| {
            if wait == Wait::Try {
                return Err(AllocError::NoMemory); // a handler must not wait for what it interrupted
            }
            // SAFETY: the region's conditions.
            unsafe { self.core.add_region(&spec, core::iter::empty()) }
        })?;
        Ok(())
    }

    /// Whether `init` has succeeded. (While CPUs are attached it has.)
    pub(super) fn is_ready(&self) -> bool {
        self.heaps.shared_count() != 0
    }
}

impl NewRegion {
    fn spec<'a>(&self, phys: Phys<'a>, extra_bytes: usize) -> RegionSpec<'a> {
        let node = NodeId::new(self.node);
        let Self { base, len, zeroed, .. } = *self;
        RegionSpec { base, len, node, zeroed, phys, extra_bytes }
    }
}
