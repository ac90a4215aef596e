//! Which toolchain builds a kernel, and how.
//!
//! In this order: the toolchain in use, if it has the target's `core` prebuilt; Debian's, which builds it
//! from source; for x86_64, the toolchain in use with the host's own `core`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::machine::Machine;
use crate::cross::{self, Way};
use crate::runner::{self, Runner};

/// The crates of the standard library that a kernel wants.
const STANDARD: &str = "core,alloc";
const HOST: &str = "x86_64-unknown-linux-gnu";

/// What builds a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Toolchain {
    /// The toolchain in use, with the target's prebuilt `core`
    Prebuilt,
    /// Debian's compiler, which builds `core` from source
    Debian,
    /// The toolchain in use with the host's own `core` (x86_64 only)
    Host,
}

/// How a kernel is optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// To level 1, with debug assertions.
    Debug,
    /// For speed.
    Release,
    /// For size, across crates.
    Small,
}

impl Profile {
    /// As Cargo calls it, and the directory of what it builds.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Debug => ("dev", "debug"),
            Self::Release => ("release", "release"),
            Self::Small => ("small", "small"),
        }
    }
}

/// What is to be built.
pub struct Plan {
    /// For which machine.
    pub machine: &'static Machine,
    /// With which features, separated by commas.
    pub features: String,
    /// How.
    pub profile: Profile,
    /// By what; `None` for whatever is there.
    pub toolchain: Option<Toolchain>,
}

/// Builds a kernel; returns the path of its image.
///
/// # Errors
///
/// No toolchain for it is there, or it does not build.
pub fn build(runner: &mut Runner, plan: &Plan) -> Result<PathBuf> {
    let toolchain = match plan.toolchain {
        Some(toolchain) => toolchain,
        None => choose(plan.machine)?,
    };
    let way = if toolchain == Toolchain::Debian { Way::FromSource } else { Way::Prebuilt };
    let target = if toolchain == Toolchain::Host { HOST } else { plan.machine.target };
    let mut command = cross::cargo(runner.root(), way, "build", STANDARD);
    let directory = crate::target_directory(runner.root()).join(match toolchain {
        Toolchain::Debian => "kernel-debian",
        Toolchain::Prebuilt | Toolchain::Host => "kernel",
    });
    name_package(&mut command, runner.root(), plan.machine, target);
    command.args(["--features", &plan.features]).env("CARGO_TARGET_DIR", &directory);
    if toolchain == Toolchain::Debian {
        let variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        command.env(variable, linker()?);
    }
    let (profile, profile_directory) = plan.profile.names();
    command.args(["--profile", profile]);
    let features = if plan.features.is_empty() { "" } else { " " };
    let name = format!("build {}{features}{}", plan.machine.name, plan.features);
    runner.step(&name, &mut command)?;
    Ok(directory.join(target).join(profile_directory).join(plan.machine.package))
}

/// Says which kernel: they are a workspace of their own, whose configuration Cargo finds only from inside.
fn name_package(command: &mut Command, root: &Path, machine: &Machine, target: &str) {
    let kernels = root.join("kernel");
    command
        .arg("--manifest-path")
        .arg(kernels.join("Cargo.toml"))
        .arg("--config")
        .arg(kernels.join(".cargo/config.toml"))
        .args(["--package", machine.package, "--target", target]);
}

/// A run of clippy on a kernel, if the toolchain in use can compile for it.
pub fn clippy(runner: &Runner, machine: &Machine) -> Option<Command> {
    let targets = [machine.target, HOST];
    let target = targets.into_iter().find(|target| {
        cross::is_prebuilt(target) && (*target != HOST || machine.target.starts_with("x86_64"))
    })?;
    let mut command = runner::cargo(&["clippy", "--locked"]);
    name_package(&mut command, runner.root(), machine, target);
    command
        .args(["--", "-D", "warnings"])
        .env("CARGO_TARGET_DIR", crate::target_directory(runner.root()).join("kernel"));
    Some(command)
}

/// What can build for `machine` here.
fn choose(machine: &Machine) -> Result<Toolchain> {
    if cross::is_prebuilt(machine.target) {
        return Ok(Toolchain::Prebuilt);
    }
    if cross::debian_is_here() {
        return Ok(Toolchain::Debian);
    }
    if machine.target.starts_with("x86_64") && cross::is_prebuilt(HOST) {
        return Ok(Toolchain::Host);
    }
    bail!("{}", cross::how_to_get(machine.target))
}

/// A linker for bare-metal targets: that of the toolchain in use, or LLVM's as Debian has it.
fn linker() -> Result<PathBuf> {
    let output = runner::rustc(&["--print", "sysroot"]).output().context("rustc does not run")?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    let bundled = sysroot.join("lib/rustlib").join(HOST).join("bin/rust-lld");
    if bundled.exists() {
        return Ok(bundled);
    }
    if Command::new("ld.lld").arg("--version").output().is_ok() {
        return Ok("ld.lld".into());
    }
    bail!("no linker for bare-metal targets: apt-get install lld")
}
