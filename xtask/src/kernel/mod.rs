//! Builds the demo kernels and boots them under QEMU.
//!
//! - [`machine`]: what differs between the architectures
//! - [`build`]: which toolchain builds a kernel, and how
//! - [`boot`]: runs QEMU, watches the serial line, reads the exit code
//! - [`cases`]: the boots of the gate
//! - [`size`]: what the heap adds to a microcontroller's image

mod boot;
mod build;
mod cases;
mod machine;
mod size;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::runner::Runner;
use build::Profile;
pub use build::Toolchain;
use machine::Machine;

/// CPUs of a machine unless another number is asked for.
const DEFAULT_CPUS: usize = 4;

/// Which kernel, on what machine.
#[derive(Args)]
pub struct KernelArguments {
    /// The architecture: x86_64, riscv64, aarch64 or cortex-m
    machine: String,
    /// How many CPUs the machine has; by default 4, if it can have as many
    #[arg(long)]
    cpus: Option<usize>,
    /// How much memory it has, as QEMU's -m takes it; each machine has a default
    #[arg(long)]
    memory: Option<String>,
    /// How the kernel reaches its heap: pin-preempt, locked, lock-plain, no-token; and whether with
    /// magazines (see kernel/README.md)
    #[arg(long, default_value = "")]
    features: String,
    /// The kernel's command line: nmi, handlers, count, fault=double-free, fault=page-as-object, fault=leak, work=PERCENT
    #[arg(long, default_value = "")]
    append: String,
    /// Build without optimisation beyond level 1, with debug assertions
    #[arg(long)]
    debug: bool,
    /// What builds it; by default whatever is there
    #[arg(long, value_enum)]
    toolchain: Option<Toolchain>,
    /// Count instructions: one nanosecond of the machine's clock is one instruction (slow)
    #[arg(long)]
    icount: bool,
    /// Seconds until the boot is given up
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Do not boot: print how much larger the heap makes a small firmware (cortex-m only)
    #[arg(long)]
    size: bool,
    /// Print QEMU's command line, and do not run it
    #[arg(long)]
    dry_run: bool,
}

/// Builds one kernel and boots it, its serial line shown.
///
/// # Errors
///
/// The architecture is unknown, something is not installed, the kernel does not build, or its run fails.
pub fn run(root: &Path, arguments: &KernelArguments) -> Result<()> {
    let machine = Machine::named(&arguments.machine)?;
    let mut runner = Runner::streaming(root);
    if arguments.size {
        return size::report(&mut runner, machine, arguments.toolchain);
    }
    let plan = build::Plan {
        machine,
        features: arguments.features.clone(),
        profile: if arguments.debug { Profile::Debug } else { Profile::Release },
        toolchain: arguments.toolchain,
    };
    let image = build::build(&mut runner, &plan)?;
    let boot = boot::Boot {
        machine,
        image: &image,
        cpus: arguments.cpus.unwrap_or(machine.max_cpus.min(DEFAULT_CPUS)),
        memory: arguments.memory.as_deref(),
        append: &arguments.append,
        counts: arguments.icount,
        timeout: Duration::from_secs(arguments.timeout),
        is_shown: true,
    };
    if arguments.dry_run {
        println!("{}", boot.shown(root)?);
        return Ok(());
    }
    let outcome = boot.run(root)?;
    if !outcome.passed {
        bail!("the kernel's run failed: {}", outcome.verdict());
    }
    Ok(())
}

/// Checks the kernels' code with clippy: x86_64 always, the others where their target is prebuilt.
///
/// # Errors
///
/// Clippy has something to say.
pub fn lint(runner: &mut Runner) -> Result<()> {
    for machine in machine::MACHINES {
        if let Some(mut command) = build::clippy(runner, machine) {
            runner.step(&format!("clippy {}", machine.name), &mut command)?;
        }
    }
    Ok(())
}

/// Builds and boots all kernels of the gate, or those of `machines`.
///
/// # Errors
///
/// The first boot that does not end as it should.
pub fn run_all(runner: &mut Runner, machines: &[String]) -> Result<()> {
    let machines = machines.iter().map(|name| Machine::named(name)).collect::<Result<Vec<_>>>()?;
    cases::run(runner, &machines)
}
