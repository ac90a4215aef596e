//! How slabs of every class are cut, computed at compile time for each page size.
//!
//! A slab wastes its tail and its descriptor. More pages waste less of both, but a small heap
//! wants small slabs. So each class has two cuts: the *first* few slabs take the fewest
//! pages whose waste is tolerable, later ones take the fewest whose waste is next to the least
//! possible. The descriptor lies outside the pages; standalone slabs, which keep it in their first
//! bytes, are sized by [`SizeClass::slab_pages`] instead.

use super::layout::DescriptorLayout;
use super::size_class::SizeClass;

/// How much more waste than the least possible is accepted for the sake of fewer pages, in a
/// class's first slabs and in later ones.
const FIRST_TOLERANCE_PERMILLE: usize = 15;
const GROWN_TOLERANCE_PERMILLE: usize = 1;

/// How long a slab is, and what its descriptor takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlabCut {
    /// Pages of the slab.
    pub(crate) pages: u8,
    /// Bytes of its descriptor.
    pub(crate) descriptor_bytes: u16,
    /// Objects in it.
    #[cfg(test)]
    pub(crate) object_count: u16,
}

/// How slabs of one class are cut for one page size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClassInfo {
    /// Object size in bytes.
    pub(crate) size: u32,
    /// The first slabs of the class.
    pub(crate) first: SlabCut,
    /// Later ones: the class is much used.
    pub(crate) grown: SlabCut,
    /// The shortest slab that holds an object, for when memory is scarce.
    pub(crate) min_pages: u8,
    /// Whether slabs with this page size serve the class at all.
    #[cfg(test)]
    pub(crate) usable: bool,
}

/// The table of [`ClassInfo`] for one page size.
pub(crate) struct ClassTable<const PAGE_SIZE: usize>;

impl<const PAGE_SIZE: usize> ClassTable<PAGE_SIZE> {
    /// One row per class, by index.
    pub(crate) const INFO: &'static [ClassInfo; SizeClass::COUNT] = &{
        let mut info = [class_info(SizeClass::Bytes8, PAGE_SIZE); SizeClass::COUNT];
        let mut i = 0;
        while i < SizeClass::COUNT {
            info[i] = class_info(SizeClass::ALL[i], PAGE_SIZE);
            i += 1;
        }
        info
    };

    /// Whether a slab may have more places for objects than its descriptor records, so that an
    /// index has to be compared with the number of objects.
    pub(crate) const IS_CAPPED: bool = DescriptorLayout::is_capped(PAGE_SIZE);

    /// The row of a class.
    #[inline(always)]
    pub(crate) const fn info(class: SizeClass) -> &'static ClassInfo {
        &Self::INFO[class as usize]
    }
}

/// Objects in `bytes` bytes, capped by what a descriptor for this page size records.
pub(super) const fn objects_in(bytes: usize, size: usize, page_size: usize) -> usize {
    let fit = bytes / size;
    let cap = DescriptorLayout::max_objects(page_size);
    if fit < cap { fit } else { cap }
}

/// The most pages that a slab of the class may take.
const fn page_limit(size: usize, page_size: usize) -> usize {
    if page_size < 4096 {
        8
    } else if size > 8192 {
        32
    } else {
        16
    }
}

const fn class_info(class: SizeClass, page_size: usize) -> ClassInfo {
    let size = class.size();
    let min_pages = size.div_ceil(page_size);
    let usable = size <= SizeClass::object_limit(page_size);
    let limit = if usable { page_limit(size, page_size) } else { 1 };
    let min_pages = if usable { min_pages } else { 1 };
    let few = if size > 8 * 1024 { 2 } else { 8 };
    let many = if size > 16 * 1024 { 4 } else { 8 };
    ClassInfo {
        size: size as u32,
        first: cut(size, page_size, min_pages, limit, few, FIRST_TOLERANCE_PERMILLE),
        grown: cut(size, page_size, min_pages, limit, many, GROWN_TOLERANCE_PERMILLE),
        min_pages: min_pages as u8,
        #[cfg(test)]
        usable,
    }
}

