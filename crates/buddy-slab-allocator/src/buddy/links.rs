//! The words in a section's header that belong to the page core, not to the section.

use core::ptr;

use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize};

/// How many lists of metadata slots there are: up to 512 bytes (576 on 32 bits) each size has its
/// own.
pub(super) const SLOT_SIZES: usize = if usize::BITS == 64 { 8 } else { 9 };

/// What the page core keeps about a section, inside the section's own header, so that hundreds
/// or thousands of sections need no table elsewhere. `T` is the section type.
///
/// `id`, `next_added`: written under the topology lock, read by anyone. The rest: written under
/// the node's lock.
pub(crate) struct SectionLinks<T> {
    /// The number in the order of adding; never given twice.
    pub(super) id: AtomicU32,
    /// The section added next. A withdrawn section keeps it for readers that still stand on it.
    pub(super) next_added: AtomicPtr<T>,
    /// The next withdrawn section whose removal is not finished.
    pub(super) next_isolated: AtomicPtr<T>,
    /// Where the node's table has this section.
    pub(super) slot: AtomicUsize,
    /// Pages that hold the allocator's own tables for good.
    pub(super) internal_pages: AtomicUsize,
    /// By slot size: the first page with a free metadata slot; `PFN_NONE` if there is none.
    pub(super) slot_pages: [AtomicU32; SLOT_SIZES],
    /// Withdrawn: nothing may be taken from it.
    pub(super) isolated: AtomicBool,
}

impl<T> SectionLinks<T> {
    /// Links of a section that nobody knows yet.
    pub(crate) fn new() -> Self {
        Self {
            id: AtomicU32::new(0),
            next_added: AtomicPtr::new(ptr::null_mut()),
            next_isolated: AtomicPtr::new(ptr::null_mut()),
            slot: AtomicUsize::new(usize::MAX),
            internal_pages: AtomicUsize::new(0),
            slot_pages: [const { AtomicU32::new(u32::MAX) }; SLOT_SIZES],
            isolated: AtomicBool::new(false),
        }
    }
}
