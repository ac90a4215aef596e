//! Prototypes that say how low a figure can get. None of them is an allocator for anybody's use:
//! they check next to nothing, trust every size, and never give memory back.
//!
//! | name | what is left in it |
//! | --- | --- |
//! | `floor-list` | a list through the free objects, for each thread and class; no metadata at all |
//! | `floor-bits` | what finds every double free: a bit an object, reached from the page's label |
//! | `floor-magazine` | full magazines of 64 objects that pass from thread to thread |
//!
//! What separates an engine from `floor-list` on its workload is what it does besides handing out
//! objects; from `floor-bits`, besides that and double frees.

mod bits;
mod list;
mod magazine;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy_slab_allocator::SizeClass;

use super::region;

pub use bits::Bits;
pub use list::List;
pub use magazine::Magazines;

const PAGE_BYTES: usize = 0x1000;
/// Above the library's classes, one for each count of pages.
const MOST_PAGES: usize = 256;
const LEAST_PAGES: usize = SizeClass::MAX_SIZE / PAGE_BYTES + 1;
/// How many classes there are.
const CLASSES: usize = SizeClass::COUNT + MOST_PAGES + 1 - LEAST_PAGES;

/// The class of every size up to 32 KiB, by its words less one.
static BY_WORDS: [u8; SizeClass::MAX_SIZE / 8] = {
    let mut table = [0; SizeClass::MAX_SIZE / 8];
    let (mut words, mut class) = (0, 0);
    while words < table.len() {
        if (words + 1) * 8 > SIZES[class] as usize {
            class += 1;
        }
        table[words] = class as u8;
        words += 1;
    }
    table
};

/// Bytes of an object, by class.
static SIZES: [u32; CLASSES] = {
    let mut sizes = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        sizes[class] = if class < SizeClass::COUNT {
            SizeClass::ALL[class].size() as u32
        } else {
            ((class - SizeClass::COUNT + LEAST_PAGES) * PAGE_BYTES) as u32
        };
        class += 1;
    }
    sizes
};

/// The class of a size from 1 byte to 1 MiB; any other gets some class or other.
#[inline(always)]
fn class_of(size_bytes: usize) -> usize {
    let last = size_bytes.wrapping_sub(1);
    if last < SizeClass::MAX_SIZE {
        BY_WORDS[last / 8] as usize
    } else {
        (last / PAGE_BYTES + 1 - LEAST_PAGES + SizeClass::COUNT).min(CLASSES - 1)
    }
}

/// Bytes that are cut into objects at a time: whole pages, and eight objects if they are not large.
const fn piece_bytes(class: usize) -> usize {
    let size = SIZES[class] as usize;
    let objects = if size <= 128 << 10 { 8 } else { 1 };
    (size * objects).next_multiple_of(PAGE_BYTES)
}

/// Address space that is handed out from its beginning to its end, once.
struct Ground {
    base: OnceLock<usize>,
    used: AtomicUsize,
}

impl Ground {
    const BYTES: usize = 1 << 30;

    const fn new() -> Self {
        Self { base: OnceLock::new(), used: AtomicUsize::new(0) }
    }

    /// Where it begins, exposed.
    fn base(&self) -> usize {
        *self.base.get_or_init(|| region(Self::BYTES).as_mut_ptr().expose_provenance())
    }

    /// The offset of `size_bytes` more.
    ///
    /// # Panics
    /// If all is used up.
    fn take(&self, size_bytes: usize) -> usize {
        let offset = self.used.fetch_add(size_bytes, Ordering::Relaxed);
        assert!(offset + size_bytes <= Self::BYTES, "a prototype gives nothing back");
        offset
    }

    /// The same as a pointer.
    fn take_ptr(&self, size_bytes: usize) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.base() + self.take(size_bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::Layout;
    use std::collections::HashSet;

    use super::*;
    use crate::engines::Engine;
    use crate::platforms::become_cpu;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        for size in (1..=SizeClass::MAX_SIZE).chain([32_769, 40_960, 40_961, 131_072, 1 << 20]) {
            let class = class_of(size);
            assert!(SIZES[class] as usize >= size, "{size} in a class too small");
            assert!(class == 0 || (SIZES[class - 1] as usize) < size, "{size} in one too large");
        }
    }

    /// Live objects keep what was written into them, and freed ones come round again.
    fn serves<E: Engine>() {
        E::start();
        E::enter_thread();
        let engine = E::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut live: Vec<(*mut u8, Layout, usize)> = Vec::new();
        let mut addresses = HashSet::new();
        for number in 0..20_000 {
            if live.len() < 500 || rng.bool() {
                let most = if rng.u8(..) == 0 { 200_000 } else { 3000 };
                let size = rng.usize(8..=most);
                let layout = Layout::from_size_align(size, 8).expect("a layout");
                // SAFETY: not empty; at least a word.
                let object = unsafe { engine.alloc(layout) };
                // SAFETY: as above, and aligned for a word.
                unsafe { object.cast::<usize>().write(number) };
                addresses.insert(object.addr());
                live.push((object, layout, number));
            } else {
                let (object, layout, number) = live.swap_remove(rng.usize(..live.len()));
                // SAFETY: live, with its layout.
                unsafe {
                    assert_eq!(object.cast::<usize>().read(), number, "two owners of one object");
                    engine.dealloc(object, layout);
                }
            }
        }
        assert!(addresses.len() < 8000, "{} addresses: nothing comes back", addresses.len());
    }

    /// Objects of one thread that another frees serve the first one again.
    fn passes_on<E: Engine>() {
        const COUNT: usize = 4096;
        let layout = Layout::new::<[u64; 8]>();
        let engine = E::default();
        let round = || {
            // SAFETY: the layout is not empty.
            let objects: Vec<usize> =
                (0..COUNT).map(|_| unsafe { engine.alloc(layout) }.expose_provenance()).collect();
            let given = objects.clone();
            let free = move || {
                // SAFETY: the one thread with this number.
                unsafe { become_cpu(1) };
                E::enter_thread();
                for object in given {
                    // SAFETY: live, with its layout.
                    unsafe {
                        E::default().dealloc(std::ptr::with_exposed_provenance_mut(object), layout);
                    }
                }
                E::leave_thread();
            };
            std::thread::spawn(free).join().expect("no panic");
            objects
        };
        let first: HashSet<usize> = round().into_iter().collect();
        let again = round().into_iter().filter(|object| first.contains(object)).count();
        assert!(again >= COUNT - 256, "only {again} came back");
    }

    #[test]
    fn lists_serve() {
        serves::<List>();
    }

    #[test]
    fn bitmaps_serve_and_pass_on() {
        serves::<Bits>();
        passes_on::<Bits>();
    }

    #[test]
    fn magazines_serve_and_pass_on() {
        serves::<Magazines>();
        passes_on::<Magazines>();
    }
}
