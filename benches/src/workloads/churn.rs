//! Many live objects, replaced one by one at random.

use std::sync::Mutex;

use super::live::Table;
use super::{ObjectWorkload, Round, Scale};
use crate::engines::Engine;
use crate::stats::time_per;
use crate::team::Team;

const REPLACEMENTS: usize = 20_000;

/// `SLOTS` objects, sizes log-uniform from `LEAST` to `MOST` bytes.
pub struct Churn<const SLOTS: usize, const LEAST: usize, const MOST: usize>;

impl<const SLOTS: usize, const LEAST: usize, const MOST: usize> ObjectWorkload
    for Churn<SLOTS, LEAST, MOST>
{
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let times = scale.of(REPLACEMENTS);
        let mut table = Table::<E>::new(scale.of(SLOTS), LEAST, MOST, 1);
        Box::new(move || {
            replace(&mut table, times);
            time_per(times, || replace(&mut table, times))
        })
    }
}

#[inline(never)]
fn replace<E: Engine>(table: &mut Table<E>, times: usize) {
    table.replace(times);
}

/// Two threads, each with a table of its own of 10,000 objects from 8 B to 2 KiB; a figure is what
/// one of them takes per replacement.
pub struct TwoThreads;

impl ObjectWorkload for TwoThreads {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let times = scale.of(4 * REPLACEMENTS);
        let team = Team::new::<E>(2);
        let tables: std::sync::Arc<[Mutex<Option<Table<E>>>; 2]> = Default::default();
        let count = scale.of(10_000);
        Box::new(move || {
            let round = |times: usize| {
                let tables = tables.clone();
                team.round(move |member| {
                    let mut table = tables[member].lock().expect("no member has panicked");
                    // Each member allocates its own.
                    let table =
                        table.get_or_insert_with(|| Table::new(count, 8, 2048, member as u64 + 1));
                    replace(table, times);
                })
            };
            round(times / 8);
            round(times) / times as f64
        })
    }
}
