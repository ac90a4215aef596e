//! Atomic read-modify-writes per operation: what ran, counted.
//!
//! Callgrind says how often each instruction of the benchmarks of hot paths was executed, and the disassembly says which
//! of them lock the bus: those with a `lock` prefix, and `xchg` with memory, which locks without one.
//!
//! What a remote free may cost is held to a limit: [`PER_REMOTE_FREE`] of them for an object that one CPU frees and
//! another, its owner, takes in again.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::instructions::{self, Summary};

/// Operations in each of the benchmarks: `TIMES` in `benches/instructions/hot.rs`.
const TIMES: u64 = 1000;
/// How many objects `alloc_returned` takes in, `TIMES` of which it hands out again.
const RETURNED: u64 = 2 * TIMES;
/// The limit for an object that goes from its owner to another CPU and back.
const PER_REMOTE_FREE: f64 = 1.0 / 16.0;
/// The ways to the heap whose remote frees are held to it. (The third takes a lock for every call.)
const WAYS: [&str; 2] = ["pinned", "thread"];

/// What `benches/record/atomics.json` holds.
#[derive(Serialize)]
struct Recorded {
    rustc: String,
    /// Atomic read-modify-writes of `TIMES` operations, by the name of the benchmark.
    counts: BTreeMap<String, u64>,
    /// Atomic read-modify-writes for each object from its remote free until its owner has it back, by way.
    per_remote_free: BTreeMap<String, f64>,
    limit: f64,
}

/// Counts, prints and checks; records the counts if `bless`.
///
/// # Errors
///
/// A tool is missing, a benchmark fails, the processor is another, or a remote free takes more than its limit.
pub fn run(root: &Path, bless: bool) -> Result<()> {
    let counts = count(root)?;
    println!("atomic read-modify-writes, of {TIMES} operations each");
    for (name, count) in &counts {
        println!("{name:<40} {count:>8}  {:>7.4} each", *count as f64 / TIMES as f64);
    }
    let per_remote_free = per_remote_free(&counts)?;
    for (way, count) in &per_remote_free {
        println!(
            "an object freed remotely, and taken in again, {way}: {count:.4} (limit {PER_REMOTE_FREE})"
        );
    }
    if bless {
        let rustc = instructions::version("rustc")?;
        let recorded = Recorded {
            rustc,
            counts,
            per_remote_free: per_remote_free.clone(),
            limit: PER_REMOTE_FREE,
        };
        let path = root.join("benches/record/atomics.json");
        let text = serde_json::to_string_pretty(&recorded)? + "\n";
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("recorded in {}", path.display());
    }
    within_limit(&per_remote_free)
}

/// The check alone, as a step of the gate; a report of what was counted.
///
/// # Errors
///
/// As [`run`].
pub fn check(root: &Path) -> Result<String> {
    let per_remote_free = per_remote_free(&count(root)?)?;
    within_limit(&per_remote_free)?;
    Ok(format!("{per_remote_free:?}"))
}

/// What an object takes from its remote free, in the order of allocation, until its owner has it back.
fn per_remote_free(counts: &BTreeMap<String, u64>) -> Result<BTreeMap<String, f64>> {
    let of =
        |name: String| counts.get(&name).copied().with_context(|| format!("no benchmark `{name}`"));
    WAYS.iter()
        .map(|way| {
            let freed = of(format!("free_remote/{way}"))? as f64 / TIMES as f64;
            let taken_in = of(format!("alloc_returned/{way}"))? as f64 / RETURNED as f64;
            Ok(((*way).to_owned(), freed + taken_in))
        })
        .collect()
}

fn within_limit(per_remote_free: &BTreeMap<String, f64>) -> Result<()> {
    for (way, count) in per_remote_free {
        if *count > PER_REMOTE_FREE {
            bail!(
                "a remote free takes {count:.4} atomic read-modify-writes ({way}), more than {PER_REMOTE_FREE}"
            );
        }
    }
    Ok(())
}

fn count(root: &Path) -> Result<BTreeMap<String, u64>> {
    if !cfg!(target_arch = "x86_64") {
        bail!("only the instructions of x86_64 are known here");
    }
    let output =
        instructions::command(root, &["--callgrind-args=--dump-instr=yes", "*::hot_paths::*"])?
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .context("cargo could not start")?;
    if !output.status.success() {
        bail!("the benchmarks ended with {}", output.status);
    }
    let summaries = instructions::summaries(&String::from_utf8_lossy(&output.stdout))?;
    let mut disassembled: BTreeMap<PathBuf, HashSet<u64>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for summary in &summaries {
        // Callgrind names it from the root directory on; cargo need not.
        let program = &root.join(&summary.benchmark_exe);
        if !disassembled.contains_key(program) {
            disassembled.insert(program.clone(), locking(&disassembly(program)?));
        }
        let path = profile(summary)?;
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let count = executions(&text, &program.to_string_lossy(), &disassembled[program])?;
        counts.insert(summary.name(), count);
    }
    if counts.values().all(|count| *count == 0) {
        bail!("no atomic read-modify-write was found, not even a lock's: the count sees nothing");
    }
    Ok(counts)
}

