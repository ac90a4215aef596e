//! The published [`BuddyAllocator`]: the page core behind `&mut`, without locks.

use core::fmt;

use super::core::SlabMark;
use super::core::{PageCore, PageError, PageRequest, Wait};
use super::page_meta::PageFlags;
use super::section::{Kind, PhysFn, RegionSpec, Section};
use crate::error::{AllocError, AllocResult};
use crate::platform::OsImpl;
use crate::sync::NoLock;
use crate::units::{NodeId, Order, PhysLimit};

/// A read-only summary of one section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManagedSection {
    /// Address of the first page.
    pub start: usize,
    /// Bytes from the first page to the end of the last, reserved ranges included.
    pub size: usize,
    /// Pages on the section's free lists.
    pub free_pages: usize,
    /// Pages that the section can hand out.
    pub total_pages: usize,
}

/// A page allocator for one owner: no locks, addresses in and out.
///
/// `PAGE_SIZE` is a power of two. Page counts are exact: 5 pages occupy 5, and are freed with the
/// count that they were asked with. Blocks are aligned in the absolute address.
///
/// # Example
/// ```
/// use buddy_slab_allocator::BuddyAllocator;
///
/// let region = vec![0u8; 1 << 20].leak();
/// let mut pages = BuddyAllocator::<0x1000>::new();
/// // SAFETY: leaked: nobody else uses it, and it lives for ever.
/// unsafe { pages.init(region, None) }?;
/// let block = pages.alloc_pages(5, 0x4000)?;
/// assert_eq!(block % 0x4000, 0);
/// assert_eq!(pages.allocated_bytes(), 5 * 0x1000);
/// pages.dealloc_pages(block, 5);
/// assert_eq!(pages.allocated_bytes(), 0);
/// # Ok::<(), buddy_slab_allocator::AllocError>(())
/// ```
pub struct BuddyAllocator<const PAGE_SIZE: usize = 0x1000> {
    core: PageCore<PAGE_SIZE, NoLock>,
    os: Option<&'static dyn OsImpl>,
    misuse_count: usize,
}

impl<const PAGE_SIZE: usize> BuddyAllocator<PAGE_SIZE> {
    /// Bytes of metadata for a heap of `heap_size` bytes; `usize::MAX` if there cannot be so many.
    pub const fn required_meta_size(heap_size: usize) -> usize {
        match Section::<PAGE_SIZE>::metadata_bytes(heap_size / PAGE_SIZE, 0) {
            Some(bytes) => bytes,
            None => usize::MAX,
        }
    }

    /// An allocator without memory: call [`init`](Self::init) first.
    pub const fn new() -> Self {
        Self { core: PageCore::new(), os: None, misuse_count: 0 }
    }

