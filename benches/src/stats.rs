//! From the results of rounds to figures.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// What many rounds say together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The value in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The distance between the quartiles, relative to the median.
    pub spread: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Summary {
    /// The summary of `values`; `None` if there are none, or one is not a number.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let at = |quarters: usize| values[(values.len() - 1) * quarters / 4];
        let median = at(2);
        let spread = if median == 0.0 { 0.0 } else { (at(3) - at(1)) / median };
        Some(Self { median, min: at(0), max: at(4), spread, rounds: values.len() })
    }
}

/// The value in the middle; not a number if there are none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    Summary::of(&values).map_or(f64::NAN, |summary| summary.median)
}

/// Nanoseconds per operation of `work`, which does `count` of them.
#[inline(always)]
pub fn time_per(count: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_does_not_depend_on_the_order() {
        let summary = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).expect("values");
        assert_eq!(
            summary,
            Summary { median: 3.0, min: 1.0, max: 5.0, spread: 2.0 / 3.0, rounds: 5 }
        );
        assert_eq!(Summary::of(&[1.0, 2.0, 3.0, 4.0, 5.0]), Some(summary));
    }

    #[test]
    fn nothing_and_no_number_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn one_value_is_its_own_summary() {
        let summary = Summary::of(&[7.0]).expect("a value");
        assert_eq!((summary.median, summary.min, summary.max), (7.0, 7.0, 7.0));
        assert_eq!((summary.spread, summary.rounds), (0.0, 1));
    }
}
