//! `buddy-slab`: a program whose only heap is buddy-slab-allocator over one mapped region.
//!
//! It indexes source code on every core, answers a few queries, drops everything, and accounts
//! for the memory. Every `String`, `Vec`, `HashMap` and `BTreeMap` in it, the standard library's
//! and the progress bar's own included, lies in the region. (Thread stacks and what the C library
//! keeps for itself are the operating system's matter, as in any Rust program.)
//!
//! - `heap`, `region`, `platform`, `boot`, `say`: the heap, and what it stands on;
//! - `corpus`, `index`, `text`: the program that uses it;
//! - `demo`, `report`, `args`: the order of events, and what is printed;
//! - `run`: any other program on this allocator, as its C `malloc`.

mod args;
mod boot;
mod corpus;
mod demo;
mod heap;
mod index;
mod platform;
mod region;
mod report;
#[cfg(target_os = "linux")]
mod run;
mod say;
mod text;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let outcome = match cli.command {
        None => demo::run(&cli.demo).map(success),
        Some(args::Command::Demo(demo)) => demo::run(&demo).map(success),
        #[cfg(target_os = "linux")]
        Some(args::Command::Run(run)) => run::run(&run),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("buddy-slab: {error}");
        ExitCode::FAILURE
    })
}

fn success(nothing_left: bool) -> ExitCode {
    if nothing_left { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
