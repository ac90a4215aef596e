//! Instruction counts: runs the callgrind benchmarks of the package `figures`, and holds what they count to what is
//! recorded.
//!
//! Counts are the same at every run of one compiler. Another compiler makes other code, so counts that another version
//! recorded are shown beside the new ones and decide nothing; `--bless` records anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::runner::{self, Runner};

/// The version of gungraun in `benches/Cargo.toml`: its runner has to be the same.
const RUNNER_VERSION: &str = "0.20.0";

/// A count may grow by so many per cent.
const TOLERANCE_PERCENT: u64 = 3;

/// The two cases of a benchmark that is run beside little and beside sixteen times as much of something.
const SCALES: [&str; 2] = ["/x1", "/x16"];
/// What the second may be above the first: so many per cent, and a few instructions for a level of a table.
const SCALE_PERCENT: u64 = 5;
const SCALE_INSTRUCTIONS: u64 = 32;

/// What `benches/record/instructions.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Budgets {
    /// What `rustc --version` said.
    rustc: String,
    /// What `valgrind --version` said: for information.
    valgrind: String,
    /// Instructions of each benchmark.
    counts: Counts,
}

/// Instructions by the name of the benchmark.
type Counts = BTreeMap<String, u64>;

/// What a comparison found, by the name of the benchmark.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Within the tolerance.
    Kept,
    /// More than the tolerance below: worth recording.
    Improved,
    /// More than the tolerance above.
    Regressed,
    /// Counted, not recorded.
    Unknown,
    /// Recorded, not counted.
    Gone,
}

/// Counts, and compares with what is recorded; records the counts instead if `bless`.
///
/// # Errors
///
/// A tool is missing, a benchmark fails, or a count has grown beyond the tolerance.
pub fn run(root: &Path, bless: bool) -> Result<()> {
    let output = command(root, &[])?
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not start")?;
    if !output.status.success() {
        bail!("the benchmarks ended with {}", output.status);
    }
    let counts = counts(&String::from_utf8_lossy(&output.stdout))?;
    if bless {
        let growing = growing(&counts);
        if !growing.is_empty() {
            bail!("{}", growing.join("\n"));
        }
        let budgets = Budgets { rustc: version("rustc")?, valgrind: version("valgrind")?, counts };
        let mut text = serde_json::to_string_pretty(&budgets)?;
        text.push('\n');
        let path = path(root);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("recorded {} counts in {}", budgets.counts.len(), path.display());
        return Ok(());
    }
    let report = judge(&load(root)?, &version("rustc")?, &counts)?;
    println!("{report}");
    Ok(())
}

/// The same as a step of the gate.
///
/// # Errors
///
/// As [`run`].
pub fn step(runner: &mut Runner) -> Result<()> {
    let root = runner.root().to_path_buf();
    let text = runner.step("instructions", &mut command(&root, &[])?)?;
    let counts = counts(&text)?;
    runner.check("instruction budgets", || judge(&load(&root)?, &version("rustc")?, &counts))
}

/// The command that runs the benchmarks, `arguments` being for gungraun; it prints a line of JSON for each.
///
/// # Errors
///
/// Valgrind, or gungraun's runner of the right version, is not there.
pub fn command(root: &Path, arguments: &[&str]) -> Result<Command> {
    if version("valgrind").is_err() {
        bail!("instructions are counted by valgrind: apt-get install valgrind");
    }
    let runner = version("gungraun-runner").unwrap_or_default();
    if !runner.ends_with(RUNNER_VERSION) {
        let found = if runner.is_empty() { "none" } else { &runner };
        bail!(
            "the benchmarks want gungraun-runner {RUNNER_VERSION} (found: {found}): \
             cargo install --locked gungraun-runner --version {RUNNER_VERSION}"
        );
    }
    let mut command = runner::cargo(&["bench", "--locked", "--quiet", "--package", "figures"]);
    command
        .args(["--features", "instructions", "--bench", "instructions", "--"])
        .arg("--output-format=json")
        .args(arguments)
        // Counts depend on the optimiser's flags: a developer's own would not be comparable.
        .env_remove("RUSTFLAGS")
        .env("GUNGRAUN_HOME", home(root));
    Ok(command)
}

