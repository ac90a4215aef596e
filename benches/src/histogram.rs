//! How long single calls take: medians hide what a real-time system asks for.

use crate::cycles;
use crate::engines::{calls_since, clear_calls};
use crate::table;
use crate::workloads::{Scale, Workload};

/// Runs each workload with every call of ours timed, and prints quantiles of the calls.
pub fn print(workloads: &[&Workload], wanted: impl Fn(&str) -> bool, rounds: usize, scale: Scale) {
    let clock = cycles::cost();
    let mut rows = Vec::new();
    for workload in workloads {
        for mut contender in workload.timed_contenders(&wanted, scale) {
            clear_calls();
            for _ in 0..rounds.min(workload.most_rounds) {
                (contender.round)();
            }
            let engine = contender.engine;
            // Threads of the round hand in their calls when they end.
            drop(contender);
            let calls = calls_since();
            let of = |value: u64| value.saturating_sub(clock).to_string();
            rows.push(vec![
                workload.name.to_owned(),
                engine.to_owned(),
                calls.len().to_string(),
                of(calls.value_at_quantile(0.5)),
                of(calls.value_at_quantile(0.99)),
                of(calls.value_at_quantile(0.9999)),
                of(calls.max()),
            ]);
        }
    }
    let title = format!(
        "histogram: {} per call of alloc, dealloc or realloc, less {clock} for the clock itself; \
         the largest include whatever interrupted the program",
        cycles::UNIT
    );
    let header = ["workload", "engine", "calls", "median", "p99", "p99.99", "max"];
    table::print(&title, &header, &rows);
}
