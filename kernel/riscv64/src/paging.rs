//! Sv39 page tables whose pages come from the heap. The kernel itself runs without translation.

use core::arch::asm;
use core::ptr;

use kernel_core::phases::tables::{frame, free_frame};

use crate::machine::Machine;

const ENTRIES: usize = 512;
const VALID: u64 = 1;
const READ_WRITE: u64 = 0b110;
const EXECUTE: u64 = 0b1000;
/// Accessed and dirty: the hardware need not set them.
const USED: u64 = 0b1100_0000;
const GIGABYTE: u64 = 1 << 30;
/// The kernel's own mapping: the first gigabytes, where they are.
const KERNEL_GIGABYTES: usize = 16;
/// An address outside of that.
const BASE: usize = 0x20_0000_0000;
const SV39: usize = 8 << 60;

/// A table in a page of the heap.
type Table = [u64; ENTRIES];

fn table_at(addr: usize) -> *mut Table {
    ptr::with_exposed_provenance_mut(addr)
}

fn leaf(paddr: u64, rights: u64) -> u64 {
    paddr >> 12 << 10 | rights | USED | VALID
}

fn pointer(table: usize) -> u64 {
    (table as u64) >> 12 << 10 | VALID
}

/// The table that `entry` points to.
fn target(entry: u64) -> usize {
    (entry >> 10 << 12) as usize
}

/// The table below `table` at `index`, made if it is not there.
fn below(table: usize, index: usize, count: &mut usize) -> usize {
    // SAFETY: tables of this module, which nobody else uses.
    let entry = unsafe { &mut (&mut *table_at(table))[index] };
    if *entry & VALID == 0 {
        *entry = pointer(frame::<Machine>());
        *count += 1;
    }
    target(*entry)
}

/// See `Arch::with_mapping`.
pub fn with_mapping(pages: &[usize], visit: &mut dyn FnMut(*mut u8)) -> usize {
    let root = frame::<Machine>();
    let mut count = 1;
    for gigabyte in 0..KERNEL_GIGABYTES {
        // SAFETY: the new table is ours.
        let entry = unsafe { &mut (&mut *table_at(root))[gigabyte] };
        *entry = leaf(gigabyte as u64 * GIGABYTE, READ_WRITE | EXECUTE);
    }
    for (i, page) in pages.iter().enumerate() {
        let address = BASE + i * kernel_core::PAGE_SIZE;
        let index = |level: usize| address >> (12 + 9 * level) & (ENTRIES - 1);
        let middle = below(root, index(2), &mut count);
        let last = below(middle, index(1), &mut count);
        // SAFETY: as in `below`.
        let entry = unsafe { &mut (&mut *table_at(last))[index(0)] };
        assert!(*entry == 0, "{address:#x} is mapped already");
        *entry = leaf(*page as u64, READ_WRITE);
    }
    // SAFETY: the tables map the kernel where it is; translation is off again after.
    unsafe {
        asm!("csrw satp, {}", "sfence.vma", in(reg) SV39 | root >> 12, options(nostack));
        visit(ptr::with_exposed_provenance_mut(BASE));
        asm!("csrw satp, zero", "sfence.vma", options(nostack));
    }
    free_tables(root, 2);
    count
}

/// Gives back a table and those below it; gigabytes of the kernel are leaves.
fn free_tables(table: usize, level: usize) {
    if level != 0 {
        // SAFETY: as in `below`; the tables are not active.
        let entries = unsafe { &*table_at(table) };
        for entry in entries {
            if *entry & VALID != 0 && *entry & (READ_WRITE | EXECUTE) == 0 {
                free_tables(target(*entry), level - 1);
            }
        }
    }
    free_frame::<Machine>(table);
}
