//! What `run` prints.

use std::ffi::OsStr;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::library::Allocator;
use super::measure::Run;

const MIB: f64 = (1 << 20) as f64;

/// What the runs on one allocator come to.
#[derive(Serialize)]
pub struct Row {
    name: &'static str,
    /// Of the fastest run.
    wall_millis: f64,
    /// Of the run that used the processor least.
    cpu_millis: f64,
    /// The median.
    peak_mib: f64,
    /// How many runs did not end well.
    failed: usize,
}

impl Row {
    /// Sums runs up; there is at least one.
    pub fn new(allocator: &Allocator, runs: &[Run]) -> Self {
        let least = |of: fn(&Run) -> f64| runs.iter().map(of).fold(f64::INFINITY, f64::min);
        let mut peaks: Vec<u64> = runs.iter().map(|run| run.peak_bytes).collect();
        peaks.sort_unstable();
        Self {
            name: allocator.name,
            wall_millis: least(|run| run.wall.as_secs_f64() * 1e3),
            cpu_millis: least(|run| run.cpu.as_secs_f64() * 1e3),
            peak_mib: peaks.get(peaks.len() / 2).map_or(0.0, |peak| *peak as f64 / MIB),
            failed: runs.iter().filter(|run| !run.status.success()).count(),
        }
    }
}

/// Time and peak memory side by side, and as multiples of the best other allocator's.
pub fn compare(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let best = |of: fn(&Row) -> f64| rows.iter().skip(1).map(of).fold(f64::INFINITY, f64::min);
    let wall = best(|row| row.wall_millis);
    let cpu = best(|row| row.cpu_millis);
    let peak = best(|row| row.peak_mib);
    writeln!(
        out,
        "\n{:<11}{:>12}{:>7}{:>12}{:>7}{:>12}{:>7}   (x: of the best other one)",
        "", "time, ms", "x", "cpu, ms", "x", "peak, MiB", "x"
    )?;
    for row in rows {
        let Row { name, wall_millis, cpu_millis, peak_mib, failed } = row;
        let (wall_x, cpu_x, peak_x) = (wall_millis / wall, cpu_millis / cpu, peak_mib / peak);
        write!(out, "{name:<11}{wall_millis:>12.1}{wall_x:>7.2}{cpu_millis:>12.1}{cpu_x:>7.2}")?;
        write!(out, "{peak_mib:>12.1}{peak_x:>7.2}")?;
        if *failed != 0 {
            write!(out, "   {failed} runs failed")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// What happened in one run.
pub fn report(out: &mut impl Write, name: &OsStr, run: &Run) -> io::Result<()> {
    let (wall, cpu) = (run.wall.as_secs_f64(), run.cpu.as_secs_f64());
    write!(out, "\n{}: {}, {wall:.3} s, {cpu:.3} s of processor, ", name.display(), run.status)?;
    writeln!(out, "{:.1} MiB resident at most", run.peak_bytes as f64 / MIB)?;
    let Some(report) = &run.report else {
        return writeln!(
            out,
            "no report: it ended by a signal or `_exit`, or did not load the library"
        );
    };
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let of = |key: &str| number(report, key);
    writeln!(
        out,
        "heap     {:.1} MiB in use at the end; {:.1} MiB at most (but for a few small blocks)",
        of("current_bytes") / MIB,
        of("peak_bytes") / MIB
    )?;
    writeln!(
        out,
        "threads  {} at the end, {} heaps; {} frees of other threads' objects; {} calls from \
         handlers inside the allocator; {} bad frees",
        of("threads"),
        of("heaps"),
        of("remote_frees"),
        of("reentries"),
        of("misuses")
    )?;
    if let Some(kernel) = report.get("kernel") {
        writeln!(
            out,
            "kernel   {:.2} ms lost in {} mappings, {} purges of {:.1} MiB, {} moves; {} page \
             faults; {:.1} ms in the system altogether",
            number(kernel, "nanos") / 1e6,
            number(kernel, "maps"),
            number(kernel, "purges"),
            number(kernel, "purged_bytes") / MIB,
            number(kernel, "moves"),
            number(kernel, "page_faults"),
            number(kernel, "system_nanos") / 1e6
        )?;
    }
    writeln!(out, "\n{:>8}{:>12}{:>12}{:>9}{:>9}", "size", "live", "total", "slabs", "pages")?;
    for class in report.get("classes").and_then(Value::as_array).into_iter().flatten() {
        let of = |key: &str| number(class, key);
        let [size, live, total] = [of("size"), of("live"), of("total")];
        writeln!(out, "{size:>8}{live:>12}{total:>12}{:>9}{:>9}", of("slabs"), of("pages"))?;
    }
    writeln!(out, "{:>8}{:>42}", "larger", of("large_pages"))?;
    write!(out, "\nfree blocks by order (2^order pages):")?;
    let blocks = report.get("free_blocks").and_then(Value::as_array);
    for (order, count) in blocks.into_iter().flatten().enumerate() {
        if count.as_u64().is_some_and(|count| count != 0) {
            write!(out, " {order}:{count}")?;
        }
    }
    writeln!(out)
}
