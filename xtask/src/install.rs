//! The C library where packagers want it: shared object, archive, header, pkg-config file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::runner::{Runner, cargo};
use crate::target_directory;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Builds and installs below `prefix`; `destdir` is put in front of where files go, and appears in none of them.
///
/// # Errors
/// The build fails; a file cannot be written; `prefix` is not absolute.
pub fn run(runner: &mut Runner, prefix: &Path, destdir: Option<&Path>) -> Result<()> {
    if !prefix.is_absolute() {
        bail!("--prefix {} is not absolute", prefix.display());
    }
    runner.step(
        "library to install",
        &mut cargo(&["build", "--release", "--package", "buddy-slab-malloc-c"]),
    )?;
    let root = runner.root().to_path_buf();
    let package = root.join("crates/buddy-slab-malloc-c");
    let built = target_directory(&root).join("release");
    let below = match destdir {
        Some(destdir) => destdir.join(prefix.strip_prefix("/").unwrap_or(prefix)),
        None => prefix.to_path_buf(),
    };
    let (lib, include) = (below.join("lib"), below.join("include"));
    let (pkgconfig, shared) = (lib.join("pkgconfig"), format!("libbuddyslab.so.{VERSION}"));
    for directory in [&pkgconfig, &include] {
        fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
    }
    // The name that programs ask for is that of the file: it has no number until the interface changes.
    copy(&built.join("libbuddyslab.so"), &lib.join(&shared))?;
    let link = lib.join("libbuddyslab.so");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(&shared, &link).with_context(|| format!("{}", link.display()))?;
    copy(&built.join("libbuddyslab.a"), &lib.join("libbuddyslab.a"))?;
    copy(&package.join("include/buddyslab.h"), &include.join("buddyslab.h"))?;
    let template = fs::read_to_string(package.join("buddyslab.pc.in"))?;
    let prefix = prefix.to_str().context("a prefix in UTF-8")?;
    let filled = template.replace("@prefix@", prefix).replace("@version@", VERSION);
    let file = pkgconfig.join("buddyslab.pc");
    fs::write(&file, filled).with_context(|| format!("{}", file.display()))?;
    println!("installed below {}", below.display());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    // Not over a file that programs may have mapped.
    if to.symlink_metadata().is_ok() {
        fs::remove_file(to)?;
    }
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}

/// A program that says whether its malloc is this library's.
const PROGRAM: &str = "#include <buddyslab.h>
#include <malloc.h>
#include <stdlib.h>
int main(void) {
    void *p = malloc(33);
    size_t usable = malloc_usable_size(p);
    free_sized(p, 33);
    return usable == 48 ? 0 : 1;
}
";

/// Installs below a directory of its own, and builds a C program against that with what `pkg-config` says, shared and
/// static.
///
/// # Errors
/// `pkg-config` or `cc` is missing; a step fails; the program does not run on this library's malloc.
pub fn check(runner: &mut Runner) -> Result<()> {
    for tool in ["pkg-config", "cc"] {
        if Command::new(tool).arg("--version").output().is_err() {
            bail!(
                "the installed library is tested with {tool}, which is not there; on Debian .ci/run installs it"
            );
        }
    }
    let place = std::env::temp_dir().join(format!("bsa-install-{}", std::process::id()));
    let outcome = check_in(runner, &place);
    let _ = fs::remove_dir_all(&place);
    outcome
}

fn check_in(runner: &mut Runner, place: &Path) -> Result<()> {
    let prefix = place.join("prefix");
    run(runner, &prefix, None)?;
    let (source, program) = (place.join("program.c"), place.join("program"));
    fs::write(&source, PROGRAM)?;
    let lib = prefix.join("lib");
    for (name, more) in [("shared", ""), ("static", "--static")] {
        let mut flags = Command::new("pkg-config");
        flags
            .args(["--cflags", "--libs"])
            .args((!more.is_empty()).then_some(more))
            .arg("buddyslab");
        let said = flags.env("PKG_CONFIG_PATH", lib.join("pkgconfig")).output()?;
        if !said.status.success() {
            bail!("pkg-config: {}", String::from_utf8_lossy(&said.stderr));
        }
        let said = String::from_utf8(said.stdout)?;
        let mut compile = Command::new("cc");
        compile.arg("-fno-builtin").arg("-o").arg(&program).arg(&source);
        for flag in said.split_whitespace() {
            // The archive by name: the linker takes the shared object where it finds both.
            let archive = name == "static" && flag == "-lbuddyslab";
            compile.arg(if archive { "-l:libbuddyslab.a" } else { flag });
        }
        runner.step(&format!("program against the {name} library"), &mut compile)?;
        let mut start = Command::new(&program);
        start.env("LD_LIBRARY_PATH", if name == "shared" { lib.clone() } else { PathBuf::new() });
        runner.step(&format!("program on the {name} library"), &mut start)?;
    }
    Ok(())
}
