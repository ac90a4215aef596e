//! Figures on disk: `results.json`, which is read back, and `results.csv`, made from it.
//!
//! A run replaces the workloads that it measured and leaves the others, each with the
//! circumstances of its own run, so that a long measurement can be done in parts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::aims::{self, Verdict};
use crate::machine::Circumstances;
use crate::run::Outcome;
use crate::workloads::{self, Workload};

/// What is known about one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What figures are in.
    pub unit: String,
    /// Where and when they come from.
    pub circumstances: Circumstances,
    /// The engines, in the order of tables.
    pub outcomes: Vec<Outcome>,
}

/// All that is recorded, by the name of the workload.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record(BTreeMap<String, Entry>);

/// A line of `results.csv`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    workload: &'a str,
    unit: &'a str,
    engine: &'a str,
    role: &'a str,
    median: f64,
    ratio_to_best_peer: Option<f64>,
    measured: Option<f64>,
    aim: Option<&'a str>,
    stretch: Option<&'a str>,
    verdict: Option<Verdict>,
    min: f64,
    max: f64,
    spread: f64,
    rounds: usize,
    date: &'a str,
    commit: &'a str,
    rustc: &'a str,
    cpu: &'a str,
    cores: usize,
    system: &'a str,
}

impl Record {
    /// What `directory` holds; empty if there is nothing.
    ///
    /// # Errors
    /// The file is there and cannot be read or understood.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("results.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Replaces what is known about `workload`.
    pub fn insert(
        &mut self,
        workload: &Workload,
        circumstances: &Circumstances,
        outcomes: Vec<Outcome>,
    ) {
        let entry = Entry {
            unit: workload.unit.to_owned(),
            circumstances: circumstances.clone(),
            outcomes,
        };
        self.0.insert(workload.name.to_owned(), entry);
    }

    /// The entry of a workload.
    pub fn get(&self, workload: &str) -> Option<&Entry> {
        self.0.get(workload)
    }

    /// The median of an engine on a workload.
    pub fn median(&self, workload: &str, engine: &str) -> Option<f64> {
        let mut outcomes = self.get(workload)?.outcomes.iter();
        Some(outcomes.find(|outcome| outcome.engine == engine)?.summary.median)
    }

    /// Judges every figure anew by the aims, some of which compare workloads.
    pub fn judge(&mut self) {
        let before = self.clone();
        for (workload, entry) in &mut self.0 {
            for outcome in &mut entry.outcomes {
                outcome.aim = aims::judge(&before, workload, &outcome.engine);
            }
        }
    }

    /// Judges, and writes all files, workloads that no longer exist left out.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn save(&mut self, directory: &Path) -> Result<()> {
        self.0.retain(|name, _| workloads::ALL.iter().any(|workload| workload.name == name));
        self.judge();
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        fs::write(directory.join("results.json"), json)?;
        fs::write(directory.join("results.csv"), self.csv()?)?;
        Ok(())
    }

    /// The text of `results.csv`.
    fn csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for workload in workloads::ALL {
            let Some(entry) = self.get(workload.name) else { continue };
            let Circumstances { date, commit, rustc, cpu, cores, system } = &entry.circumstances;
            for outcome in &entry.outcomes {
                writer.serialize(Line {
                    workload: workload.name,
                    unit: &entry.unit,
                    engine: &outcome.engine,
                    role: &outcome.role,
                    median: rounded(outcome.summary.median),
                    ratio_to_best_peer: outcome.ratio.map(rounded),
                    measured: outcome.aim.as_ref().map(|aim| rounded(aim.measured)),
                    aim: outcome.aim.as_ref().map(|aim| aim.aim.as_str()),
                    stretch: outcome.aim.as_ref().and_then(|aim| aim.stretch.as_deref()),
                    verdict: outcome.aim.as_ref().map(|aim| aim.verdict),
                    min: rounded(outcome.summary.min),
                    max: rounded(outcome.summary.max),
                    spread: rounded(outcome.summary.spread),
                    rounds: outcome.summary.rounds,
                    date,
                    commit,
                    rustc,
                    cpu,
                    cores: *cores,
                    system,
                })?;
            }
        }
        Ok(writer.into_inner()?)
    }
}

/// Three digits behind the point: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Summary;

    fn outcome(engine: &str, median: f64) -> Outcome {
        Outcome {
            engine: engine.to_owned(),
            role: "peer".to_owned(),
            summary: Summary { median, min: 1.0, max: 9.0, spread: 0.25, rounds: 3 },
            ratio: None,
            aim: None,
        }
    }

    fn circumstances(date: &str) -> Circumstances {
        Circumstances {
            date: date.to_owned(),
            commit: "abc".to_owned(),
            rustc: "rustc 1".to_owned(),
            cpu: "a, b".to_owned(),
            cores: 2,
            system: "Linux".to_owned(),
        }
    }

    #[test]
    fn the_csv_has_a_header_and_a_line_for_each_engine() {
        let mut record = Record::default();
        let outcomes = vec![outcome("talc", 2.3456), outcome("rlsf", 4.0)];
        record.insert(&workloads::ALL[1], &circumstances("today"), outcomes);
        let text = String::from_utf8(record.csv().expect("csv")).expect("text");
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some(
                "workload,unit,engine,role,median,ratio_to_best_peer,measured,aim,stretch,verdict,min,\
                 max,spread,rounds,date,commit,rustc,cpu,cores,system"
            )
        );
        assert_eq!(
            lines.next(),
            Some(
                "pair-64,ns,talc,peer,2.346,,,,,,1.0,9.0,0.25,3,today,abc,rustc 1,\"a, b\",2,Linux"
            )
        );
        assert_eq!(lines.count(), 1);
    }

    #[test]
    fn a_run_replaces_its_own_workloads_and_keeps_the_others_as_they_were() {
        let mut record = Record::default();
        let [first, second] = [&workloads::ALL[0], &workloads::ALL[1]];
        record.insert(first, &circumstances("monday"), vec![outcome("talc", 1.0)]);
        record.insert(second, &circumstances("monday"), vec![outcome("talc", 2.0)]);
        let text = serde_json::to_string(&record).expect("json");
        let mut again: Record = serde_json::from_str(&text).expect("the same");
        assert_eq!(again, record);
        again.insert(second, &circumstances("friday"), vec![outcome("talc", 3.0)]);
        assert_eq!(again.get(first.name), record.get(first.name));
        let entry = again.get(second.name).expect("just inserted");
        assert_eq!(entry.circumstances.date, "friday");
        assert_eq!(entry.outcomes[0].summary.median, 3.0);
    }
}
