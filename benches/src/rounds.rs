//! Rounds in which contenders take turns, their medians, and the tables they end up in.

use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};

/// One that is measured: a name, and a round that returns its figures.
pub struct Contender<const N: usize> {
    /// What the table calls it.
    pub name: String,
    /// One round: nanoseconds per operation, for each of the `N` things measured.
    pub round: Box<dyn FnMut() -> [f64; N]>,
}

impl<const N: usize> Contender<N> {
    /// A contender of that name.
    pub fn new(name: impl Into<String>, round: impl FnMut() -> [f64; N] + 'static) -> Self {
        Self { name: name.into(), round: Box::new(round) }
    }
}

/// Lets the contenders take turns, `rounds` times after one that does not count, and returns the
/// medians of each.
pub fn interleave<const N: usize>(rounds: usize, contenders: &mut [Contender<N>]) -> Vec<[f64; N]> {
    let mut results = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..=rounds {
        for (contender, results) in contenders.iter_mut().zip(&mut results) {
            let result = (contender.round)();
            if round != 0 {
                results.push(result);
            }
        }
    }
    results
        .iter()
        .map(|results| std::array::from_fn(|i| median(results.iter().map(|r| r[i]))))
        .collect()
}

/// The value in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds per operation of `work`, which does `count` of them.
pub fn time_per(count: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / count as f64
}

/// A table with a heading, its first column on the left and figures on the right.
pub fn print_table(title: &str, header: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header.to_vec());
    for row in rows {
        table.add_row(row.clone());
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{title}\n{table}");
}
