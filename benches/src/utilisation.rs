//! How much of a region is handed out before the first failure.
//!
//! Sizes are log-uniform, alignment is 8. *Fill* allocates until one request fails. *Churn* stops
//! at 80 % of what this engine reached by *fill* on the same seed, then replaces random
//! allocations by ones of new sizes, and fills again. The share is requested bytes over the region
//! as it was given, metadata and all.

use std::alloc::{GlobalAlloc, Layout};

use buddy_slab_allocator::GlobalAllocator;
use fastrand::Rng;
use talc::TalcCell;
use talc::cell::TalcSyncCell;
use talc::source::Manual;
use testkit::Reservation;

use crate::account::Account;
use crate::platforms::HOST;
use crate::rounds::print_table;

const REGION_BYTES: usize = 256 << 20;
const REPLACEMENTS: usize = 2_000_000;
const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

/// A heap over one region.
trait Bounded: GlobalAlloc {
    /// The name in the table.
    const NAME: &'static str;

    /// A heap over `region`.
    ///
    /// # Safety
    /// - The region outlives the heap, and nobody else uses it meanwhile.
    unsafe fn over(region: &mut [u8]) -> Box<Self>;

    /// Where the region went, if the engine can tell.
    fn account(&self, _live: &[Live]) -> Option<Account> {
        None
    }
}

impl Bounded for GlobalAllocator {
    const NAME: &'static str = "ours";

    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        let heap = Box::new(Self::new());
        // SAFETY: the same conditions.
        unsafe { heap.init(region, 1, &HOST) }.expect("init");
        heap
    }

    fn account(&self, live: &[Live]) -> Option<Account> {
        Some(Account::of(self, REGION_BYTES, live.iter().map(|object| object.layout())))
    }
}

impl Bounded for predecessor::GlobalAllocator {
    const NAME: &'static str = "0.3.0";

    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        let heap = Box::new(Self::new());
        // SAFETY: the same conditions.
        unsafe { heap.init(region, 1, &HOST) }.expect("init");
        heap
    }
}

impl Bounded for TalcSyncCell<Manual, talc::DefaultBinning> {
    const NAME: &'static str = "talc";

    unsafe fn over(region: &mut [u8]) -> Box<Self> {
        let cell = TalcCell::new(Manual);
        // SAFETY: the same conditions; the heap stays on the thread that made it.
        unsafe {
            cell.claim(region.as_mut_ptr(), region.len()).expect("claim");
            Box::new(Self::new(cell))
        }
    }
}

/// What is allocated.
struct Live {
    ptr: *mut u8,
    size_bytes: usize,
}

impl Live {
    fn layout(&self) -> Layout {
        layout(self.size_bytes)
    }
}

fn layout(size_bytes: usize) -> Layout {
    Layout::from_size_align(size_bytes, 8).expect("a small size")
}

/// The sizes that are drawn: log-uniform from 8 bytes up.
#[derive(Clone, Copy)]
struct Sizes {
    name: &'static str,
    most: usize,
}

impl Sizes {
    fn draw(self, rng: &mut Rng) -> usize {
        let (least, most) = (8f64.ln(), (self.most as f64).ln());
        (least + (most - least) * rng.f64()).exp().round() as usize
    }
}

/// What one seed gave.
struct Outcome {
    filled: f64,
    churned: f64,
    failures: usize,
    accounts: Option<[Account; 2]>,
}

/// Prints the tables.
pub fn print() {
    for sizes in [
        Sizes { name: "8 B to 2 KiB", most: 2 << 10 },
        Sizes { name: "8 B to 128 KiB", most: 128 << 10 },
    ] {
        let mut rows = Vec::new();
        let ours = measure::<GlobalAllocator>(sizes, &mut rows);
        measure::<predecessor::GlobalAllocator>(sizes, &mut rows);
        measure::<TalcSyncCell<Manual, talc::DefaultBinning>>(sizes, &mut rows);
        let title = format!(
            "utilisation: {}, {} MiB, {} seeds, {REPLACEMENTS} replacements",
            sizes.name,
            REGION_BYTES >> 20,
            SEEDS.len()
        );
        let header = ["engine", "fill mean", "min", "churn mean", "min", "refused in churn (mean)"];
        print_table(&title, &header, &rows);
        let accounts: Vec<[Account; 2]> = ours.into_iter().filter_map(|o| o.accounts).collect();
        let rows = Account::rows(&accounts, REGION_BYTES);
        let title = format!("utilisation: {}: where ours went (mean of the region)", sizes.name);
        print_table(&title, &["", "fill", "churn"], &rows);
    }
}

