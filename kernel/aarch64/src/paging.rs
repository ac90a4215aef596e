//! Page tables whose pages come from the heap, by the `aarch64-paging` crate's `Translation`.

use core::ptr::{self, NonNull};

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, PageTable, Translation, VaRange};
use kernel_core::PAGE_SIZE;
use kernel_core::phases::tables::{frame, free_frame};

use crate::machine::Machine;

const GIGABYTE: usize = 1 << 30;
/// Where the boot tables end (`entry.s`): one gigabyte of devices, sixteen of memory.
pub const MAPPED_END: usize = 17 * GIGABYTE;
/// An address outside of that.
const BASE: usize = 0x20_0000_0000;
/// The level of the root table for 39 bits of address.
const ROOT_LEVEL: usize = 1;
/// The number of these tables' entries in the TLB; the boot tables' is 0.
const ASID: usize = 1;

/// Entries as in `entry.s`, of its two kinds of memory.
const VALID: El1Attributes = El1Attributes::VALID
    .union(El1Attributes::ACCESSED)
    .union(El1Attributes::NON_GLOBAL)
    .union(El1Attributes::UXN);
const DEVICE: El1Attributes =
    VALID.union(El1Attributes::PXN).union(El1Attributes::ATTRIBUTE_INDEX_0);
const MEMORY: El1Attributes =
    VALID.union(El1Attributes::INNER_SHAREABLE).union(El1Attributes::ATTRIBUTE_INDEX_1);

/// The heap as a source of page tables; counts what it gave.
struct Frames(usize);

fn table_at(addr: usize) -> NonNull<PageTable<El1Attributes>> {
    match NonNull::new(ptr::with_exposed_provenance_mut(addr)) {
        Some(table) => table,
        None => panic!("a page table at address 0"),
    }
}

impl Translation<El1Attributes> for Frames {
    fn allocate_table(&mut self) -> (NonNull<PageTable<El1Attributes>>, PhysicalAddress) {
        let addr = frame::<Machine>();
        self.0 += 1;
        (table_at(addr), PhysicalAddress(addr))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<PageTable<El1Attributes>>) {
        free_frame::<Machine>(table.addr().get());
    }

    fn physical_to_virtual(&self, table: PhysicalAddress) -> NonNull<PageTable<El1Attributes>> {
        table_at(table.0)
    }
}

/// See `Arch::with_mapping`.
pub fn with_mapping(pages: &[usize], visit: &mut dyn FnMut(*mut u8)) -> usize {
    let mut tables =
        Mapping::with_asid_and_va_range(Frames(0), ASID, ROOT_LEVEL, El1And0, VaRange::Lower);
    let mut map = |from: usize, to: usize, target: usize, attributes, constraints| {
        let region = MemoryRegion::new(from, to);
        if let Err(error) =
            tables.map_range(&region, PhysicalAddress(target), attributes, constraints)
        {
            panic!("{region} cannot be mapped: {error}");
        }
    };
    map(0, GIGABYTE, 0, DEVICE, Constraints::empty());
    map(GIGABYTE, MAPPED_END, GIGABYTE, MEMORY, Constraints::NO_CONTIGUOUS_HINT);
    for (i, page) in pages.iter().enumerate() {
        let at = BASE + i * PAGE_SIZE;
        let attributes = MEMORY | El1Attributes::PXN;
        map(at, at + PAGE_SIZE, *page, attributes, Constraints::NO_BLOCK_MAPPINGS);
    }
    // SAFETY: the new tables map the kernel as the old ones do; the old ones come back after.
    unsafe {
        let old = tables.activate();
        visit(ptr::with_exposed_provenance_mut(BASE));
        tables.deactivate(old);
    }
    tables.translation().0
}
