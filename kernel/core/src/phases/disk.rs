//! A `virtio-blk` disk whose queues and buffers are pages of this heap, below the device's limit.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::PageOptions;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

use crate::arch::Arch;
use crate::pattern::Random;
use crate::{PAGE_SIZE, say};

static PAGES: AtomicUsize = AtomicUsize::new(0);

/// What the driver asks of the kernel.
pub struct KernelHal<A>(PhantomData<A>);

/// Pages that the device can reach, or 0.
fn dma_pages<A: Arch>(count: usize) -> usize {
    let options = PageOptions { physical_limit: Some(A::DMA_LIMIT), ..PageOptions::default() };
    let Ok(addr) = A::heap().alloc_pages_with(count, &options) else { return 0 };
    let end = A::virt_to_phys(addr) + (count * PAGE_SIZE) as u64;
    assert!(end <= A::DMA_LIMIT, "DMA pages up to {end:#x}, beyond {:#x}", A::DMA_LIMIT);
    PAGES.fetch_add(count, Ordering::Relaxed);
    addr
}

// SAFETY: the pages are the driver's from `dma_alloc` to `dma_dealloc`; physical addresses are what
// the machine says; buffers that are shared are pages of the same kind, which the device reaches.
unsafe impl<A: Arch> Hal for KernelHal<A> {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let addr = dma_pages::<A>(pages);
        let Some(page) = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(addr)) else {
            return (0, NonNull::dangling());
        };
        // SAFETY: just allocated; the driver wants zeros.
        unsafe { page.write_bytes(0, pages * PAGE_SIZE) };
        (A::virt_to_phys(addr), page)
    }

    unsafe fn dma_dealloc(_: PhysAddr, page: NonNull<u8>, pages: usize) -> i32 {
        A::heap().dealloc_pages(page.as_ptr().addr(), pages);
        0
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _: usize) -> NonNull<u8> {
        let virt = A::phys_to_virt(paddr);
        NonNull::new(ptr::with_exposed_provenance_mut(virt)).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        A::virt_to_phys(buffer.cast::<u8>().as_ptr().expose_provenance())
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

const BUFFER_PAGES: usize = 4;
const SECTORS: usize = BUFFER_PAGES * PAGE_SIZE / SECTOR_SIZE;

/// Verifies what the disk holds (each sector begins with its number and this magic, as `cargo xtask`
/// wrote it), then writes all of it anew and reads it back.
pub(super) fn run<A: Arch>() {
    let Some(transport) = A::disk() else {
        say!(A, "this machine has no disk");
        return;
    };
    let mut disk = match VirtIOBlk::<KernelHal<A>, _>::new(transport) {
        Ok(disk) => disk,
        Err(error) => panic!("the disk does not start: {error:?}"),
    };
    let sectors = disk.capacity() as usize;
    assert!(sectors >= 2 * SECTORS, "the disk has {sectors} sectors");
    let addr = dma_pages::<A>(BUFFER_PAGES);
    assert!(addr != 0, "no buffer below {:#x}", A::DMA_LIMIT);
    let base: *mut u8 = ptr::with_exposed_provenance_mut(addr);
    // SAFETY: just allocated, given back below; initialised here.
    let buffer = unsafe {
        base.write_bytes(0, BUFFER_PAGES * PAGE_SIZE);
        core::slice::from_raw_parts_mut(base, BUFFER_PAGES * PAGE_SIZE)
    };
    let sectors = sectors - sectors % SECTORS;
    for first in (0..sectors).step_by(SECTORS) {
        disk.read_blocks(first, buffer).unwrap_or_else(|error| panic!("read: {error:?}"));
        for (i, sector) in buffer.chunks(SECTOR_SIZE).enumerate() {
            assert!(sector[..16] == sector_start(first + i), "sector {} is not its own", first + i);
        }
        fill(buffer, first);
        disk.write_blocks(first, buffer).unwrap_or_else(|error| panic!("write: {error:?}"));
    }
    for first in (0..sectors).step_by(SECTORS) {
        disk.read_blocks(first, buffer).unwrap_or_else(|error| panic!("read: {error:?}"));
        let mut random = Random::new(first as u64);
        let right = buffer.chunks(8).all(|word| word == random.next_number().to_le_bytes());
        assert!(right, "what was written to sector {first} did not come back");
    }
    drop(disk);
    A::heap().dealloc_pages(addr, BUFFER_PAGES);
    say!(
        A,
        "{sectors} sectors read, written, read; {} DMA pages, all below {:#x}",
        PAGES.load(Ordering::Relaxed),
        A::DMA_LIMIT
    );
}

/// How `cargo xtask` begins a sector.
fn sector_start(number: usize) -> [u8; 16] {
    let mut start = *b"sector..        ";
    start[8..].copy_from_slice(&(number as u64).to_le_bytes());
    start
}

fn fill(buffer: &mut [u8], first: usize) {
    let mut random = Random::new(first as u64);
    for word in buffer.chunks_mut(8) {
        word.copy_from_slice(&random.next_number().to_le_bytes());
    }
}
