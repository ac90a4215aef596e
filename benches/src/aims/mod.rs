//! What the figures should be, and whether they are: the table of aims that the project has set
//! itself, judged by what is recorded.
//!
//! `list` holds the aims as data. An [`Aim`] is about some engines of ours on some workloads; its
//! [`Figure`] says what is held against what, always within one record. A [`Judgement`] is one aim
//! for one engine on one workload.

mod list;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::run::Outcome;

pub use list::AIMS;

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Figure {
    /// The median over that of the best peer.
    OverBestPeer,
    /// The median over that of this engine, on the same workload.
    Over(&'static str),
    /// The median itself.
    Median,
    /// How much more is done in the same time than by the same engine on this workload.
    Speedup(&'static str),
    /// How much less than by the same engine on this workload, in points.
    Loss(&'static str),
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Not above it.
    AtMost(f64),
    /// Not below it.
    AtLeast(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// A figure and its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    figure: Figure,
    limit: Limit,
    /// What the limit is in.
    unit: &'static str,
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, limit) = match self.limit {
            Limit::AtMost(limit) => ("<=", limit),
            Limit::AtLeast(limit) => (">=", limit),
        };
        let unit = self.unit;
        match self.figure {
            Figure::OverBestPeer => write!(f, "{sign} {limit} x best peer"),
            Figure::Over(engine) => write!(f, "{sign} {limit} x {engine}"),
            Figure::Median => write!(f, "{sign} {limit} {unit}"),
            Figure::Speedup(workload) => write!(f, "{sign} {limit} x {workload}"),
            Figure::Loss(workload) => write!(f, "{sign} {limit} {unit} below {workload}"),
        }
    }
}

/// What some engines should reach on some workloads.
#[derive(Debug, Clone, Copy)]
pub struct Aim {
    workloads: &'static [&'static str],
    engines: &'static [&'static str],
    aim: Goal,
    stretch: Option<Goal>,
}

/// How an aim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Reached, and what lies beyond it too.
    Stretch,
    /// Reached.
    Met,
    /// Not reached.
    Missed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stretch => "stretch",
            Self::Met => "met",
            Self::Missed => "MISSED",
        })
    }
}

/// One aim for one engine on one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// What is measured: a ratio, or a figure in the workload's unit.
    pub measured: f64,
    /// What it should be.
    pub aim: String,
    /// What it should be at best.
    pub stretch: Option<String>,
    /// How it stands.
    pub verdict: Verdict,
}

/// The aim of an engine on a workload, if it has one.
pub fn aim_of(workload: &str, engine: &str) -> Option<&'static Aim> {
    AIMS.iter().find(|aim| aim.workloads.contains(&workload) && aim.engines.contains(&engine))
}

/// The median that a figure is held against, and whose it is.
pub fn base(record: &Record, workload: &str, figure: Figure) -> Option<(String, f64)> {
    let outcomes = &record.get(workload)?.outcomes;
    let of = |outcome: &Outcome| (outcome.engine.clone(), outcome.summary.median);
    match figure {
        Figure::OverBestPeer => outcomes
            .iter()
            .filter(|outcome| outcome.role == "peer")
            .min_by(|a, b| a.summary.median.total_cmp(&b.summary.median))
            .map(of),
        Figure::Over(engine) => outcomes.iter().find(|outcome| outcome.engine == engine).map(of),
        Figure::Median | Figure::Speedup(_) | Figure::Loss(_) => None,
    }
}

/// A figure of an engine; `None` if something that it takes was not measured.
fn measured(record: &Record, workload: &str, engine: &str, figure: Figure) -> Option<f64> {
    let median = record.median(workload, engine)?;
    Some(match figure {
        Figure::OverBestPeer | Figure::Over(_) => median / base(record, workload, figure)?.1,
        Figure::Median => median,
        Figure::Speedup(of) => record.median(of, engine)? / median,
        Figure::Loss(of) => record.median(of, engine)? - median,
    })
}

/// How an engine stands on a workload, by what `record` holds; `None` without an aim, or without
/// all the figures that it takes.
pub fn judge(record: &Record, workload: &str, engine: &str) -> Option<Judgement> {
    let Aim { aim, stretch, .. } = *aim_of(workload, engine)?;
    let holds = |goal: Goal| {
        let value = measured(record, workload, engine, goal.figure)?;
        Some((value, goal.limit.holds(value)))
    };
    let (value, met) = holds(aim)?;
    let beyond = stretch.and_then(holds).is_some_and(|(_, holds)| holds);
    Some(Judgement {
        measured: value,
        aim: aim.to_string(),
        stretch: stretch.map(|goal| goal.to_string()),
        verdict: match (met, beyond) {
            (true, true) => Verdict::Stretch,
            (true, false) => Verdict::Met,
            (false, _) => Verdict::Missed,
        },
    })
}

