//! The published standalone allocator: what its callers rely on.

extern crate std;

use core::alloc::Layout;
use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::{SizeClass, SlabAllocResult, SlabAllocator, SlabDeallocResult};

/// Pages of the host for a standalone allocator.
#[derive(Default)]
struct Pages {
    held: BTreeMap<usize, Layout>,
}

impl Pages {
    fn take(&mut self, bytes: usize) -> usize {
        let layout = Layout::from_size_align(bytes, bytes).unwrap();
        // SAFETY: the size is not zero.
        let at = unsafe { std::alloc::alloc(layout) };
        assert!(!at.is_null());
        // SAFETY: just allocated.
        unsafe { at.write_bytes(0x5A, bytes) };
        let addr = at.expose_provenance();
        self.held.insert(addr, layout);
        addr
    }

    fn give(&mut self, base: usize, bytes: usize) {
        let layout = self.held.remove(&base).expect("a slab that was supplied");
        assert_eq!(layout.size(), bytes);
        // SAFETY: allocated by `take` with this layout.
        unsafe { std::alloc::dealloc(core::ptr::with_exposed_provenance_mut(base), layout) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        while let Some((&base, layout)) = self.held.iter().next() {
            let bytes = layout.size();
            self.give(base, bytes);
        }
    }
}

fn alloc<const P: usize>(
    slabs: &mut SlabAllocator<P>,
    pages: &mut Pages,
    layout: Layout,
) -> NonNull<u8> {
    loop {
        match slabs.alloc(layout).unwrap() {
            SlabAllocResult::Allocated(object) => return object,
            SlabAllocResult::NeedsSlab { size_class, pages: count } => {
                assert!(count.is_power_of_two());
                let base = pages.take(count * P);
                // SAFETY: fresh pages, aligned to their size.
                unsafe { slabs.add_slab(size_class, base, count * P, 0) };
                assert_eq!(slabs.misuse_count(), 0);
            }
        }
    }
}

fn every_class<const P: usize>() {
    let (mut slabs, mut pages) = (SlabAllocator::<P>::new(), Pages::default());
    for class in SizeClass::ALL {
        let layout = Layout::from_size_align(class.size(), class.natural_align()).unwrap();
        assert_eq!(SizeClass::from_layout(layout), Some(class));
        let objects: Vec<_> = (0..40)
            .map(|i| {
                let object = alloc(&mut slabs, &mut pages, layout);
                assert!(object.addr().get().is_multiple_of(layout.align()), "{layout:?}");
                // SAFETY: ours.
                unsafe { object.write_bytes(i, layout.size()) };
                object
            })
            .collect();
        slabs.check_invariants();
        for (i, object) in objects.iter().enumerate() {
            // SAFETY: ours, written above, given back once.
            unsafe {
                let last = object.byte_add(layout.size() - 1);
                assert_eq!((object.read(), last.read()), (i as u8, i as u8), "{layout:?}");
                if let SlabDeallocResult::FreeSlab { base, pages: count } =
                    slabs.dealloc(*object, layout)
                {
                    pages.give(base, count * P);
                }
            }
            slabs.check_invariants();
        }
        let bytes = class.slab_pages(P) * P;
        let kept = pages.held.values().filter(|slab| slab.size() == bytes).count();
        assert!(kept >= 1, "one empty slab of each class stays");
    }
    assert_eq!(pages.held.len(), SizeClass::COUNT, "and no more than one");
    assert_eq!(slabs.misuse_count(), 0);
}

#[test]
fn every_class_aligns_its_objects_in_band() {
    every_class::<256>();
    every_class::<1024>();
    every_class::<4096>();
    every_class::<16384>();
    every_class::<65536>();
}

#[test]
fn standalone_slabs_are_sensibly_sized() {
    for page_size in [1024, 4096, 16384] {
        for class in SizeClass::ALL {
            let bytes = class.slab_pages(page_size) * page_size;
            assert!(bytes <= (32 * class.size()).max(4 * page_size), "{class:?} {bytes}");
        }
    }
    assert_eq!(SizeClass::Bytes64.slab_pages(4096), 1);
    assert_eq!(SizeClass::Bytes2048.slab_pages(4096), 4);
    assert_eq!(SizeClass::Bytes8.slab_pages(0), 1);
}

#[test]
fn misuse_is_counted_and_changes_nothing() {
    let (mut slabs, mut pages) = (SlabAllocator::<4096>::new(), Pages::default());
    let layout = Layout::from_size_align(64, 8).unwrap();
    let (a, b) = (alloc(&mut slabs, &mut pages, layout), alloc(&mut slabs, &mut pages, layout));
    // SAFETY: all addresses lie in the one slab, of the class of the layouts' slab size.
    unsafe {
        assert_eq!(slabs.dealloc(a.byte_add(8), layout), SlabDeallocResult::Done);
        assert_eq!(slabs.dealloc(a, layout), SlabDeallocResult::Done);
        assert_eq!(slabs.misuse_count(), 1);
        slabs.dealloc(a, layout);
        assert_eq!(slabs.misuse_count(), 2);
        // Another class whose slabs are as large.
        slabs.dealloc(b, Layout::from_size_align(32, 8).unwrap());
        assert_eq!(slabs.misuse_count(), 3);
        slabs.check_invariants();
        slabs.dealloc(b, layout);
        slabs.dealloc(b, layout);
        assert_eq!(slabs.misuse_count(), 4, "nothing is live in a kept slab");
        let base = pages.take(4096);
        slabs.add_slab(SizeClass::Bytes64, base, 8192, 0);
        slabs.add_slab(SizeClass::Bytes64, base + 64, 4096, 0);
        slabs.add_slab(SizeClass::Bytes64, 0, 4096, 0);
        assert_eq!(slabs.misuse_count(), 7);
    }
    slabs.check_invariants();
    let again = alloc(&mut slabs, &mut pages, layout);
    assert_eq!(again.addr().get() & !4095, a.addr().get() & !4095, "the kept slab serves again");
}

#[test]
fn a_layout_beyond_the_classes_is_refused() {
    let mut slabs = SlabAllocator::<4096>::new();
    for (size, align) in [(32769, 1), (1, 65536), (20000, 32768 * 2)] {
        assert!(slabs.alloc(Layout::from_size_align(size, align).unwrap()).is_err());
    }
}