fn disassembly(program: &Path) -> Result<String> {
    let output = Command::new("objdump")
        .args(["--disassemble", "--no-show-raw-insn", "--disassembler-options=intel"])
        .arg(program)
        .output()
        .context("`objdump` could not start: apt-get install binutils")?;
    if !output.status.success() {
        bail!("objdump: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The file that callgrind wrote about a benchmark.
fn profile(summary: &Summary) -> Result<PathBuf> {
    let name = summary.name().replace('/', ".");
    let path = summary.output_dir.join(format!("callgrind.{name}.out"));
    if !path.exists() {
        bail!("callgrind has left no {}", path.display());
    }
    Ok(path)
}

/// The addresses of locking instructions in a disassembly.
fn locking(disassembly: &str) -> HashSet<u64> {
    let address = |line: &str| {
        let (address, instruction) = line.split_once(':')?;
        let instruction = instruction.trim();
        let locks = instruction.starts_with("lock ")
            || (instruction.starts_with("xchg ") && instruction.contains('['));
        locks.then(|| u64::from_str_radix(address.trim(), 16).ok()).flatten()
    };
    disassembly.lines().filter_map(address).collect()
}

/// How often the instructions at `addresses` of `program` were executed, by callgrind's output.
///
/// A cost line is `0x<address> <line> <instructions> …`; after `calls=` comes one with the cost of the callee, which is
/// listed elsewhere again.
fn executions(profile: &str, program: &str, addresses: &HashSet<u64>) -> Result<u64> {
    if !profile.lines().any(|line| line == "positions: instr line") {
        bail!("callgrind has written no addresses");
    }
    let (mut inside, mut of_callee, mut sum) = (false, false, 0);
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            inside = object == program;
        } else if line.starts_with("calls=") {
            of_callee = true;
        } else if let Some(cost) = line.strip_prefix("0x")
            && !std::mem::take(&mut of_callee)
            && inside
        {
            let mut words = cost.split(' ');
            let address = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
            let times = words.nth(1).and_then(|word| word.parse::<u64>().ok());
            let (address, times) =
                address.zip(times).with_context(|| format!("cost line `{line}`"))?;
            if addresses.contains(&address) {
                sum += times;
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locking_instructions_are_told_from_others() {
        let text = "\n\
            0000000000001000 <f>:\n\
            \x20   1000:\tlock cmpxchg QWORD PTR [rdi],rcx\n\
            \x20   1008:\txchg   ax,ax\n\
            \x20   100a:\txchg   BYTE PTR [rdi],al\n\
            \x20   100c:\tmov    rax,QWORD PTR [rdi]\n";
        assert_eq!(locking(text), HashSet::from([0x1000, 0x100a]));
    }

    #[test]
    fn a_remote_free_is_held_to_its_limit() {
        let count = |freed: u64, returned: u64| {
            let counts = WAYS.iter().flat_map(|way| {
                [(format!("free_remote/{way}"), freed), (format!("alloc_returned/{way}"), returned)]
            });
            per_remote_free(&counts.collect()).and_then(|counts| within_limit(&counts))
        };
        assert!(count(16, 90).is_ok());
        assert!(count(16, 95).is_err());
        assert!(count(63, 0).is_err());
        assert!(per_remote_free(&BTreeMap::new()).is_err(), "nothing was counted");
    }

    #[test]
    fn executions_count_once_and_in_the_program_only() {
        let profile = "positions: instr line\n\
            ob=/lib/libc.so\n\
            0x1000 1 100\n\
            ob=/bin/program\n\
            fn=f\n\
            0x1000 7 5 1 1\n\
            0x1008 7 5\n\
            calls=3 0x2000 0\n\
            0x1000 7 400 2\n\
            0x100a 8 2\n";
        let addresses = HashSet::from([0x1000, 0x100a]);
        assert_eq!(executions(profile, "/bin/program", &addresses).expect("a profile"), 7);
        assert!(executions("positions: line\n", "/bin/program", &addresses).is_err());
    }
}