/// The fewest pages, from `min_pages` to `limit`, whose waste is within `tolerance` of the least.
const fn cut(
    size: usize,
    page_size: usize,
    min_pages: usize,
    limit: usize,
    wanted_objects: usize,
    tolerance: usize,
) -> SlabCut {
    let best = least_waste(size, page_size, limit, wanted_objects);
    let mut pages = min_pages;
    while pages < limit {
        let enough = objects_in(pages * page_size, size, page_size) >= wanted_objects;
        if enough && waste_permille(size, page_size, pages) <= best + tolerance {
            break;
        }
        pages += 1;
    }
    SlabCut {
        pages: pages as u8,
        descriptor_bytes: DescriptorLayout::new((pages * page_size).div_ceil(size), page_size).bytes
            as u16,
        #[cfg(test)]
        object_count: objects_in(pages * page_size, size, page_size) as u16,
    }
}

/// The least waste that any permitted length with enough objects reaches.
const fn least_waste(size: usize, page_size: usize, limit: usize, wanted_objects: usize) -> usize {
    let mut best = usize::MAX;
    let mut pages = 1;
    while pages <= limit {
        let waste = waste_permille(size, page_size, pages);
        if waste < best && objects_in(pages * page_size, size, page_size) >= wanted_objects {
            best = waste;
        }
        pages += 1;
    }
    // No length holds that many: take the longest permitted.
    if best == usize::MAX { 0 } else { best }
}

/// Tail and descriptor of a slab, in thousandths of its pages.
const fn waste_permille(size: usize, page_size: usize, pages: usize) -> usize {
    let bytes = pages * page_size;
    let objects = objects_in(bytes, size, page_size);
    let descriptor = DescriptorLayout::new(bytes.div_ceil(size), page_size).bytes;
    ((bytes - objects * size + descriptor) * 1000).div_ceil(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail_permille(size: u32, cut: &SlabCut, page_size: usize) -> usize {
        let bytes = usize::from(cut.pages) * page_size;
        let tail = bytes - usize::from(cut.object_count) * size as usize;
        tail * 1000 / bytes
    }

    #[test]
    fn a_4_kib_page_heap_wastes_less_than_3_percent_in_tails() {
        for info in ClassTable::<4096>::INFO {
            if !info.usable {
                assert_eq!(info.size as usize, SizeClass::MAX_SIZE, "just eight pages");
                continue;
            }
            for cut in [&info.first, &info.grown] {
                assert!(tail_permille(info.size, cut, 4096) < 30, "{info:?}");
                assert!(cut.descriptor_bytes <= 512 && cut.object_count <= 512, "{info:?}");
                assert!(cut.object_count >= if info.size > 8192 { 2 } else { 8 }, "{info:?}");
                assert!(cut.pages <= if info.size > 8192 { 32 } else { 16 }, "{info:?}");
            }
            assert!(info.first.pages <= info.grown.pages, "{info:?}");
        }
    }

    fn check_table<const PAGE_SIZE: usize>() {
        for (i, info) in ClassTable::<PAGE_SIZE>::INFO.iter().enumerate() {
            let class = SizeClass::ALL[i];
            assert_eq!(info.size as usize, class.size());
            assert_eq!(info.usable, class.size() <= SizeClass::object_limit(PAGE_SIZE));
            if !info.usable {
                continue;
            }
            let least = usize::from(info.min_pages);
            assert!(least * PAGE_SIZE >= class.size(), "{info:?}");
            assert!((least - 1) * PAGE_SIZE < class.size(), "{info:?}");
            for cut in [&info.first, &info.grown] {
                let pages = usize::from(cut.pages);
                assert!(least <= pages && pages <= page_limit(class.size(), PAGE_SIZE));
                assert!(cut.object_count >= 1, "{info:?}");
                assert!(usize::from(cut.object_count) * class.size() <= pages * PAGE_SIZE);
                let largest = DescriptorLayout::largest(PAGE_SIZE).bytes;
                assert!(usize::from(cut.descriptor_bytes) <= largest, "{info:?}");
            }
        }
    }

    #[test]
    fn every_page_size_gets_a_consistent_table() {
        check_table::<256>();
        check_table::<512>();
        check_table::<1024>();
        check_table::<2048>();
        check_table::<4096>();
        check_table::<16384>();
        check_table::<65536>();
    }
}
