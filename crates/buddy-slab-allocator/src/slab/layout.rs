//! Where the parts of a slab descriptor lie, by the number of objects it records.
//!
//! ```text
//!          pages < 4 KiB              pages >= 4 KiB
//! line 0   header, remote words,      header
//! line 1.. groups: no gaps to speak of remote words: 4 groups' a line (64-bit)
//! then                                groups: 2 a line (64-bit)
//! ```
//! The header is read rarely, the groups are what the owner writes on every operation, the remote
//! words what other CPUs write: each on lines of its own, but where pages are small.
//!
//! A remote word finds its descriptor from its own address and a *line tag*, which fits the bits
//! that the alignment of remote words leaves free in a pointer (see `remote_word`); that bounds
//! how many there can be.

#![forbid(unsafe_code)]

use super::remote_word::REMOTE_BYTES;

/// Objects per group: the bits of a word.
pub(crate) const GROUP_OBJECTS: usize = usize::BITS as usize;

/// Bytes of one group: its word of bits, two links, and eight bytes of constants.
pub(super) const GROUP_BYTES: usize = 3 * size_of::<usize>() + 8;

/// What the place of a group in its descriptor is kept in, in steps of [`GROUP_ALIGN`].
#[cfg(target_pointer_width = "64")]
pub(super) type At = u8;
/// The same; the steps are smaller.
#[cfg(not(target_pointer_width = "64"))]
pub(super) type At = u16;

/// What groups are aligned to.
pub(super) const GROUP_ALIGN: usize = if usize::BITS == 64 { 32 } else { 4 };

/// What descriptors are aligned to: a cache line.
pub(super) const LINE: usize = 64;

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = if usize::BITS == 64 { 64 } else { 40 };

/// Pages below this size keep the parts together.
const COMPACT_PAGE_SIZE: usize = 4096;

/// Objects that a descriptor records at least, if the slab has room for them: eight words.
const REGULAR_OBJECTS: usize = 8 * GROUP_OBJECTS;

/// Objects that the largest layout records: one line of remote words for every non-zero tag.
const LARGE_OBJECTS: usize = (REMOTE_BYTES - 1) * (LINE / REMOTE_BYTES) * GROUP_OBJECTS;

/// The parts of one descriptor, as byte offsets from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescriptorLayout {
    /// The first group, behind the remote words, of which the first is the last.
    pub(super) groups_at: usize,
    /// How many of both there are.
    pub(super) group_count: usize,
    /// Bytes in all: whole cache lines.
    pub(super) bytes: usize,
}

impl DescriptorLayout {
    /// The layout of a descriptor for `places` positions at which an object could begin, at most
    /// [`max_objects`](Self::max_objects) of which are used.
    pub(super) const fn new(places: usize, page_size: usize) -> Self {
        let most = Self::max_objects(page_size);
        let group_count = (if places < most { places } else { most }).div_ceil(GROUP_OBJECTS);
        let (remote_at, gap) =
            if page_size < COMPACT_PAGE_SIZE { (HEADER_BYTES, GROUP_ALIGN) } else { (LINE, LINE) };
        let groups_at = (remote_at + group_count * REMOTE_BYTES).next_multiple_of(gap);
        let end = groups_at + group_count * GROUP_BYTES;
        Self { groups_at, group_count, bytes: end.next_multiple_of(LINE) }
    }

    /// The largest layout for this page size.
    pub(super) const fn largest(page_size: usize) -> Self {
        Self::new(Self::max_objects(page_size), page_size)
    }

    /// The most objects that a descriptor records: an eighth of the page (as many as 8-byte
    /// objects fill one); from 4 KiB pages on at least eight words of them, below at least one.
    pub(super) const fn max_objects(page_size: usize) -> usize {
        let fill_page = page_size / 8;
        let least = if page_size < COMPACT_PAGE_SIZE { GROUP_OBJECTS } else { REGULAR_OBJECTS };
        if fill_page <= least {
            least
        } else if fill_page < LARGE_OBJECTS {
            fill_page
        } else {
            LARGE_OBJECTS
        }
    }

    /// Whether slabs with this page size can have more places than a descriptor records.
    pub(super) const fn is_capped(page_size: usize) -> bool {
        page_size / 8 > LARGE_OBJECTS
    }
}

/// The line tag of a remote word: which line of the descriptor it lies in.
pub(super) const fn line_tag(offset: usize) -> usize {
    offset / LINE
}

/// The offset of the line that a tag names; the inverse of [`line_tag`].
pub(super) const fn line_offset(tag: usize) -> usize {
    tag * LINE
}

const _: () = {
    let mut page_size = 256;
    while page_size <= 1 << 20 {
        let mut count = 1;
        while count <= DescriptorLayout::max_objects(page_size) {
            let layout = DescriptorLayout::new(count, page_size);
            assert!(layout.group_count * GROUP_OBJECTS >= count);
            assert!(
                layout.groups_at.is_multiple_of(REMOTE_BYTES)
                    && layout.groups_at.is_multiple_of(GROUP_ALIGN)
            );
            let last_group = layout.groups_at + (layout.group_count - 1) * GROUP_BYTES;
            assert!(last_group / GROUP_ALIGN <= At::MAX as usize);
            assert!(layout.group_count <= u8::MAX as usize);
            let last = layout.groups_at - REMOTE_BYTES;
            assert!(line_tag(last) < REMOTE_BYTES);
            assert!(line_offset(line_tag(last)) == last / LINE * LINE);
            assert!(HEADER_BYTES + layout.group_count * REMOTE_BYTES <= layout.groups_at);
            assert!(layout.groups_at + layout.group_count * GROUP_BYTES <= layout.bytes);
            assert!(layout.bytes <= DescriptorLayout::largest(page_size).bytes);
            assert!(layout.bytes <= u16::MAX as usize);
            count += GROUP_OBJECTS;
        }
        page_size *= 2;
    }
    // What has 4 KiB pages needs slots of 512 bytes at most: larger ones share a list (`buddy::slots`).
    assert!(DescriptorLayout::new(512, 4096).bytes <= 512);
};
