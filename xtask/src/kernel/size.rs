//! What the heap adds to a microcontroller's image: the firmware `footprint`, built for size with this heap and with
//! a bump pointer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::build::{self, Plan, Profile, Toolchain};
use super::machine::Machine;
use crate::runner::Runner;

/// Bytes of the parts of an image.
struct Sizes {
    /// Code, constants included.
    text: usize,
    /// Initialised variables.
    data: usize,
    /// Other variables.
    bss: usize,
}

/// Builds both images, and prints their sizes and the difference.
///
/// # Errors
///
/// The machine is none of the small ones, something is not installed, or an image does not build.
pub fn report(
    runner: &mut Runner,
    machine: &'static Machine,
    toolchain: Option<Toolchain>,
) -> Result<()> {
    ensure!(machine.name == "cortex-m", "`{}` has no firmware to be measured", machine.name);
    let mut measured = |features: &str| {
        let plan =
            Plan { machine, features: features.to_owned(), profile: Profile::Small, toolchain };
        let image = build::build(runner, &plan)?;
        sizes(&image.with_file_name("footprint"))
    };
    let with = measured("")?;
    let without = measured("no-heap")?;
    println!("bytes of a small firmware (opt-level s, LTO)");
    println!("{:<18}{:>8}{:>8}{:>8}", "", "code", "data", "bss");
    for (name, sizes) in [("with the heap", &with), ("with a bump pointer", &without)] {
        println!("{name:<20}{:>6}{:>8}{:>8}", sizes.text, sizes.data, sizes.bss);
    }
    println!(
        "the heap: {} bytes of code; {} of variables, {} of them the memory it manages",
        with.text.saturating_sub(without.text),
        with.data + with.bss,
        HEAP_BYTES,
    );
    Ok(())
}

/// The memory that both images set aside.
const HEAP_BYTES: usize = 64 << 10;

/// What binutils' `size` says of an image.
fn sizes(image: &Path) -> Result<Sizes> {
    let output = Command::new("size").arg(image).output();
    let output = output.context("`size` is missing: apt-get install binutils")?;
    if !output.status.success() {
        bail!("size: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().nth(1).context("`size` prints no sizes")?;
    let mut numbers = line.split_whitespace().map(str::parse);
    let mut next = || numbers.next().context("`size` prints too few sizes")?.context("no size");
    Ok(Sizes { text: next()?, data: next()?, bss: next()? })
}
