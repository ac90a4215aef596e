//! Page tables whose pages come from the heap, by the `x86_64` crate's `FrameAllocator`.

use core::ptr;

use kernel_core::phases::tables::{frame, free_frame};
use x86_64::registers::control::Cr3;
use x86_64::structures::paging::mapper::CleanUp;
use x86_64::structures::paging::{
    FrameAllocator, FrameDeallocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags,
    PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::machine::Machine;

/// The heap as a source of page tables; counts what it gave.
struct Frames(usize);

// SAFETY: pages of the heap are nobody else's, and memory is mapped where it is.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        self.0 += 1;
        PhysFrame::from_start_address(PhysAddr::new(frame::<Machine>() as u64)).ok()
    }
}

impl FrameDeallocator<Size4KiB> for Frames {
    unsafe fn deallocate_frame(&mut self, page: PhysFrame) {
        free_frame::<Machine>(page.start_address().as_u64() as usize);
    }
}

/// An address outside the kernel's own mapping.
const BASE: u64 = 0x4000_0000_0000;

/// See `Arch::with_mapping`.
pub fn with_mapping(pages: &[usize], visit: &mut dyn FnMut(*mut u8)) -> usize {
    let (old, flags) = Cr3::read();
    let mut frames = Frames(0);
    let Some(root) = frames.allocate_frame() else { panic!("no page for the root table") };
    let table_at = |frame: PhysFrame| {
        ptr::with_exposed_provenance_mut::<PageTable>(frame.start_address().as_u64() as usize)
    };
    // SAFETY: the new table is ours; the old one stays as it is.
    let (table, kernel) = unsafe { (&mut *table_at(root), &*table_at(old)) };
    table[0] = kernel[0].clone();
    // SAFETY: memory is mapped where it is.
    let mut mapper = unsafe { OffsetPageTable::new(table, VirtAddr::new(0)) };
    let page_at = |i: usize| {
        Page::<Size4KiB>::containing_address(VirtAddr::new(
            BASE + (i * kernel_core::PAGE_SIZE) as u64,
        ))
    };
    let rights = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE;
    for (i, addr) in pages.iter().enumerate() {
        let target = PhysFrame::containing_address(PhysAddr::new(*addr as u64));
        // SAFETY: these tables are not active yet; the page is the caller's.
        match unsafe { mapper.map_to(page_at(i), target, rights, &mut frames) } {
            Ok(flush) => flush.ignore(),
            Err(error) => panic!("page {i} cannot be mapped: {error:?}"),
        }
    }
    // SAFETY: the new tables map the kernel as the old ones do; the old ones come back after.
    unsafe {
        Cr3::write(root, flags);
        visit(ptr::with_exposed_provenance_mut(BASE as usize));
        Cr3::write(old, flags);
    }
    for i in 0..pages.len() {
        match mapper.unmap(page_at(i)) {
            Ok((_, flush)) => flush.ignore(),
            Err(error) => panic!("page {i} cannot be unmapped: {error:?}"),
        }
    }
    let used = frames.0;
    // SAFETY: the tables are not active; the range holds nothing but what was mapped here.
    unsafe {
        let range = Page::range_inclusive(page_at(0), page_at(pages.len()));
        mapper.clean_up_addr_range(range, &mut frames);
        frames.deallocate_frame(root);
    }
    used
}
