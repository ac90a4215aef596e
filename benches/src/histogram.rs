//! How long single calls take: medians hide what a real-time system asks for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cycles;
use crate::engines::{calls_since, clear_calls, new_histogram};
use crate::machine::Circumstances;
use crate::table;
use crate::workloads::{self, Contender, Scale, Workload};

/// What single calls of one engine took on one workload: a line of `histogram.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    workload: String,
    engine: String,
    /// What the figures are in, less what the clock itself takes.
    unit: String,
    calls: u64,
    median: u64,
    p99: u64,
    p999: u64,
    p9999: u64,
    /// The longest call of a round, of the round in the middle: nothing that interrupts the
    /// program now and then shows in it. Of the main thread.
    longest_of_median_round: u64,
    /// The longest call of all, and of whatever interrupted it.
    max: u64,
    date: String,
    commit: String,
    cpu: String,
}

/// Runs each workload with every call of ours timed, prints quantiles of the calls, and returns
/// them.
pub fn print(
    workloads: &[&Workload],
    wanted: impl Fn(&str) -> bool,
    rounds: usize,
    scale: Scale,
) -> Vec<Line> {
    let clock = cycles::cost();
    let circumstances = Circumstances::now();
    let mut lines = Vec::new();
    for workload in workloads {
        for contender in workload.timed_contenders(&wanted, scale) {
            let engine = contender.engine;
            let (calls, longest) = time(contender, rounds.min(workload.most_rounds));
            let of = |value: u64| value.saturating_sub(clock);
            let at = |quantile: f64| of(calls.value_at_quantile(quantile));
            lines.push(Line {
                workload: workload.name.to_owned(),
                engine: engine.to_owned(),
                unit: cycles::UNIT.to_owned(),
                calls: calls.len(),
                median: at(0.5),
                p99: at(0.99),
                p999: at(0.999),
                p9999: at(0.9999),
                longest_of_median_round: of(longest),
                max: of(calls.max()),
                date: circumstances.date.clone(),
                commit: circumstances.commit.clone(),
                cpu: circumstances.cpu.clone(),
            });
        }
    }
    let rows: Vec<Vec<String>> = lines.iter().map(row).collect();
    let title = format!(
        "histogram: {} per call of alloc, dealloc or realloc, less {clock} for the clock itself; \
         the largest include whatever interrupted the program",
        cycles::UNIT
    );
    let header = [
        "workload",
        "engine",
        "calls",
        "median",
        "p99",
        "p99.9",
        "p99.99",
        "max of a round",
        "max",
    ];
    table::print(&title, &header, &rows);
    lines
}

/// All calls of `rounds` rounds, and the longest one of the round in the middle.
fn time(mut contender: Contender, rounds: usize) -> (Histogram<u64>, u64) {
    clear_calls();
    let mut calls = new_histogram();
    let mut longest: Vec<u64> = (0..rounds)
        .map(|_| {
            (contender.round)();
            let of_round = calls_since();
            calls.add(&of_round).expect("the same bounds");
            of_round.max()
        })
        .collect();
    // Threads of the rounds hand in their calls when they end.
    drop(contender);
    calls.add(calls_since()).expect("the same bounds");
    longest.sort_unstable();
    (calls, longest.get(rounds / 2).copied().unwrap_or(0))
}

fn row(line: &Line) -> Vec<String> {
    let figures = [
        line.calls,
        line.median,
        line.p99,
        line.p999,
        line.p9999,
        line.longest_of_median_round,
        line.max,
    ];
    let names = [line.workload.clone(), line.engine.clone()];
    names.into_iter().chain(figures.iter().map(u64::to_string)).collect()
}

/// Writes `histogram.csv`: these lines, and those of workloads that are not among them.
///
/// # Errors
/// The file cannot be read, understood or written.
pub fn record(directory: &Path, lines: Vec<Line>) -> Result<()> {
    let path = directory.join("histogram.csv");
    let mut all: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    if path.exists() {
        let mut reader = csv::Reader::from_path(&path).context("histogram.csv")?;
        for line in reader.deserialize::<Line>() {
            let line = line.context("histogram.csv")?;
            all.entry(line.workload.clone()).or_default().push(line);
        }
    }
    let measured: Vec<String> = lines.iter().map(|line| line.workload.clone()).collect();
    all.retain(|workload, _| !measured.contains(workload));
    for line in lines {
        all.entry(line.workload.clone()).or_default().push(line);
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    for workload in workloads::ALL {
        for line in all.get(workload.name).into_iter().flatten() {
            writer.serialize(line)?;
        }
    }
    fs::create_dir_all(directory)?;
    fs::write(&path, writer.into_inner()?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(workload: &str, median: u64) -> Line {
        Line {
            workload: workload.to_owned(),
            engine: "pinned".to_owned(),
            unit: "cycles".to_owned(),
            calls: 10,
            median,
            p99: 2,
            p999: 3,
            p9999: 4,
            longest_of_median_round: 5,
            max: 6,
            date: "today".to_owned(),
            commit: "abc".to_owned(),
            cpu: "a, b".to_owned(),
        }
    }

    #[test]
    fn a_run_replaces_its_own_workloads_in_the_file() {
        let directory = std::env::temp_dir().join(format!("histogram-{}", std::process::id()));
        record(&directory, vec![line("mixed", 1), line("pair-64", 1)]).expect("written");
        record(&directory, vec![line("mixed", 7)]).expect("written again");
        let text = fs::read_to_string(directory.join("histogram.csv")).expect("a file");
        fs::remove_dir_all(&directory).expect("ours");
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].starts_with("pair-64,pinned,cycles,10,1,"),
            "in the order of tables: {text}"
        );
        assert!(lines[1].starts_with("mixed,pinned,cycles,10,7,"), "{text}");
    }

    #[test]
    fn every_workload_has_a_histogram() {
        for workload in workloads::ALL.iter().filter(|workload| !workload.name.starts_with("space"))
        {
            let timed = workload.timed_contenders(|engine| engine == "pinned", Scale::Tiny);
            assert_eq!(timed.len(), 1, "{}", workload.name);
        }
    }
}
