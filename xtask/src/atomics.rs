//! Atomic read-modify-writes per operation: what ran, counted.
//!
//! Callgrind says how often each instruction of the benchmarks of hot paths was executed, and the disassembly says which
//! of them lock the bus: those with a `lock` prefix, and `xchg` with memory, which locks without one.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::instructions::{self, Summary};

/// Operations in each of the benchmarks: `TIMES` in `benches/instructions/hot.rs`.
const TIMES: u64 = 1000;

/// Counts, and prints what came of it.
///
/// # Errors
///
/// A tool is missing, a benchmark fails, or the processor is another.
pub fn run(root: &Path) -> Result<()> {
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
    println!("atomic read-modify-writes, of {TIMES} operations each");
    for summary in &summaries {
        let program = &summary.benchmark_exe;
        if !disassembled.contains_key(program) {
            disassembled.insert(program.clone(), locking(&disassembly(program)?));
        }
        let path = profile(summary)?;
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let count = executions(&text, &program.to_string_lossy(), &disassembled[program])?;
        println!("{:<40} {count:>8}  {:>7.4} each", summary.name(), count as f64 / TIMES as f64);
    }
    Ok(())
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
