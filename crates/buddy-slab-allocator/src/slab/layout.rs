//! Where the parts of a slab descriptor lie, by the number of objects it records.
//!
//! ```text
//!          compact (pages < 4 KiB)   regular (<= 512 objects)     large
//! line 0   used, cursor, 16 bytes    used, cursor, free[0..7]     used, cursor
//!          of free, the groups       (64-bit)
//! line 1   header                    free[7], header              header
//! line 2.. -                         groups                       groups, then free[]
//! ```
//! Line 0 is what the owner writes on every operation, line 1 what every CPU reads to free an
//! object, the groups what other CPUs write. Only a slab of more than 448 objects (64-bit), which
//! at 4 KiB pages is one of 8-byte objects, has an owner's word beside the header.
//!
//! A group finds its descriptor from its own address and a *line tag*, which fits the bits that
//! the alignment of groups leaves free in a pointer (see `groups`); that bounds the large layout.

#![forbid(unsafe_code)]

use super::groups::GROUP_BYTES;

/// Objects per group: the bits of a word.
pub(super) const GROUP_OBJECTS: usize = usize::BITS as usize;

/// Bytes of one word of free bits.
pub(super) const WORD_BYTES: usize = size_of::<usize>();

/// What descriptors are aligned to: a cache line.
pub(super) const LINE: usize = 64;

/// Where the free words begin, unless the layout is large.
const INLINE_FREE_AT: usize = 8;

/// Where the free words of a regular layout end: so many bytes of them lie before the header.
pub(super) const INLINE_FREE_BYTES: usize = 64;

/// Where the groups begin, unless the layout is compact.
const GROUPS_AT: usize = 2 * LINE;

/// Where the groups of a compact layout begin.
const COMPACT_GROUPS_AT: usize = 32;

/// Objects that a compact layout records.
const COMPACT_OBJECTS: usize = 128;

/// Objects that a regular layout records.
const REGULAR_OBJECTS: usize = 512;

/// Objects that the largest layout records: one line of groups for every non-zero line tag.
const LARGE_OBJECTS: usize = (GROUP_BYTES - 1) * (LINE / GROUP_BYTES) * GROUP_OBJECTS;

/// The parts of one descriptor, as byte offsets from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescriptorLayout {
    /// The first word of free bits.
    pub(super) free_at: usize,
    /// The first group of remote words.
    pub(super) groups_at: usize,
    /// How many groups, and free words, there are.
    pub(super) group_count: usize,
    /// Bytes in all: whole cache lines.
    pub(super) bytes: usize,
}

impl DescriptorLayout {
    /// The layout of a descriptor that records `object_count` objects, at most
    /// [`max_objects`](Self::max_objects).
    pub(super) const fn new(object_count: usize, page_size: usize) -> Self {
        let group_count = object_count.div_ceil(GROUP_OBJECTS);
        let (free_at, groups_at, end) = if page_size < 4096 {
            (INLINE_FREE_AT, COMPACT_GROUPS_AT, GROUPS_AT)
        } else if object_count <= REGULAR_OBJECTS {
            (INLINE_FREE_AT, GROUPS_AT, GROUPS_AT + group_count * GROUP_BYTES)
        } else {
            let free_at = GROUPS_AT + group_count * GROUP_BYTES;
            (free_at, GROUPS_AT, free_at + group_count * WORD_BYTES)
        };
        Self { free_at, groups_at, group_count, bytes: end.next_multiple_of(LINE) }
    }

    /// The largest layout for this page size.
    pub(super) const fn largest(page_size: usize) -> Self {
        Self::new(Self::max_objects(page_size), page_size)
    }

    /// The most objects that a descriptor records: an eighth of the page (as many as 8-byte
    /// objects fill one), at least 512 from 4 KiB pages on, and 128 below, where the descriptor
    /// must stay a small part of a page.
    pub(super) const fn max_objects(page_size: usize) -> usize {
        let fill_page = page_size / 8;
        if page_size < 4096 {
            COMPACT_OBJECTS
        } else if fill_page <= REGULAR_OBJECTS {
            REGULAR_OBJECTS
        } else if fill_page < LARGE_OBJECTS {
            fill_page
        } else {
            LARGE_OBJECTS
        }
    }
}

/// The line tag of a group: which line of the descriptor it lies in, counted so that line 1 (the
/// header) needs none.
pub(super) const fn line_tag(group_offset: usize) -> usize {
    (group_offset / LINE).saturating_sub(1)
}

/// The offset of the line that a tag names; the inverse of [`line_tag`].
pub(super) const fn line_offset(tag: usize) -> usize {
    if tag == 0 { 0 } else { (tag + 1) * LINE }
}

const _: () = {
    let mut page_size = 256;
    while page_size <= 1 << 20 {
        let mut count = 1;
        while count <= DescriptorLayout::max_objects(page_size) {
            let layout = DescriptorLayout::new(count, page_size);
            assert!(layout.group_count * GROUP_OBJECTS >= count);
            assert!(layout.groups_at.is_multiple_of(GROUP_BYTES));
            assert!(layout.free_at.is_multiple_of(WORD_BYTES));
            let last_group = layout.groups_at + (layout.group_count - 1) * GROUP_BYTES;
            assert!(line_tag(last_group) < GROUP_BYTES);
            assert!(line_offset(line_tag(last_group)) == last_group / LINE * LINE);
            let free_end = layout.free_at + layout.group_count * WORD_BYTES;
            assert!(if layout.free_at == INLINE_FREE_AT {
                free_end <= layout.groups_at && free_end <= INLINE_FREE_AT + INLINE_FREE_BYTES
            } else {
                free_end <= layout.bytes
            });
            assert!(layout.bytes <= DescriptorLayout::largest(page_size).bytes);
            count += GROUP_OBJECTS;
        }
        page_size *= 2;
    }
    assert!(DescriptorLayout::largest(4096).bytes == 256);
    assert!(DescriptorLayout::largest(256).bytes == 128);
};
