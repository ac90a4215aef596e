//! Tests of a section as a whole: creation, deterministic scenarios, and a model of pages.

extern crate std;

mod creation;
mod limits;
mod model;
mod runs;
mod scenarios;

use std::vec::Vec;

use super::layout::CARVE_BYTES;
use super::{Kind, PageMark, PhysFn, Placement, RegionSpec, Section, TakeRequest, Taken};
use crate::error::AllocError;
use crate::units::{NodeId, Order, Pfn, PhysLimit, Zone};

/// Address space that costs nothing until touched, aligned to 1 GiB or to a carve block.
pub(super) struct Arena {
    map: *mut u8,
    map_len: usize,
    base: *mut u8,
}

impl Arena {
    /// `len` bytes from a multiple of `align`.
    pub(super) fn aligned(len: usize, align: usize) -> Self {
        let map_len = len + align;
        // SAFETY: a new anonymous mapping.
        let map = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(map, libc::MAP_FAILED);
        let map = map.cast::<u8>();
        Self { map, map_len, base: map.wrapping_add(map.align_offset(align)) }
    }

    pub(super) fn new(len: usize) -> Self {
        Self::aligned(len, CARVE_BYTES)
    }

    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        self.base.wrapping_add(offset)
    }

    pub(super) fn fill(&self, offset: usize, len: usize, byte: u8) {
        // SAFETY: inside the mapping.
        unsafe { self.at(offset).write_bytes(byte, len) }
    }

    /// How many bytes of `len` from `offset` are backed by memory.
    pub(super) fn resident(&self, offset: usize, len: usize) -> usize {
        let page = 4096;
        let start = self.at(offset).map_addr(|addr| addr & !(page - 1));
        let mut seen = std::vec![0_u8; len.div_ceil(page) + 1];
        let bytes = (self.at(offset + len).addr() - start.addr()).next_multiple_of(page);
        // SAFETY: inside the mapping; the vector has a byte for each page.
        let failed = unsafe { libc::mincore(start.cast(), bytes, seen.as_mut_ptr().cast()) };
        assert_eq!(failed, 0);
        seen.iter().filter(|byte| **byte & 1 == 1).count() * page
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `aligned`, whole.
        unsafe { libc::munmap(self.map.cast(), self.map_len) };
    }
}

#[derive(Default)]
pub(super) struct Make<'a> {
    pub offset: usize,
    pub len: usize,
    pub zeroed: bool,
    pub phys: PhysFn<'a>,
    pub extra_bytes: usize,
    /// Offsets in the arena, and bytes.
    pub reserved: &'a [(usize, usize)],
}

/// Makes a section in the arena.
pub(super) fn make<'a, const P: usize>(
    arena: &'a Arena,
    how: Make<'_>,
) -> Result<&'a Section<P>, AllocError> {
    make_with_extra(arena, how).map(|(section, _)| section)
}

pub(super) fn make_with_extra<'a, const P: usize>(
    arena: &'a Arena,
    how: Make<'_>,
) -> Result<(&'a Section<P>, *mut u8), AllocError> {
    let base = arena.at(how.offset);
    let spec = RegionSpec {
        base,
        len: how.len,
        node: NodeId::new(0),
        zeroed: how.zeroed,
        phys: how.phys,
        extra_bytes: how.extra_bytes,
    };
    let origin = arena.at(0).addr();
    let reserved = how.reserved.iter().map(|(offset, len)| (origin + offset, *len));
    // SAFETY: part of the arena, which nothing else uses and which outlives the section.
    let (section, extra) = unsafe { Section::<P>::create(&spec, reserved) }?;
    // SAFETY: just made; shared references only.
    let section = unsafe { section.as_ref() };
    check(section);
    assert!(section.start() >= base.addr());
    assert!(core::ptr::from_ref(section).addr() + size_of::<Section<P>>() <= base.addr() + how.len);
    Ok((section, extra.as_ptr()))
}

pub(super) fn check<const P: usize>(section: &Section<P>) {
    // SAFETY: one thread: it has the lock, so to speak.
    unsafe { section.check_invariants() }
}

pub(super) fn order(order: u8) -> Order {
    Order::new(order).unwrap()
}

pub(super) fn pfn(index: usize) -> Pfn {
    Pfn::from_index(index).unwrap()
}

pub(super) fn request(count: usize, align_order: u8) -> TakeRequest {
    TakeRequest {
        count,
        align_order: order(align_order),
        limit: PhysLimit::NONE,
        kind: Kind::Pages,
        placement: Placement::Snug,
    }
}

pub(super) fn take<const P: usize>(section: &Section<P>, count: usize, align: u8) -> Option<Taken> {
    take_as(section, Kind::Pages, count, align)
}

pub(super) fn take_as<const P: usize>(
    section: &Section<P>,
    kind: Kind,
    count: usize,
    align: u8,
) -> Option<Taken> {
    let request = TakeRequest { kind, ..request(count, align) };
    // SAFETY: one thread.
    Zone::FALLBACK.iter().find_map(|zone| unsafe { section.alloc(*zone, &request, None) })
}

pub(super) fn give<const P: usize>(section: &Section<P>, pfn: Pfn, count: usize) {
    // SAFETY: one thread; the tests give back what they took.
    unsafe { section.free(pfn, count) }
}

/// The free blocks, as (zone, order, how many).
pub(super) fn shape<const P: usize>(section: &Section<P>) -> Vec<(Zone, u8, usize)> {
    let mut shape = Vec::new();
    for zone in Zone::ALL {
        for order in (0..=20).filter_map(Order::new) {
            match section.free_blocks(zone, order) {
                0 => {}
                count => shape.push((zone, order.get(), count)),
            }
        }
    }
    shape
}
