//! Page core: against a model, under threads, and case by case.

extern crate std;

mod cases;
mod model;
mod stress;

use core::ptr::NonNull;
use std::alloc::{Layout, alloc, dealloc};

use super::super::section::{PhysFn, RegionSpec, Section};
use super::PageCore;
use crate::error::AllocError;
use crate::sync::{RawLock, SpinLock};
use crate::units::NodeId;

pub(super) const PAGE: usize = 4096;
pub(super) type Core = PageCore<PAGE, SpinLock>;

/// Memory full of garbage, as a kernel finds it.
pub(super) struct Region {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory.
unsafe impl Send for Region {}
// SAFETY: plain memory, written through raw pointers only.
unsafe impl Sync for Region {}

impl Region {
    pub(super) fn new(bytes: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(bytes, align).unwrap();
        // SAFETY: the size is not zero.
        let ptr = NonNull::new(unsafe { alloc(layout) }).unwrap();
        let region = Self { ptr, layout };
        region.scribble();
        region
    }

    pub(super) fn scribble(&self) {
        // SAFETY: our own memory.
        unsafe { self.ptr.write_bytes(0xA5, self.layout.size()) };
    }

    pub(super) fn addr(&self) -> usize {
        self.ptr.addr().get()
    }

    pub(super) fn len(&self) -> usize {
        self.layout.size()
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Adds the whole region to a core.
    pub(super) fn add_to<L: RawLock>(
        &self,
        core: &PageCore<PAGE, L>,
        node: u8,
        phys: PhysFn<'_>,
    ) -> Result<NonNull<Section<PAGE>>, AllocError> {
        let spec = RegionSpec {
            base: self.base(),
            len: self.len(),
            node: NodeId::new(node),
            zeroed: false,
            phys,
            extra_bytes: 100,
        };
        // SAFETY: the tests give a region to one core at a time and keep it alive.
        let (section, extra) = unsafe { core.add_region(&spec, core::iter::empty()) }?;
        assert_eq!(extra.addr().get() % 64, 0);
        Ok(section)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}
