//! Real programs on the heap: each script of `xtask/programs` runs on the system's `malloc` and
//! with the library preloaded, and both runs must print the same and end the same.
//!
//! A script says what it needs in a line `# needs: …`. A program that is missing is an error:
//! `.ci/run` installs them from Debian. A script that ends with 77 was not applicable.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::runner::{Runner, cargo};
use crate::target_directory;

/// What a script ends with where there is nothing to test.
const NOT_APPLICABLE: i32 = 77;

/// Runs every script, or those that are named; `long` makes the data as large as a real one's.
///
/// # Errors
/// A program is missing; a run failed, or printed something else than on the system's `malloc`.
pub fn run(root: &Path, names: &[String], long: bool) -> Result<String> {
    Runner::streaming(root).step(
        "library for programs",
        &mut cargo(&["build", "--quiet", "--release", "--package", "buddy-slab-malloc-c"]),
    )?;
    let library = target_directory(root).join("release/libbuddyslab.so");
    let mut report = String::new();
    for script in scripts(&root.join("xtask/programs"), names)? {
        let name = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        needs(&script)?;
        let start = Instant::now();
        let system = execute(root, &script, None, long)?;
        let between = Instant::now();
        if system.status.code() == Some(NOT_APPLICABLE) {
            println!(
                "{name:<16} not applicable: {}",
                String::from_utf8_lossy(&system.stderr).trim()
            );
            continue;
        }
        let ours = execute(root, &script, Some(&library), long)?;
        let (theirs_took, ours_took) = (between - start, between.elapsed());
        if !system.status.success() {
            bail!("{name} fails on the system's malloc already:\n{}", shown(&system));
        }
        if ours.status != system.status || ours.stdout != system.stdout {
            bail!("{name} differs: expected\n{}\ngot\n{}", shown(&system), shown(&ours));
        }
        let lines = ours.stdout.iter().filter(|byte| **byte == b'\n').count();
        let line = format!(
            "{name:<16} the same {lines} lines; {:.1} s, on the system's malloc {:.1} s",
            ours_took.as_secs_f64(),
            theirs_took.as_secs_f64()
        );
        println!("{line}");
        report += &(line + "\n");
    }
    Ok(report)
}

/// The scripts in a directory, or those of them that are named.
pub fn scripts(directory: &Path, names: &[String]) -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory).context("the scripts are there")? {
        let path = entry?.path();
        let named =
            path.file_stem().is_some_and(|stem| names.iter().any(|name| stem == name.as_str()));
        if path.extension().is_some_and(|extension| extension == "sh")
            && (names.is_empty() || named)
        {
            all.push(path);
        }
    }
    if all.len() < names.len() || all.is_empty() {
        bail!("no such script in {}", directory.display());
    }
    all.sort();
    Ok(all)
}

/// Checks that the programs that a script names are there.
pub fn needs(script: &Path) -> Result<()> {
    let text = std::fs::read_to_string(script)?;
    let line = text.lines().find_map(|line| line.strip_prefix("# needs: ")).unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = line
        .split_whitespace()
        .filter(|program| !std::env::split_paths(&path).any(|place| place.join(program).is_file()))
        .collect();
    if !missing.is_empty() {
        bail!("{} needs {}; on Debian .ci/run installs it", script.display(), missing.join(", "));
    }
    Ok(())
}

fn execute(root: &Path, script: &Path, library: Option<&Path>, long: bool) -> Result<Output> {
    let place = std::env::temp_dir().join(format!("bsa-programs-{}", std::process::id()));
    std::fs::create_dir_all(&place)?;
    let mut command = Command::new("sh");
    command
        .arg(script)
        .current_dir(&place)
        .env("REPOSITORY", root)
        .env("LONG", if long { "1" } else { "0" })
        .env_remove("CARGO_TARGET_DIR");
    if let Some(library) = library {
        command.env("LD_PRELOAD", library);
    }
    let output = command.output().context("sh starts");
    std::fs::remove_dir_all(&place)?;
    output
}

fn shown(output: &Output) -> String {
    let (said, printed) = (&output.stderr, &output.stdout);
    let text = [String::from_utf8_lossy(printed), String::from_utf8_lossy(said)].concat();
    format!("{}\n{text}", output.status)
}