fn measure<E: Bounded>(sizes: Sizes, rows: &mut Vec<Vec<String>>) -> Vec<Outcome> {
    let outcomes: Vec<Outcome> = SEEDS.iter().map(|&seed| run::<E>(sizes, seed)).collect();
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let mean =
        |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / outcomes.len() as f64;
    let least = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).fold(f64::INFINITY, f64::min);
    rows.push(vec![
        E::NAME.to_owned(),
        percent(mean(|o| o.filled)),
        percent(least(|o| o.filled)),
        percent(mean(|o| o.churned)),
        percent(least(|o| o.churned)),
        format!("{:.0}", mean(|o| o.failures as f64)),
    ]);
    outcomes
}

fn run<E: Bounded>(sizes: Sizes, seed: u64) -> Outcome {
    let share = |bytes: usize| bytes as f64 / REGION_BYTES as f64;
    let mut rng = Rng::with_seed(seed);
    let mut map = Reservation::new(REGION_BYTES, 1 << 22).expect("256 MiB of address space");
    // SAFETY: the heap is dropped before the map; the map is used by nobody else.
    let heap = unsafe { E::over(map.bytes_mut()) };
    let mut live = Vec::new();
    let filled = fill(&*heap, sizes, &mut rng, &mut live, usize::MAX);
    let fill_account = heap.account(&live);
    drop(heap);

    let mut map = Reservation::new(REGION_BYTES, 1 << 22).expect("256 MiB of address space");
    // SAFETY: the same.
    let heap = unsafe { E::over(map.bytes_mut()) };
    live.clear();
    let mut rng = Rng::with_seed(seed);
    fill(&*heap, sizes, &mut rng, &mut live, filled / 5 * 4);
    let failures = churn(&*heap, sizes, &mut rng, &mut live);
    fill(&*heap, sizes, &mut rng, &mut live, usize::MAX);
    let churned = live.iter().map(|object| object.size_bytes).sum();
    let accounts = fill_account.zip(heap.account(&live)).map(<[Account; 2]>::from);
    Outcome { filled: share(filled), churned: share(churned), failures, accounts }
}

/// Allocates until `limit` bytes are requested or one request fails; returns the bytes.
fn fill<E: Bounded>(
    heap: &E,
    sizes: Sizes,
    rng: &mut Rng,
    live: &mut Vec<Live>,
    limit: usize,
) -> usize {
    let mut total = 0;
    while total < limit {
        let size_bytes = sizes.draw(rng);
        // SAFETY: no size is zero.
        let ptr = unsafe { heap.alloc(layout(size_bytes)) };
        if ptr.is_null() {
            break;
        }
        total += size_bytes;
        live.push(Live { ptr, size_bytes });
    }
    total
}

/// Replaces random allocations; returns how often the new one was refused.
fn churn<E: Bounded>(heap: &E, sizes: Sizes, rng: &mut Rng, live: &mut Vec<Live>) -> usize {
    let mut failures = 0;
    for _ in 0..REPLACEMENTS {
        let index = rng.usize(..live.len());
        let size_bytes = sizes.draw(rng);
        // SAFETY: allocated by this heap with this layout, and replaced or removed below.
        unsafe { heap.dealloc(live[index].ptr, live[index].layout()) };
        // SAFETY: no size is zero.
        let ptr = unsafe { heap.alloc(layout(size_bytes)) };
        if ptr.is_null() {
            live.swap_remove(index);
            failures += 1;
        } else {
            live[index] = Live { ptr, size_bytes };
        }
    }
    failures
}
