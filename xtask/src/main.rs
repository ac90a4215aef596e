//! `cargo xtask`: one entry point for every chore of the workspace.
//!
//! - [`gate`]: what has to pass before a commit, as named and timed steps;
//! - [`layers`]: holds the library's import ladder;
//! - [`programs`]: real programs on the heap; [`compare`]: their time and memory beside other allocators';
//! - [`install`]: the C library where packagers want it;
//! - [`cross`]: builds and tests for targets that the host is not;
//! - [`atomics`]: counts atomic read-modify-writes;
//! - [`mod@bench`]: measures the library beside its peers;
//! - [`instructions`]: counts instructions, and holds the counts to budgets;
//! - [`runner`]: runs a child process as a step.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod atomics;
mod bench;
mod compare;
mod cross;
mod gate;
mod install;
mod instructions;
mod kernel;
mod layers;
mod programs;
mod runner;

/// The package that everything here is about.
const LIBRARY: &str = "buddy-slab-allocator";

/// The library's features that build on stable Rust.
const STABLE_FEATURES: &str = "allocator-api2,lock_api,critical-section";

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the workspace")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the gate: every check, then the tests; stops at the first failure
    Ci {
        /// Add the longer checks: more property-test cases, sanitizers, provenance lints (wants a nightly toolchain)
        #[arg(long)]
        full: bool,
    },
    /// Check that the library's modules import only from the layers below them
    Layers,
    /// Build the library for bare-metal targets
    Bare {
        /// Target triples; a set that covers 32 and 64 bits and a target without compare-and-swap if none are named
        targets: Vec<String>,
    },
    /// Run real programs on the heap, and compare with the system's malloc
    Programs {
        /// Scripts of xtask/programs; all if none are named
        names: Vec<String>,
        /// With data as large as a real one's
        #[arg(long)]
        long: bool,
        /// Measure those of xtask/programs/figures on the heap and on other allocators instead
        #[arg(long, conflicts_with = "long")]
        compare: bool,
        /// How often each is measured on each allocator
        #[arg(long, requires = "compare", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
    },
    /// Build the C library and put it, its header and its pkg-config file below a directory
    Install {
        /// Where `lib`, `include` and `lib/pkgconfig` are, or will be: what the pkg-config file says
        #[arg(long, default_value = "/usr/local")]
        prefix: PathBuf,
        /// Put it all below this directory instead, as if that were the root: for packages
        #[arg(long)]
        destdir: Option<PathBuf>,
        /// Install below a directory that is removed again, and build a C program against that
        #[arg(long, conflicts_with_all = ["prefix", "destdir"])]
        check: bool,
    },
    /// Run the tests of the library and the testkit as 32-bit x86 Linux programs
    Test32,
    /// Build a demo kernel and boot it under QEMU
    Kernel(kernel::KernelArguments),
    /// Build and boot all demo kernels: every machine, every way to the heap, faults on purpose
    Kernels {
        /// Of these machines only
        machines: Vec<String>,
    },
    /// Count the instructions of hot paths, and compare them with what is recorded (wants valgrind)
    Instructions {
        /// Record the counts
        #[arg(long)]
        bless: bool,
    },
    /// Count the atomic read-modify-writes of hot paths, and hold remote frees to their limit (wants valgrind)
    Atomics {
        /// Record the counts
        #[arg(long)]
        bless: bool,
    },
    /// Measure the library beside its peers (wants a C++ compiler); `bench --help` says what can be asked
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed on to the program of the package `figures`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let root = &workspace_root();
    let outcome = match Arguments::parse().chore {
        Chore::Ci { full } => gate::run(root, full),
        Chore::Layers => layers::check(root).map(|report| println!("{report}")),
        Chore::Bare { targets } => {
            cross::bare(&mut runner::Runner::streaming(root), &cross::or_default(targets))
        }
        Chore::Programs { names, compare: true, runs, .. } => compare::run(root, &names, runs),
        Chore::Programs { names, long, .. } => programs::run(root, &names, long).map(|_| ()),
        Chore::Install { check: true, .. } => install::check(&mut runner::Runner::streaming(root)),
        Chore::Install { prefix, destdir, .. } => {
            install::run(&mut runner::Runner::streaming(root), &prefix, destdir.as_deref())
        }
        Chore::Kernel(arguments) => kernel::run(root, &arguments),
        Chore::Kernels { machines } => runner::Runner::logging(root)
            .and_then(|mut runner| kernel::run_all(&mut runner, &machines)),
        Chore::Test32 => cross::test32(&mut runner::Runner::streaming(root)),
        Chore::Instructions { bless } => instructions::run(root, bless),
        Chore::Atomics { bless } => atomics::run(root, bless),
        Chore::Bench { arguments } => bench::run(root, &arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The directory of the workspace's `Cargo.toml`: asked of Cargo, since a binary may outlive the checkout it is from.
fn workspace_root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let mut root = package.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.pop();
    root
}

/// Where build output goes: as Cargo decides it, `CARGO_TARGET_DIR` first.
fn target_directory(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root.join(directory),
        None => root.join("target"),
    }
}
