//! The gate: every check that has to pass before a commit, cheapest first.
//!
//! The tests of the workspace come last, run by the README's own command with their output shown, so that the
//! gate's output ends with their results. Nothing is printed after them: the exit code says the rest.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::runner::{Runner, cargo};
use crate::{
    LIBRARY, STABLE_FEATURES, atomics, cross, install, instructions, kernel, layers, programs,
    target_directory,
};

const HOST: &str = "x86_64-unknown-linux-gnu";

/// Property-test cases where the same tests run once more in another build.
const FEW_CASES: &str = "16";
/// Property-test cases of the full gate.
const MANY_CASES: &str = "4096";

/// Runs the gate over the workspace at `root`.
///
/// # Errors
///
/// The first step that fails.
pub fn run(root: &Path, full: bool) -> Result<()> {
    let mut runner = Runner::logging(root)?;
    lint(&mut runner)?;
    cross::bare(&mut runner, &cross::or_default(Vec::new()))?;
    cross::test32(&mut runner)?;
    models(&mut runner)?;
    runner.step("demo", &mut cargo(&["run", "--release", "--", "crates"]))?;
    features(&mut runner)?;
    println!("programs on the heap");
    programs::run(root, &[], full)?;
    install::check(&mut runner)?;
    instructions::step(&mut runner)?;
    kernel::run_all(&mut runner, &[])?;
    if full {
        long(&mut runner)?;
    }
    println!(
        "all of the above: ok in {:.0} s; the tests follow, and decide\n",
        runner.elapsed().as_secs_f64()
    );
    runner.stream("tests", &mut cargo(&["test", "--workspace"]))
}

/// What reads the sources only: format, layers, clippy, docs.
fn lint(runner: &mut Runner) -> Result<()> {
    runner.step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    let manifest = ["--manifest-path", "kernel/Cargo.toml"];
    runner.step("format of kernels", cargo(&["fmt", "--all", "--check"]).args(manifest))?;
    let root = runner.root().to_path_buf();
    runner.check("layers", || layers::check(&root))?;

    let features = library_features(STABLE_FEATURES);
    for (name, features) in [("", ""), (" with features", features.as_str())] {
        let mut clippy = cargo(&["clippy", "--workspace", "--all-targets"]);
        clippy.args(["--features", features, "--", "-D", "warnings"]);
        runner.step(&format!("clippy{name}"), &mut clippy)?;
        let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--features", features]);
        docs.env("RUSTDOCFLAGS", "-D warnings");
        runner.step(&format!("docs{name}"), &mut docs)?;
    }
    kernel::lint(runner)
}

/// The loom models: every interleaving of the concurrent parts, within loom's bounds.
fn models(runner: &mut Runner) -> Result<()> {
    let mut command = cargo(&["test", "--release", "--package", LIBRARY, "--lib", "loom_"]);
    command
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", target_directory(runner.root()).join("loom"));
    let output = runner.step("loom models", &mut command)?;
    if output.contains("running 0 tests") {
        bail!("step `loom models` ran no model: has their name lost its prefix `loom_`?");
    }
    Ok(())
}

/// The tests of the edges, with the features that the workspace's own tests leave off.
fn features(runner: &mut Runner) -> Result<()> {
    // A program that links `critical-section` has to bring an implementation: on the host, that of `std`.
    let features = format!("{STABLE_FEATURES},critical-section/std");
    let mut command =
        cargo(&["test", "--package", LIBRARY, "--features", &features, "--test", "edges"]);
    command.env("PROPTEST_CASES", FEW_CASES);
    runner.step("tests with features", &mut command)?;
    Ok(())
}

/// What takes too long for every commit, or wants unstable flags of the compiler.
fn long(runner: &mut Runner) -> Result<()> {
    let mut command = cargo(&["test", "--package", LIBRARY, "--lib", "--tests"]);
    command.env("PROPTEST_CASES", MANY_CASES);
    runner.step("tests at length", &mut command)?;

    let root = runner.root().to_path_buf();
    runner.check("atomics", || atomics::check(&root))?;

    let mut command = unstable_cargo(runner.root(), "provenance");
    command.args(["rustc", "--package", LIBRARY, "--lib", "--features", "nightly", "--"]);
    for lint in ["warnings", "fuzzy_provenance_casts", "lossy_provenance_casts"] {
        command.args(["-D", lint]);
    }
    runner.step("provenance", &mut command)?;

    // A target named keeps a sanitizer out of build scripts and procedural macros.
    let tests = ["--package", LIBRARY, "--lib", "--tests", "--target", HOST];
    let mut command = unstable_cargo(runner.root(), "address-sanitizer");
    command
        .arg("test")
        .args(tests)
        .env("RUSTFLAGS", "-Zsanitizer=address")
        // Regions of a `'static` heap are leaked on purpose.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        .env("PROPTEST_CASES", FEW_CASES);
    runner.step("address sanitizer", &mut command)?;

    let mut command = cross::thread_sanitizer(runner.root())?;
    command.args(tests).env("PROPTEST_CASES", FEW_CASES);
    // This sanitizer holds a signal back until the thread calls the system, which a thread at work in the heap does not.
    command.args(["--", "--skip", "handlers_reenter"]);
    runner.step("thread sanitizer", &mut command)?;
    Ok(())
}

/// `list` as features of the library in a command on the whole workspace.
fn library_features(list: &str) -> String {
    list.split(',').map(|feature| format!("{LIBRARY}/{feature}")).collect::<Vec<_>>().join(",")
}

/// A Cargo whose compiler takes unstable flags: nightly, or the toolchain in use told to. `purpose` names its target directory.
fn unstable_cargo(root: &Path, purpose: &str) -> Command {
    let nightly = Command::new("rustup")
        .args(["run", "nightly", "cargo", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let mut command = if nightly {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo"]);
        for variable in ["CARGO", "LD_LIBRARY_PATH"] {
            command.env_remove(variable);
        }
        command
    } else {
        let mut command = cargo(&[]);
        command.env("RUSTC_BOOTSTRAP", "1");
        command
    };
    command.env("CARGO_TARGET_DIR", target_directory(root).join(purpose));
    command
}
