//! Builds and tests that want another standard library than the toolchain in use has: bare metal, 32 bits, sanitized.
//!
//! Two ways lead to a target's standard library, tried in this order:
//!
//! 1. the toolchain in use has it prebuilt (`rustup target add <target>`);
//! 2. Debian's compiler builds it from source (`-Zbuild-std`), which needs Debian's packages and crates.io only.
//!
//! Both leave `Cargo.lock` alone, which `--locked` holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::runner::{self, Runner};
use crate::{LIBRARY, STABLE_FEATURES};

/// Built when no target is named: 64 and 32 bits, three architectures, one without compare-and-swap (the last).
const BARE_TARGETS: [&str; 5] = [
    "x86_64-unknown-none",
    "aarch64-unknown-none",
    "riscv64gc-unknown-none-elf",
    "thumbv7em-none-eabihf",
    "riscv32imc-unknown-none-elf",
];

const TARGET_32: &str = "i686-unknown-linux-gnu";

const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Where Debian's `rust-web-src` puts the standard library's sources.
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/Cargo.lock";

/// Debian's compiler, its Cargo, and the standard library's sources.
const DEBIAN_PACKAGES: &str = "rustc-web cargo-web rust-web-src";
/// The crates of the standard library that tests want.
const STANDARD: &str = "std,test,panic_unwind";

/// How a target's standard library comes about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The toolchain in use has it.
    Prebuilt,
    /// Debian's compiler builds it from source.
    FromSource,
}

/// `targets`, or the usual ones if there are none.
pub fn or_default(targets: Vec<String>) -> Vec<String> {
    if targets.is_empty() { BARE_TARGETS.map(String::from).to_vec() } else { targets }
}

/// Builds the library for each of `targets`, without features and with all that stable Rust has.
///
/// # Errors
///
/// A target can be had in neither way, or does not build.
pub fn bare(runner: &mut Runner, targets: &[String]) -> Result<()> {
    for (way, targets) in by_way(targets)? {
        for (name, features) in [("bare", ""), ("bare with features", STABLE_FEATURES)] {
            // The library asks for `core` alone: with no more built, it cannot come to need more.
            let mut command = cargo(runner.root(), way, "build", "core");
            command.args(["--package", LIBRARY, "--features", features]);
            for target in &targets {
                command.args(["--target", target]);
            }
            runner.step(name, &mut command)?;
        }
    }
    Ok(())
}

/// Runs the tests of the library and the testkit as 32-bit programs.
///
/// # Errors
///
/// The target can be had in neither way, does not build, or a test fails.
pub fn test32(runner: &mut Runner) -> Result<()> {
    for (way, targets) in by_way(&[TARGET_32.to_owned()])? {
        let mut command = cargo(runner.root(), way, "test", STANDARD);
        // Not the examples in the docs: on Debian, rustdoc is another package, and they tell little about 32 bits.
        command.args(["--package", LIBRARY, "--package", "testkit", "--lib", "--tests"]);
        for target in &targets {
            command.args(["--target", target]);
        }
        runner.step("tests on 32 bits", &mut command)?;
    }
    Ok(())
}

/// A `cargo test` with the thread sanitizer in the standard library too. Where that library is without it, as toolchains
/// ship it, locks and joins there go unseen, and what they order is reported as a race.
///
/// Debian's compiler builds the library, and the sanitizer's runtime, which Debian leaves out, is that of the toolchain in use.
///
/// # Errors
///
/// Debian's compiler or the runtime is missing.
pub fn thread_sanitizer(root: &Path) -> Result<Command> {
    if !debian_is_here() {
        bail!("the thread sanitizer wants Debian's compiler: apt-get install {DEBIAN_PACKAGES}");
    }
    let runtime = library_directory(None)
        .and_then(|directory| fs::read_dir(directory).ok())
        .and_then(|mut files| {
            files.find_map(|file| {
                let path = file.ok()?.path();
                path.to_str()?.ends_with("_rt.tsan.a").then_some(path)
            })
        })
        .context(
            "the toolchain in use comes without the thread sanitizer's runtime (rustup's have it)",
        )?;
    let mut command = cargo(root, Way::FromSource, "test", STANDARD);
    command.env("CARGO_TARGET_DIR", crate::target_directory(root).join("thread-sanitizer")).env(
        "RUSTFLAGS",
        format!(
            "-Zsanitizer=thread -Zexternal-clangrt -Zpre-link-arg=-Wl,--whole-archive \
                 -Zpre-link-arg={} -Zpre-link-arg=-Wl,--no-whole-archive -Clink-arg=-lm",
            runtime.display()
        ),
    );
    Ok(command)
}

/// Groups `targets` by the way that leads to each.
fn by_way(targets: &[String]) -> Result<Vec<(Way, Vec<String>)>> {
    let (prebuilt, rest): (Vec<_>, Vec<_>) =
        targets.iter().cloned().partition(|target| is_prebuilt(target));
    if !rest.is_empty() && !debian_is_here() {
        bail!(
            "{}\nTests on 32 bits also want a 32-bit C library: apt-get install gcc-multilib",
            how_to_get(&rest.join(" ")),
        );
    }
    Ok([(Way::Prebuilt, prebuilt), (Way::FromSource, rest)]
        .into_iter()
        .filter(|(_, targets)| !targets.is_empty())
        .collect())
}

/// What to install for the standard library of `targets`.
pub fn how_to_get(targets: &str) -> String {
    format!(
        "no standard library for {targets}; either of these brings it:\n  \
         rustup target add {targets}\n  \
         apt-get install {DEBIAN_PACKAGES}   (Debian; builds it from source)"
    )
}

/// Whether the toolchain in use has `target`'s standard library.
pub fn is_prebuilt(target: &str) -> bool {
    library_directory(Some(target)).is_some_and(|directory| directory.is_dir())
}

/// Where the toolchain in use keeps the standard library of `target`, or of the host, if it has one.
fn library_directory(target: Option<&str>) -> Option<PathBuf> {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir"]);
    if let Some(target) = target {
        command.args(["--target", target]);
    }
    let output = command.stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Whether Debian's compiler, its Cargo and the standard library's sources are installed.
pub fn debian_is_here() -> bool {
    [DEBIAN_CARGO, DEBIAN_RUSTC, DEBIAN_SOURCES].iter().all(|path| Path::new(path).exists())
}

/// A Cargo `subcommand` for `way`; `standard` names the crates that are built from source where that is the way.
pub fn cargo(root: &Path, way: Way, subcommand: &str, standard: &str) -> Command {
    if way == Way::Prebuilt {
        return runner::cargo(&[subcommand, "--locked"]);
    }
    let mut command = Command::new(DEBIAN_CARGO);
    // What the Cargo above us set for its own toolchain must not reach another one.
    for variable in ["CARGO", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"] {
        command.env_remove(variable);
    }
    command
        .env("RUSTC", DEBIAN_RUSTC)
        // `-Zbuild-std` is unstable; the library itself is not allowed any unstable feature by this.
        .env("RUSTC_BOOTSTRAP", "1")
        // A directory of its own: two compilers would evict each other's work from one.
        .env("CARGO_TARGET_DIR", crate::target_directory(root).join("debian"))
        // Backtraces want no more, and less debug information builds sooner.
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .env("CARGO_INCREMENTAL", "0")
        .args([subcommand, "--locked", &format!("-Zbuild-std={standard}")]);
    command
}
