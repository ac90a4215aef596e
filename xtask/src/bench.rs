//! The benchmarks: builds the package `figures` with all peers, and runs it.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::runner;

/// Runs the benchmarks with `arguments`.
///
/// # Errors
///
/// They do not build (a C++ compiler is missing?), or fail.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let mut command = runner::cargo(&["run", "--release", "--locked", "--quiet"]);
    command.args(["--package", "figures", "--features", "peers", "--"]).args(arguments);
    let status = command.current_dir(root).status().context("cargo could not start")?;
    if !status.success() {
        bail!(
            "the benchmarks ended with {status} (the peers want a C++ compiler: apt-get install g++ make)"
        );
    }
    Ok(())
}