/// The figure of an engine's aim on a workload.
pub fn figure_of(workload: &str, engine: &str) -> Option<Figure> {
    Some(aim_of(workload, engine)?.aim.figure)
}

/// Every engine and workload that has an aim, in the order of the list.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    AIMS.iter().flat_map(|aim| {
        let workloads = aim.workloads.iter();
        workloads.flat_map(|workload| aim.engines.iter().map(|engine| (*workload, *engine)))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::engines::EngineId;
    use crate::engines::pages::PageEngineId;
    use crate::stats::Summary;
    use crate::workloads;

    fn record(figures: &[(&str, &str, &str, f64)]) -> Record {
        let mut record = Record::default();
        for workload in workloads::ALL {
            let outcomes: Vec<_> = figures
                .iter()
                .filter(|(name, ..)| *name == workload.name)
                .map(|&(_, engine, role, median)| Outcome {
                    engine: engine.to_owned(),
                    role: role.to_owned(),
                    summary: Summary { median, min: median, max: median, spread: 0.0, rounds: 1 },
                    ratio: None,
                    aim: None,
                })
                .collect();
            if !outcomes.is_empty() {
                record.insert(workload, &crate::machine::Circumstances::now(), outcomes);
            }
        }
        record
    }

    #[test]
    fn every_aim_is_about_workloads_and_engines_that_are_there_and_none_has_two() {
        let mut seen = HashSet::new();
        let engines = EngineId::ALL.iter().map(|id| id.name());
        let engines: HashSet<_> =
            engines.chain(PageEngineId::ALL.iter().map(|id| id.name())).collect();
        for (workload, engine) in all() {
            assert!(workloads::ALL.iter().any(|known| known.name == workload), "{workload}");
            assert!(engines.contains(engine), "{engine}");
            assert!(seen.insert((workload, engine)), "{workload}, {engine}: two aims");
        }
        // The peers that some aims name are not built in without the feature.
        let peers = ["jemalloc", "talc", "0.3.0"];
        for goal in AIMS.iter().flat_map(|aim| [Some(aim.aim), aim.stretch]).flatten() {
            match goal.figure {
                Figure::Over(engine) => assert!(peers.contains(&engine), "{engine}"),
                Figure::Speedup(of) | Figure::Loss(of) => {
                    assert!(workloads::ALL.iter().any(|known| known.name == of), "{of}");
                }
                Figure::OverBestPeer | Figure::Median => {}
            }
        }
    }

    #[test]
    fn the_best_peer_is_neither_ours_nor_a_floor() {
        let record = record(&[
            ("pair-64", "thread", "ours", 4.0),
            ("pair-64", "talc", "peer", 8.0),
            ("pair-64", "rlsf", "peer", 5.0),
            ("pair-64", "floor", "floor", 1.0),
        ]);
        let judgement = judge(&record, "pair-64", "thread").expect("all is there");
        assert_eq!((judgement.measured, judgement.verdict), (0.8, Verdict::Stretch));
        assert_eq!(judgement.aim, "<= 1 x best peer");
        assert_eq!(judge(&record, "pair-64", "pinned"), None);
    }

    #[test]
    fn an_aim_is_met_missed_or_passed() {
        for (median, verdict) in
            [(0.79, Verdict::Stretch), (0.9, Verdict::Met), (0.91, Verdict::Missed)]
        {
            let record =
                record(&[("mixed", "pinned", "ours", median), ("mixed", "talc", "peer", 1.0)]);
            assert_eq!(judge(&record, "mixed", "pinned").map(|j| j.verdict), Some(verdict));
        }
    }

    #[test]
    fn a_stretch_that_was_not_measured_is_not_reached() {
        let record =
            record(&[("realloc", "thread", "ours", 1.0), ("realloc", "jemalloc", "peer", 10.0)]);
        assert_eq!(judge(&record, "realloc", "thread").map(|j| j.verdict), Some(Verdict::Met));
    }

    #[test]
    fn two_threads_are_held_against_one_and_a_churned_region_against_a_fresh_one() {
        let record = record(&[
            ("pages-thread", "pinned", "ours", 8.0),
            ("pages-threads", "pinned", "ours", 5.0),
            ("space-all", "locked", "ours", 95.0),
            ("space-all-churned", "locked", "ours", 92.5),
        ]);
        let speedup = judge(&record, "pages-threads", "pinned").expect("both are there");
        assert_eq!((speedup.measured, speedup.verdict), (1.6, Verdict::Missed));
        let loss = judge(&record, "space-all-churned", "locked").expect("both are there");
        assert_eq!((loss.measured, loss.verdict), (2.5, Verdict::Met));
    }
}