/// Where gungraun leaves what callgrind wrote.
pub fn home(root: &Path) -> PathBuf {
    crate::target_directory(root).join("gungraun")
}

/// What `program --version` prints.
///
/// # Errors
///
/// It cannot be started.
pub fn version(program: &str) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .with_context(|| format!("`{program}` could not start"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn path(root: &Path) -> PathBuf {
    root.join("benches/record/instructions.json")
}

fn load(root: &Path) -> Result<Budgets> {
    let path = path(root);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{} (`--bless` makes it)", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The part of gungraun's summary of one benchmark that is of interest.
#[derive(Deserialize)]
pub struct Summary {
    function_name: String,
    id: Option<String>,
    profiles: Vec<serde_json::Value>,
    /// Where callgrind wrote to.
    pub output_dir: PathBuf,
    /// The program that ran.
    pub benchmark_exe: PathBuf,
}

impl Summary {
    /// The benchmark's function, and its case.
    pub fn name(&self) -> String {
        match &self.id {
            Some(id) => format!("{}/{id}", self.function_name),
            None => self.function_name.clone(),
        }
    }
}

/// The summaries in the lines of JSON among `text`.
///
/// # Errors
///
/// There are none, or they have another form.
pub fn summaries(text: &str) -> Result<Vec<Summary>> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let summaries: Vec<Summary> = lines
        .map(|line| serde_json::from_str(line).context("gungraun's summary"))
        .collect::<Result<_>>()?;
    if summaries.is_empty() {
        bail!("no benchmark has run");
    }
    Ok(summaries)
}

/// The counts in the lines of JSON among `text`.
fn counts(text: &str) -> Result<Counts> {
    summaries(text)?
        .iter()
        .map(|summary| {
            let count = summary.profiles.first().and_then(|profile| {
                profile
                    .pointer("/data/total/metrics/Ir/values/new")
                    .and_then(|count| count.as_u64())
            });
            let name = summary.name();
            let count = count.with_context(|| format!("`{name}` has no count"))?;
            Ok((name, count))
        })
        .collect()
}

/// What became of every benchmark.
fn compare(budgets: &Counts, counts: &Counts) -> BTreeMap<String, Verdict> {
    let names: BTreeSet<&String> = budgets.keys().chain(counts.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let verdict = match (budgets.get(name), counts.get(name)) {
                (Some(_), None) => Verdict::Gone,
                (None, _) => Verdict::Unknown,
                (Some(&budget), Some(&count)) => {
                    let tolerance = budget * TOLERANCE_PERCENT / 100;
                    if count > budget + tolerance {
                        Verdict::Regressed
                    } else if count + tolerance < budget {
                        Verdict::Improved
                    } else {
                        Verdict::Kept
                    }
                }
            };
            (name.clone(), verdict)
        })
        .collect()
}

/// The benchmarks that cost more beside more, or of whose two cases one is missing.
fn growing(counts: &Counts) -> Vec<String> {
    let [small, large] = SCALES;
    let mut growing = Vec::new();
    for (name, &count) in counts {
        if let Some(benchmark) = name.strip_suffix(large) {
            match counts.get(&format!("{benchmark}{small}")) {
                Some(&base) if count > base + base * SCALE_PERCENT / 100 + SCALE_INSTRUCTIONS => {
                    growing
                        .push(format!("{benchmark} grows with what there is: {base} -> {count}"));
                }
                Some(_) => {}
                None => growing.push(format!("{benchmark} has no case {small}")),
            }
        } else if let Some(benchmark) = name.strip_suffix(small)
            && !counts.contains_key(&format!("{benchmark}{large}"))
        {
            growing.push(format!("{benchmark} has no case {large}"));
        }
    }
    growing
}

/// A report of the counts, or an error that holds it.
fn judge(budgets: &Budgets, rustc: &str, counts: &Counts) -> Result<String> {
    let verdicts = compare(&budgets.counts, counts);
    let mut lines = Vec::new();
    for (name, verdict) in &verdicts {
        let show = |counts: &Counts| counts.get(name).map_or("-".to_owned(), u64::to_string);
        let word = match verdict {
            Verdict::Kept => "",
            Verdict::Improved => "improved",
            Verdict::Regressed => "REGRESSED",
            Verdict::Unknown => "not recorded",
            Verdict::Gone => "recorded, but gone",
        };
        lines.push(format!(
            "{name:<40} {:>10} -> {:>10}  {word}",
            show(&budgets.counts),
            show(counts)
        ));
    }
    let report = lines.join("\n");
    let growing = growing(counts);
    if !growing.is_empty() {
        bail!("{report}\n{}", growing.join("\n"));
    }
    if budgets.rustc != rustc {
        let recorded = &budgets.rustc;
        return Ok(format!(
            "{report}\nnothing decided: recorded with {recorded}, counted with {rustc}"
        ));
    }
    let bad = |verdict: &&Verdict| !matches!(verdict, Verdict::Kept | Verdict::Improved);
    match verdicts.values().filter(bad).count() {
        0 if verdicts.values().any(|verdict| *verdict == Verdict::Improved) => {
            Ok(format!("{report}\n`cargo xtask instructions --bless` keeps what was gained"))
        }
        0 => Ok(report),
        bad => bail!(
            "{report}\n{bad} counts are more than {TOLERANCE_PERCENT} % above what is recorded, or not recorded, or \
             gone; if that is meant: cargo xtask instructions --bless"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_of(list: &[(&str, u64)]) -> Counts {
        list.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
    }

    fn budgets_of(list: &[(&str, u64)]) -> Budgets {
        Budgets { rustc: "rustc 1".into(), valgrind: "v".into(), counts: counts_of(list) }
    }

    #[test]
    fn three_per_cent_pass_and_more_do_not() {
        let budgets = counts_of(&[("a", 1000), ("b", 1000), ("c", 1000), ("d", 1000)]);
        let now = counts_of(&[("a", 1030), ("b", 1031), ("c", 970), ("d", 969)]);
        let verdicts: Vec<_> = compare(&budgets, &now).into_values().collect();
        assert_eq!(verdicts, [Verdict::Kept, Verdict::Regressed, Verdict::Kept, Verdict::Improved]);
    }

    #[test]
    fn a_benchmark_that_is_new_or_gone_is_noticed() {
        let verdicts = compare(&counts_of(&[("old", 1)]), &counts_of(&[("new", 1)]));
        assert_eq!(verdicts["old"], Verdict::Gone);
        assert_eq!(verdicts["new"], Verdict::Unknown);
        assert!(judge(&budgets_of(&[("old", 1)]), "rustc 1", &counts_of(&[("new", 1)])).is_err());
    }

    #[test]
    fn a_regression_fails_under_the_same_compiler_and_is_shown_under_another() {
        let (budgets, now) = (budgets_of(&[("a", 100)]), counts_of(&[("a", 200)]));
        assert!(judge(&budgets, "rustc 1", &now).is_err());
        let report = judge(&budgets, "rustc 2", &now).expect("no verdict");
        assert!(report.contains("nothing decided"), "{report}");
        assert!(judge(&budgets, "rustc 1", &counts_of(&[("a", 100)])).is_ok());
    }

    #[test]
    fn what_costs_more_beside_more_fails_under_every_compiler() {
        let verdict = |small, large| {
            let now = counts_of(&[("f/x1", small), ("f/x16", large)]);
            judge(&Budgets { counts: now.clone(), ..budgets_of(&[]) }, "rustc 2", &now)
        };
        assert!(verdict(1000, 1082).is_ok());
        assert!(verdict(1000, 1083).is_err());
        assert!(verdict(1000, 500).is_ok());
        assert_eq!(growing(&counts_of(&[("f/x1", 1)])).len(), 1, "a case is missing");
        assert_eq!(growing(&counts_of(&[("f/x16", 1)])).len(), 1, "a case is missing");
    }

    #[test]
    fn counts_are_found_among_other_lines() {
        let line = r#"{"function_name":"pair","id":"pinned","output_dir":"/o","benchmark_exe":"/e","profiles":[{"data":{"total":{"metrics":{"Ir":{"values":{"new":7}}}}}}]}"#;
        let text = format!("Compiling x\n{line}\n");
        assert_eq!(counts(&text).expect("one line"), counts_of(&[("pair/pinned", 7)]));
        assert!(counts("nothing here").is_err());
    }
}
