//! The command line. Bare, it runs the demo; `run` runs another program on the allocator.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};

/// A program whose only heap is buddy-slab-allocator over one mapped region.
#[derive(Debug, Parser)]
#[command(name = "buddy-slab", version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; the demo if nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What runs when no subcommand is named.
    #[command(flatten)]
    pub demo: DemoArgs,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Index sources in one region, answer queries, and account for every page
    Demo(DemoArgs),
    /// Run a program on this allocator as its C malloc, and report what happened
    #[cfg(target_os = "linux")]
    Run(RunArgs),
}

/// Options of `run`.
#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The program, by path or by name, and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["PROGRAM", "ARGS"])]
    pub command: Vec<std::ffi::OsString>,

    /// Where the report goes [default: the standard error output]
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// The report as JSON
    #[arg(long)]
    pub json: bool,

    /// Runs it again on the system's malloc, and on mimalloc, jemalloc, tcmalloc if installed
    #[arg(long)]
    pub compare: bool,

    /// How often each is run with `--compare`; best times and the median of peaks count
    #[arg(long, value_name = "N", default_value_t = 3, requires = "compare",
          value_parser = value_parser!(u16).range(1..))]
    pub runs: u16,
}

/// Options of the demo: index a corpus, query it, drop it, account for the memory.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// File or folder to index [default: the cargo registry's Rust sources and this repository's]
    pub path: Option<PathBuf>,

    /// Size of the one memory region, in MiB (read once more, before the first allocation)
    #[arg(long, value_name = "N", default_value_t = crate::boot::DEFAULT_REGION_MIB,
          value_parser = value_parser!(u32).range(1..))]
    pub region_mib: u32,

    /// Number of threads [default: as many as there are cores]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// How many of the most frequent words to print
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,

    /// Prefix to look up; may be given several times
    #[arg(long, value_name = "PREFIX", default_values = ["alloc", "page", "unsafe"])]
    pub prefix: Vec<String>,

    /// Indexes at most this much text, in MiB
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub corpus_mib: u32,

    /// Draws no progress bar
    #[arg(long)]
    pub quiet_progress: bool,
}

impl DemoArgs {
    /// The number of worker threads: as asked, or one a core.
    pub fn thread_count(&self) -> usize {
        match self.threads {
            Some(count) => usize::from(count),
            None => std::thread::available_parallelism().map_or(1, |count| count.get()),
        }
    }
}
