//! The boots of the gate: each machine, each way to the heap, and faults that must be found.

use std::time::Duration;

use anyhow::{Result, bail};

use super::boot::Boot;
use super::build::{self, Plan, Profile, Toolchain};
use super::machine::Machine;
use crate::runner::Runner;

/// A boot that takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How a boot has to end.
enum End {
    /// It passes.
    Pass,
    /// It fails, with these words in its verdict.
    Fail(&'static str),
}
use End::{Fail, Pass};

/// The kernel's boots with one set of features: CPUs, command line, end.
type Boots = &'static [(usize, &'static str, End)];

/// One build and its boots.
struct Case {
    machine: &'static str,
    features: &'static str,
    toolchain: Option<Toolchain>,
    boots: Boots,
}

impl Case {
    const fn new(machine: &'static str, features: &'static str, boots: Boots) -> Self {
        Self { machine, features, toolchain: None, boots }
    }
}

const CASES: &[Case] = &[
    Case::new(
        "x86_64",
        "",
        &[
            (1, "", Pass),
            (4, "nmi", Pass),
            (8, "", Pass),
            (2, "fault=double-free", Fail("double free")),
            (2, "fault=page-as-object", Fail("wrong kind of memory")),
            (2, "fault=leak", Fail("1 objects of 64 bytes are left allocated")),
        ],
    ),
    Case::new("x86_64", "locked", &[(4, "", Pass)]),
    Case::new("x86_64", "pin-preempt", &[(4, "", Pass)]),
    Case::new("x86_64", "pin-preempt,lock-plain", &[(4, "nmi", Pass)]),
    Case::new("x86_64", "locked,lock-plain", &[(4, "nmi", Pass)]),
    Case::new(
        "x86_64",
        "pin-preempt,lock-plain,magazines",
        &[(4, "nmi", Pass), (2, "fault=double-free", Fail("double free"))],
    ),
    Case::new(
        "x86_64",
        "locked,lock-plain,no-token",
        &[(2, "handlers", Fail("waits for a lock that it holds itself"))],
    ),
    Case { toolchain: Some(Toolchain::Host), ..Case::new("x86_64", "", &[(4, "", Pass)]) },
    Case::new(
        "riscv64",
        "",
        &[(1, "", Pass), (4, "", Pass), (2, "fault=double-free", Fail("double free"))],
    ),
    Case::new("riscv64", "locked", &[(4, "", Pass)]),
    Case::new("riscv64", "magazines", &[(4, "", Pass)]),
    Case::new(
        "aarch64",
        "",
        &[(1, "", Pass), (4, "", Pass), (2, "fault=double-free", Fail("double free"))],
    ),
    Case::new("aarch64", "locked", &[(4, "", Pass)]),
    Case::new("aarch64", "pin-preempt,lock-plain", &[(4, "", Pass)]),
    Case::new(
        "cortex-m",
        "",
        &[
            (1, "", Pass),
            (1, "fault=double-free", Fail("double free")),
            (1, "fault=page-as-object", Fail("wrong kind of memory")),
            (1, "fault=leak", Fail("1 objects of 64 bytes are left allocated")),
        ],
    ),
];

/// Runs the cases of `machines`, or of all if there are none.
///
/// # Errors
///
/// The first boot that does not end as it should.
pub fn run(runner: &mut Runner, machines: &[&'static Machine]) -> Result<()> {
    for case in CASES {
        let machine = Machine::named(case.machine)?;
        if !machines.is_empty() && !machines.contains(&machine) {
            continue;
        }
        let plan = Plan {
            machine,
            features: case.features.to_owned(),
            profile: Profile::Release,
            toolchain: case.toolchain,
        };
        let image = build::build(runner, &plan)?;
        for (cpus, append, end) in case.boots {
            let root = runner.root().to_path_buf();
            let boot = Boot {
                machine,
                image: &image,
                cpus: *cpus,
                memory: None,
                append,
                counts: false,
                timeout: TIMEOUT,
                is_shown: false,
            };
            let words = if append.is_empty() { "" } else { " " };
            let name = format!("boot {} ×{cpus}{words}{append}", machine.name);
            runner.check(&name, || judge(&boot, &root, end))?;
        }
    }
    Ok(())
}

/// Boots, and demands the right end.
fn judge(boot: &Boot<'_>, root: &std::path::Path, end: &End) -> Result<String> {
    let outcome = boot.run(root)?;
    match end {
        Pass if outcome.passed => Ok(String::new()),
        Pass => bail!("{}\n{}", outcome.end(), outcome.verdict()),
        Fail(_) if outcome.passed => bail!("{}\nit passed, and should not", outcome.end()),
        Fail(words) if outcome.verdict().contains(words) => Ok(String::new()),
        Fail(words) => bail!("{}\nit failed, but not with `{words}`", outcome.end()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::MACHINES;
    use super::CASES;

    #[test]
    fn every_machine_boots_in_the_gate() {
        for machine in MACHINES {
            assert!(CASES.iter().any(|case| case.machine == machine.name), "{}", machine.name);
        }
    }
}
