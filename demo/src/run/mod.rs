//! `run`: any dynamically linked program on this allocator, as its C `malloc`.
//!
//! - `program`: what is to be run, and why it cannot be
//! - `library`: the libraries to preload: ours, and others to compare with
//! - `measure`: one run: its time, its memory, its report
//! - `table`: what is printed

mod library;
mod measure;
mod program;
mod table;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::args::RunArgs;
use library::Allocator;
use measure::{Output, Run};
use program::Program;

/// Runs what `args` say, and ends as the program did.
pub fn run(args: &RunArgs) -> io::Result<ExitCode> {
    let (name, arguments) = args.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let program = Program::find(name)?;
    let first = measure::run(&program, arguments, &Allocator::ours()?, Output::Shown)?;
    let rows = if args.compare { compare(args.runs, &program, arguments)? } else { Vec::new() };

    let mut text = Vec::new();
    if args.json {
        let value = serde_json::json!({ "report": first.report, "compare": rows });
        serde_json::to_writer_pretty(&mut text, &value)?;
        writeln!(text)?;
    } else {
        table::report(&mut text, name, &first)?;
        if args.compare {
            table::compare(&mut text, &rows)?;
        }
    }
    match &args.report {
        Some(path) => std::fs::write(path, &text).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?,
        None => io::stderr().write_all(&text)?,
    }
    Ok(first.exit_code())
}

/// Runs the program on every allocator in turn, as often as asked; one that is missing is left out.
fn compare(rounds: u16, program: &Program, arguments: &[OsString]) -> io::Result<Vec<table::Row>> {
    let allocators = Allocator::all()?;
    let mut runs: Vec<Vec<Run>> = allocators.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (allocator, runs) in allocators.iter().zip(&mut runs) {
            runs.push(measure::run(program, arguments, allocator, Output::Hidden)?);
        }
    }
    Ok(allocators.iter().zip(&runs).map(|(of, runs)| table::Row::new(of, runs)).collect())
}