    /// Gives the allocator its first region. `os` tells physical addresses; without it,
    /// [`alloc_pages_lowmem`](Self::alloc_pages_lowmem) is refused.
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] if the region is too small for one page, or the allocator
    /// has a region already. A failed call may be repeated.
    ///
    /// # Safety
    /// - The region is writable and stays the allocator's for as long as it, or anything
    ///   allocated from it, is used.
    pub unsafe fn init(
        &mut self,
        region: &mut [u8],
        os: Option<&'static dyn OsImpl>,
    ) -> AllocResult {
        if !self.core.is_empty() {
            return Err(AllocError::InvalidParam);
        }
        // SAFETY: the condition is the same.
        unsafe { self.add(region, os) }?;
        self.os = os;
        Ok(())
    }

    /// Adds another region; sections serve in the order in which they were added.
    ///
    /// # Errors
    /// [`AllocError::NotInitialized`] before [`init`](Self::init); [`AllocError::InvalidParam`];
    /// [`AllocError::MemoryOverlap`]; [`AllocError::NoMemory`] if the list of sections must grow
    /// and no pages are left for it.
    ///
    /// # Safety
    /// - As for [`init`](Self::init).
    pub unsafe fn add_region(&mut self, region: &mut [u8]) -> AllocResult {
        if self.core.is_empty() {
            return Err(AllocError::NotInitialized);
        }
        // SAFETY: the condition is the same.
        unsafe { self.add(region, self.os) }
    }

    unsafe fn add(&mut self, region: &mut [u8], os: Option<&'static dyn OsImpl>) -> AllocResult {
        let ask = |vaddr: usize| os.map_or(vaddr, |os| os.virt_to_phys(vaddr));
        let spec = RegionSpec {
            base: region.as_mut_ptr(),
            len: region.len(),
            node: NodeId::new(0),
            zeroed: false,
            phys: os.is_some().then_some(&ask as &dyn Fn(usize) -> usize),
            extra_bytes: 0,
        };
        // SAFETY: the region is given up to the allocator (condition of the callers).
        unsafe { self.core.add_region(&spec, core::iter::empty()) }.map(|_| ())
    }

    /// Number of sections.
    pub fn section_count(&self) -> usize {
        self.core.section_count()
    }

    /// Section number `index` in the order of adding.
    pub fn section(&self, index: usize) -> Option<ManagedSection> {
        self.core.section(index)
    }

    /// Pages under management, free or not.
    pub fn total_pages(&self) -> usize {
        self.core.total_pages()
    }

    /// Free pages.
    pub fn free_pages(&self) -> usize {
        self.core.free_pages()
    }

    /// Bytes under management, without metadata.
    pub fn managed_bytes(&self) -> usize {
        self.core.managed_bytes()
    }

    /// Bytes handed out.
    pub fn allocated_bytes(&self) -> usize {
        self.core.allocated_pages().saturating_mul(PAGE_SIZE)
    }

    /// How many calls of [`dealloc_pages`](Self::dealloc_pages) named no block of that count and
    /// were ignored.
    pub fn misuse_count(&self) -> usize {
        self.misuse_count
    }

    /// `count` contiguous pages, aligned to `align` bytes (0 stands for `PAGE_SIZE`).
    ///
    /// # Errors
    /// [`AllocError::InvalidParam`] for a count of 0 or above 2^20 pages, and for an alignment
    /// that is no power of two, below `PAGE_SIZE` or above 2^20 pages; [`AllocError::NoMemory`].
    pub fn alloc_pages(&mut self, count: usize, align: usize) -> AllocResult<usize> {
        self.request(count, align, PhysLimit::NONE, None)
    }

    /// As [`alloc_pages`](Self::alloc_pages), wholly below 4 GiB physical.
    ///
    /// # Errors
    /// Also [`AllocError::InvalidParam`] if `init` was given no `os`.
    pub fn alloc_pages_lowmem(&mut self, count: usize, align: usize) -> AllocResult<usize> {
        let os = self.os.ok_or(AllocError::InvalidParam)?;
        let ask = |vaddr: usize| os.virt_to_phys(vaddr);
        self.request(count, align, PhysLimit::FOUR_GIB, Some(&ask))
    }

    fn request(
        &mut self,
        count: usize,
        align: usize,
        limit: PhysLimit,
        phys: PhysFn<'_>,
    ) -> AllocResult<usize> {
        let align_order = align_order(align, PAGE_SIZE).ok_or(AllocError::InvalidParam)?;
        let request =
            PageRequest { align_order, limit, phys, ..PageRequest::new(count, Kind::Pages) };
        match self.core.alloc(&request) {
            Ok(page) => Ok(page.ptr().expose_provenance().get()),
            Err(PageError::Invalid) => Err(AllocError::InvalidParam),
            Err(_) => Err(AllocError::NoMemory),
        }
    }

    /// Frees the block of `count` pages at `addr`, which may also be one whose first page was
    /// marked with [`PageFlags::Slab`].
    ///
    /// Anything else (a double free, the middle of a block, another count, a foreign address)
    /// changes nothing and is counted in [`misuse_count`](Self::misuse_count).
    pub fn dealloc_pages(&mut self, addr: usize, count: usize) {
        let claimed = self.core.claim_block(addr, Some(count), Kind::Pages, SlabMark::Accept);
        match claimed {
            Ok((page, count)) => {
                // SAFETY: claimed just now, of exactly that count. That nobody uses the memory
                // any more is what giving an address back means; the allocator itself never
                // touches free pages.
                let freed = unsafe { self.core.free(page, count, Wait::Spin) };
                debug_assert_eq!(freed, Ok(()), "no lock to wait for");
            }
            Err(_) => self.misuse_count = self.misuse_count.saturating_add(1),
        }
    }

    /// The flags of the page that contains `addr`. Only the first page of a block carries its
    /// state; the others are `Free`.
    ///
    /// # Errors
    /// [`AllocError::NotFound`] if no section manages `addr`.
    pub fn page_flags(&self, addr: usize) -> AllocResult<PageFlags> {
        self.core.lookup_section(addr).ok_or(AllocError::NotFound)?;
        let Some(page) = self.core.lookup(addr) else { return Ok(PageFlags::Free) };
        Ok(match page.head().flags_byte() {
            1 => PageFlags::Allocated,
            2 => PageFlags::Slab,
            _ => PageFlags::Free,
        })
    }

    /// Marks the page that contains `addr`.
    ///
    /// # Errors
    /// [`AllocError::NotFound`] if no section manages `addr`; [`AllocError::NotAllocated`] if the
    /// page lies inside a block too large to have metadata of its own.
    ///
    /// # Safety
    /// - The page belongs to a block that the caller holds, and a first page is not marked `Free`.
    pub unsafe fn set_page_flags(&mut self, addr: usize, flags: PageFlags) -> AllocResult {
        self.core.lookup_section(addr).ok_or(AllocError::NotFound)?;
        let page = self.core.lookup(addr).ok_or(AllocError::NotAllocated)?;
        // SAFETY: the page is the caller's (condition).
        unsafe { page.set_flags(flags) };
        Ok(())
    }

    /// Checks every counting equation (debug builds; O(pages)).
    ///
    /// # Panics
    /// If one does not hold, with its label: the allocator is corrupt.
    pub fn check_invariants(&self) {
        self.core.check_invariants();
    }
}

/// The order of an alignment in bytes.
fn align_order(align: usize, page_size: usize) -> Option<Order> {
    let align = if align == 0 { page_size } else { align };
    if !align.is_power_of_two() || align < page_size {
        return None;
    }
    Order::new((align.trailing_zeros() - page_size.trailing_zeros()) as u8)
}

impl<const PAGE_SIZE: usize> Default for BuddyAllocator<PAGE_SIZE> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PAGE_SIZE: usize> fmt::Debug for BuddyAllocator<PAGE_SIZE> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuddyAllocator")
            .field("sections", &self.section_count())
            .field("total_pages", &self.total_pages())
            .field("free_pages", &self.free_pages())
            .finish()
    }
}

#[cfg(test)]
#[path = "standalone_tests.rs"]
mod tests;
