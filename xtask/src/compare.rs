//! Time and peak memory of real programs on the heap and on other allocators: each script of
//! `xtask/programs/figures` under `buddy-slab run --compare`, in one table of ratios.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::programs::{needs, scripts};
use crate::runner::{Runner, cargo};
use crate::target_directory;

/// Prints where Python's own program is (not a wrapper that looks for it), and a `rustc` that has
/// no malloc of its own, which would stand in front of a preloaded one.
const TOOLS: &str = r#"
python3 -c 'import sys; print(sys.executable)' 2>/dev/null || echo python3
for rustc in "$(command -v rustc)" /usr/bin/rustc; do
    driver=$("$rustc" --print sysroot 2>/dev/null)/bin/rustc
    [ -x "$driver" ] && ! nm -D --defined-only "$driver" 2>/dev/null | grep -q ' T malloc$' && echo "$driver" && break
done
"#;

/// What `buddy-slab run --compare --json` says of the runs on one allocator.
#[derive(Deserialize)]
struct Row {
    name: String,
    wall_millis: f64,
    cpu_millis: f64,
    peak_mib: f64,
    failed: usize,
}

#[derive(Deserialize)]
struct Outcome {
    compare: Vec<Row>,
}

/// Measures every script, or those that are named, `runs` times on each allocator, in turns.
///
/// # Errors
/// A program is missing, or a run failed.
pub fn run(root: &Path, names: &[String], runs: u16) -> Result<()> {
    Runner::streaming(root).step(
        "library and command",
        &mut cargo(&["build", "--quiet", "--release", "--package", "demo"]),
    )?;
    let command = target_directory(root).join("release/buddy-slab");
    let tools = Command::new("sh").args(["-c", TOOLS]).stderr(Stdio::null()).output()?;
    let tools = String::from_utf8_lossy(&tools.stdout).into_owned();
    let mut tools = tools.lines();
    let python = tools.next().unwrap_or("python3");
    let rustc = tools.next();
    let mut table = String::new();
    for script in scripts(&root.join("xtask/programs/figures"), names)? {
        let name = script.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        needs(&script)?;
        if name == "rustc" && rustc.is_none() {
            println!("rustc: left out, since every one here has a malloc of its own");
            continue;
        }
        let place = std::env::temp_dir().join(format!("bsa-figures-{}", std::process::id()));
        std::fs::create_dir_all(&place)?;
        let report = place.join("report.json");
        let output = Command::new(&command)
            .args(["run", "--compare", "--json", "--runs", &runs.to_string(), "--report"])
            .arg(&report)
            .args(["--", "/bin/sh"])
            .arg(&script)
            .current_dir(&place)
            .env("REPOSITORY", root)
            .env("PYTHON", python)
            .env("RUSTC", rustc.unwrap_or_default())
            .output()
            .context("the command starts")?;
        let text = std::fs::read_to_string(&report);
        std::fs::remove_dir_all(&place)?;
        if !output.status.success() {
            bail!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let outcome: Outcome = serde_json::from_str(&text?).context("a report")?;
        if table.is_empty() {
            heading(&mut table, &outcome.compare)?;
        }
        let line = line(&name, &outcome.compare)?;
        println!("{}", line.trim_end());
        table += &line;
    }
    println!(
        "\nours as a multiple of each other allocator: processor time / peak memory\n\n{table}"
    );
    Ok(())
}

fn heading(table: &mut String, rows: &[Row]) -> Result<()> {
    write!(table, "| program | ours, ms | MiB |")?;
    for row in rows.iter().skip(1) {
        write!(table, " {} |", row.name)?;
    }
    writeln!(table, " best |\n|{}", " --- |".repeat(rows.len() + 3))?;
    Ok(())
}

fn line(name: &str, rows: &[Row]) -> Result<String> {
    let Some((ours, others)) = rows.split_first() else { bail!("{name}: no runs") };
    if let Some(row) = rows.iter().find(|row| row.failed != 0) {
        bail!("{name}: {} runs failed on {}", row.failed, row.name);
    }
    // Where a program has several threads the time that passes counts, not what all of them used.
    let time = |row: &Row| row.cpu_millis.min(row.wall_millis);
    let mut line = format!("| {name} | {:.0} | {:.1} |", time(ours), ours.peak_mib);
    let mut best = (f64::INFINITY, f64::INFINITY);
    for row in others {
        let (times, peaks) = (time(ours) / time(row), ours.peak_mib / row.peak_mib);
        write!(line, " {times:.2} / {peaks:.2} |")?;
        best = (best.0.min(time(row)), best.1.min(row.peak_mib));
    }
    writeln!(line, " {:.2} / {:.2} |", time(ours) / best.0, ours.peak_mib / best.1)?;
    Ok(line)
}
