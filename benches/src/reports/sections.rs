//! What a page costs among few and many sections: 1 GiB in all, cut into 1 to 4,096 sections.
//!
//! Every page is handed out first, so that both the search for a section with a free page and the
//! way from an address to its section see all sections. Then, in each round:
//! - *free*: pages all over the heap are freed in random order;
//! - *alloc*: as many are allocated again;
//! - *pair*: a random page is freed and one allocated, over and over, on the full heap.

use buddy_slab_allocator::{BuddyAllocator, GlobalAllocator};
use fastrand::Rng;
use testkit::Reservation;

use crate::platforms::{HOST, Pinned};
use crate::stats::{median, time_per};
use crate::table;

const TOTAL_BYTES: usize = 1 << 30;
const COUNTS: [usize; 4] = [1, 16, 256, 4096];
const BATCH: usize = 4096;
const ROUNDS: usize = 11;
const NAMES: [&str; 4] = [
    "BuddyAllocator",
    "GlobalAllocator, locked",
    "GlobalAllocator, pinned",
    "0.3.0 BuddyAllocator",
];

/// What hands out single pages over regions.
trait Pages: Sized {
    /// An allocator over `first`.
    fn over(first: &'static mut [u8]) -> Self;
    /// Gives it another section.
    fn add(&mut self, region: &'static mut [u8]);
    /// A page, or `None` when there is none left.
    fn alloc(&mut self) -> Option<usize>;
    /// Takes it back.
    fn free(&mut self, addr: usize);
}

/// Implements [`Pages`] by the calls that all of them share.
macro_rules! pages {
    ($type:ty, $new:expr, |$heap:ident, $region:ident| $init:expr) => {
        impl Pages for Box<$type> {
            fn over($region: &'static mut [u8]) -> Self {
                #[allow(unused_mut, reason = "some are initialised behind a shared reference")]
                let mut $heap = Box::new($new);
                // SAFETY: the region is leaked, and goes to this heap only.
                unsafe { $init }.expect("init");
                $heap
            }

            fn add(&mut self, region: &'static mut [u8]) {
                // SAFETY: the region is leaked, and goes to this heap only.
                unsafe { self.add_region(region) }.expect("add_region");
            }

            #[inline]
            fn alloc(&mut self) -> Option<usize> {
                self.alloc_pages(1, 0x1000).ok()
            }

            #[inline]
            fn free(&mut self, addr: usize) {
                self.dealloc_pages(addr, 1);
            }
        }
    };
}

pages!(BuddyAllocator, BuddyAllocator::new(), |heap, region| heap.init(region, None));
pages!(GlobalAllocator, GlobalAllocator::new(), |heap, region| heap.init(region, 1, &HOST));
pages!(GlobalAllocator<0x1000, Pinned>, GlobalAllocator::with_platform(Pinned),
    |heap, region| heap.init_raw(region.as_mut_ptr(), region.len(), 1));
pages!(predecessor::BuddyAllocator, predecessor::BuddyAllocator::new(), |heap, region| heap
    .init(region, None));

/// One round: nanoseconds per operation of each of the three things.
type Round = Box<dyn FnMut() -> [f64; 3]>;

/// Lets the contenders take turns, after one round that does not count, and returns their medians.
fn interleave(contenders: &mut [Round]) -> Vec<[f64; 3]> {
    let mut results = vec![Vec::with_capacity(ROUNDS); contenders.len()];
    for round in 0..=ROUNDS {
        for (contender, results) in contenders.iter_mut().zip(&mut results) {
            let result = contender();
            if round != 0 {
                results.push(result);
            }
        }
    }
    let medians = |results: &Vec<[f64; 3]>| {
        std::array::from_fn(|figure| median(results.iter().map(|result| result[figure])))
    };
    results.iter().map(medians).collect()
}

/// Prints the table.
pub fn print() {
    let mut contenders = Vec::new();
    for count in COUNTS {
        contenders.push(contender::<Box<BuddyAllocator>>(count));
        contenders.push(contender::<Box<GlobalAllocator>>(count));
        contenders.push(contender::<Box<GlobalAllocator<0x1000, Pinned>>>(count));
        contenders.push(contender::<Box<predecessor::BuddyAllocator>>(count));
    }
    let medians = interleave(&mut contenders);
    let mut rows = Vec::new();
    for (engine, name) in NAMES.iter().enumerate() {
        for (what, figure) in ["free", "alloc", "pair"].iter().enumerate() {
            let of = |count: usize| medians[count * NAMES.len() + engine][what];
            let mut row = vec![format!("{name}: {figure}")];
            row.extend((0..COUNTS.len()).map(|i| format!("{:.1} ({:.2}x)", of(i), of(i) / of(0))));
            rows.push(row);
        }
    }
    let title = format!(
        "sections: ns (ratio to 1 section), {} MiB in all, every page in use, median of {ROUNDS}",
        TOTAL_BYTES >> 20
    );
    table::print(&title, &["", "1", "16", "256", "4096"], &rows);
}

/// A heap of `count` sections, all of it handed out, and its rounds.
fn contender<P: Pages + 'static>(count: usize) -> Round {
    let map = Reservation::new(TOTAL_BYTES, 1 << 22).expect("1 GiB of address space");
    let mut parts = Box::leak(Box::new(map)).bytes_mut().chunks_exact_mut(TOTAL_BYTES / count);
    let mut heap = P::over(parts.next().expect("at least one section"));
    parts.for_each(|part| heap.add(part));
    let mut live: Vec<usize> = std::iter::from_fn(|| heap.alloc()).collect();
    let mut rng = Rng::with_seed(count as u64);
    rng.shuffle(&mut live);
    Box::new(move || {
        let tail = live.len() - BATCH;
        let free = time_per(BATCH, || live[tail..].iter().for_each(|&page| heap.free(page)));
        let alloc = time_per(BATCH, || {
            live[tail..].iter_mut().for_each(|page| *page = heap.alloc().expect("just freed"));
        });
        for index in tail..live.len() {
            live.swap(index, rng.usize(..tail));
        }
        let pair = time_per(BATCH, || {
            for page in &mut live[tail..] {
                heap.free(*page);
                *page = heap.alloc().expect("just freed");
            }
        });
        [free, alloc, pair]
    })
}
